//! The two operations of SQS that the webhook needs.
//!
//! Source: Amazon SQS API reference, `GetQueueAttributes` and `SendMessageBatch`; AWS JSON protocol.

use std::time::Duration;

use scanhook_config::aws::json::{CallError, Service};
use serde::{Deserialize, Serialize};

/// One queue.
pub(super) struct Sqs {
    service: Service,
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
    /// What SQS says of it.
    pub(super) code: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WireQueue<'a> {
    queue_url: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WireBatch<'a> {
    queue_url: &'a str,
    entries: Vec<WireEntry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WireEntry<'a> {
    id: String,
    message_body: &'a str,
    message_group_id: &'a str,
}

#[derive(Deserialize)]
struct WireNothing {}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireResults {
    successful: Option<Vec<WireTaken>>,
    failed: Option<Vec<WireRefused>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireTaken {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireRefused {
    id: String,
    code: String,
}

impl Sqs {
    pub(super) fn new(service: Service, url: String) -> Self {
        Self { service, url }
    }

    /// Calls an operation that changes nothing.
    pub(super) async fn warm(&self) -> Result<(), CallError> {
        let target = "AmazonSQS.GetQueueAttributes";
        let queue_url = &self.url;
        let request = WireQueue { queue_url };
        let WireNothing {} = self.service.call(target, &request, super::ATTEMPT).await?;
        Ok(())
    }

    /// Sends a batch once, within `limit`, and tells which of its messages were not acknowledged.
    pub(super) async fn send<'a>(
        &self,
        batch: impl ExactSizeIterator<Item = Entry<'a>>,
        limit: Duration,
    ) -> Result<Vec<Refused>, CallError> {
        let count = batch.len();
        let entry = |(index, entry): (usize, Entry<'a>)| WireEntry {
            id: index.to_string(),
            message_body: entry.body,
            message_group_id: entry.group,
        };
        let request = WireBatch {
            queue_url: &self.url,
            entries: batch.enumerate().map(entry).collect(),
        };
        let target = "AmazonSQS.SendMessageBatch";
        let results: WireResults = self.service.call(target, &request, limit).await?;
        let taken = results.successful.unwrap_or_default();
        let mut refused = results.failed.unwrap_or_default();
        // A batch can fail in part with HTTP 200; and an entry that is in neither list was not acknowledged.
        let result = |index: usize| {
            let id = index.to_string();
            if taken.iter().any(|it| it.id == id) {
                return None;
            }
            let told = refused.iter().position(|it| it.id == id);
            let code = told.map_or_else(
                || "not acknowledged".to_owned(),
                |it| refused.swap_remove(it).code,
            );
            Some(Refused { index, code })
        };
        Ok((0..count).filter_map(result).collect())
    }
}
