//! The time from the start of a function's process to its first call of `/next`, compared with a bare function:
//! `start RUNS WEBHOOK HELLO`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a measurement prints, fails where it fails, and starts what it measures"
)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const CONFIG: &str = r#"
sources:
  hub: { kind: docker-hub, auth: [{ type: path_token, secret: "env:SECRET" }] }
  harbor: { kind: harbor, registry: harbor.example.com, auth: [{ type: token, secret: "env:SECRET" }] }
  mirror: { kind: distribution, registry: "registry.example.com:5000", auth: [{ type: bearer, secret: "env:SECRET" }] }
  github: { kind: ghcr, auth: [{ type: hmac, secret: "env:SECRET" }] }
"#;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [runs, webhook, hello] = arguments.as_slice() else {
        panic!("start RUNS WEBHOOK HELLO")
    };
    let queue = serve(|mut stream: &TcpStream, _: &str| {
        let body = "{}";
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.write_all(answer.as_bytes());
    });
    let (calls, called) = channel();
    let runtime = serve_next(calls);
    let config = std::env::temp_dir().join(format!("scanhook-start-{}.yaml", std::process::id()));
    std::fs::write(&config, CONFIG).unwrap();
    let environment = [
        ("AWS_LAMBDA_RUNTIME_API", runtime),
        ("AWS_LAMBDA_FUNCTION_NAME", "webhook".to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_ENDPOINT_URL_SQS", format!("http://{queue}")),
        (
            "SCANHOOK_QUEUE_URL",
            format!("http://{queue}/000000000000/scans"),
        ),
        ("SCANHOOK_CONFIG", format!("file:{}", config.display())),
        ("SECRET", "fake-secret-of-a-measurement".to_owned()),
    ];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..runs.parse::<usize>().unwrap() {
        for (program, times) in [webhook, hello].into_iter().zip(&mut times) {
            times.push(start(program, &environment, &called));
        }
    }
    std::fs::remove_file(&config).unwrap();
    for it in &mut times {
        it.sort_unstable();
    }
    println!(
        "{:<10} {:>17} {:>12} {:>14}",
        "to /next", "first decile, ms", "median, ms", "stripped, MB"
    );
    for (program, times) in [webhook, hello].into_iter().zip(&times) {
        let name = program.rsplit('/').next().unwrap();
        let bytes = std::fs::metadata(program).unwrap().len();
        println!(
            "{name:<10} {:>17.2} {:>12.2} {:>14.2}",
            milliseconds(times, 10),
            milliseconds(times, 50),
            bytes as f64 / 1e6
        );
    }
    // Other load on the machine lengthens most starts of both programs. The first decile has the least of it.
    let ratio = |percent| milliseconds(&times[0], percent) / milliseconds(&times[1], percent);
    println!(
        "ratio      {:>17.2} {:>12.2}\n\nat most 1.50; size at most 12 MB; {runs} starts of each, in turn",
        ratio(10),
        ratio(50)
    );
}

/// A percentile of the starts.
fn milliseconds(sorted: &[Duration], percent: usize) -> f64 {
    sorted[sorted.len() * percent / 100].as_secs_f64() * 1e3
}

/// Starts a program, waits for its first call of `/next`, and ends it.
fn start(program: &str, environment: &[(&str, String)], called: &Receiver<Instant>) -> Duration {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (*name, value)))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    let start = Instant::now();
    let child = command.spawn().unwrap();
    let call = called.recv_timeout(Duration::from_secs(20));
    end(child);
    call.unwrap_or_else(|_| panic!("{program} never asked for an event"))
        .duration_since(start)
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A server that reports each request for an event, and never answers one.
fn serve_next(calls: Sender<Instant>) -> String {
    serve(move |_: &TcpStream, request: &str| {
        if request.starts_with("GET /2018-06-01/runtime/invocation/next") {
            let _ = calls.send(Instant::now());
        }
    })
}

/// Serves one connection at a time, because a measured program has only one. Returns host and port.
fn serve(answer: impl Fn(&TcpStream, &str) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            converse(stream.unwrap(), &answer);
        }
    });
    address
}

/// Reads requests from a connection until it ends. Each head fits into one read; a body may follow.
fn converse(mut stream: TcpStream, answer: impl Fn(&TcpStream, &str)) {
    let mut buffer = vec![0; 16 << 10];
    let mut request = String::new();
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        request.push_str(&String::from_utf8_lossy(&buffer[..length]));
        let Some((head, body)) = request.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .filter_map(|it| it.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, value)| value.parse().unwrap());
        if body.len() >= length {
            answer(&stream, head);
            request.clear();
        }
    }
}
