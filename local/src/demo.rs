//! `scanhook demo`: follows images from delivery to verdict, with built-in defaults and the stand-in CLI.
//!
//! The deliveries go over HTTP, signed as each registry signs them. Queue, mapping and scanner are those of `serve`. Every host
//! name resolves to a small registry of the demo, so nothing leaves this machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use scanhook_config::Environment;
use scanhook_config::config::Config;
use scanhook_config::secrets::Secrets;
use scanhook_core::auth::Credential;
use scanhook_core::image::Image;
use scanhook_core::kinds::{self, Kind};
use scanhook_core::message::ScanId;
use scanhook_core::record::{ScanRecord, State};
use scanhook_scanner::ledger::History as _;
use scanhook_worker::clock::Clock;
use scanhook_worker::listener::AllowedHosts;
use secrecy::SecretString;
use serde_json::Value;

use self::registry::Registry;
use crate::host::queues::DEAD_LETTERS;
use crate::host::signals::StopSignals;
use crate::outcome::{Outcome, unusable};
use crate::send::{self, Answer};
use crate::serve::{self, Options, Server};
use crate::{http_client, output, scans};

mod registry;

/// How long the demo waits for the outcomes.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often to poll the ledger.
const POLL: Duration = Duration::from_millis(50);

/// The pushes, besides one image for each kind that passes.
const STORIES: [Story; 6] = [
    Story {
        kind: "harbor",
        image: "demo/fail",
        tag: "2.0",
        forged: false,
        expected: "failed",
    },
    Story {
        kind: "distribution",
        image: "demo/flaky",
        tag: "1.1",
        forged: false,
        expected: "passed",
    },
    Story {
        kind: "docker-hub",
        image: "demo/not-found",
        tag: "gone",
        forged: false,
        expected: "error: image_not_found",
    },
    // Docker Hub's payload doesn't contain the type of what was pushed; the manifest does.
    Story {
        kind: "docker-hub",
        image: "demo/chart",
        tag: "0.1.0",
        forged: false,
        expected: "skipped: not_an_image",
    },
    Story {
        kind: "distribution",
        image: "demo/pass",
        tag: SIGNATURE,
        forged: false,
        expected: "skipped: not_an_image",
    },
    Story {
        kind: "ghcr",
        image: "demo/pass",
        tag: "forged",
        forged: true,
        expected: "refused: 401",
    },
];

/// A tag of the form that cosign uses for signatures.
const SIGNATURE: &str =
    "sha256-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.sig";

/// A push and its expected outcome.
#[derive(Clone, Copy)]
struct Story {
    kind: &'static str,
    image: &'static str,
    tag: &'static str,
    forged: bool,
    expected: &'static str,
}

/// A story whose delivery was sent.
struct Sent {
    story: Story,
    image: Image,
    answer: Answer,
}

pub(crate) async fn command() -> anyhow::Result<Outcome> {
    let directory = tempfile::tempdir().context("could not create a temporary directory")?;
    let cli = link_stand_in(directory.path())?;
    let environment: Environment = Arc::new(|name| {
        name.starts_with("DEMO_")
            .then(|| format!("fake-demo-secret-{name}"))
    });
    let config = || Config::parse(&configuration()).context("the demo's configuration");
    let secrets = Secrets::local(&environment);
    let registry = Registry::start().await?;
    let options = Options {
        config: config()?,
        environment,
        secrets: secrets.clone(),
        listen: ([127, 0, 0, 1], 0).into(),
        sqs_listen: ([127, 0, 0, 1], 0).into(),
        health_listen: None,
        allowed_hosts: AllowedHosts::default(),
        data_dir: directory.path().join("data"),
        queue_url: None,
        scanner_cli: Some(cli),
        open_page: false,
        dns: registry.dns(),
    };
    let mut signals = StopSignals::open()?;
    let mut server = serve::start(options).await.map_err(unusable)?;
    let config = config()?;
    let outcome = tokio::select! {
        outcome = play(&server, &registry, &config, &secrets) => outcome,
        signal = signals.next() => {
            output::notice(signal);
            server.abandon();
            return Ok(Outcome::Findings);
        }
    };
    server.stop().await;
    outcome
}

