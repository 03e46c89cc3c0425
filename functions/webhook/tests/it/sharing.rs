//! Deliveries that come while a batch is under way share the next one. SQS is a real socket whose answers the test gives.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use futures_util::future::join;
use http::StatusCode;
use http_body_util::Full;
use scanhook_core::message::QueueMessage;
use scanhook_webhook::router::Webhook;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::world::{
    Answer, assert_is_problem, distribution_push, in_process, send, serve, signed, sqs, started,
};

/// A request to SQS, which waits for its answer; without one it is 503.
struct Call {
    entries: Vec<Value>,
    answer: oneshot::Sender<Value>,
}

type Calls = mpsc::UnboundedReceiver<Call>;

impl Call {
    /// The repositories of its messages, in their order.
    fn repositories(&self) -> Vec<String> {
        let message = |it: &Value| QueueMessage::parse(it["MessageBody"].as_str().unwrap());
        let messages = self.entries.iter().map(|it| message(it).unwrap());
        messages.map(|it| it.image.repository.to_string()).collect()
    }

    /// Takes all messages but those of one repository.
    fn take_all_but(self, refused: &str) {
        let is_taken = self.repositories().into_iter().map(|it| it != refused);
        let (taken, failed): (Vec<_>, Vec<_>) = self
            .entries
            .iter()
            .zip(is_taken)
            .partition(|(_, is_taken)| *is_taken);
        let taken: Vec<_> = taken
            .iter()
            .map(|(it, _)| json!({"Id": it["Id"]}))
            .collect();
        let failed: Vec<_> = failed
            .iter()
            .map(|(it, _)| json!({"Id": it["Id"], "Code": "InternalError", "SenderFault": false}))
            .collect();
        let answer = json!({"Successful": taken, "Failed": failed});
        // Its sender may have given up.
        let _ = self.answer.send(answer);
    }

    fn take_all(self) {
        self.take_all_but("none");
    }
}

/// Hands a request on, and waits for the answer.
async fn ask(calls: mpsc::UnboundedSender<Call>, body: Bytes) -> (StatusCode, String) {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let entries = request["Entries"].as_array().unwrap().clone();
    let (answer, answered) = oneshot::channel();
    calls.send(Call { entries, answer }).ok().unwrap();
    match answered.await {
        Ok(answer) => (StatusCode::OK, answer.to_string()),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
    }
}

/// A webhook whose SQS is a socket, and the requests that come there.
async fn webhook() -> (Arc<Webhook>, Calls) {
    let (sender, calls) = mpsc::unbounded_channel();
    let handler = post(move |body: Bytes| ask(sender.clone(), body));
    let (address, _server) = serve(Router::new().route("/", handler)).await;
    let queue = sqs(&format!("http://{address}/000000000000/scans")).await;
    (Arc::new(started(queue).await), calls)
}

/// Posts an authentic push of one image.
async fn deliver(webhook: Arc<Webhook>, repository: &'static str) -> Answer {
    let body = json!({"events": [distribution_push(repository, "1")]}).to_string();
    send(&webhook, signed("mirror", body).map(Full::new)).await
}

/// Posts two deliveries, between which no time passes.
async fn deliver_together(
    webhook: &Arc<Webhook>,
    one: &'static str,
    other: &'static str,
) -> (oneshot::Receiver<Answer>, oneshot::Receiver<Answer>) {
    let together = |repository| {
        let (sender, answer) = oneshot::channel();
        let delivery = deliver(webhook.clone(), repository);
        let told = async { drop(sender.send(delivery.await)) };
        (told, answer)
    };
    let ((one, one_answer), (other, other_answer)) = (together(one), together(other));
    let mut both = Box::pin(join(one, other));
    tokio::time::pause();
    let polled = poll_fn(|context| Poll::Ready(both.as_mut().poll(context))).await;
    tokio::time::resume();
    assert!(polled.is_pending());
    tokio::spawn(both);
    (one_answer, other_answer)
}

