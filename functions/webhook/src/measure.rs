//! What is counted of deliveries.
//!
//! **Invariant**: a label's value is a configured source's name or of a closed set, whatever was sent.

use metrics::counter;
use scanhook_core::event::Skip;
use scanhook_core::source::SourceName;
use scanhook_telemetry::metrics::NONE;

use crate::rejection::Rejection;

/// Counts a delivery that was taken: each of its events for itself.
pub(crate) fn accepted(source: &SourceName, queued: usize, skipped: &[Skip]) {
    if queued > 0 {
        let queued = u64::try_from(queued).unwrap_or(u64::MAX);
        received(source.as_str(), "queued", NONE, queued);
        counter!("messages_published", "source" => source.to_string()).increment(queued);
    }
    for skip in skipped {
        received(source.as_str(), "skipped", skip.reason.as_str(), 1);
    }
}

/// Counts a delivery that was not taken, once: what is in it is not known. One to no source has none.
pub(crate) fn refused(source: Option<&SourceName>, rejection: Rejection) {
    let source = source.map_or(NONE, SourceName::as_str);
    received(source, "refused", rejection.as_str(), 1);
}

fn received(source: &str, outcome: &'static str, reason: &'static str, events: u64) {
    let source = source.to_owned();
    counter!("webhook_events_received", "source" => source, "outcome" => outcome, "reason" => reason)
        .increment(events);
}
