//! The spans that wait for a collector, and the sending of them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use metrics::counter;
use opentelemetry::Context;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use scanhook_config::Environment;
use scanhook_config::http::Client;
use tokio::time::{Instant, timeout_at};

use super::target::{ParseTargetError, Target};
use super::xray::Signer;

/// Spans that wait at most. What comes on top is dropped: the newest, since of the oldest some may be on their way.
const WAITING: usize = 2048;

/// Spans of one request.
const AT_ONCE: usize = 512;

/// The longest answer that is read.
const ANSWER: usize = 64 * 1024;

/// In the place of a status where there is none.
const NO_ANSWER: u16 = 0;

/// The pause after a collector did not take a request; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(super) struct Exporter {
    otlp: SpanExporter,
    last_status: Arc<AtomicU16>,
    waiting: Mutex<VecDeque<SpanData>>,
    /// Held by who sends.
    outage: tokio::sync::Mutex<Option<Outage>>,
}

/// A collector that did not take the last request.
#[derive(Clone, Copy)]
struct Outage {
    pause: Duration,
    until: Instant,
}

/// Why a request was not taken.
enum Failure {
    /// It may be taken later.
    Passing(String),
    /// It never will.
    Final(String),
}

impl Exporter {
    pub(super) fn new(
        target: Target,
        resource: &Resource,
        environment: &Environment,
    ) -> Result<Self, ParseTargetError> {
        let last_status = Arc::new(AtomicU16::new(NO_ANSWER));
        let sender = Sender {
            client: Client::default(),
            signer: Signer::for_collector(&target.url, environment),
            timeout: target.timeout,
            last_status: Arc::clone(&last_status),
        };
        let otlp = SpanExporter::builder()
            .with_http()
            .with_http_client(sender)
            // It would block the thread between two tries.
            .with_retry_policy(RetryPolicy::disabled())
            .build();
        let mut otlp = otlp.map_err(|_| ParseTargetError::EXPORTER)?;
        otlp.set_resource(resource);
        Ok(Self {
            otlp,
            last_status,
            waiting: Mutex::default(),
            outage: tokio::sync::Mutex::default(),
        })
    }

    /// Has a span wait until it is sent.
    fn push(&self, span: SpanData) {
        let mut waiting = self.waiting();
        let has_room = waiting.len() < WAITING;
        if has_room {
            waiting.push_back(span);
        }
        drop(waiting);
        if !has_room {
            dropped(1);
        }
    }

    /// Sends what waits, in `limit` at most; nothing while an outage lasts.
    pub(super) async fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let Ok(mut outage) = timeout_at(deadline, self.outage.lock()).await else {
            return;
        };
        loop {
            let now = Instant::now();
            if now >= deadline || outage.is_some_and(|it| now < it.until) {
                return;
            }
            // They stay where they are until they are taken, so that who is cancelled here loses none.
            let batch: Vec<_> = self.waiting().iter().take(AT_ONCE).cloned().collect();
            let count = batch.len();
            if count == 0 {
                return;
            }
            match self.send(batch, deadline).await {
                Ok(()) => {
                    self.waiting().drain(..count);
                    if outage.take().is_some() {
                        tracing::info!(event = "traces.sent", "the collector takes traces again");
                    }
                }
                Err(Failure::Final(problem)) => {
                    self.waiting().drain(..count);
                    dropped(count);
                    *outage = Some(begin(*outage, &problem));
                }
                Err(Failure::Passing(problem)) => *outage = Some(begin(*outage, &problem)),
            }
        }
    }

    async fn send(&self, batch: Vec<SpanData>, deadline: Instant) -> Result<(), Failure> {
        self.last_status.store(NO_ANSWER, Ordering::Relaxed);
        let Ok(answer) = timeout_at(deadline, self.otlp.export(batch)).await else {
            return Err(Failure::Passing("no answer in time".to_owned()));
        };
        let Err(err) = answer else {
            return Ok(());
        };
        // Source: OpenTelemetry protocol specification, "Failures" and "Retryable response codes".
        match self.last_status.load(Ordering::Relaxed) {
            NO_ANSWER | 429 | 502..=504 => Err(Failure::Passing(err.to_string())),
            _ => Err(Failure::Final(err.to_string())),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<SpanData>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the sampled spans for an exporter.
#[derive(Debug)]
pub(super) struct Keep(pub(super) Arc<Exporter>);

impl SpanProcessor for Keep {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, mut span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        // It is for lines of the log; a span has it anyway.
        span.attributes.retain(|it| it.key.as_str() != "trace_id");
        self.0.push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}

/// The exporter's way to its collector, on this process's runtime.
struct Sender {
    client: Client,
    signer: Option<Signer>,
    timeout: Duration,
    last_status: Arc<AtomicU16>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = match &self.signer {
            Some(signer) => signer
                .sign(request, super::system_time(scanhook_config::now()))
                .ok_or("the request can't be signed")?,
            None => request,
        };
        let answer = self.client.send(request, self.timeout, ANSWER).await?;
        let status = answer.status().as_u16();
        self.last_status.store(status, Ordering::Relaxed);
        Ok(answer)
    }
}

/// Says once that an outage has begun, and how long it lasts at least.
fn begin(outage: Option<Outage>, problem: &str) -> Outage {
    if outage.is_none() {
        tracing::warn!(
            event = "traces.unsent",
            "the collector does not take traces, which is tried again: {problem}"
        );
    }
    let pause = outage.map_or(FIRST_PAUSE, |it| (it.pause * 2).min(LONGEST_PAUSE));
    Outage {
        pause,
        until: Instant::now() + pause,
    }
}

fn dropped(spans: usize) {
    if spans > 0 {
        counter!("trace_spans_dropped").increment(spans as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::SystemTime;

    use metrics::with_local_recorder;
    use opentelemetry::InstrumentationScope;
    use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
    use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};

    use super::*;
    use crate::metrics::EmbeddedFormat;

    fn span(flags: TraceFlags) -> SpanData {
        SpanData {
            span_context: SpanContext::new(1.into(), 1.into(), flags, false, TraceState::NONE),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: Cow::Borrowed("delivery"),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    #[test]
    fn spans_beyond_a_bound_are_dropped_and_counted() {
        let target = Target {
            url: "http://127.0.0.1:9/v1/traces".parse().unwrap(),
            timeout: Duration::from_secs(1),
        };
        let environment: Environment = Arc::new(|_| None);
        let resource = Resource::builder_empty().build();
        let exporter = Exporter::new(target, &resource, &environment).unwrap();
        let keep = Keep(Arc::new(exporter));
        let recorder = EmbeddedFormat::default();
        with_local_recorder(&recorder, || {
            for _ in 0..3000 {
                keep.on_end(span(TraceFlags::SAMPLED));
                keep.on_end(span(TraceFlags::NOT_SAMPLED));
            }
        });
        assert_eq!(keep.0.waiting().len(), WAITING);
        let lines = recorder.take(0);
        assert!(lines.contains(r#""trace_spans_dropped":952"#), "{lines}");
    }
}
