//! The cost of each kind's parser and selection, compared with the bare parse of the same body: `kinds table` measures and prints;
//! it runs `kinds KIND-STEP COUNT`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a measurement prints, and fails where it fails"
)]

use std::hint::black_box;

use bytes::Bytes;
use http::HeaderMap;
use scanhook_bench::callgrind::instructions;
use scanhook_bench::payloads;
use scanhook_config::config::Config;
use scanhook_core::auth::{Credential, Presented, Scheme, VerifiedDelivery, Verifier, verify};
use scanhook_core::delivery::Delivery;
use scanhook_core::image::Image;
use scanhook_core::kinds::{self, Kind, SamplePush};
use scanhook_core::source::Source;
use scanhook_webhook::router::decide;
use serde_json::json;

const SECRET: &str = "fake-secret-of-a-measurement";

/// The measured steps of each kind: serde into its structs; parsing and selection; verification, with the best credential that
/// isn't a signature.
const STEPS: [&str; 3] = ["bare", "decide", "verify"];

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [word] if word == "table" => table(),
        [mode, count] => {
            let (kind, step) = mode.rsplit_once('-').unwrap();
            work(kinds::find(kind).unwrap(), step, count.parse().unwrap());
        }
        _ => panic!("kinds table | kinds KIND-STEP COUNT"),
    }
}

/// The measured delivery of a kind: full-length ones for GitHub and Harbor, those of `scanhook send` for the others.
fn delivery(kind: &Kind) -> (HeaderMap, Bytes) {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let image = format!(
        "{}/example-team/checkout-service:1.4.2@{digest}",
        kind.example_registry
    );
    let sample = (kind.sample)(&SamplePush {
        image: &Image::parse(&image).unwrap(),
        id: "01JD0000000000000000000000",
        at: "2026-11-21T20:00:00Z".parse().unwrap(),
    });
    let headers = sample.headers.into_iter();
    let headers = headers.map(|(name, value)| (name, value.parse().unwrap()));
    let body = match kind.name {
        "ghcr" => payloads::ghcr(),
        "harbor" => payloads::harbor(),
        _ => sample.body,
    };
    (headers.collect(), body.into())
}

fn source(kind: &Kind) -> Source {
    let registry = match kind.name {
        "harbor" => "harbor.platform.example.com",
        _ => kind.example_registry,
    };
    let source = json!({"kind": kind.name, "registry": registry, "auth": [{"type": "path_token", "secret": "env:S"}]});
    let config = Config::parse(&json!({"sources": {"measured": source}}).to_string()).unwrap();
    let (_, source) = config.sources.into_iter().next().unwrap();
    source.source
}

/// Repeats a step.
fn work(kind: &Kind, step: &str, count: u64) {
    let (mut headers, body) = delivery(kind);
    let source = source(kind);
    let credential = Credential {
        scheme: if kind.auth.contains(&"bearer") {
            Scheme::Bearer
        } else {
            Scheme::PathToken
        },
        secret: SECRET.into(),
    };
    let token = match credential.present(&body).unwrap() {
        Presented::Header(name, value) => {
            headers.insert(name, value);
            None
        }
        Presented::PathSegment(_) => Some(SECRET),
    };
    let verifiers = [credential.verifier()];
    let verified = verified(&headers, token, &body, &verifiers);
    for _ in 0..count {
        match step {
            "bare" => assert!(kinds::bare_parse(kind.name, black_box(&body))),
            "decide" => {
                let selected = decide(&source, black_box(&verified)).unwrap();
                assert!(!black_box(selected).requests.is_empty());
            }
            "verify" => {
                black_box(self::verified(&headers, token, &body, &verifiers));
            }
            _ => panic!("{step} is none of {STEPS:?}"),
        }
    }
}

fn verified(
    headers: &HeaderMap,
    token: Option<&str>,
    body: &Bytes,
    verifiers: &[Verifier],
) -> VerifiedDelivery {
    let delivery = Delivery {
        headers: headers.clone(),
        path_token: token.map(str::to_owned),
        body: body.clone(),
        received_at: jiff::Timestamp::UNIX_EPOCH,
    };
    verify(black_box(delivery), verifiers).unwrap_or_else(|_| panic!("the secret is right"))
}

fn table() {
    println!(
        "| kind | bytes | bare parse | parse and select | times | verify, no HMAC |\n|---|---|---|---|---|---|"
    );
    for kind in kinds::ALL {
        let [bare, decide, verify] = STEPS.map(|it| instructions(&format!("{}-{it}", kind.name)));
        let hundredths = decide * 100 / bare;
        println!(
            "| {} | {} | {bare} | {decide} | {}.{:02} | {verify} |",
            kind.name,
            delivery(kind).1.len(),
            hundredths / 100,
            hundredths % 100
        );
    }
}
