//! An HTTP server that strangers may talk to: limits on connections, headers, time and memory, and a graceful end.
//!
//! `axum::serve` sets none of these limits.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{Request, Uri};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

pub use self::body::Cut;
use self::body::{LimitedBody, Memory, Share};

mod body;

/// Connections at once; further ones wait in the listener's backlog.
const CONNECTIONS: usize = 512;

/// API Gateway takes no more than 10,240 bytes of request line and headers; the connection's buffer has room for that.
const HEADER_BYTES: usize = 16 * 1024;

/// How long a connection may take to send its headers, and to send the next request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request may take, its body included, as API Gateway has it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause after an error of accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a request came from: an extension of each.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Answers a request that was cut off. It is called once for each, so that it can count them.
pub type Refuse = Arc<dyn Fn(&Uri, Cut) -> Response + Send + Sync>;

/// What a server may hold, and its answer when it is full or has waited long enough.
#[derive(Clone)]
pub struct Capacity {
    /// The bytes that the bodies of all requests may take together, beside a little of each.
    pub bodies: usize,
    /// The answer beyond that.
    pub refuse: Refuse,
}

/// Serves until `stopping`, then finishes the requests that have begun, for at most `drain`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    capacity: Capacity,
    stopping: CancellationToken,
    drain: Duration,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let memory = Memory::new(capacity.bodies);
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let Some((stream, permit)) = accepted else {
            continue;
        };
        let peer = stream.peer_addr().map(|it| Peer(it.ip())).ok();
        let service = hyper::service::service_fn({
            let (router, memory) = (router.clone(), memory.clone());
            let refuse = Arc::clone(&capacity.refuse);
            move |mut request: Request<Incoming>| {
                if let Some(peer) = peer {
                    request.extensions_mut().insert(peer);
                }
                let refuse = Arc::clone(&refuse);
                answer(router.clone(), Share::of(&memory), refuse, request)
            }
        });
        let mut connection = hyper::server::conn::http1::Builder::new();
        connection
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEADER_BYTES)
            .half_close(true);
        let connection = graceful.watch(connection.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // A connection that breaks is its client's affair.
            let _ = connection.await;
            drop(permit);
        });
    }
    let _ = tokio::time::timeout(drain, graceful.shutdown()).await;
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, permit))
        }
        Err(err) => {
            tracing::warn!("could not accept a connection: {err}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn answer(
    router: Router,
    share: Arc<Share>,
    refuse: Refuse,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let uri = request.uri().clone();
    let request = request.map(|it| Body::new(LimitedBody::new(it, Arc::clone(&share))));
    let answered = tokio::time::timeout(REQUEST_TIMEOUT, router.oneshot(request)).await;
    Ok(match (share.cut(), answered) {
        (Some(cut), _) => refuse(&uri, cut),
        (None, Ok(Ok(response))) => response,
        (None, Err(_)) => refuse(&uri, Cut::Late),
    })
}
