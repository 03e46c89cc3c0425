//! The event source mapping against the served queue.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::MessageAttributeValue;
use jiff::Timestamp;
use scanhook_emulator::faults::Faults;
use scanhook_worker::clock::Clock;
use scanhook_worker::mapping::{Config, ConfigError, HandlerError, Invocation, Mapping};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::world::{World, arn};

const SECOND: Duration = Duration::from_secs(1);

fn config(url: &str) -> Config {
    Config {
        queue_url: url.to_owned(),
        queue_arn: arn("q"),
        batch_size: 10,
        batching_window: Duration::ZERO,
        maximum_concurrency: 1,
        function_timeout: 20 * SECOND,
        receive_wait: 20 * SECOND,
        drain: 10 * SECOND,
    }
}

/// A running mapping. `stopping` stops it.
struct Running {
    stopping: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start<H, F>(world: &World, config: Config, handler: H) -> Self
    where
        H: Fn(Invocation) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Value, HandlerError>> + Send + 'static,
    {
        let clock = Clock::Manual(world.clock.clone());
        let mapping = Mapping::new(world.client.clone(), config, clock, handler).unwrap();
        let stopping = CancellationToken::new();
        let task = tokio::spawn(mapping.run(stopping.clone().cancelled_owned()));
        Self { stopping, task }
    }
}

fn bodies(invocation: &Invocation) -> Vec<String> {
    let records = invocation.event["Records"].as_array().unwrap();
    records
        .iter()
        .map(|record| record["body"].as_str().unwrap().to_owned())
        .collect()
}

fn ids(invocation: &Invocation) -> BTreeMap<String, String> {
    let records = invocation.event["Records"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    records
        .iter()
        .map(|record| (text(&record["body"]), text(&record["messageId"])))
        .collect()
}

/// Advances the clock from one waiting task to the next until the queue holds `visible`, `in_flight` and `delayed`
/// messages.
async fn drive_until(world: &World, queue: &str, depth: [u64; 3]) {
    while world.depth(queue).await != depth {
        world.clock.advance_to_next_sleeper().await;
    }
}

/// Calls the function with a batch of `a`, `b` and `c`, and checks which of them remain.
async fn check(
    answer: impl Fn(&BTreeMap<String, String>) -> Result<Value, HandlerError> + Send + Sync + 'static,
    left: &[&str],
) {
    let world = World::start().await;
    let url = world.queue("q").await;
    for body in ["a", "b", "c"] {
        world.send(&url, body).await;
    }
    let (called, mut calls) = mpsc::unbounded_channel();
    let _running = Running::start(&world, config(&url), move |invocation| {
        let answer = answer(&ids(&invocation));
        called.send(bodies(&invocation)).unwrap();
        async { answer }
    });
    assert_eq!(calls.recv().await.unwrap(), ["a", "b", "c"]);
    // The next long poll starts when this batch is finished.
    world.clock.sleepers(1).await;
    let peeked = world.store.peek("q", 10, Box::new(|_| true)).await.unwrap();
    assert_eq!(
        peeked.iter().map(|it| it.body.as_str()).collect::<Vec<_>>(),
        left
    );
    for message in peeked {
        assert_eq!(
            (message.visible_at - world.clock.now()).as_secs(),
            30,
            "its own visibility"
        );
    }
}

const ALL: &[&str] = &["a", "b", "c"];

#[tokio::test]
async fn an_answer_without_failures_deletes_the_whole_batch() {
    for answer in [
        json!({"batchItemFailures": []}),
        json!({"batchItemFailures": null}),
        json!({}),
        json!(null),
    ] {
        check(move |_| Ok(answer.clone()), &[]).await;
    }
}

#[tokio::test]
async fn listed_messages_stay_and_the_rest_is_deleted() {
    check(
        |ids| Ok(json!({"batchItemFailures": [{"itemIdentifier": ids["b"]}]})),
        &["b"],
    )
    .await;
    check(
        |ids| Ok(json!({"batchItemFailures": [{"itemIdentifier": ids["c"]}, {"itemIdentifier": ids["a"]}]})),
        &["a", "c"],
    )
    .await;
}

#[tokio::test]
async fn an_identifier_of_no_message_fails_the_whole_batch() {
    for identifier in [
        json!(""),
        json!(null),
        json!("00000000-0000-0000-0000-000000000000"),
        json!(1),
    ] {
        let answer = json!({"batchItemFailures": [{"itemIdentifier": identifier}]});
        check(move |_| Ok(answer.clone()), ALL).await;
    }
    check(
        |ids| {
            Ok(json!({"batchItemFailures": [{"itemIdentifier": ids["b"]}, {"itemIdentifier": ""}]}))
        },
        ALL,
    )
    .await;
    check(
        |ids| Ok(json!({"batchItemFailures": [{"identifier": ids["b"]}]})),
        ALL,
    )
    .await;
}

#[tokio::test]
async fn an_answer_of_another_shape_fails_the_whole_batch() {
    for answer in [
        json!("done"),
        json!([]),
        json!({"batchItemFailures": "b"}),
        json!({"batchItemFailures": ["b"]}),
    ] {
        check(move |_| Ok(answer.clone()), ALL).await;
    }
}

#[tokio::test]
async fn an_error_fails_the_whole_batch() {
    check(|_| Err("the function broke".into()), ALL).await;
}

#[tokio::test]
async fn a_panic_fails_the_whole_batch() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "a").await;
    let (called, mut calls) = mpsc::unbounded_channel();
    let _running = Running::start(&world, config(&url), move |_| {
        let called = called.clone();
        async move {
            called.send(()).unwrap();
            panic!("on purpose")
        }
    });
    calls.recv().await.unwrap();
    world.clock.sleepers(1).await;
    assert_eq!(world.depth("q").await, [0, 1, 0]);
    world.advance_s(30);
    calls.recv().await.unwrap();
}

