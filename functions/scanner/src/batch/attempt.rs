//! One receive of one record, up to what there is to scan: parse, resolve, find room.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use aws_lambda_events::sqs::SqsMessage;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use scanhook_core::failure::{Class, ErrorReason, ScanError};
use scanhook_core::message::QueueMessage;
use scanhook_core::record::ScanRecord;
use scanhook_core::redact::{self, Redactor};
use scanhook_telemetry::traces;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::{Instrument as _, Span};

use scanhook_core::time::until;

use super::{Scanner, Times};
use crate::cli::Slot;
use scanhook_registry::{ResolveError, Resolved, Subject};

/// One receive of one record.
pub(super) struct Attempt<'a> {
    pub(super) record: &'a SqsMessage,
    pub(super) receive_count: u32,
    /// When the record was received for the first time.
    pub(super) first_received_at: Option<Timestamp>,
    pub(super) started_at: Timestamp,
    /// `None` while its body is not read, or if it is none of ours.
    pub(super) message: Option<QueueMessage>,
}

/// What is to be done for a message, with all that is needed for it.
pub(super) struct Prepared {
    pub(super) message: QueueMessage,
    pub(super) policies: Vec<String>,
    pub(super) resolved: Resolved,
    /// None if there is nothing to run the CLI for.
    pub(super) slot: Option<Slot>,
    /// Held while the registry is pulled from.
    _pull: Option<OwnedSemaphorePermit>,
}

/// A record, or one platform of it, without a verdict.
pub(super) struct Failure {
    pub(super) error: ScanError,
    pub(super) comes_back: ComesBack,
}

impl Failure {
    /// On a receive of that count.
    fn new(receive_count: u32, reason: ErrorReason, detail: impl Into<String>) -> Self {
        Self {
            error: ScanError {
                reason,
                class: reason.class(receive_count),
                detail: detail.into(),
            },
            comes_back: ComesBack::Later,
        }
    }

    /// The same with a detail that may be kept and shown, whatever error it was made of: short, and without what looks like
    /// a secret. Secrets that are known were struck out where they were known.
    pub(super) fn presentable(mut self) -> Self {
        self.error.detail = redact::shown(&Redactor::new([]).clean(&self.error.detail));
        self
    }

    /// Whether a record is given up that has no other failure, on this receive.
    pub(super) fn is_final(&self, receive_count: u32, attempts: u32) -> bool {
        let last_receive = match self.comes_back {
            ComesBack::Unattempted => u32::MAX,
            _ => self.error.reason.last_receive(),
        };
        self.error.class == Class::Permanent || receive_count >= last_receive.min(attempts)
    }
}

/// When a record without a verdict is received again, if it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum ComesBack {
    /// After the wait of the retry policy.
    Later,
    /// After that wait, but not before this long.
    NotBefore(Duration),
    /// After that long.
    After(Duration),
    /// At once, and not because an attempt failed: none was made.
    Unattempted,
}

/// The longest time for all questions to a registry about one image.
const RESOLVE: Duration = Duration::from_mins(1);

impl<'a> Attempt<'a> {
    pub(super) fn new(record: &'a SqsMessage, now: Timestamp) -> Self {
        let attribute = |name: &str| record.attributes.get(name);
        let receive_count = attribute("ApproximateReceiveCount");
        let first_received_at = attribute("ApproximateFirstReceiveTimestamp")
            .and_then(|it| it.parse().ok())
            .and_then(|it| Timestamp::from_millisecond(it).ok());
        Self {
            record,
            receive_count: receive_count.and_then(|it| it.parse().ok()).unwrap_or(1),
            first_received_at,
            started_at: now,
            message: None,
        }
    }

    pub(super) fn failure(&self, reason: ErrorReason, detail: impl Into<String>) -> Failure {
        Failure::new(self.receive_count, reason, detail)
    }

    /// The failure of an attempt that there was no time for.
    pub(super) fn unattempted(&self) -> Failure {
        Failure {
            comes_back: ComesBack::Unattempted,
            ..self.failure(ErrorReason::Timeout, "there was no time left to start it")
        }
    }

    /// Says in each line of this attempt, and in its trace, what it is about.
    fn tell(&self, span: &Span) {
        let Some(message) = &self.message else {
            return;
        };
        span.record("scan_id", message.scan_id.as_str());
        span.record("source", message.source.as_str());
        span.record("attempt", self.receive_count);
        if let Some(context) = message.traceparent {
            traces::join(span, context);
        }
    }

