//! A configured webhook, requests as its senders sign them, and the one place that sends them.
//!
//! [`check`] sends each request as HTTP with and without a length, and as API Gateway's event with a text and with a
//! base64 body: all four must be answered alike.

use std::sync::Arc;

use aws_sdk_sqs::config::SharedHttpClient;
use axum::Router;
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use scanhook_config::Environment;
use scanhook_config::aws::Aws;
use scanhook_config::config::Config;
use scanhook_config::secrets::{SecretRef, Secrets};
use scanhook_core::auth::{Credential, Presented};
use scanhook_core::message::QueueMessage;
use scanhook_emulator::sqs::{Recorder, client_settings};
use scanhook_webhook::config::webhook;
use scanhook_webhook::queue::Queue;
use scanhook_webhook::router::{Webhook, router};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower::ServiceExt as _;

pub(crate) const CONFIG: &str = r#"
sources:
  hub:
    kind: docker-hub
    auth: [{ type: path_token, secret: "env:HUB" }]
  prod:
    kind: harbor
    registry: harbor.example.com
    hosts: ["harbor.internal:8443"]
    auth: [{ type: token, secret: "env:HARBOR" }]
    include: ["prod/**"]
    exclude: ["**/cache"]
    tags: { exclude: ["*-dev"] }
  mirror:
    kind: distribution
    registry: registry.example.com:5000
    auth:
      - { type: bearer, secret: "env:MIRROR" }
      - { type: basic, username: "ci", secret: "env:MIRROR_BASIC" }
  github:
    kind: ghcr
    auth:
      - { type: hmac, secret: "env:GITHUB_OLD" }
      - { type: hmac, secret: "env:GITHUB_NEW" }
  other-github:
    kind: ghcr
    auth: [{ type: hmac, secret: "env:OTHER_GITHUB" }]
  azure:
    kind: acr
    registry: example.azurecr.io
    auth: [{ type: path_token, secret: "env:AZURE" }]
"#;

/// Of a body, as `limits.body` has it by default.
pub(crate) const LIMIT: usize = 1 << 20;

pub(crate) const DIGEST: &str =
    "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The secret in a variable: a text that is found again wherever it leaks.
pub(crate) fn secret(variable: &str) -> String {
    format!("canary-secret:{variable}:4711")
}

pub(crate) fn environment() -> Environment {
    Arc::new(|name| Some(secret(name)))
}

/// A queue that nobody looks into.
pub(crate) fn memory() -> Queue {
    recorded_by(&Recorder::default())
}

pub(crate) fn recorded_by(recorder: &Recorder) -> Queue {
    in_process(recorder.http_client())
}

/// A queue whose calls this client answers.
pub(crate) fn in_process(http_client: SharedHttpClient) -> Queue {
    let base = "http://127.0.0.1:9";
    let url = format!("{base}/000000000000/scans");
    Queue::sqs(client_settings(base, http_client), url)
}

/// The webhook of [`CONFIG`].
pub(crate) async fn started(queue: Queue) -> Webhook {
    let config = Config::parse(CONFIG).unwrap();
    webhook(&config, queue, &Secrets::local(&environment()))
        .await
        .unwrap()
}

pub(crate) fn queued(recorder: &Recorder) -> Vec<QueueMessage> {
    let bodies = recorder.take().into_iter();
    bodies.map(|it| QueueMessage::parse(&it).unwrap()).collect()
}

/// A credential of a source, by its position.
pub(crate) fn credential(source: &str, entry: usize) -> Credential {
    let config = Config::parse(CONFIG).unwrap();
    let auth = &config.sources[source].auth[entry];
    let Some((scheme, SecretRef::Env(variable))) = auth.shared() else {
        panic!("not in the environment")
    };
    Credential {
        scheme: scheme.clone(),
        secret: SecretString::from(secret(variable)),
    }
}

/// A delivery to a source without a credential.
pub(crate) fn bare(source: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    let request = Request::post(format!("/webhooks/{source}"));
    let request = request.header(header::CONTENT_TYPE, "application/json");
    request.body(body.into()).unwrap()
}

/// A delivery with the source's first credential.
pub(crate) fn signed(source: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    signed_with(source, &credential(source, 0), body)
}

/// A delivery to a source with any credential.
pub(crate) fn signed_with(
    source: &str,
    credential: &Credential,
    body: impl Into<Bytes>,
) -> Request<Bytes> {
    let mut request = bare(source, body);
    match credential.present(request.body()).unwrap() {
        Presented::Header(name, value) => {
            request.headers_mut().insert(name, value);
        }
        Presented::PathSegment(token) => {
            let path = format!("/webhooks/{source}/{}", token.expose_secret());
            *request.uri_mut() = path.parse().unwrap();
        }
    }
    request
}

/// The request with one more header.
pub(crate) fn with(mut request: Request<Bytes>, name: &str, value: &str) -> Request<Bytes> {
    let name = HeaderName::try_from(name).unwrap();
    request
        .headers_mut()
        .append(name, HeaderValue::from_str(value).unwrap());
    request
}

