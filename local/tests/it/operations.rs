//! What those who operate a server ask it: whether it is ready, and its figures.

use serde_json::{Value, json};

use crate::world::{Answer, Place, Serve, wait_for};

/// The value of a series, if it is told.
fn figure(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|it| {
        it.strip_prefix(series)
            .is_some_and(|it| it.starts_with(' '))
    });
    line?.rsplit(' ').next()?.parse().ok()
}

fn parts(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap()
}

/// Waits until `/readyz` has this status: its answers are kept for some seconds.
fn ready(serve: &Serve, status: u16) -> Value {
    wait_for("another readiness", || {
        let answer = serve.get("/readyz");
        (answer.status == status).then(|| parts(&answer))
    })
}

#[test]
fn figures_tell_of_deliveries_scans_and_queues() {
    let place = Place::new();
    let serve = place.serve(&[]);
    let passed = serve.queue(&place.delivery("harbor", "harbor.example.com/prod/pass:1"));
    let dead = serve.queue(&place.delivery("harbor", "harbor.example.com/prod/unsupported:1"));
    place.settled(&passed);
    place.settled(&dead);
    let mut wrong = place.delivery("harbor", "harbor.example.com/prod/pass:1");
    wrong.headers = String::new();
    assert_eq!(serve.send(&wrong).status, 401);
    let answer = wait_for("the figures", || {
        let answer = serve.get("/metrics");
        let letters = figure(
            &answer.body,
            r#"scanhook_queue_depth{queue="scanhook-dlq"}"#,
        );
        (letters == Some(1.0)).then_some(answer)
    });
    let head = answer.head.to_lowercase();
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    for (series, expected) in [
        (
            r#"scanhook_webhook_events_received_total{source="harbor",outcome="queued",reason="-"}"#,
            2.0,
        ),
        (
            r#"scanhook_webhook_events_received_total{source="harbor",outcome="refused",reason="unauthorized"}"#,
            1.0,
        ),
        (r#"scanhook_messages_published_total{source="harbor"}"#, 2.0),
        // What has not happened yet is told too: of a first count out of nothing Prometheus would see no increase.
        (
            r#"scanhook_scans_without_policy_total{source="harbor"}"#,
            0.0,
        ),
        (
            r#"scanhook_messages_processed_total{source="harbor",verdict="passed"}"#,
            1.0,
        ),
        (
            r#"scanhook_messages_processed_total{source="harbor",verdict="error"}"#,
            1.0,
        ),
        (
            r#"scanhook_scan_errors_total{reason="unsupported_image",class="permanent"}"#,
            1.0,
        ),
        ("scanhook_processing_duration_seconds_count", 2.0),
        ("scanhook_event_age_seconds_count", 1.0),
        (r#"scanhook_queue_depth{queue="scanhook"}"#, 0.0),
        (r#"scanhook_ready{part="queue"}"#, 1.0),
    ] {
        assert_eq!(
            figure(&answer.body, series),
            Some(expected),
            "{series}\n{}",
            answer.body
        );
    }
    let age = figure(
        &answer.body,
        r#"scanhook_queue_oldest_age_seconds{queue="scanhook-dlq"}"#,
    );
    assert!(age.is_some_and(|it| it >= 0.0), "{}", answer.body);
}

#[test]
fn readiness_names_the_part_that_fails() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    let all = json!({"configuration": "works", "queue": "works", "ledger": "works"});
    assert_eq!(ready(&serve, 200), json!({"ready": true, "parts": all}));
    let ledger = rusqlite::Connection::open(place.data_dir().join("ledger.sqlite")).unwrap();
    ledger.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let without = json!({"configuration": "works", "queue": "works", "ledger": "fails"});
    assert_eq!(
        ready(&serve, 503),
        json!({"ready": false, "parts": without})
    );
    let figures = serve.get("/metrics").body;
    assert_eq!(
        figure(&figures, r#"scanhook_ready{part="ledger"}"#),
        Some(0.0)
    );
    drop(ledger);
    ready(&serve, 200);
}

#[test]
fn without_its_queue_a_server_says_so_to_operators_and_senders() {
    let (aws, mut place) = (Place::new(), Place::new());
    let mut queue = aws.serve(&["--no-scan"]);
    place.use_sqs(queue.sqs_address);
    let url = format!(
        "--queue-url=http://{}/000000000000/scanhook",
        queue.sqs_address
    );
    let serve = place.serve(&["--no-scan", &url]);
    serve.queue(&place.delivery("harbor", "harbor.example.com/prod/pass:1"));
    ready(&serve, 200);
    let depth = r#"scanhook_queue_depth{queue="scanhook"}"#;
    assert_eq!(figure(&serve.get("/metrics").body, depth), Some(1.0));
    queue.kill();
    let without = json!({"configuration": "works", "queue": "fails", "ledger": "works"});
    assert_eq!(ready(&serve, 503)["parts"], without);
    let answer = serve.send(&place.delivery("harbor", "harbor.example.com/prod/pass:2"));
    assert_eq!(answer.status, 503);
    assert!(
        answer.head.to_lowercase().contains("retry-after: "),
        "{}",
        answer.head
    );
    wait_for("a depth that is not known", || {
        figure(&serve.get("/metrics").body, depth).filter(|it| it.is_nan())
    });
    let figures = serve.get("/metrics").body;
    let refused = r#"scanhook_webhook_events_received_total{source="harbor",outcome="refused",reason="unavailable"}"#;
    assert_eq!(figure(&figures, refused), Some(1.0), "{figures}");
}

#[test]
fn the_log_is_for_people_if_they_ask_for_it() {
    let place = Place::new();
    let serve = place.serve(&["--log-format=pretty"]);
    let id = serve.queue(&place.delivery("harbor", "harbor.example.com/prod/pass:1"));
    let line = wait_for("the end of the scan", || {
        let log = serve.stdout();
        log.lines()
            .find(|it| it.contains(" event=scan.finished "))
            .map(str::to_owned)
    });
    let (time, rest) = line.split_once(" INFO  ").unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "{line}");
    assert!(
        rest.starts_with("harbor.example.com/prod/pass: passed "),
        "{line}"
    );
    assert_eq!(
        line.matches(&format!(" scan_id={id} ")).count(),
        1,
        "{line}"
    );
}
