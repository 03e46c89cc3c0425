//! Where the time of a delivery and of its scans went: the spans of this process, sent to a collector by OTLP over HTTP,
//! in JSON, if `OTEL_EXPORTER_OTLP_ENDPOINT` names one.
//!
//! What is collected are the `tracing` spans of scanhook's own crates, at INFO and above. An outermost one is the root of
//! what is collected here: it belongs to the trace that [`begin`] or [`join`] named last, and is sent, with all below it,
//! when it ends.
//!
//! **Invariant**: nobody waits for a collector but [`Traces::flush`], within its limit; what can't be sent is dropped and
//! counted, never kept without bound.

mod export;
mod otlp;
mod target;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use scanhook_core::trace::{SpanId, TraceContext, TraceId};
use tokio::time::sleep;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Span, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, SpanRef};
use tracing_subscriber::{Layer, Registry};

use self::export::Exporter;
pub use self::target::ParseTargetError;
use self::target::Target;
use crate::fields::Fields;
use scanhook_config::{Environment, now};

/// How often a process that is never frozen sends what it has.
const EVERY: Duration = Duration::from_secs(1);

/// How long it lets a collector take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The spans of this process, on their way to a collector. Clones share them.
#[derive(Clone)]
pub struct Traces(Arc<Exporter>);

impl Traces {
    /// `None` if the environment names no collector.
    pub(crate) fn from_environment(
        environment: &Environment,
        service: &str,
    ) -> Result<Option<Self>, ParseTargetError> {
        let target = Target::from_environment(environment, service)?;
        Ok(target.map(|it| Self(Arc::new(Exporter::new(it)))))
    }

    pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        let own = Targets::new().with_target("scanhook", LevelFilter::INFO);
        Collect(self.clone()).with_filter(own)
    }

    /// Sends what there is, in `limit` at most: before a function is frozen, or a process ends.
    pub async fn flush(&self, limit: Duration) {
        self.0.flush(limit).await;
    }

    /// Sends from time to time, for ever.
    pub async fn run(&self) -> Infallible {
        loop {
            sleep(EVERY).await;
            self.0.flush(PATIENCE).await;
        }
    }
}

/// A new trace, and a place in it.
pub fn new_context() -> TraceContext {
    TraceContext {
        trace_id: drawn(|| TraceId::new(rand::random())),
        span_id: new_span_id(),
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

fn new_span_id() -> SpanId {
    drawn(|| SpanId::new(rand::random()))
}

/// Has `span` be the place that `context` names, and the lines within it tell the trace, in their field `trace_id`.
pub fn begin(span: &Span, context: TraceContext) {
    span.record("trace_id", tracing::field::display(context.trace_id));
    with_open(span, |it| {
        it.id = context.span_id;
        it.parent = None;
        it.trace = Some(context);
    });
}

/// Puts `span` below the place that `context` names, and has the lines within it tell the trace, in their field `trace_id`.
pub fn join(span: &Span, context: TraceContext) {
    span.record("trace_id", tracing::field::display(context.trace_id));
    with_open(span, |it| {
        it.parent = Some(context.span_id);
        it.trace = Some(context);
    });
}

/// The place that `span` is, for others to join; `context`, which its root began or joined, if spans are not collected.
pub fn place_of(span: &Span, context: TraceContext) -> TraceContext {
    let mut place = context;
    with_open(span, |it| place.span_id = it.id);
    place
}

/// Changes what is collected of a span, if anything is.
fn with_open(span: &Span, change: impl FnOnce(&mut Open)) {
    span.with_subscriber(|(id, subscriber)| {
        if let Some(registry) = subscriber.downcast_ref::<Registry>()
            && let Some(span) = registry.span(id)
            && let Some(open) = span.extensions_mut().get_mut()
        {
            change(open);
        }
    });
}

/// A span that has not ended.
struct Open {
    id: SpanId,
    /// The place of another process that it is below of.
    parent: Option<SpanId>,
    /// Of a root: the trace that it belongs to.
    trace: Option<TraceContext>,
    began_at: Timestamp,
    began: Instant,
    fields: Fields,
    /// Of a root: what has ended below it.
    below: Vec<Ended>,
}

/// A span that has ended.
struct Ended {
    id: SpanId,
    parent: Option<SpanId>,
    name: &'static str,
    began_at: Timestamp,
    took: Duration,
    fields: Fields,
}

struct Collect(Traces);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collect {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let open = Open {
            id: new_span_id(),
            parent: None,
            trace: None,
            began_at: now(),
            began: Instant::now(),
            fields,
            below: Vec::new(),
        };
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(open);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(Open { fields, .. }) = span.extensions_mut().get_mut()
        {
            values.record(fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        let Some(open) = span.extensions_mut().remove::<Open>() else {
            return;
        };
        let mut ended = Ended {
            id: open.id,
            parent: open.parent,
            name: span.name(),
            began_at: open.began_at,
            took: open.began.elapsed(),
            fields: open.fields,
        };
        if let Some(parent) = span.parent() {
            ended.parent = parent.extensions().get().map(|it: &Open| it.id);
            let root = parent.scope().last().unwrap_or(parent);
            add(&root, ended);
            return;
        }
        let mut spans = open.below;
        spans.push(ended);
        match open.trace {
            Some(trace) if trace.is_sampled => (self.0).0.push(trace.trace_id, spans),
            _ => {}
        }
    }
}

fn add<'a, S: LookupSpan<'a>>(root: &SpanRef<'a, S>, ended: Ended) {
    if let Some(Open { below, .. }) = root.extensions_mut().get_mut() {
        below.push(ended);
    }
}
