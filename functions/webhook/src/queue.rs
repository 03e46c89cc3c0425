//! Sending messages, until all are acknowledged or the sender's patience ends.

mod outbox;
mod sqs;

use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use scanhook_config::aws::json::Service;
use scanhook_core::message::QueueMessage;
use tokio::time::Instant;

pub use self::outbox::Outbox;

/// The longest single try, so that a dead connection is noticed within every sender's patience.
pub const ATTEMPT: Duration = Duration::from_secs(1);

/// Where messages go.
pub enum Queue {
    /// An SQS queue.
    Sqs(Outbox),
    /// A list that tests look into.
    Memory(Mutex<Vec<QueueMessage>>),
}

/// Not every message was acknowledged in time; some may have been.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the queue did not acknowledge every message in time: {0}")]
pub struct SendError(String);

impl Queue {
    /// The SQS queue at `url`.
    pub fn sqs(service: Service, url: String) -> Self {
        Self::Sqs(Outbox::new(service, url))
    }

    /// Opens the connection and fetches credentials by one harmless call, so that the first delivery need not.
    pub async fn warm(&self) -> anyhow::Result<()> {
        let Self::Sqs(outbox) = self else {
            return Ok(());
        };
        let warmed = outbox.sqs().warm().await;
        warmed.context("could not reach the queue")
    }

    /// Sends all of them, or fails at `deadline`. After an error some may be in the queue; the sender's repetition is
    /// then folded by the ledger.
    pub async fn send(
        &self,
        messages: Vec<QueueMessage>,
        deadline: Instant,
    ) -> Result<(), SendError> {
        match self {
            Self::Sqs(outbox) => outbox.send(messages, deadline).await,
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
