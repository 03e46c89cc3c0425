//! The cost of one delivery, in instructions and in time: `delivery table` measures and prints; it runs `delivery MODE COUNT`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    reason = "a measurement prints, fails where it fails, and runs itself under valgrind"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use scanhook_bench::callgrind::{instructions, nanoseconds};
use scanhook_bench::payloads;
use scanhook_config::Environment;
use scanhook_config::config::Config;
use scanhook_config::secrets::Secrets;
use scanhook_core::auth::{Credential, Presented, Scheme, VerifiedDelivery, Verifier, verify};
use scanhook_core::delivery::Delivery;
use scanhook_core::kinds;
use scanhook_core::message::QueueMessage;
use scanhook_core::source::Source;
use scanhook_emulator::sqs::{Recorder, client_settings};
use scanhook_telemetry::logs::{self, Format};
use scanhook_webhook::config::webhook;
use scanhook_webhook::queue::Queue;
use scanhook_webhook::router::{Webhook, decide, router};
use sha2::Sha256;
use tower::Service as _;

const SECRET: &str = "fake-secret-of-a-measurement";

const CONFIG: &str = r#"
sources:
  github: { kind: ghcr, auth: [{ type: hmac, secret: "env:SECRET" }] }
  harbor: { kind: harbor, registry: harbor.platform.example.com, auth: [{ type: token, secret: "env:SECRET" }] }
"#;

/// The measured steps.
const MODES: [&str; 7] = [
    "ghcr-parse",
    "hmac",
    "ghcr-verify",
    "ghcr-all",
    "ghcr-send",
    "harbor-parse",
    "harbor-decide",
];

/// The longest answer budget of a kind.
const PATIENCE: Duration = Duration::from_secs(10);

/// The repetitions of a time measurement.
const TIMED: u64 = 20_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // The log line of a delivery is a part of its cost.
    logs::init(&scanhook_config::environment(), "bench", Format::Json).unwrap();
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [word] if word == "table" => table(),
        [mode, count] => {
            let nanoseconds = work(mode, count.parse().unwrap()).await;
            eprintln!("nanoseconds: {nanoseconds}");
        }
        _ => panic!("delivery table | delivery MODE COUNT"),
    }
}

/// Repeats the step `mode`, and returns the mean time in nanoseconds.
async fn work(mode: &str, count: u64) -> u128 {
    let (ghcr, harbor) = (
        Bytes::from(payloads::ghcr()),
        Bytes::from(payloads::harbor()),
    );
    let recorder = Recorder::default();
    let webhook = Arc::new(configured(&recorder).await);
    let mut router = router(webhook.clone());
    let github = request("github", &ghcr);
    let (headers, verifiers) = (github.headers().clone(), [credential("github").verifier()]);
    let pushed = verified(&request("harbor", &harbor));
    let source = &webhook.sources["harbor"].source;
    let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    let right = mac.clone().chain_update(&ghcr).finalize().into_bytes();

    // The message of such a delivery.
    deliver(&mut router, &github).await;
    let message = QueueMessage::parse(&recorder.take()[0]).unwrap();

    let start = Instant::now();
    for _ in 0..count {
        match mode {
            "ghcr-parse" => assert!(kinds::bare_parse("ghcr", black_box(&ghcr))),
            "hmac" => {
                let mac = black_box(&mac).clone().chain_update(black_box(&ghcr));
                assert!(mac.verify_slice(&right).is_ok());
            }
            "ghcr-verify" => assert!(verify_once(&headers, &ghcr, &verifiers)),
            "ghcr-all" => {
                deliver(&mut router, &github).await;
                recorder.take();
            }
            "ghcr-send" => {
                let deadline = tokio::time::Instant::now() + PATIENCE;
                let sending = webhook.queue.send(vec![message.clone()], deadline);
                sending.await.unwrap();
                recorder.take();
            }
            "harbor-parse" => assert!(kinds::bare_parse("harbor", black_box(&harbor))),
            "harbor-decide" => decide_once(source, &pushed),
            _ => panic!("{mode} is none of {MODES:?}"),
        }
    }
    start.elapsed().as_nanos() / u128::from(count)
}

