//! An HTTP server for untrusted clients: limits on connections, headers, time and memory, and a graceful shutdown.
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

/// The connection's buffer. It is larger than API Gateway's limit of 10,240 bytes for request line and headers.
const HEADER_BYTES: usize = 16 * 1024;

/// The timeout for a request's headers, and for the next request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of a request, including its body; API Gateway's value.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause after a failed accept, for example with too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The two ends of a request's connection: an extension of each request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The client's address. An IPv4 address is never in its mapped IPv6 form.
    pub peer: IpAddr,
    /// The address of this machine that the client connected to, in the same form.
    pub local: IpAddr,
    /// The request's `Host`; `None` for HTTP/1.0 without one.
    pub host: Option<Authority>,
}

/// Why a request is refused before its route. For the first two, reading the body fails with this error as its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the request took too long")]
    Late,
    #[error("the bodies of all requests together are too large")]
    Full,
    /// Its `Host` is missing, repeated or not an authority.
    #[error("the request has no valid Host")]
    BadHost,
    /// A guard doesn't admit its `Host`.
    #[error("the request is for a host that is not allowed")]
    OtherHost,
    /// A page of another site sent it.
    #[error("the request comes from a page of another site")]
    OtherSite,
}

impl Refusal {
    /// The word in logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Late => "timeout",
            Self::Full => "unavailable",
            Self::BadHost => "bad_host",
            Self::OtherHost | Self::OtherSite => "forbidden",
        }
    }

    /// Whether an error comes from a body that was cut off.
    pub fn caused(err: &(dyn Error + 'static)) -> bool {
        err.is::<Self>() || err.source().is_some_and(Self::caused)
    }
}

/// Answers a refused request. It is called once for each, so that it can count them.
pub type Refuse = Arc<dyn Fn(&Uri, Refusal) -> Response + Send + Sync>;

/// The limits of a server, and its answer to refused requests.
#[derive(Clone)]
pub struct Capacity {
    /// Concurrent connections. Beyond the limit, each new connection replaces one that waits for its client.
    pub connections: usize,
    /// The bytes of all bodies together, besides a small free share of each.
    pub bodies: usize,
    pub refuse: Refuse,
}

/// Serves until `stopping`, then finishes requests in flight, for at most `drain`.
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
        // Accept first, then acquire a place: connections that wait to be accepted must not displace others.
        let accepted = async {
            let (tcp, caller) = accept(&listener).await?;
            Some((tcp, caller, places.acquire().await))
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
                    // Read and write what is ready before checking whether to leave.
                    biased;
                    // A broken connection concerns only its client.
                    _ = &mut connection => return,
                    () = place.asked() => if place.leaves() { return },
                }
            }
        });
    }
    let _ = tokio::time::timeout(drain, graceful.shutdown()).await;
}

/// The next connection, with the addresses of client and server.
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
