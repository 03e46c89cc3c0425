//! Operations on messages.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::attributes::unknown;
use super::super::batch::{Outcome, check_ids};
use super::super::error::{Code, Error};
use super::super::message::{AttributeValue, NewMessage, WireMessage, null_as_default};
use super::super::queue::Queue;
use super::super::queues;
use super::super::receive::{Received, Request};
use super::super::store::Db;
use super::super::{ACCOUNT, digest, messages};
use super::{Call, name_in_url};

/// The most bytes that all messages of a batch may have together.
const LARGEST_BATCH: usize = 1 << 20;

const SYSTEM_ATTRIBUTES: [&str; 10] = [
    "AWSTraceHeader",
    "ApproximateFirstReceiveTimestamp",
    "ApproximateReceiveCount",
    "DeadLetterQueueSourceArn",
    "MessageDeduplicationId",
    "MessageGroupId",
    "SenderId",
    "SentTimestamp",
    "SequenceNumber",
    "SqsManagedSseEnabled",
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireSend {
    queue_url: Option<String>,
    #[serde(flatten)]
    message: WireMessage,
}

pub(super) async fn send(call: Call) -> Result<Value, Error> {
    let wire: WireSend = call.parse()?;
    let name = name_in_url(wire.queue_url)?;
    let message = NewMessage::parse(wire.message, call.trace_header.as_deref());
    call.store
        .run(move |db| store(db, &*queues::find(db, &name)?, message, "are invalid"))
        .await
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", bound(deserialize = "T: Deserialize<'de>"))]
struct WireBatch<T> {
    queue_url: Option<String>,
    #[serde(default = "Vec::new", deserialize_with = "null_as_default")]
    entries: Vec<WireEntry<T>>,
}

#[derive(Deserialize)]
struct WireEntry<T> {
    #[serde(rename = "Id", default, deserialize_with = "null_as_default")]
    id: String,
    #[serde(flatten)]
    entry: T,
}

impl<T> WireBatch<T> {
    /// Returns the queue's name and the entries, after checking their ids.
    fn check(self, operation: &str) -> Result<(String, Vec<WireEntry<T>>), Error> {
        check_ids(
            operation,
            &self
                .entries
                .iter()
                .map(|entry| entry.id.as_str())
                .collect::<Vec<_>>(),
        )?;
        Ok((name_in_url(self.queue_url)?, self.entries))
    }
}

pub(super) async fn send_batch(call: Call) -> Result<Value, Error> {
    let (name, entries) = call
        .parse::<WireBatch<WireMessage>>()?
        .check("SendMessage")?;
    let size: usize = entries.iter().map(|entry| entry.entry.size()).sum();
    if size > LARGEST_BATCH {
        let message = format!(
            "Batch requests cannot be longer than {LARGEST_BATCH} bytes. You have sent {size} bytes."
        );
        return Err(Error::new(Code::BatchRequestTooLong, message));
    }
    let entries: Vec<_> = entries
        .into_iter()
        .map(|it| {
            let trace_header = call.trace_header.as_deref();
            (it.id, NewMessage::parse(it.entry, trace_header))
        })
        .collect();
    each(call, name, entries, |db, queue, message| {
        store(db, queue, message, "cannot be validated")
    })
    .await
}

/// Stores a message that passed its checks, and returns the answer of `SendMessage`.
fn store(
    db: &mut Db<'_>,
    queue: &Queue,
    message: Result<NewMessage, Error>,
    complaint: &str,
) -> Result<Value, Error> {
    let message = message?;
    let id = messages::send(db, queue, &message, complaint)?;
    let mut answer = json!({"MessageId": id, "MD5OfMessageBody": digest::of_body(&message.body)});
    if let Some(members) = answer.as_object_mut() {
        let sums = [
            (
                "MD5OfMessageAttributes",
                digest::of_attributes(&message.attributes),
            ),
            (
                "MD5OfMessageSystemAttributes",
                digest::of_attributes(&message.system_attributes),
            ),
        ];
        members.extend(
            sums.into_iter()
                .filter_map(|(name, sum)| Some((name.to_owned(), sum?.into()))),
        );
    }
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireReceive {
    queue_url: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    attribute_names: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    message_system_attribute_names: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    message_attribute_names: Vec<String>,
    max_number_of_messages: Option<i64>,
    visibility_timeout: Option<i64>,
    wait_time_seconds: Option<i64>,
}

pub(super) async fn receive(call: Call) -> Result<Value, Error> {
    let wire: WireReceive = call.parse()?;
    let count = wire.max_number_of_messages.unwrap_or(1);
    if !(1..=10).contains(&count) {
        let reason = "Must be between 1 and 10, if provided.";
        return Err(Error::invalid_value(count, "MaxNumberOfMessages", reason));
    }
    let system_names: Vec<_> = wire
        .attribute_names
        .into_iter()
        .chain(wire.message_system_attribute_names)
        .collect();
    if let Some(name) = system_names
        .iter()
        .find(|it| *it != "All" && !SYSTEM_ATTRIBUTES.contains(&it.as_str()))
    {
        return Err(unknown(name));
    }
    let request = Request {
        queue: name_in_url(wire.queue_url)?,
        count: usize::try_from(count).unwrap_or(1),
        visibility_timeout: wire.visibility_timeout,
        wait_time: wire.wait_time_seconds,
    };
    let received = call.store.receive(request, &call.shutdown).await?;
    if received.is_empty() {
        return Ok(json!({}));
    }
    let messages: Vec<_> = received
        .into_iter()
        .map(|it| render(it, &system_names, &wire.message_attribute_names))
        .collect();
    Ok(json!({"Messages": messages}))
}

fn render(message: Received, system_names: &[String], names: &[String]) -> Value {
    let system: Map<String, Value> = system_attributes(&message)
        .into_iter()
        .filter(|(name, _)| system_names.iter().any(|it| it == "All" || it == name))
        .filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
        .collect();
    let mut attributes: BTreeMap<String, AttributeValue> = message.attributes;
    attributes.retain(|name, _| names.iter().any(|wanted| selects(wanted, name)));
    let mut answer = json!({
        "MessageId": message.id,
        "ReceiptHandle": message.receipt_handle,
        "MD5OfBody": digest::of_body(&message.body),
        "Body": message.body,
    });
    if let Some(members) = answer.as_object_mut() {
        if !system.is_empty() {
            members.insert("Attributes".to_owned(), system.into());
        }
        if let Some(sum) = digest::of_attributes(&attributes) {
            members.insert("MD5OfMessageAttributes".to_owned(), sum.into());
            members.insert("MessageAttributes".to_owned(), json!(attributes));
        }
    }
    answer
}

fn system_attributes(message: &Received) -> [(&'static str, Option<String>); 7] {
    let shown = |it| message.shift.shown(it).to_string();
    [
        ("SenderId", Some(ACCOUNT.to_owned())),
        ("SentTimestamp", Some(shown(message.sent_at))),
        (
            "ApproximateReceiveCount",
            Some(message.receive_count.to_string()),
        ),
        (
            "ApproximateFirstReceiveTimestamp",
            Some(shown(message.first_received_at)),
        ),
        ("MessageGroupId", message.group_id.clone()),
        ("AWSTraceHeader", message.trace_header.clone()),
        (
            "DeadLetterQueueSourceArn",
            message.dead_letter_source.clone(),
        ),
    ]
}

/// Returns whether `wanted` (a name, a prefix such as `bar.*`, `.*`, `*` or `All`) selects the attribute `name`.
fn selects(wanted: &str, name: &str) -> bool {
    matches!(wanted, "All" | "*")
        || wanted == name
        || wanted
            .strip_suffix(".*")
            .is_some_and(|prefix| name.starts_with(prefix))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireReceipt {
    queue_url: Option<String>,
    receipt_handle: Option<String>,
    visibility_timeout: Option<i64>,
}

impl WireReceipt {
    fn delete(self, db: &mut Db<'_>, queue: &Queue) -> Result<Value, Error> {
        let handle = self
            .receipt_handle
            .ok_or_else(|| Error::missing_parameter("ReceiptHandle"))?;
        messages::delete(db, queue, &handle)?;
        Ok(json!({}))
    }

    fn change_visibility(self, db: &mut Db<'_>, queue: &Queue) -> Result<Value, Error> {
        let handle = self
            .receipt_handle
            .ok_or_else(|| Error::missing_parameter("ReceiptHandle"))?;
        let seconds = self
            .visibility_timeout
            .ok_or_else(|| Error::missing_parameter("VisibilityTimeout"))?;
        messages::change_visibility(db, queue, &handle, seconds)?;
        Ok(json!({}))
    }
}

pub(super) async fn delete(call: Call) -> Result<Value, Error> {
    let wire: WireReceipt = call.parse()?;
    let name = name_in_url(wire.queue_url.clone())?;
    call.store
        .run(move |db| wire.delete(db, &*queues::find(db, &name)?))
        .await
}

pub(super) async fn delete_batch(call: Call) -> Result<Value, Error> {
    let (name, entries) = call
        .parse::<WireBatch<WireReceipt>>()?
        .check("DeleteMessage")?;
    let entries = entries.into_iter().map(|it| (it.id, it.entry)).collect();
    each(call, name, entries, |db, queue, entry: WireReceipt| {
        entry.delete(db, queue)
    })
    .await
}

pub(super) async fn change_visibility(call: Call) -> Result<Value, Error> {
    let wire: WireReceipt = call.parse()?;
    let name = name_in_url(wire.queue_url.clone())?;
    call.store
        .run(move |db| wire.change_visibility(db, &*queues::find(db, &name)?))
        .await
}

pub(super) async fn change_visibility_batch(call: Call) -> Result<Value, Error> {
    let (name, entries) = call
        .parse::<WireBatch<WireReceipt>>()?
        .check("ChangeMessageVisibility")?;
    let entries = entries.into_iter().map(|it| (it.id, it.entry)).collect();
    each(call, name, entries, |db, queue, entry: WireReceipt| {
        entry.change_visibility(db, queue)
    })
    .await
}

/// Runs `act` for each entry of a batch, in one transaction.
async fn each<T: Send + 'static>(
    call: Call,
    name: String,
    entries: Vec<(String, T)>,
    act: impl Fn(&mut Db<'_>, &Queue, T) -> Result<Value, Error> + Send + 'static,
) -> Result<Value, Error> {
    let outcome = call.store.run(move |db| {
        let queue = queues::find(db, &name)?;
        let mut outcome = Outcome::default();
        for (id, entry) in entries {
            let result = act(db, &queue, entry);
            outcome.add(&id, result)?;
        }
        Ok(json!(outcome))
    });
    outcome.await
}
