//! `scanhook serve --fault`: invalid faults are refused, and no acknowledged delivery is lost.

use crate::world::{Place, wait_for};

#[test]
fn an_invalid_fault_is_refused() {
    let place = Place::new();
    for (arguments, words) in [
        (&["--fault=disk-full=1%"][..], "there is no fault disk-full"),
        (
            &["--fault=scanner-crash=5%", "--no-scan"],
            "the scanner, which --no-scan leaves out",
        ),
        (
            &[
                "--fault=sqs-throttle=5%",
                "--queue-url=http://127.0.0.1:1/1/q",
            ],
            "which --queue-url replaces",
        ),
        (&["--seed=1"], "--fault"),
        (
            &["--fault=sqs-throttle=5%", "--seed=x"],
            "invalid value 'x' for '--seed <N>'",
        ),
    ] {
        let ran = place.run(&[&["serve"], arguments].concat());
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn a_delivery_accepted_while_the_queue_throttles_is_queued_once() {
    let place = Place::new();
    let faults = "--fault=sqs-throttle=30%,sqs-latency=20ms";
    let serve = place.serve(&["--no-scan", faults, "--seed=7"]);
    let statuses: Vec<_> = (0..20)
        .map(|number| {
            let image = format!("harbor.example.com/prod/pass:{number}");
            serve.send(&place.delivery("harbor", &image)).status
        })
        .collect();
    assert!(
        statuses.iter().all(|it| [202, 503].contains(it)),
        "{statuses:?}"
    );
    let accepted = statuses.iter().filter(|it| **it == 202).count();
    assert!(accepted > 10, "retries succeed: {statuses:?}");
    serve.stop();
    assert_eq!(place.messages("scanhook").len(), accepted);
}

#[test]
fn an_image_whose_scanner_crashed_is_scanned_after_the_next_start() {
    let place = Place::new();
    let serve = place.serve(&["--fault=scanner-crash=100%", "--seed=1"]);
    let scan_id = serve.queue(&place.delivery("harbor", "harbor.example.com/prod/pass:1"));
    let words = "the whole batch failed: the function returned an error: the function crashed, as --fault scanner-crash asks";
    wait_for("the crash", || serve.stdout().contains(words).then_some(()));
    serve.stop();
    assert_eq!(place.messages("scanhook").len(), 1);
    let serve = place.serve(&[]);
    assert_eq!(place.settled(&scan_id)["verdict"], "passed");
    serve.stop();
    assert!(place.messages("scanhook").is_empty() && place.messages("scanhook-dlq").is_empty());
}
