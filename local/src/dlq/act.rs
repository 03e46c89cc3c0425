//! Redrives or deletes selected dead letters, message by message.
//!
//! **Invariant**: a redrive deletes a message only after the destination has acknowledged a message of its scan. So an
//! interruption at any point leaves every scan in one of the two queues or in both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName,
    MessageSystemAttributeNameForSends, MessageSystemAttributeValue, SendMessageBatchRequestEntry,
};
use futures_util::future::join_all;
use indicatif::ProgressBar;
use scanhook_core::message::QueueMessage;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dead_letter::DeadLetter;
use super::queue::{DeadLetterQueue, Destination};
use super::receive::{BATCH, IdleLimit, ReceivedMessage, Receiver};

/// The number of concurrent batches, which is also the most that a killed process leaves in both queues.
const WIDTH: usize = 4;

/// The largest batch that every SQS endpoint accepts; AWS itself accepts 1 MiB.
const LARGEST_BATCH: usize = 256 << 10;

/// What to do with the dead letters.
pub(crate) enum Action {
    /// Send them to the destination, then delete them.
    Redrive {
        destination: Destination,
        /// Whether to scan again even if the ledger has a verdict.
        force: bool,
        /// Messages per second.
        rate: u16,
    },
    Delete,
}

/// What was done. Fields without `messages` in their names count dead letters.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    pub(crate) redriven: usize,
    /// Dead letters that have a verdict, so that they were deleted without another scan.
    pub(crate) scanned_since: usize,
    pub(crate) deleted_messages: usize,
    /// Selected messages that are still in the dead-letter queue.
    pub(crate) left_messages: usize,
    /// Dead letters that the destination refused, or that `--force` can't change, with the reason.
    pub(crate) refused: BTreeMap<String, String>,
    pub(crate) interrupted: bool,
}

/// How far the redrive of a dead letter has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A message must be sent before any may be deleted.
    ToSend,
    /// All messages may be deleted.
    ToDelete,
    /// All messages stay in the queue.
    Refused,
}

struct Work<'a> {
    queue: &'a DeadLetterQueue,
    action: &'a Action,
    receiver: Receiver<'a>,
    /// The messages that are left to delete: the index of the dead letter, by message id.
    open: BTreeMap<String, usize>,
    stages: Vec<Stage>,
    ids: Vec<String>,
    pace: Pace,
    summary: Summary,
}

/// Applies the action to the messages of `dead_letters` and to no others.
pub(crate) async fn act(
    queue: &DeadLetterQueue,
    action: &Action,
    dead_letters: &[DeadLetter],
    progress: &ProgressBar,
    stop: &CancellationToken,
) -> anyhow::Result<Summary> {
    let is_settled = |it: &DeadLetter| match action {
        Action::Delete => true,
        Action::Redrive { force, .. } => !force && it.is_scanned_since(),
    };
    let stage = |it: &DeadLetter| {
        if is_settled(it) {
            Stage::ToDelete
        } else {
            Stage::ToSend
        }
    };
    let open = dead_letters
        .iter()
        .enumerate()
        .flat_map(|(index, dead_letter)| {
            let messages = dead_letter.messages().iter();
            messages.map(move |it| (it.message_id.clone(), index))
        });
    let scanned_since = match action {
        Action::Delete => 0,
        Action::Redrive { .. } => dead_letters.iter().filter(|it| is_settled(it)).count(),
    };
    let mut work = Work {
        queue,
        action,
        receiver: Receiver::new(queue),
        open: open.collect(),
        stages: dead_letters.iter().map(stage).collect(),
        ids: dead_letters.iter().map(DeadLetter::id).collect(),
        pace: Pace::new(action),
        summary: Summary {
            scanned_since,
            ..Summary::default()
        },
    };
    let outcome = work.run(progress, stop).await;
    let Work {
        receiver,
        open,
        mut summary,
        ..
    } = work;
    receiver.release().await;
    summary.left_messages = open.len();
    outcome.map(|()| summary)
}

