//! The handler: a batch of records in, the ids of those that failed out.
//!
//! In reading order: `receive` (one receive of a record), `attempt` (the message in it, and what it is worked on with),
//! `failure` (why there is no verdict), `net` (what catches a panic or a hang), `prepare`, `scan` and `settle` (an attempt's three
//! steps), `hide` (keeping the record hidden meanwhile), `measure` (what is counted).
//!
//! **Invariant**: each record is on its own. Whatever one does, the others are still worked on and the answer names
//! exactly those that are to be retried.

use std::mem;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use scanhook_core::time::{after, before, until};
use scanhook_telemetry::traces;
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::scanner::Scanner;

mod attempt;
mod failure;
mod hide;
mod measure;
mod net;
mod prepare;
mod receive;
mod scan;
mod settle;

use attempt::{Attempt, Times};
use receive::Receive;
use scan::Scan;
use settle::{Failed, Settled};

/// A scan is not started with less time than this, or than its whole time-out if that is shorter: it would hardly end
/// well, and cost one of its receives.
const WORTHWHILE: Duration = Duration::from_secs(15);

/// Records stay hidden this long after the deadline: when the function dies, they are soon received again.
const AFTER_DEADLINE: Duration = Duration::from_mins(1);

/// Works on every record of a batch, and reports those that are to be retried. `deadline` is the invocation's.
pub async fn handle(scanner: &Scanner, event: SqsEvent, deadline: Timestamp) -> SqsBatchResponse {
    let hidden_at = Instant::now();
    let hidden = until(after(deadline, AFTER_DEADLINE), (scanner.now)());
    scanner.queue.hide_all(&event.records, hidden).await;
    let end = before(deadline, scanner.margin);
    // The first always starts: with a deadline too short for any, all would be retried for ever without a reason.
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
        let handled = AssertUnwindSafe(handled.instrument(span)).catch_unwind();
        if !matches!(handled.await, Ok(Settled::Deleted)) {
            response.add_failure(identifier(record));
        }
        times.start = last_start(scanner, end);
    }
    response
}

async fn handle_record(
    scanner: &Scanner,
    record: &SqsMessage,
    hidden_at: Instant,
    times: Times,
) -> Settled {
    let receive = Receive::of(record);
    let message = match receive.message() {
        Ok(message) => message,
        Err(error) => return settle::unreadable(scanner, &receive, error).await,
    };
    let attempt = Attempt::new(scanner, receive, message, times);
    let scans = Box::pin(scan_all(&attempt));
    match hide::while_hidden(&scanner.queue, record, hidden_at, scans).await {
        Some(failed) => attempt.settle(failed).await,
        None => Settled::Returned,
    }
}

/// Scans everything a message asks for, and returns what failed. Each platform has its own scan, one after the other, and
/// a verdict that one has reached stays, whatever happens to the others.
async fn scan_all(attempt: &Attempt<'_>) -> Vec<Failed> {
    let mut prepared = match attempt.guarded(attempt.prepare()).await {
        Ok(prepared) => prepared,
        Err(failure) => {
            let record = attempt.record(attempt.started_at);
            return vec![Failed { record, failure }];
        }
    };
    let mut failed = Vec::new();
    let end = attempt.times.end;
    let mut start = end;
    for subject in mem::take(&mut prepared.resolved.subjects) {
        let mut scan = Scan::new(attempt, &prepared, &subject);
        let trace = scan.span();
        let outcome = attempt.scan(&mut prepared, &subject, &mut scan, start);
        let outcome = attempt.guarded(outcome).instrument(trace.clone()).await;
        match &outcome {
            Ok(outcome) => trace.record("verdict", outcome.verdict().as_str()),
            Err(failure) => trace.record("otel.status_description", failure.error.reason.as_str()),
        };
        drop(trace);
        failed.extend(attempt.finish(scan, outcome).await);
        start = last_start(attempt.scanner, end);
    }
    failed
}

/// The latest instant at which a scan that must end at `end` is worth starting.
fn last_start(scanner: &Scanner, end: Timestamp) -> Timestamp {
    before(end, WORTHWHILE.min(scanner.settings.timeout()))
}

/// Names a record in the answer. One without an id can't be retried alone: an id that no batch has fails the whole batch,
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
