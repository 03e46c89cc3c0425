//! API Gateway in front of the webhook: converts each request to an event and runs it through `lambda_http`, as Lambda's runtime
//! does. So deliveries are normalised here as they are in AWS.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header;
use http::request::Parts;
use http::uri::Authority;
use http_body_util::{BodyExt as _, Limited};
use lambda_http::request::LambdaRequest;
use lambda_http::{Adapter, Context, LambdaEvent, Service as _};
use scanhook_emulator::apigw::{self, Arrival};
use scanhook_webhook::rejection::Rejection;
use scanhook_webhook::router::{Webhook, router};
use scanhook_worker::clock::Clock;
use scanhook_worker::listener::{Caller, Refusal};

/// Puts API Gateway in front of the webhook. A body over the limit never becomes an event, because API Gateway refuses it.
pub(crate) fn in_front_of(webhook: Arc<Webhook>) -> Router {
    let function = router(Arc::clone(&webhook));
    Router::new().fallback(async move |request: Request| {
        answer(function.clone(), Arc::clone(&webhook), request).await
    })
}

async fn answer(function: Router, webhook: Arc<Webhook>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let refuse = |rejection| webhook.refuse(&head.uri, rejection);
    let body_limit = webhook.body_limit;
    let length = head
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|it| it.to_str().ok());
    if length
        .and_then(|it| it.parse().ok())
        .is_some_and(|it: usize| it > body_limit)
    {
        return refuse(Rejection::TooLarge);
    }
    let body = match Limited::new(body, body_limit).collect().await {
        Ok(body) => body.to_bytes(),
        Err(err) if err.is::<http_body_util::LengthLimitError>() => {
            return refuse(Rejection::TooLarge);
        }
        // The listener that cut the body off answers and counts the request.
        Err(err) if Refusal::caused(err.as_ref()) => {
            return Rejection::UnreadableBody.into_response();
        }
        Err(_) => return refuse(Rejection::UnreadableBody),
    };
    let event = match apigw::event(&head, &body, &arrival(&head)) {
        Ok(event) => event,
        Err(err) => {
            refuse(Rejection::TooLarge);
            return err.response().map(Body::from);
        }
    };
    let invoked = AssertUnwindSafe(invoke(function, event))
        .catch_unwind()
        .await;
    let response: http::Response<Bytes> = if let Ok(Some(answer)) = invoked {
        apigw::response(&answer)
    } else {
        // In AWS, the runtime reports a panic and API Gateway answers 500 without details.
        refuse(Rejection::Internal);
        apigw::internal_server_error()
    };
    response.map(Body::from)
}

/// Runs a function on an event, with the conversions of `lambda_http` before and after it.
async fn invoke(function: Router, event: String) -> Option<serde_json::Value> {
    let request: LambdaRequest = serde_json::from_str(&event).ok()?;
    drop(event);
    let answer = Adapter::from(function).call(LambdaEvent::new(request, Context::default()));
    serde_json::to_value(answer.await.ok()?).ok()
}

fn arrival(head: &Parts) -> Arrival {
    let (route_key, path_parameters) = route(head);
    let caller = head.extensions.get::<Caller>();
    let host = caller.and_then(|it| it.host.clone());
    Arrival {
        request_id: ulid::Ulid::generate().to_string(),
        source_ip: caller.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |it| it.peer),
        // HTTP/1.0 requires no host.
        host: host.unwrap_or_else(|| Authority::from_static("localhost")),
        received_at: Clock::System.now(),
        route_key,
        path_parameters,
    }
}

/// The template's route for a request, and its parameters.
fn route(head: &Parts) -> (String, BTreeMap<String, String>) {
    let segments: Vec<_> = head.uri.path().split('/').skip(1).collect();
    let (path, parameters) = match segments.as_slice() {
        ["webhooks", source] => ("/webhooks/{source}", vec![("source", *source)]),
        ["webhooks", source, token] => (
            "/webhooks/{source}/{token}",
            vec![("source", *source), ("token", *token)],
        ),
        ["healthz"] => ("/healthz", Vec::new()),
        _ => return ("$default".to_owned(), BTreeMap::new()),
    };
    let parameters = parameters
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    (format!("{} {path}", head.method), parameters.collect())
}
