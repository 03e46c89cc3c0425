//! Small requests to services: one answer, limited in time and length, no redirects.
//!
//! A connection is kept to each service. A function is frozen between its invocations, and what it kept may be closed by the
//! time that it resumes: a request that gets no answer is sent once more, on a fresh connection.
//!
//! **Invariant**: every request is one that may be repeated.

use std::error::Error;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::legacy::{self, Builder};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use crate::aws::cause;

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(1);

/// An older idle connection isn't used again.
const IDLE: Duration = Duration::from_mins(1);

/// Requests over one connection to each service.
pub struct Client {
    plain: legacy::Client<HttpConnector, Full<Bytes>>,
    /// Made when first needed: it reads every certificate of the system.
    tls: OnceLock<legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

/// There is no answer to a request. Shows nothing of what the other side sent.
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
        Self {
            plain: builder().build(tcp()),
            tls: OnceLock::new(),
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
        let request = request.map(Full::new);
        let exchange = async {
            if request.uri().scheme() == Some(&Scheme::HTTPS) {
                exchange(self.tls()?, request, longest).await
            } else {
                exchange(&self.plain, request, longest).await
            }
        };
        let exchange = timeout(limit, exchange).await;
        exchange.unwrap_or(Err(SendError::Time))
    }

    fn tls(
        &self,
    ) -> Result<&legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>, SendError> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls);
        }
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|err| SendError::Connection(format!("no certificates: {err}")))?
            .https_only()
            .enable_http1()
            .wrap_connector(tcp());
        Ok(self.tls.get_or_init(|| builder().build(connector)))
    }
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_nodelay(true);
    // TLS may be on top of it.
    tcp.enforce_http(false);
    tcp
}

fn builder() -> Builder {
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(1);
    builder
}

/// Sends a request, once more if it gets no answer, and reads all of the answer.
async fn exchange<C: Connect + Clone + Send + Sync + 'static>(
    client: &legacy::Client<C, Full<Bytes>>,
    request: Request<Full<Bytes>>,
    longest: usize,
) -> Result<Response<Bytes>, SendError> {
    let answer = match client.request(request.clone()).await {
        Err(err) if !err.is_connect() => client.request(request).await,
        answer => answer,
    };
    let (head, body) = answer.map_err(no_answer)?.into_parts();
    match Limited::new(body, longest).collect().await {
        Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
        Err(err) if err.is::<LengthLimitError>() => Err(SendError::Length),
        Err(_) => Err(SendError::Broken),
    }
}

fn no_answer(err: legacy::Error) -> SendError {
    if err.is_connect() {
        SendError::Connection(cause(&err as &(dyn Error + 'static)).to_string())
    } else {
        SendError::Broken
    }
}
