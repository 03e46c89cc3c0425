//! One receive of one record, up to its outcome: parse, claim, plan, run, judge.

use std::io;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use aws_lambda_events::sqs::SqsMessage;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use scanhook_core::message::QueueMessage;
use scanhook_core::record::{ClaimKey, ScanRecord};
use scanhook_core::redact::{self, Redactor};
use scanhook_core::target::Target;
use scanhook_core::verdict::{Class, CliRun, ErrorReason, Judged, ScanError, Verdict, judge};
use tokio::time::timeout;

use super::{Scanner, Times, after, before, until};
use crate::ledger::{Claim, ClaimRequest, Ledger};

/// One receive of one record, and what is known of it so far.
pub(super) struct Attempt<'a> {
    pub(super) record: &'a SqsMessage,
    pub(super) receive_count: u32,
    pub(super) started_at: Timestamp,
    /// `None` while its body is not read, or if it is none of ours.
    pub(super) message: Option<QueueMessage>,
    /// The claim that it holds.
    pub(super) claim: Option<ClaimKey>,
}

/// A record that needs no further attempt.
pub(super) enum Outcome {
    /// It was scanned.
    Judged(Box<Judged>),
    /// Its content was scanned before, with this verdict.
    Repeated(Verdict),
}

/// A record without a verdict.
pub(super) struct Failure {
    pub(super) error: ScanError,
    pub(super) comes_back: ComesBack,
}

impl Failure {
    /// The same with a detail that may be kept and shown, whatever error it was made of: short, and without what looks like
    /// a secret. Secrets that are known were struck out where they were known.
    pub(super) fn presentable(mut self) -> Self {
        self.error.detail = redact::shown(&Redactor::new([]).clean(&self.error.detail));
        self
    }
}

/// When a record without a verdict is received again, if it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum ComesBack {
    /// After the wait of the retry policy.
    Later,
    /// After that long.
    After(Duration),
    /// At once, and not because an attempt failed: none was made.
    Unattempted,
}

/// A secret was replaced: the next attempt is likely to succeed.
const SOON: Duration = Duration::from_secs(5);

impl<'a> Attempt<'a> {
    pub(super) fn new(record: &'a SqsMessage, now: Timestamp) -> Self {
        let receive_count = record.attributes.get("ApproximateReceiveCount");
        Self {
            record,
            receive_count: receive_count.and_then(|it| it.parse().ok()).unwrap_or(1),
            started_at: now,
            message: None,
            claim: None,
        }
    }

    pub(super) fn failure(&self, reason: ErrorReason, detail: impl Into<String>) -> Failure {
        Failure {
            error: ScanError {
                reason,
                class: reason.class(self.receive_count),
                detail: detail.into(),
            },
            comes_back: ComesBack::Later,
        }
    }
}

/// Works on a record until it has an outcome. A panic or a hang in it becomes an error of this record.
pub(super) async fn work<L: Ledger>(
    scanner: &Scanner<L>,
    attempt: &mut Attempt<'_>,
    times: Times,
) -> Result<Outcome, Failure> {
    // The run is ended by its own limit; this is the net below it.
    let limit = until(times.end, (scanner.now)()) + scanner.margin / 2;
    let worked = timeout(
        limit,
        AssertUnwindSafe(scan(scanner, attempt, times)).catch_unwind(),
    );
    match worked.await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(attempt.failure(ErrorReason::Internal, "the scanner panicked")),
        Err(_) => Err(attempt.failure(ErrorReason::Timeout, "the scanner ran out of time")),
    }
}

