//! The scan of one platform of one message: claim, plan, run, judge.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use scanhook_config::secrets::Reread;
use scanhook_core::failure::{Class, ErrorReason, ScanError};
use scanhook_core::image::Digest;
use scanhook_core::message::QueueMessage;
use scanhook_core::plan::ScanPlan;
use scanhook_core::platform::Platform;
use scanhook_core::record::{ClaimKey, ScanRecord};
use scanhook_core::target::Target;
use scanhook_core::verdict::{CliRun, Judged, Verdict, judge};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::attempt::{Attempt, ComesBack, Failure, Prepared};
use super::{Scanner, Times, after, before, until};
use crate::ledger::{Claim, ClaimRequest, tolerate};
use scanhook_registry::Subject;

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
        let (message, moved) = (&prepared.message, prepared.resolved.tag_moved);
        let record = ScanRecord::begin(message, attempt.receive_count, attempt.started_at);
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

/// Scans what is to be scanned, and says what it is otherwise.
pub(super) async fn scan(
    scanner: &Scanner,
    attempt: &Attempt<'_>,
    prepared: &mut Prepared,
    subject: &Subject,
    scan: &mut Scan,
    times: Times,
) -> Result<Outcome, Failure> {
    let target = match subject {
        Subject::Image(target) => target,
        Subject::NotAnImage(_, what) => return Ok(Outcome::NotAnImage(what.clone())),
        Subject::Unscannable(_, reason, problem) => {
            return Err(attempt.failure(*reason, problem.clone()));
        }
        Subject::Missing(platform) => {
            let problem = format!("the index has no image for {platform}");
            return Err(attempt.failure(ErrorReason::PlatformMissing, problem));
        }
    };
    let now = (scanner.now)();
    let Some(slot) = prepared.slot.as_mut().filter(|_| now < times.start) else {
        return Err(attempt.unattempted());
    };
    scan.record.started_at = now;
    let end = after(now, scanner.settings.timeout()).min(times.end);
    let message = &prepared.message;
    let request = ClaimRequest {
        key: &ClaimKey::new(target, &prepared.policies),
        holder: &message.scan_id,
        now,
        until: after(end, scanner.margin),
        satisfied_after: satisfied_after(message, attempt, scanner.settings.dedup_window()),
    };
    let claimed = claim(scanner, attempt, scan, request);
    let claimed = claimed.instrument(tracing::info_span!("claim"));
    if let Some(verdict) = claimed.await? {
        return Ok(Outcome::Repeated(verdict));
    }
    scan.record.claimed_until = Some(request.until);
    tolerate("record", scanner.ledger.record(&scan.record).await);

    let was_shared = slot.is_space_shared();
    slot.room_for(target.size).map_err(|no_room| Failure {
        error: ScanError {
            reason: ErrorReason::NoSpace,
            class: no_room.class(),
            detail: no_room.to_string(),
        },
        comes_back: ComesBack::Later,
    })?;
    let login = prepared.resolved.login.clone();
    let plan = scanner
        .settings
        .plan(target, prepared.policies.clone(), login);
    let plan = ScanPlan {
        certificates: scanner.registries.certificates(&target.image().registry),
        ..plan.await
    };
    let limit = until(end, (scanner.now)());
    let run = scanner.cli.run(&plan, &message.scan_id, slot, limit);
    let run = run.instrument(tracing::info_span!("cli")).await;
    let judged = match run {
        Ok(run) => {
            let run = CliRun {
                exit: run.exit,
                report: run.report,
                stderr: &run.printed,
            };
            tracing::info_span!("judge").in_scope(|| judge(target, run, attempt.receive_count))
        }
        Err(err) => {
            let detail = format!("could not run the CLI: {err}");
            Err(attempt.failure(reason_of(&err), detail).error)
        }
    };
    match judged {
        Ok(judged) => Ok(Outcome::Judged(Box::new(judged))),
        Err(mut error) => {
            if error.reason == ErrorReason::Database {
                slot.distrust_database();
            }
            // Another scan may have ended meanwhile, or begun.
            if error.reason == ErrorReason::NoSpace && (was_shared || slot.is_space_shared()) {
                error.class = Class::Transient;
            }
            let mut comes_back = ComesBack::Later;
            match scanner.reread(error.reason, target, &plan).await {
                Some(Reread::Changed) => {
                    error.class = Class::Transient;
                    comes_back = ComesBack::After(SOON);
                }
                Some(Reread::Failed) => error.class = Class::Transient,
                Some(Reread::Same) | None => {}
            }
            Err(Failure { error, comes_back })
        }
    }
}

/// Claims the content for this scan; tells the verdict if there is one already. Without a ledger the scan goes on unclaimed.
async fn claim(
    scanner: &Scanner,
    attempt: &Attempt<'_>,
    scan: &mut Scan,
    request: ClaimRequest<'_>,
) -> Result<Option<Verdict>, Failure> {
    match tolerate("claim", scanner.ledger.claim(request).await) {
        Some(Claim::Claimed) => {
            scan.claim = Some(request.key.clone());
            Ok(None)
        }
        Some(Claim::Done(verdict)) => Ok(Some(verdict)),
        Some(Claim::InProgress(ends)) => {
            let failure = attempt.failure(
                ErrorReason::ClaimedElsewhere,
                "another worker is scanning this content",
            );
            Err(Failure {
                comes_back: ComesBack::After(until(ends, request.now)),
                ..failure
            })
        }
        None => Ok(None),
    }
}

/// Since when a scan must have finished for a message to be satisfied by it. One that forces a scan is satisfied by those
/// of its own earlier receives only, so that of several platforms none is scanned again because another one failed.
fn satisfied_after(message: &QueueMessage, attempt: &Attempt<'_>, window: Duration) -> Timestamp {
    match attempt
        .first_received_at
        .filter(|_| attempt.receive_count > 1)
    {
        _ if !message.force => before(message.event.received_at, window),
        Some(first_received_at) => first_received_at,
        None => Timestamp::MAX,
    }
}

impl Scanner {
    /// Reads again the secret that was refused in a run of `plan`; `None` if none was refused.
    async fn reread(
        &self,
        refused: ErrorReason,
        target: &Target,
        plan: &ScanPlan,
    ) -> Option<Reread> {
        match (refused, &plan.login) {
            (ErrorReason::BadToken, _) => Some(self.settings.reread_token(&plan.api_token).await),
            (ErrorReason::Unauthorized, Some(login)) => {
                let registry = &target.image().registry;
                Some(self.registries.reread_login(registry, login).await)
            }
            _ => None,
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
        let mut attempt = Attempt::new(&record, Timestamp::UNIX_EPOCH);
        let satisfied =
            |attempt: &Attempt<'_>, force| satisfied_after(&message(force), attempt, window);
        let finished_at: Timestamp = "2026-11-21T20:00:00Z".parse().unwrap();
        // Received just when the window ended: not satisfied. A moment earlier it would have been.
        assert!(finished_at <= satisfied(&attempt, false));
        let later = after(finished_at, Duration::from_nanos(1));
        assert!(later > satisfied(&attempt, false));
        assert_eq!(satisfied(&attempt, true), Timestamp::MAX);
        attempt.receive_count = 2;
        assert_eq!(satisfied(&attempt, true), Timestamp::MAX);
        attempt.first_received_at = Some(finished_at);
        assert_eq!(satisfied(&attempt, true), finished_at);
    }
}