#[tokio::test]
async fn a_function_that_takes_too_long_is_cancelled_and_its_batch_fails() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "slow").await;
    let (called, mut calls) = mpsc::unbounded_channel();
    let (cancelled, mut cancellations) = mpsc::channel::<()>(1);
    let _running = Running::start(&world, config(&url), move |invocation| {
        called.send(invocation.deadline).unwrap();
        let alive = cancelled.clone();
        async move {
            let _alive = alive;
            std::future::pending().await
        }
    });
    let deadline = calls.recv().await.unwrap();
    assert_eq!(deadline.duration_since(world.clock.now()).as_secs(), 20);
    world.clock.sleepers(1).await;
    world.advance_s(19);
    assert!(
        cancellations
            .try_recv()
            .is_err_and(|err| err == mpsc::error::TryRecvError::Empty)
    );
    world.advance_s(1);
    // Ten seconds later the message is visible again, and the function is called again.
    world.clock.sleepers(1).await;
    assert_eq!(world.depth("q").await, [0, 1, 0]);
    world.advance_s(10);
    calls.recv().await.unwrap();
}

#[tokio::test]
async fn a_function_may_choose_how_long_its_failed_message_is_hidden() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "later").await;
    let (called, mut calls) = mpsc::unbounded_channel();
    let (client, clock, queue) = (world.client.clone(), world.clock.clone(), url.clone());
    let _running = Running::start(&world, config(&url), move |invocation| {
        let (client, queue, called) = (client.clone(), queue.clone(), called.clone());
        called.send(clock.now()).unwrap();
        async move {
            let record = &invocation.event["Records"][0];
            let hide = client
                .change_message_visibility()
                .queue_url(queue)
                .visibility_timeout(3600);
            hide.receipt_handle(record["receiptHandle"].as_str().unwrap())
                .send()
                .await?;
            called.send(Timestamp::MAX).unwrap();
            Ok(json!({"batchItemFailures": [{"itemIdentifier": record["messageId"]}]}))
        }
    });
    let first = calls.recv().await.unwrap();
    assert_eq!(
        calls.recv().await.unwrap(),
        Timestamp::MAX,
        "the message is hidden"
    );
    let second = loop {
        world.clock.advance_to_next_sleeper().await;
        world.clock.sleepers(1).await;
        if let Ok(second) = calls.try_recv() {
            break second;
        }
    };
    assert_eq!(second.duration_since(first).as_secs(), 3600);
}

