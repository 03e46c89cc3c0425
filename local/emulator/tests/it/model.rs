//! Compares the store with a short model, by random sequences of operations, kills and restarts.
//!
//! By default it runs 25,000 steps. `SCANHOOK_MODEL_CASES` sets the number of sequences; the gate uses 1000, a hundred
//! thousand steps.

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use scanhook_emulator::faults::Faults;
use scanhook_emulator::sqs::{Endpoint, Store};
use scanhook_worker::clock::{Clock, ManualClock};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::world::redrive_policy;

/// The average number of steps in a sequence.
const STEPS: usize = 100;
const CASES: u32 = 250;

const MAX_RECEIVE_COUNT: i64 = 3;
const RETENTION_MS: i64 = 3_600_000;
const TWELVE_HOURS_MS: i64 = 43_200_000;

#[derive(Clone, Debug)]
enum Step {
    Send {
        queue: usize,
        delay: i64,
    },
    Receive {
        queue: usize,
        count: usize,
        timeout: Option<i64>,
    },
    Delete {
        handle: prop::sample::Index,
    },
    Hide {
        handle: prop::sample::Index,
        seconds: i64,
    },
    Advance {
        milliseconds: u64,
    },
    Kill,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let timeout = prop_oneof![
        Just(None),
        prop::sample::select(vec![Some(0), Some(5), Some(60), Some(43_200)])
    ];
    let seconds = prop::sample::select(vec![0, 1, 30, 600, 43_200, 43_201]);
    let step = prop_oneof![
        4 => (0..2_usize, prop::sample::select(vec![0, 0, 0, 7, 900])).prop_map(|(queue, delay)| Step::Send { queue, delay }),
        6 => (0..2_usize, 1..=10_usize, timeout)
            .prop_map(|(queue, count, timeout)| Step::Receive { queue, count, timeout }),
        3 => any::<prop::sample::Index>().prop_map(|handle| Step::Delete { handle }),
        3 => (any::<prop::sample::Index>(), seconds).prop_map(|(handle, seconds)| Step::Hide { handle, seconds }),
        3 => prop::sample::select(vec![1, 999, 5000, 30_000, 600_000, 3_599_000])
            .prop_map(|milliseconds| Step::Advance { milliseconds }),
        1 => prop_oneof![Just(Step::Kill), Just(Step::Restart)],
    ];
    prop::collection::vec(step, 1..2 * STEPS)
}

/// A message in the model. Its index in `Model::messages` is the order of sending.
struct Message {
    queue: usize,
    is_deleted: bool,
    sent_at: i64,
    visible_at: i64,
    receive_count: i64,
    received_at: Option<i64>,
    is_dead_letter: bool,
}

/// Two queues. Messages received too often move from the first to the second.
#[derive(Default)]
struct Model {
    now: i64,
    messages: Vec<Message>,
    /// Every handle that was returned: the message, its queue and its receive count at that time.
    handles: Vec<(usize, usize, i64)>,
}

impl Model {
    fn is_kept(&self, message: &Message) -> bool {
        !message.is_deleted && self.now < message.sent_at + RETENTION_MS
    }

    fn send(&mut self, queue: usize, delay: i64) {
        let (sent_at, visible_at) = (self.now, self.now + delay * 1000);
        let message = Message {
            queue,
            is_deleted: false,
            sent_at,
            visible_at,
            receive_count: 0,
            received_at: None,
            is_dead_letter: false,
        };
        self.messages.push(message);
    }

    /// Returns the messages of a receive, with their receive counts.
    fn receive(&mut self, queue: usize, count: usize, timeout: Option<i64>) -> Vec<(usize, i64)> {
        let mut visible: Vec<_> = (0..self.messages.len())
            .filter(|&index| {
                let message = &self.messages[index];
                message.queue == queue && self.is_kept(message) && message.visible_at <= self.now
            })
            .collect();
        visible.sort_by_key(|&index| (self.messages[index].visible_at, index));
        let mut received = Vec::new();
        for index in visible {
            let message = &mut self.messages[index];
            if received.len() == count {
                break;
            }
            if queue == 0 && message.receive_count >= MAX_RECEIVE_COUNT {
                (message.queue, message.visible_at, message.received_at) = (1, self.now, None);
                message.is_dead_letter = true;
                continue;
            }
            message.receive_count += 1;
            message.received_at = Some(self.now);
            message.visible_at = self.now + timeout.unwrap_or(30) * 1000;
            received.push((index, message.receive_count));
            self.handles.push((index, queue, message.receive_count));
        }
        received
    }

