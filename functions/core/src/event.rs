//! What a parser finds in a delivery, the same for every kind of registry.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use strum::{IntoStaticStr, VariantArray};

use crate::image::{Digest, Registry, Repository, Tag};
use crate::media_type::{self, Shown};

/// Text of a payload that travels on to the queue and to logs: at most 256 characters, none of them a control
/// character or one that SQS refuses (U+FFFE and U+FFFF, which JSON does not escape). A copy shares its text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct FreeText(Arc<str>);

/// At most this many characters of a free text are kept.
const MAX_FREE_TEXT: usize = 256;

impl FreeText {
    /// Keeps what may travel on.
    pub fn new(text: &str) -> Self {
        let is_kept = |it: &char| {
            !it.is_control() && !matches!(it, '\u{fffe}' | '\u{ffff}' | '\u{2028}' | '\u{2029}')
        };
        let kept: String = text.chars().filter(is_kept).take(MAX_FREE_TEXT).collect();
        Self(kept.into())
    }

    /// The cleaned text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for FreeText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl From<String> for FreeText {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

/// What is known of an event besides its image; for logs and people, never for a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventInfo {
    /// The registry's id of the event or delivery.
    pub id: Option<FreeText>,
    /// The registry's word for what happened.
    #[serde(rename = "type")]
    pub event_type: FreeText,
    /// Who pushed.
    pub actor: Option<FreeText>,
    /// When, by the registry's clock.
    pub occurred_at: Option<Timestamp>,
}

impl EventInfo {
    /// Takes what of it may travel on.
    pub fn new(
        event_type: &str,
        id: Option<&str>,
        actor: Option<&str>,
        occurred_at: Option<Timestamp>,
    ) -> Self {
        Self {
            id: id.map(FreeText::new),
            event_type: FreeText::new(event_type),
            actor: actor.map(FreeText::new),
            occurred_at,
        }
    }
}

/// What the payload shows of the content that was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// An image, or nothing shows otherwise.
    Image,
    /// Something that no runtime would run.
    Artifact,
}

impl Content {
    /// Judges by the type of the config and by those of the layers, as far as the payload has them. An absent or empty list
    /// of layers shows nothing: most payloads leave it out.
    pub(crate) fn of_manifest<'a>(
        config: Option<&'a str>,
        layers: impl IntoIterator<Item = Option<&'a str>>,
    ) -> Self {
        let config = config.unwrap_or_default();
        let mut layers = layers.into_iter().map(Option::unwrap_or_default).peekable();
        let is_artifact = if layers.peek().is_some() {
            matches!(media_type::judge(config, layers), Shown::Artifact(_))
        } else {
            media_type::is_artifact_config(config)
        };
        if is_artifact {
            Self::Artifact
        } else {
            Self::Image
        }
    }

    /// Judges by a list that mixes the config with the layers, or holds the children of an index: one type that images have
    /// is enough for an image.
    pub(crate) fn of_references<'a>(types: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let mut types = types.into_iter().map(Option::unwrap_or_default).peekable();
        let is_images = |it: &str| {
            media_type::is_image_config(it)
                || media_type::is_file_system(it)
                || media_type::is_manifest(it)
        };
        if types.peek().is_none() || types.any(is_images) {
            Self::Image
        } else {
            Self::Artifact
        }
    }
}

/// Which registry a payload names. It is only compared, never used: images are pulled from the configured host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedRegistry {
    /// None.
    Unnamed,
    /// A host, in the payload's spelling.
    Host(String),
    /// An account of Amazon ECR in a region, which has several hosts.
    Ecr {
        /// The account.
        account: String,
        /// The region.
        region: String,
    },
}

impl From<Option<&str>> for NamedRegistry {
    fn from(host: Option<&str>) -> Self {
        host.map_or(Self::Unnamed, |it| Self::Host(it.to_owned()))
    }
}

impl fmt::Display for NamedRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unnamed => f.write_str("-"),
            Self::Host(host) => f.write_str(host),
            Self::Ecr { account, region } => write!(f, "account {account} in {region}"),
        }
    }
}

/// Something was pushed to a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushEvent {
    /// The registry, as the payload names it.
    pub registry: NamedRegistry,
    /// Where to.
    pub repository: Repository,
    /// Under which tag, if under one.
    pub tag: Option<Tag>,
    /// Which manifest, if the payload tells.
    pub digest: Option<Digest>,
    /// What it is.
    pub content: Content,
    /// The rest.
    pub info: EventInfo,
}