#[tokio::test]
async fn a_message_that_always_fails_is_retried_until_it_becomes_a_dead_letter() {
    let world = World::start().await;
    let (url, _) = world.queue_with_dlq("q", 5).await;
    world.send(&url, "poison").await;
    let (called, mut calls) = mpsc::unbounded_channel();
    let _running = Running::start(&world, config(&url), move |invocation| {
        called
            .send(invocation.event["Records"][0]["attributes"]["ApproximateReceiveCount"].clone())
            .unwrap();
        async { Err("never".into()) }
    });
    drive_until(&world, "q-dlq", [1, 0, 0]).await;
    let mut counts = Vec::new();
    while let Ok(count) = calls.try_recv() {
        counts.push(count);
    }
    assert_eq!(counts, ["1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn no_more_messages_are_received_than_can_be_started() {
    let world = World::start().await;
    let url = world.queue("q").await;
    for body in ["a", "b", "c", "d", "e"] {
        world.send(&url, body).await;
    }
    let (called, mut calls) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let config = Config {
        batch_size: 1,
        maximum_concurrency: 2,
        ..config(&url)
    };
    let _running = Running::start(&world, config, {
        let gate = Arc::clone(&gate);
        move |invocation| {
            called.send(bodies(&invocation)).unwrap();
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire_owned().await?.forget();
                Ok(Value::Null)
            }
        }
    });
    for expected in ["a", "b"] {
        assert_eq!(calls.recv().await.unwrap(), [expected]);
    }
    // Both invocations wait for their deadline, and nobody polls.
    world.clock.sleepers(2).await;
    assert_eq!(world.depth("q").await, [3, 2, 0]);
    gate.add_permits(1);
    assert_eq!(calls.recv().await.unwrap(), ["c"]);
    world.clock.sleepers(2).await;
    assert_eq!(world.depth("q").await, [2, 2, 0]);
    gate.add_permits(4);
    for expected in ["d", "e"] {
        assert_eq!(calls.recv().await.unwrap(), [expected]);
    }
    drive_until(&world, "q", [0, 0, 0]).await;
}

#[tokio::test]
async fn a_batching_window_collects_a_batch() {
    let world = World::start().await;
    let url = world.queue_with("q", &[("VisibilityTimeout", "600")]).await;
    let (called, mut calls) = mpsc::unbounded_channel();
    let config = Config {
        batch_size: 100,
        batching_window: 60 * SECOND,
        ..config(&url)
    };
    let _running = Running::start(&world, config, move |invocation| {
        called.send(bodies(&invocation)).unwrap();
        async { Ok(Value::Null) }
    });
    world.clock.sleepers(1).await;
    world.send(&url, "first").await;
    while world.depth("q").await != [0, 1, 0] {
        tokio::task::yield_now().await;
    }
    world.clock.sleepers(1).await;
    world.advance_s(15);
    for index in 0..24 {
        world.send(&url, &index.to_string()).await;
    }
    let started = world.clock.now();
    let batch = loop {
        match calls.try_recv() {
            Ok(batch) => break batch,
            Err(_) => world.clock.advance_to_next_sleeper().await,
        }
        world.clock.sleepers(1).await;
    };
    assert_eq!(batch.len(), 25);
    assert_eq!(batch[0], "first");
    assert!(world.clock.now().duration_since(started).as_secs() >= 45);
    drive_until(&world, "q", [0, 0, 0]).await;
}

#[tokio::test]
async fn a_full_batch_does_not_wait_for_its_window() {
    let world = World::start().await;
    let url = world.queue("q").await;
    for body in ["a", "b", "c"] {
        world.send(&url, body).await;
    }
    let (called, mut calls) = mpsc::unbounded_channel();
    let config = Config {
        batch_size: 2,
        batching_window: 300 * SECOND,
        ..config(&url)
    };
    let _running = Running::start(&world, config, move |invocation| {
        called.send(bodies(&invocation)).unwrap();
        async { Ok(Value::Null) }
    });
    assert_eq!(calls.recv().await.unwrap(), ["a", "b"]);
}

#[tokio::test]
async fn an_event_stays_below_six_mebibytes() {
    let world = World::start().await;
    let url = world.queue("q").await;
    let body = "x".repeat(1 << 20);
    for _ in 0..10 {
        world.send(&url, &body).await;
    }
    let (called, mut calls) = mpsc::unbounded_channel();
    let _running = Running::start(&world, config(&url), move |invocation| {
        called
            .send((
                bodies(&invocation).len(),
                invocation.event.to_string().len(),
            ))
            .unwrap();
        async { Ok(Value::Null) }
    });
    let mut records = 0;
    while records < 10 {
        let (count, bytes) = calls.recv().await.unwrap();
        assert!(bytes <= 6 << 20, "{bytes}");
        records += count;
    }
    drive_until(&world, "q", [0, 0, 0]).await;
}

#[tokio::test]
async fn an_invocation_may_finish_at_shutdown() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "a").await;
    let (called, mut calls) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let running = Running::start(&world, config(&url), {
        let gate = Arc::clone(&gate);
        move |_| {
            called.send(()).unwrap();
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire_owned().await?.forget();
                Ok(Value::Null)
            }
        }
    });
    calls.recv().await.unwrap();
    running.stopping.cancel();
    // The sleepers: the invocation's deadline and the end of the drain.
    world.clock.sleepers(2).await;
    world.send(&url, "b").await;
    gate.add_permits(1);
    running.task.await.unwrap();
    let left = world.store.peek("q", 10, Box::new(|_| true)).await.unwrap();
    assert_eq!(
        left.iter()
            .map(|it| (it.body.as_str(), it.receive_count))
            .collect::<Vec<_>>(),
        [("b", 0)]
    );
}

