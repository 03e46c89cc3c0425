//! The routes and the order of work, the same under Lambda, `scanhook serve` and tests.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use jiff::Timestamp;
use scanhook_core::auth::VerifiedDelivery;
use scanhook_core::delivery::{Delivery, join_repeated};
use scanhook_core::event::{FreeText, ParsePayloadError, Skip};
use scanhook_core::image::{Digest, Tag};
use scanhook_core::message::{QueueMessage, ScanId};
use scanhook_core::select::{MAX_IMAGES, Selected, select};
use scanhook_core::source::{Source, SourceName};
use scanhook_core::trace::TraceContext;
use scanhook_telemetry::traces;
use serde::Serialize;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::credentials::Credentials;
use crate::measure;
use crate::queue::{Queue, SendError};
use crate::rate::Limiter;
use crate::rejection::Rejection;

/// What the webhook works with.
pub struct Webhook {
    /// Who may send.
    pub sources: BTreeMap<SourceName, SourceContext>,
    /// Where messages go.
    pub queue: Queue,
    /// The longest body, in bytes.
    pub body_limit: usize,
    /// The time.
    pub now: fn() -> Timestamp,
    /// A new id for a delivery or a scan: a ULID.
    pub new_id: fn() -> ScanId,
}

/// A source, with what its deliveries are checked by.
pub struct SourceContext {
    /// The source.
    pub source: Source,
    /// What its deliveries are verified with.
    pub credentials: Credentials,
    /// How many of them are accepted; `None`: all.
    pub limiter: Option<Limiter>,
}

/// Builds the routes of `docs/reference/answers.md` that API Gateway serves.
pub fn router(webhook: Arc<Webhook>) -> Router {
    Router::new()
        .route("/webhooks/{source}", post(deliver).options(handshake))
        .route(
            "/webhooks/{source}/{token}",
            post(deliver).options(handshake),
        )
        .route("/healthz", get(|| async { "ok" }))
        .method_not_allowed_fallback(async |State(webhook): State<Arc<Webhook>>, uri: Uri| {
            webhook.refuse(&uri, Rejection::MethodNotAllowed)
        })
        .fallback(async |State(webhook): State<Arc<Webhook>>, uri: Uri| {
            webhook.refuse(&uri, Rejection::NotFound)
        })
        .with_state(webhook)
}

impl Webhook {
    /// Counts, logs and answers a request that never becomes a delivery, also one that is refused in front of these routes.
    /// Of its address, only the name of a configured source is logged.
    pub fn refuse(&self, uri: &Uri, rejection: Rejection) -> Response {
        let name = uri.path().strip_prefix("/webhooks/");
        let name = name.and_then(|it| it.split('/').next());
        let source = name.and_then(|it| self.sources.get(it));
        let source = source.map(|it| &it.source.name);
        measure::refused(source, rejection);
        log_refused(source, rejection, None);
        rejection.into_response()
    }
}

/// What became of a delivery that was accepted.
struct Accepted {
    delivery: ScanId,
    queued: Vec<QueueMessage>,
    skipped: Vec<Skip>,
    validation: Option<FreeText>,
}

/// Why a delivery was not accepted, with the place in the payload or a detail that is for our log only.
struct Refused {
    rejection: Rejection,
    detail: Option<String>,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let detail = match self.rejection {
            // These are answers to authentic deliveries. Any other detail is for our log only.
            Rejection::NotAPayload | Rejection::TooManyImages => self.detail.as_deref(),
            _ => None,
        };
        self.rejection.with_detail(detail)
    }
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self {
            rejection,
            detail: None,
        }
    }
}

impl From<ParsePayloadError> for Refused {
    fn from(err: ParsePayloadError) -> Self {
        Self {
            rejection: Rejection::NotAPayload,
            detail: Some(err.to_string()),
        }
    }
}

impl From<SendError> for Refused {
    fn from(err: SendError) -> Self {
        Self {
            rejection: Rejection::Unavailable,
            detail: Some(err.to_string()),
        }
    }
}

type Path = Result<RawPathParams, RawPathParamsRejection>;

impl Webhook {
    /// The source that a path names, and the token behind it. A path that is not UTF-8 names no source.
    fn find(&self, path: Path) -> Option<(&SourceContext, Option<String>)> {
        let path = path.ok()?;
        let mut values = path.iter().map(|(_, value)| value);
        let source = self.sources.get(values.next()?)?;
        Some((source, values.next().map(str::to_owned)))
    }
}

async fn deliver(State(webhook): State<Arc<Webhook>>, path: Path, request: Request) -> Response {
    let Some((source, path_token)) = webhook.find(path) else {
        return webhook.refuse(request.uri(), Rejection::NotFound);
    };
    let id = (webhook.new_id)();
    let (span, unverified) = begin(source, &id);
    let accepting = accept(&webhook, source, id, path_token, request, unverified);
    answer(source, accepting).instrument(span).await
}

