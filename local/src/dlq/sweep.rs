//! Taking letters into the hand, and letting them go: what SQS offers in place of a look.
//!
//! **Invariant**: what was received is deleted on purpose or released; what a killed process held comes back by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, Message, MessageSystemAttributeName,
};
use futures_util::future::join_all;
use indicatif::ProgressBar;
use jiff::Timestamp;
use scanhook_emulator::sqs::{Page, Peeked};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Interrupted;
use super::letter::Letter;
use super::queue::DeadLetterQueue;
use crate::{http_client, output};

/// Entries of one batch call, and messages of one receive. Source: Amazon SQS API reference.
pub(crate) const BATCH: usize = 10;

/// So many calls are under way at once when letters are only looked at.
const WIDTH: usize = 8;

/// How long one receive waits for a message, in seconds. Only a receive that waits asks all of SQS's servers.
const WAIT: i32 = 1;

/// SQS hides a message no longer. Source: Amazon SQS API reference.
const LONGEST_HIDE: Duration = Duration::from_hours(12);

/// So much later than it should a hidden letter may come back.
const LATE: Duration = Duration::from_secs(5);

/// What there is to see of a queue.
pub(crate) struct Fetched {
    pub(crate) letters: Vec<Letter>,
    /// About how many more there are that nobody can see now: others hold them for longer than [`look`] waits.
    pub(crate) hidden: u64,
}

/// What is kept of each letter that is looked at.
#[derive(Clone, Copy)]
pub(crate) enum Kept {
    Everything,
    /// All but the body.
    Outline,
}

impl Kept {
    fn of(self, letter: Letter) -> Letter {
        match self {
            Self::Everything => letter,
            Self::Outline => letter.without_body(),
        }
    }
}

/// Shows every letter of a queue, and leaves all of them there. Where some are hidden, it waits until those must have come back
/// that a lost answer of SQS, a killed command or another look had taken.
pub(crate) async fn look(
    queue: &DeadLetterQueue,
    kept: Kept,
    progress: &ProgressBar,
    stop: &CancellationToken,
) -> anyhow::Result<Fetched> {
    if queue.endpoint.is_some() {
        let letters = peek(queue, kept, progress, stop).await?;
        return Ok(Fetched { letters, hidden: 0 });
    }
    let mut sweep = Sweep::new(queue);
    let looked = see_all(&mut sweep, kept, progress, stop).await;
    sweep.release().await;
    looked
}

async fn see_all(
    sweep: &mut Sweep<'_>,
    kept: Kept,
    progress: &ProgressBar,
    stop: &CancellationToken,
) -> anyhow::Result<Fetched> {
    let mut letters = Vec::new();
    let mut patience = Patience::default();
    let mut is_told = false;
    while !stop.is_cancelled() {
        let received = sweep.receive(WIDTH, BATCH).await?;
        let known = letters.len();
        let new = received.into_iter().filter(|it| it.is_new);
        letters.extend(new.map(|it| kept.of(it.letter)));
        progress.set_position(letters.len() as u64);
        let is_news = letters.len() > known;
        let is_over = patience.is_over(is_news, sweep);
        if is_news {
            continue;
        }
        let hidden = sweep.unseen().await?;
        if hidden == 0 || is_over {
            return Ok(Fetched { letters, hidden });
        }
        if !is_told {
            let most = patience.left().as_secs();
            progress.set_message("waiting for hidden messages");
            progress.suspend(|| {
                output::notice(&format!(
                    "about {hidden} messages are hidden at the moment; waiting for them, up to {most} s"
                ));
            });
            is_told = true;
        }
    }
    Err(Interrupted.into())
}

/// How long it is worth receiving where nothing happens. Whoever looks as this command does hides letters as long as it does.
#[derive(Default)]
pub(crate) struct Patience {
    until: Option<Instant>,
}

impl Patience {
    /// Whether it is, after a round of receives that brought news or not.
    pub(crate) fn is_over(&mut self, is_news: bool, sweep: &Sweep<'_>) -> bool {
        if is_news {
            self.until = None;
            return false;
        }
        let now = Instant::now();
        now > *self.until.get_or_insert_with(|| now + sweep.hide() + LATE)
    }

    fn left(&self) -> Duration {
        self.until
            .map_or(Duration::ZERO, |it| it.duration_since(Instant::now()))
    }
}

/// Asks our own endpoint, which shows messages without a receive.
async fn peek(
    queue: &DeadLetterQueue,
    kept: Kept,
    progress: &ProgressBar,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Letter>> {
    let client = http_client::outward()?;
    let mut letters = Vec::new();
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
        letters.extend(new.map(|it| kept.of(it)));
        progress.set_position(letters.len() as u64);
        after = page.next;
        if after.is_none() {
            return Ok(letters);
        }
    }
}

