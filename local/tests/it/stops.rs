//! How `serve` stops: scans in flight are finished or released, and no process is left.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::world::{Place, Serve, read_answer, wait_for};

const HANGING: &str = "harbor.example.com/prod/hang-ignoring-term:1";

/// Seven seconds to drain, and some to stop.
const END: Duration = Duration::from_secs(10);

#[test]
fn both_signals_stop_an_idle_server_at_once() {
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
                .contains(&format!("{name}: shutting down gracefully")),
            "{}",
            serve.stderr()
        );
    }
}

#[test]
fn a_scan_in_flight_is_finished() {
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
fn a_scan_that_does_not_end_is_killed_and_runs_again_after_the_next_start() {
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

/// Sends the head of a request to the SQS endpoint, and waits until the request is being answered.
fn begin(serve: &Serve, action: &str, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(serve.sqs_address).unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nX-Amz-Target: AmazonSQS.{action}\r\nContent-Length: {length}\r\n\r\n"
    )
    .unwrap();
    let expected = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, expected);
    stream
}

#[test]
fn sqs_requests_in_flight_are_finished_and_long_polls_end_at_once() {
    let place = Place::new();
    let mut serve = place.serve(&["--no-scan"]);
    let url = format!("http://{}/000000000000/scanhook", serve.sqs_address);
    let poll = json!({"QueueUrl": url, "WaitTimeSeconds": 20}).to_string();
    let send = json!({"QueueUrl": url, "MessageBody": "late"}).to_string();
    let mut polls: Vec<_> = (0..3)
        .map(|_| begin(&serve, "ReceiveMessage", poll.len()))
        .collect();
    for stream in &mut polls {
        stream.write_all(poll.as_bytes()).unwrap();
    }
    let mut sending = begin(&serve, "SendMessage", send.len());
    serve.signal(Signal::TERM);
    let asked = Instant::now();
    let mut received = 0;
    for stream in &mut polls {
        let answer = read_answer(stream).unwrap();
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        received += answer["Messages"].as_array().map_or(0, Vec::len);
    }
    assert_eq!(received, 0);
    sending.write_all(send.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut sending).unwrap().status, 200);
    let (status, _) = serve.wait();
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(0), "{}", serve.stderr());
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(place.messages("scanhook").len(), 1);
    assert!(TcpStream::connect(serve.sqs_address).is_err());
}

#[test]
fn a_second_signal_stops_it_at_once() {
    let place = Place::new();
    let mut serve = place.serve(&[]);
    let scan_id = serve.queue(&place.delivery("harbor", HANGING));
    place.cli_ignoring_term_on(&scan_id);
    serve.signal(Signal::INT);
    wait_for("the notice of the first signal", || {
        serve
            .stderr()
            .contains("shutting down gracefully")
            .then_some(())
    });
    // Early signals count as one, because `timeout` sends its signal twice.
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
fn no_delivery_is_accepted_after_the_signal() {
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
