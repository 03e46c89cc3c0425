//! Sending messages: in batches, until all are acknowledged or the sender's patience ends.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use scanhook_core::message::QueueMessage;
use tokio::time::{Instant, sleep, timeout_at};

/// Entries in one `SendMessageBatch`. Source: Amazon SQS API reference, as for the next.
const MAX_ENTRIES: usize = 10;

/// Bytes in one `SendMessageBatch`, bodies and attributes together; a little is left for what SQS adds.
const MAX_BYTES: usize = 1_048_576 - 16_384;

/// Batches of one delivery that are sent at once.
const BATCHES_AT_ONCE: usize = 8;

/// The longest single try, so that a dead connection is noticed within every sender's patience.
pub const ATTEMPT: Duration = Duration::from_secs(1);

/// The pause before a second try; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where messages go.
pub enum Queue {
    /// An SQS queue.
    Sqs {
        /// The client.
        client: Client,
        /// The queue's URL.
        url: String,
    },
    /// A list that tests look into.
    Memory(Mutex<Vec<QueueMessage>>),
}

/// Not every message was acknowledged in time; some may have been.
#[derive(Debug, thiserror::Error)]
#[error("the queue did not acknowledge every message in time: {0}")]
pub struct SendError(String);

impl Queue {
    /// Opens the connection and fetches credentials by one harmless call, so that the first delivery need not.
    pub async fn warm(&self) -> anyhow::Result<()> {
        let Self::Sqs { client, url } = self else {
            return Ok(());
        };
        client
            .get_queue_attributes()
            .queue_url(url)
            .send()
            .await
            .context("could not reach the queue")?;
        Ok(())
    }

    /// Sends all of them, or fails at `deadline`. After an error some may be in the queue; the sender's repetition is
    /// then folded by the ledger.
    pub async fn send(
        &self,
        messages: Vec<QueueMessage>,
        deadline: Instant,
    ) -> Result<(), SendError> {
        match self {
            Self::Sqs { client, url } => {
                let batches = batches(&messages)
                    .into_iter()
                    .map(|it| send_batch(client, url, it, deadline));
                stream::iter(batches)
                    .buffer_unordered(BATCHES_AT_ONCE)
                    .try_collect()
                    .await
            }
            Self::Memory(sent) => {
                let mut sent = sent
                    .lock()
                    .map_err(|_| SendError("a test panicked".to_owned()))?;
                sent.extend(messages);
                Ok(())
            }
        }
    }
}

fn batches(messages: &[QueueMessage]) -> Vec<Vec<SendMessageBatchRequestEntry>> {
    let mut batches: Vec<Vec<SendMessageBatchRequestEntry>> = Vec::new();
    let mut bytes = 0;
    for (index, message) in messages.iter().enumerate() {
        let body = message.to_json();
        bytes += body.len();
        let is_full = batches.last().is_none_or(|it| it.len() == MAX_ENTRIES) || bytes > MAX_BYTES;
        let entry = SendMessageBatchRequestEntry::builder()
            .id(index.to_string())
            .message_group_id(message.source.as_str())
            .set_message_body(Some(body));
        let Ok(entry) = entry.build() else {
            unreachable!("id and body are set")
        };
        if is_full {
            bytes = entry.message_body().len();
            batches.push(Vec::new());
        }
        if let Some(batch) = batches.last_mut() {
            batch.push(entry);
        }
    }
    batches
}

async fn send_batch(
    client: &Client,
    url: &str,
    mut entries: Vec<SendMessageBatchRequestEntry>,
    deadline: Instant,
) -> Result<(), SendError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let problem = match timeout_at(deadline, try_batch(client, url, &entries, deadline)).await {
            Ok(Ok(failed)) if failed.is_empty() => return Ok(()),
            Ok(Ok(failed)) => {
                entries.retain(|it| failed.iter().any(|(id, _)| id == it.id()));
                failed
                    .into_iter()
                    .next()
                    .map_or_else(String::new, |(_, code)| code)
            }
            Ok(Err(problem)) => problem,
            Err(_) => return Err(SendError("out of time".to_owned())),
        };
        if Instant::now() + pause >= deadline {
            return Err(SendError(problem));
        }
        tracing::debug!(
            problem,
            left = entries.len(),
            "the queue did not take a batch, trying again"
        );
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Sends a batch once and tells which entries failed, with their codes.
async fn try_batch(
    client: &Client,
    url: &str,
    entries: &[SendMessageBatchRequestEntry],
    deadline: Instant,
) -> Result<Vec<(String, String)>, String> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeouts = TimeoutConfig::builder()
        .operation_timeout(left)
        .operation_attempt_timeout(ATTEMPT.min(left))
        .build();
    let call = client
        .send_message_batch()
        .queue_url(url)
        .set_entries(Some(entries.to_vec()))
        .customize();
    let call = call.config_override(aws_sdk_sqs::config::Builder::new().timeout_config(timeouts));
    let output = call
        .send()
        .await
        .map_err(|err| aws_sdk_sqs::error::DisplayErrorContext(err).to_string())?;
    // A batch can fail in part with HTTP 200; and an entry that is in neither list was not acknowledged.
    let acknowledged = |id: &str| output.successful().iter().any(|it| it.id() == id);
    let code = |id: &str| {
        output
            .failed()
            .iter()
            .find(|it| it.id() == id)
            .map_or("not acknowledged", |it| it.code())
    };
    let failed = entries
        .iter()
        .map(SendMessageBatchRequestEntry::id)
        .filter(|it| !acknowledged(it));
    Ok(failed
        .map(|it| (it.to_owned(), code(it).to_owned()))
        .collect())
}
