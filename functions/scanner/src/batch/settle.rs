//! What follows from an attempt's outcome: in the ledger, in the queues, in the log.

use std::time::Duration;

use jiff::Timestamp;
use scanhook_core::image::{Digest, Tag};
use scanhook_core::platform::Platform;
use scanhook_core::record::{ScanRecord, State};
use scanhook_core::verdict::{Class, ScanError};

use super::attempt::{Attempt, ComesBack, Failure, Outcome, ledger_result};
use super::{Scanner, Settled, measure};
use crate::ledger::Ledger;
use crate::queue::DeadLetter;

/// Acts on an outcome, and tells what becomes of the record.
pub(super) async fn settle<L: Ledger>(
    scanner: &Scanner<L>,
    attempt: Attempt<'_>,
    outcome: Result<Outcome, Failure>,
) -> Settled {
    let now = (scanner.now)();
    let begun = attempt
        .message
        .as_ref()
        .map(|it| ScanRecord::begin(it, attempt.receive_count, attempt.started_at));
    let (settled, record) = match outcome {
        Ok(Outcome::Judged(judged)) => {
            if let (Some(key), Some(message)) = (&attempt.claim, &attempt.message) {
                let finished = scanner
                    .ledger
                    .finish(key, &message.scan_id, judged.verdict, now);
                ledger_result("finish", finished.await);
            }
            (Settled::Deleted, begun.map(|it| it.judged(&judged, now)))
        }
        Ok(Outcome::Repeated(verdict)) => {
            (Settled::Deleted, begun.map(|it| it.repeated(verdict, now)))
        }
        Err(failure) => {
            measure::failed(&failure.error);
            if let (Some(key), Some(message)) = (&attempt.claim, &attempt.message) {
                let released = scanner
                    .ledger
                    .release(key, &message.scan_id, &failure.error);
                ledger_result("release", released.await);
            }
            let settled = return_or_bury(scanner, &attempt, &failure, now).await;
            let state = match settled {
                Settled::Deleted => State::DeadLetter,
                Settled::Returned => State::Retrying,
            };
            if begun.is_none() {
                log_unread(&attempt, &failure.error);
                if settled == Settled::Deleted {
                    measure::unread();
                }
            }
            (
                settled,
                begun.map(|it| it.failed(&failure.error, state, now)),
            )
        }
    };
    if let Some(record) = record {
        ledger_result("record", scanner.ledger.record(&record).await);
        log_finished(&record);
        measure::ended(&scanner.settings, &record);
    }
    settled
}

/// Makes a record that has no further receive a dead letter, and has any other come back.
async fn return_or_bury<L: Ledger>(
    scanner: &Scanner<L>,
    attempt: &Attempt<'_>,
    failure: &Failure,
    now: Timestamp,
) -> Settled {
    let Failure { error, comes_back } = failure;
    let retry = scanner.settings.retry();
    let later = retry.delay(attempt.receive_count, rand::random());
    let (delay, last_receive) = match comes_back {
        ComesBack::Later => (later, error.reason.last_receive()),
        ComesBack::After(delay) => (*delay, error.reason.last_receive()),
        ComesBack::Unattempted => (Duration::ZERO, u32::MAX),
    };
    let is_last = attempt.receive_count >= last_receive.min(scanner.queue.attempts());
    if is_last || error.class == Class::Permanent {
        match scanner.queue.bury(letter(attempt, error, now)).await {
            Ok(()) => return Settled::Deleted,
            Err(err) => tracing::error!("a record comes back instead: {err}"),
        }
        scanner.queue.hide(attempt.record, later).await;
    } else {
        scanner.queue.hide(attempt.record, delay).await;
    }
    Settled::Returned
}

/// Attributes that the record has from an earlier time as a dead letter are not read; these take their place.
fn letter<'a>(attempt: &'a Attempt<'_>, error: &ScanError, now: Timestamp) -> DeadLetter<'a> {
    let message = attempt.message.as_ref();
    DeadLetter {
        // SQS takes no empty message, and this is no message either.
        body: attempt
            .record
            .body
            .as_deref()
            .filter(|it| !it.is_empty())
            .unwrap_or("null"),
        group: message.map(|it| it.source.as_str()),
        attributes: [
            ("scanhook.reason", Some(error.reason.as_str().to_owned())),
            ("scanhook.detail", Some(error.detail.clone())),
            ("scanhook.attempts", Some(attempt.receive_count.to_string())),
            ("scanhook.scan_id", message.map(|it| it.scan_id.to_string())),
            ("scanhook.failed_at", Some(now.to_string())),
        ],
    }
}

fn log_unread(attempt: &Attempt<'_>, error: &ScanError) {
    tracing::warn!(
        event = "record.unread",
        message_id = attempt.record.message_id,
        reason = error.reason.as_str(),
        attempt = attempt.receive_count,
        "a record is no message of ours: {}",
        error.detail
    );
}

fn log_finished(record: &ScanRecord) {
    let verdict = record.verdict.as_deref().unwrap_or_default();
    let policies_failed =
        (!record.policies_failed.is_empty()).then(|| record.policies_failed.join(", "));
    tracing::info!(
        event = "scan.finished",
        scan_id = record.scan_id.as_str(),
        source = record.source.as_str(),
        image = record.image,
        tag = record.tag.as_ref().map(Tag::as_str),
        digest = record.digest.as_ref().map(Digest::as_str),
        platform = record.platform.as_ref().map(Platform::as_str),
        verdict,
        reason = record.reason,
        detail = record.detail,
        state = record.state.as_str(),
        critical = record.findings.map(|it| it.critical),
        high = record.findings.map(|it| it.high),
        medium = record.findings.map(|it| it.medium),
        low = record.findings.map(|it| it.low),
        negligible = record.findings.map(|it| it.negligible),
        fixable = record.findings.map(|it| it.fixable),
        policies_failed,
        result_url = record.result_url,
        cli_version = record.cli_version,
        attempt = record.attempts,
        duration_ms = record.duration_ms(),
        queue_age_ms = record.queue_age_ms(),
        "{}: {verdict}",
        record.image
    );
}
