//! Reads the messages of a dead-letter queue: by receiving and releasing them, since SQS has no call that only looks.
//!
//! **Invariant**: a received message is either deleted on purpose or released. If the process is killed, SQS makes the message
//! visible again by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, Message, MessageAttributeValue,
    MessageSystemAttributeName,
};
use futures_util::future::join_all;
use indicatif::ProgressBar;
use jiff::Timestamp;
use scanhook_emulator::sqs::{Page, Peeked};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Interrupted;
use super::dead_letter::DeadLetterMessage;
use super::queue::DeadLetterQueue;
use crate::{http_client, output};

/// Entries of one batch call, and messages of one receive. Source: Amazon SQS API reference.
pub(crate) const BATCH: usize = 10;

/// The number of concurrent calls while messages are only read.
const WIDTH: usize = 8;

/// How long one receive waits for a message, in seconds. Only a receive that waits asks all of SQS's servers.
const WAIT: i32 = 1;

/// The longest visibility timeout. Source: Amazon SQS API reference.
const LONGEST_HIDE: Duration = Duration::from_hours(12);

/// How much later than due a hidden message may become visible.
const LATE: Duration = Duration::from_secs(5);

/// The messages of a queue at one moment.
pub(crate) struct Snapshot {
    pub(crate) messages: Vec<DeadLetterMessage>,
    /// About how many more messages the queue has: others hide them for longer than [`snapshot`] waits.
    pub(crate) hidden: u64,
}

/// How much of each message to keep in memory.
#[derive(Clone, Copy)]
pub(crate) enum Detail {
    Full,
    WithoutBody,
}

impl Detail {
    fn apply(self, message: DeadLetterMessage) -> DeadLetterMessage {
        match self {
            Self::Full => message,
            Self::WithoutBody => message.without_body(),
        }
    }
}

/// Reads every message of a queue and leaves all of them in it. It waits for hidden messages as long as a lost answer of SQS, a
/// killed command or a concurrent one can have hidden them.
pub(crate) async fn snapshot(
    queue: &DeadLetterQueue,
    detail: Detail,
    progress: &ProgressBar,
    stop: &CancellationToken,
) -> anyhow::Result<Snapshot> {
    if queue.endpoint.is_some() {
        let messages = peek(queue, detail, progress, stop).await?;
        return Ok(Snapshot {
            messages,
            hidden: 0,
        });
    }
    let mut receiver = Receiver::new(queue);
    let snapshot = receive_all(&mut receiver, detail, progress, stop).await;
    receiver.release().await;
    snapshot
}

async fn receive_all(
    receiver: &mut Receiver<'_>,
    detail: Detail,
    progress: &ProgressBar,
    stop: &CancellationToken,
) -> anyhow::Result<Snapshot> {
    let mut messages = Vec::new();
    let mut idle_limit = IdleLimit::default();
    let mut is_announced = false;
    while !stop.is_cancelled() {
        let batch = receiver.receive(WIDTH, BATCH).await?;
        let before = messages.len();
        let new = batch.into_iter().filter(|it| it.is_new);
        messages.extend(new.map(|it| detail.apply(it.message)));
        progress.set_position(messages.len() as u64);
        let has_new = messages.len() > before;
        let is_over = idle_limit.is_over(has_new, receiver);
        if has_new {
            continue;
        }
        let hidden = receiver.unreceived().await?;
        if hidden == 0 || is_over {
            return Ok(Snapshot { messages, hidden });
        }
        if !is_announced {
            let most = idle_limit.left().as_secs();
            progress.set_message("waiting for hidden messages");
            progress.suspend(|| {
                output::notice(&format!(
                    "about {hidden} messages are hidden at the moment; waiting for them, up to {most} s"
                ));
            });
            is_announced = true;
        }
    }
    Err(Interrupted.into())
}

/// How long to keep receiving without a result: as long as a concurrent command like this one hides messages.
#[derive(Default)]
pub(crate) struct IdleLimit {
    until: Option<Instant>,
}

impl IdleLimit {
    /// Whether the limit is reached, after a round of receives with or without a result.
    pub(crate) fn is_over(&mut self, has_new: bool, receiver: &Receiver<'_>) -> bool {
        if has_new {
            self.until = None;
            return false;
        }
        let now = Instant::now();
        now > *self
            .until
            .get_or_insert_with(|| now + receiver.hide() + LATE)
    }

    fn left(&self) -> Duration {
        self.until
            .map_or(Duration::ZERO, |it| it.duration_since(Instant::now()))
    }
}

