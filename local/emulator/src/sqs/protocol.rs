//! The endpoint: AWS JSON 1.0 over HTTP, as every current AWS SDK speaks it.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::response::Response;
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

/// A batch may hold 1 MiB of text, of which JSON makes six times as much at worst.
const LARGEST_REQUEST: usize = 8 << 20;

/// The endpoint as one service.
#[derive(Clone)]
struct Endpoint {
    store: Store,
    faults: Arc<Faults>,
    shutdown: CancellationToken,
}

/// Makes the endpoint's router. Message move tasks progress only under [`serve`].
pub fn router(store: Store, faults: Faults) -> Router {
    routes(Endpoint {
        store,
        faults: Arc::new(faults),
        shutdown: CancellationToken::new(),
    })
}

/// Serves the endpoint until `shutdown`; long polls end then at once.
pub async fn serve(
    listener: TcpListener,
    store: Store,
    faults: Faults,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let stopping = CancellationToken::new();
    let endpoint = Endpoint {
        store: store.clone(),
        faults: Arc::new(faults),
        shutdown: stopping.clone(),
    };
    let signal = {
        let stopping = stopping.clone();
        async move {
            shutdown.await;
            stopping.cancel();
        }
    };
    let server = axum::serve(listener, routes(endpoint)).with_graceful_shutdown(signal);
    let (outcome, ()) = tokio::join!(async { server.await }, mover::run(&store, &stopping));
    outcome
}

fn routes(endpoint: Endpoint) -> Router {
    // SDKs post to the endpoint's root; a queue's URL is an address too.
    Router::new()
        .route("/", post(answer))
        .route("/{account}/{queue}", post(answer).get(show))
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
        .with_state(endpoint)
}

async fn answer(State(endpoint): State<Endpoint>, headers: HeaderMap, body: Bytes) -> Response {
    let request_id = unique_id();
    let result = match endpoint.faults.strike(&endpoint.store.shared.clock).await {
        Ok(()) => {
            let store = endpoint.store;
            let call = Call {
                store,
                shutdown: endpoint.shutdown,
                base: base(&headers),
                body,
            };
            operations::dispatch(target(&headers), call).await
        }
        Err(err) => Err(err),
    };
    let mut response = match result {
        Ok(answer) => render(StatusCode::OK, &answer),
        Err(err) => refuse(err),
    };
    if let Ok(request_id) = HeaderValue::from_str(&request_id) {
        response
            .headers_mut()
            .insert("x-amzn-requestid", request_id);
    }
    response
}

/// At most so many messages are shown at once, so that a look does not keep the queue waiting.
const LARGEST_PAGE: usize = 1000;

/// Shows messages without a receive: nothing of them changes. SQS has no such thing, so it is no operation of SQS.
async fn show(
    State(endpoint): State<Endpoint>,
    Path((_, queue)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    let after = parameters.find(|(name, _)| name == "after");
    let page = match after.map(|(_, value)| place(&value)) {
        None => endpoint.store.page(&queue, None, LARGEST_PAGE).await,
        Some(Some(place)) => endpoint.store.page(&queue, Some(place), LARGEST_PAGE).await,
        Some(None) => Err(Error::new(
            Code::InvalidParameterValue,
            "Value for parameter after is invalid.",
        )),
    };
    let mut response = match page {
        Ok(page) => render(StatusCode::OK, &json!(page)),
        Err(err) => return refuse(err),
    };
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The place behind a message, as a page tells it.
fn place(text: &str) -> Option<(i64, i64)> {
    let (sent_at, seq) = text.split_once('.')?;
    Some((sent_at.parse().ok()?, seq.parse().ok()?))
}

/// The operation's name, out of `AmazonSQS.SendMessage`.
fn target(headers: &HeaderMap) -> &str {
    let target = headers.get("x-amz-target").and_then(|it| it.to_str().ok());
    target
        .and_then(|it| it.strip_prefix("AmazonSQS."))
        .unwrap_or_default()
}

/// Where the caller reached us, so that queue URLs lead the same way.
fn base(headers: &HeaderMap) -> String {
    let host = headers
        .get(header::HOST)
        .and_then(|it| it.to_str().ok())
        .unwrap_or("127.0.0.1");
    format!("http://{host}")
}

fn refuse(err: Error) -> Response {
    let (code, message) = match err {
        Error::Refused { code, message } => (code, message),
        err => {
            tracing::error!(
                error = &err as &dyn std::error::Error,
                "could not serve a queue operation: {err}"
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

fn render(status: StatusCode, answer: &Value) -> Response {
    let mut response = Response::new(Body::from(answer.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-amz-json-1.0"),
    );
    response
}
