//! What a scan costs beyond the CLI's own run, and whether the memory stays flat over many.
//!
//! `cargo build --release -p scanhook-scanner --example stand-in && cargo bench -p scanhook-scanner --bench overhead`
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    clippy::disallowed_methods,
    dead_code,
    reason = "a measurement prints, fails where it fails, runs the CLI bare to compare, and borrows the tests' world"
)]

#[path = "../tests/it/ledger.rs"]
mod ledger;
#[path = "../tests/it/registry.rs"]
mod registry;
#[path = "../tests/it/world.rs"]
mod world;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use scanhook_core::tools::Exit;
use serde_json::Value;
use world::{Setup, World, message_for, stand_in};

const SCANS: usize = 1000;
const BARE_RUNS: usize = 200;

#[tokio::main]
async fn main() {
    let world = World::start().await;
    let unsupervised = Setup {
        is_unconfined: true,
        ..Setup::default()
    };
    let unsupervised = World::set_up(unsupervised).await;
    let mut bare = Vec::with_capacity(BARE_RUNS);
    let (mut runs, mut supervised) = (bare.clone(), bare.clone());
    // By turns, so that what slows the machine down slows all of them.
    for _ in 0..BARE_RUNS {
        bare.push(run_bare(&world));
        runs.push(run_by(&unsupervised).await);
        supervised.push(run_by(&world).await);
    }
    let mut scans = Vec::with_capacity(SCANS);
    let mut resident = Vec::new();
    for scan in 0..SCANS {
        let body = message_for(&format!("scan-{scan}"), &format!("demo-{scan}/pass"));
        let event = world.receive(&[&body.to_string()]).await;
        let started = Instant::now();
        let response = world.handle(&event).await;
        scans.push(started.elapsed());
        assert!(response.batch_item_failures.is_empty());
        forget(&world, &event).await;
        if scan % 100 == 99 {
            resident.push(resident_kib());
        }
    }
    let (bare, run) = (median(&mut bare), median(&mut runs));
    let supervised = median(&mut supervised);
    let scan = median(&mut scans);
    println!("the CLI alone, median of {BARE_RUNS}: {bare:?}");
    println!(
        "the CLI in its slot, median of {BARE_RUNS}: {run:?}, {:?} more",
        run.saturating_sub(bare)
    );
    println!(
        "the same below its supervisor: {supervised:?}, {:?} more",
        supervised.saturating_sub(run)
    );
    println!(
        "a record with its queue, median of {SCANS}: {scan:?}, {:?} more",
        scan.saturating_sub(bare)
    );
    println!("resident set after each 100 scans, KiB: {resident:?}");
}

async fn run_by(world: &World) -> Duration {
    let started = Instant::now();
    assert_eq!(world.run("pass").await.exit, Exit::Code(0));
    started.elapsed()
}

fn run_bare(world: &World) -> Duration {
    let directory = tempfile::tempdir_in(world.directory.path()).unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let started = Instant::now();
    let status = Command::new(stand_in())
        .arg("--apiurl=https://secure.sysdig.com")
        .arg("--console-log")
        .arg(format!("--output=json-file={}", path("result.json")))
        .arg(format!(
            "--dbpath={}",
            world.scratch().join("slot-0/database").display()
        ))
        .arg(format!("--cachepath={}", path("cache")))
        .arg(format!(
            "pull://{}/demo/pass@{}",
            world::REGISTRY,
            world::DIGEST
        ))
        .env_clear()
        .env("SECURE_API_TOKEN", world::TOKEN)
        .env("HOME", directory.path())
        .env("TMPDIR", directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let elapsed = started.elapsed();
    assert!(status.unwrap().success());
    elapsed
}

/// Deletes the records of an event, as the mapping does, and what the ledger in memory knows.
async fn forget(world: &World, event: &Value) {
    for record in event["Records"].as_array().unwrap() {
        let call = world.client.delete_message().queue_url(&world.queue_url);
        let call = call.receipt_handle(record["receiptHandle"].as_str().unwrap());
        call.send().await.unwrap();
    }
    *world.ledger.0.lock().unwrap() = ledger::State::default();
}

fn median(durations: &mut [Duration]) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}

/// Source: proc(5), `/proc/pid/status`.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
    line.unwrap().trim_end_matches("kB").trim().parse().unwrap()
}
