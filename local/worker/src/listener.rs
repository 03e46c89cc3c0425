//! An HTTP server that strangers may talk to: limits on connections, headers, time and memory, and a graceful end.
//!
//! `axum::serve` sets none of these limits.

use std::convert::Infallible;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::uri::Authority;
use http::{Request, Uri};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use self::body::{LimitedBody, Memory, Share};
pub use self::host::AllowedHosts;
use self::places::{Place, Places, Stream, Wait};

mod body;
mod host;
mod places;

/// API Gateway takes no more than 10,240 bytes of request line and headers; the connection's buffer has room for that.
const HEADER_BYTES: usize = 16 * 1024;

/// How long a connection may take to send its headers, and to send the next request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request may take, its body included, as API Gateway has it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause after an error of accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who sent a request, and where it was sent: an extension of each.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The address it came from; none of IPv6 that stands for one of IPv4.
    pub peer: IpAddr,
    /// The address of this machine that it came to, likewise.
    pub local: IpAddr,
    /// Its `Host`; `None` for HTTP/1.0 without one.
    pub host: Option<Authority>,
}

/// Why a request is refused before a route answers it. A reader of its body finds the first two as the source of the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It took too long.
    #[error("the request took too long")]
    Late,
    /// There was no room for its body.
    #[error("the bodies of all requests together are too large")]
    Full,
    /// Its `Host` is no authority, or there is none, or more than one.
    #[error("the request has no valid Host")]
    BadHost,
    /// A guard does not admit its `Host`.
    #[error("the request is for a host that is not allowed")]
    OtherHost,
    /// A page of another site sent it.
    #[error("the request comes from a page of another site")]
    OtherSite,
}

impl Refusal {
    /// The word for it in a log and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Late => "timeout",
            Self::Full => "unavailable",
            Self::BadHost => "bad_host",
            Self::OtherHost | Self::OtherSite => "forbidden",
        }
    }

    /// Whether this is the error of a body that was cut off.
    pub fn caused(err: &(dyn Error + 'static)) -> bool {
        err.is::<Self>() || err.source().is_some_and(Self::caused)
    }
}

/// Answers a request that is refused. It is called once for each, so that it can count them.
pub type Refuse = Arc<dyn Fn(&Uri, Refusal) -> Response + Send + Sync>;

/// What a server may hold, and its answer to what it refuses.
#[derive(Clone)]
pub struct Capacity {
    /// Connections at once. Beyond that, one that waits for its client leaves for each new one.
    pub connections: usize,
    /// The bytes that the bodies of all requests may take together, beside a little of each.
    pub bodies: usize,
    /// Answers what is refused.
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
    let places = Places::new(capacity.connections);
    let graceful = GracefulShutdown::new();
    let memory = Memory::new(capacity.bodies);
    loop {
        // First the connection and then its place: who has been accepted is not kept out by those who wait.
        let accepted = async {
            let (tcp, caller) = accept(&listener).await?;
            Some((tcp, caller, places.take().await))
        };
        let accepted = tokio::select! {
            () = stopping.cancelled() => break,
            accepted = accepted => accepted,
        };
        let Some((tcp, [peer, local], place)) = accepted else {
            continue;
        };
        let service = hyper::service::service_fn({
            let (router, memory, place) = (router.clone(), memory.clone(), Arc::clone(&place));
            let refuse = Arc::clone(&capacity.refuse);
            move |request: Request<Incoming>| {
                let (router, refuse) = (router.clone(), Arc::clone(&refuse));
                let (share, place) = (Share::of(&memory), Arc::clone(&place));
                async move {
                    let response = answer(router, [peer, local], share, &place, refuse, request);
                    let response = response.await;
                    place.wait(Wait::Answer);
                    Ok::<_, Infallible>(response)
                }
            }
        });
        let mut connection = hyper::server::conn::http1::Builder::new();
        connection
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEADER_BYTES)
            .half_close(true);
        let stream = Stream {
            tcp,
            place: Arc::clone(&place),
        };
        let connection = graceful.watch(connection.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            loop {
                tokio::select! {
                    // What can be read and written is, before the connection looks whether it should leave.
                    biased;
                    // A connection that breaks is its client's affair.
                    _ = &mut connection => return,
                    () = place.asked() => if place.leaves() { return },
                }
            }
        });
    }
    let _ = tokio::time::timeout(drain, graceful.shutdown()).await;
}

/// The next connection, with the addresses of its two ends.
async fn accept(listener: &TcpListener) -> Option<(TcpStream, [IpAddr; 2])> {
    let ip = |it: SocketAddr| it.ip().to_canonical();
    match listener.accept().await {
        Ok((tcp, peer)) => {
            let _ = tcp.set_nodelay(true);
            let local = tcp.local_addr().ok()?;
            Some((tcp, [ip(peer), ip(local)]))
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
    [peer, local]: [IpAddr; 2],
    share: Arc<Share>,
    place: &Arc<Place>,
    refuse: Refuse,
    request: Request<Incoming>,
) -> Response {
    let (mut head, body) = request.into_parts();
    let uri = head.uri.clone();
    let host = match host::authority(&head) {
        Ok(host) => host,
        Err(refusal) => return refuse(&uri, refusal),
    };
    head.extensions.insert(Caller { peer, local, host });
    let body = LimitedBody::new(body, Arc::clone(&share), Arc::clone(place));
    let request = Request::from_parts(head, Body::new(body));
    let answered = tokio::time::timeout(REQUEST_TIMEOUT, router.oneshot(request)).await;
    match (share.cut(), answered) {
        (Some(cut), _) => refuse(&uri, cut),
        (None, Ok(Ok(response))) => response,
        (None, Err(_)) => refuse(&uri, Refusal::Late),
    }
}
