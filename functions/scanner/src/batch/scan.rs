//! An attempt's second step: the scan of one platform. Claim, run, judge.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use scanhook_config::secrets::Reread;
use scanhook_core::failure::{Class, ErrorReason, ScanError};
use scanhook_core::image::Digest;
use scanhook_core::message::QueueMessage;
use scanhook_core::platform::Platform;
use scanhook_core::record::{ClaimKey, ScanRecord};
use scanhook_core::target::Target;
use scanhook_core::time::{after, before, until};
use scanhook_core::tools::ScanInputs;
use scanhook_core::verdict::{Judged, Verdict};
use scanhook_registry::Subject;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::attempt::Attempt;
use super::failure::{Failure, Retry};
use super::prepare::Prepared;
use super::receive::Receive;
use crate::cli::Slot;
use crate::ledger::{Claim, ClaimRequest, tolerate};

/// One platform of a message, and what is known of its scan so far.
pub(super) struct Scan {
    pub(super) record: ScanRecord,
    /// The claim that it holds.
    pub(super) claim: Option<ClaimKey>,
}

/// A platform that needs no further attempt.
pub(super) enum Outcome {
    /// It was scanned.
    Judged(Box<Judged>),
    /// Its content was scanned before, with this verdict.
    Repeated(Verdict),
    /// It is no image, but something of this type.
    NotAnImage(String),
}

/// A secret was replaced: the next attempt is likely to succeed.
const SOON: Duration = Duration::from_secs(5);

impl Scan {
    pub(super) fn new(attempt: &Attempt<'_>, prepared: &Prepared, subject: &Subject) -> Self {
        let (record, moved) = (attempt.record(prepared.at), prepared.resolved.tag_moved);
        let record = match subject {
            Subject::Image(target)
            | Subject::NotAnImage(target, _)
            | Subject::Unscannable(target, ..) => record.resolved(target, moved),
            Subject::Missing(platform) => ScanRecord {
                platform: Some(platform.clone()),
                tag_moved: moved,
                ..record
            },
        };
        Self {
            record,
            claim: None,
        }
    }

    /// What the scan of this platform is in a trace.
    pub(super) fn span(&self) -> Span {
        let ScanRecord {
            image,
            digest,
            platform,
            ..
        } = &self.record;
        tracing::info_span!(
            "image",
            image,
            digest = digest.as_ref().map(Digest::as_str),
            platform = platform.as_ref().map(Platform::as_str),
            verdict = Empty,
            otel.status_description = Empty,
        )
    }
}

impl Outcome {
    /// What the image is.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Judged(judged) => judged.verdict,
            Self::Repeated(verdict) => *verdict,
            Self::NotAnImage(_) => Verdict::NotAnImage,
        }
    }
}

