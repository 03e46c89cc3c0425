//! A queue with its dead-letter queue on a socket, a scanner that works on it with the stand-in CLI, and the clock that
//! all of it runs on.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::types::{Message, QueueAttributeName};
use jiff::Timestamp;
use scanhook_config::Environment;
use scanhook_config::config::Config;
use scanhook_config::secrets::Secrets;
use scanhook_core::image::Image;
use scanhook_core::login::RegistryLogin;
use scanhook_core::record::ScanRecord;
use scanhook_core::tools::sysdig::TOOL;
use scanhook_core::tools::{Backend, Run, ScanInputs};
use scanhook_emulator::faults::Faults;
use scanhook_emulator::sqs::{self, Peeked, Store};
use scanhook_registry::{Dns, RegistryDeps, Sdk};
use scanhook_scanner::batch;
use scanhook_scanner::cli::{Confinement, FreeSpace, Slots};
use scanhook_scanner::scanner::{Parts, Scanner};
use scanhook_worker::clock::{Clock, ManualClock};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::ledger::MemoryLedger;
use crate::registry::{Answer, FakeRegistry};

pub(crate) const TOKEN: &str = "fake-canary-token-9f1c";
pub(crate) const PASSWORD: &str = "fake-registry-password";
pub(crate) const REGISTRY: &str = "registry.example.com";
/// The digest of [`MANIFEST`].
pub(crate) const DIGEST: &str =
    "sha256:018f6ee9dfb109bc977f6e145b79bf5896a01d49902be7adc8837c80bb811ecd";

/// What the registry of a world without others has under every name.
const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0","size":7},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a","size":1000}]}"#;

/// How long an invocation lasts.
pub(crate) const INVOCATION: Duration = Duration::from_mins(15);

pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) store: Store,
    pub(crate) client: Client,
    pub(crate) ledger: MemoryLedger,
    pub(crate) scanner: Arc<Scanner>,
    pub(crate) directory: TempDir,
    pub(crate) queue_url: String,
    server: JoinHandle<()>,
    _registry: Option<FakeRegistry>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The executable that the example of this name is built to.
pub(crate) fn stand_in() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().unwrap().parent().unwrap();
    let program = target.join("examples").join("stand-in");
    assert!(
        program.is_file(),
        "no stand-in at {}: run all of `cargo test -p scanhook-scanner`",
        program.display()
    );
    program
}

/// The function's own program, which is a supervisor by another name.
pub(crate) fn supervisor() -> PathBuf {
    env!("CARGO_BIN_EXE_scanner").into()
}

/// What the CLI is kept from, as in the function itself, by whose program it is supervised.
pub(crate) async fn confinement() -> Confinement {
    Confinement::by(&supervisor(), Vec::new()).await
}

