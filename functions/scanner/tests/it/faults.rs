//! Everything fails now and then: registry, ledger, queue and CLI, each one time in five. Whatever comes of it, every image
//! ends once.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::Value;

use crate::ledger::Health;
use crate::processes::{alive, left};
use crate::registry::{Answer, Content, FakeRegistry, status, with};
use crate::world::{REGISTRY, Setup, World, message_for, stand_in};

const SHARE: f64 = 0.2;

/// How many images; 200 unless the environment says otherwise.
#[expect(
    clippy::disallowed_methods,
    reason = "the one thing that whoever runs this may choose"
)]
fn images() -> usize {
    std::env::var("SCANHOOK_FAULT_IMAGES").map_or(200, |it| it.parse().unwrap())
}

/// A CLI that writes down what it scans, and fails one time in five in one of four ways.
fn flaky_cli(directory: &std::path::Path) -> std::path::PathBuf {
    let (program, log) = (directory.join("flaky-cli"), directory.join("runs"));
    let script = format!(
        r#"#!/bin/sh
for image; do :; done
die=$(od -An -N1 -tu1 /dev/urandom)
if [ "$die" -lt 51 ]; then
    case $((die % 4)) in
    0) echo "dial tcp: connection reset by peer" >&2; exit 3 ;;
    1) echo "something nobody has seen" >&2; exit 3 ;;
    2) exit 0 ;;
    3) kill -9 $$ ;;
    esac
fi
echo "$image" >> "{}"
exec "{}" "$@"
"#,
        log.display(),
        stand_in().display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[expect(
    clippy::print_stdout,
    clippy::too_many_lines,
    reason = "one story, and its figures"
)]
#[tokio::test]
async fn every_image_ends_once_whatever_fails() {
    let count = images();
    let mut content = Content::default();
    for number in 0..count {
        content.image(&format!("img/n{number}"), Some("1.0"), &number.to_string());
    }
    let registry = FakeRegistry::start(move |asked| {
        if rand::random::<f64>() >= SHARE {
            return content.answer(asked);
        }
        match rand::random_range(0..4) {
            0 => status(500),
            1 => with(503, "retry-after", "0"),
            2 => Answer::Cut(b"{".to_vec()),
            _ => with(429, "retry-after", "6"),
        }
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let program = flaky_cli(directory.path());
    let setup = Setup {
        program: &program,
        registries: format!("  {REGISTRY}: {{ insecure: true }}"),
        hosts: vec![(REGISTRY, registry.address)],
        throttle: SHARE,
        // It writes down its runs where a confined one can't.
        is_unconfined: true,
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    world.ledger.0.lock().unwrap().health = Health::Flaky(SHARE);
    for number in 0..count {
        let mut message = message_for(&format!("scan-{number}"), &format!("img/n{number}"));
        message["image"]["digest"] = Value::Null;
        while !world.send(&message.to_string()).await {}
    }

    let mut idle = 0;
    while !world.peek("scans").await.is_empty() {
        let event = world.receive_if_any().await;
        if event["Records"].as_array().unwrap().is_empty() {
            idle += 1;
            assert!(
                idle < 10_000,
                "{} messages never end",
                world.peek("scans").await.len()
            );
            world.clock.advance(Duration::from_secs(30));
            continue;
        }
        let response = world.handle(&event).await;
        let failed: Vec<_> = response
            .batch_item_failures
            .iter()
            .map(|it| it.item_identifier.as_str())
            .collect();
        for record in event["Records"].as_array().unwrap() {
            if !failed.contains(&record["messageId"].as_str().unwrap()) {
                world.delete(record).await;
            }
        }
        world.clock.advance(Duration::from_secs(1));
    }

    let runs = std::fs::read_to_string(directory.path().join("runs")).unwrap();
    let mut scanned: HashMap<&str, usize> = HashMap::new();
    for line in runs.lines() {
        let name = line
            .split("/img/")
            .nth(1)
            .unwrap()
            .split(':')
            .next()
            .unwrap();
        *scanned.entry(name).or_default() += 1;
    }
    let letters = world.dead_letters().await;
    let mut buried: HashMap<String, Vec<String>> = HashMap::new();
    for letter in &letters {
        let message: Value = serde_json::from_str(&letter.body).unwrap();
        let scan_id = message["scan_id"].as_str().unwrap().to_owned();
        // SQS itself buries what could not be buried on its last receive; its reason is in the record.
        let told = letter.attributes.get("scanhook.reason").cloned();
        let reason = told.or_else(|| Some(world.record(&scan_id)?.reason?.to_string()));
        buried.entry(scan_id).or_default().push(reason.unwrap());
    }
    let state = world.ledger.0.lock().unwrap();
    let (mut passed, mut repeated) = (0, 0);
    for number in 0..count {
        let (scan_id, name) = (format!("scan-{number}"), format!("n{number}"));
        let scans = scanned.get(name.as_str()).copied().unwrap_or_default();
        let dead = buried.get(&scan_id).map_or(0, Vec::len);
        let was_down = state.failed.iter().any(|it| it.as_str() == scan_id);
        if dead == 0 {
            assert!(scans >= 1, "{scan_id} is lost");
            passed += 1;
        } else {
            assert_eq!(
                (dead, scans),
                (1, 0),
                "{scan_id} ended twice: {:?}",
                buried[&scan_id]
            );
        }
        if scans > 1 {
            assert!(
                was_down,
                "{scan_id} was scanned {scans} times with its ledger there"
            );
            repeated += 1;
        }
    }
    assert_eq!(buried.len() + passed, count);
    assert_eq!(alive(&world.scratch()), [""; 0]);
    assert!(
        left(&world.scratch())
            .iter()
            .all(|it| it == "lock" || it == "slot-0/database")
    );
    println!(
        "{count} images: {passed} verdicts, {} dead letters ({:?}), {repeated} scanned again where the ledger was down",
        buried.len(),
        buried.values().flatten().collect::<Vec<_>>()
    );
}