impl PushEvent {
    /// Whether this is a manifest that was pushed by digest only.
    pub fn is_untagged(&self) -> bool {
        self.tag.is_none()
    }
}

/// Why nothing is queued for an event. A closed set.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum SkipReason {
    /// A test of the connection.
    Ping,
    /// A pull, a deletion, a scan result, anything but a push.
    NotAPush,
    /// A chart, a signature, an attestation, a blob.
    NotAnImage,
    /// Pushed by digest only, and the source does not want those.
    Untagged,
    /// The source's `include` and `exclude` say no.
    FilteredRepository,
    /// The source's `tags` say no.
    FilteredTag,
    /// The payload names another registry than the source's.
    ForeignRegistry,
    /// The same image stands earlier in the delivery.
    RepeatedInDelivery,
    /// One of several events of a delivery names nothing that could be scanned; the others are taken.
    Malformed,
    /// The delivery has more images than the limit, so none of them is queued.
    TooManyImages,
}

impl SkipReason {
    /// Every reason.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The word for it in answers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// An event for which nothing is queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skip {
    /// Why.
    pub reason: SkipReason,
    /// Registry and repository, if the event names one.
    pub image: Option<String>,
    /// The tag, if there is one.
    pub tag: Option<Tag>,
    /// The digest, if there is one.
    pub digest: Option<Digest>,
    /// The host that was expected, if the event names another registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Registry>,
}

impl Skip {
    /// A skip of an event that concerns no image.
    pub fn of_event(reason: SkipReason) -> Self {
        Self {
            reason,
            image: None,
            tag: None,
            digest: None,
            expected: None,
        }
    }
}

/// One event of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something was pushed.
    Push(PushEvent),
    /// Nothing that could be scanned.
    Other(SkipReason),
    /// The sender asks for this code to be repeated, to see that its deliveries are wanted.
    Validation(FreeText),
    /// One of several events, from which no image can be told.
    Malformed(ParsePayloadError),
}

/// An authentic delivery, or one event of it, that is no payload of its source's kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePayloadError {
    /// Not the JSON (or form) this kind sends, or a key is repeated in it.
    #[error("the body is not JSON of the expected shape, at {}", at.as_str())]
    Malformed {
        /// The path of keys to the place; `.` for the whole body.
        at: FreeText,
        /// What is wrong there. It may repeat values of the payload, so no log gets it.
        problem: FreeText,
    },
    /// A field without which no image can be told is missing or invalid.
    #[error("the payload names no valid {what}, looked for at {at}")]
    Missing {
        /// The field.
        what: &'static str,
        /// The path of keys, or the JSON Pointer, at which it should be.
        at: Cow<'static, str>,
    },
}

impl ParsePayloadError {
    /// `what` should be at the path of keys `at`.
    pub(crate) const fn missing(what: &'static str, at: &'static str) -> Self {
        Self::Missing {
            what,
            at: Cow::Borrowed(at),
        }
    }

    pub(crate) fn malformed(at: &str, problem: &str) -> Self {
        Self::Malformed {
            at: FreeText::new(at),
            problem: FreeText::new(problem),
        }
    }
}

/// Reads each event of a delivery on its own. One that names nothing is told beside its siblings, so that it neither
/// costs them nor makes the sender repeat all of them for ever; a delivery of which nothing can be read is an error.
pub(crate) fn each<T>(
    wire: impl IntoIterator<Item = T>,
    event: impl Fn(T) -> Result<Event, ParsePayloadError>,
) -> Result<Vec<Event>, ParsePayloadError> {
    let mut events: Vec<_> = wire
        .into_iter()
        .map(|it| event(it).unwrap_or_else(Event::Malformed))
        .collect();
    let is_readable = |it: &Event| !matches!(it, Event::Malformed(_));
    match events.first() {
        Some(Event::Malformed(_)) if !events.iter().any(is_readable) => {
            let Event::Malformed(first) = events.swap_remove(0) else {
                unreachable!("it was looked at just now")
            };
            Err(first)
        }
        _ => Ok(events),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_text_keeps_no_control_character_and_nothing_that_sqs_refuses() {
        let text = FreeText::new("a\u{0}b\u{1b}[31mc\nd\u{fffe}e\u{ffff}f\u{2028}g\u{85}h");
        assert_eq!(text.as_str(), "ab[31mcdefgh");
        assert_eq!(FreeText::new(&"x".repeat(1_000_000)).as_str().len(), 256);
    }

    #[test]
    fn every_reason_is_written_as_its_word() {
        for &reason in SkipReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
