//! No delivery that was answered 202 is lost, whenever `serve` is killed.
//!
//! `SCANHOOK_KILL_ROUNDS` is the number of kills; `SCANHOOK_KILL_SEED` repeats the moments of an earlier run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use crate::world::{Place, Serve, YAML, digest, wait_for};

/// The images to push, and the possible outcomes of each.
const IMAGES: [(&str, &[&str]); 10] = [
    ("pass", &["passed"]),
    ("fail", &["failed"]),
    ("slow", &["passed"]),
    ("flaky", &["passed", "error: network"]),
    ("not-found", &["error: image_not_found"]),
    ("no-report", &["error: no_report"]),
    ("bad-token", &["error: bad_token"]),
    ("grandchild", &["passed"]),
    ("hang", &["error: timeout"]),
    ("hang-ignoring-term", &["error: timeout"]),
];

/// The number of sending threads.
const SENDERS: usize = 4;

/// The most deliveries of a thread in one round.
const DELIVERIES: usize = 8;

/// `serve` is killed at most this long after the first delivery: more often early, during deliveries, than late, during scans.
const LATEST: Duration = Duration::from_millis(700);

#[test]
fn every_delivery_answered_202_gets_a_verdict_or_a_dead_letter_despite_kills() {
    let setting = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|it| it.parse::<u64>().unwrap())
    };
    let rounds = setting("SCANHOOK_KILL_ROUNDS").unwrap_or(5);
    let seed = setting("SCANHOOK_KILL_SEED").unwrap_or_else(rand::random);
    eprintln!("{rounds} rounds with SCANHOOK_KILL_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let yaml = YAML.replace("timeout: 1m, concurrency: 4", "timeout: 1s, concurrency: 8");
    let place = Place::with(&yaml);
    let accepted = Mutex::new(BTreeMap::new());
    let pushed = AtomicU64::new(0);
    let (mut left_behind, mut most_left_behind) = (Vec::new(), 0);
    let started = Instant::now();
    for round in 0..rounds {
        let mut serve = place.start(&[]);
        // Some are killed before they are up.
        let is_early = random.random_ratio(1, 10);
        if !is_early {
            serve.wait_until_ready();
            assert_ended(&place, &left_behind);
        }
        let moment = LATEST.mul_f64(random.random::<f64>().powi(2));
        let seeds: [u64; SENDERS] = random.random();
        std::thread::scope(|scope| {
            for seed in seeds.into_iter().filter(|_| !is_early) {
                let (place, serve, accepted, pushed) = (&place, &serve, &accepted, &pushed);
                let address = serve.address;
                scope.spawn(move || {
                    send(
                        place,
                        address,
                        StdRng::seed_from_u64(seed),
                        accepted,
                        pushed,
                    );
                });
            }
            std::thread::sleep(moment);
            serve.kill();
        });
        left_behind = place
            .cli_processes()
            .into_iter()
            .map(|it| it.home)
            .collect();
        most_left_behind = most_left_behind.max(left_behind.len());
        eprintln!(
            "round {round}: killed after {moment:?}, {} accepted so far",
            accepted.lock().unwrap().len()
        );
    }
    let accepted = accepted.into_inner().unwrap();
    let serve = place.serve(&[]);
    assert_ended(&place, &left_behind);
    wait_until_empty(&serve);
    serve.stop();
    assert_eq!(place.cli_processes().len(), 0);
    let ends = ends(&place);
    for (scan_id, image) in &accepted {
        let ends = ends.get(scan_id);
        let ends = ends.unwrap_or_else(|| panic!("{scan_id} of {image} is lost"));
        let (_, expected) = IMAGES.iter().find(|(name, _)| name == image).unwrap();
        for end in ends {
            assert!(
                end == NO_REASON || expected.contains(&end.as_str()),
                "{scan_id} of {image}: {end}"
            );
        }
    }
    let is_without_reason = |it: &&String| ends[*it].iter().eq([NO_REASON]);
    let without_reason = accepted.keys().filter(is_without_reason).count();
    eprintln!(
        "{rounds} kills in {:.0?}: {} of {} deliveries accepted, none lost; {without_reason} are dead letters without a reason, \
         because serve was killed at each of their receives; up to {most_left_behind} processes were left behind, and none of them lived on",
        started.elapsed(),
        accepted.len(),
        pushed.into_inner(),
    );
}

