//! The endpoint: AWS JSON 1.0 over HTTP, the protocol of every current AWS SDK.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{DefaultBodyLimit, Path, RawQuery, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::error::{Code, Error};
use super::operations::{self, Call};
use super::store::Store;
use super::tasks::mover;
use super::unique_id;
use crate::faults::Faults;
use scanhook_worker::listener::{self, AllowedHosts, Capacity, Refusal};

/// A batch may hold 1 MiB of text. JSON escapes can make it six times as large.
const LARGEST_REQUEST: usize = 8 << 20;

/// Limits what all clients together can make us hold: a few of the largest requests, or many typical ones.
fn capacity() -> Capacity {
    Capacity {
        connections: 512,
        bodies: 64 << 20,
        refuse: Arc::new(|_, refusal| {
            metrics::counter!("queue_refusals", "reason" => refusal.as_str()).increment(1);
            tracing::warn!(
                event = "queue.refused",
                reason = refusal.as_str(),
                "a request to the queue's endpoint was refused: {refusal}"
            );
            match refusal {
                Refusal::Full => refuse(Error::unavailable()).map(Body::from),
                Refusal::Late => StatusCode::REQUEST_TIMEOUT.into_response(),
                Refusal::BadHost => StatusCode::BAD_REQUEST.into_response(),
                Refusal::OtherHost | Refusal::OtherSite => {
                    let message = format!("{refusal}; the option --allow-host NAME allows a host");
                    let error = json!({"__type": "AccessDeniedException", "message": message});
                    render(StatusCode::FORBIDDEN, &error).map(Body::from)
                }
            }
        }),
    }
}

/// Long polls end at shutdown; all other requests need only a transaction or two.
const DRAIN: Duration = Duration::from_secs(5);

/// The endpoint as a service: a store, and faults injected before it. Clones share the same endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    store: Store,
    faults: Arc<Faults>,
    hosts: AllowedHosts,
    shutdown: CancellationToken,
}

impl Endpoint {
    pub fn new(store: Store, faults: Faults) -> Self {
        Self {
            store,
            faults: Arc::new(faults),
            hosts: AllowedHosts::default(),
            shutdown: CancellationToken::new(),
        }
    }

    /// Also accepts these hosts in [`Endpoint::serve`].
    #[must_use]
    pub fn allowing(self, hosts: AllowedHosts) -> Self {
        Self { hosts, ..self }
    }

    /// Answers a request. `target` is its header `x-amz-target`; `base` is the address at which the caller reaches the
    /// endpoint.
    pub async fn answer(&self, target: &str, base: String, body: Bytes) -> Response<Bytes> {
        self.answer_traced(target, base, None, body).await
    }

    async fn answer_traced(
        &self,
        target: &str,
        base: String,
        trace_header: Option<String>,
        body: Bytes,
    ) -> Response<Bytes> {
        let result = if self.faults.strike(&self.store.shared.clock).await {
            Err(Error::new(
                Code::RequestThrottled,
                "The request was denied due to request throttling.",
            ))
        } else {
            let call = Call {
                store: self.store.clone(),
                shutdown: self.shutdown.clone(),
                base,
                trace_header,
                body,
            };
            let operation = target.strip_prefix("AmazonSQS.").unwrap_or_default();
            operations::dispatch(operation, call).await
        };
        let mut response = match result {
            Ok(answer) => render(StatusCode::OK, &answer),
            Err(err) => refuse(err),
        };
        if let Ok(request_id) = HeaderValue::try_from(unique_id()) {
            response
                .headers_mut()
                .insert("x-amzn-requestid", request_id);
        }
        response
    }

    /// Returns the endpoint's routes. Message move tasks progress only under [`Endpoint::serve`].
    pub fn router(self) -> Router {
        // SDKs post to the endpoint's root. A queue's URL works as well.
        Router::new()
            .route("/", post(answer))
            .route("/{account}/{queue}", post(answer).get(show))
            .fallback(refuse_elsewhere)
            .method_not_allowed_fallback(refuse_elsewhere)
            .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
            .layer(from_fn(refuse_query_protocol))
            .with_state(self)
    }

    /// Serves until `shutdown`, then ends long polls at once. The listener's limits apply, and only callers on this
    /// machine are answered ([`AllowedHosts::guard`]).
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send) {
        let (store, stopping) = (self.store.clone(), self.shutdown.clone());
        let signal = async {
            shutdown.await;
            stopping.cancel();
        };
        let (hosts, capacity) = (self.hosts.clone(), capacity());
        let router = hosts.guard(self.router(), &capacity.refuse);
        let server = listener::serve(listener, router, capacity, stopping.clone(), DRAIN);
        tokio::join!(signal, server, mover::run(&store, &stopping));
    }
}