impl Work<'_> {
    async fn run(
        &mut self,
        progress: &ProgressBar,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut idle_limit = IdleLimit::default();
        while self.is_open() {
            if !self.pace.wait(stop).await {
                self.summary.interrupted = true;
                return Ok(());
            }
            let received = self
                .receiver
                .receive(self.pace.width, self.pace.count)
                .await?;
            let (is_empty, has_new) = (received.is_empty(), received.iter().any(|it| it.is_new));
            let before = self.open.len();
            self.handle(received).await?;
            progress.inc((before - self.open.len()) as u64);
            let has_progress = has_new || self.open.len() < before;
            if idle_limit.is_over(has_progress, &self.receiver)
                || is_empty && self.receiver.unreceived().await? == 0
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether a message is left that may be deleted.
    fn is_open(&self) -> bool {
        self.open
            .values()
            .any(|it| self.stage(*it) != Stage::Refused)
    }

    fn stage(&self, index: usize) -> Stage {
        self.stages.get(index).copied().unwrap_or(Stage::Refused)
    }

    fn set_stage(&mut self, index: usize, to: Stage) {
        if let Some(stage) = self.stages.get_mut(index) {
            *stage = to;
        }
    }

    async fn handle(&mut self, received: Vec<ReceivedMessage>) -> anyhow::Result<()> {
        let selected: Vec<(usize, ReceivedMessage)> = received
            .into_iter()
            .filter_map(|it| Some((*self.open.get(&it.message.message_id)?, it)))
            .collect();
        self.send(&selected).await?;
        let deletable = selected
            .iter()
            .filter(|(index, _)| self.stage(*index) == Stage::ToDelete);
        let ids: Vec<_> = deletable
            .map(|(_, it)| it.message.message_id.clone())
            .collect();
        self.delete(&ids).await
    }

    /// Sends one message of each dead letter that was not sent yet.
    async fn send(&mut self, selected: &[(usize, ReceivedMessage)]) -> anyhow::Result<()> {
        let Action::Redrive {
            destination, force, ..
        } = self.action
        else {
            return Ok(());
        };
        let mut batches: Vec<Vec<(usize, SendMessageBatchRequestEntry)>> = Vec::new();
        let (mut size, mut seen) = (LARGEST_BATCH, BTreeSet::new());
        for (index, received) in selected {
            if self.stage(*index) != Stage::ToSend || !seen.insert(*index) {
                continue;
            }
            let entry = match entry(&received.raw, *index, *force) {
                Ok(entry) => entry,
                Err(why) => {
                    self.refuse(*index, why);
                    continue;
                }
            };
            let length = entry.message_body().len() + ATTRIBUTES;
            match batches.last_mut() {
                Some(batch) if batch.len() < BATCH && size + length <= LARGEST_BATCH => {
                    batch.push((*index, entry));
                    size += length;
                }
                _ => {
                    batches.push(vec![(*index, entry)]);
                    size = length;
                }
            }
        }
        self.pace.spend(seen.len());
        let calls = batches.iter().map(|batch| {
            let entries = batch.iter().map(|(_, it)| it.clone()).collect();
            let call = self
                .queue
                .client
                .send_message_batch()
                .queue_url(&destination.url);
            call.set_entries(Some(entries)).send()
        });
        let mut failure = None;
        for outcome in join_all(calls).await {
            match outcome {
                Ok(output) => {
                    for sent in output.successful() {
                        if let Ok(index) = sent.id().parse() {
                            self.set_stage(index, Stage::ToDelete);
                            self.summary.redriven += 1;
                        }
                    }
                    for refused in output.failed() {
                        if let Ok(index) = refused.id().parse() {
                            let why = refused.message().unwrap_or_else(|| refused.code());
                            self.refuse(index, format!("{}: {why}", refused.code()));
                        }
                    }
                }
                Err(err) => failure = Some(err),
            }
        }
        // Delete what was acknowledged before failing, so that the next command doesn't send it again.
        if let Some(err) = failure {
            let sent = selected
                .iter()
                .filter(|(index, _)| self.stage(*index) == Stage::ToDelete);
            let ids: Vec<_> = sent.map(|(_, it)| it.message.message_id.clone()).collect();
            self.delete(&ids).await?;
            return Err(anyhow::Error::new(err)
                .context(format!("could not send messages to {}", destination.url)));
        }
        Ok(())
    }

    fn refuse(&mut self, index: usize, why: String) {
        self.set_stage(index, Stage::Refused);
        if let Some(id) = self.ids.get(index) {
            self.summary.refused.insert(id.clone(), why);
        }
    }

    /// Deletes received messages. A message that can't be deleted is received again, and deleted then.
    async fn delete(&mut self, message_ids: &[String]) -> anyhow::Result<()> {
        let batches = message_ids.chunks(BATCH);
        let calls = batches.map(|batch| {
            let entry = |(index, id): (usize, &String)| {
                let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
                entry
                    .set_receipt_handle(self.receiver.receipt(id).cloned())
                    .build()
                    .ok()
            };
            let entries = batch.iter().enumerate().filter_map(entry).collect();
            let call = self
                .queue
                .client
                .delete_message_batch()
                .queue_url(&self.queue.url);
            let call = call.set_entries(Some(entries)).send();
            async move { (batch, call.await) }
        });
        let outcomes = join_all(calls).await;
        for (batch, outcome) in outcomes {
            let output = outcome.context("could not delete messages from the dead-letter queue")?;
            for deleted in output.successful() {
                let Some(id) = deleted
                    .id()
                    .parse()
                    .ok()
                    .and_then(|it: usize| batch.get(it))
                else {
                    continue;
                };
                self.open.remove(id);
                self.receiver.forget(id);
                self.summary.deleted_messages += 1;
            }
        }
        Ok(())
    }
}

/// A generous guess of the attributes' size: SQS allows ten.
const ATTRIBUTES: usize = 2 << 10;

/// The message to send: a copy without the attributes that the scanner added.
fn entry(
    message: &Message,
    index: usize,
    force: bool,
) -> Result<SendMessageBatchRequestEntry, String> {
    let body = message.body().unwrap_or_default();
    let body = if force {
        forced(body)?
    } else {
        body.to_owned()
    };
    let mut entry = SendMessageBatchRequestEntry::builder()
        .id(index.to_string())
        .message_body(body);
    for (name, value) in message.message_attributes().into_iter().flatten() {
        if !name.starts_with("scanhook.") {
            entry = entry.message_attributes(name, value.clone());
        }
    }
    let system = |name| message.attributes().and_then(|it| it.get(&name)).cloned();
    entry = entry.set_message_group_id(system(MessageSystemAttributeName::MessageGroupId));
    if let Some(header) = system(MessageSystemAttributeName::AwsTraceHeader) {
        let value = MessageSystemAttributeValue::builder()
            .data_type("String")
            .string_value(header);
        if let Ok(value) = value.build() {
            entry = entry.message_system_attributes(
                MessageSystemAttributeNameForSends::AwsTraceHeader,
                value,
            );
        }
    }
    entry.build().map_err(|err| err.to_string())
}

/// The body with its `force` flag set. Fields that this version doesn't know stay.
fn forced(body: &str) -> Result<String, String> {
    QueueMessage::parse(body).map_err(|err| format!("--force needs a scan message: {err}"))?;
    let mut json: serde_json::Value = serde_json::from_str(body).map_err(|err| err.to_string())?;
    if let Some(fields) = json.as_object_mut() {
        fields.insert("force".to_owned(), true.into());
    }
    Ok(json.to_string())
}

/// Limits the rate of messages.
struct Pace {
    /// The time between two messages.
    each: Duration,
    next: Instant,
    /// Concurrent receives. Small enough, with `count`, that no received message waits long to be sent.
    width: usize,
    /// Messages of each receive.
    count: usize,
}

impl Pace {
    fn new(action: &Action) -> Self {
        let (each, in_half_a_second) = match action {
            Action::Delete => (Duration::ZERO, usize::MAX),
            Action::Redrive { rate, .. } => (
                Duration::from_secs(1) / u32::from(*rate).max(1),
                usize::from(*rate / 2),
            ),
        };
        Self {
            each,
            next: Instant::now(),
            width: (in_half_a_second / BATCH).clamp(1, WIDTH),
            count: in_half_a_second.clamp(1, BATCH),
        }
    }

    /// Waits until the next message may be sent; `false` on a request to stop.
    async fn wait(&self, stop: &CancellationToken) -> bool {
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            () = tokio::time::sleep_until(self.next) => true,
        }
    }

    fn spend(&mut self, messages: usize) {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        self.next = self.next.max(Instant::now()) + self.each * messages;
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::types::MessageAttributeValue;

    use super::*;

    const BODY: &str = r#"{"version":1,"scan_id":"01A","source":"prod","image":{"registry":"h.io","repository":"a","tag":"1","digest":null},"event":{"id":null,"type":"push","actor":null,"occurred_at":null,"received_at":"2026-11-21T08:00:00Z"},"later":[1]}"#;

    fn text(value: &str) -> MessageAttributeValue {
        MessageAttributeValue::builder()
            .data_type("String")
            .string_value(value)
            .build()
            .unwrap()
    }

    #[test]
    fn a_redriven_message_has_no_attributes_of_the_scanner() {
        let message = Message::builder()
            .body(BODY)
            .message_attributes("scanhook.reason", text("network"))
            .message_attributes("RULE_ARN", text("arn:aws:events"))
            .attributes(MessageSystemAttributeName::MessageGroupId, "prod")
            .attributes(
                MessageSystemAttributeName::AwsTraceHeader,
                "Root=1-5759e988-bd862e3fe1be46a994272793",
            )
            .build();
        let entry = entry(&message, 7, false).unwrap();
        assert_eq!(
            (entry.id(), entry.message_body(), entry.message_group_id()),
            ("7", BODY, Some("prod"))
        );
        assert_eq!(
            entry
                .message_attributes()
                .unwrap()
                .keys()
                .collect::<Vec<_>>(),
            ["RULE_ARN"]
        );
        assert_eq!(entry.message_system_attributes().unwrap().len(), 1);
    }

    #[test]
    fn force_sets_the_flag_and_nothing_else() {
        let forced_body = forced(BODY).unwrap();
        assert!(QueueMessage::parse(&forced_body).unwrap().force);
        let mut json: serde_json::Value = serde_json::from_str(&forced_body).unwrap();
        json.as_object_mut().unwrap().remove("force");
        assert_eq!(
            json,
            serde_json::from_str::<serde_json::Value>(BODY).unwrap()
        );
        assert!(forced("nonsense").unwrap_err().contains("malformed"));
        assert!(forced(&BODY.replace("\"version\":1", "\"version\":9")).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_sent_at_the_requested_rate() {
        let stop = CancellationToken::new();
        for (rate, width, count) in [(1_u16, 1, 1), (10, 1, 5), (50, 2, 10), (500, WIDTH, BATCH)] {
            let action = Action::Redrive {
                destination: Destination {
                    url: String::new(),
                    arn: String::new(),
                },
                force: false,
                rate,
            };
            let mut pace = Pace::new(&action);
            assert_eq!((pace.width, pace.count), (width, count), "{rate}");
            let began = Instant::now();
            let mut sent = 0;
            while began.elapsed() < Duration::from_secs(10) {
                assert!(pace.wait(&stop).await);
                sent += width * count;
                pace.spend(width * count);
            }
            let most = usize::from(rate) * 10 + 2 * width * count;
            assert!(
                (usize::from(rate) * 10..=most).contains(&sent),
                "{rate}: {sent}"
            );
        }
    }

    #[tokio::test]
    async fn a_request_to_stop_ends_the_wait() {
        let stop = CancellationToken::new();
        let mut pace = Pace::new(&Action::Delete);
        pace.next = Instant::now() + Duration::from_hours(1);
        stop.cancel();
        assert!(!pace.wait(&stop).await);
    }
}
