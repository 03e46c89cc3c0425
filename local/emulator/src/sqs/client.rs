//! Connects an AWS SDK to a handler within one process: the same requests and answers as over HTTP, without a socket.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_sqs::config::{
    BehaviorVersion, Builder, HttpClient, Region, RuntimeComponents, SharedHttpClient,
};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::protocol::Endpoint;

/// The settings of a client of the SDK for an endpoint at `base`, which asks for no signature.
pub fn client_settings(base: &str, http_client: impl HttpClient + 'static) -> Builder {
    aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(super::REGION))
        .allow_no_auth()
        .endpoint_url(base)
        .http_client(http_client)
}

/// The HTTP client of an SDK client whose calls `handler` answers: by the header `x-amz-target` and the body.
pub fn in_process<H, A>(handler: H) -> SharedHttpClient
where
    H: Fn(String, Bytes) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Bytes>> + Send + 'static,
{
    SharedHttpClient::new(InProcess(Arc::new(move |request: HttpRequest| {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        // No operation of SQS streams its body.
        let body = request.body().bytes().map(Bytes::copy_from_slice);
        let answer = handler(target.to_owned(), body.unwrap_or_default());
        HttpConnectorFuture::new(async move {
            response(answer.await).map_err(|err| ConnectorError::other(err, None))
        })
    })))
}

impl Endpoint {
    /// Returns an HTTP client for an SDK client whose endpoint URL is `base`.
    pub fn http_client(&self, base: &str) -> SharedHttpClient {
        let (endpoint, base) = (self.clone(), base.to_owned());
        in_process(move |target, body| {
            let (endpoint, base) = (endpoint.clone(), base.clone());
            async move { endpoint.answer(&target, base, body).await }
        })
    }
}

/// A queue that acknowledges every message and keeps its body, for tests and measurements. Clones are the same queue.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    /// The HTTP client of an SDK client that sends to this queue.
    pub fn http_client(&self) -> SharedHttpClient {
        let recorder = self.clone();
        in_process(move |_, body| {
            let answer = recorder.record(&body).to_string();
            std::future::ready(Response::new(Bytes::from(answer)))
        })
    }

    /// Removes and returns the bodies of all messages, in the order in which they were sent.
    pub fn take(&self) -> Vec<String> {
        let mut bodies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *bodies)
    }

    fn record(&self, request: &[u8]) -> Value {
        let request: Value = serde_json::from_slice(request).unwrap_or_default();
        let entries = request.get("Entries").and_then(Value::as_array);
        let mut bodies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let acknowledged = entries.into_iter().flatten().map(|entry| {
            let text = |member| entry.get(member).and_then(Value::as_str);
            bodies.extend(text("MessageBody").map(str::to_owned));
            json!({"Id": text("Id"), "MessageId": "m", "MD5OfMessageBody": ""})
        });
        json!({"Successful": acknowledged.collect::<Vec<_>>(), "Failed": []})
    }
}

#[derive(Clone)]
struct InProcess(Arc<dyn Fn(HttpRequest) -> HttpConnectorFuture + Send + Sync>);

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InProcess")
    }
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
        (self.0)(request)
    }
}

fn response(
    answer: Response<Bytes>,
) -> Result<HttpResponse, Box<dyn std::error::Error + Send + Sync>> {
    let (head, body) = answer.into_parts();
    let status = StatusCode::try_from(head.status.as_u16())?;
    let mut response = HttpResponse::new(status, body.into());
    for (name, value) in &head.headers {
        let value = value.to_str()?.to_owned();
        response
            .headers_mut()
            .try_insert(name.as_str().to_owned(), value)?;
    }
    Ok(response)
}
