//! What AWS answers, asked of the endpoint through a socket.
//!
//! The answers are those that LocalStack recorded on AWS (commit 8b9a79f, `tests/aws/services/sqs/test_sqs.snapshot.json`): each test names the
//! snapshot and the day of the recording. Where there is no recording, it names the next best source.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::World;

struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Sends one request: a line such as `POST /`, further headers, and a body.
async fn ask(world: &World, line: &str, headers: &str, body: &str) -> Answer {
    let address = world.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n"
    );
    let request = format!("{head}{headers}\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Answer {
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

async fn call(world: &World, operation: &str, body: Value) -> Answer {
    let target = format!("X-Amz-Target: AmazonSQS.{operation}\r\n");
    ask(world, "POST /", &target, &body.to_string()).await
}

/// The answer of an operation that succeeds.
async fn done(world: &World, operation: &str, body: Value) -> Value {
    let answer = call(world, operation, body).await;
    assert_eq!(answer.status(), "200", "{operation}: {}", answer.body);
    answer.json()
}

fn members(answer: &Value) -> Vec<&str> {
    answer
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

async fn receive(world: &World, more: Value) -> Value {
    let mut request = json!({"QueueUrl": "q"});
    let more = more.as_object().unwrap().clone();
    request.as_object_mut().unwrap().extend(more);
    done(world, "ReceiveMessage", request).await["Messages"].take()
}

async fn handle(world: &World, visibility_timeout: i64) -> String {
    let received = receive(world, json!({"VisibilityTimeout": visibility_timeout})).await;
    received[0]["ReceiptHandle"].as_str().unwrap().to_owned()
}

/// `test_send_message_batch_with_oversized_contents_with_updated_maximum_message_size[sqs]`, 30 April 2024: there is no `Failed`.
/// For `Successful` the source is LocalStack's pull request 9998.
#[tokio::test]
async fn a_batch_is_answered_without_the_list_that_would_be_empty() {
    let world = World::start().await;
    world.queue("q").await;
    for (body, member) in [("x", "Successful"), ("\u{0}", "Failed")] {
        let send = json!({"QueueUrl": "q", "Entries": [{"Id": "1", "MessageBody": body}]});
        let answer = done(&world, "SendMessageBatch", send).await;
        assert_eq!(members(&answer), [member]);
    }
    let handle = handle(&world, 30).await;
    for operation in ["ChangeMessageVisibilityBatch", "DeleteMessageBatch"] {
        for (handle, member) in [(handle.as_str(), "Successful"), ("garbage", "Failed")] {
            let entry = json!({"Id": "1", "ReceiptHandle": handle, "VisibilityTimeout": 0});
            let request = json!({"QueueUrl": "q", "Entries": [entry]});
            let answer = done(&world, operation, request).await;
            assert_eq!(members(&answer), [member], "{operation}");
        }
    }
}

/// `test_change_message_visibility_after_visibility_timeout_expiration[sqs]`, 30 April 2024: 200. That nothing changes is from
/// LocalStack's pull request 9632: AWS "simply sends back an OK and does nothing".
#[tokio::test]
async fn a_change_of_visibility_that_is_late_is_no_error_and_changes_nothing() {
    let world = World::start().await;
    let url = world.queue_with("q", &[("VisibilityTimeout", "1")]).await;
    world.send(&url, "x").await;
    let handle = handle(&world, 1).await;
    world.advance_s(2);
    let change = json!({"QueueUrl": "q", "ReceiptHandle": handle, "VisibilityTimeout": 2});
    let answer = done(&world, "ChangeMessageVisibility", change).await;
    assert_eq!(answer, json!({}));
    let entry = json!({"Id": "1", "ReceiptHandle": handle, "VisibilityTimeout": 2});
    let batch = json!({"QueueUrl": "q", "Entries": [entry]});
    let answer = done(&world, "ChangeMessageVisibilityBatch", batch).await;
    assert_eq!(answer, json!({"Successful": [{"Id": "1"}]}));
    assert_eq!(world.depth("q").await, [1, 0, 0]);
}

/// `test_terminate_visibility_timeout_after_receive`, which its authors ran on AWS without a recording.
#[tokio::test]
async fn an_earlier_receives_handle_changes_the_visibility() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "x").await;
    let first = handle(&world, 0).await;
    handle(&world, 3).await;
    let change = json!({"QueueUrl": "q", "ReceiptHandle": first, "VisibilityTimeout": 0});
    done(&world, "ChangeMessageVisibility", change).await;
    assert_eq!(world.depth("q").await, [1, 0, 0]);
}

/// `test_inflight_message_requeue`, which its authors ran on AWS without a recording, receives the first message again. AWS promises
/// no order, and here the second comes first: docs/emulator.md says why.
#[tokio::test]
async fn a_message_that_is_visible_again_comes_after_those_that_waited() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "test1").await;
    handle(&world, 2).await;
    world.advance_s(1);
    world.send(&url, "test2").await;
    world.advance_s(2);
    assert_eq!(world.bodies(&url).await, ["test2", "test1"]);
}
