//! Why a record, or one platform of it, has no verdict, and when it is retried.

use std::time::Duration;

use scanhook_core::failure::{Class, ErrorReason, ScanError};
use scanhook_core::redact::{self, Redactor};

/// A record, or one platform of it, without a verdict.
pub(super) struct Failure {
    pub(super) error: ScanError,
    pub(super) retry: Retry,
}

/// When a record without a verdict is received again, if it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Retry {
    /// After the wait of the retry policy.
    Later,
    /// After that wait, but not before this long.
    NotBefore(Duration),
    /// After that long.
    After(Duration),
    /// At once, and not because an attempt failed: none was made.
    Unattempted,
}

impl Failure {
    /// On a receive of that count.
    pub(super) fn new(count: u32, reason: ErrorReason, detail: impl Into<String>) -> Self {
        let error = ScanError {
            reason,
            class: reason.class(count),
            detail: detail.into(),
        };
        error.into()
    }

    /// The same with a detail that may be kept and shown, whatever error it was made of: short, and without what looks like
    /// a secret. Secrets that are known were removed where they were known.
    pub(super) fn presentable(mut self) -> Self {
        self.error.detail = redact::shown(&Redactor::new([]).clean(&self.error.detail));
        self
    }

    /// Whether a record that has no other failure is given up on this receive.
    pub(super) fn is_final(&self, count: u32, attempts: u32) -> bool {
        let last_receive = match self.retry {
            Retry::Unattempted => u32::MAX,
            _ => self.error.reason.last_receive(),
        };
        self.error.class == Class::Permanent || count >= last_receive.min(attempts)
    }

    /// How long the record stays hidden; `later` is the wait of the retry policy.
    pub(super) fn delay(&self, later: Duration) -> Duration {
        match self.retry {
            Retry::Later => later,
            Retry::NotBefore(pause) => later.max(pause),
            Retry::After(delay) => delay,
            Retry::Unattempted => Duration::ZERO,
        }
    }
}

impl From<ScanError> for Failure {
    fn from(error: ScanError) -> Self {
        Self {
            error,
            retry: Retry::Later,
        }
    }
}