/// Answers a request of a source. A refusal, and a panic, is counted and logged.
async fn answer<T: IntoResponse>(
    source: &SourceContext,
    work: impl Future<Output = Result<T, Refused>>,
) -> Response {
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    match outcome.unwrap_or_else(|_| Err(Rejection::Internal.into())) {
        Ok(accepted) => accepted.into_response(),
        Err(refused) => {
            log_refused(None, refused.rejection, refused.detail.as_deref());
            measure::refused(Some(&source.source.name), refused.rejection);
            refused.into_response()
        }
    }
}

/// Begins the span of a request, whose ids are in every line within it. Returns its trace context.
fn begin(source: &SourceContext, id: &ScanId) -> (Span, TraceContext) {
    // At the highest level, so that no choice of SCANHOOK_LOG takes the ids out of a line.
    let span = tracing::error_span!(
        "delivery",
        otel.kind = "server",
        delivery = %id,
        source = source.source.name.as_str(),
        kind = source.source.kind.name,
        trace_id = Empty,
        otel.status_description = Empty,
    );
    // A stranger's delivery gets a line, but no trace.
    let unverified = TraceContext {
        is_sampled: false,
        ..traces::new_context()
    };
    traces::begin(&span, unverified);
    (span, unverified)
}

/// The steps of a delivery, from its bytes to the queue.
async fn accept(
    webhook: &Webhook,
    source: &SourceContext,
    id: ScanId,
    path_token: Option<String>,
    request: Request,
    unverified: TraceContext,
) -> Result<Accepted, Refused> {
    let received_at = (webhook.now)();
    let (parts, body) = request.into_parts();
    let headers = join_repeated(parts.headers);
    let body = read_body(&headers, body, webhook.body_limit).await?;
    let began = Instant::now();
    let budget = (source.source.kind.answer_budget)(&headers);
    let senders_trace = trace_of(&headers);
    let delivery = Delivery {
        headers,
        path_token,
        body,
        received_at,
    };
    // At most half of the sender's patience is for secrets that must be read again; the queue needs the rest.
    let verifying_since = scanhook_config::now();
    let verifying = source.credentials.verify(delivery, began + budget / 2);
    let delivery = verifying.await?;
    let trace = adopt_trace(senders_trace, unverified);
    traces::add_part(&Span::current(), "verify", verifying_since);
    count_accepted(&source.source, &delivery);
    source.check_rate()?;
    let selected = decide(&source.source, &delivery)?;
    check_size(&selected, &source.source)?;
    let count = i64::try_from(selected.requests.len()).unwrap_or(i64::MAX);
    let span = tracing::info_span!("send", otel.kind = "producer", messages = count);
    let trace = traces::place_of(&span, trace);
    let messages = selected.requests.into_iter();
    let queued: Vec<_> = messages
        .map(|it| QueueMessage::new(it, (webhook.new_id)(), received_at, Some(trace)))
        .collect();
    if !queued.is_empty() {
        let sending = webhook.queue.send(queued.clone(), began + budget);
        sending.instrument(span).await?;
    }
    let accepted = Accepted {
        delivery: id,
        queued,
        skipped: selected.skips,
        validation: selected.validation,
    };
    accepted.report(&source.source);
    Ok(accepted)
}

impl SourceContext {
    fn check_rate(&self) -> Result<(), Rejection> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        limiter
            .acquire()
            .map_err(|wait| Rejection::TooMany(wait.as_secs() + 1))
    }
}

/// Refuses a delivery of too many images, unless its sender would repeat it for ever. The log shows both.
fn check_size(selected: &Selected, source: &Source) -> Result<(), Refused> {
    if selected.is_over_limit {
        tracing::warn!(
            event = "delivery.too_many_images",
            images = selected.skips.len(),
            "nothing is queued of a delivery with more than {MAX_IMAGES} images"
        );
    }
    if selected.is_refused(source) {
        return Err(Refused {
            rejection: Rejection::TooManyImages,
            detail: Some(format!("the delivery has more than {MAX_IMAGES} images")),
        });
    }
    Ok(())
}

/// The trace that the sender's header names.
fn trace_of(headers: &HeaderMap) -> Option<TraceContext> {
    TraceContext::parse(headers.get("traceparent")?.to_str().ok()?)
}

/// Counts by entry of `auth`, so that an operator sees when the old secret of a rotation is no longer used. The labels come
/// from the configuration only.
fn count_accepted(source: &Source, delivery: &VerifiedDelivery) {
    let (name, entry) = (source.name.as_str(), delivery.entry());
    metrics::counter!("auth_accepted", "source" => name.to_owned(), "entry" => entry.to_string())
        .increment(1);
    tracing::debug!(source = name, entry, "delivery verified");
}

static REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
static ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");

