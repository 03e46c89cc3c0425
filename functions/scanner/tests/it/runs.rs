//! What a run leaves: no process, no file, no secret.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use scanhook_core::tools::Exit;
use scanhook_scanner::cli::Slots;
use serde_json::Value;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::processes::{alive, left};
use crate::world::{PASSWORD, TOKEN, World, message, message_for, script, stand_in};

#[tokio::test]
async fn the_cli_gets_its_own_environment_and_nothing_of_ours() {
    let world = World::start().await;
    let run = world.run("prints-env").await;
    let scan = run
        .printed
        .split_whitespace()
        .find_map(|it| it.strip_prefix("HOME="))
        .unwrap();
    let printed = run.printed.replace(scan, "$SCAN");
    let lines = printed
        .lines()
        .filter(|it| it.starts_with("argument") || it.starts_with("environment"));
    let slot = Path::new(scan).parent().unwrap().display().to_string();
    let text = lines
        .skip(1)
        .collect::<Vec<_>>()
        .join("\n")
        .replace(&slot, "$SLOT");
    insta::assert_snapshot!(text, @r"
    argument --apiurl=https://secure.sysdig.com
    argument --console-log
    argument --loglevel=info
    argument --output=json-file=$SCAN/result.json
    argument --output-schema=v1
    argument --dbpath=$SLOT/database
    argument --cachepath=$SCAN/cache
    argument pull://registry.example.com/demo/prints-env:1.0@sha256:018f6ee9dfb109bc977f6e145b79bf5896a01d49902be7adc8837c80bb811ecd
    environment HOME=$SCAN
    environment PATH=/usr/bin:/bin
    environment REGISTRY_PASSWORD=[redacted]
    environment REGISTRY_USER=robot
    environment SECURE_API_TOKEN=[redacted]
    environment TMPDIR=$SCAN/tmp
    ");
}

#[tokio::test]
async fn a_flood_is_drained_and_only_its_end_is_kept() {
    let world = World::start().await;
    for behaviour in ["huge-stderr", "huge-stdout"] {
        let run = world.run(behaviour).await;
        assert_eq!(run.exit, Exit::Code(0));
        assert!(run.printed.len() <= 64 * 1024, "{}", run.printed.len());
    }
}

#[tokio::test]
async fn a_process_that_left_the_group_does_not_outlive_the_scan() {
    let world = World::with("30s", &script("escapes")).await;
    let started = std::time::Instant::now();
    assert_eq!(
        world.outcome(&message("pass"), 1).await,
        "retried: scanner_error"
    );
    assert_eq!(alive(&world.scratch()), [""; 0]);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_directory_that_may_not_be_written_to_is_removed_and_no_link_is_followed() {
    let world = World::with("30s", &script("locks-up")).await;
    assert_eq!(
        world.outcome(&message("pass"), 1).await,
        "retried: scanner_error"
    );
    assert_eq!(left(&world.scratch()), ["lock", "slot-0/database"]);
    assert!(Path::new("/usr/bin").exists());
}

#[tokio::test]
async fn a_report_is_a_file_of_its_own_or_none() {
    for (name, expected) in [
        ("reports-well", "passed [0, 0, 0, 0, 0] unconfirmed"),
        ("links-report", "retried: no_report"),
        ("pipes-report", "retried: no_report"),
    ] {
        let world = World::with("30s", &script(name)).await;
        assert_eq!(world.outcome(&message("pass"), 1).await, expected, "{name}");
    }
}

#[tokio::test]
async fn a_cancelled_batch_leaves_nothing() {
    for behaviour in ["hang-ignoring-term", "grandchild-hang"] {
        let world = World::start().await;
        let event = world.receive(&[&message(behaviour)]).await;
        let scratch = world.scratch();
        let is_running = async {
            while !alive(&scratch).iter().any(|it| it.contains("sleep")) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = world.handle(&event) => panic!("{behaviour} ended"),
            () = is_running => {}
        }
        assert_eq!(alive(&scratch), [""; 0], "{behaviour}");
        assert_eq!(left(&scratch), ["lock"], "{behaviour}");
        // The slot is free again.
        assert_eq!(world.run("pass").await.exit, Exit::Code(0));
    }
}

#[tokio::test]
async fn what_a_killed_process_left_is_ended_and_removed_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let scan = directory.path().join("slot-0/scan-01JD-left");
    std::fs::create_dir_all(scan.join("tmp")).unwrap();
    std::fs::create_dir_all(directory.path().join("slot-0/database")).unwrap();
    std::fs::create_dir_all(directory.path().join("slot-1/database")).unwrap();
    std::fs::create_dir_all(directory.path().join("slot-7/database")).unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "stands for what another process started"
    )]
    let mut left_behind = std::process::Command::new("sleep")
        .arg("3600")
        .env_clear()
        .env("HOME", &scan)
        .env("PATH", "/usr/bin:/bin")
        .spawn()
        .unwrap();

    let slots = Slots::open(directory.path(), 2).unwrap();
    assert!(!left_behind.wait().is_ok_and(|it| it.success()));
    // The database of the slot in which it ran may be broken, that of the other is not; and there are two slots now.
    assert_eq!(left(directory.path()), ["lock", "slot-1/database"]);
    assert!(!directory.path().join("slot-7").exists());
    assert!(Slots::open(directory.path(), 2).is_err());
    drop(slots);
    assert!(Slots::open(directory.path(), 2).is_ok());
}

