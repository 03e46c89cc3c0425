//! What the CLI prints and reports is kept without secrets and short, wherever it is kept.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::world::{PASSWORD, TOKEN, World, message, script};

/// Every spelling of a secret that the fixture prints.
fn spellings() -> [String; 3] {
    let login = BASE64_STANDARD.encode(format!("robot:{PASSWORD}"));
    // Its ends depend on their neighbours.
    let middle = login.get(8..login.len() - 4).unwrap().to_owned();
    [TOKEN.to_owned(), PASSWORD.to_owned(), middle]
}

#[track_caller]
fn tells_nothing(place: &str, text: &str) {
    for spelling in spellings() {
        assert!(
            !text.contains(&spelling),
            "{spelling} in the {place}: {text}"
        );
    }
    // Not even the beginning of one that was cut off.
    let beginning = TOKEN.get(..12).unwrap();
    assert!(!text.contains(beginning), "{place}: {text}");
}

#[tokio::test]
async fn a_report_that_tells_secrets_leaves_none_in_the_record() {
    let world = World::with("30s", &script("tells-secrets")).await;
    let outcome = world.outcome(&message("reports"), 1).await;
    assert!(outcome.starts_with("failed"), "{outcome}");
    let record = world.record("reports").unwrap();
    let json = serde_json::to_string(&record).unwrap();
    tells_nothing("record", &json);
    assert_eq!(record.policies_failed[0], "policy [redacted] of [redacted]");
    assert!(json.len() < 4096, "{}", json.len());
    let claims = format!("{:?}", world.ledger.0.lock().unwrap().claims);
    tells_nothing("claims", &claims);
}

#[tokio::test]
async fn an_error_that_tells_secrets_leaves_none_in_record_and_dead_letter() {
    for (behaviour, receive) in [("prints", 10), ("mismatches", 3)] {
        let world = World::with("30s", &script("tells-secrets")).await;
        let outcome = world.outcome(&message(behaviour), receive).await;
        assert!(outcome.starts_with("dead letter"), "{outcome}");
        let record = world.record(behaviour).unwrap();
        tells_nothing("record", &serde_json::to_string(&record).unwrap());
        let detail = record.detail.unwrap();
        assert!((1..=1024).contains(&detail.len()), "{detail}");
        let [letter] = world.dead_letters().await.try_into().unwrap();
        assert_eq!(letter.attributes["scanhook.detail"], detail);
        tells_nothing(
            "dead letter",
            &format!("{:?}{}", letter.attributes, letter.body),
        );
    }
}
