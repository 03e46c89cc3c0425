//! The two operations of SQS that the webhook needs.
//!
//! Source: Amazon SQS API reference, `GetQueueAttributes` and `SendMessageBatch`.

use std::error::Error;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Builder;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use scanhook_config::aws::problem;
use tokio::time::timeout;

use super::ATTEMPT;

/// One queue.
pub(super) struct Sqs {
    client: Client,
    url: String,
}

/// A message of a batch. Its place in the batch is its id.
pub(super) struct Entry<'a> {
    pub(super) body: &'a str,
    pub(super) group: &'a str,
}

/// What was not acknowledged of a batch.
pub(super) struct Refused {
    /// Its place in the batch.
    pub(super) index: usize,
    /// SQS's code for the reason.
    pub(super) code: String,
}

/// A call failed. For operators.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct CallError(String);

impl Sqs {
    pub(super) fn new(settings: Builder, url: String) -> Self {
        // The outbox repeats what failed, and only that.
        let settings = settings
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(ATTEMPT).build());
        Self {
            client: Client::from_conf(settings.build()),
            url,
        }
    }

    /// Calls an operation that changes nothing.
    pub(super) async fn warm(&self) -> Result<(), CallError> {
        let call = self.client.get_queue_attributes().queue_url(&self.url);
        within(ATTEMPT, call.send()).await.map(drop)
    }

    /// Sends a batch once, within `limit`, and returns the messages that were not acknowledged.
    pub(super) async fn send<'a>(
        &self,
        batch: impl ExactSizeIterator<Item = Entry<'a>>,
        limit: Duration,
    ) -> Result<Vec<Refused>, CallError> {
        let count = batch.len();
        let entry = |(index, entry): (usize, Entry<'a>)| {
            let wire = SendMessageBatchRequestEntry::builder().id(index.to_string());
            let wire = wire.message_body(entry.body).message_group_id(entry.group);
            let Ok(wire) = wire.build() else {
                unreachable!("an entry has an id and a body")
            };
            wire
        };
        let entries = batch.enumerate().map(entry).collect();
        let call = self.client.send_message_batch().queue_url(&self.url);
        let results = within(limit, call.set_entries(Some(entries)).send()).await?;
        let mut refused = results.failed;
        // A batch can fail in part with HTTP 200; and an entry that is in neither list was not acknowledged.
        let result = |index: usize| {
            let id = index.to_string();
            if results.successful.iter().any(|it| it.id == id) {
                return None;
            }
            let failed = refused.iter().position(|it| it.id == id);
            let code = failed.map_or_else(
                || "not acknowledged".to_owned(),
                |it| refused.swap_remove(it).code,
            );
            Some(Refused { index, code })
        };
        Ok((0..count).filter_map(result).collect())
    }
}

/// The answer to a call, if it comes in time.
async fn within<T, E: ProvideErrorMetadata + Error + 'static>(
    limit: Duration,
    call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, CallError> {
    match timeout(limit, call).await {
        Ok(answer) => answer.map_err(|err| CallError(problem(&err))),
        Err(_) => Err(CallError("no answer in time".to_owned())),
    }
}