/// The request without a header.
pub(crate) fn without(mut request: Request<Bytes>, name: &str) -> Request<Bytes> {
    request.headers_mut().remove(name);
    request
}

/// The request with this value in place of what a header had.
pub(crate) fn instead(request: Request<Bytes>, name: &str, value: &str) -> Request<Bytes> {
    with(without(request, name), name, value)
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

pub(crate) async fn answer(response: Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

/// Sends one request over HTTP.
pub(crate) async fn send<B>(webhook: &Arc<Webhook>, request: Request<B>) -> Answer
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let request = request.map(Body::new);
    answer(router(webhook.clone()).oneshot(request).await.unwrap()).await
}

/// Sends one request as the event that API Gateway makes of it.
pub(crate) async fn send_event(
    webhook: &Arc<Webhook>,
    request: &Request<Bytes>,
    is_base64: bool,
) -> Answer {
    let event = event(request, is_base64).to_string();
    let request = lambda_http::request::from_str(&event).unwrap();
    answer(router(webhook.clone()).oneshot(request).await.unwrap()).await
}

/// The event of payload format 2.0 for a request: header names in lower case, repeated ones joined by a comma.
pub(crate) fn event(request: &Request<Bytes>, is_base64: bool) -> Value {
    let mut headers = serde_json::Map::new();
    for name in request.headers().keys() {
        let values = request.headers().get_all(name).iter();
        let values: Vec<_> = values.map(|it| it.to_str().unwrap()).collect();
        headers.insert(name.to_string(), values.join(",").into());
    }
    headers.insert("host".to_owned(), "hooks.example.com".into());
    headers.insert("x-forwarded-proto".to_owned(), "https".into());
    let body = if is_base64 {
        BASE64.encode(request.body())
    } else {
        String::from_utf8(request.body().to_vec()).unwrap()
    };
    let (method, path) = (request.method().as_str(), request.uri().path());
    json!({
        "version": "2.0",
        "routeKey": "POST /webhooks/{source}",
        "rawPath": path,
        "rawQueryString": request.uri().query().unwrap_or_default(),
        "headers": headers,
        "requestContext": {
            "accountId": "123456789012", "apiId": "api", "domainName": "hooks.example.com", "domainPrefix": "hooks",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "test"},
            "requestId": "request-1", "routeKey": "POST /webhooks/{source}", "stage": "$default",
            "time": "21/Nov/2026:20:00:00 +0000", "timeEpoch": 1_795_291_200_000_i64,
        },
        "body": body,
        "isBase64Encoded": is_base64,
    })
}

/// Sends a request in every way it can come, each to a webhook of its own, and tells the one answer: `202` and each
/// scan, `200` and each skip, or the status of a refusal.
pub(crate) async fn check(request: Request<Bytes>) -> String {
    let mut sized = request.clone();
    let length = HeaderValue::from(request.body().len());
    sized.headers_mut().insert(header::CONTENT_LENGTH, length);
    let mut told = vec![
        check_one(Way::Http, &request).await,
        check_one(Way::Http, &sized).await,
        check_one(Way::Base64Event, &sized).await,
    ];
    if std::str::from_utf8(sized.body()).is_ok() {
        told.push(check_one(Way::TextEvent, &sized).await);
    }
    assert!(told.windows(2).all(|it| it[0] == it[1]), "{told:#?}");
    told.swap_remove(0)
}

enum Way {
    Http,
    TextEvent,
    Base64Event,
}

async fn check_one(way: Way, request: &Request<Bytes>) -> String {
    let recorder = Recorder::default();
    let webhook = Arc::new(started(recorded_by(&recorder)).await);
    let answer = match way {
        Way::Http => {
            let request = request.clone().map(http_body_util::Full::new);
            send(&webhook, request).await
        }
        Way::TextEvent => send_event(&webhook, request, false).await,
        Way::Base64Event => send_event(&webhook, request, true).await,
    };
    tell(&answer, &queued(&recorder))
}

/// An answer in one line, after it has been compared with what is queued and with the form of answers in `docs/reference/answers.md`.
pub(crate) fn tell(answer: &Answer, queued: &[QueueMessage]) -> String {
    let status = answer.status.as_u16();
    if status >= 400 {
        assert!(queued.is_empty(), "refused, and queued all the same");
        assert_is_problem(answer);
        return status.to_string();
    }
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(status, if queued.is_empty() { 200 } else { 202 });
    assert!(body["delivery"].as_str().is_some_and(|it| it.len() == 26));
    let told = body["queued"].as_array().unwrap();
    assert_eq!(told.len(), queued.len());
    for (told, message) in told.iter().zip(queued) {
        assert_eq!(told["scan_id"], message.scan_id.as_str());
        assert_eq!(told["image"], message.image.name());
        assert_eq!(told["tag"], json!(message.image.pin.tag()));
        assert_eq!(told["digest"], json!(message.image.pin.digest()));
    }
    let scans = queued.iter().map(|it| format!("scan {}", it.image));
    let skips = body["skipped"].as_array().unwrap().iter().map(|it| {
        let reason = it["reason"].as_str().unwrap();
        it["image"].as_str().map_or_else(
            || format!("skip {reason}"),
            |image| format!("skip {reason} {image}"),
        )
    });
    let events: Vec<_> = scans.chain(skips).collect();
    format!("{status} {}", events.join(", "))
        .trim_end()
        .to_owned()
}