/// The outcome of a dead letter that SQS made, which has no reason.
const NO_REASON: &str = "dead letter";

fn send(
    place: &Place,
    address: std::net::SocketAddr,
    mut random: StdRng,
    accepted: &Mutex<BTreeMap<String, &'static str>>,
    pushed: &AtomicU64,
) {
    for _ in 0..DELIVERIES {
        // Few hang, because each takes a second.
        let kind = if random.random_ratio(1, 12) {
            8..10
        } else {
            0..8
        };
        let (name, _) = IMAGES[random.random_range(kind)];
        let number = pushed.fetch_add(1, Ordering::Relaxed);
        let (source, registry) = [
            ("harbor", "harbor.example.com"),
            ("ghcr", "ghcr.io"),
            ("registry", "registry.example.com"),
        ][random.random_range(0..3)];
        let delivery = place.delivery(
            source,
            &format!("{registry}/prod/{name}:{number}@{}", digest(number)),
        );
        let Ok(answer) = delivery.send_to(address) else {
            return;
        };
        assert_eq!(answer.status, 202, "{}", answer.body);
        accepted.lock().unwrap().insert(answer.scan_id(), name);
    }
}

/// Each run has a new home directory, so a process with this home belongs to this run.
fn assert_ended(place: &Place, homes: &[PathBuf]) {
    let alive = place.cli_processes();
    let alive: Vec<_> = alive.iter().filter(|it| homes.contains(&it.home)).collect();
    assert!(
        alive.is_empty(),
        "a process of a killed run lives on: {alive:?}"
    );
}

/// Waits for an empty queue, however long it is. Fails only if the queue stops shrinking.
fn wait_until_empty(serve: &Serve) {
    let mut left = waiting(serve);
    while left > 0 {
        left = wait_for("fewer messages", || {
            Some(waiting(serve)).filter(|it| *it < left)
        });
    }
}

fn waiting(serve: &Serve) -> u64 {
    let body = format!(
        r#"{{"QueueUrl":"http://{}/000000000000/scanhook","AttributeNames":["All"]}}"#,
        serve.sqs_address
    );
    let attributes = serve.sqs("GetQueueAttributes", &body);
    let count = |name: &str| {
        attributes["Attributes"][name]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    count("ApproximateNumberOfMessages") + count("ApproximateNumberOfMessagesNotVisible")
}

/// The outcomes of each scan, by its id. A scan can have several: if `serve` is killed after a verdict or a dead letter but before it
/// deletes the message, the message is scanned again.
fn ends(place: &Place) -> BTreeMap<String, BTreeSet<String>> {
    let mut ends: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for letter in place.messages("scanhook-dlq") {
        let message: Value = serde_json::from_str(&letter.body).unwrap();
        let reason = letter.attributes.get("scanhook.reason");
        let end = reason.map_or_else(|| NO_REASON.to_owned(), |it| format!("error: {it}"));
        let scan_id = message["scan_id"].as_str().unwrap().to_owned();
        ends.entry(scan_id).or_default().insert(end);
    }
    for record in place.scans() {
        let scan_id = record["scan_id"].as_str().unwrap().to_owned();
        match record["verdict"].as_str() {
            Some(verdict) if record["state"] == "done" => {
                ends.entry(scan_id).or_default().insert(verdict.to_owned());
            }
            _ => assert!(
                ends.contains_key(&scan_id),
                "neither verdict nor dead letter: {record}"
            ),
        }
    }
    ends
}
