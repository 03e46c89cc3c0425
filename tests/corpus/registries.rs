//! Every sample of a kind there is, authenticated as its registry would and sent through the router.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use scanhook_config::Environment;
use scanhook_config::config::Config;
use scanhook_config::secrets::Secrets;
use scanhook_core::auth::{Credential, Presented};
use scanhook_core::image::{Digest, Registry};
use scanhook_core::kinds::{self, Kind};
use scanhook_core::message::QueueMessage;
use scanhook_emulator::sqs::{Recorder, client_settings};
use scanhook_webhook::config::webhook;
use scanhook_webhook::queue::Queue;
use scanhook_webhook::router::router;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{corpus, files, read_json};

const SECRET: &str = "fake-secret-of-the-corpus";

/// Where the payload names no host, or an expectation none. A source of kind `ecr` needs a registry of its kind.
fn some_registry(kind: &Kind) -> &str {
    if kind.name == "ecr" {
        kind.example_registry
    } else {
        "registry.example.com"
    }
}

#[derive(Deserialize)]
struct Expectation {
    #[serde(flatten)]
    outcome: Outcome,
    alt: Option<Outcome>,
    #[serde(default)]
    flags: Vec<String>,
}

#[derive(Deserialize, Clone, Debug)]
struct Outcome {
    outcome: String,
    #[serde(default)]
    images: Vec<ExpectedImage>,
}

#[derive(Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ExpectedImage {
    registry: Option<String>,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Expectation {
    /// Every outcome that is right.
    fn outcomes(self) -> Vec<Outcome> {
        let has_placeholder = self.flags.iter().any(|it| it == "placeholder-digest");
        let mut outcomes: Vec<_> = [self.outcome].into_iter().chain(self.alt).collect();
        if has_placeholder {
            for image in outcomes.iter_mut().flat_map(|it| &mut it.images) {
                image.digest = image.digest.take().filter(|it| Digest::parse(it).is_ok());
            }
            outcomes.push(Outcome {
                outcome: "reject".to_owned(),
                images: Vec::new(),
            });
        }
        outcomes
    }
}

