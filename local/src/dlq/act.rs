//! What is done with chosen letters: sent back and deleted, or deleted only.
//!
//! **Invariant**: a letter is deleted only after the queue it goes to has acknowledged a message of its scan request. So
//! whatever ends this in between, every request is in one of the two queues or in both.

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

use super::letter::Case;
use super::queue::{DeadLetterQueue, Destination};
use super::sweep::{BATCH, Held, Patience, Sweep};

/// So many batches are under way at once. A process that is killed leaves as many in both queues at most.
const WIDTH: usize = 4;

/// A batch call may hold 1 MiB in all regions by now, but 256 KiB everywhere.
const LARGEST_BATCH: usize = 256 << 10;

/// What is done with the letters.
pub(crate) enum Deed {
    /// Sent to that queue and deleted.
    Redrive {
        destination: Destination,
        /// Whether the scanner is told to scan again, whatever the ledger says.
        force: bool,
        /// Messages a second.
        rate: u16,
    },
    /// Deleted only.
    Delete,
}

/// What came of it. Requests are counted, but where messages are named.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Done {
    /// Sent back.
    pub(crate) redriven: usize,
    /// Scanned since they failed, so deleted without another scan.
    pub(crate) scanned_since: usize,
    /// Messages that were deleted.
    pub(crate) deleted_messages: usize,
    /// Chosen messages that are still in the dead-letter queue.
    pub(crate) left_messages: usize,
    /// Requests that the queue did not take, or that can't be told to scan again; with why.
    pub(crate) refused: BTreeMap<String, String>,
    /// Whether it was asked to stop before the end.
    pub(crate) interrupted: bool,
}

/// How far a request has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its message must be sent before a letter of it may be deleted.
    ToSend,
    /// Its letters may be deleted.
    ToDelete,
    /// Its letters stay.
    Refused,
}

struct Work<'a> {
    queue: &'a DeadLetterQueue,
    deed: &'a Deed,
    sweep: Sweep<'a>,
    /// The index of its request, by the message's id, of each letter that is still to be done.
    open: BTreeMap<String, usize>,
    stages: Vec<Stage>,
    ids: Vec<String>,
    pace: Pace,
    done: Done,
}

/// Does the deed to the letters of `cases` and to no other.
pub(crate) async fn act(
    queue: &DeadLetterQueue,
    deed: &Deed,
    cases: &[Case],
    progress: &ProgressBar,
    stop: &CancellationToken,
) -> anyhow::Result<Done> {
    let is_settled = |it: &Case| match deed {
        Deed::Delete => true,
        Deed::Redrive { force, .. } => !force && it.is_scanned_since(),
    };
    let stage = |it: &Case| {
        if is_settled(it) {
            Stage::ToDelete
        } else {
            Stage::ToSend
        }
    };
    let letters = cases.iter().enumerate();
    let open = letters.flat_map(|(index, it)| {
        it.letters()
            .iter()
            .map(move |it| (it.message_id.clone(), index))
    });
    let scanned_since = match deed {
        Deed::Delete => 0,
        Deed::Redrive { .. } => cases.iter().filter(|it| is_settled(it)).count(),
    };
    let mut work = Work {
        queue,
        deed,
        sweep: Sweep::new(queue),
        open: open.collect(),
        stages: cases.iter().map(stage).collect(),
        ids: cases.iter().map(Case::id).collect(),
        pace: Pace::new(deed),
        done: Done {
            scanned_since,
            ..Done::default()
        },
    };
    let outcome = work.run(progress, stop).await;
    let Work {
        sweep,
        open,
        mut done,
        ..
    } = work;
    sweep.release().await;
    done.left_messages = open.len();
    outcome.map(|()| done)
}