impl Attempt<'_> {
    /// Scans what is to be scanned, unless it is too late at `start`, and says what it is otherwise.
    pub(super) async fn scan(
        &self,
        prepared: &mut Prepared,
        subject: &Subject,
        scan: &mut Scan,
        start: Timestamp,
    ) -> Result<Outcome, Failure> {
        let target = match subject {
            Subject::Image(target) => target,
            Subject::NotAnImage(_, what) => return Ok(Outcome::NotAnImage(what.clone())),
            Subject::Unscannable(_, reason, problem) => {
                return Err(self.failure(*reason, problem.clone()));
            }
            Subject::Missing(platform) => {
                let problem = format!("the index has no image for {platform}");
                return Err(self.failure(ErrorReason::PlatformMissing, problem));
            }
        };
        let (scanner, policies) = (self.scanner, &prepared.policies);
        let now = (scanner.now)();
        let Some(slot) = prepared.slot.as_mut().filter(|_| now < start) else {
            return Err(self.unattempted());
        };
        scan.record.started_at = now;
        let end = after(now, scanner.settings.timeout()).min(self.times.end);
        let key = ClaimKey::new(target, policies);
        let claim = self.claim(scan, key, now, end);
        let claim = claim.instrument(tracing::info_span!("claim"));
        if let Some(verdict) = claim.await? {
            return Ok(Outcome::Repeated(verdict));
        }
        tolerate("record", scanner.ledger.record(&scan.record).await);

        let was_shared = slot.is_space_shared();
        slot.room_for(target.size).map_err(|no_room| ScanError {
            reason: ErrorReason::NoSpace,
            class: no_room.class(),
            detail: no_room.to_string(),
        })?;
        let image = target.image();
        let inputs = ScanInputs {
            policies: policies.clone(),
            login: prepared.resolved.login.clone(),
            certificates: scanner.registries.certificates(&image.registry),
            ..scanner.settings.inputs(image.clone()).await
        };
        let judged = self.run(target, &inputs, slot, until(end, (scanner.now)()));
        match judged.await {
            Ok(judged) => Ok(Outcome::Judged(Box::new(judged))),
            Err(error) => Err(self.may_pass(error, &inputs, slot, was_shared).await),
        }
    }

    /// Claims the content for this scan, and returns the verdict if there is one already. Without a ledger the scan
    /// continues unclaimed.
    async fn claim(
        &self,
        scan: &mut Scan,
        key: ClaimKey,
        now: Timestamp,
        end: Timestamp,
    ) -> Result<Option<Verdict>, Failure> {
        let window = self.scanner.settings.dedup_window();
        let claimed_until = after(end, self.scanner.margin);
        let request = ClaimRequest {
            key: &key,
            holder: &self.message.scan_id,
            now,
            until: claimed_until,
            satisfied_after: satisfied_after(&self.message, &self.receive, window),
        };
        match tolerate("claim", self.scanner.ledger.claim(request).await) {
            Some(Claim::Done(verdict)) => return Ok(Some(verdict)),
            Some(Claim::InProgress(ends)) => {
                let problem = "another worker is scanning this content";
                return Err(Failure {
                    retry: Retry::After(until(ends, now)),
                    ..self.failure(ErrorReason::ClaimedElsewhere, problem)
                });
            }
            Some(Claim::Claimed) => scan.claim = Some(key),
            None => {}
        }
        scan.record.claimed_until = Some(claimed_until);
        Ok(None)
    }

    async fn run(
        &self,
        target: &Target,
        inputs: &ScanInputs,
        slot: &mut Slot,
        limit: Duration,
    ) -> Result<Judged, ScanError> {
        let (cli, scan_id) = (&self.scanner.cli, &self.message.scan_id);
        let run = cli.run(inputs, scan_id, slot, limit);
        let run = run.instrument(tracing::info_span!("cli")).await;
        let run = run.map_err(|err| {
            let detail = format!("could not run the CLI: {err}");
            self.failure(reason_of(&err), detail).error
        })?;
        let judge = || {
            cli.tool
                .judge(&inputs.image, Some(target), run, self.receive.count)
        };
        tracing::info_span!("judge").in_scope(judge)
    }

    /// The failure of a run, which may pass where its reason alone would not: other scans give space back, and a secret that
    /// was refused may have been replaced.
    async fn may_pass(
        &self,
        mut error: ScanError,
        inputs: &ScanInputs,
        slot: &mut Slot,
        was_shared: bool,
    ) -> Failure {
        if error.reason == ErrorReason::Database {
            slot.distrust_database();
        }
        // Another scan may have ended meanwhile, or begun.
        if error.reason == ErrorReason::NoSpace && (was_shared || slot.is_space_shared()) {
            error.class = Class::Transient;
        }
        let mut retry = Retry::Later;
        match self.reread(error.reason, inputs).await {
            Some(Reread::Changed) => {
                error.class = Class::Transient;
                retry = Retry::After(SOON);
            }
            Some(Reread::Failed) => error.class = Class::Transient,
            Some(Reread::Same) | None => {}
        }
        Failure { error, retry }
    }

    /// Reads again the secret that was refused in a run; `None` if none was refused.
    async fn reread(&self, refused: ErrorReason, inputs: &ScanInputs) -> Option<Reread> {
        let (settings, registries) = (&self.scanner.settings, &self.scanner.registries);
        match (refused, &inputs.backend, &inputs.login) {
            (ErrorReason::BadToken, Some(backend), _) => {
                Some(settings.reread_token(&backend.token).await)
            }
            (ErrorReason::Unauthorized, _, Some(login)) => {
                Some(registries.reread_login(&inputs.image.registry, login).await)
            }
            _ => None,
        }
    }
}

/// Since when a scan must have finished for a message to be satisfied by it. One that forces a scan is satisfied by those
/// of its own earlier receives only, so that of several platforms none is scanned again because another one failed.
fn satisfied_after(message: &QueueMessage, receive: &Receive<'_>, window: Duration) -> Timestamp {
    match receive.first_at.filter(|_| receive.count > 1) {
        _ if !message.force => before(message.event.received_at, window),
        Some(first_at) => first_at,
        None => Timestamp::MAX,
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
    use aws_lambda_events::sqs::SqsMessage;

    use super::*;

    fn message(force: bool) -> QueueMessage {
        let json = format!(
            r#"{{"version":1,"scan_id":"01JD","source":"prod","image":{{"registry":"h.io","repository":"a","tag":"1","digest":null}},"event":{{"id":null,"type":"push","actor":null,"occurred_at":null,"received_at":"2026-11-21T20:10:00Z"}},"force":{force}}}"#
        );
        QueueMessage::parse(&json).unwrap()
    }

    #[test]
    fn a_scan_satisfies_what_was_received_before_its_window_ended() {
        let (window, record) = (Duration::from_mins(10), SqsMessage::default());
        let mut receive = Receive::of(&record);
        let satisfied =
            |receive: &Receive<'_>, force| satisfied_after(&message(force), receive, window);
        let finished_at: Timestamp = "2026-11-21T20:00:00Z".parse().unwrap();
        // Received just when the window ended: not satisfied. A moment earlier it would have been.
        assert!(finished_at <= satisfied(&receive, false));
        let later = after(finished_at, Duration::from_nanos(1));
        assert!(later > satisfied(&receive, false));
        assert_eq!(satisfied(&receive, true), Timestamp::MAX);
        receive.count = 2;
        assert_eq!(satisfied(&receive, true), Timestamp::MAX);
        receive.first_at = Some(finished_at);
        assert_eq!(satisfied(&receive, true), finished_at);
    }
}