fn from_peeked(message: Peeked) -> Letter {
    Letter::new(
        message.message_id,
        message.body,
        message.attributes,
        message.dead_letter_source,
        message.sent_at,
    )
}

/// A letter that nobody else receives for a while.
pub(crate) struct Held {
    pub(crate) letter: Letter,
    /// All that SQS told of it.
    pub(crate) message: Message,
    /// Whether it is the first time that this command holds it.
    pub(crate) is_new: bool,
}

/// The letters in the hand of a command.
pub(crate) struct Sweep<'a> {
    queue: &'a DeadLetterQueue,
    began: Instant,
    /// The latest receipt of each letter, by the message's id.
    receipts: BTreeMap<String, String>,
}

impl<'a> Sweep<'a> {
    pub(crate) fn new(queue: &'a DeadLetterQueue) -> Self {
        Self {
            queue,
            began: Instant::now(),
            receipts: BTreeMap::new(),
        }
    }

    /// How long what is received now stays hidden: on a slow endpoint longer and longer, so that what was seen long ago does
    /// not come back again and again before what was not seen yet.
    fn hide(&self) -> Duration {
        let so_far = self.began.elapsed();
        self.queue.hide.max(so_far * 2).min(LONGEST_HIDE)
    }

    /// About how many letters of the queue are not in the hand.
    pub(crate) async fn unseen(&self) -> anyhow::Result<u64> {
        let (visible, hidden) = self.queue.depth().await?;
        Ok((visible + hidden).saturating_sub(self.receipts.len() as u64))
    }

    /// Receives by `width` calls at once, `count` messages each at most. Nothing comes where nothing is visible.
    pub(crate) async fn receive(
        &mut self,
        width: usize,
        count: usize,
    ) -> anyhow::Result<Vec<Held>> {
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
        let mut held = Vec::new();
        let mut failed = None;
        for outcome in join_all(calls).await {
            match outcome {
                Ok(output) => held.extend(
                    output
                        .messages
                        .unwrap_or_default()
                        .into_iter()
                        .filter_map(|it| self.hold(it)),
                ),
                Err(err) => failed = Some(err),
            }
        }
        match failed {
            // What the other calls brought is released with the rest.
            Some(err) => Err(anyhow::Error::new(err)
                .context("could not receive messages from the dead-letter queue")),
            None => Ok(held),
        }
    }

    fn hold(&mut self, message: Message) -> Option<Held> {
        let (id, receipt) = (
            message.message_id()?.to_owned(),
            message.receipt_handle()?.to_owned(),
        );
        let is_new = self.receipts.insert(id.clone(), receipt).is_none();
        let text =
            |it: &aws_sdk_sqs::types::MessageAttributeValue| it.string_value().map(str::to_owned);
        let attributes = message.message_attributes().into_iter().flatten();
        let system = |name| message.attributes()?.get(&name);
        let sent_at = system(MessageSystemAttributeName::SentTimestamp)
            .and_then(|it| Timestamp::from_millisecond(it.parse().ok()?).ok());
        let attributes = attributes.filter_map(|(name, value)| Some((name.clone(), text(value)?)));
        let letter = Letter::new(
            id,
            message.body().unwrap_or_default().to_owned(),
            attributes.collect(),
            system(MessageSystemAttributeName::DeadLetterQueueSourceArn).cloned(),
            sent_at.unwrap_or(Timestamp::UNIX_EPOCH),
        );
        Some(Held {
            letter,
            message,
            is_new,
        })
    }

    /// The receipt of a letter in the hand.
    pub(crate) fn receipt(&self, message_id: &str) -> Option<&String> {
        self.receipts.get(message_id)
    }

    /// Forgets a letter that was deleted.
    pub(crate) fn deleted(&mut self, message_id: &str) {
        self.receipts.remove(message_id);
    }

    /// Makes every letter in the hand visible again. One that can't be released comes back by itself.
    pub(crate) async fn release(self) {
        let receipts: Vec<_> = self.receipts.into_values().collect();
        let batches: Vec<_> = receipts.chunks(BATCH).collect();
        for some in batches.chunks(WIDTH) {
            join_all(some.iter().map(|it| release_batch(self.queue, it))).await;
        }
    }
}

async fn release_batch(queue: &DeadLetterQueue, receipts: &[String]) {
    let entry = |(index, receipt): (usize, &String)| {
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(index.to_string());
        entry
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
    // Whatever went wrong, time makes it good.
    let _ = call.set_entries(Some(entries)).send().await;
}