/// Answers a sender that asks whether it may deliver, by repeating its origin. Source: "HTTP 1.1 Web Hooks for Event
/// Delivery" of CloudEvents, section 4.
async fn handshake(
    State(webhook): State<Arc<Webhook>>,
    path: Path,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Some((source, path_token)) = webhook.find(path) else {
        return webhook.refuse(&uri, Rejection::NotFound);
    };
    let headers = join_repeated(headers);
    let origin = headers.get(&REQUEST_ORIGIN).cloned();
    let Some(origin) = origin.filter(|_| source.source.kind.handshake) else {
        let refusal = webhook.refuse(&uri, Rejection::MethodNotAllowed);
        return ([(header::ALLOW, "POST")], refusal).into_response();
    };
    let budget = (source.source.kind.answer_budget)(&headers);
    let delivery = Delivery {
        headers,
        path_token,
        body: Bytes::new(),
        received_at: (webhook.now)(),
    };
    let (span, _) = begin(source, &(webhook.new_id)());
    let accepting = async {
        let verified = source.credentials.verify(delivery, Instant::now() + budget);
        count_accepted(&source.source, &verified.await?);
        tracing::info!(event = "handshake", "a sender asked whether it may deliver");
        Ok([(ALLOWED_ORIGIN.clone(), origin)])
    };
    answer(source, accepting).instrument(span).await
}

/// Parses a verified delivery and selects from it: everything between the signature and the queue.
pub fn decide(source: &Source, delivery: &VerifiedDelivery) -> Result<Selected, ParsePayloadError> {
    let events = (source.kind.parse)(delivery, &source.options)?;
    Ok(select(source, events))
}

/// Reads the body, never more than `limit` bytes of it and nothing at all if it says it is longer.
async fn read_body(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Rejection> {
    let is_encoded = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|it| !it.as_bytes().eq_ignore_ascii_case(b"identity"));
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|it| it.to_str().ok())
        .map(str::parse::<usize>);
    if length.is_some_and(|it| !it.is_ok_and(|it| it <= limit)) {
        return Err(Rejection::TooLarge);
    }
    if is_encoded {
        return Err(Rejection::UnsupportedEncoding);
    }
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(err) if err.is::<LengthLimitError>() => Err(Rejection::TooLarge),
        Err(_) => Err(Rejection::UnreadableBody),
    }
}

/// Adopts the sender's trace for an authenticated delivery; otherwise starts sampling our own. Returns the parent context.
fn adopt_trace(senders: Option<TraceContext>, own: TraceContext) -> TraceContext {
    let span = Span::current();
    if let Some(senders) = senders {
        traces::join(&span, senders);
        return senders;
    }
    let own = TraceContext {
        is_sampled: true,
        ..own
    };
    traces::begin(&span, own);
    own
}

impl Accepted {
    /// Logs and counts it.
    fn report(&self, source: &Source) {
        measure::accepted(&source.name, self.queued.len(), &self.skipped);
        tracing::info!(
            event = "delivery.taken",
            queued = self.queued.len(),
            skipped = self.skipped.len(),
            reason = self.skipped.first().map(|it| it.reason.as_str()),
            "delivery taken"
        );
    }
}

/// The line of a refusal. Its source is a field of its own where no span has it.
fn log_refused(source: Option<&SourceName>, rejection: Rejection, detail: Option<&str>) {
    let (reason, source) = (rejection.as_str(), source.map(SourceName::as_str));
    let event = "delivery.refused";
    match rejection {
        Rejection::Internal | Rejection::Unavailable => {
            tracing::error!(event, source, reason, detail, "delivery refused");
        }
        _ => tracing::warn!(event, source, reason, detail, "delivery refused"),
    }
    Span::current().record("otel.status_description", reason);
}

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Answer<'a> {
            delivery: &'a ScanId,
            queued: Vec<Queued<'a>>,
            skipped: &'a [Skip],
            /// Event Grid's name for it, and the only one it takes.
            #[serde(rename = "validationResponse", skip_serializing_if = "Option::is_none")]
            validation: Option<&'a FreeText>,
        }
        #[derive(Serialize)]
        struct Queued<'a> {
            scan_id: &'a ScanId,
            image: String,
            tag: Option<&'a Tag>,
            digest: Option<&'a Digest>,
        }
        let queued = self.queued.iter().map(|it| Queued {
            scan_id: &it.scan_id,
            image: it.image.name(),
            tag: it.image.pin.tag(),
            digest: it.image.pin.digest(),
        });
        let answer = Answer {
            delivery: &self.delivery,
            queued: queued.collect(),
            skipped: &self.skipped,
            validation: self.validation.as_ref(),
        };
        let Ok(json) = serde_json::to_vec(&answer) else {
            unreachable!("strings always serialise")
        };
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = if self.queued.is_empty() {
            StatusCode::OK
        } else {
            StatusCode::ACCEPTED
        };
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    }
}
