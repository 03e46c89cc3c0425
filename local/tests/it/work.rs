//! `scanhook work` on a queue of another process: whatever happens to a worker, no scan is lost, and no two workers run the same
//! scan.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::world::{Place, Serve, exchange, wait_for};

const IMAGE: &str = "harbor.example.com/prod/pass:1";

/// A CLI that reports its start, and waits for permission to scan. It can't write the test's files, so it uses connections.
struct Gate {
    directory: TempDir,
    /// The waiting runs, and the number of all runs.
    waiting: Arc<Mutex<(Vec<TcpStream>, usize)>>,
    is_open: Arc<AtomicBool>,
}

impl Gate {
    fn closed() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = Self {
            directory: TempDir::new().unwrap(),
            waiting: Arc::default(),
            is_open: Arc::default(),
        };
        let port = listener.local_addr().unwrap().port();
        // The program runs as the stand-in if it has the CLI's name.
        let script = format!(
            "#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/{port}\nread -r _ <&3\nexec 3>&-\nexec sysdig-cli-scanner \"$@\"\n"
        );
        fs::write(gate.cli(), script).unwrap();
        fs::set_permissions(gate.cli(), fs::Permissions::from_mode(0o755)).unwrap();
        let (waiting, is_open) = (Arc::clone(&gate.waiting), Arc::clone(&gate.is_open));
        std::thread::spawn(move || {
            for run in listener.incoming() {
                let (waiting, count) = &mut *waiting.lock().unwrap();
                waiting.push(run.unwrap());
                *count += 1;
                if is_open.load(Ordering::Relaxed) {
                    waiting.clear();
                }
            }
        });
        gate
    }

    fn cli(&self) -> PathBuf {
        self.directory.path().join("cli")
    }

    fn flag(&self) -> String {
        format!("--scanner-cli={}", self.cli().display())
    }

    /// Lets the waiting runs continue, by closing their connections.
    fn open(&self) {
        let (waiting, _) = &mut *self.waiting.lock().unwrap();
        self.is_open.store(true, Ordering::Relaxed);
        waiting.clear();
    }

    fn runs(&self) -> usize {
        self.waiting.lock().unwrap().1
    }

    fn wait_for_runs(&self, count: usize) {
        wait_for("the CLI", || (self.runs() == count).then_some(()));
    }
}

/// A place whose commands use that endpoint as SQS.
fn worker_at(endpoint: SocketAddr) -> Place {
    let mut place = Place::new();
    place.use_sqs(endpoint);
    place
}

/// The messages of the queue, hidden or not.
fn messages(queue: &Serve) -> Vec<Value> {
    let head =
        "GET /000000000000/scanhook HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = exchange(queue.sqs_address, head, b"").unwrap();
    let page: Value = serde_json::from_str(&answer.body).unwrap();
    page["messages"].as_array().unwrap().clone()
}

fn is_empty(queue: &Serve) {
    wait_for("an empty queue", || {
        messages(queue).is_empty().then_some(())
    });
}

/// The first complete line of the log with this event.
fn logged(worker: &Serve, event: &str) -> Option<Value> {
    let stdout = worker.stdout();
    let mut lines = stdout
        .lines()
        .filter_map(|it| serde_json::from_str(it).ok());
    lines.find(|it: &Value| it["event"] == event)
}

#[test]
fn another_worker_scans_the_message_of_a_killed_one() {
    let (aws, gate) = (Place::new(), Gate::closed());
    let queue = aws.serve(&["--no-scan"]);
    let scan_id = queue.queue(&aws.delivery("harbor", IMAGE));
    let (one, other) = (worker_at(queue.sqs_address), worker_at(queue.sqs_address));
    let flags = ["--hidden-for=6s", &gate.flag()];
    let mut killed = one.work(queue.sqs_address, &flags);
    gate.wait_for_runs(1);
    killed.kill();
    let survivor = other.work(queue.sqs_address, &flags);
    gate.wait_for_runs(2);
    gate.open();
    let record = other.settled(&scan_id);
    assert_eq!(
        json!([record["verdict"], record["attempts"]]),
        json!(["passed", 2])
    );
    is_empty(&queue);
    survivor.stop();
    assert_eq!(gate.runs(), 2);
}

