//! Validates messages before they are stored, by SQS's rules.
//!
//! **Invariant**: a [`NewMessage`] obeys every rule that doesn't depend on its queue.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize};

use super::error::{Code, Error};

const MOST_ATTRIBUTES: usize = 10;
const LONGEST_NAME: usize = 256;
const LONGEST_GROUP_ID: usize = 128;

/// A `SendMessage` request's message. An entry of a batch has an id besides.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WireMessage {
    message_body: Option<String>,
    delay_seconds: Option<i64>,
    #[serde(default, deserialize_with = "null_as_default")]
    message_attributes: BTreeMap<String, AttributeValue>,
    #[serde(default, deserialize_with = "null_as_default")]
    message_system_attributes: BTreeMap<String, AttributeValue>,
    message_group_id: Option<String>,
    message_deduplication_id: Option<String>,
}

/// The value of a message attribute, in the form that is sent, stored and received.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AttributeValue {
    #[serde(default, deserialize_with = "null_as_default")]
    pub(crate) data_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) string_value: Option<String>,
    /// In base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) binary_value: Option<String>,
}

/// A message that passed the checks.
#[derive(Debug)]
pub(crate) struct NewMessage {
    pub(crate) body: String,
    pub(crate) attributes: BTreeMap<String, AttributeValue>,
    pub(crate) system_attributes: BTreeMap<String, AttributeValue>,
    pub(crate) trace_header: Option<String>,
    pub(crate) group_id: Option<String>,
    pub(crate) delay_seconds: Option<i64>,
}

/// Reads a member of a structure; null counts as absent (Smithy: "Null structure values are dropped").
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl WireMessage {
    /// Counts the bytes that the limits of messages and batches apply to.
    pub(crate) fn size(&self) -> usize {
        size(
            self.message_body.as_deref().unwrap_or_default(),
            &self.message_attributes,
        )
    }
}

impl NewMessage {
    /// Checks a message. `trace_header` is the request's; the message's own has precedence.
    pub(crate) fn parse(wire: WireMessage, trace_header: Option<&str>) -> Result<Self, Error> {
        let body = wire
            .message_body
            .filter(|it| !it.is_empty())
            .ok_or_else(|| Error::missing_parameter("MessageBody"))?;
        check_characters(&body, Code::InvalidMessageContents)?;
        if wire.message_attributes.len() > MOST_ATTRIBUTES {
            let count = wire.message_attributes.len();
            let message = format!(
                "Number of message attributes [{count}] exceeds the allowed maximum [{MOST_ATTRIBUTES}]."
            );
            return Err(Error::new(Code::InvalidParameterValue, message));
        }
        for (name, value) in &wire.message_attributes {
            check_name(name)?;
            value.check(name)?;
        }
        for (name, value) in &wire.message_system_attributes {
            if name != "AWSTraceHeader" || value.data_type != "String" {
                return Err(Error::new(
                    Code::InvalidParameterValue,
                    format!("Message system attribute name '{name}' is invalid."),
                ));
            }
            value.check(name)?;
        }
        if let Some(group) = &wire.message_group_id
            && (group.is_empty()
                || group.len() > LONGEST_GROUP_ID
                || !group.chars().all(|it| it.is_ascii_graphic()))
        {
            let reason = "MessageGroupId can only include alphanumeric and punctuation characters. 1 to 128 in length.";
            return Err(Error::invalid_value(group, "MessageGroupId", reason));
        }
        if let Some(id) = wire.message_deduplication_id {
            let reason = "The request include parameter that is not valid for this queue type.";
            return Err(Error::invalid_value(id, "MessageDeduplicationId", reason));
        }
        let own_trace_header = wire.message_system_attributes.get("AWSTraceHeader");
        let trace_header = own_trace_header
            .and_then(|it| it.string_value.as_deref())
            .or(trace_header)
            .map(str::to_owned);
        Ok(Self {
            body,
            trace_header,
            attributes: wire.message_attributes,
            system_attributes: wire.message_system_attributes,
            group_id: wire.message_group_id,
            delay_seconds: wire.delay_seconds,
        })
    }

