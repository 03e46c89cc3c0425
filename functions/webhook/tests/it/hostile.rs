//! Authentic senders that mean harm, and metadata that nobody signed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use scanhook_core::message::ScanId;
use scanhook_emulator::sqs::Recorder;
use serde_json::{Value, json};

use crate::world::{
    DIGEST, LIMIT, SOURCES, answer, assert_is_problem, check, distribution_push, ghcr_push,
    harbor_push, memory, push, queued, recorded_by, scan_of_push, send, signed, started, with,
};

#[tokio::test]
async fn headers_that_nobody_signed_change_nothing() {
    for (name, value) in [
        ("x-github-event", "ping"),
        ("x-github-event", "push"),
        ("x-gitea-event", "package"),
        ("ce-type", "zotregistry.image.updated"),
        ("x-forwarded-host", "evil.example.com"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-prefix", "/webhooks/github"),
        ("x-original-url", "/webhooks/github"),
        ("x-rewrite-url", "/webhooks/github"),
        ("x-http-method-override", "DELETE"),
        ("forwarded", "host=evil.example.com;proto=http"),
        ("user-agent", "GitHub-Hookshot/24bccdc"),
    ] {
        for source in SOURCES {
            let request = with(signed(source, push(source)), name, value);
            assert_eq!(
                check(request).await,
                scan_of_push(source),
                "{name}: {value}"
            );
        }
    }
    let ping = json!({"zen": "x", "hook_id": 1}).to_string();
    let forged = with(signed("github", ping), "x-github-event", "package");
    assert_eq!(check(forged).await, "200 skip ping");
}

#[tokio::test]
async fn json_that_is_nested_too_deep_is_skipped_or_refused_and_never_overflows_the_stack() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for depth in [200, 100_000] {
            let deep = format!("{}0{}", open.repeat(depth), close.repeat(depth));
            for source in SOURCES {
                let body = push(source).replacen('{', &format!("{{\"unknown\":{deep},"), 1);
                let told = check(signed(source, body)).await;
                assert_eq!(told, scan_of_push(source), "{depth}");
                let told = check(signed(source, deep.clone())).await;
                assert!(!told.starts_with("202"), "{source} {depth}: {told}");
            }
            for (source, key) in [
                ("hub", "push_data"),
                ("prod", "event_data"),
                ("prod", "type"),
                ("mirror", "events"),
                ("mirror", "target"),
                ("github", "package"),
            ] {
                let mut payload: Value = serde_json::from_str(&push(source)).unwrap();
                let place = match key {
                    "target" => &mut payload["events"][0][key],
                    _ => &mut payload[key],
                };
                *place = json!("HERE");
                let body = payload.to_string().replace("\"HERE\"", &deep);
                let told = check(signed(source, body)).await;
                assert!(!told.starts_with("202"), "{source} {key} {depth}: {told}");
            }
        }
    }
}

#[tokio::test]
async fn a_key_that_is_there_twice_is_refused() {
    // Two readers of such a body could see two truths.
    for (source, key, second) in [
        ("hub", "push_data", "{\"tag\":\"2\"}"),
        ("hub", "repository", "{\"repo_name\":\"a/b\"}"),
        ("hub", "tag", "\"2\""),
        ("hub", "repo_name", "\"a/b\""),
        ("prod", "type", "\"PULL_ARTIFACT\""),
        ("prod", "event_data", "{}"),
        ("prod", "resources", "[]"),
        ("prod", "tag", "\"2\""),
        ("prod", "digest", "null"),
        ("prod", "resource_url", "\"evil.example.com/prod/api:1\""),
        ("prod", "repo_full_name", "\"prod/other\""),
        ("mirror", "events", "[]"),
        ("mirror", "action", "\"pull\""),
        ("mirror", "target", "{}"),
        ("mirror", "repository", "\"other\""),
        ("mirror", "tag", "\"2\""),
        ("mirror", "digest", "null"),
        ("mirror", "url", "\"https://evil.example.com/v2/\""),
        ("github", "action", "\"deleted\""),
        ("github", "package", "{}"),
        ("github", "package_type", "\"npm\""),
        ("github", "package_version", "{}"),
        ("github", "package_url", "\"ghcr.io/other/app:1\""),
        ("github", "container_metadata", "{}"),
        ("github", "tag", "{}"),
        ("github", "manifest", "{}"),
    ] {
        let mark = format!("\"{key}\":");
        let twice = push(source).replacen(&mark, &format!("{mark}{second},{mark}"), 1);
        assert_ne!(twice, push(source), "{key} is not in the body");
        assert_eq!(check(signed(source, twice)).await, "400", "{source}: {key}");
    }
}