async fn scan<L: Ledger>(
    scanner: &Scanner<L>,
    attempt: &mut Attempt<'_>,
    times: Times,
) -> Result<Outcome, Failure> {
    let body = attempt.record.body.as_deref().unwrap_or_default();
    let message = QueueMessage::parse(body)
        .map_err(|err| attempt.failure(ErrorReason::BadMessage, err.to_string()))?;
    attempt.message = Some(message.clone());
    let policies = scanner.settings.policies(&message.source).ok_or_else(|| {
        let detail = format!("no source {} is configured", message.source);
        attempt.failure(ErrorReason::UnknownSource, detail)
    })?;
    #[cfg(feature = "faults")]
    assert!(
        !message.image.repository.as_str().ends_with("/panic"),
        "asked for by the image's name"
    );
    let remaining = until(times.start, (scanner.now)());
    let slot = if remaining.is_zero() {
        None
    } else {
        timeout(remaining, scanner.slots.lease()).await.ok()
    };
    let Some(mut slot) = slot else {
        let failure = attempt.failure(ErrorReason::Timeout, "there was no time left to start it");
        return Err(Failure {
            comes_back: ComesBack::Unattempted,
            ..failure
        });
    };

    attempt.started_at = (scanner.now)();
    let end = after(attempt.started_at, scanner.settings.timeout()).min(times.end);
    let digest = message.image.pin.digest();
    let target = digest.map(|it| Target::new(&message.image, it.clone()));
    let key = target.map(|it| ClaimKey::new(&it, &policies));
    if let Some(verdict) = claim(scanner, attempt, &message, key, end).await? {
        return Ok(Outcome::Repeated(verdict));
    }
    let record = ScanRecord::begin(&message, attempt.receive_count, attempt.started_at);
    ledger_result("record", scanner.ledger.record(&record).await);

    let plan = scanner.settings.plan(&message, policies).await;
    let limit = until(end, (scanner.now)());
    let run = scanner
        .cli
        .run(&plan, &message.scan_id, &mut slot, limit)
        .await;
    let run = run
        .map_err(|err| attempt.failure(reason_of(&err), format!("could not run the CLI: {err}")))?;
    let run = CliRun {
        exit: run.exit,
        report: run.report,
        stderr: &run.printed,
    };
    match judge(&message.image, run, attempt.receive_count) {
        Ok(judged) => Ok(Outcome::Judged(Box::new(judged))),
        Err(mut error) => {
            if error.reason == ErrorReason::Database {
                slot.distrust_database();
            }
            let mut comes_back = ComesBack::Later;
            if scanner.settings.has_changed(error.reason, &plan).await {
                error.class = Class::Transient;
                comes_back = ComesBack::After(SOON);
            }
            Err(Failure { error, comes_back })
        }
    }
}

/// Claims the content for this attempt; tells the verdict if there is one already. Without a ledger, or while the digest is
/// not known, the scan goes on unclaimed.
async fn claim<L: Ledger>(
    scanner: &Scanner<L>,
    attempt: &mut Attempt<'_>,
    message: &QueueMessage,
    key: Option<ClaimKey>,
    end: Timestamp,
) -> Result<Option<Verdict>, Failure> {
    let Some(key) = key else {
        return Ok(None);
    };
    let now = attempt.started_at;
    let request = ClaimRequest {
        key: &key,
        holder: &message.scan_id,
        now,
        until: after(end, scanner.margin),
        satisfied_after: satisfied_after(message, scanner.settings.dedup_window()),
    };
    match ledger_result("claim", scanner.ledger.claim(request).await) {
        Some(Claim::Claimed) => {
            attempt.claim = Some(key);
            Ok(None)
        }
        Some(Claim::Done(verdict)) => Ok(Some(verdict)),
        Some(Claim::InProgress(ends)) => {
            let failure = attempt.failure(
                ErrorReason::ClaimedElsewhere,
                "another worker is scanning this content",
            );
            Err(Failure {
                comes_back: ComesBack::After(until(ends, now)),
                ..failure
            })
        }
        None => Ok(None),
    }
}

/// Since when a scan must have finished for a message to be satisfied by it.
fn satisfied_after(message: &QueueMessage, window: Duration) -> Timestamp {
    if message.force {
        Timestamp::MAX
    } else {
        before(message.event.received_at, window)
    }
}

/// What the ledger said; `None`, a line in the log and a count, if it could not be reached.
pub(super) fn ledger_result<T>(
    operation: &'static str,
    result: Result<T, crate::ledger::LedgerError>,
) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(err) => {
            metrics::counter!("ledger_unavailable").increment(1);
            let err = anyhow::Error::from(err);
            tracing::warn!(
                event = "ledger.unavailable",
                operation,
                "the ledger did not take a {operation}: {err:#}"
            );
            None
        }
    }
}

fn reason_of(err: &io::Error) -> ErrorReason {
    match err.kind() {
        io::ErrorKind::StorageFull => ErrorReason::NoSpace,
        _ => ErrorReason::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(force: bool) -> QueueMessage {
        let json = format!(
            r#"{{"version":1,"scan_id":"01JD","source":"prod","image":{{"registry":"h.io","repository":"a","tag":"1","digest":null}},"event":{{"id":null,"type":"push","actor":null,"occurred_at":null,"received_at":"2026-11-21T20:10:00Z"}},"force":{force}}}"#
        );
        QueueMessage::parse(&json).unwrap()
    }

    #[test]
    fn a_scan_satisfies_what_was_received_before_its_window_ended() {
        let window = Duration::from_mins(10);
        let finished_at: Timestamp = "2026-11-21T20:00:00Z".parse().unwrap();
        // Received just when the window ended: not satisfied. A moment earlier it would have been.
        assert!(finished_at <= satisfied_after(&message(false), window));
        let later = after(finished_at, Duration::from_nanos(1));
        assert!(later > satisfied_after(&message(false), window));
        assert_eq!(satisfied_after(&message(true), window), Timestamp::MAX);
    }
}