    pub(crate) fn size(&self) -> usize {
        size(&self.body, &self.attributes)
    }
}

impl AttributeValue {
    pub(crate) fn text(value: String) -> Self {
        Self {
            data_type: "String".to_owned(),
            string_value: Some(value),
            binary_value: None,
        }
    }

    /// Returns whether the value is bytes rather than text.
    pub(crate) fn is_binary(&self) -> bool {
        self.data_type == "Binary" || self.data_type.starts_with("Binary.")
    }

    pub(crate) fn value_bytes(&self) -> Cow<'_, [u8]> {
        match (&self.string_value, &self.binary_value) {
            (Some(text), _) => text.as_bytes().into(),
            (None, Some(text)) => BASE64_STANDARD.decode(text).unwrap_or_default().into(),
            (None, None) => Cow::default(),
        }
    }

    fn check(&self, name: &str) -> Result<(), Error> {
        let refused = |message: String| Err(Error::new(Code::InvalidParameterValue, message));
        let data_type = &self.data_type;
        if data_type.is_empty() {
            return refused(format!(
                "The message attribute '{name}' must contain non-empty message attribute type."
            ));
        }
        let prefix = data_type.split('.').next().unwrap_or_default();
        if !matches!(prefix, "String" | "Number" | "Binary") || data_type.len() > LONGEST_NAME {
            return refused(format!(
                "The message attribute '{name}' has an invalid message attribute type, the set of supported type prefixes is Binary, Number, and String."
            ));
        }
        let field = if self.is_binary() {
            "BinaryValue"
        } else {
            "StringValue"
        };
        let (value, other) = match field {
            "BinaryValue" => (&self.binary_value, &self.string_value),
            _ => (&self.string_value, &self.binary_value),
        };
        if other.is_some() {
            return refused(format!(
                "The message attribute '{name}' with type '{data_type}' must use field '{field}'."
            ));
        }
        let Some(value) = value.as_ref().filter(|it| !it.is_empty()) else {
            return refused(format!(
                "Message (user) attribute '{name}' must contain a non-empty value of type '{data_type}'."
            ));
        };
        match prefix {
            "Binary" if BASE64_STANDARD.decode(value).is_err() => Err(Error::new(
                Code::Serialization,
                format!("The message attribute '{name}' is not in base64."),
            )),
            "Number" if !value.parse().is_ok_and(f64::is_finite) => refused(format!(
                "Can't cast the value of message (user) attribute '{name}' to a number."
            )),
            _ => check_characters(value, Code::InvalidParameterValue),
        }
    }
}

fn size(body: &str, attributes: &BTreeMap<String, AttributeValue>) -> usize {
    let attribute = |(name, it): (&String, &AttributeValue)| {
        name.len() + it.data_type.len() + it.value_bytes().len()
    };
    body.len() + attributes.iter().map(attribute).sum::<usize>()
}

fn check_characters(text: &str, code: Code) -> Result<(), Error> {
    let allowed = |it| matches!(it, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
    if text.chars().all(allowed) {
        return Ok(());
    }
    let message = "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF";
    Err(Error::new(code, message))
}

fn check_name(name: &str) -> Result<(), Error> {
    let refused = |message: &str| Err(Error::new(Code::InvalidParameterValue, message));
    let lower = name.to_ascii_lowercase();
    if name.is_empty() || name.chars().count() > LONGEST_NAME {
        refused("Message (user) attribute names must be 1 to 256 characters long.")
    } else if !name
        .chars()
        .all(|it| it.is_alphanumeric() || matches!(it, '_' | '-' | '.'))
    {
        refused(
            "Message (user) attribute names can contain only alphanumeric characters, underscores, hyphens and periods.",
        )
    } else if lower.starts_with("aws.") || lower.starts_with("amazon.") {
        refused(
            "You can't use message attribute names beginning with 'AWS.' or 'Amazon.'. These strings are reserved for internal use.",
        )
    } else if name.starts_with('.') || name.ends_with('.') || name.contains("..") {
        refused(
            "Message (user) attribute names must not start or end with a period or have periods in succession.",
        )
    } else {
        Ok(())
    }
}