/// RFC 9457 with nothing but fixed texts; the 400 to an authentic delivery also has the place.
pub(crate) fn assert_is_problem(answer: &Answer) {
    assert_eq!(
        answer.headers[header::CONTENT_TYPE],
        "application/problem+json"
    );
    let mut body: Value = serde_json::from_slice(&answer.body).unwrap();
    let status = answer.status.as_u16();
    let detail = body.as_object_mut().unwrap().remove("detail");
    assert_eq!(detail.is_some(), status == 400, "{detail:?}");
    let title = match status {
        400 if detail == Some(json!("the delivery has more than 1000 images")) => {
            "Too many images in one delivery"
        }
        400 => "Not a payload of this source's kind",
        401 => "No valid credential",
        404 => "No such resource",
        405 => "Method not allowed",
        413 => "The body is too large",
        415 => "Content encoding not supported",
        429 => "Too many deliveries",
        500 => "Internal error",
        503 => "Not available now, try again",
        _ => panic!("{status} is not in docs/reference/answers.md"),
    };
    assert_eq!(
        body,
        json!({"type": "about:blank", "title": title, "status": status})
    );
}

/// A push as each source's registry tells it: `team/app` (Harbor: `prod/api`), tag `1.4.2`.
pub(crate) fn push(source: &str) -> String {
    match source {
        "hub" => json!({
            "push_data": {"tag": "1.4.2", "pusher": "ci", "pushed_at": 1_795_291_200, "images": []},
            "repository": {"repo_name": "team/app", "namespace": "team", "name": "app"},
        }),
        "prod" => harbor_push("harbor.example.com", "prod/api", "1.4.2"),
        "mirror" => json!({"events": [distribution_push("team/app", "1.4.2")]}),
        _ => ghcr_push("1.4.2"),
    }
    .to_string()
}

/// The sources of [`CONFIG`] that [`push`] knows.
pub(crate) const SOURCES: [&str; 5] = ["hub", "prod", "mirror", "github", "other-github"];

/// What [`check`] says of [`push`].
pub(crate) fn scan_of_push(source: &str) -> String {
    match source {
        "hub" => "202 scan docker.io/team/app:1.4.2".to_owned(),
        "prod" => format!("202 scan harbor.example.com/prod/api:1.4.2@{DIGEST}"),
        "mirror" => format!("202 scan registry.example.com:5000/team/app:1.4.2@{DIGEST}"),
        _ => format!("202 scan ghcr.io/team/app:1.4.2@{DIGEST}"),
    }
}

pub(crate) fn harbor_push(host: &str, repository: &str, tag: &str) -> Value {
    json!({
        "type": "PUSH_ARTIFACT", "occur_at": 1_795_291_200, "operator": "robot$ci",
        "event_data": {
            "resources": [{"digest": DIGEST, "tag": tag, "resource_url": format!("{host}/{repository}:{tag}")}],
            "repository": {"repo_full_name": repository, "namespace": "prod", "name": "api"},
        },
    })
}

pub(crate) fn distribution_push(repository: &str, tag: &str) -> Value {
    json!({
        "id": "event-1", "timestamp": "2026-11-21T20:00:00Z", "action": "push",
        "target": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": DIGEST, "repository": repository,
            "tag": tag, "url": format!("https://registry.example.com:5000/v2/{repository}/manifests/{DIGEST}"),
        },
        "request": {"host": "registry.example.com:5000"}, "actor": {"name": "ci"},
    })
}

pub(crate) fn ghcr_push(tag: &str) -> Value {
    json!({
        "action": "published",
        "package": {
            "name": "app", "package_type": "CONTAINER", "owner": {"login": "team"},
            "package_version": {
                "version": DIGEST, "package_url": format!("ghcr.io/team/app:{tag}"),
                "container_metadata": {
                    "tag": {"name": tag, "digest": DIGEST},
                    "manifest": {"digest": DIGEST, "media_type": "application/vnd.oci.image.manifest.v1+json"},
                },
            },
        },
        "sender": {"login": "ci"},
    })
}

/// A request with another method.
pub(crate) fn method(mut request: Request<Bytes>, method: &str) -> Request<Bytes> {
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    request
}

/// Serves a router on a port of this machine until the handle is aborted; returns host and port.
pub(crate) async fn serve(router: Router) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, server)
}

/// The SQS queue at a URL on this machine, as a function reaches it.
pub(crate) async fn sqs(url: &str) -> Queue {
    let (endpoint, _) = url.split_once("/000000000000/").unwrap();
    let endpoint = endpoint.to_owned();
    let environment: Environment = Arc::new(move |name| {
        let value = match name {
            "AWS_REGION" => "us-east-1",
            "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => "test",
            "AWS_ENDPOINT_URL_SQS" => &endpoint,
            _ => return None,
        };
        Some(value.to_owned())
    });
    let settings = Aws::function(&environment).config("SQS").await;
    Queue::sqs((&settings).into(), url.to_owned())
}
