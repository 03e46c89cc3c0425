//! What becomes of the records of a batch: which come back and when, and which become dead letters.

use std::time::Duration;

use scanhook_core::failure::ErrorReason;
use scanhook_core::record::{RecordReason, RecordVerdict};
use scanhook_scanner::scanner::MARGIN;
use serde_json::json;

use crate::ledger::{Health, Held};
use crate::world::{Setup, World, message, message_for, received, scan_id_of, script, stand_in};

fn failed_ids(response: &aws_lambda_events::sqs::SqsBatchResponse) -> Vec<&str> {
    let failures = response.batch_item_failures.iter();
    failures.map(|it| it.item_identifier.as_str()).collect()
}

fn id_of(event: &serde_json::Value, index: usize) -> &str {
    event["Records"][index]["messageId"].as_str().unwrap()
}

#[tokio::test]
async fn each_record_of_a_batch_is_on_its_own() {
    let world = World::with("1s", &stand_in()).await;
    let later_version = json!({ "version": 2 }).to_string();
    let mut stranger = message_for("stranger", "demo/pass");
    stranger["source"] = "nobody".into();
    let bodies = [
        message("hang-ignoring-term"),
        "no json".to_owned(),
        message("pass"),
        later_version.clone(),
        message("network"),
        stranger.to_string(),
        message("fail"),
    ];
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    let event = world.receive(&bodies).await;
    let response = world.handle(&event).await;

    let ids = |body: &str| {
        let records = event["Records"].as_array().unwrap().iter();
        let mut ids = records.filter(|it| it["body"] == body);
        ids.next().unwrap()["messageId"].as_str().unwrap()
    };
    let mut expected = [ids(bodies[0]), ids(bodies[4])];
    expected.sort_unstable();
    let mut failed = failed_ids(&response);
    failed.sort_unstable();
    assert_eq!(failed, expected);
    assert_eq!(
        world.record("pass").unwrap().verdict,
        Some(RecordVerdict::Passed)
    );
    assert_eq!(
        world.record("fail").unwrap().verdict,
        Some(RecordVerdict::Failed)
    );
    let letters = world.dead_letters().await;
    let mut letters: Vec<_> = letters
        .iter()
        .map(|it| (it.attributes["scanhook.reason"].as_str(), it.body.as_str()))
        .collect();
    letters.sort_unstable();
    let stranger = bodies[5];
    assert_eq!(
        letters,
        [
            ("bad_message", "no json"),
            ("bad_message", later_version.as_str()),
            ("unknown_source", stranger),
        ]
    );
}

