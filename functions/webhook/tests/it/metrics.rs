//! What is counted of deliveries, and that strangers and payloads have no say in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use scanhook_telemetry::metrics::{EmbeddedFormat, METRICS, NONE};
use scanhook_webhook::router::Webhook;
use serde_json::{Value, json};

use crate::world::{bare, distribution_push, harbor_push, memory, push, send, signed, started};

async fn deliver(webhook: &Arc<Webhook>, request: Request<Bytes>) {
    send(webhook, request.map(Full::new)).await;
}

/// What the lines of a recorder say, summed up: `name{label=value,…}` to its count.
fn counts(recorder: &EmbeddedFormat) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in recorder.take(0).lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        let dimensions = directive["Dimensions"][0].as_array().unwrap();
        let labels = dimensions.iter().map(|it| {
            let name = it.as_str().unwrap();
            format!("{name}={}", line[name].as_str().unwrap())
        });
        let labels = labels.collect::<Vec<_>>().join(",");
        for metric in directive["Metrics"].as_array().unwrap() {
            let name = metric["Name"].as_str().unwrap();
            let count = line[name].as_u64().unwrap();
            *counts.entry(format!("{name}{{{labels}}}")).or_default() += count;
            let known = METRICS.iter().find(|it| it.name == name).unwrap();
            let mut told: Vec<_> = dimensions.iter().map(|it| it.as_str().unwrap()).collect();
            let mut labels = known.labels.to_vec();
            told.sort_unstable();
            labels.sort_unstable();
            assert_eq!(told, labels, "{name}");
        }
    }
    counts
}

#[tokio::test]
async fn each_event_is_counted_by_what_became_of_it() {
    let recorder = EmbeddedFormat::default();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let webhook = Arc::new(started(memory()).await);
    deliver(&webhook, signed("prod", push("prod"))).await;
    deliver(&webhook, signed("prod", push("prod"))).await;
    let filtered = harbor_push("harbor.example.com", "prod/cache", "1").to_string();
    deliver(&webhook, signed("prod", filtered)).await;
    deliver(&webhook, signed("prod", "{}")).await;
    deliver(&webhook, bare("prod", push("prod"))).await;
    deliver(&webhook, bare("nobody", push("prod"))).await;
    let mut counts = counts(&recorder);
    counts.retain(|name, _| !name.starts_with("auth_accepted"));
    let counts: Vec<_> = counts
        .iter()
        .map(|(name, it)| format!("{name} {it}"))
        .collect();
    assert_eq!(
        counts,
        [
            "messages_published{source=prod} 2",
            "webhook_events_received{outcome=queued,reason=-,source=prod} 2",
            "webhook_events_received{outcome=refused,reason=not_a_payload,source=prod} 1",
            "webhook_events_received{outcome=refused,reason=not_found,source=-} 1",
            "webhook_events_received{outcome=refused,reason=unauthorized,source=prod} 1",
            "webhook_events_received{outcome=skipped,reason=filtered_repository,source=prod} 1",
        ]
    );
}

#[tokio::test]
async fn a_request_that_reaches_no_delivery_is_counted_with_its_reason() {
    let recorder = EmbeddedFormat::default();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let webhook = Arc::new(started(memory()).await);
    for (method, path) in [
        ("GET", "/webhooks/prod"),
        ("OPTIONS", "/webhooks/prod"),
        ("OPTIONS", "/webhooks/nobody"),
        ("POST", "/webhooks/%ff"),
        ("POST", "/webhooks/prod/a/b"),
        ("POST", "/hostile"),
        ("DELETE", "/healthz"),
    ] {
        let request = Request::builder().method(method).uri(path);
        deliver(&webhook, request.body(Bytes::new()).unwrap()).await;
    }
    let counts = counts(&recorder);
    let counts: Vec<_> = counts
        .iter()
        .map(|(name, it)| format!("{name} {it}"))
        .collect();
    assert_eq!(
        counts,
        [
            "webhook_events_received{outcome=refused,reason=method_not_allowed,source=-} 1",
            "webhook_events_received{outcome=refused,reason=method_not_allowed,source=prod} 2",
            "webhook_events_received{outcome=refused,reason=not_found,source=-} 3",
            "webhook_events_received{outcome=refused,reason=not_found,source=prod} 1",
        ]
    );
}

#[tokio::test]
async fn a_thousand_hostile_names_make_no_label() {
    let recorder = EmbeddedFormat::default();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let webhook = Arc::new(started(memory()).await);
    for number in 0..1000 {
        let repository = format!("hostile-{number}/a");
        let tag = format!("hostile-{number}");
        let harbor = harbor_push("harbor.example.com", &repository, &tag);
        deliver(&webhook, signed("prod", harbor.to_string())).await;
        let mirrored = json!({"events": [distribution_push(&repository, &tag)]}).to_string();
        deliver(&webhook, signed("mirror", mirrored)).await;
        deliver(&webhook, bare(&format!("hostile-{number}"), "{}")).await;
        let nonsense = json!({ "type": format!("hostile-{number}") }).to_string();
        deliver(&webhook, signed("prod", nonsense)).await;
    }
    let counts = counts(&recorder);
    let total: u64 = counts
        .iter()
        .filter(|it| it.0.starts_with("webhook_"))
        .map(|it| it.1)
        .sum();
    assert_eq!(total, 4000, "{counts:?}");
    assert!(counts.len() < 10, "{counts:?}");
    for name in counts.keys() {
        assert!(!name.contains("hostile"), "{name}");
    }
    let strangers =
        format!("webhook_events_received{{outcome=refused,reason=not_found,source={NONE}}}");
    assert_eq!(counts[&strangers], 1000);
}