#[tokio::test]
async fn the_end_of_the_drain_cancels_an_invocation_and_returns_its_batch() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "a").await;
    let (called, mut calls) = mpsc::unbounded_channel();
    let running = Running::start(&world, config(&url), move |_| {
        called.send(()).unwrap();
        std::future::pending()
    });
    calls.recv().await.unwrap();
    running.stopping.cancel();
    world.clock.sleepers(2).await;
    world.advance_s(10);
    running.task.await.unwrap();
    assert_eq!(world.depth("q").await, [1, 0, 0]);
}

#[tokio::test]
async fn messages_that_were_received_and_not_started_are_visible_at_once_at_shutdown() {
    let world = World::start().await;
    let url = world.queue("q").await;
    let config = Config {
        batch_size: 100,
        batching_window: 300 * SECOND,
        ..config(&url)
    };
    for body in ["a", "b"] {
        world.send(&url, body).await;
    }
    let running = Running::start(&world, config, |_| async {
        panic!("the window has not ended")
    });
    while world.depth("q").await != [0, 2, 0] {
        tokio::task::yield_now().await;
    }
    world.clock.sleepers(1).await;
    running.stopping.cancel();
    world.clock.advance_to_next_sleeper().await;
    running.task.await.unwrap();
    assert_eq!(world.depth("q").await, [2, 0, 0]);
}

#[tokio::test]
async fn the_pauses_grow_during_an_outage() {
    let world = World::start_with(Faults::new(1.0, Duration::ZERO, 0)).await;
    let url = format!("{}/000000000000/q", world.base);
    let running = Running::start(&world, config(&url), |_| async {
        panic!("nothing to receive")
    });
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let before = world.clock.now();
        world.clock.advance_to_next_sleeper().await;
        pauses.push(world.clock.now().duration_since(before).as_secs_f64());
    }
    for (failures, pause) in pauses.iter().enumerate() {
        let full = (0.2 * 2_f64.powi(i32::try_from(failures).unwrap())).min(20.0);
        assert!(
            (full / 2.0 - 0.002..=full).contains(pause),
            "{pause} after {failures} failures"
        );
    }
    running.stopping.cancel();
    running.task.await.unwrap();
}

#[tokio::test]
async fn handled_messages_are_deleted_even_if_half_of_all_requests_are_throttled() {
    let world = World::start_with(Faults::new(0.5, Duration::ZERO, 7)).await;
    let url = format!("{}/000000000000/q", world.base);
    world
        .store
        .ensure_queue("q", &[("VisibilityTimeout", "43200")])
        .await
        .unwrap();
    let mut sent = 0;
    while sent < 30 {
        sent += i32::from(
            world
                .client
                .send_message()
                .queue_url(&url)
                .message_body("x")
                .send()
                .await
                .is_ok(),
        );
    }
    let calls = Arc::new(Mutex::new(0));
    let _running = Running::start(&world, config(&url), {
        let calls = Arc::clone(&calls);
        move |invocation| {
            *calls.lock().unwrap() += bodies(&invocation).len();
            async { Ok(Value::Null) }
        }
    });
    drive_until(&world, "q", [0, 0, 0]).await;
    assert_eq!(*calls.lock().unwrap(), 30);
}