#[test]
fn a_scan_may_exceed_the_visibility_timeout() {
    let (aws, gate) = (Place::new(), Gate::closed());
    let queue = aws.serve(&["--no-scan"]);
    let scan_id = queue.queue(&aws.delivery("harbor", IMAGE));
    let place = worker_at(queue.sqs_address);
    // The worker has free slots, so it would receive the message again.
    let worker = place.work(queue.sqs_address, &["--hidden-for=6s", &gate.flag()]);
    gate.wait_for_runs(1);
    let hidden_until = || -> Timestamp {
        let message = messages(&queue).pop().unwrap();
        message["visible_at"].as_str().unwrap().parse().unwrap()
    };
    let first = hidden_until();
    wait_for("some renewals", || {
        (hidden_until() > first + std::time::Duration::from_secs(7)).then_some(())
    });
    gate.open();
    let record = place.settled(&scan_id);
    assert_eq!(
        json!([record["verdict"], record["attempts"]]),
        json!(["passed", 1])
    );
    is_empty(&queue);
    let ready = worker.get("/readyz");
    assert_eq!(ready.status, 200, "{}", ready.body);
    let figures = worker.get("/metrics").body;
    let passed = r#"scanhook_messages_processed_total{source="harbor",verdict="passed"} 1"#;
    assert!(figures.contains(passed), "{figures}");
    assert!(
        figures.contains(r#"scanhook_queue_depth{queue="scanhook"} 0"#),
        "{figures}"
    );
    worker.stop();
    assert_eq!(gate.runs(), 1);
}

#[test]
fn unfinished_scans_return_to_the_queue_at_shutdown() {
    let (aws, gate) = (Place::new(), Gate::closed());
    let queue = aws.serve(&["--no-scan"]);
    let scan_id = queue.queue(&aws.delivery("harbor", IMAGE));
    let (one, other) = (worker_at(queue.sqs_address), worker_at(queue.sqs_address));
    let stopped = one.work(queue.sqs_address, &["--drain=1s", &gate.flag()]);
    gate.wait_for_runs(1);
    stopped.stop();
    assert_eq!(one.cli_processes().len(), 0);
    // Without the release, it would be hidden for five minutes.
    gate.open();
    let worker = other.work(queue.sqs_address, &[&gate.flag()]);
    assert_eq!(other.settled(&scan_id)["verdict"], "passed");
    worker.stop();
}

/// A connection to an endpoint that can be cut.
struct Wire {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(endpoint: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self {
            address: listener.local_addr().unwrap(),
            is_cut: Arc::default(),
            streams: Arc::default(),
        };
        let (is_cut, streams) = (Arc::clone(&wire.is_cut), Arc::clone(&wire.streams));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(endpoint) else {
                    continue;
                };
                for (mut from, mut to) in [
                    (near.try_clone().unwrap(), far.try_clone().unwrap()),
                    (far.try_clone().unwrap(), near.try_clone().unwrap()),
                ] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                streams.lock().unwrap().extend([near, far]);
            }
        });
        wire
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_worker_that_cannot_reach_its_queue_stops_its_scan_before_another_starts_it() {
    let (aws, gate) = (Place::new(), Gate::closed());
    let queue = aws.serve(&["--no-scan"]);
    let scan_id = queue.queue(&aws.delivery("harbor", IMAGE));
    let wire = Wire::to(queue.sqs_address);
    let (one, other) = (worker_at(wire.address), worker_at(queue.sqs_address));
    let flags = ["--hidden-for=12s", &gate.flag()];
    let cut_off = one.work(wire.address, &flags);
    gate.wait_for_runs(1);
    wire.cut();
    let worker = other.work(queue.sqs_address, &flags);
    let lost = wait_for("the record to be lost", || logged(&cut_off, "record.lost"));
    let lost: Timestamp = lost["timestamp"].as_str().unwrap().parse().unwrap();
    gate.wait_for_runs(2);
    assert_eq!(one.cli_processes().len(), 0, "only the other one scans");
    gate.open();
    let record = other.settled(&scan_id);
    let began: Timestamp = record["started_at"].as_str().unwrap().parse().unwrap();
    assert!(lost < began, "lost at {lost}, started elsewhere at {began}");
    assert_eq!(record["verdict"], "passed");
    is_empty(&queue);
    worker.stop();
    let unready = wait_for("the worker to say so", || {
        Some(cut_off.get("/readyz")).filter(|it| it.status == 503)
    });
    assert!(
        unready.body.contains(r#""queue":"fails""#),
        "{}",
        unready.body
    );
    assert_eq!(gate.runs(), 2);
}

#[test]
fn a_paused_worker_loses_nothing() {
    let (aws, gate) = (Place::new(), Gate::closed());
    let queue = aws.serve(&["--no-scan"]);
    let scan_id = queue.queue(&aws.delivery("harbor", IMAGE));
    let (one, other) = (worker_at(queue.sqs_address), worker_at(queue.sqs_address));
    let flags = ["--hidden-for=6s", &gate.flag()];
    let hung = one.work(queue.sqs_address, &flags);
    gate.wait_for_runs(1);
    hung.signal(Signal::STOP);
    let worker = other.work(queue.sqs_address, &flags);
    gate.wait_for_runs(2);
    gate.open();
    assert_eq!(other.settled(&scan_id)["verdict"], "passed");
    hung.signal(Signal::CONT);
    is_empty(&queue);
    hung.stop();
    worker.stop();
    assert_eq!(gate.runs(), 2);
    let dead = queue.sqs("GetQueueAttributes", &dead_letters(&queue));
    assert_eq!(dead["Attributes"]["ApproximateNumberOfMessages"], "0");
}

fn dead_letters(queue: &Serve) -> String {
    let url = format!("http://{}/000000000000/scanhook-dlq", queue.sqs_address);
    json!({"QueueUrl": url, "AttributeNames": ["All"]}).to_string()
}

/// A backend that answers every request with this status.
fn backend(status: &Arc<AtomicU16>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let status = Arc::clone(status);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let status = status.load(Ordering::SeqCst);
            let _ = write!(
                stream,
                "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
        }
    });
    address
}

