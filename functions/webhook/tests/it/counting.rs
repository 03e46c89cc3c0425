//! What is counted, and what is limited.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header;
use http_body_util::Full;
use metrics::{
    Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use scanhook_config::config::Config;
use scanhook_config::secrets::Secrets;
use scanhook_webhook::config::webhook;

use crate::world::{
    assert_is_problem, bare, credential, environment, instead, memory, push, send, signed,
    signed_with, started, with,
};

const LIMITED: &str = r#"
sources:
  prod:
    kind: harbor
    registry: harbor.example.com
    auth: [{ type: token, secret: "env:HARBOR" }]
    rate_limit: { per_minute: 6, burst: 3 }
  github:
    kind: ghcr
    auth: [{ type: hmac, secret: "env:GITHUB_OLD" }]
"#;

#[tokio::test(start_paused = true)]
async fn a_source_over_its_rate_is_answered_429_and_strangers_do_not_count() {
    let config = Config::parse(LIMITED).unwrap();
    let secrets = Secrets::local(&environment());
    let webhook = Arc::new(webhook(&config, memory(), &secrets).await.unwrap());
    let right = || signed("prod", push("prod"));
    for _ in 0..100 {
        let stranger = instead(right(), "authorization", "fake-wrong-secret");
        assert_eq!(send(&webhook, stranger.map(Full::new)).await.status, 401);
    }
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        let from = with(right(), "x-forwarded-for", address);
        assert_eq!(send(&webhook, from.map(Full::new)).await.status, 202);
    }
    // Whoever it says it comes from: the source has had its share.
    let over = with(right(), "x-forwarded-for", "192.0.2.4");
    let answer = send(&webhook, over.map(Full::new)).await;
    assert_eq!(answer.status, 429);
    assert_is_problem(&answer);
    let wait: u64 = answer.headers[header::RETRY_AFTER]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=11).contains(&wait), "{wait}");
    let other = signed("github", push("github")).map(Full::new);
    assert_eq!(send(&webhook, other).await.status, 202, "another source");
    tokio::time::advance(Duration::from_secs(wait)).await;
    assert_eq!(send(&webhook, right().map(Full::new)).await.status, 202);
    assert_eq!(send(&webhook, right().map(Full::new)).await.status, 429);
}

/// Writes down each count.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<Vec<String>>>);

struct Line(Counted, String);

impl CounterFn for Line {
    fn increment(&self, value: u64) {
        let line = format!("{} {value}", self.1);
        self.0.0.lock().unwrap().push(line);
    }

    fn absolute(&self, _: u64) {}
}

impl Recorder for Counted {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels = key
            .labels()
            .map(|it| format!(" {}={}", it.key(), it.value()));
        let line = format!("{}{}", key.name(), labels.collect::<String>());
        Counter::from_arc(Arc::new(Line(self.clone(), line)))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn each_accepted_delivery_is_counted_by_its_entry_of_auth() {
    let counted = Counted::default();
    let _guard = metrics::set_default_local_recorder(&counted);
    let webhook = Arc::new(started(memory()).await);
    for entry in [0, 1, 1] {
        let request = signed_with("github", &credential("github", entry), push("github"));
        send(&webhook, request.map(Full::new)).await;
    }
    send(&webhook, bare("github", push("github")).map(Full::new)).await;
    let lines = counted.0.lock().unwrap().clone();
    let accepted: Vec<_> = lines
        .iter()
        .filter(|it| it.starts_with("auth_accepted"))
        .collect();
    assert_eq!(
        accepted,
        [
            "auth_accepted source=github entry=0 1",
            "auth_accepted source=github entry=1 1",
            "auth_accepted source=github entry=1 1",
        ]
    );
}