async fn configured(recorder: &Recorder) -> Webhook {
    let config = Config::parse(CONFIG).unwrap();
    let environment: Environment = Arc::new(|_| Some(SECRET.to_owned()));
    let base = "http://127.0.0.1:9";
    let settings = client_settings(base, recorder.http_client());
    let queue = Queue::sqs(settings, format!("{base}/000000000000/scans"));
    webhook(&config, queue, &Secrets::local(&environment))
        .await
        .unwrap()
}

fn credential(source: &str) -> Credential {
    let config = Config::parse(CONFIG).unwrap();
    let (scheme, _) = config.sources[source].auth[0].shared().unwrap();
    Credential {
        scheme: scheme.clone(),
        secret: SECRET.into(),
    }
}

/// An authentic delivery with the headers that GitHub sends.
fn request(source: &str, body: &Bytes) -> Request<Bytes> {
    let credential = credential(source);
    let Some(Presented::Header(name, value)) = credential.present(body) else {
        panic!("{source} is not authenticated by a header")
    };
    assert!(matches!(
        credential.scheme,
        Scheme::Hmac(_) | Scheme::Token(_)
    ));
    let request = Request::post(format!("/webhooks/{source}"))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, body.len())
        .header(header::USER_AGENT, "GitHub-Hookshot/24bccdc")
        .header(header::ACCEPT, "*/*")
        .header(header::HOST, "hooks.example.com")
        .header("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
        .header("x-github-event", "package")
        .header("x-github-hook-id", "292430182")
        .header("x-github-hook-installation-target-type", "organization")
        .header(name, value);
    request.body(body.clone()).unwrap()
}

fn verified(request: &Request<Bytes>) -> VerifiedDelivery {
    let delivery = Delivery {
        headers: request.headers().clone(),
        path_token: None,
        body: request.body().clone(),
        received_at: Timestamp::UNIX_EPOCH,
    };
    verify(delivery, &[credential("harbor").verifier()])
        .unwrap_or_else(|_| panic!("the secret is right"))
}

fn verify_once(headers: &HeaderMap<HeaderValue>, body: &Bytes, verifiers: &[Verifier]) -> bool {
    let delivery = Delivery {
        headers: headers.clone(),
        path_token: None,
        body: body.clone(),
        received_at: Timestamp::UNIX_EPOCH,
    };
    verify(black_box(delivery), verifiers).is_ok()
}

fn decide_once(source: &Source, delivery: &VerifiedDelivery) {
    let selected = decide(source, black_box(delivery)).unwrap_or_else(|err| panic!("{err}"));
    assert_eq!(black_box(selected).requests.len(), 11);
}

/// From the request to the answer, with the log line.
async fn deliver(router: &mut Router, request: &Request<Bytes>) {
    let request = request.clone().map(Body::from);
    let response = router.call(request).await.unwrap();
    assert_eq!(response.status(), 202);
    black_box(response.into_body().collect().await.unwrap());
}

fn table() {
    println!(
        "12 KB GHCR: {} bytes; 4 KB Harbor: {} bytes\n",
        payloads::ghcr().len(),
        payloads::harbor().len()
    );
    println!("{:<14} {:>12} {:>12}", "", "instructions", "microseconds");
    let figures = MODES.map(|mode| {
        let instructions = instructions(mode);
        let nanoseconds = nanoseconds(mode, TIMED);
        println!(
            "{mode:<14} {instructions:>12} {:>10}.{:01}",
            nanoseconds / 1000,
            nanoseconds % 1000 / 100
        );
        instructions
    });
    let [
        parse,
        hmac,
        verified,
        all,
        send,
        harbor_parse,
        harbor_decide,
    ] = figures;
    let percent = |part: u64, whole: u64| {
        let tenths = part * 1000 / whole;
        format!("{}.{} %", tenths / 10, tenths % 10)
    };
    println!(
        "\nGHCR, all but HMAC and the SDK's call, of its parse   {:>8}   at most 200 %",
        percent(all - hmac - send, parse)
    );
    println!(
        "GHCR, verification, of the bare HMAC               {:>8}   at most 102 %",
        percent(verified, hmac)
    );
    println!(
        "Harbor, parse and select, of its bare parse        {:>8}   at most 200 %",
        percent(harbor_decide, harbor_parse)
    );
}
