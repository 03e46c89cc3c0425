//! Small requests to services: one answer, limited in time and length, no redirects.

use std::error::Error;
use std::sync::OnceLock;
use std::time::Duration;

use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::{HttpConnector as _, HttpConnectorSettings};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::timeout;

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(1);

/// The HTTP client that the AWS SDK uses, so that it is not a second one in the program. It follows no redirect.
#[derive(Default)]
pub(crate) struct Client {
    plain: OnceLock<Connector>,
    tls: OnceLock<Connector>,
}

/// There is no answer to a request. Nothing of what the other side sent is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    #[error("no answer in time")]
    Time,
    #[error("the answer is too long")]
    Length,
    #[error("no connection: {0}")]
    Connection(String),
    #[error("the answer broke off")]
    Broken,
}

impl Client {
    /// Sends a request and reads all of its answer, of at most `longest` bytes, in at most `limit`.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        limit: Duration,
        longest: usize,
    ) -> Result<Response<Bytes>, SendError> {
        timeout(limit, self.exchange(request, longest))
            .await
            .unwrap_or(Err(SendError::Time))
    }

    async fn exchange(
        &self,
        request: Request<Bytes>,
        longest: usize,
    ) -> Result<Response<Bytes>, SendError> {
        let is_plain = request.uri().scheme_str() == Some("http");
        let connector = if is_plain {
            self.plain.get_or_init(|| builder().build_http())
        } else {
            self.tls.get_or_init(|| {
                builder()
                    .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
                    .build()
            })
        };
        let request = HttpRequest::try_from(request.map(SdkBody::from))
            .map_err(|err| SendError::Connection(chain(&err)))?;
        let response = connector
            .call(request)
            .await
            .map_err(|err| SendError::Connection(chain(&err)))?;
        let (parts, body) = response
            .try_into_http1x()
            .map_err(|_| SendError::Broken)?
            .into_parts();
        match Limited::new(body, longest).collect().await {
            Ok(body) => Ok(Response::from_parts(parts, body.to_bytes())),
            Err(err) if err.is::<LengthLimitError>() => Err(SendError::Length),
            Err(_) => Err(SendError::Broken),
        }
    }
}

fn builder() -> aws_smithy_http_client::ConnectorBuilder {
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT);
    Connector::builder().connector_settings(settings.build())
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