/// Reads the messages from our own endpoint, which shows them without a receive.
async fn peek(
    queue: &DeadLetterQueue,
    detail: Detail,
    progress: &ProgressBar,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<DeadLetterMessage>> {
    let client = http_client::outward()?;
    let mut messages = Vec::new();
    let mut after: Option<String> = None;
    loop {
        if stop.is_cancelled() {
            return Err(Interrupted.into());
        }
        let mut url = reqwest::Url::parse(&queue.url)?;
        if let Some(after) = &after {
            url.query_pairs_mut().append_pair("after", after);
        }
        let response = client.get(url).send().await?.error_for_status()?;
        let page: Page = serde_json::from_slice(&response.bytes().await?)
            .context("the queue's endpoint didn't answer with messages")?;
        let new = page.messages.into_iter().map(from_peeked);
        messages.extend(new.map(|it| detail.apply(it)));
        progress.set_position(messages.len() as u64);
        after = page.next;
        if after.is_none() {
            return Ok(messages);
        }
    }
}

fn from_peeked(peeked: Peeked) -> DeadLetterMessage {
    DeadLetterMessage::new(
        peeked.message_id,
        peeked.body,
        peeked.attributes,
        peeked.dead_letter_source,
        peeked.sent_at,
    )
}

/// A message that is hidden from other receivers for a while.
pub(crate) struct ReceivedMessage {
    pub(crate) message: DeadLetterMessage,
    /// The message as SQS sent it.
    pub(crate) raw: Message,
    /// Whether this command received it for the first time.
    pub(crate) is_new: bool,
}

/// Receives messages, and remembers them until they are deleted or released.
pub(crate) struct Receiver<'a> {
    queue: &'a DeadLetterQueue,
    began: Instant,
    /// The latest receipt of each message, by message id.
    receipts: BTreeMap<String, String>,
}

impl<'a> Receiver<'a> {
    pub(crate) fn new(queue: &'a DeadLetterQueue) -> Self {
        Self {
            queue,
            began: Instant::now(),
            receipts: BTreeMap::new(),
        }
    }

    /// The visibility timeout of the next receive. On a slow endpoint it grows, so that messages received early don't
    /// become visible again before the others have been received.
    fn hide(&self) -> Duration {
        let so_far = self.began.elapsed();
        self.queue.hide.max(so_far * 2).min(LONGEST_HIDE)
    }

    /// About how many messages of the queue this receiver doesn't have.
    pub(crate) async fn unreceived(&self) -> anyhow::Result<u64> {
        let (visible, hidden) = self.queue.depth().await?;
        Ok((visible + hidden).saturating_sub(self.receipts.len() as u64))
    }

    /// Receives up to `count` messages by each of `width` concurrent calls; none if no message is visible.
    pub(crate) async fn receive(
        &mut self,
        width: usize,
        count: usize,
    ) -> anyhow::Result<Vec<ReceivedMessage>> {
        let hide = i32::try_from(self.hide().as_secs()).unwrap_or(i32::MAX);
        let calls = (0..width).map(|_| {
            self.queue
                .client
                .receive_message()
                .queue_url(&self.queue.url)
                .max_number_of_messages(i32::try_from(count).unwrap_or(1))
                .visibility_timeout(hide)
                .wait_time_seconds(WAIT)
                .message_system_attribute_names(MessageSystemAttributeName::All)
                .message_attribute_names("All")
                .send()
        });
        let mut received = Vec::new();
        let mut failure = None;
        for outcome in join_all(calls).await {
            match outcome {
                Ok(output) => {
                    let messages = output.messages.unwrap_or_default().into_iter();
                    received.extend(messages.filter_map(|it| self.remember(it)));
                }
                Err(err) => failure = Some(err),
            }
        }
        match failure {
            // The messages of the calls that succeeded are released with the rest.
            Some(err) => Err(anyhow::Error::new(err)
                .context("could not receive messages from the dead-letter queue")),
            None => Ok(received),
        }
    }

    fn remember(&mut self, raw: Message) -> Option<ReceivedMessage> {
        let (id, receipt) = (
            raw.message_id()?.to_owned(),
            raw.receipt_handle()?.to_owned(),
        );
        let is_new = self.receipts.insert(id.clone(), receipt).is_none();
        let system = |name| raw.attributes()?.get(&name);
        let sent_at = system(MessageSystemAttributeName::SentTimestamp)
            .and_then(|it| Timestamp::from_millisecond(it.parse().ok()?).ok());
        let text = |it: &MessageAttributeValue| it.string_value().map(str::to_owned);
        let attributes = raw
            .message_attributes()
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), text(value)?)));
        let message = DeadLetterMessage::new(
            id,
            raw.body().unwrap_or_default().to_owned(),
            attributes.collect(),
            system(MessageSystemAttributeName::DeadLetterQueueSourceArn).cloned(),
            sent_at.unwrap_or(Timestamp::UNIX_EPOCH),
        );
        Some(ReceivedMessage {
            message,
            raw,
            is_new,
        })
    }

    pub(crate) fn receipt(&self, message_id: &str) -> Option<&String> {
        self.receipts.get(message_id)
    }

    /// Forgets a message that was deleted, so that it is not released.
    pub(crate) fn forget(&mut self, message_id: &str) {
        self.receipts.remove(message_id);
    }

    /// Makes every received message visible again.
    pub(crate) async fn release(self) {
        let receipts: Vec<_> = self.receipts.into_values().collect();
        let batches: Vec<_> = receipts.chunks(BATCH).collect();
        for concurrent in batches.chunks(WIDTH) {
            join_all(concurrent.iter().map(|it| release_batch(self.queue, it))).await;
        }
    }
}

async fn release_batch(queue: &DeadLetterQueue, receipts: &[String]) {
    let entry = |(index, receipt): (usize, &String)| {
        ChangeMessageVisibilityBatchRequestEntry::builder()
            .id(index.to_string())
            .receipt_handle(receipt)
            .visibility_timeout(0)
            .build()
            .ok()
    };
    let entries = receipts.iter().enumerate().filter_map(entry).collect();
    let call = queue
        .client
        .change_message_visibility_batch()
        .queue_url(&queue.url);
    // A message that can't be released becomes visible when its visibility timeout ends.
    let _ = call.set_entries(Some(entries)).send().await;
}
