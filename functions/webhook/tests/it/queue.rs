//! Sending to SQS: over a real socket to a scripted endpoint and to the emulator, and against the sender's patience.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::Full;
use scanhook_config::config::Config;
use scanhook_config::secrets::Secrets;
use scanhook_core::image::Image;
use scanhook_core::kinds::{self, SamplePush};
use scanhook_core::message::QueueMessage;
use scanhook_emulator::faults::Faults;
use scanhook_emulator::sqs::{Recorder, Store};
use scanhook_webhook::config::webhook;
use scanhook_worker::clock::Clock;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::world::{
    Answer, DIGEST, assert_is_problem, distribution_push, environment, in_process, push, queued,
    recorded_by, secret, send, serve, signed, sqs, started,
};

const QUEUE: &str = "scans";

/// What the endpoint does with one call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Takes every entry.
    Take,
    /// Refuses the entries at these positions, in an answer of 200.
    Refuse(&'static [usize]),
    /// Leaves the entries at these positions out of its answer.
    Forget(&'static [usize]),
    /// Answers 503.
    Fail,
    /// Asks for a pause.
    Throttle,
    /// Answers 200 with something else than JSON.
    Babble,
    /// Never answers.
    Stall,
}

/// An SQS endpoint that follows a script, whose last act is repeated.
#[derive(Clone)]
pub(crate) struct Endpoint {
    script: Arc<Mutex<VecDeque<Act>>>,
    calls: Arc<Mutex<Vec<usize>>>,
    taken: Arc<Mutex<Vec<Value>>>,
}

async fn act(State(endpoint): State<Endpoint>, headers: HeaderMap, body: Bytes) -> Response {
    if headers["x-amz-target"] == "AmazonSQS.GetQueueAttributes" {
        return "{}".into_response();
    }
    let request: Value = serde_json::from_slice(&body).unwrap();
    let entries = request["Entries"].as_array().unwrap();
    endpoint.calls.lock().unwrap().push(entries.len());
    let next = {
        let mut script = endpoint.script.lock().unwrap();
        match script.len() {
            1 => script[0],
            _ => script.pop_front().unwrap(),
        }
    };
    let (refused, forgotten): (&[usize], &[usize]) = match next {
        Act::Take => (&[], &[]),
        Act::Refuse(positions) => (positions, &[]),
        Act::Forget(positions) => (&[], positions),
        Act::Fail => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Act::Throttle => {
            let code = [("x-amzn-query-error", "RequestThrottled;Sender")];
            let body =
                json!({"__type": "com.amazonaws.sqs#RequestThrottled", "message": "slow down"});
            return (StatusCode::BAD_REQUEST, code, body.to_string()).into_response();
        }
        Act::Babble => return "<html>".into_response(),
        Act::Stall => std::future::pending().await,
    };
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for (position, entry) in entries.iter().enumerate() {
        if refused.contains(&position) {
            failed.push(json!({"Id": entry["Id"], "Code": "InternalError", "SenderFault": false}));
        } else if !forgotten.contains(&position) {
            endpoint.taken.lock().unwrap().push(entry.clone());
            successful.push(json!({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "x"}));
        }
    }
    json!({"Successful": successful, "Failed": failed})
        .to_string()
        .into_response()
}

impl Endpoint {
    pub(crate) fn new(script: &[Act]) -> Self {
        Self {
            script: Arc::new(Mutex::new(script.iter().copied().collect())),
            calls: Arc::default(),
            taken: Arc::default(),
        }
    }

    /// Posts an authentic body to a webhook whose queue is this endpoint.
    async fn deliver(&self, source: &str, body: String) -> Answer {
        let (address, server) = self.serve().await;
        let answer = deliver(&address, source, body).await;
        server.abort();
        answer
    }

    /// Serves the endpoint until the handle is aborted.
    pub(crate) async fn serve(&self) -> (String, JoinHandle<()>) {
        let router = Router::new().route("/", post(act));
        let (address, server) = serve(router.with_state(self.clone())).await;
        (format!("http://{address}"), server)
    }

    /// Everything that was sent to the queue.
    pub(crate) fn sent(&self) -> String {
        json!(*self.taken.lock().unwrap()).to_string()
    }

    /// The size of each call, in their order.
    fn calls(&self) -> Vec<usize> {
        self.calls.lock().unwrap().clone()
    }

    /// The repositories of the messages that were taken, sorted.
    fn taken(&self) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        let messages = taken.iter().map(|it| it["MessageBody"].as_str().unwrap());
        let messages = messages.map(|it| QueueMessage::parse(it).unwrap());
        let mut names: Vec<_> = messages.map(|it| it.image.repository.to_string()).collect();
        names.sort();
        names
    }
}

