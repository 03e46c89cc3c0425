//! Ids of root spans that were given out, in lines of the log, before OpenTelemetry's SDK started the span.

use std::cell::Cell;

use opentelemetry::Context;
use opentelemetry::trace::{SpanBuilder, SpanId, TraceContextExt as _, TraceId, Tracer};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracer, Span};
use scanhook_core::trace::TraceContext;

thread_local! {
    /// The place that the span being started is.
    static PLACE: Cell<Option<TraceContext>> = const { Cell::new(None) };
}

/// Starts a root span at the place that is a value of its parent context, if there is one.
#[derive(Debug)]
pub(super) struct Given(pub(super) SdkTracer);

impl Tracer for Given {
    type Span = Span;

    fn build_with_context(&self, builder: SpanBuilder, parent: &Context) -> Span {
        let place = parent.get::<TraceContext>().copied();
        PLACE.set(place.filter(|_| !parent.has_active_span()));
        let span = self.0.build_with_context(builder, parent);
        PLACE.set(None);
        span
    }
}

/// Random ids, but for a span whose place is given.
#[derive(Debug)]
pub(super) struct Ids;

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        let place = PLACE.get();
        place.map_or_else(
            || RandomIdGenerator::default().new_trace_id(),
            |it| of(it).0,
        )
    }

    fn new_span_id(&self) -> SpanId {
        let place = PLACE.get();
        place.map_or_else(|| RandomIdGenerator::default().new_span_id(), |it| of(it).1)
    }
}

/// The ids of a place, as OpenTelemetry has them.
pub(super) fn of(context: TraceContext) -> (TraceId, SpanId) {
    let (trace, span) = (context.trace_id.to_string(), context.span_id.to_string());
    let ids = TraceId::from_hex(&trace).and_then(|it| Ok((it, SpanId::from_hex(&span)?)));
    let Ok(ids) = ids else {
        unreachable!("both are written in hex")
    };
    ids
}