    /// Returns the message of a handle, if it is still in its queue.
    fn kept(&mut self, handle: usize) -> Option<&mut Message> {
        let (index, queue, _) = self.handles[handle];
        let message = &self.messages[index];
        let is_kept = self.is_kept(message) && message.queue == queue;
        is_kept.then(|| &mut self.messages[index])
    }

    fn delete(&mut self, handle: usize) {
        let (_, _, receive_count) = self.handles[handle];
        let message = self.kept(handle);
        if let Some(message) = message.filter(|it| it.receive_count == receive_count) {
            message.is_deleted = true;
        }
    }

    /// Returns the error code of hiding a message.
    fn hide(&mut self, handle: usize, seconds: i64) -> Option<&'static str> {
        let now = self.now;
        let until = now + seconds * 1000;
        if seconds > 43_200 {
            return Some("InvalidParameterValue");
        }
        match self.kept(handle) {
            None => Some("InvalidParameterValue"),
            Some(message) if message.visible_at <= now => None,
            Some(message)
                if message
                    .received_at
                    .is_none_or(|it| until > it + TWELVE_HOURS_MS) =>
            {
                Some("InvalidParameterValue")
            }
            Some(message) => {
                message.visible_at = until;
                None
            }
        }
    }

    /// Visible, in flight, delayed.
    fn depth(&self, queue: usize) -> [u64; 3] {
        let mut depth = [0; 3];
        for message in self
            .messages
            .iter()
            .filter(|it| it.queue == queue && self.is_kept(it))
        {
            let state = match (message.visible_at <= self.now, message.received_at) {
                (true, _) => 0,
                (false, Some(_)) => 1,
                (false, None) => 2,
            };
            depth[state] += 1;
        }
        depth
    }
}

/// The store under test.
struct Real {
    clock: ManualClock,
    store: Store,
    dir: TempDir,
    handles: Vec<String>,
}

const QUEUES: [&str; 2] = ["q", "dlq"];

impl Real {
    async fn new() -> Self {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let dir = fast_dir();
        let store = open(&dir, &clock);
        store
            .ensure_queue("dlq", &[("MessageRetentionPeriod", "3600")])
            .await
            .unwrap();
        let policy = redrive_policy("dlq", u32::try_from(MAX_RECEIVE_COUNT).unwrap());
        store
            .ensure_queue(
                "q",
                &[
                    ("MessageRetentionPeriod", "3600"),
                    ("RedrivePolicy", &policy),
                ],
            )
            .await
            .unwrap();
        Self {
            clock,
            store,
            dir,
            handles: Vec::new(),
        }
    }

    /// Returns the operation's answer, or its error's code.
    async fn call(&self, operation: &str, queue: usize, mut body: Value) -> Result<Value, String> {
        body["QueueUrl"] = format!("http://local/000000000000/{}", QUEUES[queue]).into();
        let endpoint = Endpoint::new(self.store.clone(), Faults::none());
        let target = format!("AmazonSQS.{operation}");
        let response = endpoint
            .answer(&target, "http://local".to_owned(), body.to_string().into())
            .await;
        let (parts, body) = response.into_parts();
        match parts.headers.get("x-amzn-query-error") {
            Some(code) => Err(code.to_str().unwrap().split(';').next().unwrap().to_owned()),
            None => Ok(serde_json::from_slice(&body).unwrap()),
        }
    }

    /// Continues with a copy of the files, as a process killed now would leave them.
    fn kill(&mut self) {
        let copy = fast_dir();
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        self.store = open(&copy, &self.clock);
        self.dir = copy;
    }

