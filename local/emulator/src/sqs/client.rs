//! Connects an AWS SDK to the endpoint within one process: the same requests and answers as over HTTP, without a
//! socket.

use aws_sdk_sqs::config::{HttpClient, RuntimeComponents, SharedHttpClient};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use bytes::Bytes;

use super::protocol::Endpoint;

impl Endpoint {
    /// Returns an HTTP client for an SDK client whose endpoint URL is `base`.
    pub fn http_client(&self, base: &str) -> SharedHttpClient {
        SharedHttpClient::new(InProcess {
            endpoint: self.clone(),
            base: base.to_owned(),
        })
    }
}

#[derive(Clone, Debug)]
struct InProcess {
    endpoint: Endpoint,
    base: String,
}

impl HttpClient for InProcess {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for InProcess {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self { endpoint, base } = self.clone();
        HttpConnectorFuture::new(async move {
            let target = request.headers().get("x-amz-target").unwrap_or_default();
            // No operation of SQS streams its body.
            let body = request.body().bytes().map(Bytes::copy_from_slice);
            let answer = endpoint.answer(target, base, body.unwrap_or_default());
            let (head, body) = answer.await.into_parts();
            let status = StatusCode::try_from(head.status.as_u16())
                .map_err(|err| ConnectorError::other(err.into(), None))?;
            let mut response = HttpResponse::new(status, body.into());
            for (name, value) in &head.headers {
                let value = value
                    .to_str()
                    .map_err(|err| ConnectorError::other(err.into(), None))?;
                let _ = response
                    .headers_mut()
                    .try_insert(name.as_str().to_owned(), value.to_owned())
                    .map_err(|err| ConnectorError::other(err.into(), None))?;
            }
            Ok(response)
        })
    }
}
