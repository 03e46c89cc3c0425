//! How a process writes its log: one JSON object a line, on stdout.

use std::io::Write;

use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

/// Libraries that print headers, bodies or credentials below INFO. They are never more talkative than that.
const CAPPED: [&str; 9] = [
    "aws_", "lambda_", "hyper", "h2", "rustls", "reqwest", "tower", "axum", "runtime",
];

/// `SCANHOOK_LOG` is neither a level nor a list of `target=level`.
#[derive(Debug, thiserror::Error)]
#[error("SCANHOOK_LOG must be a level (error, warn, info, debug, trace) or a list of target=level")]
pub struct ParseLogFilterError;

/// Starts the log of this process. `filter` is the value of `SCANHOOK_LOG`; without one, INFO.
pub fn init(filter: Option<&str>) -> Result<(), ParseLogFilterError> {
    let targets: Targets = match filter {
        Some(text) => text.parse().map_err(|_| ParseLogFilterError)?,
        None => Targets::new().with_default(LevelFilter::INFO),
    };
    let layer = fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false);
    let layer = layer
        .with_writer(|| LineWriter)
        .with_filter(targets)
        .with_filter(filter_fn(is_allowed));
    // A second start in one process, as in tests, leaves the first in place.
    let _ = tracing_subscriber::registry().with(layer).try_init();
    Ok(())
}

fn is_allowed(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || !CAPPED.iter().any(|it| metadata.target().starts_with(it))
}

/// Writes each line whole; a reader that has gone away is no reason to fail.
struct LineWriter;

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let _ = std::io::stdout().lock().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