impl Work<'_> {
    async fn run(
        &mut self,
        progress: &ProgressBar,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut patience = Patience::default();
        while self.is_open() {
            if !self.pace.wait(stop).await {
                self.done.interrupted = true;
                return Ok(());
            }
            let held = self.sweep.receive(self.pace.width, self.pace.count).await?;
            let (is_empty, is_news) = (held.is_empty(), held.iter().any(|it| it.is_new));
            let before = self.open.len();
            self.handle(held).await?;
            progress.inc((before - self.open.len()) as u64);
            let is_news = is_news || self.open.len() < before;
            if patience.is_over(is_news, &self.sweep) || is_empty && self.sweep.unseen().await? == 0
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether there is anything that can still be done.
    fn is_open(&self) -> bool {
        self.open
            .values()
            .any(|it| self.stage(*it) != Stage::Refused)
    }

    fn stage(&self, case: usize) -> Stage {
        self.stages.get(case).copied().unwrap_or(Stage::Refused)
    }

    fn set_stage(&mut self, case: usize, to: Stage) {
        if let Some(stage) = self.stages.get_mut(case) {
            *stage = to;
        }
    }

    async fn handle(&mut self, held: Vec<Held>) -> anyhow::Result<()> {
        let chosen: Vec<(usize, Held)> = held
            .into_iter()
            .filter_map(|it| Some((*self.open.get(&it.letter.message_id)?, it)))
            .collect();
        self.send(&chosen).await?;
        let deletable = chosen
            .iter()
            .filter(|(case, _)| self.stage(*case) == Stage::ToDelete);
        let ids: Vec<_> = deletable
            .map(|(_, it)| it.letter.message_id.clone())
            .collect();
        self.delete(&ids).await
    }

    /// Sends one message for each request that was not sent yet.
    async fn send(&mut self, chosen: &[(usize, Held)]) -> anyhow::Result<()> {
        let Deed::Redrive {
            destination, force, ..
        } = self.deed
        else {
            return Ok(());
        };
        let mut batches: Vec<Vec<(usize, SendMessageBatchRequestEntry)>> = Vec::new();
        let (mut size, mut seen) = (LARGEST_BATCH, BTreeSet::new());
        for (case, held) in chosen {
            if self.stage(*case) != Stage::ToSend || !seen.insert(*case) {
                continue;
            }
            let entry = match entry(&held.message, *case, *force) {
                Ok(entry) => entry,
                Err(why) => {
                    self.refuse(*case, why);
                    continue;
                }
            };
            let length = entry.message_body().len() + ATTRIBUTES;
            match batches.last_mut() {
                Some(batch) if batch.len() < BATCH && size + length <= LARGEST_BATCH => {
                    batch.push((*case, entry));
                    size += length;
                }
                _ => {
                    batches.push(vec![(*case, entry)]);
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
        let mut failed = None;
        for outcome in join_all(calls).await {
            match outcome {
                Ok(output) => {
                    for sent in output.successful() {
                        if let Ok(case) = sent.id().parse() {
                            self.set_stage(case, Stage::ToDelete);
                            self.done.redriven += 1;
                        }
                    }
                    for refused in output.failed() {
                        if let Ok(case) = refused.id().parse() {
                            let why = refused.message().unwrap_or_else(|| refused.code());
                            self.refuse(case, format!("{}: {why}", refused.code()));
                        }
                    }
                }
                Err(err) => failed = Some(err),
            }
        }
        // What was acknowledged is deleted first, so that it is not sent again by the next command.
        if let Some(err) = failed {
            let sent = chosen
                .iter()
                .filter(|(case, _)| self.stage(*case) == Stage::ToDelete);
            let ids: Vec<_> = sent.map(|(_, it)| it.letter.message_id.clone()).collect();
            self.delete(&ids).await?;
            return Err(anyhow::Error::new(err)
                .context(format!("could not send messages to {}", destination.url)));
        }
        Ok(())
    }

    fn refuse(&mut self, case: usize, why: String) {
        self.set_stage(case, Stage::Refused);
        if let Some(id) = self.ids.get(case) {
            self.done.refused.insert(id.clone(), why);
        }
    }

    /// Deletes letters in the hand. One that is not deleted comes up again, and is deleted then.
    async fn delete(&mut self, message_ids: &[String]) -> anyhow::Result<()> {
        let batches = message_ids.chunks(BATCH);
        let calls = batches.map(|batch| {
            let entry = |(index, id): (usize, &String)| {
                let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
                entry
                    .set_receipt_handle(self.sweep.receipt(id).cloned())
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
                self.sweep.deleted(id);
                self.done.deleted_messages += 1;
            }
        }
        Ok(())
    }
}

/// What attributes add to a message's size at most, about: ten of them, as SQS allows, of the size of ours.
const ATTRIBUTES: usize = 2 << 10;

/// The message to send for a letter: the same, without what the scanner wrote beside it.
fn entry(
    message: &Message,
    case: usize,
    force: bool,
) -> Result<SendMessageBatchRequestEntry, String> {
    let body = message.body().unwrap_or_default();
    let body = if force {
        forced(body)?
    } else {
        body.to_owned()
    };
    let mut entry = SendMessageBatchRequestEntry::builder()
        .id(case.to_string())
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

/// The same message with its flag to scan again. Fields that this version does not know stay.
fn forced(body: &str) -> Result<String, String> {
    QueueMessage::parse(body).map_err(|err| format!("--force needs a scan message: {err}"))?;
    let mut json: serde_json::Value = serde_json::from_str(body).map_err(|err| err.to_string())?;
    if let Some(fields) = json.as_object_mut() {
        fields.insert("force".to_owned(), true.into());
    }
    Ok(json.to_string())
}

/// How many messages may be sent when.
struct Pace {
    /// The time of one message.
    each: Duration,
    next: Instant,
    /// How many receives at once, and how many messages each, so that nothing waits in the hand for its turn.
    width: usize,
    count: usize,
}

impl Pace {
    fn new(deed: &Deed) -> Self {
        let (each, in_half_a_second) = match deed {
            Deed::Delete => (Duration::ZERO, usize::MAX),
            Deed::Redrive { rate, .. } => (
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

    /// Waits for the next turn; `false` if it was asked to stop.
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
    fn what_is_sent_back_is_the_message_without_what_the_scanner_wrote_beside_it() {
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
    async fn messages_are_sent_at_the_rate_that_was_asked_for() {
        let stop = CancellationToken::new();
        for (rate, width, count) in [(1_u16, 1, 1), (10, 1, 5), (50, 2, 10), (500, WIDTH, BATCH)] {
            let deed = Deed::Redrive {
                destination: Destination {
                    url: String::new(),
                    arn: String::new(),
                },
                force: false,
                rate,
            };
            let mut pace = Pace::new(&deed);
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
    async fn who_asks_to_stop_is_not_kept_waiting_for_the_next_turn() {
        let stop = CancellationToken::new();
        let mut pace = Pace::new(&Deed::Delete);
        pace.next = Instant::now() + Duration::from_hours(1);
        stop.cancel();
        assert!(!pace.wait(&stop).await);
    }
}
