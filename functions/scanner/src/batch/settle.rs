//! An attempt's last step: what follows from its outcome, in the ledger, in the queues and in the log.

use std::time::Duration;

use scanhook_core::failure::{Class, ScanError};
use scanhook_core::image::{Digest, Tag};
use scanhook_core::message::QueueMessage;
use scanhook_core::platform::Platform;
use scanhook_core::record::{RecordReason, RecordVerdict, ScanRecord, State};
use tracing::Span;

use super::attempt::Attempt;
use super::failure::Failure;
use super::measure;
use super::receive::Receive;
use super::scan::{Outcome, Scan};
use crate::ledger::tolerate;
use crate::queue::DeadLetter;
use crate::scanner::Scanner;

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is done, here or as a dead letter.
    Deleted,
    /// It is received again.
    Returned,
}

/// A message, or one platform of it, that failed.
pub(super) struct Failed {
    pub(super) record: ScanRecord,
    pub(super) failure: Failure,
}

impl Attempt<'_> {
    /// Acts on the outcome of one platform; what failed is left to [`settle`](Self::settle).
    pub(super) async fn finish(
        &self,
        scan: Scan,
        outcome: Result<Outcome, Failure>,
    ) -> Option<Failed> {
        let ledger = &self.scanner.ledger;
        let now = (self.scanner.now)();
        let Scan { record, claim } = scan;
        let record = match outcome {
            Ok(Outcome::Judged(judged)) => {
                if let Some(key) = &claim {
                    let finished = ledger.finish(key, &record.scan_id, judged.verdict, now);
                    tolerate("finish", finished.await);
                }
                record.judged(&judged, now)
            }
            Ok(Outcome::Repeated(verdict)) => record.repeated(verdict, now),
            Ok(Outcome::NotAnImage(what)) => record.skipped(what, now),
            Err(failure) => {
                if let Some(key) = &claim {
                    let released = ledger.release(key, &record.scan_id, &failure.error);
                    tolerate("release", released.await);
                }
                return Some(Failed { record, failure });
            }
        };
        keep(self.scanner, &record).await;
        None
    }

    /// Decides the outcome of a message by its failures: it is retried as long as one of them may pass, and becomes a dead
    /// letter when none may. A dead letter names a permanent failure first, and among those one that can be fixed.
    pub(super) async fn settle(&self, failed: Vec<Failed>) -> Settled {
        let (scanner, count) = (self.scanner, self.receive.count);
        let now = (scanner.now)();
        let Some(main) = failed.iter().map(|it| &it.failure.error).min_by_key(|it| {
            let is_permanent = it.class == Class::Permanent;
            (!is_permanent, !it.reason.is_fixable())
        }) else {
            return Settled::Deleted;
        };
        Span::current().record("otel.status_description", main.reason.as_str());
        let later = later(scanner, &self.receive);
        let failures = failed.iter().map(|it| &it.failure);
        let hopes = failures.filter(|it| !it.is_final(count, scanner.queue.attempts()));
        let settled = if let Some(delay) = hopes.map(|it| it.delay(later)).max() {
            scanner.queue.hide(self.receive.record, delay).await;
            Settled::Returned
        } else {
            send_to_dlq(scanner, &self.receive, Some(&self.message), main).await
        };
        let state = match settled {
            Settled::Deleted => State::DeadLetter,
            Settled::Returned => State::Retrying,
        };
        for Failed { record, failure } in failed {
            measure::failed(&failure.error);
            keep(scanner, &record.failed(&failure.error, state, now)).await;
        }
        settled
    }
}

/// Settles a record that is no message of ours.
pub(super) async fn unreadable(
    scanner: &Scanner,
    receive: &Receive<'_>,
    error: ScanError,
) -> Settled {
    Span::current().record("otel.status_description", error.reason.as_str());
    let settled = send_to_dlq(scanner, receive, None, &error).await;
    measure::failed(&error);
    tracing::warn!(
        event = "record.unread",
        message_id = receive.record.message_id,
        reason = error.reason.as_str(),
        attempt = receive.count,
        "a record is no message of ours: {}",
        error.detail
    );
    if settled == Settled::Deleted {
        measure::unreadable();
    }
    settled
}

/// The wait of the retry policy.
fn later(scanner: &Scanner, receive: &Receive<'_>) -> Duration {
    scanner
        .settings
        .retry()
        .delay(receive.count, rand::random())
}

/// Makes a record a dead letter; it is retried if the queue refuses that. Attributes that it has from an earlier time as a
/// dead letter are not read; these take their place.
async fn send_to_dlq(
    scanner: &Scanner,
    receive: &Receive<'_>,
    message: Option<&QueueMessage>,
    error: &ScanError,
) -> Settled {
    let body = receive.record.body.as_deref().unwrap_or_default();
    let scan_id = message.map(|it| it.scan_id.to_string());
    let letter = DeadLetter {
        // SQS takes no empty message, and this is no message either.
        body: if body.is_empty() { "null" } else { body },
        group: message.map(|it| it.source.as_str()),
        attributes: [
            ("scanhook.reason", Some(error.reason.as_str().to_owned())),
            ("scanhook.detail", Some(error.detail.clone())),
            ("scanhook.attempts", Some(receive.count.to_string())),
            ("scanhook.scan_id", scan_id),
            ("scanhook.failed_at", Some((scanner.now)().to_string())),
        ],
    };
    match scanner.queue.send_to_dlq(letter).await {
        Ok(()) => Settled::Deleted,
        Err(err) => {
            tracing::error!("a record comes back instead: {err}");
            let later = later(scanner, receive);
            scanner.queue.hide(receive.record, later).await;
            Settled::Returned
        }
    }
}

async fn keep(scanner: &Scanner, record: &ScanRecord) {
    tolerate("record", scanner.ledger.record(record).await);
    log_finished(record);
    measure::ended(&scanner.settings, record);
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
