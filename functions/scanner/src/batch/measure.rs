//! What is counted and measured of scans.
//!
//! **Invariant**: a label's value is a configured source's name or of a closed set, whatever a message says.

use metrics::{counter, histogram};
use scanhook_core::failure::ScanError;
use scanhook_core::record::{RecordReason, RecordVerdict, ScanRecord, State};
use scanhook_core::verdict::Identity;
use scanhook_telemetry::metrics::NONE;

use crate::config::ScannerSettings;

/// Counts an attempt that has ended, and the scan if that has ended with it.
pub(super) fn ended(settings: &ScannerSettings, record: &ScanRecord) {
    let is_repeated = record.is_repeated();
    let verdict = match (record.state, &record.verdict) {
        (State::InProgress | State::Retrying, _) | (_, None) => None,
        (State::Done, _) if is_repeated => Some("repeated"),
        (State::Done, Some(RecordVerdict::Passed)) => Some("passed"),
        (State::Done, Some(RecordVerdict::Failed)) => Some("failed"),
        (State::Done, Some(RecordVerdict::Skipped)) => Some("skipped"),
        (State::Done | State::DeadLetter, _) => Some("error"),
    };
    let is_configured = settings.policies(&record.source).is_some();
    let source = if is_configured {
        record.source.as_str()
    } else {
        NONE
    };
    if let Some(verdict) = verdict {
        counter!("messages_processed", "source" => source.to_owned(), "verdict" => verdict)
            .increment(1);
    }
    if record.reason == Some(RecordReason::NoPolicy) {
        counter!("scans_without_policy", "source" => source.to_owned()).increment(1);
    }
    if record.identity == Some(Identity::Unconfirmed) {
        counter!("identity_unconfirmed").increment(1);
    }
    if let Some(duration) = record.duration_ms().filter(|_| !is_repeated) {
        histogram!("processing_duration_seconds").record(seconds(duration));
    }
    if let (State::Done, Some(finished_at)) = (record.state, record.finished_at) {
        let age = finished_at.as_millisecond() - record.received_at.as_millisecond();
        histogram!("event_age_seconds").record(seconds(age));
    }
}

/// Counts why an attempt failed.
pub(super) fn failed(error: &ScanError) {
    let (reason, class) = (error.reason.as_str(), error.class.as_str());
    counter!("scan_errors", "reason" => reason, "class" => class).increment(1);
}

/// Counts a dead letter that is no message of ours.
pub(super) fn unreadable() {
    counter!("messages_processed", "source" => NONE, "verdict" => "error").increment(1);
}

/// A clock that was set back makes no negative duration.
#[expect(clippy::cast_precision_loss, reason = "exact up to 285,000 years")]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds.max(0) as f64 / 1000.0
}
