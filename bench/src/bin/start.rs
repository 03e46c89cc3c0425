//! The time from the start of a function's process to its first call of `/next`, compared with a bare function:
//! `start RUNS WEBHOOK HELLO`. And the instructions until then with a queue over TLS: `start tls WEBHOOK`, which needs valgrind,
//! and `openssl` for a certificate.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a measurement prints, fails where it fails, and starts what it measures"
)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use scanhook_bench::callgrind::number_after;

const CONFIG: &str = r#"
sources:
  hub: { kind: docker-hub, auth: [{ type: path_token, secret: "env:SECRET" }] }
  harbor: { kind: harbor, registry: harbor.example.com, auth: [{ type: token, secret: "env:SECRET" }] }
  mirror: { kind: distribution, registry: "registry.example.com:5000", auth: [{ type: bearer, secret: "env:SECRET" }] }
  github: { kind: ghcr, auth: [{ type: hmac, secret: "env:SECRET" }] }
"#;

/// Amazon's roots, as the webhook has them.
const AMAZON_ROOTS: &str = include_str!("../../../functions/config/src/aws/amazon-roots.pem");

/// Where Debian has the roots of the system.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

type Environment = Vec<(&'static str, String)>;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["tls", webhook] => tls(webhook),
        [runs, webhook, hello] => plain(runs.parse().unwrap(), webhook, hello),
        _ => panic!("start RUNS WEBHOOK HELLO, or start tls WEBHOOK"),
    }
}

fn plain(runs: usize, webhook: &str, hello: &str) {
    let queue = serve(None, acknowledge);
    let (calls, called) = channel();
    let runtime = serve_next(calls);
    let directory = Directory::new();
    let environment = environment(&directory, &runtime, &format!("http://{queue}"));
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        for (program, times) in [webhook, hello].into_iter().zip(&mut times) {
            times.push(start(program, &environment, &called));
        }
    }
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
        "ratio      {:>17.2} {:>12.2}\n\nat most 2.10; size at most 17 MB; {runs} starts of each, in turn",
        ratio(10),
        ratio(50)
    );
}

/// Counts the instructions to the first acknowledged call over TLS, with many and with few roots within reach.
fn tls(webhook: &str) {
    let directory = Directory::new();
    let (certificate, key) = (directory.path("certificate.pem"), directory.path("key.pem"));
    make_certificate(&certificate, &key);
    let server = Some(Arc::new(server(&certificate, &key)));
    let queue = format!("https://{}", serve(server, acknowledge));
    let (calls, called) = channel();
    let runtime = serve_next(calls);
    let own = std::fs::read_to_string(&certificate).unwrap();
    let roots = |name: &str, others: &str| {
        let path = directory.path(name);
        std::fs::write(&path, format!("{others}\n{own}")).unwrap();
        path
    };
    let amazon = roots("amazon.pem", AMAZON_ROOTS);
    let system = roots(
        "system.pem",
        &std::fs::read_to_string(SYSTEM_ROOTS).unwrap(),
    );
    let count = |variables: &[(&'static str, &String)]| {
        let mut environment = environment(&directory, &runtime, &queue);
        environment.extend(variables.iter().map(|it| (it.0, it.1.clone())));
        instructions(webhook, &environment, &called) as f64 / 1e6
    };
    let all = count(&[("SSL_CERT_FILE", &system)]);
    let few_of_many = count(&[("AWS_CA_BUNDLE", &amazon), ("SSL_CERT_FILE", &system)]);
    let few = count(&[("AWS_CA_BUNDLE", &amazon), ("SSL_CERT_FILE", &amazon)]);
    println!("to the first acknowledged call over TLS, in millions of instructions");
    println!("{all:>8.2}  the system's roots are read");
    println!("{few_of_many:>8.2}  Amazon's roots are read, the system's are within reach");
    println!("{few:>8.2}  Amazon's roots are read, and there are no others\n");
    println!(
        "{:>8.2}  the second by the third; at most 1.20",
        few_of_many / few
    );
}

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("scanhook-start-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn environment(directory: &Directory, runtime: &str, queue: &str) -> Environment {
    let config = directory.path("scanhook.yaml");
    std::fs::write(&config, CONFIG).unwrap();
    vec![
        ("AWS_LAMBDA_RUNTIME_API", runtime.to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", "webhook".to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_ENDPOINT_URL_SQS", queue.to_owned()),
        ("SCANHOOK_QUEUE_URL", format!("{queue}/000000000000/scans")),
        ("SCANHOOK_CONFIG", format!("file:{config}")),
        ("SECRET", "fake-secret-of-a-measurement".to_owned()),
    ]
}

/// Makes a certificate of this machine that is its own root.
fn make_certificate(certificate: &str, key: &str) {
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 -subj /CN=localhost \
                 -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    let output = Command::new("openssl")
        .args(words.split_whitespace())
        .args(["-keyout", key, "-out", certificate])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn server(certificate: &str, key: &str) -> ServerConfig {
    let certificates = CertificateDer::pem_file_iter(certificate).unwrap();
    let certificates = certificates.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap()
}

/// The instructions of a program to its first call of `/next`, and until it is ended then.
fn instructions(program: &str, environment: &Environment, called: &Receiver<Instant>) -> u64 {
    let mut command = Command::new("valgrind");
    command
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            program,
        ])
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (*name, value)))
        .env("PATH", std::env::var("PATH").unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    called.recv_timeout(Duration::from_mins(2)).unwrap();
    // It counts until a signal that can be handled.
    let id = Pid::from_child(&child);
    kill_process(id, Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8(output.stdout).unwrap();
    assert_eq!(log, "", "the queue's answer came too late under valgrind");
    let text = String::from_utf8(output.stderr).unwrap();
    number_after(&text, "Collected :")
}

/// A percentile of the starts.
fn milliseconds(sorted: &[Duration], percent: usize) -> f64 {
    sorted[sorted.len() * percent / 100].as_secs_f64() * 1e3
}

/// Starts a program, waits for its first call of `/next`, and ends it.
fn start(program: &str, environment: &Environment, called: &Receiver<Instant>) -> Duration {
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
    serve(None, move |_: &mut dyn Write, request: &str| {
        if request.starts_with("GET /2018-06-01/runtime/invocation/next") {
            let _ = calls.send(Instant::now());
        }
    })
}

/// Answers a call of SQS.
fn acknowledge(stream: &mut dyn Write, _: &str) {
    let body = "{}";
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
    let _ = stream.write_all(answer.as_bytes());
}

/// Serves one connection at a time, because a measured program has only one. Returns host and port.
fn serve(
    tls: Option<Arc<ServerConfig>>,
    answer: impl Fn(&mut dyn Write, &str) + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            match &tls {
                Some(tls) => {
                    let session = ServerConnection::new(Arc::clone(tls)).unwrap();
                    converse(StreamOwned::new(session, stream), &answer);
                }
                None => converse(stream, &answer),
            }
        }
    });
    address
}

/// Reads requests from a connection until it ends. Each head fits into one read; a body may follow.
fn converse(mut stream: impl Read + Write, answer: impl Fn(&mut dyn Write, &str)) {
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
            answer(&mut stream, head);
            request.clear();
        }
    }
}