/// A script of ours in the place of the CLI.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with("30s", &stand_in()).await
    }

    pub(crate) async fn with(timeout: &str, program: &Path) -> Self {
        Self::set_up(Setup {
            timeout,
            program,
            ..Setup::default()
        })
        .await
    }

    pub(crate) async fn set_up(setup: Setup<'_>) -> Self {
        Box::pin(Self::prepared(setup)).await
    }

    async fn prepared(mut setup: Setup<'_>) -> Self {
        let mut registry = None;
        if setup.hosts.is_empty() {
            let headers = vec![("docker-content-digest", DIGEST.to_owned())];
            let answer = Answer::Full(200, headers, MANIFEST.as_bytes().to_vec());
            let started = FakeRegistry::start(move |_| answer.clone()).await;
            setup.hosts.push((REGISTRY, started.address));
            registry = Some(started);
        }
        let directory = TempDir::new().unwrap();
        let clock = ManualClock::at("2026-11-21T20:00:00Z".parse().unwrap());
        let store = Store::open(
            &directory.path().join("queues.db"),
            Clock::Manual(clock.clone()),
        )
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(&format!("http://{}", listener.local_addr().unwrap()));
        let faults = if setup.throttle > 0.0 {
            Faults::new(setup.throttle, Duration::ZERO, 7)
        } else {
            Faults::none()
        };
        let endpoint = sqs::Endpoint::new(store.clone(), faults);
        let server = tokio::spawn(endpoint.serve(listener, std::future::pending()));
        let dead_letter_url = create_queue(&client, "dlq", &[]).await;
        let policy = json!({ "deadLetterTargetArn": sqs::queue_arn(sqs::REGION, "dlq"), "maxReceiveCount": 10 });
        let attributes = [("RedrivePolicy", policy.to_string())];
        let queue_url = create_queue(&client, "scans", &attributes).await;
        let ledger = MemoryLedger::default();
        let token = directory.path().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        let config = Arc::new(Config::parse(&setup.yaml(&token)).unwrap());
        let environment = environment(&setup.environment);
        let deps = RegistryDeps {
            dns: dns(&setup.hosts),
            sdk: setup.sdk,
            now: {
                let clock = clock.clone();
                Arc::new(move || clock.now())
            },
        };
        let slots = Slots::open(&directory.path().join("scratch"), 1).unwrap();
        let parts = Parts {
            secrets: Secrets::local(&environment),
            environment,
            sqs: client.clone(),
            queue_url: queue_url.clone(),
            dead_letter_url,
            tool: &TOOL,
            program: setup.program.to_owned(),
            confinement: if setup.is_unconfined {
                Confinement::default()
            } else {
                confinement().await
            },
            slots: match setup.free_space {
                Some(free_space) => slots.with_free_space(free_space),
                None => slots,
            },
        };
        let scanner = Scanner::open(&parts, config, Arc::new(ledger.clone()), deps).await;
        Self {
            clock,
            store,
            client,
            ledger,
            scanner: Arc::new(scanner.unwrap()),
            directory,
            queue_url,
            server,
            _registry: registry,
        }
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.directory.path().join("scratch")
    }

    /// Sends bodies to the queue and receives them all, as the mapping does.
    pub(crate) async fn receive(&self, bodies: &[&str]) -> Value {
        for body in bodies {
            let call = self.client.send_message().queue_url(&self.queue_url);
            call.message_body(*body).send().await.unwrap();
        }
        self.receive_again().await
    }

    /// Sends a body; tells whether the queue took it.
    pub(crate) async fn send(&self, body: &str) -> bool {
        let call = self.client.send_message().queue_url(&self.queue_url);
        call.message_body(body).send().await.is_ok()
    }

    /// Deletes a record, as the mapping does when it was not reported failed, however often the queue has to be told.
    pub(crate) async fn delete(&self, record: &Value) {
        let receipt = record["receiptHandle"].as_str().unwrap();
        let call = || self.client.delete_message().queue_url(&self.queue_url);
        while call().receipt_handle(receipt).send().await.is_err() {}
    }

    /// Receives what is visible, if the queue answers.
    pub(crate) async fn receive_if_any(&self) -> Value {
        let call = self.client.receive_message().queue_url(&self.queue_url);
        let call = call
            .max_number_of_messages(10)
            .visibility_timeout(30)
            .message_system_attribute_names("All".into());
        let messages = call.send().await.ok().and_then(|it| it.messages);
        let messages = messages.unwrap_or_default();
        json!({ "Records": messages.into_iter().map(record).collect::<Vec<_>>() })
    }

    /// Receives what is visible.
    pub(crate) async fn receive_again(&self) -> Value {
        let call = self.client.receive_message().queue_url(&self.queue_url);
        let call = call
            .max_number_of_messages(10)
            .visibility_timeout(30)
            .message_system_attribute_names("All".into());
        let messages = call.send().await.unwrap().messages.unwrap_or_default();
        json!({ "Records": messages.into_iter().map(record).collect::<Vec<_>>() })
    }

    /// Hands an event to the scanner, with a whole invocation's time.
    pub(crate) async fn handle(&self, event: &Value) -> SqsBatchResponse {
        let deadline = self.clock.now() + INVOCATION;
        self.handle_until(event, deadline).await
    }

    pub(crate) async fn handle_until(
        &self,
        event: &Value,
        deadline: Timestamp,
    ) -> SqsBatchResponse {
        let event: SqsEvent = serde_json::from_value(event.clone()).unwrap();
        batch::handle(&self.scanner, event, deadline).await
    }

    /// Runs the CLI by itself, as the handler does.
    pub(crate) async fn run(&self, behaviour: &str) -> Run {
        let image = format!("{REGISTRY}/demo/{behaviour}:1.0@{DIGEST}");
        let inputs = ScanInputs {
            image: Image::parse(&image).unwrap(),
            backend: Some(Backend {
                url: "https://secure.sysdig.com".to_owned(),
                token: TOKEN.into(),
            }),
            policies: Vec::new(),
            login: Some(RegistryLogin {
                username: "robot".to_owned(),
                password: PASSWORD.into(),
            }),
            certificates: None,
        };
        let mut slot = self.scanner.slots.lease().await;
        let (scan_id, limit) = (scan_id_of(behaviour), Duration::from_mins(1));
        let run = self.scanner.cli.run(&inputs, &scan_id, &mut slot, limit);
        run.await.unwrap()
    }

    pub(crate) async fn dead_letters(&self) -> Vec<Peeked> {
        self.peek("dlq").await
    }

    pub(crate) async fn peek(&self, queue: &str) -> Vec<Peeked> {
        self.store
            .peek(queue, 10_000, Box::new(|_| true))
            .await
            .unwrap()
    }

    /// For how many seconds the only message of the queue stays hidden.
    pub(crate) async fn hidden_for(&self) -> i64 {
        let [message] = self.peek("scans").await.try_into().unwrap();
        (message.visible_at.as_millisecond() - self.clock.now().as_millisecond()) / 1000
    }

    pub(crate) fn record(&self, scan_id: &str) -> Option<ScanRecord> {
        let state = self.ledger.0.lock().unwrap();
        let mut records = state.records.values();
        records.find(|it| it.scan_id.as_str() == scan_id).cloned()
    }

    /// What came of each platform of a scan: platform, the start of its digest and its verdict.
    pub(crate) fn platforms(&self, scan_id: &str) -> Vec<String> {
        let state = self.ledger.0.lock().unwrap();
        let records = state
            .records
            .values()
            .filter(|it| it.scan_id.as_str() == scan_id);
        let records = records.map(|it| {
            let platform = it.platform.as_ref().map_or("-", |it| it.as_str());
            let digest = it.digest.as_ref().map_or("", |it| it.parts().1);
            format!("{platform} {digest:.8} {}", verdict(it))
        });
        records.collect()
    }

    /// Sends a message, handles it on that receive, and says in a few words what became of it.
    pub(crate) async fn outcome(&self, body: &str, receive: u32) -> String {
        let mut event = self.receive(&[body]).await;
        received(&mut event, receive);
        let response = self.handle(&event).await;
        self.describe(&event, &response).await
    }

    pub(crate) async fn describe(&self, event: &Value, response: &SqsBatchResponse) -> String {
        let is_failed = match response.batch_item_failures.as_slice() {
            [] => false,
            [failure] => failure.item_identifier == event["Records"][0]["messageId"],
            more => panic!("{more:?}"),
        };
        let body = event["Records"][0]["body"].as_str().unwrap_or_default();
        let message: Value = serde_json::from_str(body).unwrap_or_default();
        let record = message["scan_id"].as_str().and_then(|it| self.record(it));
        let dead_letters = self.dead_letters().await;
        let dead = dead_letters.last();
        match (is_failed, dead, record) {
            (true, None, Some(record)) => {
                format!("retried: {}", record.reason.unwrap())
            }
            (true, None, None) => "retried".to_owned(),
            (false, Some(letter), _) => {
                format!("dead letter: {}", letter.attributes["scanhook.reason"])
            }
            (false, None, Some(record)) => verdict(&record),
            (failed, dead, record) => panic!("{failed} {dead:?} {record:?}"),
        }
    }
}

