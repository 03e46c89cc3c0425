//! Batches of `SendMessageBatch`, shared by the deliveries that are under way at the same time.
//!
//! A message goes at once if no other does. While a batch is under way, further messages gather behind it, until there is a
//! batch full of them or the one before is acknowledged. So a lone delivery waits for nobody, and a crowd of
//! them costs a tenth of the requests.
//!
//! **Invariant**: a delivery is answered by what became of its own messages, within its own deadline.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use scanhook_core::message::QueueMessage;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::sqs::{Entry, Refused, Sqs};
use super::{ATTEMPT, SendError};

/// Entries in one `SendMessageBatch`. Source: Amazon SQS API reference, as for the next.
const MAX_ENTRIES: usize = 10;

/// Bytes in one `SendMessageBatch`, bodies and attributes together; a little is left for what SQS adds.
const MAX_BYTES: usize = 1_048_576 - 16_384;

/// Full batches that are sent at once.
const BATCHES_AT_ONCE: usize = 8;

/// The longest that messages gather behind a batch under way, so that one delivery's bad luck is not another's.
const LINGER: Duration = Duration::from_millis(5);

/// The pause before a second try; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The messages on their way to one SQS queue. Clones share it.
#[derive(Clone)]
pub(super) struct Outbox(Arc<Shared>);

struct Shared {
    sqs: Sqs,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Batches whose first try has not ended.
    under_way: usize,
}

/// One message, and who waits for its acknowledgement until when.
struct Waiting {
    body: String,
    group: String,
    deadline: Instant,
    sender: oneshot::Sender<Result<(), SendError>>,
}

/// Why a batch is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occasion {
    Arrival,
    /// Somebody has waited long enough for others.
    Linger,
}

impl Outbox {
    pub(super) fn new(sqs: Sqs) -> Self {
        Self(Arc::new(Shared {
            sqs,
            state: Mutex::default(),
        }))
    }

    pub(super) fn sqs(&self) -> &Sqs {
        &self.0.sqs
    }

    /// Sends all of them, or fails at `deadline`.
    pub(super) async fn send(
        &self,
        messages: Vec<QueueMessage>,
        deadline: Instant,
    ) -> Result<(), SendError> {
        let (waiting, results): (Vec<_>, Vec<_>) = messages
            .iter()
            .map(|message| {
                let (sender, result) = oneshot::channel();
                let waiting = Waiting {
                    body: message.to_json(),
                    group: message.source.as_str().to_owned(),
                    deadline,
                    sender,
                };
                (waiting, result)
            })
            .unzip();
        let all = async {
            let result = |it: oneshot::Receiver<_>| async {
                it.await
                    .unwrap_or_else(|_| Err(SendError("sending was broken off".to_owned())))
            };
            try_join_all(results.into_iter().map(result)).await
        };
        let mut all = std::pin::pin!(all);
        self.state().waiting.extend(waiting);
        self.start_batches(Occasion::Arrival);
        let patience = deadline.min(Instant::now() + LINGER);
        if let Ok(sent) = timeout_at(patience, &mut all).await {
            return sent.map(drop);
        }
        self.start_batches(Occasion::Linger);
        match timeout_at(deadline, all).await {
            Ok(sent) => sent.map(drop),
            Err(_) => Err(SendError("out of time".to_owned())),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the batches that are due. Each is a task of its own, for it is not of one delivery alone.
    fn start_batches(&self, mut occasion: Occasion) {
        loop {
            let Some(batch) = self.state().next_batch(occasion) else {
                return;
            };
            occasion = Occasion::Arrival;
            let under_way = UnderWay(self.clone());
            // Without a runtime all is at its end, and so are those who wait.
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(self.clone().send_batch(batch, under_way));
            }
        }
    }

    async fn send_batch(self, mut batch: Vec<Waiting>, under_way: UnderWay) {
        let mut under_way = Some(under_way);
        let mut pause = FIRST_PAUSE;
        loop {
            let problem = self.send_once(&mut batch).await;
            // Who comes now need not wait for a second try.
            drop(under_way.take());
            // A second try must leave its sender time to be told.
            let next = Instant::now() + pause;
            let mut rest = Vec::with_capacity(batch.len());
            for message in batch {
                if next >= message.deadline {
                    let _ = message.sender.send(Err(SendError(problem.clone())));
                } else if !message.sender.is_closed() {
                    rest.push(message);
                }
            }
            if rest.is_empty() {
                return;
            }
            batch = rest;
            tracing::debug!(
                problem,
                left = batch.len(),
                "the queue did not take a batch, trying again"
            );
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Sends a batch once, tells those whose messages were acknowledged and leaves the others in it; returns what was wrong.
    async fn send_once(&self, batch: &mut Vec<Waiting>) -> String {
        let Some(deadline) = batch.iter().map(|it| it.deadline).max() else {
            return String::new();
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let entries = batch.iter().map(|it| Entry {
            body: &it.body,
            group: &it.group,
        });
        let refused = match self.0.sqs.send(entries, left.min(ATTEMPT)).await {
            Ok(refused) => refused,
            Err(err) => return err.to_string(),
        };
        for (index, message) in std::mem::take(batch).into_iter().enumerate() {
            if refused.iter().any(|it| it.index == index) {
                batch.push(message);
            } else {
                let _ = message.sender.send(Ok(()));
            }
        }
        let first = refused.into_iter().next();
        first.map_or_else(String::new, |Refused { code, .. }| code)
    }
}

impl State {
    /// Takes the next batch off the waiting messages, if it is time for one.
    fn next_batch(&mut self, occasion: Occasion) -> Option<Vec<Waiting>> {
        // Whose delivery is answered already, or gone, is not sent behind its back.
        self.waiting.retain(|it| !it.sender.is_closed());
        let mut bytes = 0;
        let fits = |it: &&Waiting| {
            bytes += it.body.len() + it.group.len();
            bytes <= MAX_BYTES
        };
        let count = self
            .waiting
            .iter()
            .take(MAX_ENTRIES)
            .take_while(fits)
            .count();
        let is_full = count == MAX_ENTRIES || count < self.waiting.len();
        let is_due = self.under_way == 0
            || is_full && self.under_way < BATCHES_AT_ONCE
            || occasion == Occasion::Linger;
        if self.waiting.is_empty() || !is_due {
            return None;
        }
        self.under_way += 1;
        // A message that is too long by itself goes alone, and SQS says so.
        Some(self.waiting.drain(..count.max(1)).collect())
    }
}

/// A batch that holds others back; when it is no longer under way, they go.
struct UnderWay(Outbox);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
        self.0.start_batches(Occasion::Arrival);
    }
}