async fn deliver(endpoint: &str, source: &str, body: String) -> Answer {
    let url = format!("{endpoint}/000000000000/{QUEUE}");
    let webhook = Arc::new(started(sqs(&url).await).await);
    let request = signed(source, body).map(http_body_util::Full::new);
    send(&webhook, request).await
}

/// An envelope with so many pushes, to `r00`, `r01` and so on.
fn envelope(count: usize) -> String {
    let events: Vec<_> = names(count)
        .iter()
        .map(|it| distribution_push(it, "1"))
        .collect();
    json!({"events": events}).to_string()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|it| format!("r{it:02}")).collect()
}

fn assert_is_unavailable(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_is_problem(answer);
    let wait = answer.headers[header::RETRY_AFTER].to_str().unwrap();
    assert!(wait.parse::<u32>().unwrap() > 0);
}

#[tokio::test]
async fn messages_are_sent_in_batches_of_ten_in_the_group_of_their_source() {
    let endpoint = Endpoint::new(&[Act::Take]);
    let answer = endpoint.deliver("mirror", envelope(25)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let mut calls = endpoint.calls();
    calls.sort_unstable();
    assert_eq!(calls, [5, 10, 10]);
    assert_eq!(endpoint.taken(), names(25));
    let taken = endpoint.taken.lock().unwrap();
    assert!(taken.iter().all(|it| it["MessageGroupId"] == "mirror"));
}

#[tokio::test]
async fn what_a_batch_refused_in_part_is_sent_again_and_only_that() {
    let endpoint = Endpoint::new(&[Act::Refuse(&[1, 3]), Act::Refuse(&[0]), Act::Take]);
    let answer = endpoint.deliver("mirror", envelope(5)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(endpoint.calls(), [5, 2, 1]);
    assert_eq!(endpoint.taken(), names(5));
}

#[tokio::test]
async fn an_entry_that_is_neither_taken_nor_refused_was_not_acknowledged() {
    let endpoint = Endpoint::new(&[Act::Forget(&[0, 2]), Act::Take]);
    let answer = endpoint.deliver("mirror", envelope(3)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(endpoint.calls(), [3, 2]);
    assert_eq!(endpoint.taken(), names(3));
}

#[tokio::test]
async fn a_failure_that_passes_in_time_costs_nothing() {
    for trouble in [Act::Fail, Act::Throttle] {
        let endpoint = Endpoint::new(&[trouble, Act::Take]);
        let answer = endpoint.deliver("github", push("github")).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{trouble:?}");
        assert_eq!(endpoint.taken(), ["team/app"]);
    }
}

#[tokio::test]
async fn a_queue_that_does_not_take_everything_in_time_is_answered_503() {
    let troubles = [
        Act::Refuse(&[0]),
        Act::Forget(&[0]),
        Act::Fail,
        Act::Throttle,
        Act::Babble,
        Act::Stall,
    ];
    let endpoints = troubles.map(|it| Endpoint::new(&[it]));
    let answers = endpoints.iter().map(|it| it.deliver("mirror", envelope(3)));
    for answer in join_all(answers).await {
        assert_is_unavailable(&answer);
    }
}

#[tokio::test]
async fn one_batch_that_fails_makes_the_whole_delivery_fail() {
    // The sender repeats it, and the ledger folds what was queued already.
    let endpoint = Endpoint::new(&[Act::Take, Act::Fail]);
    let answer = endpoint.deliver("mirror", envelope(25)).await;
    assert_is_unavailable(&answer);
    assert!(matches!(endpoint.taken().len(), 5 | 10));
}

#[tokio::test]
async fn a_queue_that_can_not_be_reached_is_answered_503() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let answer = deliver(&closed, "mirror", push("mirror")).await;
    assert_is_unavailable(&answer);
}

#[tokio::test]
async fn what_needs_no_queue_is_answered_without_one() {
    let endpoint = Endpoint::new(&[Act::Stall]);
    let ping = json!({"zen": "x", "hook_id": 1}).to_string();
    let answer = endpoint.deliver("github", ping).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(endpoint.calls().is_empty());
}

#[tokio::test]
async fn every_message_of_a_full_body_passes_the_checks_of_sqs() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("queues.db"), Clock::System).unwrap();
    let (address, server) =
        serve(scanhook_emulator::sqs::Endpoint::new(store.clone(), Faults::none()).router()).await;
    let address = format!("http://{address}");
    store.ensure_queue(QUEUE, &[]).await.unwrap();
    let name = |it: usize| format!("{}/{it}", "x".repeat(240));
    let actor = "\u{fffe}\u{0}".repeat(100) + &"ä".repeat(300);
    let events: Vec<_> = (0..200)
        .map(|it| {
            let mut event = distribution_push(&name(it), "1");
            event["actor"]["name"] = json!(actor);
            event
        })
        .collect();
    let recorder = Recorder::default();
    let webhook = Arc::new(started(recorded_by(&recorder)).await);
    let body = json!({"events": events}).to_string();
    let answer = send(&webhook, signed("mirror", body).map(Full::new)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    // With more patience than the source's sender has: what counts is what SQS says, not when.
    let queue = sqs(&format!("{address}/000000000000/{QUEUE}")).await;
    let sent = queue.send(queued(&recorder), Instant::now() + Duration::from_mins(5));
    sent.await.unwrap();
    assert_eq!(store.depth(QUEUE).await.unwrap().visible, 200);
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stalled_queue_is_answered_within_each_kinds_patience() {
    let sources: Vec<_> = kinds::ALL.iter().map(|kind| {
        let (name, registry) = (kind.name, kind.example_registry);
        format!("  {name}: {{ kind: {name}, registry: \"{registry}\", auth: [{{ type: path_token, secret: \"env:X\" }}] }}\n")
    }).collect();
    let config = Config::parse(&format!("sources:\n{}", sources.concat())).unwrap();
    for kind in kinds::ALL {
        // Without a socket, for a clock that stands still.
        let silence = |_, _| std::future::pending();
        let queue = in_process(scanhook_emulator::sqs::in_process(silence));
        let secrets = Secrets::local(&environment());
        let webhook = Arc::new(webhook(&config, queue, &secrets).await.unwrap());
        let image = format!("{}/team/app:1.4.2@{DIGEST}", kind.example_registry);
        let sample = (kind.sample)(&SamplePush {
            image: &Image::parse(&image).unwrap(),
            id: "id-1",
            at: "2026-11-21T20:00:00Z".parse().unwrap(),
        });
        let mut request = Request::post(format!("/webhooks/{}/{}", kind.name, secret("X")));
        for (name, value) in sample.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(sample.body))).unwrap();
        let budget = (kind.answer_budget)(request.headers());
        let start = Instant::now();
        assert_is_unavailable(&send(&webhook, request).await);
        let (took, name) = (start.elapsed(), kind.name);
        assert!(
            took <= budget + Duration::from_millis(10),
            "{name}: {took:?} of {budget:?}"
        );
        assert!(
            took >= budget / 2,
            "{name}: gave up after {took:?} of {budget:?}"
        );
    }
}
