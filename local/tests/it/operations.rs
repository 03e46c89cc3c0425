//! `/readyz` and `/metrics`.

use serde_json::{Value, json};

use crate::world::{Answer, Place, Serve, wait_for};

/// The value of a series, if it exists.
fn figure(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| {
        line.strip_prefix(series)
            .is_some_and(|it| it.starts_with(' '))
    });
    line?.rsplit(' ').next()?.parse().ok()
}

fn parts(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap()
}

/// Waits until `/readyz` has this status; its answers are cached for some seconds.
fn ready(serve: &Serve, status: u16) -> Value {
    wait_for("another readiness", || {
        let answer = serve.get("/readyz");
        (answer.status == status).then(|| parts(&answer))
    })
}

#[test]
fn metrics_cover_deliveries_scans_and_queues() {
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
        // Counters start at 0, because Prometheus sees no increase in a series that starts with its first count.
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
        json!({"ready": false, "parts": without, "causes": {"ledger": "locked"}})
    );
    let figures = serve.get("/metrics").body;
    assert_eq!(
        figure(&figures, r#"scanhook_ready{part="ledger"}"#),
        Some(0.0)
    );
    let cause = r#"scanhook_not_ready{part="ledger",cause="locked"}"#;
    assert_eq!(figure(&figures, cause), Some(1.0));
    let line = |event: &str| serve.log().into_iter().find(|it| it["event"] == event);
    let fails = line("part.fails").unwrap();
    assert_eq!(
        fails["message"],
        "ledger fails: another process has locked the file; end it"
    );
    assert_eq!(
        (&fails["part"], &fails["cause"]),
        (&json!("ledger"), &json!("locked"))
    );
    let error = fails["error"].as_str().unwrap();
    assert!(
        error.starts_with("the ledger is unavailable: database is locked"),
        "{error}"
    );
    drop(ledger);
    ready(&serve, 200);
    assert_eq!(figure(&serve.get("/metrics").body, cause), Some(0.0));
    assert_eq!(line("part.works").unwrap()["part"], "ledger");
}

#[test]
fn a_backend_that_has_not_answered_is_unknown_and_delays_nothing() {
    let place = Place::new();
    let serve = place.serve(&[]);
    assert_eq!(ready(&serve, 200)["parts"]["sysdig"], "unknown");
    let sysdig = figure(
        &serve.get("/metrics").body,
        r#"scanhook_ready{part="sysdig"}"#,
    );
    assert!(sysdig.is_some_and(f64::is_nan));
}

#[test]
fn a_deleted_queue_fails_readiness_until_the_next_start() {
    let place = Place::new();
    let mut serve = place.serve(&["--no-scan"]);
    let url = format!("http://{}/000000000000/scanhook", serve.sqs_address);
    serve.sqs("DeleteQueue", &json!({"QueueUrl": url}).to_string());
    assert_eq!(
        ready(&serve, 503)["causes"],
        json!({"queue": "unavailable"})
    );
    serve.kill();
    let serve = place.serve(&["--no-scan"]);
    ready(&serve, 200);
}

#[test]
fn an_expired_message_is_a_dead_letter_and_can_be_redriven() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    let scan_id = serve.queue(&place.delivery("harbor", "harbor.example.com/prod/pass:1"));
    let expired = r#"scanhook_messages_expired_total{queue="scanhook"}"#;
    assert_eq!(figure(&serve.get("/metrics").body, expired), Some(0.0));
    serve.stop();
    let file = rusqlite::Connection::open(place.data_dir().join("queue.sqlite")).unwrap();
    let four_days = "UPDATE message SET sent_at = sent_at - 4 * 86400000, visible_at = visible_at - 4 * 86400000";
    file.execute_batch(four_days).unwrap();
    drop(file);
    let serve = place.serve(&["--no-scan"]);
    wait_for("a message that expired", || {
        (figure(&serve.get("/metrics").body, expired) == Some(1.0)).then_some(())
    });
    let mut log = serve.log().into_iter();
    let line = log.find(|it| it["event"] == "message.expired").unwrap();
    assert_eq!(
        (&line["level"], &line["queue"]),
        (&json!("WARN"), &json!("scanhook"))
    );
    assert!(line["message_id"].is_string() && line["age_s"].as_u64() >= Some(345_600));
    let list = place.run(&["dlq", "list", "--reason=expired", "--output=json"]);
    let list: Value = serde_json::from_str(&list.stdout).unwrap();
    assert_eq!(list["letters"][0]["scan_id"], scan_id.as_str());
    let show = place.run(&["dlq", "show", &scan_id]).stdout;
    assert!(
        show.contains("The message was in the queue of `scanhook serve` for longer"),
        "{show}"
    );
    let redrive = place.run(&["dlq", "redrive", "--reason=expired", "--yes"]);
    assert_eq!(redrive.code, Some(0), "{}", redrive.stderr);
    serve.stop();
    let _serve = place.serve(&[]);
    assert_eq!(place.settled(&scan_id)["verdict"], "passed");
}

#[test]
fn a_failed_queue_is_reported_to_operators_and_senders() {
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
fn the_log_is_text_for_people_with_log_format_pretty() {
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
