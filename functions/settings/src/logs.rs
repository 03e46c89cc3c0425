//! How a process writes its log: one JSON object a line, on stdout. A line has the fields of its event and those of the
//! spans that it is within, so that the ids of a delivery or a scan are in each line of it.

use std::io::Write as _;

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::Environment;
use crate::fields::Fields;
use crate::traces::Traces;

/// Libraries that print headers, bodies or credentials below INFO. They are never more talkative than that.
const CAPPED: [&str; 9] = [
    "aws_", "lambda_", "hyper", "h2", "rustls", "reqwest", "tower", "axum", "runtime",
];

/// `SCANHOOK_LOG` is neither a level nor a list of `target=level`.
#[derive(Debug, thiserror::Error)]
#[error("SCANHOOK_LOG must be a level (error, warn, info, debug, trace) or a list of target=level")]
pub struct ParseLogFilterError;

/// Starts the log of this process, which calls itself `service`, and the collection of its traces if the environment says
/// where they go. Without `SCANHOOK_LOG`, the level is INFO.
pub fn init(
    environment: &Environment,
    service: &str,
) -> Result<Option<Traces>, ParseLogFilterError> {
    let targets: Targets = match environment("SCANHOOK_LOG") {
        Some(text) => text.parse().map_err(|_| ParseLogFilterError)?,
        None => Targets::new().with_default(LevelFilter::INFO),
    };
    let (traces, problem) = match Traces::from_environment(environment, service) {
        Ok(traces) => (traces, None),
        Err(problem) => (None, Some(problem)),
    };
    let lines = Lines
        .with_filter(targets)
        .with_filter(filter_fn(is_allowed));
    // A second start in one process, as in tests, leaves the first in place.
    let _ = tracing_subscriber::registry()
        .with(lines)
        .with(traces.as_ref().map(Traces::layer))
        .try_init();
    if let Some(problem) = problem {
        tracing::warn!(event = "traces.off", "traces are not exported: {problem}");
    }
    Ok(traces)
}

fn is_allowed(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || !CAPPED.iter().any(|it| metadata.target().starts_with(it))
}

/// Writes each event as a line.
struct Lines;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Told(fields));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(Told(fields)) = span.extensions_mut().get_mut()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut own = Fields::default();
        event.record(&mut own);
        let mut outer = Vec::new();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(Told(fields)) = span.extensions().get() {
                let told = fields.iter().filter(|it| !it.0.starts_with("otel."));
                outer.extend(told.map(|(name, value)| (name, value.clone())));
            }
        }
        let line = Line {
            now: now(),
            metadata: event.metadata(),
            own: &own,
            outer: &outer,
        };
        if let Ok(mut line) = serde_json::to_vec(&line) {
            line.push(b'\n');
            // In one write, so that no other line gets between; a reader that has gone away is no reason to fail.
            let _ = std::io::stdout().lock().write_all(&line);
        }
    }
}

/// What a span says in the lines within it.
struct Told(Fields);

/// A line: of a name that is told more than once, the innermost counts.
struct Line<'a> {
    now: Timestamp,
    metadata: &'a Metadata<'static>,
    own: &'a Fields,
    /// From the innermost span to the outermost.
    outer: &'a [(&'static str, serde_json::Value)],
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("timestamp", &format_args!("{:.6}", self.now))?;
        line.serialize_entry("level", self.metadata.level().as_str())?;
        for (name, value) in self.own.iter() {
            line.serialize_entry(name, value)?;
        }
        for (place, (name, value)) in self.outer.iter().enumerate() {
            let is_told = self.own.get(name).is_some()
                || self.outer.iter().take(place).any(|it| it.0 == *name);
            if !is_told {
                line.serialize_entry(name, value)?;
            }
        }
        line.serialize_entry("target", self.metadata.target())?;
        line.end()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the log's clock: nobody hands the time to a line"
)]
fn now() -> Timestamp {
    Timestamp::now()
}
