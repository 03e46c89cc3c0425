//! The function's input, in the form that Lambda writes.

use aws_sdk_sqs::types::{Message, MessageAttributeValue};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::Config;

/// The region in a queue's ARN.
pub(super) fn region(queue_arn: &str) -> Option<&str> {
    match queue_arn.split(':').collect::<Vec<_>>()[..] {
        ["arn", _, "sqs", region, _, _] => Some(region),
        _ => None,
    }
}

/// The event for a batch.
pub(super) fn from_messages(batch: &[Message], config: &Config) -> Value {
    let records: Vec<_> = batch
        .iter()
        .map(|message| record(message, config))
        .collect();
    json!({"Records": records})
}

fn record(message: &Message, config: &Config) -> Value {
    let attributes: Map<String, Value> = message
        .attributes()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_str().into()))
        .collect();
    let message_attributes: Map<String, Value> = message
        .message_attributes()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), attribute(value)))
        .collect();
    let mut record = json!({
        "messageId": message.message_id(),
        "receiptHandle": message.receipt_handle(),
        "body": message.body(),
        "attributes": attributes,
        "messageAttributes": message_attributes,
        "md5OfBody": message.md5_of_body(),
        "eventSource": "aws:sqs",
        "eventSourceARN": config.queue_arn,
        "awsRegion": region(&config.queue_arn),
    });
    // Lambda was recorded to leave the member out without a batching window, and to send null with one.
    let sum = message.md5_of_message_attributes();
    if (sum.is_some() || !config.batching_window.is_zero())
        && let Some(members) = record.as_object_mut()
    {
        members.insert("md5OfMessageAttributes".to_owned(), sum.into());
    }
    record
}

fn attribute(value: &MessageAttributeValue) -> Value {
    let mut attribute = json!({
        "stringListValues": [],
        "binaryListValues": [],
        "dataType": value.data_type(),
    });
    if let Some(members) = attribute.as_object_mut() {
        if let Some(text) = value.string_value() {
            members.insert("stringValue".to_owned(), text.into());
        }
        if let Some(bytes) = value.binary_value() {
            members.insert(
                "binaryValue".to_owned(),
                BASE64_STANDARD.encode(bytes).into(),
            );
        }
    }
    attribute
}
