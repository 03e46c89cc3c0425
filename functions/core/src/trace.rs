//! The trace of a delivery and its scans, in the format of W3C Trace Context.
//!
//! **Invariant**: of a sender's text, only two numbers and a flag are passed on.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// The id of a trace, which a delivery, its messages and their scans share, whoever started it. Not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

/// The id of one span. Not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(u64);

/// A position in a trace, passed from one process to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: TraceId,
    /// The parent of the next spans.
    pub span_id: SpanId,
    /// Whether the collector wants the trace's spans.
    pub is_sampled: bool,
}

impl TraceId {
    /// Returns `None` for zero.
    pub fn new(number: u128) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }
}

impl SpanId {
    /// Returns `None` for zero.
    pub fn new(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(f, "00-{}-{}-{flags:02x}", self.trace_id, self.span_id)
    }
}

impl TraceContext {
    /// Parses a `traceparent`; `None` if it isn't valid. From a later version, only the parts of version 00 are read.
    /// Source: W3C, "Trace Context", sections 3.2 and 4.3.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = TraceId::new(hex(parts.next()?, 32)?)?;
        let span_id = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = hex(parts.next()?, 2)?;
        let has_more = parts.next().is_some();
        if version == 0xff || version == 0 && has_more {
            return None;
        }
        Some(Self {
            trace_id,
            span_id: SpanId::new(span_id)?,
            is_sampled: flags & 1 == 1,
        })
    }
}

/// Parses exactly `length` lower-case digits.
fn hex(text: &str, length: usize) -> Option<u128> {
    let is_hex = text.len() == length
        && text
            .bytes()
            .all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    u128::from_str_radix(text, 16).ok().filter(|_| is_hex)
}

impl Serialize for TraceContext {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads a trace context. An invalid one counts as absent, because a scan is worth more than its trace.
pub(crate) fn lenient<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<TraceContext>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Wire {
        Text(String),
        Other(serde::de::IgnoredAny),
    }
    Ok(match Wire::deserialize(deserializer)? {
        Wire::Text(text) => TraceContext::parse(&text),
        Wire::Other(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_context_is_formatted_as_it_was_parsed() {
        for text in [VALID, &VALID.replace("-01", "-00")] {
            assert_eq!(TraceContext::parse(text).unwrap().to_string(), *text);
        }
        let low = "00-00000000000000000000000000000001-0000000000000002-01";
        assert_eq!(TraceContext::parse(low).unwrap().to_string(), low);
    }

    #[test]
    fn flags_and_parts_of_later_versions_are_not_passed_on() {
        let flags = TraceContext::parse(&VALID.replace("-01", "-ff")).unwrap();
        assert_eq!(flags.to_string(), VALID);
        let later = TraceContext::parse(&VALID.replace("00-", "cc-")).unwrap();
        assert_eq!(later.to_string(), VALID);
        let longer = format!("{}-what-the-future-brings", VALID.replace("00-", "cc-"));
        assert_eq!(
            TraceContext::parse(&longer).unwrap(),
            TraceContext::parse(VALID).unwrap()
        );
    }

    #[test]
    fn an_invalid_context_is_ignored() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-02",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "$(id)",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }
}
