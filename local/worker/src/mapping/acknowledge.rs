//! Deletes processed messages, and releases messages that were not started or were interrupted.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
};
use tokio_util::sync::CancellationToken;

use super::poller::backoff;
use crate::clock::Clock;

/// The most entries of an SQS batch.
const CHUNK: usize = 10;

/// Without a delete, the message is processed again, so a failed delete is worth some retries.
const DELETE_ATTEMPTS: u32 = 6;
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Deletes processed messages. Stops retrying once `cancelled`.
pub(super) async fn delete(
    client: &Client,
    queue_url: &str,
    messages: Vec<Message>,
    clock: &Clock,
    cancelled: &CancellationToken,
) {
    for chunk in messages.chunks(CHUNK) {
        let mut remaining: Vec<&Message> = chunk.iter().collect();
        let mut failures = 0;
        loop {
            remaining = delete_once(client, queue_url, remaining).await;
            failures += 1;
            if remaining.is_empty() {
                break;
            }
            if failures == DELETE_ATTEMPTS || cancelled.is_cancelled() {
                let messages = remaining.len();
                tracing::error!(
                    messages,
                    "could not delete {messages} processed messages; they will be processed again"
                );
                break;
            }
            tokio::select! {
                () = clock.sleep(backoff(failures, SHORTEST_PAUSE, LONGEST_PAUSE)) => {}
                () = cancelled.cancelled() => {}
            }
        }
    }
}

/// Deletes messages, and returns those to retry.
async fn delete_once<'a>(
    client: &Client,
    queue_url: &str,
    messages: Vec<&'a Message>,
) -> Vec<&'a Message> {
    let entries = messages.iter().enumerate().filter_map(|(index, message)| {
        let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
        entry.receipt_handle(message.receipt_handle()?).build().ok()
    });
    let answer = client
        .delete_message_batch()
        .queue_url(queue_url)
        .set_entries(Some(entries.collect()))
        .send()
        .await;
    match answer {
        Ok(answer) => {
            let retry = |failure: &aws_sdk_sqs::types::BatchResultErrorEntry| {
                tracing::warn!(
                    code = failure.code(),
                    "could not delete a processed message: {}",
                    failure.code()
                );
                // A retry can't succeed if SQS blames the sender.
                (!failure.sender_fault())
                    .then(|| failure.id().parse().ok())
                    .flatten()
            };
            let indices: Vec<usize> = answer.failed().iter().filter_map(retry).collect();
            indices
                .into_iter()
                .filter_map(|index| messages.get(index).copied())
                .collect()
        }
        Err(err) => {
            let error = &err as &dyn std::error::Error;
            tracing::warn!(
                error,
                "could not delete {} processed messages",
                messages.len()
            );
            messages
        }
    }
}

/// Makes unprocessed messages visible again.
pub(super) async fn release(client: &Client, queue_url: &str, messages: &[Message]) {
    for chunk in messages.chunks(CHUNK) {
        let entries = chunk.iter().enumerate().filter_map(|(index, message)| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(index.to_string());
            entry
                .receipt_handle(message.receipt_handle()?)
                .visibility_timeout(0)
                .build()
                .ok()
        });
        let request = client
            .change_message_visibility_batch()
            .queue_url(queue_url);
        if let Err(err) = request.set_entries(Some(entries.collect())).send().await {
            let error = &err as &dyn std::error::Error;
            tracing::warn!(
                error,
                "could not release {} messages; they stay hidden until their visibility timeout",
                chunk.len()
            );
        }
    }
}