    /// Continues after a graceful shutdown.
    fn restart(mut self) -> Self {
        let Self {
            clock, store, dir, ..
        } = self;
        drop(store);
        self = Self {
            store: open(&dir, &clock),
            clock,
            dir,
            handles: self.handles,
        };
        self
    }
}

fn open(dir: &TempDir, clock: &ManualClock) -> Store {
    Store::open(&dir.path().join("queues.db"), Clock::Manual(clock.clone())).unwrap()
}

/// Uses memory if possible: a million commits need not reach a disk.
fn fast_dir() -> TempDir {
    TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap()
}

async fn run(steps: &[Step]) {
    let mut model = Model::default();
    let mut real = Real::new().await;
    for step in steps {
        match *step {
            Step::Send { queue, delay } => {
                let body = model.messages.len().to_string();
                real.call(
                    "SendMessage",
                    queue,
                    json!({"MessageBody": body, "DelaySeconds": delay}),
                )
                .await
                .unwrap();
                model.send(queue, delay);
            }
            Step::Receive {
                queue,
                count,
                timeout,
            } => {
                let request = json!({
                    "MaxNumberOfMessages": count, "VisibilityTimeout": timeout, "MessageSystemAttributeNames": ["All"],
                });
                let answer = real.call("ReceiveMessage", queue, request).await.unwrap();
                let messages = answer["Messages"].as_array().cloned().unwrap_or_default();
                let number = |value: &Value| value.as_str().unwrap().parse::<i64>().unwrap();
                let received: Vec<_> = messages
                    .iter()
                    .map(|it| {
                        (
                            number(&it["Body"]),
                            number(&it["Attributes"]["ApproximateReceiveCount"]),
                        )
                    })
                    .collect();
                let expected = model.receive(queue, count, timeout);
                let expected: Vec<_> = expected
                    .into_iter()
                    .map(|(index, count)| (i64::try_from(index).unwrap(), count))
                    .collect();
                assert_eq!(received, expected);
                for message in messages {
                    let index = usize::try_from(number(&message["Body"])).unwrap();
                    let has_source = message["Attributes"]
                        .get("DeadLetterQueueSourceArn")
                        .is_some();
                    assert_eq!(has_source, model.messages[index].is_dead_letter);
                    real.handles
                        .push(message["ReceiptHandle"].as_str().unwrap().to_owned());
                }
            }
            Step::Delete { handle } if !model.handles.is_empty() => {
                let handle = handle.index(model.handles.len());
                let request = json!({"ReceiptHandle": real.handles[handle]});
                real.call("DeleteMessage", model.handles[handle].1, request)
                    .await
                    .unwrap();
                model.delete(handle);
            }
            Step::Hide { handle, seconds } if !model.handles.is_empty() => {
                let handle = handle.index(model.handles.len());
                let request =
                    json!({"ReceiptHandle": real.handles[handle], "VisibilityTimeout": seconds});
                let answer = real
                    .call("ChangeMessageVisibility", model.handles[handle].1, request)
                    .await;
                assert_eq!(answer.err().as_deref(), model.hide(handle, seconds));
            }
            Step::Delete { .. } | Step::Hide { .. } => {}
            Step::Advance { milliseconds } => {
                real.clock.advance(Duration::from_millis(milliseconds));
                model.now += i64::try_from(milliseconds).unwrap();
            }
            Step::Kill => real.kill(),
            Step::Restart => real = real.restart(),
        }
        for (index, queue) in QUEUES.into_iter().enumerate() {
            let depth = real.store.depth(queue).await.unwrap();
            assert_eq!(
                [depth.visible, depth.in_flight, depth.delayed],
                model.depth(index),
                "{queue}"
            );
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a test runs is set where it is started"
)]
fn cases() -> u32 {
    match std::env::var("SCANHOOK_MODEL_CASES") {
        Ok(cases) => cases.parse().unwrap(),
        Err(_) => CASES,
    }
}

#[test]
fn the_store_behaves_like_the_model() {
    let config = ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        runtime.block_on(run(&steps));
        Ok(())
    });
    outcome.unwrap();
}
