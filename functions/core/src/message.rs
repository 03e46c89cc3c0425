//! What stands in the queue: version 1 of the message between the two functions.
//!
//! **Invariant**: a version is added, never changed. Readers accept unknown fields and refuse unknown versions.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::EventInfo;
use crate::image::Image;
use crate::select::ScanRequest;
use crate::source::SourceName;
use crate::trace::{self, TraceContext};

/// The id of one scan request, as the sender of a delivery was told it: a ULID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ScanId(String);

/// Not an id of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a scan id is 1 to 64 letters, digits or '-'")]
pub struct ParseScanIdError;

impl TryFrom<String> for ScanId {
    type Error = ParseScanIdError;

    fn try_from(text: String) -> Result<Self, ParseScanIdError> {
        let is_good = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|it| it.is_ascii_alphanumeric() || it == b'-');
        if is_good {
            Ok(Self(text))
        } else {
            Err(ParseScanIdError)
        }
    }
}

impl From<ScanId> for String {
    fn from(id: ScanId) -> Self {
        id.0
    }
}

impl ScanId {
    /// The id of runs that no message asked for.
    pub fn doctor() -> Self {
        Self("doctor".to_owned())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ScanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The version this code writes.
pub const VERSION: u32 = 1;

/// A scan request in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueMessage {
    version: u32,
    /// The request's id, which stays the same through retries and redrives.
    pub scan_id: ScanId,
    /// The source whose configuration applies.
    pub source: SourceName,
    /// What to scan.
    pub image: Image,
    /// Why.
    pub event: MessageEvent,
    /// Scan again, whatever the ledger says.
    #[serde(default)]
    pub force: bool,
    /// The W3C trace context of the delivery.
    #[serde(default, deserialize_with = "trace::lenient")]
    pub traceparent: Option<TraceContext>,
}

/// The event behind a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageEvent {
    /// As the registry told it.
    #[serde(flatten)]
    pub info: EventInfo,
    /// When the webhook received the delivery, by our clock.
    pub received_at: Timestamp,
}

/// A body that is no message this code can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseMessageError {
    /// Not JSON, or a field is missing or invalid.
    #[error("the message is malformed")]
    Malformed,
    /// Written by a later version.
    #[error("the message has version {0}, this scanner reads version {VERSION}")]
    UnknownVersion(u32),
}

impl QueueMessage {
    /// Makes the message for a request.
    pub fn new(
        request: ScanRequest,
        scan_id: ScanId,
        received_at: Timestamp,
        traceparent: Option<TraceContext>,
    ) -> Self {
        let ScanRequest {
            source,
            image,
            event: info,
        } = request;
        let event = MessageEvent { info, received_at };
        Self {
            version: VERSION,
            scan_id,
            source,
            image,
            event,
            force: false,
            traceparent,
        }
    }

    /// Reads a message's body.
    pub fn parse(body: &str) -> Result<Self, ParseMessageError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        // Internally tagged enums can't have a number for their tag, so the version is read first, by itself.
        let Versioned { version } =
            serde_json::from_str(body).map_err(|_| ParseMessageError::Malformed)?;
        if version != VERSION {
            return Err(ParseMessageError::UnknownVersion(version));
        }
        serde_json::from_str(body).map_err(|_| ParseMessageError::Malformed)
    }

    /// The message's body.
    pub fn to_json(&self) -> String {
        match serde_json::to_string(self) {
            Ok(json) => json,
            Err(_) => unreachable!("strings, numbers and times always serialise"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = r#"{"version":1,"scan_id":"01JD","source":"prod","image":{"registry":"h.io","repository":"a/b","tag":"1","digest":null},"event":{"id":null,"type":"push","actor":"ci","occurred_at":"2026-11-21T20:00:00Z","received_at":"2026-11-21T20:00:01Z"},"force":false,"traceparent":null}"#;

    #[test]
    fn a_message_is_read_and_written_alike() {
        assert_eq!(QueueMessage::parse(MESSAGE).unwrap().to_json(), MESSAGE);
    }

    #[test]
    fn unknown_fields_are_accepted_and_unknown_versions_refused() {
        let later = MESSAGE.replace("\"force\":false", "\"priority\":7");
        assert!(QueueMessage::parse(&later).is_ok());
        let version_2 = MESSAGE.replace("\"version\":1", "\"version\":2");
        assert_eq!(
            QueueMessage::parse(&version_2),
            Err(ParseMessageError::UnknownVersion(2))
        );
    }

    #[test]
    fn a_trace_is_read_and_what_is_none_is_no_reason_to_refuse_a_message() {
        let trace = "\"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"";
        let traced = MESSAGE.replace("\"traceparent\":null", &format!("\"traceparent\":{trace}"));
        assert_eq!(QueueMessage::parse(&traced).unwrap().to_json(), traced);
        for hostile in ["\"$(id)\"", "7", "[]", "{\"a\":1}", "\"\""] {
            let body = traced.replace(trace, hostile);
            assert_eq!(QueueMessage::parse(&body).unwrap().to_json(), MESSAGE);
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for body in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"version":"1"}"#,
            r#"{"version":1}"#,
        ] {
            assert_eq!(
                QueueMessage::parse(body),
                Err(ParseMessageError::Malformed),
                "{body}"
            );
        }
        for (good, hostile) in [
            ("a/b", "--config=x"),
            ("a/b", "../../x"),
            ("\"1\"", "null"),
            ("h.io", "h.io/x"),
            ("01JD", "../x"),
            ("prod", "a b"),
        ] {
            let body = MESSAGE.replacen(good, hostile, 1);
            assert_eq!(
                QueueMessage::parse(&body),
                Err(ParseMessageError::Malformed),
                "{body}"
            );
        }
    }
}
