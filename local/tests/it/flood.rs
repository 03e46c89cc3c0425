//! Clients that send too much, slowly, or nothing at all.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;

use crate::world::{Answer, Place, Serve, read_answer, wait_for};

const CONNECTIONS: usize = 50;

const MEGABYTE: usize = 1 << 20;

/// The most that 50 times 30 MB may add to the resident set, in KiB: the 16 MiB that all bodies share, and a margin.
const FLAT: u64 = 32 * 1024;

/// Sends up to 30 MB after `head`, chunked or not. Returns the answer's status, unless the server just closed the connection.
fn pour(serve: &Serve, head: &str, is_chunked: bool) -> Option<u16> {
    let mut stream = TcpStream::connect(serve.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let block = vec![b'x'; MEGABYTE / 16];
    for _ in 0..30 * 16 {
        let sent = if is_chunked {
            write!(stream, "{:x}\r\n", block.len())
                .and_then(|()| stream.write_all(&block))
                .and_then(|()| stream.write_all(b"\r\n"))
        } else {
            stream.write_all(&block)
        };
        // The server has stopped reading.
        if sent.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    while let Ok(read @ 1..) = stream.read(&mut part) {
        answer.extend_from_slice(&part[..read]);
    }
    let answer = String::from_utf8(answer).unwrap();
    answer.split(' ').nth(1).map(|it| it.parse().unwrap())
}

/// Sends 30 MB through each of 50 concurrent connections, and checks that memory stays flat and deliveries are accepted.
fn flood(place: &Place, serve: &Serve, what: &str, head: &str, is_chunked: bool) {
    let (before, peak_before) = (serve.memory("VmRSS"), serve.memory("VmHWM"));
    let statuses: Vec<_> = std::thread::scope(|scope| {
        let pours: Vec<_> = (0..CONNECTIONS)
            .map(|_| scope.spawn(|| pour(serve, head, is_chunked)))
            .collect();
        pours.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let (after, peak) = (serve.memory("VmRSS"), serve.memory("VmHWM"));
    let answered = statuses.iter().flatten().count();
    eprintln!(
        "{what}: {CONNECTIONS} x 30 MB, {answered} answers read; resident {before} KiB before, {after} after, peak {peak_before} before, {peak} after"
    );
    for status in statuses.into_iter().flatten() {
        assert!(matches!(status, 413 | 503), "{what}: {status}");
    }
    assert!(peak < before + FLAT, "{what}: {before} KiB grew to {peak}");
    let mut longest = place.delivery("harbor", "harbor.example.com/prod/pass:1");
    longest.body.resize(MEGABYTE, b' ');
    serve.queue(&longest);
}

#[test]
fn thirty_megabytes_from_fifty_clients_do_not_raise_memory() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    serve.queue(&place.delivery("harbor", "harbor.example.com/prod/pass:1"));
    for path in [
        "/webhooks/harbor",
        "/webhooks/hub/no-token",
        "/webhooks/none",
        "/none",
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n");
        let length = 30 * MEGABYTE;
        flood_any(&place, &serve, path, &head, length);
    }
}

fn flood_any(place: &Place, serve: &Serve, path: &str, head: &str, length: usize) {
    if path.starts_with("/webhooks/h") {
        flood(
            place,
            serve,
            &format!("{path} with its length"),
            &format!("{head}Content-Length: {length}\r\n\r\n"),
            false,
        );
        flood(
            place,
            serve,
            &format!("{path} in chunks"),
            &format!("{head}Transfer-Encoding: chunked\r\n\r\n"),
            true,
        );
    } else {
        let before = serve.memory("VmRSS");
        let status = pour(
            serve,
            &format!("{head}Transfer-Encoding: chunked\r\n\r\n"),
            true,
        );
        // API Gateway refuses a long body before routing.
        assert!(
            status.is_none_or(|it| matches!(it, 404 | 413)),
            "{path}: {status:?}"
        );
        assert!(serve.memory("VmHWM") < before + FLAT);
    }
}

/// Opens a connection and sends the start of a request.
fn begin(address: SocketAddr, start: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    stream.write_all(start.as_bytes()).unwrap();
    stream
}

fn answered_soon(place: &Place, serve: &Serve, image: &str) {
    let asked = Instant::now();
    serve.queue(&place.delivery("harbor", image));
    serve.sqs("ListQueues", "{}");
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
}

/// For each port: its name, its address, an incomplete request head, and whole requests with and without a body.
fn ports(serve: &Serve) -> [(&'static str, SocketAddr, String, String, String); 2] {
    let head = |path| format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n");
    let (webhook, sqs) = (head("/webhooks/harbor"), head("/"));
    let with_body = |head: &str| format!("{head}Content-Length: 1000\r\n\r\n");
    let without = |path| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    [
        (
            "webhook",
            serve.address,
            format!("{webhook}X-Slow: "),
            with_body(&webhook),
            without("/healthz"),
        ),
        (
            "SQS",
            serve.sqs_address,
            format!("{sqs}X-Slow: "),
            with_body(&sqs),
            without("/000000000000/scanhook"),
        ),
    ]
}

/// Tests with hundreds of connections run one after the other, because a process may open only 1,024 files.
static CROWD: Mutex<()> = Mutex::new(());

#[test]
fn slow_and_silent_clients_delay_nobody_and_are_disconnected() {
    let _crowd = CROWD.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    let opened = Instant::now();
    let mut strangers = Vec::new();
    for (port, address, slow_head, slow_body, whole) in ports(&serve) {
        for (what, start, count) in [
            ("slow body", &slow_body, 50),
            ("silent", &String::new(), 100),
            ("slow head", &slow_head, 50),
            ("kept alive", &whole, 25),
        ] {
            let streams: Vec<_> = (0..count).map(|_| begin(address, start)).collect();
            strangers.push((port, what, streams));
        }
    }
    answered_soon(&place, &serve, "harbor.example.com/prod/pass:1");
    // A byte now and then doesn't extend the timeout.
    for (_, what, streams) in &mut strangers {
        if what.starts_with("slow") {
            for stream in streams {
                stream.write_all(b"x").unwrap();
            }
        }
    }
    answered_soon(&place, &serve, "harbor.example.com/prod/pass:2");
    for (port, what, streams) in strangers {
        let mut answers = Vec::new();
        for mut stream in streams {
            let mut answer = String::new();
            // A reset counts as an end.
            let _ = stream.read_to_string(&mut answer);
            answers.push(answer.lines().next().unwrap_or_default().to_owned());
        }
        answers.dedup();
        let took = opened.elapsed();
        eprintln!("{port}, {what}: {answers:?} after {took:?}");
        assert!(took < Duration::from_secs(20), "{port}, {what}: {took:?}");
        match what {
            "slow body" => assert_eq!(answers, ["HTTP/1.1 408 Request Timeout"], "{port}"),
            "kept alive" => assert_eq!(answers, ["HTTP/1.1 200 OK"], "{port}"),
            _ => {}
        }
    }
    answered_soon(&place, &serve, "harbor.example.com/prod/pass:3");
    assert_eq!(serve.refused("harbor", "timeout"), 50);
}

#[test]
fn requests_refused_before_the_webhook_are_counted_and_logged() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    let long = format!(
        "POST /webhooks/harbor HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n",
        "x".repeat(11_000)
    );
    let strange = "hostile-name";
    for (start, status) in [
        (
            "POST /webhooks/harbor HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n"
                .to_owned(),
            413,
        ),
        (
            format!(
                "POST /webhooks/{strange} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n"
            ),
            413,
        ),
        (format!("{long}\r\n"), 431),
        (
            "GET /webhooks/harbor HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            405,
        ),
        (
            format!("GET /{strange} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            404,
        ),
    ] {
        let answer = read_answer(&mut begin(serve.address, &start)).unwrap();
        assert_eq!(answer.status, status, "{start:.60}");
    }
    for (source, reason, count) in [
        ("harbor", "too_large", 2),
        ("-", "too_large", 1),
        ("harbor", "method_not_allowed", 1),
        ("-", "not_found", 1),
    ] {
        assert_eq!(serve.refused(source, reason), count, "{source} {reason}");
    }
    assert!(!serve.get("/metrics").body.contains(strange));
}

/// Waits for the server to close a connection, as it closes a replaced one.
fn has_given_way(stream: &mut TcpStream) -> bool {
    // A reset counts as an end.
    !matches!(stream.read(&mut [0]), Ok(1..))
}

#[test]
fn a_new_connection_replaces_the_one_that_waited_longest() {
    let _crowd = CROWD.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    for port in [0, 1] {
        let serve = place.serve(&["--no-scan"]);
        let (name, address, slow_head, _, whole) = ports(&serve).into_iter().nth(port).unwrap();
        let with_body = slow_head.replace("X-Slow: ", "Content-Length: 2\r\n\r\n");
        let mut in_the_middle = begin(address, &with_body);
        let mut idle = begin(address, &whole);
        assert!(idle.read(&mut [0; 4096]).unwrap() > 0, "{name}");
        let mut strangers: VecDeque<_> = (0..510)
            .map(|it| begin(address, if it % 2 == 0 { "" } else { &slow_head }))
            .collect();
        let answers_at_once = || {
            let asked = Instant::now();
            let request = whole.replace("Host", "Connection: close\r\nHost");
            let answer = read_answer(&mut begin(address, &request)).unwrap();
            assert_eq!(answer.status, 200, "{name}");
            assert!(asked.elapsed() < Duration::from_secs(3), "{name}");
        };
        answers_at_once();
        assert!(has_given_way(&mut idle), "{name}");
        // Another connection replaced it and stays.
        strangers.push_back(begin(address, ""));
        for _ in 0..3 {
            answers_at_once();
            assert!(has_given_way(&mut strangers.pop_front().unwrap()), "{name}");
            strangers.push_back(begin(address, &slow_head));
        }
        // There is only one connection with a request in progress.
        in_the_middle.write_all(b"{}").unwrap();
        let mut answer = [0; 12];
        in_the_middle.read_exact(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 4"), "{name}");
        assert!(
            serve
                .log()
                .iter()
                .any(|it| it["event"] == "connections.full"),
            "{name}"
        );
    }
}

/// How many seconds the flood lasts; by default, until twenty deliveries and twenty probes were answered.
const SECONDS: &str = "SCANHOOK_STRANGERS";

/// Three times the number of places.
const STRANGERS: u16 = 3 * 512;

/// What clients send before they fall silent.
const STARTS: [&str; 3] = [
    "",
    "POST /webhooks/harbor HTTP/1.1\r\nHost: x\r\n",
    "POST /webhooks/harbor HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
];

/// The timeout of a sender.
const SENDER: Duration = Duration::from_secs(10);

/// The timeout of a probe. In the manifests it is the default of `timeoutSeconds`, 1; a machine with other tests may be slower.
const PROBE: Duration = Duration::from_secs(1);

/// Clients hold connections to `address` until `stop`, and reopen each as soon as it ends. Returns how often.
fn press(address: SocketAddr, stop: &CancellationToken, opened: &AtomicUsize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(join_all((0..STRANGERS).map(async |number| {
        // From several addresses, because one runs out of ports.
        let [high, low] = number.to_be_bytes();
        let start = STARTS[usize::from(number) % STARTS.len()];
        stop.run_until_cancelled(async {
            loop {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(([127, 1, high, low], 0).into()).unwrap();
                if let Ok(mut stream) = socket.connect(address).await {
                    opened.fetch_add(1, Ordering::Relaxed);
                    let _ = stream.write_all(start.as_bytes()).await;
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            }
        })
        .await;
    })));
}

/// Sends requests in turn, each on a connection of its own and within `patience`, while `continues` is true of their number.
fn ask(
    what: &str,
    address: SocketAddr,
    patience: Duration,
    request: &[u8],
    continues: impl Fn(usize) -> bool,
) {
    let mut took = Vec::new();
    while continues(took.len()) {
        let asked = Instant::now();
        let mut stream = TcpStream::connect_timeout(&address, patience).unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        stream.write_all(request).unwrap();
        let answer = read_answer(&mut stream).unwrap();
        took.push(asked.elapsed());
        assert!(
            took.iter().all(|it| *it < patience) && answer.status < 300,
            "{what}: {} {took:?}",
            answer.status
        );
    }
    took.sort();
    let count = took.len();
    let percentile = |it: usize| took[(count * it).div_ceil(100) - 1];
    eprintln!(
        "{what}: {count} answered, p50 {:?}, p99 {:?}, longest {:?}",
        percentile(50),
        percentile(99),
        percentile(100)
    );
}

#[test]
fn three_times_as_many_clients_as_places_keep_nobody_out() {
    let _crowd = CROWD.lock().unwrap_or_else(PoisonError::into_inner);
    let files = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: files.maximum,
            ..files
        },
    )
    .unwrap();
    let place = Place::new();
    let serve = place.serve(&["--no-scan", "--health-listen=127.0.0.1:0"]);
    let health = serve.health_address();
    let delivery = place.delivery("harbor", "harbor.example.com/prod/pass:1");
    let delivery = [delivery.head().as_bytes(), &delivery.body].concat();
    let probe = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let (stop, opened) = (CancellationToken::new(), AtomicUsize::new(0));
    let seconds = std::env::var(SECONDS).ok().map(|it| it.parse().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| press(serve.address, &stop, &opened));
        let _stop = stop.clone().drop_guard();
        wait_for("strangers who give way", || {
            serve
                .log()
                .into_iter()
                .find(|it| it["event"] == "connections.full")
        });
        let until = Instant::now() + Duration::from_secs(seconds.unwrap_or_default());
        let continues = move |answered| {
            if seconds.is_some() {
                Instant::now() < until
            } else {
                answered < 20
            }
        };
        let patience = if seconds.is_some() { PROBE } else { SENDER };
        let probes = scope.spawn(move || ask("probes", health, patience, probe, continues));
        ask("deliveries", serve.address, SENDER, &delivery, continues);
        probes.join().unwrap();
    });
    eprintln!(
        "{STRANGERS} strangers opened {} connections",
        opened.into_inner()
    );
}

#[test]
fn garbage_is_refused_and_the_next_request_answered() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    let long = "x".repeat(20_000);
    for (garbage, statuses) in [
        ("\x16\x03\x01\x02\x00\x01\r\n\r\n".to_owned(), &[400][..]),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), &[414, 431]),
        (format!("POST /webhooks/harbor HTTP/1.1\r\nX-Long: {long}\r\n\r\n"), &[431]),
        ("POST /webhooks/harbor HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n".to_owned(), &[400]),
        ("POST /webhooks/harbor HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx".to_owned(), &[400]),
        ("POST /webhooks/harbor HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n".to_owned(), &[400]),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[400]),
    ] {
        // To SQS, a path of the webhook is the path of a queue.
        for address in [serve.address, serve.sqs_address] {
            let mut stream = begin(address, &garbage);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            if let Ok(Answer { status, .. }) = read_answer(&mut stream) {
                assert!(statuses.contains(&status), "{status} for {garbage:.60}");
            }
        }
        answered_soon(&place, &serve, "harbor.example.com/prod/pass:1");
    }
}