/// Texts that would do harm on a command line, in a shell, a path or a log.
const HOSTILE: [&str; 22] = [
    "--config=/etc/passwd",
    "-o",
    "$(id)",
    "`id`",
    "a;id",
    "a|id",
    "a&&id",
    "a'b",
    "a\"b",
    "a b",
    "../../etc/passwd",
    "..",
    "/etc/passwd",
    "a//b",
    "a\\b",
    "a\nlevel=error",
    "a\r\nX: y",
    "a\u{0}b",
    "a\u{1b}[31m",
    "a@sha256:abc",
    "a?x=y",
    "a%2e%2e",
];

#[tokio::test]
async fn a_hostile_name_is_never_queued() {
    for hostile in HOSTILE {
        let mut hub: Value = serde_json::from_str(&push("hub")).unwrap();
        hub["repository"]["repo_name"] = json!(hostile);
        let mut ghcr = ghcr_push("1");
        ghcr["package"]["package_version"]["package_url"] =
            json!(format!("ghcr.io/team/{hostile}:1"));
        for (source, payload) in [
            ("hub", hub),
            (
                "prod",
                harbor_push("harbor.example.com", &format!("prod/{hostile}"), "1"),
            ),
            ("prod", harbor_push("harbor.example.com", hostile, "1")),
            (
                "mirror",
                json!({"events": [distribution_push(hostile, "1")]}),
            ),
            ("github", ghcr),
        ] {
            let told = check(signed(source, payload.to_string())).await;
            // GitHub's own URLs may carry a digest behind an @, which is cut off.
            let is_cut = source == "github" && hostile.starts_with("a@");
            assert!(
                is_cut || !told.starts_with("202"),
                "{source} {hostile:?}: {told}"
            );
        }
    }
}

#[tokio::test]
async fn a_hostile_tag_is_never_queued() {
    for hostile in HOSTILE
        .into_iter()
        .chain(["-rf", ".hidden", &"x".repeat(129)])
    {
        let mut hub: Value = serde_json::from_str(&push("hub")).unwrap();
        hub["push_data"]["tag"] = json!(hostile);
        for (source, payload) in [
            ("hub", hub),
            (
                "prod",
                harbor_push("harbor.example.com", "prod/api", hostile),
            ),
            (
                "mirror",
                json!({"events": [distribution_push("team/app", hostile)]}),
            ),
            ("github", ghcr_push(hostile)),
        ] {
            let told = check(signed(source, payload.to_string())).await;
            assert!(!told.starts_with("202"), "{source} {hostile:?}: {told}");
        }
    }
}

