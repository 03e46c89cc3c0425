//! The test world: a data directory with a configuration, a `scanhook serve` on it, and ways to send to it and to inspect it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};
use scanhook_config::config::Config;
use scanhook_core::auth::{Credential, Presented};
use scanhook_core::image::{Digest, Image, Pin};
use scanhook_core::kinds::SamplePush;
use scanhook_emulator::sqs::{Peeked, Store};
use scanhook_worker::clock::Clock;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tempfile::TempDir;

use crate::registry;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_scanhook");

/// The timeout of every wait, generous enough for a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// Several sources, each with another type of credential. Failures are retried soon and rarely.
pub(crate) const YAML: &str = r#"
sources:
  harbor: { kind: harbor, registry: harbor.example.com, auth: [{ type: token, secret: "env:HARBOR" }] }
  hub: { kind: distribution, registry: hub.example.com, auth: [{ type: path_token, secret: "env:HUB" }] }
  ghcr: { kind: ghcr, auth: [{ type: hmac, secret: "env:GHCR" }] }
  registry: { kind: distribution, registry: registry.example.com, auth: [{ type: bearer, secret: "env:REGISTRY" }] }
  basic: { kind: harbor, registry: basic.example.com, auth: [{ type: basic, username: robot, secret: "env:BASIC" }] }
registries:
  harbor.example.com: { insecure: true, credentials: { type: basic, username: robot, password: "env:PASSWORD" } }
  "*.example.com": { insecure: true }
  ghcr.io: { insecure: true }
scanner: { api_url: "http://127.0.0.1:1", api_token: "env:SYSDIG", timeout: 1m, concurrency: 4 }
retry: { attempts: 4, base: 1s, cap: 1s }
"#;

/// A directory to run commands in. Everything that is started here ends with it.
pub(crate) struct Place {
    directory: TempDir,
    /// The environment of every command.
    pub(crate) environment: BTreeMap<String, String>,
    /// Whether commands run as `nobody`.
    is_unprivileged: bool,
    logs: AtomicU32,
}

impl Place {
    /// A place with [`YAML`] for its configuration.
    pub(crate) fn new() -> Self {
        Self::with(YAML)
    }

