//! What becomes of authentic deliveries: scans, skips with their reasons, and payloads of no use.

use std::sync::Arc;

use scanhook_core::event::SkipReason;
use scanhook_emulator::sqs::Recorder;
use serde_json::{Value, json};

use crate::world::{
    DIGEST, check, distribution_push, ghcr_push, harbor_push, push, queued, recorded_by, send,
    signed, started, with,
};

async fn check_payload(source: &str, payload: &Value) -> String {
    check(signed(source, payload.to_string())).await
}

#[tokio::test]
async fn what_is_authentic_but_no_push_is_answered_200() {
    for (source, payload, expected) in [
        (
            "github",
            json!({"zen": "Keep it logically awesome.", "hook_id": 1}),
            "200 skip ping",
        ),
        (
            "github",
            json!({"action": "opened", "issue": {}}),
            "200 skip not_a_push",
        ),
        (
            "github",
            json!({"action": "deleted", "package": {"package_type": "container"}}),
            "200 skip not_a_push",
        ),
        (
            "github",
            json!({"action": "published", "package": {"package_type": "npm"}}),
            "200 skip not_a_push",
        ),
        (
            "prod",
            json!({"type": "PULL_ARTIFACT", "event_data": {"resources": [{"tag": "1"}]}}),
            "200 skip not_a_push",
        ),
        (
            "prod",
            json!({"type": "DELETE_ARTIFACT", "event_data": {"resources": [{"tag": "1"}]}}),
            "200 skip not_a_push",
        ),
        (
            "prod",
            json!({"type": "SCANNING_COMPLETED", "event_data": {"resources": [{"tag": "1"}]}}),
            "200 skip not_a_push",
        ),
        (
            "prod",
            json!({"type": "QUOTA_EXCEED", "event_data": {"resources": [{"digest": DIGEST}]}}),
            "200 skip not_a_push",
        ),
        (
            "prod",
            json!({"type": "TAG_RETENTION", "event_data": null}),
            "200 skip not_a_push",
        ),
        (
            "prod",
            json!({"specversion": "1.0", "type": "harbor.artifact.deleted", "data": {}}),
            "200 skip not_a_push",
        ),
        (
            "mirror",
            json!({"events": [{"action": "pull", "target": {"repository": "a"}}]}),
            "200 skip not_a_push",
        ),
        (
            "mirror",
            json!({"events": [{"action": "delete", "target": {"digest": ""}}]}),
            "200 skip not_a_push",
        ),
        (
            "mirror",
            json!({"events": [{"action": "mount", "target": {}}]}),
            "200 skip not_a_push",
        ),
        ("mirror", json!({"events": []}), "200"),
    ] {
        assert_eq!(check_payload(source, &payload).await, expected, "{payload}");
    }
}

#[tokio::test]
async fn a_chart_and_a_blob_are_no_images() {
    let mut chart = ghcr_push("1");
    chart["package"]["package_version"]["container_metadata"]["manifest"]["config"] =
        json!({"media_type": "application/vnd.cncf.helm.config.v1+json"});
    let hub_chart = json!({
        "push_data": {"tag": "1", "media_type": "application/vnd.cncf.helm.config.v1+json"},
        "repository": {"repo_name": "team/chart"},
    });
    let mut blob = distribution_push("team/app", "1");
    blob["target"] = json!({"mediaType": "application/octet-stream", "digest": DIGEST, "repository": "team/app"});
    for (source, payload, expected) in [
        ("github", chart, "200 skip not_an_image ghcr.io/team/app"),
        (
            "hub",
            hub_chart,
            "200 skip not_an_image docker.io/team/chart",
        ),
        ("mirror", json!({"events": [blob]}), "200 skip not_an_image"),
    ] {
        assert_eq!(check_payload(source, &payload).await, expected);
    }
}

#[tokio::test]
async fn each_reason_to_skip_is_told_to_the_sender() {
    let mut told = Vec::new();
    for (source, payload) in [
        ("github", json!({"zen": "x", "hook_id": 1})),
        ("github", json!({"action": "created"})),
        ("github", ghcr_push("")),
        (
            "mirror",
            json!({"events": [{"action": "push", "target": {"mediaType": "application/octet-stream"}}]}),
        ),
        ("prod", harbor_push("harbor.example.com", "dev/api", "1")),
        (
            "prod",
            harbor_push("harbor.example.com", "prod/api", "1-dev"),
        ),
        ("prod", harbor_push("evil.example.com", "prod/api", "1")),
        (
            "mirror",
            json!({"events": [distribution_push("a", "1"), distribution_push("a", "1")]}),
        ),
        ("prod", with_broken_resource()),
        ("mirror", json!({"events": many(1_001)})),
    ] {
        let line = check_payload(source, &payload).await;
        told.push(
            line.split_once("skip ")
                .unwrap()
                .1
                .split(' ')
                .next()
                .unwrap()
                .to_owned(),
        );
    }
    told.sort();
    let all = SkipReason::ALL.iter();
    let mut all: Vec<_> = all.map(|it| it.as_str().to_owned()).collect();
    all.sort();
    assert_eq!(told, all);
}

