//! How `serve` ends: what has begun is finished or given back, and no process is left.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::world::{Place, wait_for};

const HANGING: &str = "harbor.example.com/prod/hang-ignoring-term:1";

/// Seven seconds for what has begun, and some to end it.
const END: Duration = Duration::from_secs(10);

#[test]
fn both_signals_end_an_idle_server_at_once() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let place = Place::new();
        let mut serve = place.serve(&[]);
        serve.signal(signal);
        let (status, took) = serve.wait();
        assert_eq!(status.code(), Some(0), "{}", serve.stderr());
        assert!(took < Duration::from_secs(4), "{took:?}");
        assert!(
            serve
                .stderr()
                .contains(&format!("{name}: finishing what has begun")),
            "{}",
            serve.stderr()
        );
    }
}

#[test]
fn a_scan_that_has_begun_is_finished() {
    let place = Place::new();
    let serve = place.serve(&[]);
    let scan_id = serve.queue(&place.delivery("harbor", "harbor.example.com/prod/slow:1"));
    place.cli_on(&scan_id);
    serve.stop();
    let scans = place.scans();
    assert_eq!(
        (&scans[0]["scan_id"], &scans[0]["verdict"]),
        (&json!(scan_id), &json!("passed"))
    );
    assert_eq!(place.messages("scanhook").len(), 0);
}

#[test]
fn a_scan_that_does_not_end_is_ended_and_begun_again_after_the_next_start() {
    let place = Place::new();
    let serve = place.serve(&[]);
    let scan_id = serve.queue(&place.delivery("harbor", HANGING));
    place.cli_ignoring_term_on(&scan_id);
    let took = serve.stop();
    eprintln!("ended with a hanging scan in {took:?}");
    assert!(took < END, "{took:?}");
    assert_eq!(place.cli_processes().len(), 0);
    assert_eq!(place.messages("scanhook").len(), 1);

    let again = place.serve(&[]);
    place.cli_on(&scan_id);
    drop(again);
}

#[test]
fn a_second_signal_ends_it_without_delay() {
    let place = Place::new();
    let mut serve = place.serve(&[]);
    let scan_id = serve.queue(&place.delivery("harbor", HANGING));
    place.cli_ignoring_term_on(&scan_id);
    serve.signal(Signal::INT);
    wait_for("the notice of the first signal", || {
        serve
            .stderr()
            .contains("finishing what has begun")
            .then_some(())
    });
    // At first they are taken for the same one, as `timeout` sends one twice.
    let asked = Instant::now();
    let status = wait_for("the end of serve", || {
        serve.signal(Signal::INT);
        serve.ended()
    });
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(1), "{}", serve.stderr());
    assert!(
        (1.0..4.0).contains(&took.as_secs_f64()),
        "{took:?}: {}",
        serve.stderr()
    );
    assert_eq!(place.cli_processes().len(), 0);
    assert_eq!(place.messages("scanhook").len(), 1);
}

#[test]
fn after_the_signal_no_delivery_is_taken() {
    let place = Place::new();
    let mut serve = place.serve(&[]);
    let scan_id = serve.queue(&place.delivery("harbor", "harbor.example.com/prod/hang:1"));
    place.cli_on(&scan_id);
    serve.signal(Signal::TERM);
    let delivery = place.delivery("harbor", "harbor.example.com/prod/pass:1");
    wait_for("a refused connection", || {
        delivery.send_to(serve.address).err()
    });
    serve.wait();
    assert_eq!(place.cli_processes().len(), 0);
}
