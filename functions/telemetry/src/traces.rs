//! Where the time of a delivery and of its scans went: the spans of this process, kept by OpenTelemetry's SDK and sent to a
//! collector in Protobuf over HTTP, if `OTEL_EXPORTER_OTLP_ENDPOINT` names one.
//!
//! What is collected are the `tracing` spans of scanhook's own crates, at INFO and above. The outermost is part of the trace
//! that [`begin`] or [`join`] named last before a span below it, or its end, made OpenTelemetry start it.
//!
//! **Invariant**: nobody waits for a collector but [`Traces::flush`], within its limit; what can't be sent is dropped and
//! counted, never kept without bound.

mod export;
mod ids;
mod target;
mod xray;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use opentelemetry::trace::{
    Span as _, SpanContext, TraceContextExt as _, TraceFlags, TraceState, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, Key, global};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use scanhook_config::Environment;
use scanhook_core::time::until;
use scanhook_core::trace::{SpanId, TraceContext, TraceId};
use tokio::time::sleep;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use self::export::{Exporter, Keep};
use self::ids::{Given, Ids};
pub use self::target::ParseTargetError;
use self::target::Target;

/// What has spans here, for their reader.
const SCOPE: &str = "scanhook";

/// How often a process that is never frozen sends what it has.
const EVERY: Duration = Duration::from_secs(1);

/// How long it lets a collector take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The spans of this process, on their way to a collector. Clones share them.
#[derive(Clone)]
pub struct Traces {
    exporter: Arc<Exporter>,
    provider: SdkTracerProvider,
}

impl Traces {
    /// `None` if the environment names no collector.
    pub(crate) fn from_environment(
        environment: &Environment,
        service: &'static str,
    ) -> Result<Option<Self>, ParseTargetError> {
        let Some(target) = Target::from_environment(environment)? else {
            return Ok(None);
        };
        let resource = resource(service);
        let exporter = Arc::new(Exporter::new(target, &resource, environment)?);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_id_generator(Ids)
            .with_span_processor(Keep(Arc::clone(&exporter)))
            .build();
        global::set_tracer_provider(provider.clone());
        Ok(Some(Self { exporter, provider }))
    }

    pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        tracing_opentelemetry::layer()
            .with_tracer(Given(self.provider.tracer_with_scope(scope())))
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(is_collected))
    }

    /// Sends what there is, in `limit` at most: before a function is frozen, or a process ends.
    pub async fn flush(&self, limit: Duration) {
        self.exporter.flush(limit).await;
    }

    /// Sends from time to time, for ever.
    pub async fn run(&self) -> Infallible {
        loop {
            sleep(EVERY).await;
            self.exporter.flush(PATIENCE).await;
        }
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(SCOPE)
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}

/// What names this process: `service`, unless the environment has another name.
fn resource(service: &'static str) -> Resource {
    let named = Resource::builder().build();
    let name = named.get(&Key::from_static_str("service.name"));
    if name.is_some_and(|it| !it.as_str().starts_with("unknown_service")) {
        return named;
    }
    Resource::builder().with_service_name(service).build()
}

/// Our own spans, and no events.
fn is_collected(metadata: &Metadata<'_>) -> bool {
    metadata.is_span()
        && metadata.target().starts_with("scanhook")
        && *metadata.level() <= LevelFilter::INFO
}

/// A new trace, and a place in it.
pub fn new_context() -> TraceContext {
    TraceContext {
        trace_id: drawn(|| TraceId::new(rand::random())),
        span_id: drawn(|| SpanId::new(rand::random())),
        is_sampled: true,
    }
}

/// Draws until there is one: zero is no id.
fn drawn<T>(draw: impl Fn() -> Option<T>) -> T {
    loop {
        if let Some(id) = draw() {
            return id;
        }
    }
}

/// Has `span` be the place that `context` names, and the lines within it show the trace, in their field `trace_id`. A place
/// that isn't sampled is not collected, whatever the sampler is.
pub fn begin(span: &Span, context: TraceContext) {
    span.record("trace_id", tracing::field::display(context.trace_id));
    let parent = if context.is_sampled {
        Context::new().with_value(context)
    } else {
        Context::new().with_telemetry_suppressed()
    };
    // Without a collector there is nothing to change.
    let _ = span.set_parent(parent);
}

/// Puts `span` below the place that `context` names, and has the lines within it show the trace, in their field `trace_id`.
pub fn join(span: &Span, context: TraceContext) {
    span.record("trace_id", tracing::field::display(context.trace_id));
    let (trace_id, span_id) = ids::of(context);
    let flags = TraceFlags::default().with_sampled(context.is_sampled);
    let senders = SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE);
    let _ = span.set_parent(Context::new().with_remote_span_context(senders));
}

/// The place that `span` is, for others to join; `context`, which its root began or joined, if spans are not collected.
pub fn place_of(span: &Span, context: TraceContext) -> TraceContext {
    let within = span.context();
    let own = within.span().span_context().clone();
    let flags = u8::from(own.is_sampled());
    let text = format!("00-{}-{}-{flags:02x}", own.trace_id(), own.span_id());
    TraceContext::parse(&text).unwrap_or(context)
}

/// Adds a part of `span`'s work that ends now and began before the trace of `span` was known.
pub fn add_part(span: &Span, name: &'static str, began: Timestamp) {
    let tracer = global::tracer_with_scope(scope());
    let part = tracer
        .span_builder(name)
        .with_start_time(system_time(began));
    let mut part = part.start_with_context(&tracer, &span.context());
    part.end_with_timestamp(system_time(scanhook_config::now()));
}

/// The instant as a `SystemTime`, which ends at 1970.
fn system_time(instant: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + until(instant, Timestamp::UNIX_EPOCH)
}
