//! Receives messages and forms batches.
//!
//! **Invariant**: a receive in progress is never dropped, because its messages would be hidden although nobody processes them.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Config, Mapping};
use crate::clock::Clock;

/// Lambda's limit for an event.
const LARGEST_EVENT: usize = 6 << 20;

/// A generous guess of a record's size without its body and message attributes.
const RECORD_OVERHEAD: usize = 2 << 10;

const SECOND: Duration = Duration::from_secs(1);

/// The pause after the first failed receive; it doubles up to `LONGEST_PAUSE`.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

pub(super) struct Poller<'a> {
    client: &'a Client,
    config: &'a Config,
    clock: &'a Clock,
    stopping: &'a CancellationToken,
    /// Messages that didn't fit into the last event.
    carried: Vec<Message>,
    failed_receives: u32,
    admission: watch::Receiver<bool>,
}

impl<'a> Poller<'a> {
    pub(super) fn new<H>(mapping: &'a Mapping<H>, stopping: &'a CancellationToken) -> Self {
        Self {
            client: &mapping.client,
            config: &mapping.config,
            clock: &mapping.clock,
            stopping,
            carried: Vec::new(),
            failed_receives: 0,
            admission: mapping.admission.clone(),
        }
    }

    /// Waits for messages and returns a batch. On shutdown, the batch may be empty or incomplete.
    pub(super) async fn next_batch(&mut self) -> Vec<Message> {
        let mut batch = std::mem::take(&mut self.carried);
        let mut window_end = None;
        while batch.len() < self.config.batch_size && !self.stopping.is_cancelled() {
            let wait = match window_end {
                None if batch.is_empty() => self.config.receive_wait,
                None => {
                    window_end = Some(self.clock.elapsed() + self.config.batching_window);
                    continue;
                }
                Some(end) => {
                    let remaining = end.saturating_sub(self.clock.elapsed());
                    if remaining.is_zero() {
                        break;
                    }
                    // SQS waits in whole seconds, so sleep for the fraction and receive once more.
                    if remaining < SECOND {
                        self.pause_until(end).await;
                    }
                    remaining.min(self.config.receive_wait)
                }
            };
            batch.extend(
                self.receive(self.config.batch_size - batch.len(), wait)
                    .await,
            );
            if size(&batch) > LARGEST_EVENT {
                break;
            }
        }
        self.carried = batch.split_off(fitting(&batch));
        batch
    }

    /// Received messages that are in no batch.
    pub(super) fn into_carried(self) -> Vec<Message> {
        self.carried
    }

    /// Receives up to `count` messages. Pauses after a failure, and logs it once per outage.
    async fn receive(&mut self, count: usize, wait: Duration) -> Vec<Message> {
        tokio::select! {
            // If the sender is gone, nothing can pause receiving any more.
            _ = self.admission.wait_for(|it| *it) => {}
            () = self.stopping.cancelled() => return Vec::new(),
        }
        let request = self
            .client
            .receive_message()
            .queue_url(&self.config.queue_url)
            .max_number_of_messages(i32::try_from(count.min(10)).unwrap_or(10))
            .wait_time_seconds(i32::try_from(wait.as_secs()).unwrap_or(20))
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All");
        match request.send().await {
            Ok(received) => {
                if self.failed_receives > 0 {
                    let failed_receives = self.failed_receives;
                    tracing::info!(
                        failed_receives,
                        "the queue answers again after {failed_receives} failed receives"
                    );
                    self.failed_receives = 0;
                }
                received.messages.unwrap_or_default()
            }
            Err(err) => {
                if self.failed_receives == 0 {
                    let url = &self.config.queue_url;
                    tracing::warn!(
                        error = &err as &dyn std::error::Error,
                        "could not receive from {url}; retrying"
                    );
                }
                let pause = backoff(self.failed_receives, SHORTEST_PAUSE, LONGEST_PAUSE);
                self.failed_receives = self.failed_receives.saturating_add(1);
                self.pause_until(self.clock.elapsed() + pause).await;
                Vec::new()
            }
        }
    }

    /// Waits for an instant of the mapping's clock, or for shutdown.
    async fn pause_until(&self, elapsed: Duration) {
        tokio::select! {
            () = self.clock.sleep_until(elapsed) => {}
            () = self.stopping.cancelled() => {}
        }
    }
}

/// The pause after a failure that followed `failures` others. The time doubles, and jitter takes up to half of it away, so that many
/// clients don't return at once.
pub(super) fn backoff(failures: u32, shortest: Duration, longest: Duration) -> Duration {
    let full = shortest
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(longest);
    full / 2 + full.mul_f64(rand::random_range(0.0..=0.5))
}

/// How many messages from the start of `batch` fit into one event: at least one.
fn fitting(batch: &[Message]) -> usize {
    let mut total = 0;
    let fits = |message: &&Message| {
        total += size(std::slice::from_ref(message));
        total <= LARGEST_EVENT
    };
    batch
        .iter()
        .take_while(fits)
        .count()
        .max(1)
        .min(batch.len())
}

fn size(batch: &[Message]) -> usize {
    let attribute = |(name, value): (&String, &aws_sdk_sqs::types::MessageAttributeValue)| {
        name.len()
            + value.string_value().map_or(0, str::len)
            + value.binary_value().map_or(0, |it| it.as_ref().len() * 2)
    };
    let message = |it: &Message| {
        let attributes: usize = it
            .message_attributes()
            .into_iter()
            .flatten()
            .map(attribute)
            .sum();
        RECORD_OVERHEAD + it.body().map_or(0, str::len) + attributes
    };
    batch.iter().map(message).sum()
}