#[tokio::test]
async fn the_event_is_what_lambda_sends() {
    let world = World::start().await;
    let url = world.queue("q").await;
    let text = MessageAttributeValue::builder()
        .data_type("String")
        .string_value("There")
        .build()
        .unwrap();
    let blob = MessageAttributeValue::builder()
        .data_type("Binary")
        .binary_value(Blob::new([1, 2]))
        .build()
        .unwrap();
    let send = world
        .client
        .send_message()
        .queue_url(&url)
        .message_body("{}")
        .message_group_id("tenant");
    send.message_attributes("Hello", text)
        .message_attributes("blob", blob)
        .send()
        .await
        .unwrap();
    world.send(&url, "plain").await;
    let (called, mut calls) = mpsc::unbounded_channel();
    let _running = Running::start(&world, config(&url), move |invocation| {
        called.send(invocation).unwrap();
        async { Ok(Value::Null) }
    });
    let invocation = calls.recv().await.unwrap();
    assert_eq!(invocation.request_id.len(), 36);
    let mut event = invocation.event;
    for record in event["Records"].as_array_mut().unwrap() {
        record["messageId"] = json!("[id]");
        record["receiptHandle"] = json!("[handle]");
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&event).unwrap(), @r#"
    {
      "Records": [
        {
          "attributes": {
            "ApproximateFirstReceiveTimestamp": "1795291200000",
            "ApproximateReceiveCount": "1",
            "MessageGroupId": "tenant",
            "SenderId": "000000000000",
            "SentTimestamp": "1795291200000"
          },
          "awsRegion": "us-east-1",
          "body": "{}",
          "eventSource": "aws:sqs",
          "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:q",
          "md5OfBody": "99914b932bd37a50b983c5e7c90ae93b",
          "md5OfMessageAttributes": "a0aacdfec79bccc253ec97ab027c09d9",
          "messageAttributes": {
            "Hello": {
              "binaryListValues": [],
              "dataType": "String",
              "stringListValues": [],
              "stringValue": "There"
            },
            "blob": {
              "binaryListValues": [],
              "binaryValue": "AQI=",
              "dataType": "Binary",
              "stringListValues": []
            }
          },
          "messageId": "[id]",
          "receiptHandle": "[handle]"
        },
        {
          "attributes": {
            "ApproximateFirstReceiveTimestamp": "1795291200000",
            "ApproximateReceiveCount": "1",
            "SenderId": "000000000000",
            "SentTimestamp": "1795291200000"
          },
          "awsRegion": "us-east-1",
          "body": "plain",
          "eventSource": "aws:sqs",
          "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:q",
          "md5OfBody": "ac7938d40cfc2307e2bf325d28e7884e",
          "messageAttributes": {},
          "messageId": "[id]",
          "receiptHandle": "[handle]"
        }
      ]
    }
    "#);
}

/// LocalStack's `test_lambda_integration_sqs.snapshot.json`, 25 November 2025: with a window, `md5OfMessageAttributes`
/// is null if there are no attributes (`test_sqs_event_source_mapping` and every `test_sqs_event_filter`); without one,
/// it is absent (`test_report_batch_item_failures`).
#[tokio::test]
async fn with_a_window_a_message_without_attributes_has_a_null_sum() {
    for (batching_window, sum) in [(SECOND, Some(&Value::Null)), (Duration::ZERO, None)] {
        let world = World::start().await;
        let url = world.queue("q").await;
        world.send(&url, "plain").await;
        let (called, mut calls) = mpsc::unbounded_channel();
        let config = Config {
            batch_size: 1,
            batching_window,
            ..config(&url)
        };
        let _running = Running::start(&world, config, move |invocation| {
            called.send(invocation.event).unwrap();
            async { Ok(Value::Null) }
        });
        let event = calls.recv().await.unwrap();
        assert_eq!(event["Records"][0].get("md5OfMessageAttributes"), sum);
    }
}

#[test]
fn an_invalid_mapping_is_refused() {
    let good = config("http://127.0.0.1:1/000000000000/q");
    let window = |seconds: u64| Config {
        batching_window: Duration::from_secs(seconds),
        ..good.clone()
    };
    for (config, expected) in [
        (
            Config {
                batch_size: 0,
                ..good.clone()
            },
            ConfigError::BatchSize,
        ),
        (
            Config {
                batch_size: 10_001,
                ..window(1)
            },
            ConfigError::BatchSize,
        ),
        (
            Config {
                batch_size: 11,
                ..good.clone()
            },
            ConfigError::BatchingWindow,
        ),
        (window(301), ConfigError::BatchingWindow),
        (
            Config {
                maximum_concurrency: 0,
                ..good.clone()
            },
            ConfigError::MaximumConcurrency,
        ),
        (
            Config {
                function_timeout: Duration::ZERO,
                ..good.clone()
            },
            ConfigError::FunctionTimeout,
        ),
        (
            Config {
                receive_wait: 21 * SECOND,
                ..good.clone()
            },
            ConfigError::ReceiveWait,
        ),
        (
            Config {
                queue_arn: "q".to_owned(),
                ..good.clone()
            },
            ConfigError::QueueArn,
        ),
    ] {
        let handler = |_: Invocation| async { Ok(Value::Null) };
        let client = crate::world::client("http://127.0.0.1:1");
        assert_eq!(
            Mapping::new(client, config, Clock::System, handler).err(),
            Some(expected)
        );
    }
}
