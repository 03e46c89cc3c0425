//! The handler: a batch of records in, the ids of those that failed out.
//!
//! **Invariant**: each record is on its own. Whatever one does, the others are still worked on and the answer names
//! exactly those that are to come back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use scanhook_config::Clock;
use scanhook_core::time::{after, before, until};
use scanhook_telemetry::traces;
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::cli::{Cli, Slots};
use crate::config::ScannerSettings;
use crate::ledger::Ledger;
use crate::queue::Queue;
use scanhook_registry::Registries;

mod attempt;
mod hold;
mod measure;
mod scan;
mod settle;

use attempt::{Attempt, Failure};
use scan::Scan;
use settle::Failed;

/// Everything that records are worked on with.
pub struct Scanner {
    /// What the configuration says.
    pub settings: ScannerSettings,
    /// What says what there is to scan.
    pub registries: Registries,
    /// Where records come from, and where dead letters go.
    pub queue: Queue,
    /// What is remembered of scans.
    pub ledger: Arc<dyn Ledger>,
    /// What scans.
    pub cli: Cli,
    /// Where it writes. Batches that are handled at once share the slots.
    pub slots: Slots,
    /// How long before an invocation's deadline all work ends, so that there is time to answer.
    pub margin: Duration,
    /// What time it is.
    pub now: Clock,
}

/// The margin for a function on Lambda.
pub const MARGIN: Duration = Duration::from_secs(15);

/// A scan is not started with less time than this, or than its whole time-out if that is shorter: it would hardly end
/// well, and cost one of its receives.
const WORTHWHILE: Duration = Duration::from_secs(15);

/// Records stay hidden this long after the deadline: when the function dies, they come back soon.
const AFTER_DEADLINE: Duration = Duration::from_mins(1);

/// Until when what is to be done.
#[derive(Clone, Copy)]
struct Times {
    /// The latest instant at which the scan may start.
    start: Timestamp,
    /// The instant at which it is ended.
    end: Timestamp,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// It is done, here or as a dead letter.
    Deleted,
    /// It comes back.
    Returned,
}

/// Works on every record of a batch, and reports those that are to come back. `deadline` is the invocation's.
pub async fn handle(scanner: &Scanner, event: SqsEvent, deadline: Timestamp) -> SqsBatchResponse {
    let hidden_at = Instant::now();
    let hidden = until(after(deadline, AFTER_DEADLINE), (scanner.now)());
    scanner.queue.hide_all(&event.records, hidden).await;
    let end = before(deadline, scanner.margin);
    let worthwhile = scanner.worthwhile();
    // The first always starts: with a deadline too short for any, all would come back for ever without a reason.
    let mut times = Times { start: end, end };
    let mut response = SqsBatchResponse::default();
    for record in &event.records {
        let message_id = record.message_id.as_deref();
        // At the highest level, so that no choice of SCANHOOK_LOG takes the ids out of a line.
        let span = tracing::error_span!(
            "scan",
            otel.kind = "consumer",
            message_id,
            scan_id = Empty,
            trace_id = Empty,
            source = Empty,
            attempt = Empty,
            otel.status_description = Empty,
        );
        traces::begin(&span, traces::new_context());
        let handled = Box::pin(handle_record(scanner, record, hidden_at, times));
        if handled.instrument(span).await == Settled::Returned {
            response.add_failure(identifier(record));
        }
        times.start = before(end, worthwhile);
    }
    response
}

async fn handle_record(
    scanner: &Scanner,
    record: &SqsMessage,
    hidden_at: Instant,
    times: Times,
) -> Settled {
    let handled = async {
        let mut attempt = Attempt::new(record, (scanner.now)());
        let work = Box::pin(work(scanner, &mut attempt, times));
        match hold::held(scanner, record, hidden_at, work).await {
            Some(failed) => settle::conclude(scanner, &attempt, failed).await,
            None => Settled::Returned,
        }
    };
    let handled = AssertUnwindSafe(handled).catch_unwind().await;
    handled.unwrap_or(Settled::Returned)
}

/// Works on all that a record asks for, and tells what of it failed. Each platform has its own scan, one after the other,
/// and a verdict that one has reached stays, whatever becomes of the others.
async fn work(scanner: &Scanner, attempt: &mut Attempt<'_>, times: Times) -> Vec<Failed> {
    let limit = (attempt.receive_count, times.end);
    let prepared = attempt::prepare(scanner, attempt, times);
    let mut prepared = match attempt::caught(scanner, limit, prepared).await {
        Ok(prepared) => prepared,
        Err(failure) => {
            let (failure, record) = (failure.presentable(), attempt.begun());
            return vec![Failed { record, failure }];
        }
    };
    let mut failed = Vec::new();
    let mut start = times.end;
    for subject in std::mem::take(&mut prepared.resolved.subjects) {
        let mut scan = Scan::new(attempt, &prepared, &subject);
        let times = Times { start, ..times };
        let image = scan.span();
        let outcome = scan::scan(scanner, attempt, &mut prepared, &subject, &mut scan, times);
        let outcome = attempt::caught(scanner, limit, outcome);
        let outcome = outcome.instrument(image.clone()).await;
        match &outcome {
            Ok(outcome) => image.record("verdict", outcome.verdict().as_str()),
            Err(failure) => image.record("otel.status_description", failure.error.reason.as_str()),
        };
        drop(image);
        let outcome = outcome.map_err(Failure::presentable);
        failed.extend(settle::finish(scanner, scan, outcome).await);
        start = before(times.end, scanner.worthwhile());
    }
    failed
}

impl Scanner {
    fn worthwhile(&self) -> Duration {
        WORTHWHILE.min(self.settings.timeout())
    }
}

/// Names a record in the answer. One without an id can't come back alone: an id that no batch has fails the whole batch,
/// so that nothing is lost, and claims keep its other records from being scanned again.
fn identifier(record: &SqsMessage) -> &str {
    match record.message_id.as_deref() {
        Some(id) if !id.is_empty() => id,
        _ => {
            tracing::error!("a record without an id is to come back, so the whole batch does");
            "record-without-message-id"
        }
    }
}

/// How long work may go on in an invocation with this deadline.
pub(crate) fn time_left(scanner: &Scanner, deadline: Timestamp) -> Duration {
    until(before(deadline, scanner.margin), (scanner.now)())
}