/// Links this program under the CLI's name. Started by that name, it is the stand-in.
fn link_stand_in(directory: &Path) -> anyhow::Result<std::path::PathBuf> {
    let program = std::env::current_exe().context("could not find this program")?;
    let link = directory.join("sysdig-cli-scanner");
    std::os::unix::fs::symlink(program, &link).context("could not link the stand-in CLI")?;
    Ok(link)
}

fn configuration() -> String {
    let sources: Vec<_> = kinds::ALL
        .iter()
        .map(|kind| {
            let (name, registry) = (kind.name, host(kind));
            let auth = kind.auth.first().copied().unwrap_or("path_token");
            format!(
                r#"  {name}: {{ kind: {name}, registry: "{registry}", auth: [{{ type: {auth}, secret: "env:DEMO_{name}" }}] }}"#
            )
        })
        .collect();
    let hosts: BTreeSet<_> = kinds::ALL.iter().map(|it| host(it)).collect();
    let registries: Vec<_> = hosts
        .into_iter()
        .map(|it| format!("  \"{it}\": {{ insecure: true }}"))
        .collect();
    format!(
        "sources:\n{}\nregistries:\n{}\nscanner: {{ api_url: \"http://127.0.0.1:1\", api_token: \"env:DEMO_SYSDIG\", concurrency: 2 }}\nretry: {{ attempts: 6, base: 1s, cap: 2s }}\n",
        sources.join("\n"),
        registries.join("\n"),
    )
}

/// The kind's example host without a port, because a port would override the demo's DNS.
fn host(kind: &Kind) -> String {
    match kind.example_registry.split_once(':') {
        Some(_) => format!("{}.example.com", kind.name),
        None => kind.example_registry.to_owned(),
    }
}

fn stories() -> Vec<Story> {
    let pass = |kind: &&'static Kind| Story {
        kind: kind.name,
        image: "demo/pass",
        tag: "1.0",
        forged: false,
        expected: "passed",
    };
    kinds::ALL.iter().map(pass).chain(STORIES).collect()
}

async fn play(
    server: &Server,
    registry: &Registry,
    config: &Config,
    secrets: &Secrets,
) -> anyhow::Result<Outcome> {
    let client = http_client::local()?;
    let url = format!("http://{}", server.address);
    let mut sent = Vec::new();
    for story in stories() {
        let source = config
            .sources
            .get(story.kind)
            .context("a kind without a source")?;
        let credentials = source.credentials(secrets).await?;
        let credential = credentials
            .into_iter()
            .next()
            .context("a source without a credential")?;
        let credential = if story.forged {
            Credential {
                secret: SecretString::from("fake-wrong-secret"),
                ..credential
            }
        } else {
            credential
        };
        let image = Image::parse(&format!(
            "{}/{}:{}@{}",
            source.source.registry,
            story.image,
            story.tag,
            match registry.digest(story.image, story.tag) {
                Some(digest) => digest.to_string(),
                None => random_digest(),
            },
        ))?;
        let sample = send::make_sample(&source.source, &image);
        let signed = send::sign(&url, &source.source, &credential, sample)?;
        sent.push(Sent {
            story,
            image,
            answer: send::post(&client, signed).await?,
        });
    }
    let records = wait_for_outcomes(server, &sent).await?;
    let mut is_fine = true;
    let mut rows = Vec::new();
    for (delivery, record) in sent.iter().zip(&records) {
        let outcome = outcome(&delivery.answer, record.as_ref());
        is_fine &= outcome == delivery.story.expected;
        rows.push(row(delivery, outcome, record.as_ref()));
    }
    output::table(
        &[
            "kind",
            "image",
            "verdict",
            "crit/high/med/low/negl",
            "attempts",
            "time",
        ],
        rows,
    )?;
    let dead = server.store.depth(DEAD_LETTERS).await?.visible;
    let summary = if is_fine {
        "all outcomes are as expected"
    } else {
        "some outcomes are not as expected"
    };
    output::line(&format!(
        "{} deliveries, {dead} in the dead-letter queue; {summary}",
        sent.len()
    ))?;
    output::line(
        "A stand-in replaced the Sysdig CLI. Next: run `scanhook init`, `scanhook check` and `scanhook serve`.",
    )?;
    Ok(if is_fine {
        Outcome::Fine
    } else {
        Outcome::Findings
    })
}

