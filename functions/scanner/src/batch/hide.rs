//! Keeping a record hidden while it is worked on, by renewing its visibility timeout.
//!
//! **Invariant**: when renewals fail, the work on a record ends before another worker can receive it.

use aws_lambda_events::sqs::SqsMessage;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::queue::Queue;

/// The time that a record stays hidden, in steps: it is renewed after two of them, and tried again after each when that
/// fails; the last one is for the work to end.
const STEPS: u32 = 6;

/// Works while the record is surely hidden; `hidden_at` is when that was first asked for. `None` if it was hidden no longer
/// before the work was done, which is then given up.
pub(super) async fn while_hidden<T>(
    queue: &Queue,
    record: &SqsMessage,
    hidden_at: Instant,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = lost(queue, record, hidden_at) => None,
    }
}

/// Renews until that has failed for too long.
async fn lost(queue: &Queue, record: &SqsMessage, hidden_at: Instant) {
    let Some(lease) = queue.lease() else {
        return std::future::pending().await;
    };
    let step = lease / STEPS;
    let mut give_up_at = hidden_at + lease - step;
    let renew = async || loop {
        sleep(step).await;
        let asked = Instant::now();
        if timeout(step, queue.renew(record)).await == Ok(true) {
            return asked;
        }
    };
    while let Ok(asked) = timeout_at(give_up_at, renew()).await {
        give_up_at = asked + lease - step;
        sleep(step).await;
    }
    tracing::error!(
        event = "record.lost",
        "the queue could not be told that a record is still worked on, so the work ends before another worker begins it"
    );
}
