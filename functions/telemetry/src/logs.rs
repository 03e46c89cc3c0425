//! How a process writes its log: one event a line, on stdout. A line has the fields of its event and those of the
//! spans that it is within, so that the ids of a delivery or a scan are in each line of it.

use std::fmt::Write as _;
use std::io::Write as _;

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::fields::Fields;
use crate::traces::Traces;
use scanhook_config::{Environment, now};

/// Libraries that print headers, bodies or credentials below INFO. They are never more talkative than that.
const CAPPED: [&str; 11] = [
    "aws_",
    "lambda_",
    "hyper",
    "h2",
    "rustls",
    "reqwest",
    "tower",
    "axum",
    "runtime",
    "opentelemetry",
    "tracing_opentelemetry",
];

/// `SCANHOOK_LOG` is neither a level nor a list of `target=level`.
#[derive(Debug, thiserror::Error)]
#[error("SCANHOOK_LOG must be a level (error, warn, info, debug, trace) or a list of target=level")]
pub struct ParseLogFilterError;

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// As a JSON object, for whatever collects logs.
    #[default]
    Json,
    /// As words, for people: time, level, message, `name=value`.
    Pretty,
}

/// Starts the log of this process, which calls itself `service`, and the collection of its traces if the environment says
/// where they go. Without `SCANHOOK_LOG`, the level is INFO.
pub fn init(
    environment: &Environment,
    service: &'static str,
    format: Format,
) -> Result<Option<Traces>, ParseLogFilterError> {
    let targets: Targets = match environment("SCANHOOK_LOG") {
        Some(text) => text.parse().map_err(|_| ParseLogFilterError)?,
        None => Targets::new().with_default(LevelFilter::INFO),
    };
    let (traces, problem) = match Traces::from_environment(environment, service) {
        Ok(traces) => (traces, None),
        Err(problem) => (None, Some(problem)),
    };
    let lines = Lines(format)
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
struct Lines(Format);

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
        let line = match self.0 {
            Format::Json => serde_json::to_string(&line),
            Format::Pretty => Ok(line.pretty()),
        };
        if let Ok(mut line) = line {
            line.push('\n');
            // In one write, so that no other line gets between; a reader that has gone away is no reason to fail.
            let _ = std::io::stdout().lock().write_all(line.as_bytes());
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
    outer: &'a [(&'static str, Value)],
}

impl Line<'_> {
    /// Every name that is told, once.
    fn entries(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        let outer = self.outer.iter().enumerate();
        let outer = outer.filter(|(place, (name, _))| {
            let before = self.outer.iter().take(*place);
            self.own.get(name).is_none() && !before.into_iter().any(|it| it.0 == *name)
        });
        let outer = outer.map(|(_, (name, value))| (*name, value));
        self.own.iter().chain(outer)
    }

    fn pretty(&self) -> String {
        let message = self.own.get("message").and_then(Value::as_str);
        let mut line = format!(
            "{:.3} {:5} {}",
            self.now,
            self.metadata.level(),
            harmless(message.unwrap_or_default())
        );
        for (name, value) in self.entries().filter(|it| it.0 != "message") {
            let is_word = |it: &&str| {
                !it.is_empty() && !it.contains([' ', '"', '=', '\\']) && harmless(it) == *it
            };
            let _ = match value.as_str().filter(is_word) {
                Some(word) => write!(line, " {name}={word}"),
                None => write!(line, " {name}={}", harmless(&value.to_string())),
            };
        }
        line
    }
}

/// A text that can neither begin a line nor command a terminal.
fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for it in text.chars() {
        if it.is_control() {
            out.extend(it.escape_default());
        } else {
            out.push(it);
        }
    }
    out
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("timestamp", &format_args!("{:.6}", self.now))?;
        line.serialize_entry("level", self.metadata.level().as_str())?;
        for (name, value) in self.entries() {
            line.serialize_entry(name, value)?;
        }
        line.serialize_entry("target", self.metadata.target())?;
        line.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_begins_a_line_or_commands_a_terminal() {
        assert_eq!(harmless("déjà vu: \"1\""), "déjà vu: \"1\"");
        assert_eq!(
            harmless("a\nERROR\r\u{1b}[2J\u{9b}1m"),
            "a\\nERROR\\r\\u{1b}[2J\\u{9b}1m"
        );
    }
}