/// Waits until every queued image has a verdict or is a dead letter. Returns each delivery's record, if it has one.
async fn wait_for_outcomes(
    server: &Server,
    sent: &[Sent],
) -> anyhow::Result<Vec<Option<ScanRecord>>> {
    let bar = ProgressBar::new(sent.len() as u64);
    bar.set_style(ProgressStyle::with_template(
        "{spinner} {pos}/{len} {bar:30} {elapsed} {msg}",
    )?);
    let watched = tokio::time::timeout(PATIENCE, async {
        loop {
            let records = records(server, sent).await?;
            let is_open = |(delivery, record): &(&Sent, &Option<ScanRecord>)| {
                let is_settled = record
                    .as_ref()
                    .is_some_and(|it| matches!(it.state, State::Done | State::DeadLetter));
                scan_id(&delivery.answer).is_some() && !is_settled
            };
            let open: Vec<_> = sent
                .iter()
                .zip(&records)
                .filter(is_open)
                .map(|(delivery, _)| delivery.story.image)
                .collect();
            bar.set_position((sent.len() - open.len()) as u64);
            bar.set_message(open.join(" "));
            if open.is_empty() {
                return Ok(records);
            }
            tokio::time::sleep(POLL).await;
        }
    });
    let records = match watched.await {
        Ok(records) => records,
        Err(_) => records(server, sent).await,
    };
    bar.finish_and_clear();
    records
}

fn scan_id(answer: &Answer) -> Option<&str> {
    answer
        .body
        .pointer("/queued/0/scan_id")
        .and_then(Value::as_str)
}

/// The first record of each delivery that queued something.
async fn records(server: &Server, sent: &[Sent]) -> anyhow::Result<Vec<Option<ScanRecord>>> {
    let mut records = Vec::new();
    for delivery in sent {
        let found = match scan_id(&delivery.answer)
            .map(str::to_owned)
            .map(ScanId::try_from)
        {
            Some(scan_id) => server.ledger.find(&scan_id?, Clock::System.now()).await?,
            None => Vec::new(),
        };
        records.push(found.into_iter().next());
    }
    Ok(records)
}

/// The outcome of a delivery, in the form of [`Story::expected`].
fn outcome(answer: &Answer, record: Option<&ScanRecord>) -> String {
    let skipped = answer
        .body
        .pointer("/skipped/0/reason")
        .and_then(Value::as_str);
    match (record, skipped) {
        (Some(record), _) => scans::verdict(record, Clock::System.now()),
        (None, Some(reason)) => format!("skipped: {reason}"),
        (None, None) if answer.status >= 400 => format!("refused: {}", answer.status),
        (None, None) => "waiting".to_owned(),
    }
}

fn row(sent: &Sent, outcome: String, record: Option<&ScanRecord>) -> Vec<String> {
    let tag = sent.image.pin.tag().map_or("", |it| it.as_str());
    let tag = if tag.len() > 20 {
        format!("{tag:.16}….sig")
    } else {
        tag.to_owned()
    };
    let findings = record
        .and_then(|it| it.findings)
        .map_or_else(String::new, |it| {
            format!(
                "{}/{}/{}/{}/{}",
                it.critical, it.high, it.medium, it.low, it.negligible
            )
        });
    let time = record.and_then(|it| Some(it.finished_at?.duration_since(it.received_at)));
    let is_dead = record.is_some_and(|it| it.state == State::DeadLetter);
    vec![
        sent.story.kind.to_owned(),
        format!("{}:{tag}", sent.image.name()),
        if is_dead {
            format!("{outcome} → dead-letter queue")
        } else {
            outcome
        },
        findings,
        record.map_or_else(String::new, |it| it.attempts.to_string()),
        time.map_or_else(String::new, |it| format!("{:.2} s", it.as_secs_f64())),
    ]
}

/// A digest of no content.
fn random_digest() -> String {
    format!(
        "sha256:{:032x}{:032x}",
        ulid::Ulid::generate().0,
        ulid::Ulid::generate().0
    )
}