    pub(crate) fn with(yaml: &str) -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("scanhook.yaml"), yaml).unwrap();
        fs::create_dir(directory.path().join("bin")).unwrap();
        let cli = directory.path().join("bin/sysdig-cli-scanner");
        std::os::unix::fs::symlink(PROGRAM, cli).unwrap();
        let path = format!("{}:/usr/bin:/bin", directory.path().join("bin").display());
        let secrets = [
            "HARBOR", "HUB", "GHCR", "REGISTRY", "BASIC", "PASSWORD", "SYSDIG",
        ];
        let secrets = secrets.map(|it| (it.to_owned(), format!("fake-secret-of-{it}")));
        Self {
            directory,
            environment: secrets
                .into_iter()
                .chain([
                    ("PATH".to_owned(), path),
                    (
                        "http_proxy".to_owned(),
                        format!("http://{}", registry::address()),
                    ),
                    ("no_proxy".to_owned(), "127.0.0.1".to_owned()),
                ])
                .collect(),
            is_unprivileged: false,
            logs: AtomicU32::new(0),
        }
    }

    /// Makes commands run as `nobody`, who then owns all files here. Does nothing if the tests have no privileges to drop.
    pub(crate) fn become_unprivileged(&mut self) {
        if !geteuid().is_root() {
            return;
        }
        let mut chown = Command::new("chown");
        chown.args(["-R", "65534:65534"]).arg(self.directory.path());
        assert!(chown.status().unwrap().success());
        self.is_unprivileged = true;
    }

    /// Makes commands use the endpoint of a server as SQS.
    pub(crate) fn use_sqs(&mut self, endpoint: SocketAddr) {
        for (name, value) in [
            ("AWS_ENDPOINT_URL_SQS", format!("http://{endpoint}")),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "fake".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "fake".to_owned()),
        ] {
            self.environment.insert(name.to_owned(), value);
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The default data directory of `serve`.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path(".scanhook")
    }

    /// A command to start. It doesn't inherit the tests' environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env_clear()
            .envs(&self.environment)
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        if self.is_unprivileged {
            command.uid(65534).gid(65534);
        }
        command
    }

    /// Runs a command until it exits.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::new(self.command(arguments).output().unwrap())
    }

    /// Starts `serve` on free ports, and waits until it receives deliveries.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Serve {
        let mut serve = self.start(arguments);
        serve.wait_until_ready();
        serve
    }

    /// Starts `work` on the embedded queue of another server, and waits until it is up.
    pub(crate) fn work(&self, queue: SocketAddr, arguments: &[&str]) -> Serve {
        let url = format!("--queue-url=http://{queue}/000000000000/scanhook");
        let arguments: Vec<_> = std::iter::once(url.as_str())
            .chain(arguments.iter().copied())
            .collect();
        let mut work = self.begin("work", &["--listen"], &arguments);
        work.address = wait_for("the notice of work", || {
            if let Some(status) = work.child.try_wait().unwrap() {
                panic!("work ended with {status}: {}", work.stderr());
            }
            between(&work.stderr(), "metrics are at http://", "/readyz")
        });
        work
    }

    /// Starts `serve` on free ports.
    pub(crate) fn start(&self, arguments: &[&str]) -> Serve {
        self.begin("serve", &["--listen", "--sqs-listen"], arguments)
    }

    fn begin(&self, name: &str, flags: &[&str], arguments: &[&str]) -> Serve {
        let number = self.logs.fetch_add(1, Ordering::Relaxed);
        let (stdout, stderr) = (
            self.path(&format!("stdout-{number}")),
            self.path(&format!("stderr-{number}")),
        );
        let mut command = self.command(&[name]);
        for flag in flags {
            if !arguments.iter().any(|it| it.starts_with(flag)) {
                command.arg(format!("{flag}=127.0.0.1:0"));
            }
        }
        let child = command
            .args(arguments)
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        let nowhere = ([127, 0, 0, 1], 0).into();
        Serve {
            child,
            stdout,
            stderr,
            address: nowhere,
            sqs_address: nowhere,
            root: self.directory.path().into(),
        }
    }

    /// A push of `image` as the registry of `source` reports it, with a valid credential. An image without a digest gets the digest
    /// of its tag.
    pub(crate) fn delivery(&self, source: &str, image: &str) -> Delivery {
        let config = fs::read_to_string(self.path("scanhook.yaml")).unwrap();
        let config = Config::parse(&config).unwrap();
        let source = &config.sources[source];
        let auth = &source.auth[0];
        let (scheme, reference) = auth.shared().unwrap();
        let reference = reference.to_string();
        let secret = &self.environment[reference.strip_prefix("env:").unwrap()];
        let credential = Credential {
            scheme: scheme.clone(),
            secret: SecretString::from(secret.clone()),
        };
        let mut image = Image::parse(image).unwrap();
        if let Pin::Tag(tag) = image.pin {
            let digest = registry::digest_of_tag(image.repository.as_str(), tag.as_str());
            image.pin = Pin::TagAndDigest(tag, Digest::parse(&digest).unwrap());
        }
        let push = SamplePush {
            image: &image,
            id: "1",
            at: jiff::Timestamp::now(),
        };
        let sample = (source.source.kind.sample)(&push);
        let mut delivery = Delivery {
            path: format!("/webhooks/{}", source.source.name),
            headers: String::new(),
            body: sample.body,
        };
        for (name, value) in sample.headers {
            delivery.add_header(name.as_str(), &value);
        }
        match credential.present(&delivery.body).unwrap() {
            Presented::Header(name, value) => {
                delivery.add_header(name.as_str(), value.to_str().unwrap());
            }
            Presented::PathSegment(token) => {
                delivery.path = format!("{}/{}", delivery.path, token.expose_secret());
            }
        }
        delivery
    }

    /// The ledger, as `scans list` shows it.
    pub(crate) fn scans(&self) -> Vec<Value> {
        let ran = self.run(&["scans", "list", "--output=json", "--limit=1000000"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// The record of a scan, once it has a verdict or is a dead letter.
    pub(crate) fn settled(&self, scan_id: &str) -> Value {
        wait_for("a verdict or a dead letter", || {
            let mut scans = self.scans().into_iter();
            scans.find(|it| it["scan_id"] == scan_id && is_settled(it))
        })
    }

    /// The messages in a queue of a stopped server.
    pub(crate) fn messages(&self, queue: &str) -> Vec<Peeked> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = Store::open(&self.data_dir().join("queue.sqlite"), Clock::System).unwrap();
            store
                .peek(queue, usize::MAX, Box::new(|_| true))
                .await
                .unwrap()
        })
    }

    /// The processes of the CLI that were started from this place.
    pub(crate) fn cli_processes(&self) -> Vec<CliProcess> {
        cli_processes(self.directory.path())
    }

    /// Waits until the CLI runs for a scan.
    pub(crate) fn cli_on(&self, scan_id: &str) -> CliProcess {
        wait_for("the CLI", || {
            let mut processes = self.cli_processes().into_iter();
            processes.find(|it| it.home.to_str().unwrap().contains(scan_id))
        })
    }

    /// Waits until the CLI of a scan hangs and ignores SIGTERM.
    pub(crate) fn cli_ignoring_term_on(&self, scan_id: &str) -> CliProcess {
        wait_for("the CLI that hangs", || {
            Some(self.cli_on(scan_id)).filter(|it| it.arguments == ["sleep", "3600"])
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let directory = std::mem::replace(&mut self.directory, TempDir::new().unwrap());
            eprintln!("left for a look: {}", directory.keep().display());
        }
    }
}