#[tokio::test]
async fn a_dead_letter_says_why_and_nothing_empty() {
    let world = World::start().await;
    assert_eq!(
        world.outcome(&message("not-found"), 2).await,
        "dead letter: image_not_found"
    );
    let [letter] = world.dead_letters().await.try_into().unwrap();
    assert_eq!(letter.body, message("not-found"));
    assert_eq!(letter.group_id.as_deref(), Some("prod"));
    let mut attributes = letter.attributes;
    let detail = attributes.remove("scanhook.detail").unwrap();
    assert!(detail.ends_with("MANIFEST_UNKNOWN: manifest unknown"));
    assert_eq!(detail.matches(" | ").count(), 2);
    insta::assert_debug_snapshot!(attributes, @r#"
    {
        "scanhook.attempts": "2",
        "scanhook.failed_at": "2026-11-21T20:00:00Z",
        "scanhook.reason": "image_not_found",
        "scanhook.scan_id": "not-found",
    }
    "#);
    assert_eq!(
        world.outcome("no json", 1).await,
        "dead letter: bad_message"
    );
    let letter = world.dead_letters().await.pop().unwrap();
    assert_eq!(letter.group_id, None);
    insta::assert_debug_snapshot!(letter.attributes, @r#"
    {
        "scanhook.attempts": "1",
        "scanhook.detail": "the message is malformed",
        "scanhook.failed_at": "2026-11-21T20:00:00Z",
        "scanhook.reason": "bad_message",
    }
    "#);
}

#[tokio::test]
async fn every_record_is_hidden_until_a_minute_after_the_deadline() {
    let world = World::start().await;
    let event = world.receive(&[&message("pass")]).await;
    world.handle(&event).await;
    assert_eq!(world.hidden_for().await, 15 * 60 + 60);
}

#[tokio::test]
async fn what_failed_for_now_comes_back_after_a_doubling_wait() {
    for (receive, shortest, longest) in [(1, 15, 30), (2, 30, 60), (9, 1800, 3600)] {
        let world = World::start().await;
        let outcome = world.outcome(&message("network"), receive).await;
        assert_eq!(outcome, "retried: network");
        let hidden = world.hidden_for().await;
        assert!(
            (shortest..=longest).contains(&hidden),
            "receive {receive}: {hidden}"
        );
    }
}

#[tokio::test]
async fn a_record_is_given_up_on_its_last_receive() {
    for (name, receive, expected) in [
        ("network", 9, "retried: network"),
        ("network", 10, "dead letter: network"),
        ("network", 11, "dead letter: network"),
        ("killed", 2, "retried: out_of_memory"),
        ("killed", 3, "dead letter: out_of_memory"),
        ("truncated", 3, "dead letter: no_report"),
        ("not-found", 1, "retried: image_not_found"),
    ] {
        let world = World::start().await;
        assert_eq!(
            world.outcome(&message(name), receive).await,
            expected,
            "{name} {receive}"
        );
    }
}

#[tokio::test]
async fn a_record_that_no_dead_letter_queue_takes_comes_back() {
    let world = World::start().await;
    let url = world.client.get_queue_url().queue_name("dlq").send().await;
    let url = url.unwrap().queue_url.unwrap();
    let deleted = world.client.delete_queue().queue_url(url).send().await;
    deleted.unwrap();
    let event = world.receive(&["no json"]).await;
    let response = world.handle(&event).await;
    assert_eq!(failed_ids(&response), [id_of(&event, 0)]);
    assert!((15..=30).contains(&world.hidden_for().await));
}

#[tokio::test]
async fn what_can_not_be_started_in_time_comes_back_at_once() {
    let world = World::start().await;
    let bodies = [message("pass"), message("fail")];
    let mut event = world.receive(&[&bodies[0], &bodies[1]]).await;
    // Three attempts that time out are enough, but this is none.
    received(&mut event, 3);
    // Enough for the first, which is always started, and not for the second.
    let deadline = world.clock.now() + MARGIN + Duration::from_secs(14);
    let response = world.handle_until(&event, deadline).await;
    assert_eq!(failed_ids(&response), [id_of(&event, 1)]);
    let event = world.receive_again().await;
    assert_eq!(event["Records"].as_array().unwrap().len(), 1);

    // With no time at all it still ends with its reason, if it was its last receive.
    let mut event = event;
    received(&mut event, 10);
    let response = world.handle_until(&event, world.clock.now() + MARGIN).await;
    assert_eq!(failed_ids(&response), [""; 0]);
    let letter = world.dead_letters().await.pop().unwrap();
    assert_eq!(letter.attributes["scanhook.reason"], "timeout");
}

#[tokio::test]
async fn a_run_is_ended_before_the_invocation_is() {
    let world = World::with("60s", &stand_in()).await;
    let event = world.receive(&[&message("hang-ignoring-term")]).await;
    let deadline = world.clock.now() + MARGIN + Duration::from_secs(1);
    let started = std::time::Instant::now();
    let response = world.handle_until(&event, deadline).await;
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(world.describe(&event, &response).await, "retried: timeout");
}

#[tokio::test]
async fn a_panic_is_an_error_of_its_record_and_frees_its_claim() {
    let world = World::start().await;
    world.ledger.0.lock().unwrap().health = Health::Panics;
    let event = world.receive(&[&message("pass"), &message("fail")]).await;
    let response = world.handle(&event).await;
    assert_eq!(failed_ids(&response), [id_of(&event, 0)]);
    let record = world.record(scan_of(&event, 0)).unwrap();
    assert_eq!(
        record.reason,
        Some(RecordReason::Error(ErrorReason::Internal))
    );
    assert!(world.record(scan_of(&event, 1)).unwrap().findings.is_some());
}

fn scan_of(event: &serde_json::Value, index: usize) -> &'static str {
    let body = event["Records"][index]["body"].as_str().unwrap();
    if body.contains("demo/pass") {
        "pass"
    } else {
        "fail"
    }
}

#[tokio::test]
async fn a_record_without_an_id_never_leads_to_an_empty_one() {
    let world = World::start().await;
    for id in [json!(null), json!("")] {
        let mut event = world.receive(&[&message("pass")]).await;
        event["Records"][0]["messageId"] = id.clone();
        let response = world.handle(&event).await;
        assert_eq!(failed_ids(&response), [""; 0]);
        let mut event = world.receive(&[&message("network")]).await;
        event["Records"][0]["messageId"] = id;
        let response = world.handle(&event).await;
        assert_eq!(failed_ids(&response), ["record-without-message-id"]);
    }
}

#[tokio::test]
async fn a_record_with_nothing_in_it_is_a_bad_message() {
    let world = World::start().await;
    let response = world
        .handle(&json!({ "Records": [{}, {"body": ""}] }))
        .await;
    assert_eq!(failed_ids(&response), [""; 0]);
    let letters = world.dead_letters().await;
    let bodies: Vec<_> = letters.iter().map(|it| it.body.as_str()).collect();
    assert_eq!(bodies, ["null", "null"]);
}

#[tokio::test]
async fn content_is_scanned_once_within_the_window() {
    let world = World::start().await;
    let send = async |scan_id: &str, received_at: &str, force: bool| {
        let mut message = message_for(scan_id, "demo/pass");
        message["event"]["received_at"] = received_at.into();
        message["force"] = force.into();
        world.outcome(&message.to_string(), 1).await
    };
    let scanned = "passed [0, 2, 2, 1, 1] confirmed";
    assert_eq!(send("first", "2026-11-21T20:00:00Z", false).await, scanned);
    // The scan finished at 20:00:00, so the window of ten minutes ends at 20:10:00.
    assert_eq!(
        send("again", "2026-11-21T20:09:59Z", false).await,
        "passed repeated"
    );
    assert_eq!(send("forced", "2026-11-21T20:00:01Z", true).await, scanned);
    assert_eq!(send("later", "2026-11-21T20:10:00Z", false).await, scanned);
    assert_eq!(world.ledger.0.lock().unwrap().granted, 3);
}

#[tokio::test]
async fn content_claimed_elsewhere_waits_until_the_claim_ends() {
    let world = World::start().await;
    world.outcome(&message("pass"), 1).await;
    let until = world.clock.now() + Duration::from_secs(77);
    for held in world.ledger.0.lock().unwrap().claims.values_mut() {
        *held = Held::Until(until, scan_id_of("another"));
    }
    let other = message_for("other", "demo/pass").to_string();
    let mut event = world.receive(&[&other]).await;
    let response = world.handle(&event).await;
    assert_eq!(
        world.describe(&event, &response).await,
        "retried: claimed_elsewhere"
    );
    let hidden = world.peek("scans").await.pop().unwrap().visible_at;
    assert_eq!(hidden, until);
    received(&mut event, 10);
    let response = world.handle(&event).await;
    assert_eq!(
        world.describe(&event, &response).await,
        "dead letter: claimed_elsewhere"
    );
}

#[tokio::test]
async fn a_failed_scan_gives_its_claim_back() {
    let world = World::start().await;
    assert_eq!(
        world.outcome(&message("network"), 1).await,
        "retried: network"
    );
    let claims = world.ledger.0.lock().unwrap().claims.clone();
    let held: Vec<_> = claims.into_values().collect();
    assert_eq!(held, [Held::Released("network")]);
}

#[tokio::test]
async fn a_scan_runs_without_the_ledger() {
    let world = World::start().await;
    world.ledger.0.lock().unwrap().health = Health::Unavailable;
    let event = world.receive(&[&message("pass")]).await;
    assert_eq!(failed_ids(&world.handle(&event).await), [""; 0]);
    let event = world.receive(&[&message("network")]).await;
    assert_eq!(failed_ids(&world.handle(&event).await).len(), 1);
}

#[tokio::test]
async fn a_flaky_image_passes_on_its_second_receive() {
    let world = World::start().await;
    assert_eq!(
        world.outcome(&message("flaky"), 1).await,
        "retried: network"
    );
    world.clock.advance(Duration::from_secs(30));
    let event = world.receive_again().await;
    let response = world.handle(&event).await;
    assert_eq!(
        world.describe(&event, &response).await,
        "passed [0, 2, 2, 1, 1] confirmed"
    );
    assert_eq!(world.record("flaky").unwrap().attempts, 2);
}

#[tokio::test]
async fn a_broken_database_is_dropped_before_the_next_attempt() {
    let world = World::start().await;
    world.run("pass").await;
    let first = world.outcome(&message("database-stale"), 1).await;
    assert_eq!(first, "retried: database");
    let second = world.outcome(&message("database-stale"), 2).await;
    assert_eq!(second, "passed [0, 2, 2, 1, 1] confirmed");
}

#[tokio::test]
async fn a_replaced_token_is_read_again_before_anything_is_given_up() {
    let world = World::start().await;
    let token = world.directory.path().join("token");
    // The stand-in refuses what it is told to refuse, so only the second reading can tell.
    std::fs::write(&token, "fake-token-after-rotation").unwrap();
    assert_eq!(
        world.outcome(&message("bad-token"), 1).await,
        "retried: bad_token"
    );
    assert_eq!(world.hidden_for().await, 5);
    world.clock.advance(Duration::from_secs(5));
    let event = world.receive_again().await;
    let response = world.handle(&event).await;
    assert_eq!(
        world.describe(&event, &response).await,
        "dead letter: bad_token"
    );
}

#[tokio::test]
async fn the_login_is_that_of_the_images_host_and_of_no_other() {
    let world = World::set_up(Setup {
        source: "hosts: [registry.example.com.evil.org]",
        ..Setup::default()
    })
    .await;
    let own = message_for("own", "demo/registry-login");
    let own = world.outcome(&own.to_string(), 1).await;
    assert_eq!(own, "passed [0, 2, 2, 1, 1] confirmed");
    let mut foreign = message_for("foreign", "demo/registry-login");
    foreign["image"]["registry"] = "registry.example.com.evil.org".into();
    let foreign = world.outcome(&foreign.to_string(), 1).await;
    assert_eq!(foreign, "retried: network");
}

#[tokio::test]
async fn an_image_is_held_against_the_policies_of_all_and_of_its_source() {
    let world = World::start().await;
    let policies = |source: &str| {
        let source = source.to_owned().try_into().unwrap();
        world.scanner.settings.policies(&source)
    };
    assert_eq!(policies("prod").unwrap(), ["of-all", "of-source"]);
    assert_eq!(policies("nobody"), None);
}

#[tokio::test]
async fn a_cli_that_can_not_be_started_is_an_error_and_no_verdict() {
    let world = World::with("30s", &script("../../Cargo.toml")).await;
    assert_eq!(
        world.outcome(&message("pass"), 1).await,
        "retried: internal"
    );
}