/// What the whole test process logs, at any level: callsites remember who listened first, so one listens to all.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log() -> String {
    String::from_utf8(LOG.lock().unwrap().clone()).unwrap()
}

fn start_log() {
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(|| Log);
    // Another test may have started it.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

#[tokio::test]
async fn no_secret_is_in_a_log_a_dead_letter_or_a_record() {
    start_log();
    for behaviour in ["prints-token", "prints-env", "bad-token", "registry-login"] {
        let world = World::start().await;
        world.outcome(&message(behaviour), 10).await;
        let records = world.ledger.0.lock().unwrap().records.clone();
        let letters = world.dead_letters().await;
        let told = format!("{records:?} {letters:?} {}", log());
        for secret in [TOKEN, PASSWORD, "WFrZS1jYW5hcnktdG9rZW4tOWYxY"] {
            assert!(!told.contains(secret), "{behaviour} told {secret}");
        }
    }
    assert!(log().contains("scan.finished"));
}

#[tokio::test]
async fn each_scan_has_its_line_in_the_log() {
    start_log();
    let world = World::start().await;
    for behaviour in ["fail", "network"] {
        let message = message_for(&format!("logged-{behaviour}"), &format!("demo/{behaviour}"));
        world.outcome(&message.to_string(), 2).await;
    }
    let lines = log();
    let lines = lines.lines().filter(|it| it.contains("\"logged-"));
    let mut lines: Vec<Value> = lines
        .map(|it| serde_json::from_str(it).unwrap())
        .filter(|it: &Value| it["event"] == "scan.finished")
        .collect();
    for line in &mut lines {
        for varying in ["timestamp", "detail", "span", "spans"] {
            line.as_object_mut().unwrap().remove(varying);
        }
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&lines).unwrap(), @r##"
    [
      {
        "attempt": 2,
        "cli_version": "1.22.6-stand-in",
        "critical": 2,
        "digest": "sha256:018f6ee9dfb109bc977f6e145b79bf5896a01d49902be7adc8837c80bb811ecd",
        "duration_ms": 0,
        "event": "scan.finished",
        "fixable": 4,
        "high": 2,
        "image": "registry.example.com/demo/fail",
        "level": "INFO",
        "low": 1,
        "medium": 2,
        "message": "registry.example.com/demo/fail: failed",
        "negligible": 1,
        "policies_failed": "Sysdig Best Practices",
        "queue_age_ms": 2000,
        "result_url": "https://secure.sysdig.com/secure/#/vulnerabilities/results/c44376ecddbf5de20443658599157248/overview",
        "scan_id": "logged-fail",
        "source": "prod",
        "state": "done",
        "tag": "1.0",
        "tag_moved": false,
        "target": "scanhook_scanner::batch::settle",
        "verdict": "failed"
      },
      {
        "attempt": 2,
        "digest": "sha256:018f6ee9dfb109bc977f6e145b79bf5896a01d49902be7adc8837c80bb811ecd",
        "duration_ms": 0,
        "event": "scan.finished",
        "image": "registry.example.com/demo/network",
        "level": "INFO",
        "message": "registry.example.com/demo/network: error",
        "queue_age_ms": 2000,
        "reason": "network",
        "scan_id": "logged-network",
        "source": "prod",
        "state": "retrying",
        "tag": "1.0",
        "tag_moved": false,
        "target": "scanhook_scanner::batch::settle",
        "verdict": "error"
      }
    ]
    "##);
}

#[tokio::test]
async fn concurrent_batches_share_the_slots() {
    let world = World::with("60s", &stand_in()).await;
    let event = world.receive(&[&message("slow")]).await;
    let other = world.receive(&[&message("pass")]).await;
    let (one, two) = tokio::join!(world.handle(&event), world.handle(&other));
    assert!(one.batch_item_failures.is_empty() && two.batch_item_failures.is_empty());
    assert_eq!(left(&world.scratch()), ["lock", "slot-0/database"]);
}
