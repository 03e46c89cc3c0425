//! What a queue's owner wants done with messages that outlive its retention.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::peeked::Peeked;

/// Makes the message attributes of a dead letter, at the time at which it becomes one.
pub type DeadLetter = fn(&Peeked, Timestamp) -> BTreeMap<String, String>;

/// What a queue's owner wants done with messages that outlive its retention.
#[derive(Clone, Copy)]
pub struct Expiry {
    /// The message attributes with which one goes to the queue's dead-letter queue, where its age begins anew, as soon as it is
    /// not in flight. Without this it is deleted, as SQS does.
    pub dead_letter: Option<DeadLetter>,
    /// Called for each, once it is on disk.
    pub count: fn(),
}

/// A message that outlived its queue's retention.
pub(crate) struct Expired {
    pub(crate) queue: String,
    pub(crate) message_id: String,
    pub(crate) age_ms: i64,
}

impl Expired {
    /// Lets the log and the queue's owner know.
    pub(crate) fn report(&self, expiries: &HashMap<String, Expiry>) {
        let (queue, message_id, age_s) = (&self.queue, &self.message_id, self.age_ms / 1000);
        let expiry = expiries.get(queue);
        let end = match expiry {
            Some(Expiry {
                dead_letter: Some(_),
                ..
            }) => "moved to its dead-letter queue",
            _ => "deleted",
        };
        tracing::warn!(
            event = "message.expired",
            queue,
            message_id,
            age_s,
            "a message of {queue} outlived its retention and was {end}"
        );
        if let Some(expiry) = expiry {
            (expiry.count)();
        }
    }
}
