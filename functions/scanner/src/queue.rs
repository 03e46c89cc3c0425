//! What the scanner says to SQS: how long a record stays hidden, and what becomes a dead letter. Receiving and deleting
//! is the event source mapping's part.

use std::time::Duration;

use aws_lambda_events::sqs::SqsMessage;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, MessageAttributeValue, QueueAttributeName,
};
use futures_util::future::join_all;
use serde::Deserialize;

/// The longest single try of a call.
pub const ATTEMPT: Duration = Duration::from_secs(3);

/// Entries of one batch call. Source: Amazon SQS API reference, as for the next.
const MAX_ENTRIES: usize = 10;

/// A message can be hidden for 12 hours in all, counted from its receive; a run's time is left of that.
const MAX_HIDDEN: Duration = Duration::from_hours(11);

/// The queue that records come from, and its dead-letter queue.
pub struct Queue {
    client: Client,
    url: String,
    dead_letter_url: String,
    attempts: u32,
    lease: Option<Duration>,
}

/// The queue is not one that this configuration can work on.
#[derive(Debug, thiserror::Error)]
pub enum OpenQueueError {
    /// It does not answer, or not us.
    #[error("could not read the attributes of the queue {url}: {problem}")]
    Unreachable {
        /// Which queue.
        url: String,
        /// Why not.
        problem: String,
    },
    /// It would repeat a message for ever.
    #[error("the queue {0} has no redrive policy")]
    NoRedrivePolicy(String),
    /// It gives up sooner or later than we do.
    #[error("retry.attempts is {attempts}, but the queue's maxReceiveCount is {max_receive_count}")]
    Attempts {
        /// Ours.
        attempts: u32,
        /// The queue's.
        max_receive_count: u32,
    },
    /// It gives up to elsewhere.
    #[error("SCANHOOK_DLQ_URL names {ours}, but the queue's dead-letter queue is {queues}")]
    DeadLetterQueue {
        /// The name in our URL.
        ours: String,
        /// The name in the queue's redrive policy.
        queues: String,
    },
}