fn verdict(record: &ScanRecord) -> String {
    let mut words = vec![record.verdict.as_ref().unwrap().to_string()];
    words.extend(record.reason.as_ref().map(ToString::to_string));
    if let Some(findings) = record.findings {
        let found = [
            findings.critical,
            findings.high,
            findings.medium,
            findings.low,
            findings.negligible,
        ];
        words.push(format!("{found:?}"));
    }
    if let Some(identity) = record.identity {
        words.push(format!("{identity:?}").to_lowercase());
    }
    words.join(" ")
}

pub(crate) fn scan_id_of(text: &str) -> scanhook_core::message::ScanId {
    text.to_owned().try_into().unwrap()
}

async fn create_queue(client: &Client, name: &str, attributes: &[(&str, String)]) -> String {
    let mut call = client.create_queue().queue_name(name);
    for (name, value) in attributes {
        call = call.attributes(QueueAttributeName::from(*name), value);
    }
    call.send().await.unwrap().queue_url.unwrap()
}

fn client(base: &str) -> Client {
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(sqs::REGION))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(base)
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(1)))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

/// What a world is made of. Without hosts there is a registry that holds an image under every name.
pub(crate) struct Setup<'a> {
    pub(crate) timeout: &'a str,
    pub(crate) program: &'a Path,
    /// Lines of source `prod`.
    pub(crate) source: &'a str,
    /// The lines of `registries`.
    pub(crate) registries: String,
    /// Lines of `scanner`.
    pub(crate) scanner: &'a str,
    /// Which names there are.
    pub(crate) hosts: Vec<(&'a str, SocketAddr)>,
    /// Variables besides the registry's password.
    pub(crate) environment: Vec<(&'a str, String)>,
    pub(crate) sdk: Sdk,
    /// Which share of the queue's answers are errors.
    pub(crate) throttle: f64,
    /// How much space is free; else as the disk has it.
    pub(crate) free_space: Option<FreeSpace>,
    /// Whether the CLI runs without a supervisor, as where there can be none.
    pub(crate) is_unconfined: bool,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        static STAND_IN: LazyLock<PathBuf> = LazyLock::new(stand_in);
        Self {
            timeout: "30s",
            program: &STAND_IN,
            source: "",
            registries: format!(
                "  {REGISTRY}: {{ insecure: true, credentials: {{ type: basic, username: robot, password: \"env:PASSWORD\" }} }}"
            ),
            scanner: "",
            hosts: Vec::new(),
            environment: Vec::new(),
            sdk: Sdk::default(),
            is_unconfined: false,
            throttle: 0.0,
            free_space: None,
        }
    }
}