#[tokio::test]
async fn deliveries_that_come_while_a_batch_is_under_way_share_the_next() {
    let (webhook, mut calls) = webhook().await;
    let first = tokio::spawn(deliver(webhook.clone(), "first"));
    let under_way = calls.recv().await.unwrap();
    assert_eq!(under_way.repositories(), ["first"]);

    let (second, third) = deliver_together(&webhook, "second", "third").await;
    let shared = calls.recv().await.unwrap();
    assert_eq!(shared.repositories(), ["second", "third"]);
    shared.take_all();
    assert_eq!(second.await.unwrap().status, StatusCode::ACCEPTED);
    assert_eq!(third.await.unwrap().status, StatusCode::ACCEPTED);
    // They waited neither for the batch before theirs nor for its delivery.
    under_way.take_all();
    assert_eq!(first.await.unwrap().status, StatusCode::ACCEPTED);
    assert!(calls.try_recv().is_err());
}

#[tokio::test]
async fn of_a_shared_batch_only_the_delivery_of_the_failed_entry_is_answered_503() {
    for (refused, taken) in [("second", "third"), ("third", "second")] {
        let (webhook, mut calls) = webhook().await;
        let first = tokio::spawn(deliver(webhook.clone(), "first"));
        let under_way = calls.recv().await.unwrap();
        let (refused_answer, taken_answer) = deliver_together(&webhook, refused, taken).await;
        let shared = calls.recv().await.unwrap();
        under_way.take_all();
        assert_eq!(first.await.unwrap().status, StatusCode::ACCEPTED);
        assert_eq!(shared.repositories(), [refused, taken]);
        shared.take_all_but(refused);
        assert_eq!(taken_answer.await.unwrap().status, StatusCode::ACCEPTED);

        // It is tried again, by itself, until its sender's patience ends.
        let mut refused_answer = pin!(refused_answer);
        let mut tries = 0;
        let answer = loop {
            tokio::select! {
                answer = &mut refused_answer => break answer.unwrap(),
                Some(again) = calls.recv() => {
                    tries += 1;
                    assert_eq!(again.repositories(), [refused]);
                    again.take_all_but(refused);
                }
            }
        };
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_is_problem(&answer);
        assert!(tries > 0);
    }
}

#[tokio::test]
async fn a_shared_batch_that_fails_whole_is_sent_again_whole() {
    let (webhook, mut calls) = webhook().await;
    let first = tokio::spawn(deliver(webhook.clone(), "first"));
    let under_way = calls.recv().await.unwrap();
    let (second, third) = deliver_together(&webhook, "second", "third").await;
    under_way.take_all();
    assert_eq!(first.await.unwrap().status, StatusCode::ACCEPTED);
    drop(calls.recv().await.unwrap());
    let again = calls.recv().await.unwrap();
    assert_eq!(again.repositories(), ["second", "third"]);
    again.take_all();
    assert_eq!(second.await.unwrap().status, StatusCode::ACCEPTED);
    assert_eq!(third.await.unwrap().status, StatusCode::ACCEPTED);
}

/// Without a socket, for a clock that stands still unless all wait.
#[tokio::test(start_paused = true)]
async fn the_next_batch_goes_as_soon_as_the_one_before_is_acknowledged() {
    for (taking_ms, waited_ms) in [(3, 3), (60, 5)] {
        let (sender, mut calls) = mpsc::unbounded_channel();
        let handler = move |_, body| {
            let answer = ask(sender.clone(), body);
            async { http::Response::new(Bytes::from(answer.await.1)) }
        };
        let queue = in_process(scanhook_emulator::sqs::in_process(handler));
        let webhook = Arc::new(started(queue).await);
        let first = tokio::spawn(deliver(webhook.clone(), "first"));
        let under_way = calls.recv().await.unwrap();
        let began = Instant::now();
        let second = tokio::spawn(deliver(webhook.clone(), "second"));
        let third = tokio::spawn(deliver(webhook.clone(), "third"));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(taking_ms)).await;
            under_way.take_all();
        });
        let shared = calls.recv().await.unwrap();
        assert_eq!(shared.repositories(), ["second", "third"]);
        let waited = began.elapsed().as_millis();
        assert!((waited_ms..waited_ms + 2).contains(&waited), "{waited} ms");
        shared.take_all();
        for delivery in [first, second, third] {
            assert_eq!(delivery.await.unwrap().status, StatusCode::ACCEPTED);
        }
    }
}