/// What a dead letter says besides its body.
pub struct DeadLetter<'a> {
    /// The message, as it was received.
    pub body: &'a str,
    /// Its message group.
    pub group: Option<&'a str>,
    /// Attributes by name; one without a value is left out, since SQS takes no empty ones.
    pub attributes: [(&'static str, Option<String>); 5],
}

/// A dead letter was not taken.
#[derive(Debug, thiserror::Error)]
#[error("the dead-letter queue did not take a message: {0}")]
pub struct SendToDlqError(String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireRedrivePolicy {
    dead_letter_target_arn: String,
    max_receive_count: WireCount,
}

/// SQS takes a number and a string alike, and returns what it took.
#[derive(Deserialize)]
#[serde(untagged)]
enum WireCount {
    Number(u32),
    Text(String),
}

impl Queue {
    /// Reads the queue's redrive policy and checks that it and the configuration agree. Also opens the connection and
    /// fetches credentials, so that the first batch need not.
    pub async fn open(
        client: Client,
        url: String,
        dead_letter_url: String,
        attempts: u32,
    ) -> Result<Self, OpenQueueError> {
        let output = client
            .get_queue_attributes()
            .queue_url(&url)
            .attribute_names(QueueAttributeName::RedrivePolicy)
            .send()
            .await
            .map_err(|err| OpenQueueError::Unreachable {
                url: url.clone(),
                problem: DisplayErrorContext(err).to_string(),
            })?;
        let policy = output
            .attributes()
            .and_then(|it| it.get(&QueueAttributeName::RedrivePolicy));
        check(policy.map(String::as_str), &url, &dead_letter_url, attempts)?;
        Ok(Self {
            client,
            url,
            dead_letter_url,
            attempts,
            lease: None,
        })
    }

    /// Hides records for this long at a time, and renews that while they are worked on: so a worker that is
    /// killed soon loses its records to others, however long its scans might have taken.
    #[must_use]
    pub fn renewing(self, lease: Duration) -> Self {
        Self {
            lease: Some(lease),
            ..self
        }
    }

    /// For how long records are hidden at a time; `None` if that is not renewed.
    pub fn lease(&self) -> Option<Duration> {
        self.lease
    }

    /// Hides a record for its whole time once more. Returns whether the queue has accepted that.
    pub async fn renew(&self, record: &SqsMessage) -> bool {
        let Some(lease) = self.lease else {
            return true;
        };
        self.hide(record, lease).await
    }

    /// After how many receives a message is given up.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Hides every record for that long. What fails stays hidden as long as the queue says.
    pub async fn hide_all(&self, records: &[SqsMessage], duration: Duration) {
        let duration = self.lease.map_or(duration, |it| it.min(duration));
        let entries: Vec<_> = records
            .iter()
            .filter_map(|it| it.receipt_handle.as_deref())
            .enumerate()
            .filter_map(|(index, receipt)| {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder();
                let entry = entry.id(index.to_string()).receipt_handle(receipt);
                entry.visibility_timeout(seconds(duration)).build().ok()
            })
            .collect();
        let batches = entries.chunks(MAX_ENTRIES).map(|it| self.hide_batch(it));
        join_all(batches).await;
    }

    async fn hide_batch(&self, entries: &[ChangeMessageVisibilityBatchRequestEntry]) {
        let call = self
            .client
            .change_message_visibility_batch()
            .queue_url(&self.url)
            .set_entries(Some(entries.to_vec()));
        let problem = match call.send().await {
            Ok(output) => match output.failed() {
                [] => return,
                [failed, ..] => failed.code().to_owned(),
            },
            Err(err) => DisplayErrorContext(err).to_string(),
        };
        tracing::warn!(
            "could not hide a batch, so its records may come back before they are done: {problem}"
        );
    }

    /// Hides a record that is reported failed for that long. Returns whether the queue has accepted that.
    pub async fn hide(&self, record: &SqsMessage, duration: Duration) -> bool {
        let call = self
            .client
            .change_message_visibility()
            .queue_url(&self.url)
            .set_receipt_handle(record.receipt_handle.clone())
            .visibility_timeout(seconds(duration));
        if let Err(err) = call.send().await {
            let problem = DisplayErrorContext(err);
            tracing::warn!("could not set when a record comes back: {problem}");
            return false;
        }
        true
    }

    /// Puts a message into the dead-letter queue.
    pub async fn send_to_dlq(&self, letter: DeadLetter<'_>) -> Result<(), SendToDlqError> {
        let mut call = self
            .client
            .send_message()
            .queue_url(&self.dead_letter_url)
            .message_body(letter.body)
            .set_message_group_id(letter.group.map(str::to_owned));
        for (name, value) in letter.attributes {
            let Some(value) = value.filter(|it| !it.is_empty()) else {
                continue;
            };
            let value = MessageAttributeValue::builder()
                .data_type("String")
                .string_value(value)
                .build();
            let Ok(value) = value else {
                unreachable!("the data type is set")
            };
            call = call.message_attributes(name, value);
        }
        call.send()
            .await
            .map_err(|err| SendToDlqError(DisplayErrorContext(err).to_string()))?;
        Ok(())
    }
}

/// Whole seconds, rounded up, as SQS takes them.
fn seconds(duration: Duration) -> i32 {
    let duration = duration.min(MAX_HIDDEN);
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

fn check(
    policy: Option<&str>,
    url: &str,
    dead_letter_url: &str,
    attempts: u32,
) -> Result<(), OpenQueueError> {
    let policy: Option<WireRedrivePolicy> = policy.and_then(|it| serde_json::from_str(it).ok());
    let policy = policy.ok_or_else(|| OpenQueueError::NoRedrivePolicy(url.to_owned()))?;
    let max_receive_count = match policy.max_receive_count {
        WireCount::Number(count) => count,
        WireCount::Text(text) => text.parse().unwrap_or_default(),
    };
    if max_receive_count != attempts {
        return Err(OpenQueueError::Attempts {
            attempts,
            max_receive_count,
        });
    }
    let ours = name(dead_letter_url, '/');
    let queues = name(&policy.dead_letter_target_arn, ':');
    if ours != queues {
        return Err(OpenQueueError::DeadLetterQueue {
            ours: ours.to_owned(),
            queues: queues.to_owned(),
        });
    }
    Ok(())
}

/// The name of a queue, which ends its URL and its ARN.
fn name(text: &str, separator: char) -> &str {
    text.rsplit(separator).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_policy(policy: Option<&str>) -> String {
        let checked = check(policy, "http://h/0/q", "http://h/0/dlq", 10);
        checked.map_or_else(|err| err.to_string(), |()| "agrees".to_owned())
    }

    #[test]
    fn a_redrive_policy_must_agree_with_the_configuration() {
        for (policy, expected) in [
            (None, "the queue http://h/0/q has no redrive policy"),
            (Some("{}"), "the queue http://h/0/q has no redrive policy"),
            (
                Some(r#"{"deadLetterTargetArn":"arn:aws:sqs:r:0:dlq","maxReceiveCount":10}"#),
                "agrees",
            ),
            (
                Some(r#"{"deadLetterTargetArn":"arn:aws:sqs:r:0:dlq","maxReceiveCount":"10"}"#),
                "agrees",
            ),
            (
                Some(r#"{"deadLetterTargetArn":"arn:aws:sqs:r:0:dlq","maxReceiveCount":5}"#),
                "retry.attempts is 10, but the queue's maxReceiveCount is 5",
            ),
            (
                Some(r#"{"deadLetterTargetArn":"arn:aws:sqs:r:0:other","maxReceiveCount":10}"#),
                "SCANHOOK_DLQ_URL names dlq, but the queue's dead-letter queue is other",
            ),
        ] {
            assert_eq!(check_policy(policy), expected);
        }
    }

    #[test]
    fn a_wait_is_rounded_up_and_stays_within_what_sqs_takes() {
        let waits = [
            Duration::ZERO,
            Duration::from_millis(1),
            Duration::from_secs(30),
            Duration::from_hours(100),
        ];
        assert_eq!(waits.map(seconds), [0, 1, 30, 11 * 3600]);
    }
}