#[tokio::test]
async fn a_digest_that_is_none_is_dropped_and_the_tag_scanned() {
    for wrong in [
        "sha256:abc",
        "sha512:0",
        "SHA256:0",
        "--x",
        &DIGEST.to_uppercase(),
    ] {
        let mut payload = harbor_push("harbor.example.com", "prod/api", "1");
        payload["event_data"]["resources"][0]["digest"] = json!(wrong);
        assert_eq!(
            check(signed("prod", payload.to_string())).await,
            "202 scan harbor.example.com/prod/api:1",
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn free_text_is_cleaned_and_cut_and_the_push_still_queued() {
    let long = "x".repeat(1_000_000);
    for actor in [
        "\u{fffe}\u{ffff}ci",
        "\u{0}ci",
        "\u{1b}[31mci",
        "a\nb\u{2028}c",
        &long,
    ] {
        for (source, payload) in [
            (
                "hub",
                json!({"push_data": {"tag": "1", "pusher": actor}, "repository": {"repo_name": "team/app"}}),
            ),
            ("prod", {
                let mut payload = harbor_push("harbor.example.com", "prod/api", "1");
                payload["operator"] = json!(actor);
                payload
            }),
            ("mirror", {
                let mut event = distribution_push("team/app", "1");
                event["actor"]["name"] = json!(actor);
                json!({"events": [event]})
            }),
            ("github", {
                let mut payload = ghcr_push("1");
                payload["sender"]["login"] = json!(actor);
                payload
            }),
        ] {
            let body = payload.to_string();
            assert!(body.len() <= LIMIT);
            let recorder = Recorder::default();
            let webhook = Arc::new(started(recorded_by(&recorder)).await);
            let request = signed(source, body).map(http_body_util::Full::new);
            assert_eq!(send(&webhook, request).await.status, 202, "{source}");
            let sent = queued(&recorder)[0].to_json();
            assert!(sent.len() < 2_000);
            let message: Value = serde_json::from_str(&sent).unwrap();
            let kept = message["event"]["actor"].as_str().unwrap();
            let is_clean = |it: char| !it.is_control() && !"\u{fffe}\u{ffff}\u{2028}".contains(it);
            assert!(kept.chars().all(is_clean), "{kept:?}");
        }
    }
}

#[tokio::test]
async fn no_byte_of_a_request_comes_back_in_a_refusal() {
    let canary = "canary-of-a-request";
    let webhook = Arc::new(started(memory()).await);
    let mut seen = Vec::new();
    for source in ["nobody-canary-of-a-request", "prod", "github"] {
        for body in [
            canary,
            r#"{"type":"canary-of-a-request"}"#,
            r#"{"canary-of-a-request":1}"#,
        ] {
            for encoding in [None, Some(canary)] {
                for method in ["POST", "PUT"] {
                    let request = if source == "github" {
                        signed(source, body)
                    } else {
                        crate::world::bare(source, body)
                    };
                    let mut request = with(request, "x-canary", canary);
                    if let Some(encoding) = encoding {
                        request = with(request, "content-encoding", encoding);
                    }
                    let request = crate::world::method(request, method);
                    let answer = send(&webhook, request.map(http_body_util::Full::new)).await;
                    let text = format!("{answer:?}");
                    assert!(!text.contains("canary"), "{text}");
                    seen.push(answer.status.as_u16());
                }
            }
        }
    }
    for status in [400, 401, 404, 405, 415] {
        assert!(seen.contains(&status), "{status} is not among {seen:?}");
    }
}

static IS_BROKEN: AtomicBool = AtomicBool::new(false);

/// A clock that fails once: a fault of ours in the middle of a delivery.
fn broken_clock() -> Timestamp {
    assert!(
        !IS_BROKEN.swap(false, Ordering::Relaxed),
        "the clock is broken"
    );
    "2026-11-21T20:00:00Z".parse().unwrap()
}

#[tokio::test]
async fn a_panic_costs_its_delivery_an_answer_of_500_and_the_next_nothing() {
    let recorder = Recorder::default();
    let mut webhook = started(recorded_by(&recorder)).await;
    webhook.now = broken_clock;
    let webhook = Arc::new(webhook);
    let router = scanhook_webhook::router::router(webhook.clone());
    IS_BROKEN.store(true, Ordering::Relaxed);
    for expected in [500, 202] {
        let request = signed("prod", push("prod")).map(axum::body::Body::from);
        let response = tower::ServiceExt::oneshot(router.clone(), request).await;
        let answer = answer(response.unwrap()).await;
        assert_eq!(answer.status, expected);
        if expected == 500 {
            assert_is_problem(&answer);
            assert!(queued(&recorder).is_empty());
        }
    }
}

#[tokio::test]
async fn a_replayed_delivery_has_ids_of_its_own() {
    // Whoever replays a delivery may change its headers; what folds the repetition is its content, in the ledger.
    let recorder = Recorder::default();
    let webhook = Arc::new(started(recorded_by(&recorder)).await);
    for id in ["one", "two"] {
        let request = with(signed("github", push("github")), "x-github-delivery", id);
        send(&webhook, request.map(http_body_util::Full::new)).await;
    }
    let sent = queued(&recorder);
    let ids: Vec<&ScanId> = sent.iter().map(|it| &it.scan_id).collect();
    assert_ne!(ids[0], ids[1]);
    assert_eq!(sent[0].image, sent[1].image);
}
