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
    pub sources: BTreeMap<SourceName, Sender>,
    /// Where messages go.
    pub queue: Queue,
    /// The longest body, in bytes.
    pub body_limit: usize,
    /// The time.
    pub now: fn() -> Timestamp,
    /// A new id for a delivery or a scan: a ULID.
    pub new_id: fn() -> ScanId,
}

/// A source and the check of its deliveries.
pub struct Sender {
    /// The source.
    pub source: Source,
    /// What its deliveries are verified with.
    pub credentials: Credentials,
    /// How many of them are taken; `None`: all.
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

/// What became of a delivery that was taken.
struct Taken {
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

async fn deliver(
    State(webhook): State<Arc<Webhook>>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
) -> Response {
    // A path that is no UTF-8 names no source.
    let Ok(path) = path else {
        return webhook.refuse(request.uri(), Rejection::NotFound);
    };
    let mut path = path.iter().map(|(_, value)| value);
    let Some(sender) = path.next().and_then(|it| webhook.sources.get(it)) else {
        return webhook.refuse(request.uri(), Rejection::NotFound);
    };
    let path_token = path.next().map(str::to_owned);
    let delivery = (webhook.new_id)();
    let (span, unverified) = begin(sender, &delivery);
    let answered = async {
        let taking = take(&webhook, sender, delivery, path_token, request, unverified);
        let outcome = AssertUnwindSafe(taking).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| Err(Rejection::Internal.into()));
        log(&outcome);
        match &outcome {
            Ok(taken) => measure::taken(&sender.source.name, taken.queued.len(), &taken.skipped),
            Err(refused) => measure::refused(Some(&sender.source.name), refused.rejection),
        }
        match outcome {
            Ok(taken) => taken.into_response(),
            Err(refused) => refused.into_response(),
        }
    };
    answered.instrument(span).await
}

/// Begins the span of a request, whose ids are in every line within it, and tells its place in a trace.
fn begin(sender: &Sender, id: &ScanId) -> (Span, TraceContext) {
    // At the highest level, so that no choice of SCANHOOK_LOG takes the ids out of a line.
    let span = tracing::error_span!(
        "delivery",
        otel.kind = "server",
        delivery = %id,
        source = sender.source.name.as_str(),
        kind = sender.source.kind.name,
        trace_id = Empty,
        otel.status_description = Empty,
    );
    // A stranger's delivery is worth a line, but no trace.
    let unverified = TraceContext {
        is_sampled: false,
        ..traces::new_context()
    };
    traces::begin(&span, unverified);
    (span, unverified)
}

async fn take(
    webhook: &Webhook,
    sender: &Sender,
    id: ScanId,
    path_token: Option<String>,
    request: Request,
    unverified: TraceContext,
) -> Result<Taken, Refused> {
    let received_at = (webhook.now)();
    let (mut parts, body) = request.into_parts();
    parts.headers = join_repeated(parts.headers);
    let body = read(&parts.headers, body, webhook.body_limit).await?;
    let began = Instant::now();
    let budget = (sender.source.kind.answer_budget)(&parts.headers);
    let senders_trace = parts.headers.get("traceparent");
    let senders_trace = senders_trace.and_then(|it| TraceContext::parse(it.to_str().ok()?));
    let delivery = Delivery {
        headers: parts.headers,
        path_token,
        body,
        received_at,
    };
    // At most half of the sender's patience is for secrets that must be read again; the queue needs the rest.
    let delivery = sender
        .credentials
        .verify(delivery, began + budget / 2)
        .instrument(tracing::info_span!("verify"))
        .await?;
    let place = belong(senders_trace, unverified);
    count_accepted(&sender.source, &delivery);
    if let Some(Err(wait)) = sender.limiter.as_ref().map(Limiter::take) {
        return Err(Rejection::TooMany(wait.as_secs() + 1).into());
    }
    let selected = decide(&sender.source, &delivery)?;
    if selected.is_over_limit {
        // The log shows it even where the sender can't be refused.
        tracing::warn!(
            event = "delivery.too_many_images",
            images = selected.skips.len(),
            "nothing is queued of a delivery with more than {MAX_IMAGES} images"
        );
    }
    if selected.is_refused(&sender.source) {
        return Err(Refused {
            rejection: Rejection::TooManyImages,
            detail: Some(format!("the delivery has more than {MAX_IMAGES} images")),
        });
    }
    let Selected {
        requests,
        skips,
        validation,
        ..
    } = selected;
    let count = requests.len();
    let span = tracing::info_span!("send", otel.kind = "producer", messages = count);
    let trace = Some(traces::place_of(&span, place));
    let messages = requests
        .into_iter()
        .map(|it| QueueMessage::new(it, (webhook.new_id)(), received_at, trace));
    let queued: Vec<_> = messages.collect();
    if !queued.is_empty() {
        let sending = webhook.queue.send(queued.clone(), began + budget);
        sending.instrument(span).await?;
    }
    Ok(Taken {
        delivery: id,
        queued,
        skipped: skips,
        validation,
    })
}

/// Tells which entry of `auth` was used, so that it is seen when the old secret of a rotation is not in use any more. The
/// labels are of the configuration only.
fn count_accepted(source: &Source, delivery: &VerifiedDelivery) {
    let (name, entry) = (source.name.as_str(), delivery.entry());
    metrics::counter!("auth_accepted", "source" => name.to_owned(), "entry" => entry.to_string())
        .increment(1);
    tracing::debug!(source = name, entry, "delivery verified");
}

static REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
static ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");

/// Answers who asks whether deliveries are wanted, by repeating its origin. Source: "HTTP 1.1 Web Hooks for Event
/// Delivery" of CloudEvents, section 4.
async fn handshake(
    State(webhook): State<Arc<Webhook>>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let path = path.map_err(|_| webhook.refuse(&uri, Rejection::NotFound))?;
    let headers = join_repeated(headers);
    let mut path = path.iter().map(|(_, value)| value);
    let sender = path
        .next()
        .and_then(|it| webhook.sources.get(it))
        .ok_or_else(|| webhook.refuse(&uri, Rejection::NotFound))?;
    let origin = headers.get(&REQUEST_ORIGIN).cloned();
    let Some(origin) = origin.filter(|_| sender.source.kind.handshake) else {
        let refusal = webhook.refuse(&uri, Rejection::MethodNotAllowed);
        return Err(([(header::ALLOW, "POST")], refusal).into_response());
    };
    let path_token = path.next().map(str::to_owned);
    let budget = (sender.source.kind.answer_budget)(&headers);
    let delivery = Delivery {
        headers,
        path_token,
        body: Bytes::new(),
        received_at: (webhook.now)(),
    };
    let (span, _) = begin(sender, &(webhook.new_id)());
    let answered = async {
        let verified = sender.credentials.verify(delivery, Instant::now() + budget);
        match verified.await {
            Ok(verified) => {
                count_accepted(&sender.source, &verified);
                tracing::info!(event = "handshake", "a sender asked whether it may deliver");
                Ok([(ALLOWED_ORIGIN.clone(), origin)].into_response())
            }
            Err(rejection) => {
                log_refused(None, rejection, None);
                measure::refused(Some(&sender.source.name), rejection);
                Err(rejection.into_response())
            }
        }
    };
    answered.instrument(span).await
}

/// Parses a verified delivery and selects from it: all that lies between the signature and the queue.
pub fn decide(source: &Source, delivery: &VerifiedDelivery) -> Result<Selected, ParsePayloadError> {
    let events = (source.kind.parse)(delivery, &source.options)?;
    Ok(select(source, events))
}

/// Reads the body, never more than `limit` bytes of it and nothing at all if it says it is longer.
async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Rejection> {
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

/// Has an authentic delivery belong to its sender's trace, else to the one that began with it, and tells its place there for
/// where spans are not collected.
fn belong(senders: Option<TraceContext>, own: TraceContext) -> TraceContext {
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

/// One line for each delivery, within its span.
fn log(outcome: &Result<Taken, Refused>) {
    match outcome {
        Ok(taken) => {
            let (queued, skipped) = (taken.queued.len(), taken.skipped.len());
            let reason = taken.skipped.first().map(|it| it.reason.as_str());
            tracing::info!(
                event = "delivery.taken",
                queued,
                skipped,
                reason,
                "delivery taken"
            );
        }
        Err(Refused { rejection, detail }) => log_refused(None, *rejection, detail.as_deref()),
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

impl IntoResponse for Taken {
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
