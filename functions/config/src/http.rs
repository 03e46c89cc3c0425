//! Small requests to services: one answer, limited in time and length, no redirects.
//!
//! Connections are kept. A function is frozen between its invocations, and what it kept may be closed by the time that it goes on:
//! a request that a kept connection does not answer is sent once more, on a fresh one.
//!
//! **Invariant**: every request is one that may be repeated.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::rt::{Read, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::timeout;
use tower::ServiceExt as _;

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(1);

/// Connections to services, kept for as long as the services keep them.
pub struct Client {
    tcp: HttpConnector,
    /// Made when first needed: it reads every certificate of the system.
    tls: OnceLock<HttpsConnector<HttpConnector>>,
    kept: Mutex<HashMap<Origin, Vec<Connection>>>,
}

type Connection = SendRequest<Full<Bytes>>;

/// What a connection leads to.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Origin {
    is_plain: bool,
    authority: Authority,
}

/// There is no answer to a request. Nothing of what the other side sent is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("no answer in time")]
    Time,
    #[error("the answer is too long")]
    Length,
    #[error("no connection: {0}")]
    Connection(String),
    #[error("the answer broke off")]
    Broken,
}

impl Default for Client {
    fn default() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        // Whether TLS comes on top is not its business.
        tcp.enforce_http(false);
        Self {
            tcp,
            tls: OnceLock::new(),
            kept: Mutex::default(),
        }
    }
}

impl Client {
    /// Sends a request and reads all of its answer, of at most `longest` bytes, in at most `limit`.
    pub async fn send(
        &self,
        request: Request<Bytes>,
        limit: Duration,
        longest: usize,
    ) -> Result<Response<Bytes>, SendError> {
        let (origin, request) = split(request)?;
        let exchange = timeout(limit, self.exchange(&origin, request, longest));
        exchange.await.unwrap_or_else(|_| {
            // It may be the network that is gone, and with it the others that are kept.
            self.kept().remove(&origin);
            Err(SendError::Time)
        })
    }

    async fn exchange(
        &self,
        origin: &Origin,
        request: Request<Full<Bytes>>,
        longest: usize,
    ) -> Result<Response<Bytes>, SendError> {
        if let Some(mut connection) = self.take(origin) {
            match answer(&mut connection, request.clone(), longest).await {
                // It was closed while it was idle, and so were the others.
                Err(SendError::Broken) => drop(self.kept().remove(origin)),
                Err(err) => return Err(err),
                Ok(answer) => {
                    self.keep(origin, connection);
                    return Ok(answer);
                }
            }
        }
        let mut connection = self.connect(origin).await?;
        let answer = answer(&mut connection, request, longest).await?;
        self.keep(origin, connection);
        Ok(answer)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Origin, Vec<Connection>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kept connection that is not known to be closed.
    fn take(&self, origin: &Origin) -> Option<Connection> {
        let mut kept = self.kept();
        let connections = kept.get_mut(origin)?;
        std::iter::from_fn(|| connections.pop()).find(|it| !it.is_closed())
    }

    fn keep(&self, origin: &Origin, connection: Connection) {
        let mut kept = self.kept();
        let connections = kept.entry(origin.clone()).or_default();
        connections.retain(|it| !it.is_closed());
        connections.push(connection);
    }

    async fn connect(&self, origin: &Origin) -> Result<Connection, SendError> {
        let scheme = if origin.is_plain {
            Scheme::HTTP
        } else {
            Scheme::HTTPS
        };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(origin.authority.clone())
            .path_and_query(PathAndQuery::from_static("/"))
            .build()
            .map_err(|err| SendError::Connection(err.to_string()))?;
        if origin.is_plain {
            let stream = self.tcp.clone().oneshot(uri).await;
            open(stream.map_err(|err| SendError::Connection(chain(&err)))?).await
        } else {
            let stream = self.tls()?.oneshot(uri).await;
            open(stream.map_err(|err| SendError::Connection(chain(&*err)))?).await
        }
    }

    fn tls(&self) -> Result<HttpsConnector<HttpConnector>, SendError> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls.clone());
        }
        let builder = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|err| SendError::Connection(format!("no certificates: {err}")))?;
        let tls = builder.https_only().enable_http1();
        let tls = tls.wrap_connector(self.tcp.clone());
        Ok(self.tls.get_or_init(|| tls).clone())
    }
}

/// Tells a request's target from where it goes to.
fn split(request: Request<Bytes>) -> Result<(Origin, Request<Full<Bytes>>), SendError> {
    let no_url = || SendError::Connection("its address is no URL".to_owned());
    let (mut head, body) = request.into_parts();
    let is_plain = match head.uri.scheme_str() {
        Some("http") => true,
        Some("https") => false,
        _ => return Err(no_url()),
    };
    let authority = head.uri.authority().ok_or_else(no_url)?.clone();
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| no_url())?;
    head.headers.insert(header::HOST, host);
    let target = head.uri.path_and_query().cloned();
    head.uri = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    let origin = Origin {
        is_plain,
        authority,
    };
    Ok((origin, Request::from_parts(head, Full::new(body))))
}

async fn open<S: Read + Write + Unpin + Send + 'static>(
    stream: S,
) -> Result<Connection, SendError> {
    let (sender, connection) = handshake(stream)
        .await
        .map_err(|err| SendError::Connection(chain(&err)))?;
    // It ends when the service closes it, or when its sender is dropped.
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends a request on a connection and reads all of the answer.
async fn answer(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
    longest: usize,
) -> Result<Response<Bytes>, SendError> {
    connection.ready().await.map_err(|_| SendError::Broken)?;
    let response = connection.send_request(request).await;
    let (head, body) = response.map_err(|_| SendError::Broken)?.into_parts();
    match Limited::new(body, longest).collect().await {
        Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
        Err(err) if err.is::<LengthLimitError>() => Err(SendError::Length),
        Err(_) => Err(SendError::Broken),
    }
}

/// An error with its causes.
fn chain(err: &(dyn Error + 'static)) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text = format!("{text}: {err}");
        cause = err.source();
    }
    text
}
