//! One receive of one record.

use aws_lambda_events::sqs::SqsMessage;
use jiff::Timestamp;
use scanhook_core::failure::{ErrorReason, ScanError};
use scanhook_core::message::QueueMessage;

use super::failure::Failure;

/// One receive of one record, of which nothing is believed yet.
pub(super) struct Receive<'a> {
    pub(super) record: &'a SqsMessage,
    pub(super) count: u32,
    /// When the record was received for the first time.
    pub(super) first_at: Option<Timestamp>,
}

impl<'a> Receive<'a> {
    pub(super) fn of(record: &'a SqsMessage) -> Self {
        let attribute = |name: &str| record.attributes.get(name);
        let count = attribute("ApproximateReceiveCount").and_then(|it| it.parse().ok());
        let first_at = attribute("ApproximateFirstReceiveTimestamp")
            .and_then(|it| it.parse().ok())
            .and_then(|it| Timestamp::from_millisecond(it).ok());
        Self {
            record,
            count: count.unwrap_or(1),
            first_at,
        }
    }

    /// Reads the message, if it is one of ours.
    pub(super) fn message(&self) -> Result<QueueMessage, ScanError> {
        let body = self.record.body.as_deref().unwrap_or_default();
        QueueMessage::parse(body).map_err(|err| {
            let failure = Failure::new(self.count, ErrorReason::BadMessage, err.to_string());
            failure.presentable().error
        })
    }
}
