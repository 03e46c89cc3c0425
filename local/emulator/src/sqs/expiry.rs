//! What happens to messages that outlive their queue's retention.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::peeked::Peeked;

/// Makes the message attributes of a dead letter. The time is when the message becomes one.
pub type DeadLetter = fn(&Peeked, Timestamp) -> BTreeMap<String, String>;

/// What the owner of a queue wants done with messages that outlive its retention.
#[derive(Clone, Copy)]
pub struct Expiry {
    /// The message attributes of the dead letter that an expired message becomes. The message moves as soon as it isn't
    /// in flight, and its age restarts. If this is `None`, the message is deleted, as on SQS.
    pub dead_letter: Option<DeadLetter>,
    /// Called once for each expired message, after the change is on disk.
    pub count: fn(),
}

/// A message that outlived its queue's retention.
pub(crate) struct Expired {
    pub(crate) queue: String,
    pub(crate) message_id: String,
    pub(crate) age_ms: i64,
}

impl Expired {
    /// Logs the expiry and notifies the queue's owner.
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