impl Setup<'_> {
    fn yaml(&self, token: &Path) -> String {
        format!(
            r#"
sources:
  prod:
    kind: harbor
    registry: {REGISTRY}
    auth: [{{ type: token, secret: "env:NOT_READ_HERE" }}]
    policies: [of-source]
    {}
registries:
{}
scanner:
  api_token: "file:{}"
  policies: [of-all]
  timeout: {}
  {}
"#,
            self.source,
            self.registries,
            token.display(),
            self.timeout,
            self.scanner,
        )
    }
}

fn environment(variables: &[(&str, String)]) -> Environment {
    let mut variables: HashMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    variables.insert("PASSWORD".to_owned(), PASSWORD.to_owned());
    variables.insert("PATH".to_owned(), "/usr/bin:/bin".to_owned());
    Arc::new(move |name| variables.get(name).cloned())
}

/// Resolves these names, with their ports, and no others.
fn dns(hosts: &[(&str, SocketAddr)]) -> Dns {
    let hosts: HashMap<String, SocketAddr> = hosts
        .iter()
        .map(|(name, address)| ((*name).to_owned(), *address))
        .collect();
    Arc::new(move |name| {
        let found = hosts.get(&name).map(|it| vec![*it]);
        let no_such_host = || io::Error::new(io::ErrorKind::NotFound, "no such host");
        Box::pin(std::future::ready(found.ok_or_else(no_such_host)))
    })
}

/// A message of source `prod` that asks for a behaviour of the stand-in, under the id of the same name.
pub(crate) fn message(behaviour: &str) -> String {
    message_for(behaviour, &format!("demo/{behaviour}")).to_string()
}

pub(crate) fn message_for(scan_id: &str, repository: &str) -> Value {
    json!({
        "version": 1,
        "scan_id": scan_id,
        "source": "prod",
        "image": { "registry": REGISTRY, "repository": repository, "tag": "1.0", "digest": DIGEST },
        "event": {
            "id": null, "type": "PUSH_ARTIFACT", "actor": "ci", "occurred_at": null,
            "received_at": "2026-11-21T19:59:58Z",
        },
        "force": false,
    })
}

/// A message as Lambda hands it over.
fn record(message: Message) -> Value {
    let attributes = message.attributes.unwrap_or_default();
    let attributes = attributes
        .into_iter()
        .map(|(name, value)| (name.as_str().to_owned(), Value::from(value)));
    json!({
        "messageId": message.message_id,
        "receiptHandle": message.receipt_handle,
        "body": message.body,
        "attributes": attributes.collect::<serde_json::Map<_, _>>(),
    })
}

/// Makes every record of an event one that is received for the `count`th time.
pub(crate) fn received(event: &mut Value, count: u32) {
    for record in event["Records"].as_array_mut().unwrap() {
        record["attributes"]["ApproximateReceiveCount"] = count.to_string().into();
    }
}
