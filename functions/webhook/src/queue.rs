//! Sending messages, until all are acknowledged or the sender's patience ends.

mod outbox;
mod sqs;

use std::time::Duration;

use anyhow::Context as _;
use aws_sdk_sqs::config::Builder;
use scanhook_core::message::QueueMessage;
use tokio::time::Instant;

use self::outbox::Outbox;
use self::sqs::Sqs;

/// The longest single try, so that a dead connection is noticed within every sender's patience.
pub const ATTEMPT: Duration = Duration::from_secs(1);

/// An SQS queue. Clones share what is on its way there.
#[derive(Clone)]
pub struct Queue(Outbox);

/// Not every message was acknowledged in time; some may have been.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the queue did not acknowledge every message in time: {0}")]
pub struct SendError(String);

impl Queue {
    /// The queue at `url`, called with `settings`; retries are the queue's own.
    pub fn sqs(settings: Builder, url: String) -> Self {
        Self(Outbox::new(Sqs::new(settings, url)))
    }

    /// Opens the connection and fetches credentials by one harmless call, so that the first delivery need not.
    pub async fn warm(&self) -> anyhow::Result<()> {
        let warmed = self.0.sqs().warm().await;
        warmed.context("could not reach the queue")
    }

    /// Sends all of them, or fails at `deadline`. After an error some may be in the queue; the sender's repetition is
    /// then folded by the ledger.
    pub async fn send(
        &self,
        messages: Vec<QueueMessage>,
        deadline: Instant,
    ) -> Result<(), SendError> {
        self.0.send(messages, deadline).await
    }
}
