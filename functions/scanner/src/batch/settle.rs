//! What follows from an attempt's outcome: in the ledger, in the queues, in the log.

use std::time::Duration;

use jiff::Timestamp;
use scanhook_core::failure::{Class, ScanError};
use scanhook_core::image::{Digest, Tag};
use scanhook_core::platform::Platform;
use scanhook_core::record::{RecordReason, RecordVerdict, ScanRecord, State};
use tracing::Span;

use super::attempt::{Attempt, ComesBack, Failure};
use super::scan::{Outcome, Scan};
use super::{Scanner, Settled, measure};
use crate::ledger::tolerate;
use crate::queue::DeadLetter;

/// A record, or one platform of it, that failed.
pub(super) struct Failed {
    /// None if it is no message of ours.
    pub(super) record: Option<ScanRecord>,
    pub(super) failure: Failure,
}

/// Acts on what came of one platform; what failed is left to [`conclude`].
pub(super) async fn finish(
    scanner: &Scanner,
    scan: Scan,
    outcome: Result<Outcome, Failure>,
) -> Option<Failed> {
    let now = (scanner.now)();
    let Scan { record, claim } = scan;
    let record = match outcome {
        Ok(Outcome::Judged(judged)) => {
            if let Some(key) = &claim {
                let finished = scanner
                    .ledger
                    .finish(key, &record.scan_id, judged.verdict, now);
                tolerate("finish", finished.await);
            }
            record.judged(&judged, now)
        }
        Ok(Outcome::Repeated(verdict)) => record.repeated(verdict, now),
        Ok(Outcome::NotAnImage(what)) => record.skipped(what, now),
        Err(failure) => {
            if let Some(key) = &claim {
                let released = scanner.ledger.release(key, &record.scan_id, &failure.error);
                tolerate("release", released.await);
            }
            let record = Some(record);
            return Some(Failed { record, failure });
        }
    };
    keep(scanner, &record).await;
    None
}

/// Decides the outcome of a record by its failures: it is retried as long as one of them may pass, and becomes a dead letter
/// when none may. A dead letter names a permanent failure first, and among those one that can be fixed.
pub(super) async fn conclude(
    scanner: &Scanner,
    attempt: &Attempt<'_>,
    failed: Vec<Failed>,
) -> Settled {
    let now = (scanner.now)();
    let Some(main) = failed.iter().map(|it| &it.failure.error).min_by_key(|it| {
        let is_permanent = it.class == Class::Permanent;
        (!is_permanent, !it.reason.is_fixable())
    }) else {
        return Settled::Deleted;
    };
    let (receive_count, attempts) = (attempt.receive_count, scanner.queue.attempts());
    Span::current().record("otel.status_description", main.reason.as_str());
    let later = scanner
        .settings
        .retry()
        .delay(receive_count, rand::random());
    let hopes = failed
        .iter()
        .map(|it| &it.failure)
        .filter(|it| !it.is_final(receive_count, attempts));
    let delays = hopes.map(|it| match it.comes_back {
        ComesBack::Later => later,
        ComesBack::NotBefore(pause) => later.max(pause),
        ComesBack::After(delay) => delay,
        ComesBack::Unattempted => Duration::ZERO,
    });
    let settled = if let Some(delay) = delays.max() {
        scanner.queue.hide(attempt.record, delay).await;
        Settled::Returned
    } else {
        match scanner.queue.bury(letter(attempt, main, now)).await {
            Ok(()) => Settled::Deleted,
            Err(err) => {
                tracing::error!("a record comes back instead: {err}");
                scanner.queue.hide(attempt.record, later).await;
                Settled::Returned
            }
        }
    };
    let state = match settled {
        Settled::Deleted => State::DeadLetter,
        Settled::Returned => State::Retrying,
    };
    for Failed { record, failure } in failed {
        measure::failed(&failure.error);
        if let Some(record) = record {
            keep(scanner, &record.failed(&failure.error, state, now)).await;
        } else {
            log_unread(attempt, &failure.error);
            if settled == Settled::Deleted {
                measure::unread();
            }
        }
    }
    settled
}

async fn keep(scanner: &Scanner, record: &ScanRecord) {
    tolerate("record", scanner.ledger.record(record).await);
    log_finished(record);
    measure::ended(&scanner.settings, record);
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
    let verdict = record.verdict.as_ref().map_or("", RecordVerdict::as_str);
    let policies_failed =
        (!record.policies_failed.is_empty()).then(|| record.policies_failed.join(", "));
    tracing::info!(
        event = "scan.finished",
        scan_id = record.scan_id.as_str(),
        source = record.source.as_str(),
        image = record.image,
        tag = record.tag.as_ref().map(Tag::as_str),
        digest = record.digest.as_ref().map(Digest::as_str),
        index = record.index.as_ref().map(Digest::as_str),
        platform = record.platform.as_ref().map(Platform::as_str),
        verdict,
        reason = record.reason.as_ref().map(RecordReason::as_str),
        detail = record.detail,
        tag_moved = record.tag_moved,
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