/// This many pushes of different images, as Distribution reports them.
fn many(count: usize) -> Vec<Value> {
    let tags = (0..count).map(|it| format!("t{it}"));
    tags.map(|it| json!({"action": "push", "target": {"repository": "a", "tag": it}}))
        .collect()
}

/// With a clock that stands still: how fast a hundred batches are sent is not the question.
#[tokio::test(start_paused = true)]
async fn of_more_than_a_thousand_images_none_is_queued() {
    let told = check_payload("mirror", &json!({"events": many(1_000)})).await;
    assert_eq!(told.matches("scan ").count(), 1_000);
    // It would repeat a refusal for ever, and later events would wait.
    let told = check_payload("mirror", &json!({"events": many(1_001)})).await;
    assert!(told.starts_with("200 "), "{told:.100}");
    assert_eq!(told.matches("skip too_many_images ").count(), 1_001);

    let mut push = harbor_push("harbor.example.com", "prod/api", "1");
    let resources = (0..1_001).map(|it| json!({"tag": format!("t{it}")}));
    push["event_data"]["resources"] = resources.collect();
    let told = check_payload("prod", &push).await;
    assert_eq!(told, "400");
}

/// One resource that can be scanned, and one that names nothing.
fn with_broken_resource() -> Value {
    let mut push = harbor_push("harbor.example.com", "prod/api", "1");
    let resources = push["event_data"]["resources"].as_array_mut().unwrap();
    resources.push(json!({}));
    push
}

#[tokio::test]
async fn a_payload_names_the_registry_but_never_chooses_it() {
    for host in [
        "harbor.example.com",
        "HARBOR.example.com",
        "harbor.internal:8443",
    ] {
        assert_eq!(
            check_payload("prod", &harbor_push(host, "prod/api", "1")).await,
            format!("202 scan harbor.example.com/prod/api:1@{DIGEST}"),
            "{host}"
        );
    }
    for host in [
        "evil.example.com",
        "harbor.example.com:444",
        "harbor.example.com.",
        "harbor.example.com.evil.example",
        "user:password@harbor.example.com",
        "harbor.example.com@evil.example",
        "harbor.internal",
        "169.254.169.254",
        "localhost",
    ] {
        assert_eq!(
            check_payload("prod", &harbor_push(host, "prod/api", "1")).await,
            "200 skip foreign_registry harbor.example.com/prod/api",
            "{host}"
        );
    }
    assert_eq!(
        check_payload("github", &ghcr_push("1")).await,
        format!("202 scan ghcr.io/team/app:1@{DIGEST}")
    );
    let mut foreign = ghcr_push("1");
    foreign["package"]["package_version"]["package_url"] = json!("ghcr.io.evil.example/team/app:1");
    assert_eq!(
        check_payload("github", &foreign).await,
        "200 skip foreign_registry ghcr.io/team/app"
    );
}

#[tokio::test]
async fn each_event_of_an_envelope_is_judged_alone() {
    let mut foreign = distribution_push("team/app", "2");
    foreign["target"]["url"] = json!("https://evil.example/v2/team/app/manifests/2");
    let mut untagged = distribution_push("team/app", "x");
    untagged["target"]["tag"] = json!(null);
    let envelope = json!({"events": [
        distribution_push("team/app", "1"), {"action": "pull"}, foreign, distribution_push("team/app", "1"), untagged,
        distribution_push("team/other", "1"),
    ]});
    assert_eq!(
        check_payload("mirror", &envelope).await,
        format!(
            "202 scan registry.example.com:5000/team/app:1@{DIGEST}, scan registry.example.com:5000/team/other:1@{DIGEST}, \
             skip not_a_push, skip foreign_registry registry.example.com:5000/team/app, \
             skip repeated_in_delivery registry.example.com:5000/team/app, skip untagged registry.example.com:5000/team/app"
        )
    );
}