/// Whether a scan has its final state.
pub(crate) fn is_settled(record: &Value) -> bool {
    record["state"] == "done" || record["state"] == "dead_letter"
}

/// A different digest for each number.
pub(crate) fn digest(number: u64) -> String {
    registry::digest_of(&number.to_string())
}

/// Polls until there is a result.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The result of a command.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A `scanhook serve`. Dropping it kills it, with everything that it has started.
pub(crate) struct Serve {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) sqs_address: SocketAddr,
    root: PathBuf,
}

impl Serve {
    /// Waits for the notice with the addresses.
    pub(crate) fn wait_until_ready(&mut self) {
        let (address, sqs_address) = wait_for("the notice of serve", || {
            let notice = self.stderr();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!(
                    "serve ended with {status}: {}{}",
                    self.stdout(),
                    self.stderr()
                );
            }
            let address = between(&notice, "deliveries at http://", "/webhooks/SOURCE\n")?;
            Some((
                address,
                between(&notice, "AWS_ENDPOINT_URL_SQS=http://", "\n")?,
            ))
        });
        (self.address, self.sqs_address) = (address, sqs_address);
    }

    /// The address of `--health-listen`, from its notice.
    pub(crate) fn health_address(&self) -> SocketAddr {
        wait_for("the address for probes", || {
            between(&self.stderr(), "probes are answered at http://", "/healthz")
        })
    }

    /// The counted refusals of a source for a reason. Checks that each has a line in the log.
    pub(crate) fn refused(&self, source: &str, reason: &str) -> usize {
        let series = format!(
            r#"scanhook_webhook_events_received_total{{source="{source}",outcome="refused",reason="{reason}"}} "#
        );
        let metrics = self.get("/metrics").body;
        let count = metrics.lines().find_map(|it| it.strip_prefix(&series));
        let log = self.log();
        let logged = log.iter().filter(|it| {
            it["event"] == "delivery.refused"
                && it["reason"] == reason
                && it["source"].as_str().unwrap_or("-") == source
        });
        let logged = logged.count();
        assert_eq!(count.unwrap_or("0"), logged.to_string(), "{metrics}");
        logged
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// The log lines.
    pub(crate) fn log(&self) -> Vec<Value> {
        let stdout = self.stdout();
        stdout
            .lines()
            .map(|it| serde_json::from_str(it).unwrap())
            .collect()
    }

    pub(crate) fn send(&self, delivery: &Delivery) -> Answer {
        delivery.send_to(self.address).unwrap()
    }

    /// Sends a delivery of one image, which must be accepted. Returns the scan's id.
    pub(crate) fn queue(&self, delivery: &Delivery) -> String {
        let answer = self.send(delivery);
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.scan_id()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        exchange(
            self.address,
            &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
            b"",
        )
        .unwrap()
    }

    /// Calls the SQS endpoint, as the SDKs do.
    pub(crate) fn sqs(&self, action: &str, body: &str) -> Value {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/x-amz-json-1.0\r\n\
             X-Amz-Target: AmazonSQS.{action}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let answer = exchange(self.sqs_address, &head, body.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Its exit status, once it has exited.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it exits. Returns its status and how long that took.
    pub(crate) fn wait(&mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        let status = wait_for("the end of serve", || self.ended());
        (status, asked.elapsed())
    }

    /// Stops it gracefully.
    pub(crate) fn stop(mut self) -> Duration {
        self.signal(Signal::TERM);
        let (status, took) = self.wait();
        assert_eq!(status.code(), Some(0), "{}", self.stderr());
        took
    }

    /// Kills it, to simulate a power cut.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A value of `/proc/PID/status`, in KiB.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|it| it.strip_prefix(name)?.strip_prefix(':'))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in cli_processes(&self.root) {
            let _ = kill_process_group(process.pid, Signal::KILL);
            let _ = kill_process(process.pid, Signal::KILL);
        }
    }
}