#[test]
fn nothing_is_received_while_the_backend_is_down() {
    let status = Arc::new(AtomicU16::new(200));
    let backend = backend(&status);
    let aws = Place::new();
    let queue = aws.serve(&["--no-scan"]);
    let yaml = crate::world::YAML.replace("http://127.0.0.1:1", &format!("http://{backend}"));
    let mut place = Place::with(&yaml);
    place.use_sqs(queue.sqs_address);
    let worker = place.work(queue.sqs_address, &[]);
    wait_for("the backend to be seen", || logged(&worker, "backend.seen"));
    status.store(503, Ordering::SeqCst);
    for number in 0..4 {
        let image = format!("harbor.example.com/prod/unknown-error:{number}");
        queue.queue(&aws.delivery("harbor", &image));
    }
    let down = wait_for("the breaker", || {
        Some(worker.get("/readyz")).filter(|it| it.status == 503)
    });
    assert!(down.body.contains(r#""sysdig":"fails""#), "{}", down.body);
    let figures = worker.get("/metrics").body;
    assert!(
        figures.contains(r#"scanhook_ready{part="sysdig"} 0"#),
        "{figures}"
    );
    // A receive in progress may still return one message; the next message stays in the queue.
    queue.queue(&aws.delivery("harbor", "harbor.example.com/prod/pass:1"));
    let waiting = queue.queue(&aws.delivery("harbor", "harbor.example.com/prod/pass:2"));
    // Some failed and were due for a retry a second later; now all of them wait.
    wait_for("everything to wait", || {
        let messages = messages(&queue);
        (messages.len() == 6 && messages.iter().all(|it| it["state"] == "visible")).then_some(())
    });
    let untouched = messages(&queue).into_iter();
    let mut untouched = untouched.filter(|it| it["body"].as_str().unwrap().contains(&waiting));
    assert_eq!(untouched.next().unwrap()["receive_count"], 0);
    assert_eq!(worker.get("/readyz").status, 503);
    status.store(200, Ordering::SeqCst);
    assert_eq!(place.settled(&waiting)["verdict"], "passed");
    wait_for("readiness", || {
        (worker.get("/readyz").status == 200).then_some(())
    });
    worker.stop();
}