    /// The record of a request as far as it is known without its registry.
    pub(super) fn begun(&self) -> Option<ScanRecord> {
        let message = self.message.as_ref()?;
        Some(ScanRecord::begin(
            message,
            self.receive_count,
            self.started_at,
        ))
    }
}

/// Works until `end` at most. A panic or a hang becomes an error: of this record, or of this platform of it.
pub(super) async fn caught<T>(
    scanner: &Scanner,
    (receive_count, end): (u32, Timestamp),
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    // What is run is ended by its own limit; this is the net below it.
    let limit = until(end, (scanner.now)()) + scanner.margin / 2;
    let (reason, detail) = match timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(outcome)) => return outcome,
        Ok(Err(_)) => (ErrorReason::Internal, "the scanner panicked"),
        Err(_) => (ErrorReason::Timeout, "the scanner ran out of time"),
    };
    Err(Failure::new(receive_count, reason, detail))
}

/// Reads a record's message, asks its registry what there is to scan, and takes a slot for it.
pub(super) async fn prepare(
    scanner: &Scanner,
    attempt: &mut Attempt<'_>,
    times: Times,
) -> Result<Prepared, Failure> {
    let body = attempt.record.body.as_deref().unwrap_or_default();
    let message = QueueMessage::parse(body)
        .map_err(|err| attempt.failure(ErrorReason::BadMessage, err.to_string()))?;
    attempt.message = Some(message.clone());
    attempt.tell(&Span::current());
    let policies = scanner.settings.policies(&message.source).ok_or_else(|| {
        let detail = format!("no source {} is configured", message.source);
        attempt.failure(ErrorReason::UnknownSource, detail)
    })?;
    check_registry(scanner, &message)
        .map_err(|detail| attempt.failure(ErrorReason::BadMessage, detail))?;
    #[cfg(feature = "faults")]
    assert!(
        !message.image.repository.as_str().ends_with("/panic"),
        "asked for by the image's name"
    );
    let pull = scanner.registries.pull(&message.image.registry);
    let pull = timeout(until(times.start, (scanner.now)()), pull).await;
    let pull = pull.map_err(|_| attempt.unattempted())?;
    let resolved = resolve(scanner, attempt, &message, times);
    let resolved = resolved.instrument(tracing::info_span!("resolve")).await?;
    let is_image = |it: &Subject| matches!(it, Subject::Image(_));
    let slot = if resolved.subjects.iter().any(is_image) {
        let remaining = until(times.start, (scanner.now)());
        let slot = if remaining.is_zero() {
            None
        } else {
            timeout(remaining, scanner.slots.lease()).await.ok()
        };
        Some(slot.ok_or_else(|| attempt.unattempted())?)
    } else {
        None
    };
    attempt.started_at = (scanner.now)();
    Ok(Prepared {
        message,
        policies,
        resolved,
        slot,
        _pull: pull,
    })
}

/// Checks that a message names its source's registry, so that whoever can only write to the queue can't choose the host that
/// gets credentials.
fn check_registry(scanner: &Scanner, message: &QueueMessage) -> Result<(), String> {
    let (named, source) = (
        &message.image.registry,
        scanner.settings.source(&message.source),
    );
    match source {
        Some(source) if !source.owns_host(named) => Err(format!(
            "the message names {named}, but source {} pulls from {}: an old name that is listed in the source's `hosts` lets \
             such messages through",
            source.name, source.registry
        )),
        _ => Ok(()),
    }
}

/// Asks the registry what there is to scan. What could not be read is not given to the CLI.
async fn resolve(
    scanner: &Scanner,
    attempt: &Attempt<'_>,
    message: &QueueMessage,
    times: Times,
) -> Result<Resolved, Failure> {
    let limit = until(times.end, (scanner.now)()).min(RESOLVE);
    if limit.is_zero() {
        return Err(attempt.unattempted());
    }
    let (registries, settings) = (&scanner.registries, &scanner.settings);
    let wanted = settings.platforms(&message.source);
    let resolve = registries.resolve(&message.image, wanted, settings.max_image());
    let resolved = timeout(limit, Box::pin(resolve)).await.unwrap_or_else(|_| {
        Err(ResolveError {
            reason: ErrorReason::Network,
            detail: "the registry did not answer in time".to_owned(),
            pause: None,
            is_unconfirmed: false,
        })
    });
    resolved.map_err(|err| {
        let mut failure = attempt.failure(err.reason, err.detail);
        failure.comes_back = err.pause.map_or(ComesBack::Later, ComesBack::NotBefore);
        if err.is_unconfirmed {
            failure.error.class = Class::Transient;
        }
        failure
    })
}