#[tokio::test]
async fn an_envelope_is_never_refused_for_what_one_event_holds() {
    // Distribution repeats a refused envelope for ever, and all later events wait behind it.
    let good = distribution_push("team/app", "1");
    let scan = format!("202 scan registry.example.com:5000/team/app:1@{DIGEST}");
    for odd in [
        json!({"action": "push", "target": 7}),
        json!({"action": "push", "target": "x"}),
        json!({"action": "push", "target": [1]}),
        json!({"action": {"a": 1}, "target": null, "request": 1, "actor": "ci", "timestamp": []}),
        json!({"action": "push", "target": {"references": 5}}),
        json!({"action": "push", "target": {"references": [5, null, "x", []]}}),
        json!({"action": "push", "target": {"references": {"a": 1}}}),
        json!({}),
        json!(null),
        json!(7),
        json!("push"),
        json!(["push"]),
    ] {
        let told = check_payload("mirror", &json!({"events": [odd, good]})).await;
        assert!(told.starts_with(&scan), "{odd}: {told}");
    }
}

#[tokio::test]
async fn what_decides_nothing_may_be_missing_or_of_any_type() {
    for odd in [
        json!(null),
        json!(7),
        json!("x"),
        json!([]),
        json!({}),
        json!(true),
    ] {
        let mut harbor = harbor_push("harbor.example.com", "prod/api", "1");
        harbor["operator"] = odd.clone();
        harbor["occur_at"] = odd.clone();
        harbor["id"] = odd.clone();
        assert!(
            check_payload("prod", &harbor).await.starts_with("202 "),
            "{odd}"
        );
        let mut ghcr = ghcr_push("1");
        ghcr["sender"] = odd.clone();
        ghcr["package"]["owner"] = odd.clone();
        ghcr["package"]["package_version"]["created_at"] = odd.clone();
        ghcr["package"]["package_version"]["container_metadata"]["manifest"] = odd.clone();
        assert!(
            check_payload("github", &ghcr).await.starts_with("202 "),
            "{odd}"
        );
        let mut hub: Value = serde_json::from_str(&push("hub")).unwrap();
        hub["push_data"]["pusher"] = odd.clone();
        hub["push_data"]["pushed_at"] = odd.clone();
        assert!(
            check_payload("hub", &hub).await.starts_with("202 "),
            "{odd}"
        );
    }
}

#[tokio::test]
async fn what_is_no_payload_of_the_kind_is_refused_with_400() {
    for (source, body) in [
        ("hub", "{}"),
        (
            "hub",
            r#"{"push_data":{"pusher":"x"},"repository":{"repo_name":"a/b"}}"#,
        ),
        ("hub", r#"{"push_data":{"tag":"1"},"repository":{}}"#),
        ("prod", "{}"),
        ("prod", r#"{"event_type":"push","events":[]}"#),
        ("mirror", "{}"),
        ("mirror", r#"{"events":null}"#),
        ("mirror", "[]"),
        ("github", "[]"),
        ("github", "payload=%7B"),
        ("github", "other=%7B%7D"),
    ] {
        assert_eq!(check(signed(source, body)).await, "400", "{source}: {body}");
    }
}

#[tokio::test]
async fn a_message_carries_the_event_and_the_senders_trace() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let recorder = Recorder::default();
    let webhook = Arc::new(started(recorded_by(&recorder)).await);
    let request = with(signed("prod", push("prod")), "traceparent", trace);
    send(&webhook, request.map(http_body_util::Full::new)).await;
    let sent = queued(&recorder);
    let message: Value = serde_json::from_str(&sent[0].to_json()).unwrap();
    let (scan_id, received_at) = (&message["scan_id"], &message["event"]["received_at"]);
    assert_eq!(
        message,
        json!({
            "version": 1, "scan_id": scan_id, "source": "prod",
            "image": {"registry": "harbor.example.com", "repository": "prod/api", "tag": "1.4.2", "digest": DIGEST},
            "event": {
                "id": null, "type": "PUSH_ARTIFACT", "actor": "robot$ci", "occurred_at": "2026-11-21T20:00:00Z",
                "received_at": received_at,
            },
            "force": false, "traceparent": trace,
        })
    );
}

#[tokio::test]
async fn a_malformed_trace_is_dropped_and_the_delivery_begins_one() {
    for trace in [
        "",
        "00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "$(id)",
    ] {
        let recorder = Recorder::default();
        let webhook = Arc::new(started(recorded_by(&recorder)).await);
        let request = with(signed("prod", push("prod")), "traceparent", trace);
        let answer = send(&webhook, request.map(http_body_util::Full::new)).await;
        assert_eq!(answer.status, 202, "{trace}");
        let own = queued(&recorder)[0].traceparent.unwrap().to_string();
        assert!(own.ends_with("-01"), "{own}");
        assert!(!own.contains("0af7651916cd43dd"), "{trace} became {own}");
    }
}