fn between<T: std::str::FromStr>(text: &str, before: &str, after: &str) -> Option<T> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after)?.0.parse().ok()
}

/// A request to the webhook.
#[derive(Clone)]
pub(crate) struct Delivery {
    pub(crate) path: String,
    /// Each ends with a line break.
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

impl Delivery {
    pub(crate) fn add_header(&mut self, name: &str, value: &str) {
        self.headers.extend([name, ": ", value, "\r\n"]);
    }

    /// The request line and the headers.
    pub(crate) fn head(&self) -> String {
        let (path, headers, length) = (&self.path, &self.headers, self.body.len());
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
        )
    }

    pub(crate) fn send_to(&self, address: SocketAddr) -> std::io::Result<Answer> {
        exchange(address, &self.head(), &self.body)
    }
}

/// The server's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The id of the only queued scan.
    pub(crate) fn scan_id(&self) -> String {
        let answer: Value = serde_json::from_str(&self.body).unwrap();
        answer["queued"][0]["scan_id"].as_str().unwrap().to_owned()
    }
}

/// Sends one request on its own connection. A truncated answer is an error.
pub(crate) fn exchange(address: SocketAddr, head: &str, body: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    read_answer(&mut stream)
}

pub(crate) fn read_answer(stream: &mut TcpStream) -> std::io::Result<Answer> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let cut_off = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut_off)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|it| it.parse().ok())
        .ok_or_else(cut_off)?;
    let length = head
        .lines()
        .find_map(|it| it.strip_prefix("content-length: ")?.parse().ok());
    if length.is_some_and(|it: usize| body.len() < it) {
        return Err(cut_off());
    }
    Ok(Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// A process with its home directory in a place: the CLI, or a child of it.
#[derive(Debug, Clone)]
pub(crate) struct CliProcess {
    pub(crate) pid: Pid,
    pub(crate) home: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
}

fn cli_processes(root: &Path) -> Vec<CliProcess> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let processes = entries.filter_map(|entry| {
        let pid = entry
            .file_name()
            .to_str()?
            .parse()
            .ok()
            .and_then(Pid::from_raw)?;
        let words = |file: &str| -> Option<Vec<String>> {
            let bytes = fs::read(entry.path().join(file)).ok()?;
            Some(
                bytes
                    .split(|it| *it == 0)
                    .filter(|it| !it.is_empty())
                    .map(|it| String::from_utf8_lossy(it).into_owned())
                    .collect(),
            )
        };
        let environment: BTreeMap<_, _> = words("environ")?
            .iter()
            .filter_map(|it| it.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let home = PathBuf::from(environment.get("HOME")?);
        Some(CliProcess {
            pid,
            home,
            arguments: words("cmdline")?,
            environment,
        })
    });
    let is_cli = |process: &CliProcess| {
        let is_supervisor = process
            .arguments
            .first()
            .is_some_and(|it| it == "scanhook-supervisor");
        process.home.starts_with(root) && !is_supervisor
    };
    processes.filter(is_cli).collect()
}
