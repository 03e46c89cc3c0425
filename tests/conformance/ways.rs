//! The ways in which a request can reach the webhook.

use std::sync::Arc;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::BodyExt as _;
use scanhook_config::secrets::Secrets;
use scanhook_core::message::QueueMessage;
use scanhook_emulator::sqs::{Recorder, client_settings};
use scanhook_webhook::config::webhook;
use scanhook_webhook::queue::Queue;
use scanhook_webhook::router::router;
use serde_json::{Map, Value, json};
use tower::ServiceExt as _;

use crate::case::Case;
use crate::outcome::Outcome;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Http,
    TextEvent,
    Base64Event,
}

/// Every way in which this request can be sent: as an event's text only if it is UTF-8.
pub(crate) fn of(request: &Request<Bytes>) -> Vec<Way> {
    let is_text = std::str::from_utf8(request.body()).is_ok();
    let ways = [Way::Http, Way::Base64Event, Way::TextEvent].into_iter();
    ways.filter(|it| is_text || *it != Way::TextEvent).collect()
}

/// Sends a case's request to its own webhook.
pub(crate) async fn send(
    case: &Case,
    request: &Request<Bytes>,
    way: Way,
) -> Result<Outcome, String> {
    let recorder = Recorder::default();
    let base = "http://127.0.0.1:9";
    let settings = client_settings(base, recorder.http_client());
    let queue = Queue::sqs(settings, format!("{base}/000000000000/scans"));
    let webhook = webhook(
        &case.config()?,
        queue,
        &Secrets::local(&Case::environment()),
    )
    .await;
    let webhook = Arc::new(webhook.map_err(|err| format!("the source: {err}"))?);
    let mut request = request.clone();
    let length = HeaderValue::from(request.body().len());
    request.headers_mut().insert(header::CONTENT_LENGTH, length);
    let router = router(webhook.clone());
    let answer = match way {
        Way::Http => router.oneshot(request.map(Body::from)).await,
        Way::TextEvent | Way::Base64Event => {
            let event = event(&request, way).to_string();
            let request = lambda_http::request::from_str(&event).map_err(|err| err.to_string())?;
            router.oneshot(request).await
        }
    };
    let (head, body) = answer.unwrap_or_else(|never| match never {}).into_parts();
    let body = body.collect().await.map_err(|err| err.to_string())?;
    let answer = http::Response::from_parts(head, body.to_bytes().to_vec());
    let sent = recorder.take();
    let sent: Result<Vec<_>, _> = sent.iter().map(|it| QueueMessage::parse(it)).collect();
    Outcome::of(&answer, &sent.map_err(|err| err.to_string())?)
}

/// API Gateway's event in payload format 2.0: header names are in lower case, repeated headers are joined by commas.
fn event(request: &Request<Bytes>, way: Way) -> Value {
    let mut headers = Map::new();
    for name in request.headers().keys() {
        let values = request.headers().get_all(name).iter();
        let values: Vec<_> = values.filter_map(|it| it.to_str().ok()).collect();
        headers.insert(name.to_string(), values.join(",").into());
    }
    headers.insert("host".to_owned(), "hooks.example.com".into());
    headers.insert("x-forwarded-proto".to_owned(), "https".into());
    let body = if way == Way::Base64Event {
        BASE64.encode(request.body())
    } else {
        String::from_utf8_lossy(request.body()).into_owned()
    };
    let (method, path) = (request.method().as_str(), request.uri().path());
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": request.uri().query().unwrap_or_default(),
        "headers": headers,
        "requestContext": {
            "accountId": "123456789012", "apiId": "api", "domainName": "hooks.example.com", "domainPrefix": "hooks",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "test"},
            "requestId": "request-1", "routeKey": "$default", "stage": "$default",
            "time": "21/Nov/2026:20:00:00 +0000", "timeEpoch": 1_795_291_200_000_i64,
        },
        "body": body,
        "isBase64Encoded": way == Way::Base64Event,
    })
}
