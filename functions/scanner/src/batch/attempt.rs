//! One attempt at a message: what it is about, and what it is worked on with.

use jiff::Timestamp;
use scanhook_core::failure::ErrorReason;
use scanhook_core::message::QueueMessage;
use scanhook_core::record::ScanRecord;
use scanhook_telemetry::traces;
use tracing::Span;

use super::failure::{Failure, Retry};
use super::receive::Receive;
use crate::scanner::Scanner;

/// By when something must be done.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// The latest instant at which the first scan may start.
    pub(super) start: Timestamp,
    /// The instant at which scans are ended.
    pub(super) end: Timestamp,
}

/// A receive of a message. Its steps: `prepare`, then `scan` for each platform, then `settle`.
pub(super) struct Attempt<'a> {
    pub(super) scanner: &'a Scanner,
    pub(super) receive: Receive<'a>,
    pub(super) message: QueueMessage,
    pub(super) times: Times,
    pub(super) started_at: Timestamp,
}

impl<'a> Attempt<'a> {
    /// Begins an attempt, which each line of the current span then names, and its trace.
    pub(super) fn new(
        scanner: &'a Scanner,
        receive: Receive<'a>,
        message: QueueMessage,
        times: Times,
    ) -> Self {
        let span = Span::current();
        span.record("scan_id", message.scan_id.as_str());
        span.record("source", message.source.as_str());
        span.record("attempt", i64::from(receive.count));
        if let Some(context) = message.traceparent {
            traces::join(&span, context);
        }
        Self {
            scanner,
            receive,
            message,
            times,
            started_at: (scanner.now)(),
        }
    }

    pub(super) fn failure(&self, reason: ErrorReason, detail: impl Into<String>) -> Failure {
        Failure::new(self.receive.count, reason, detail)
    }

    /// The failure of an attempt that there was no time for.
    pub(super) fn unattempted(&self) -> Failure {
        Failure {
            retry: Retry::Unattempted,
            ..self.failure(ErrorReason::Timeout, "there was no time left to start it")
        }
    }

    /// The record of the request, as far as it is known without its registry.
    pub(super) fn record(&self, started_at: Timestamp) -> ScanRecord {
        ScanRecord::begin(&self.message, self.receive.count, started_at)
    }
}