async fn answer(State(endpoint): State<Endpoint>, headers: HeaderMap, body: Bytes) -> Response {
    let trace_header = text(&headers, "x-amzn-trace-id").map(str::to_owned);
    let target = text(&headers, "x-amz-target").unwrap_or_default();
    let answer = endpoint.answer_traced(target, base(&headers), trace_header, body);
    answer.await.map(Body::from)
}

const NO_QUERY_PROTOCOL: &str = "This endpoint speaks AWS JSON 1.0, and not the query protocol that AWS SDKs used until November 2023: update the SDK or CLI.";

/// Refuses the query protocol, in XML because its clients read nothing else. Without this, a `GET` of theirs would be
/// answered with the queue's messages and would seem to have succeeded.
async fn refuse_query_protocol(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let is_form = text(headers, "content-type")
        .is_some_and(|it| it.starts_with("application/x-www-form-urlencoded"));
    let query = request.uri().query().unwrap_or_default();
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    let is_query =
        is_form || parameters.any(|(name, _)| name == "Action" || name == "X-Amz-Signature");
    if headers.contains_key("x-amz-target") || !is_query {
        return next.run(request).await;
    }
    // A client that is answered before its body is read may miss the answer.
    drop(to_bytes(request.into_body(), LARGEST_REQUEST).await);
    let (code, request_id) = (Code::UnsupportedOperation, unique_id());
    let error = format!(
        r#"<?xml version="1.0"?>
<ErrorResponse xmlns="http://queue.amazonaws.com/doc/2012-11-05/"><Error><Type>Sender</Type><Code>{}</Code><Message>{NO_QUERY_PROTOCOL}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>
"#,
        code.as_str()
    );
    (code.status(), [(header::CONTENT_TYPE, "text/xml")], error).into_response()
}

async fn refuse_elsewhere() -> Response {
    let message = "There is nothing here: operations are posted to /, and GET /000000000000/QUEUE shows a queue's messages.";
    refuse(Error::new(Code::InvalidAddress, message)).map(Body::from)
}

/// The most messages in one page, so that a reader doesn't block the queue.
const LARGEST_PAGE: usize = 1000;

/// Shows messages without receiving them, so nothing about them changes. SQS has no such operation.
async fn show(
    State(endpoint): State<Endpoint>,
    Path((_, queue)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    let after = parameters.find(|(name, _)| name == "after");
    let page = match after.map(|(_, value)| place(&value)) {
        None => endpoint.store.page(&queue, LARGEST_PAGE).await,
        Some(Some(place)) => {
            let after = Some(place);
            endpoint.store.page_after(&queue, after, LARGEST_PAGE).await
        }
        Some(None) => Err(Error::new(
            Code::InvalidParameterValue,
            "Value for parameter after is invalid.",
        )),
    };
    let mut response = match page {
        Ok(page) => render(StatusCode::OK, &json!(page)),
        Err(err) => return refuse(err).map(Body::from),
    };
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.map(Body::from)
}

/// Parses the position that a page returned as `next`.
fn place(text: &str) -> Option<(i64, i64)> {
    let (sent_at, seq) = text.split_once('.')?;
    Some((sent_at.parse().ok()?, seq.parse().ok()?))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value).filter(|it| !it.is_empty())
}

/// The address at which the caller reached us, so that queue URLs use the same one.
fn base(headers: &HeaderMap) -> String {
    format!("http://{}", text(headers, "host").unwrap_or("127.0.0.1"))
}

fn refuse(err: Error) -> Response<Bytes> {
    let (code, message) = match err {
        Error::Refused { code, message } => (code, message),
        err => {
            let cause = err.cause();
            metrics::counter!("queue_failures", "cause" => cause.as_str()).increment(1);
            tracing::error!(
                event = "queue.failed",
                cause = cause.as_str(),
                error = &err as &dyn std::error::Error,
                "could not serve a queue operation: {}",
                cause.advice()
            );
            (
                Code::InternalFailure,
                "We encountered an internal error. Please try again.".to_owned(),
            )
        }
    };
    let status = code.status();
    let mut response = render(status, &json!({"__type": code.shape(), "message": message}));
    let fault = if status.is_server_error() {
        "Receiver"
    } else {
        "Sender"
    };
    if let Ok(query_error) = HeaderValue::from_str(&format!("{};{fault}", code.as_str())) {
        response
            .headers_mut()
            .insert("x-amzn-query-error", query_error);
    }
    response
}

fn render(status: StatusCode, answer: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(answer.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-amz-json-1.0"),
    );
    response
}
