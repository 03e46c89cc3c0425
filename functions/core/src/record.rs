//! What is kept of a scan: the claim that keeps content from being scanned twice, and the record that people read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use strum::{AsRefStr, Display, EnumString, IntoStaticStr};

use crate::event::{EventInfo, FreeText};
use crate::failure::{ErrorReason, ScanError};
use crate::image::{Digest, Tag};
use crate::message::{QueueMessage, ScanId};
use crate::platform::Platform;
use crate::report::Findings;
use crate::source::SourceName;
use crate::target::{Choice, Target};
use crate::verdict::{Identity, Judged, Verdict};

/// The key of a claim: content and policies, hashed. Never a message's id, a scan's id or a tag. The platform is in it
/// with the digest, which names the manifest of one platform.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimKey(String);

impl ClaimKey {
    /// The key for scanning this content with these policies.
    pub fn new(target: &Target, policies: &[String]) -> Self {
        let image = target.image();
        let mut policies: Vec<&str> = policies.iter().map(String::as_str).collect();
        policies.sort_unstable();
        policies.dedup();
        let parts = [
            image.registry.normal(),
            image.repository.as_str(),
            target.digest().as_str(),
        ];
        let mut hash = Sha256::new();
        for part in parts.into_iter().chain(policies) {
            // Each part's length goes first, so that no two lists of parts run together.
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        Self(hex::encode(hash.finalize()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How far a scan has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum State {
    /// Being scanned, or its worker died.
    InProgress,
    /// It failed and is tried again.
    Retrying,
    /// It has a verdict.
    Done,
    /// It has none and will have none unless it is redriven.
    DeadLetter,
}

impl State {
    /// The word in records.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What came of a scan, in the word that people and scripts read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, AsRefStr, Display, EnumString)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum RecordVerdict {
    Passed,
    Failed,
    /// There was nothing to scan.
    Skipped,
    /// There is no verdict.
    Error,
    /// A word of a newer version, which must not make its record unreadable.
    #[serde(untagged)]
    #[strum(default, transparent)]
    Other(String),
}

impl RecordVerdict {
    /// The word.
    pub fn as_str(&self) -> &str {
        self.as_ref()
    }
}

impl From<Verdict> for RecordVerdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Passed | Verdict::PassedWithoutPolicy => Self::Passed,
            Verdict::Failed => Self::Failed,
            Verdict::NotAnImage => Self::Skipped,
        }
    }
}

/// What qualifies a verdict, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, AsRefStr, Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum RecordReason {
    NoPolicy,
    NotAnImage,
    /// An earlier scan of the same content satisfied the request.
    Repeated,
    #[serde(untagged)]
    #[strum(transparent)]
    Error(ErrorReason),
    /// A word of a newer version.
    #[serde(untagged)]
    #[strum(transparent)]
    Other(String),
}

impl RecordReason {
    /// What qualifies a verdict, if anything does.
    fn of(verdict: Verdict) -> Option<Self> {
        match verdict {
            Verdict::PassedWithoutPolicy => Some(Self::NoPolicy),
            Verdict::NotAnImage => Some(Self::NotAnImage),
            Verdict::Passed | Verdict::Failed => None,
        }
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        self.as_ref()
    }
}

/// The history of one scan request and platform, as it stands after its latest attempt. Its JSON is what scripts read.
///
/// Until the registry has said what there is to scan, a request has one record without a platform; a record with one
/// takes its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScanRecord {
    /// The request.
    pub scan_id: ScanId,
    /// Who told of it.
    pub source: SourceName,
    /// Registry and repository.
    pub image: String,
    /// The tag, if there was one.
    pub tag: Option<Tag>,
    /// The digest of the manifest that was scanned; before that the event's, if it told one.
    pub digest: Option<Digest>,
    /// The platform, if one was chosen from an index.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// The digest of that index.
    #[serde(default)]
    pub index: Option<Digest>,
    /// How it was chosen from that index.
    #[serde(default)]
    pub choice: Option<Choice>,
    /// Whether the tag names something else by now than what the event told; null if that was not to be learned.
    #[serde(default)]
    pub tag_moved: Option<bool>,
    /// How far it has come.
    pub state: State,
    /// Null while there is none.
    pub verdict: Option<RecordVerdict>,
    /// The reason of the error, or what qualifies the verdict.
    pub reason: Option<RecordReason>,
    /// What an operator reads of the last error; without secrets.
    pub detail: Option<String>,
    /// What was found; null without a report.
    #[serde(flatten)]
    pub findings: Option<Findings>,
    /// The names of the policies that were evaluated; none without a report.
    #[serde(default)]
    pub policies_evaluated: Vec<String>,
    /// The names of the policies that failed.
    pub policies_failed: Vec<String>,
    /// How sure the report is this image's.
    pub identity: Option<Identity>,
    /// Where people look at the result.
    pub result_url: Option<String>,
    /// The version of the CLI.
    pub cli_version: Option<String>,
    /// How often it was tried, this time included.
    pub attempts: u32,
    /// Who pushed.
    pub actor: Option<FreeText>,
    /// The event as the registry reported it; null in records of earlier versions.
    #[serde(default)]
    pub event: Option<EventInfo>,
    /// When the webhook took the delivery.
    pub received_at: Timestamp,
    /// When the latest attempt began.
    pub started_at: Timestamp,
    /// While it is in progress: when its claim ends by itself. Later than that, its worker is gone.
    #[serde(default)]
    pub claimed_until: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl ScanRecord {
    /// The record of an attempt that begins.
    pub fn begin(message: &QueueMessage, attempt: u32, now: Timestamp) -> Self {
        Self {
            scan_id: message.scan_id.clone(),
            source: message.source.clone(),
            image: message.image.name(),
            tag: message.image.pin.tag().cloned(),
            digest: message.image.pin.digest().cloned(),
            platform: None,
            index: None,
            choice: None,
            tag_moved: None,
            state: State::InProgress,
            verdict: None,
            reason: None,
            detail: None,
            findings: None,
            policies_evaluated: Vec::new(),
            policies_failed: Vec::new(),
            identity: None,
            result_url: None,
            cli_version: None,
            attempts: attempt,
            actor: message.event.info.actor.clone(),
            event: Some(message.event.info.clone()),
            received_at: message.event.received_at,
            started_at: now,
            claimed_until: None,
            finished_at: None,
        }
    }

    /// The same with what is to be scanned.
    #[must_use]
    pub fn resolved(self, target: &Target, tag_moved: Option<bool>) -> Self {
        Self {
            digest: Some(target.digest().clone()),
            platform: target.platform.clone(),
            index: target.index.clone(),
            choice: target.choice.clone(),
            tag_moved,
            ..self
        }
    }

    /// The same without a scan: it is nothing that can be scanned. `detail` tells what it is.
    #[must_use]
    pub fn skipped(self, detail: String, now: Timestamp) -> Self {
        Self {
            state: State::Done,
            verdict: Some(RecordVerdict::Skipped),
            reason: Some(RecordReason::NotAnImage),
            detail: Some(detail),
            claimed_until: None,
            finished_at: Some(now),
            ..self
        }
    }

    /// The same with its verdict.
    #[must_use]
    pub fn judged(self, judged: &Judged, now: Timestamp) -> Self {
        let Judged {
            verdict,
            identity,
            report,
        } = judged;
        Self {
            state: State::Done,
            verdict: Some((*verdict).into()),
            reason: RecordReason::of(*verdict),
            detail: None,
            findings: Some(report.findings),
            policies_evaluated: report.policies_evaluated.clone(),
            policies_failed: report.policies_failed.clone(),
            identity: Some(*identity),
            result_url: report.result_url.clone(),
            cli_version: report.cli_version.clone(),
            claimed_until: None,
            finished_at: Some(now),
            ..self
        }
    }

    /// The same with the verdict that an earlier scan of the same content reached.
    #[must_use]
    pub fn repeated(self, verdict: Verdict, now: Timestamp) -> Self {
        Self {
            state: State::Done,
            verdict: Some(verdict.into()),
            reason: Some(RecordReason::Repeated),
            claimed_until: None,
            finished_at: Some(now),
            ..self
        }
    }

    /// The same with its error; `state` says whether it is tried again.
    #[must_use]
    pub fn failed(self, error: &ScanError, state: State, now: Timestamp) -> Self {
        Self {
            state,
            verdict: Some(RecordVerdict::Error),
            reason: Some(RecordReason::Error(error.reason)),
            detail: Some(error.detail.clone()),
            claimed_until: None,
            finished_at: Some(now),
            ..self
        }
    }

    /// Its place among the records of its request: the platform, with the digest where the index has several candidates for
    /// it; empty while there is no platform.
    pub fn place(&self) -> String {
        let platform = self.platform.as_ref().map_or("", Platform::as_str);
        let is_one_of_several = self.choice.as_ref().is_some_and(|it| it.candidates > 1);
        match self.digest.as_ref().filter(|_| is_one_of_several) {
            Some(digest) => format!("{platform}#{digest}"),
            None => platform.to_owned(),
        }
    }

    /// Whether its worker is gone: the claim has ended, and nobody wrote down how the attempt ended.
    pub fn is_abandoned(&self, now: Timestamp) -> bool {
        self.state == State::InProgress && self.claimed_until.is_some_and(|it| it <= now)
    }

    /// Whether it tells another request's scan: there is a verdict, but no report.
    pub fn is_repeated(&self) -> bool {
        self.reason == Some(RecordReason::Repeated)
    }

    /// The image as it is written: `registry/repository:tag@digest`, with what is known of it.
    pub fn reference(&self) -> String {
        let mut reference = self.image.clone();
        for (mark, part) in [
            (":", self.tag.as_ref().map(Tag::as_str)),
            ("@", self.digest.as_ref().map(Digest::as_str)),
        ] {
            if let Some(part) = part {
                reference.push_str(mark);
                reference.push_str(part);
            }
        }
        reference
    }

    /// How long the attempt took, in milliseconds.
    pub fn duration_ms(&self) -> Option<i64> {
        self.finished_at
            .map(|it| it.as_millisecond() - self.started_at.as_millisecond())
    }

    /// How long the request waited for this attempt, in milliseconds.
    pub fn queue_age_ms(&self) -> i64 {
        self.started_at.as_millisecond() - self.received_at.as_millisecond()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn key(image: &str, policies: &[&str]) -> ClaimKey {
        let policies: Vec<_> = policies.iter().map(|it| (*it).to_owned()).collect();
        let image = Image::parse(image).unwrap();
        let target = Target::new(&image, image.pin.digest().unwrap().clone());
        ClaimKey::new(&target, &policies)
    }

    #[test]
    fn a_record_of_an_earlier_version_is_read() {
        let earlier = r#"{"scan_id":"01JD","source":"prod","image":"h.io/a","tag":"1","digest":null,"state":"done","verdict":"passed",
            "reason":null,"detail":null,"policies_failed":[],"identity":null,"result_url":null,"cli_version":null,"attempts":1,
            "actor":null,"received_at":"2026-11-21T20:00:00Z","started_at":"2026-11-21T20:00:01Z","finished_at":null}"#;
        let record: ScanRecord = serde_json::from_str(earlier).unwrap();
        assert_eq!((record.event, record.policies_evaluated.len()), (None, 0));
        assert_eq!(record.verdict, Some(RecordVerdict::Passed));
    }

    #[test]
    fn each_word_of_a_record_is_read_and_written_alike_also_one_of_a_newer_version() {
        for word in ["passed", "failed", "skipped", "error", "postponed"] {
            let verdict: RecordVerdict = serde_json::from_value(word.into()).unwrap();
            let is_known = !matches!(verdict, RecordVerdict::Other(_));
            assert_eq!((verdict.as_str(), is_known), (word, word != "postponed"));
            assert_eq!(serde_json::to_value(&verdict).unwrap(), word);
        }
        let errors = ErrorReason::ALL.iter().map(|it| it.as_str());
        let others = ["no_policy", "not_an_image", "repeated", "strange"];
        for word in errors.chain(others) {
            let reason: RecordReason = serde_json::from_value(word.into()).unwrap();
            let is_known = !matches!(reason, RecordReason::Other(_));
            assert_eq!((reason.as_str(), is_known), (word, word != "strange"));
            assert_eq!(serde_json::to_value(&reason).unwrap(), word);
        }
    }

    #[test]
    fn the_key_is_the_content_and_the_policies_and_nothing_else() {
        let digest = format!("h.io/a@sha256:{HEX}");
        let tagged = format!("h.io/a:1@sha256:{HEX}");
        assert_eq!(key(&digest, &["a", "b"]), key(&tagged, &["b", "a", "a"]));
        let others = [
            key(&tagged.replace("h.io", "g.io"), &["a", "b"]),
            key(&tagged.replace("/a", "/b"), &["a", "b"]),
            key(&tagged.replace("abc", "fff"), &["a", "b"]),
            key(&tagged, &["ab"]),
            key(&tagged, &[]),
        ];
        for other in others {
            assert_ne!(other, key(&digest, &["a", "b"]));
        }
    }
}