#[tokio::test]
async fn every_sample_of_each_kind_is_answered_rightly() {
    let folders: BTreeMap<String, String> = read_json(&corpus("registries/kinds.json"));
    let mut table = String::new();
    let mut totals = BTreeMap::<&str, (usize, usize)>::new();
    let mut wrong = Vec::new();
    for (folder, kind) in folders {
        let Some(kind) = kinds::find(&kind) else {
            continue;
        };
        let samples = files(&corpus("registries").join(&folder), ".expect.json");
        assert!(!samples.is_empty(), "{folder} is empty");
        let mut right = 0;
        for expectation in &samples {
            match check(kind, expectation).await {
                Ok(()) => right += 1,
                Err(problem) => wrong.push(format!("{}: {problem}", expectation.display())),
            }
        }
        let _ = writeln!(table, "{folder:<20} {right}/{}", samples.len());
        let total = totals.entry(kind.name).or_default();
        *total = (total.0 + right, total.1 + samples.len());
    }
    println!("\n{table}");
    summary(&totals);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Prints what is shown of each kind, as `tests/table` puts it into docs/registries/README.md. The samples count right and
/// in all.
fn summary(samples: &BTreeMap<&str, (usize, usize)>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fuzzed = std::fs::read_to_string(root.join("../fuzz/executions.tsv")).unwrap_or_default();
    println!(
        "| kind | our cases | real samples right | credentials | envelopes | fuzzed without a crash |"
    );
    println!("|---|---|---|---|---|---|");
    for kind in kinds::ALL {
        let cases = files(&root.join("conformance").join(kind.name), ".json").len();
        let (right, all) = samples.get(kind.name).copied().unwrap_or_default();
        let start = format!("parsers\t{}\t", kind.name);
        let executions = fuzzed.lines().find_map(|it| it.strip_prefix(&start));
        let executions = executions
            .and_then(|it| it.split('\t').next())
            .unwrap_or("-");
        let (auth, envelopes) = (kind.auth.join("`, `"), kind.envelopes.join("; "));
        println!(
            "| `{}` | {cases} | {right} of {all} | `{auth}` | {envelopes} | {executions} |",
            kind.name
        );
    }
}

/// Compares one sample with each outcome that is right for it.
async fn check(kind: &'static Kind, expectation: &Path) -> Result<(), String> {
    let path = expectation.to_string_lossy();
    let stem = path.strip_suffix(".expect.json").unwrap();
    let body = std::fs::read(format!("{stem}.json")).unwrap();
    let headers = std::fs::read_to_string(format!("{stem}.headers")).unwrap_or_default();
    let outcomes = read_json::<Expectation>(expectation).outcomes();
    let payload = if kind.name == "generic" {
        documented_payload(expectation)
    } else {
        String::new()
    };
    let mut seen = Vec::new();
    for outcome in &outcomes {
        let registries: BTreeSet<_> = outcome.images.iter().map(|it| &it.registry).collect();
        assert!(registries.len() <= 1, "one source has one registry");
        let registry = registries.into_iter().flatten().next();
        // What is ignored must be so for what it is, not for its host: then every host in the body is the source's.
        let hosts = if outcome.images.is_empty() {
            hosts(&body)
        } else {
            BTreeSet::new()
        };
        let registry = registry.map_or(some_registry(kind), String::as_str);
        let told = deliver(kind, registry, &hosts, &payload, &headers, &body).await;
        let mut images = outcome.images.clone();
        for image in &mut images {
            image.registry.get_or_insert_with(|| registry.to_owned());
        }
        images.sort();
        let expected = match outcome.outcome.as_str() {
            "scan" => (StatusCode::ACCEPTED, images),
            "ignore" => (StatusCode::OK, images),
            "reject" => (StatusCode::BAD_REQUEST, images),
            other => panic!("{other} is no outcome"),
        };
        if told == expected {
            return Ok(());
        }
        seen.push(told);
    }
    Err(format!("{seen:?} is none of {outcomes:?}"))
}

/// The map that the documentation offers for the sender whose folder this sample lies in.
fn documented_payload(sample: &Path) -> String {
    let sender = sample
        .parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap();
    let page =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/registries/{sender}.md"));
    let page =
        std::fs::read_to_string(&page).unwrap_or_else(|err| panic!("{}: {err}", page.display()));
    let (_, payload) = page
        .split_once("    payload:\n")
        .expect("the page has a map");
    let (payload, _) = payload.split_once("```").expect("the map ends");
    format!("    payload:\n{payload}")
}

/// Every host that a payload names anywhere.
fn hosts(body: &[u8]) -> BTreeSet<String> {
    fn collect(value: &Value, hosts: &mut BTreeSet<String>) {
        match value {
            Value::String(text) => {
                let text = text
                    .split_once("://")
                    .map_or(text.as_str(), |(_, rest)| rest);
                let host = text.split('/').next().unwrap_or_default();
                hosts.extend(Registry::normalise(host).map(String::from));
            }
            Value::Array(items) => items.iter().for_each(|it| collect(it, hosts)),
            Value::Object(fields) => fields.values().for_each(|it| collect(it, hosts)),
            _ => {}
        }
    }
    let mut hosts = BTreeSet::new();
    if let Ok(value) = serde_json::from_slice(body) {
        collect(&value, &mut hosts);
    }
    hosts
}

/// Sends a body to a source of this kind and registry, and tells the status and what is queued.
async fn deliver(
    kind: &'static Kind,
    registry: &str,
    hosts: &BTreeSet<String>,
    payload: &str,
    headers: &str,
    body: &[u8],
) -> (StatusCode, Vec<ExpectedImage>) {
    let auth = json!([{"type": kind.auth[0], "secret": "env:SECRET"}]);
    let yaml = format!(
        "sources:\n  corpus:\n    kind: {}\n    registry: {}\n    hosts: {}\n    auth: {auth}\n{payload}",
        kind.name,
        json!(registry),
        json!(hosts),
    );
    let config = Config::parse(&yaml).unwrap();
    let credential = Credential {
        scheme: config.sources["corpus"].auth[0].shared().unwrap().0.clone(),
        secret: SecretString::from(SECRET),
    };
    let environment: Environment = Arc::new(|_| Some(SECRET.to_owned()));
    let recorder = Recorder::default();
    let base = "http://127.0.0.1:9";
    let settings = client_settings(base, recorder.http_client());
    let queue = Queue::sqs(settings, format!("{base}/000000000000/scans"));
    let webhook = Arc::new(
        webhook(&config, queue, &Secrets::local(&environment))
            .await
            .unwrap(),
    );

    let mut request = Request::post("/webhooks/corpus").body(()).unwrap();
    for (name, value) in headers.lines().filter_map(|it| it.split_once(": ")) {
        let name: header::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    match credential.present(body).unwrap() {
        Presented::Header(name, value) => {
            request.headers_mut().insert(name, value);
        }
        Presented::PathSegment(token) => {
            let path = format!("/webhooks/corpus/{}", token.expose_secret());
            *request.uri_mut() = path.parse().unwrap();
        }
    }
    let request = request.map(|()| Body::from(Bytes::copy_from_slice(body)));
    let status = router(webhook.clone())
        .oneshot(request)
        .await
        .unwrap()
        .status();
    let image = |body: String| QueueMessage::parse(&body).unwrap().image;
    let sent = recorder.take().into_iter().map(image);
    let mut images: Vec<_> = sent
        .map(|it| serde_json::from_value(json!(it)).unwrap())
        .collect();
    images.sort();
    (status, images)
}
