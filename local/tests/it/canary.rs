//! Secrets stay secret: marks every secret, takes every path once, then searches everywhere for the mark.

use std::collections::BTreeMap;
use std::fs;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::world::{CliProcess, Delivery, Place, Serve, digest};

/// The mark in every secret.
const MARK: &str = "CANARY-7f3a9c51";

/// The sources, each with the variable of its secret and an image of its registry.
const SOURCES: [(&str, &str, &str); 5] = [
    ("harbor", "HARBOR", "harbor.example.com/prod"),
    ("hub", "HUB", "hub.example.com/prod"),
    ("ghcr", "GHCR", "ghcr.io/prod"),
    ("registry", "REGISTRY", "registry.example.com/prod"),
    ("basic", "BASIC", "basic.example.com/prod"),
];

/// Behaviours of the CLI with different outcomes; some print their input.
const BEHAVIOURS: [&str; 11] = [
    "pass",
    "fail",
    "prints-token",
    "prints-env",
    "registry-401",
    "bad-token",
    "not-found",
    "network",
    "exit-2",
    "no-report",
    "go-panic",
];

fn place() -> Place {
    let mut place = Place::new();
    for (name, value) in &mut place.environment {
        if !["PATH", "http_proxy", "no_proxy"].contains(&name.as_str()) {
            *value = format!("{MARK}-{name}");
        }
    }
    for name in [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "GITHUB_TOKEN",
        "SECURE_API_TOKEN",
        "REGISTRY_PASSWORD",
    ] {
        place
            .environment
            .insert(name.to_owned(), format!("{MARK}-{name}"));
    }
    for (name, value) in [
        ("SCANHOOK_LOG", "trace"),
        ("https_proxy", "http://proxy.example.com:3128"),
        ("NO_PROXY", "localhost"),
    ] {
        place.environment.insert(name.to_owned(), value.to_owned());
    }
    place
}

/// Every spelling of the mark, with its name.
struct Search {
    spellings: Vec<Vec<u8>>,
    found: Vec<String>,
}

impl Search {
    fn new() -> Self {
        let mut spellings = vec![MARK.as_bytes().to_vec(), hex::encode(MARK).into_bytes()];
        // Its base64 depends on the number of bytes before it; its first and last characters depend on its neighbours.
        for before in ["", "a", "ab"] {
            let encoded = BASE64_STANDARD.encode(format!("{before}{MARK}"));
            spellings.push(encoded.as_bytes()[4..encoded.len() - 4].to_vec());
        }
        Self {
            spellings,
            found: Vec::new(),
        }
    }

    fn look(&mut self, place: &str, bytes: &[u8]) {
        for spelling in &self.spellings {
            if let Some(at) = bytes.windows(spelling.len()).position(|it| it == spelling) {
                let around = &bytes[at.saturating_sub(200)..(at + 100).min(bytes.len())];
                self.found
                    .push(format!("{place}: {}", String::from_utf8_lossy(around)));
            }
        }
    }
}

/// Deliveries that are refused, each for a different reason.
fn refused(place: &Place) -> Vec<(u16, Delivery)> {
    let mut refused = Vec::new();
    for (source, _, registry) in SOURCES {
        let good = place.delivery(source, &format!("{registry}/pass:1"));
        let bare = Delivery {
            path: format!("/webhooks/{source}"),
            headers: String::new(),
            ..good.clone()
        };
        refused.push((401, bare.clone()));
        let mut wrong = bare.clone();
        wrong.path = format!("{}/{MARK}-wrong", bare.path);
        for (name, value) in [
            ("Authorization", format!("Bearer {MARK}-wrong")),
            ("X-Hub-Signature-256", format!("sha256={MARK}-wrong")),
            ("User-Agent", format!("{MARK}-agent")),
            ("Cookie", format!("session={MARK}-cookie")),
        ] {
            wrong.add_header(name, &value);
        }
        refused.push((401, wrong));
        let mut twice = good.clone();
        twice.headers.push_str(&good.headers);
        twice.path = twice
            .path
            .replace(&format!("/{MARK}"), &format!("/x{MARK}"));
        refused.push((401, twice));
        let mut elsewhere = good.clone();
        elsewhere.path = elsewhere.path.replace("/webhooks/", "/webhooks/no-");
        refused.push((404, elsewhere));
        let mut encoded = good.clone();
        encoded.add_header("Content-Encoding", "gzip");
        refused.push((415, encoded));
        refused.push((
            413,
            Delivery {
                body: vec![b' '; (1 << 20) + 1],
                ..good.clone()
            },
        ));
        if source != "ghcr" {
            let body = format!(r#"{{"odd":"{MARK}-body","type":{MARK}-body}}"#).into_bytes();
            refused.push((400, Delivery { body, ..good }));
        }
    }
    refused
}

fn send_all(place: &Place, serve: &Serve, search: &mut Search) {
    for (status, delivery) in refused(place) {
        let answer = serve.send(&delivery);
        assert_eq!(answer.status, status, "{} {}", delivery.path, answer.body);
        search.look(
            "an answer",
            format!("{}{}", answer.head, answer.body).as_bytes(),
        );
    }
    let mut queued = Vec::new();
    for (number, (source, _, registry)) in SOURCES.into_iter().enumerate() {
        for (index, behaviour) in BEHAVIOURS.into_iter().enumerate() {
            let number = u64::try_from(number * 100 + index).unwrap();
            let mut delivery = place.delivery(
                source,
                &format!("{registry}/{behaviour}:1@{}", digest(number)),
            );
            if index == 0 {
                delivery.path = format!("{}?secret={MARK}-query", delivery.path);
            }
            let answer = serve.send(&delivery);
            assert_eq!(answer.status, 202, "{source} {behaviour}: {}", answer.body);
            search.look(
                "an answer",
                format!("{}{}", answer.head, answer.body).as_bytes(),
            );
            queued.push((behaviour, answer.scan_id()));
        }
    }
    for (behaviour, scan_id) in queued {
        let record = place.settled(&scan_id);
        let is_error = record["verdict"] == "error";
        assert_eq!(
            is_error,
            !["pass", "fail", "prints-env"].contains(&behaviour),
            "{record}"
        );
    }
}

fn run_commands(place: &Place, serve: &Serve, search: &mut Search) {
    let url = format!("--url=http://{}", serve.address);
    for arguments in [
        &["check"] as &[&str],
        &["send", "hub", &url],
        &["send", "hub", "--url=http://127.0.0.1:1"],
        &["send", "harbor", &url, "--output=json"],
        &["send", "harbor", "--url=http://user:password@127.0.0.1:1"],
        &["scans", "list"],
    ] {
        let ran = place.run(arguments);
        search.look(
            &arguments.join(" "),
            format!("{}{}", ran.stdout, ran.stderr).as_bytes(),
        );
    }
}

/// The CLI's environment is what `docs/reference/outcomes.md` names, and nothing else; its arguments contain no secret.
fn check_cli(place: &Place, process: &CliProcess, has_login: bool, search: &mut Search) {
    let text = |it: &str| it.to_owned();
    let home = process.home.to_str().unwrap();
    let mut expected = BTreeMap::from([
        (text("PATH"), place.environment["PATH"].clone()),
        (text("HOME"), text(home)),
        (text("TMPDIR"), format!("{home}/tmp")),
        (text("SECURE_API_TOKEN"), format!("{MARK}-SYSDIG")),
        (text("https_proxy"), text("http://proxy.example.com:3128")),
        (text("http_proxy"), place.environment["http_proxy"].clone()),
        (text("no_proxy"), text("127.0.0.1")),
        (text("NO_PROXY"), text("localhost")),
    ]);
    if has_login {
        expected.insert(text("REGISTRY_USER"), text("robot"));
        expected.insert(text("REGISTRY_PASSWORD"), format!("{MARK}-PASSWORD"));
    }
    assert_eq!(process.environment, expected);
    assert!(
        process.arguments.last().unwrap().starts_with("pull://"),
        "{:?}",
        process.arguments
    );
    search.look(
        "the CLI's arguments",
        process.arguments.join(" ").as_bytes(),
    );
}

#[test]
fn no_secret_is_in_a_log_an_answer_a_queue_a_ledger_or_an_argument_at_log_level_trace() {
    let place = place();
    let mut search = Search::new();
    let serve = place.serve(&[]);
    send_all(&place, &serve, &mut search);
    run_commands(&place, &serve, &mut search);
    for (source, image, has_login) in [
        ("harbor", "harbor.example.com/prod/hang:1", true),
        ("registry", "registry.example.com/prod/hang:1", false),
    ] {
        let scan_id = serve.queue(&place.delivery(source, image));
        check_cli(&place, &place.cli_on(&scan_id), has_login, &mut search);
    }
    let log = serve.log();
    assert!(
        log.iter().any(|it| it["level"] == "DEBUG"),
        "the log is at its most talkative"
    );
    assert!(
        log.iter().any(|it| it["reason"] == "unauthorized"),
        "refusals are logged"
    );
    let outcomes = log.iter().filter(|it| it["event"] == "scan.finished");
    let reasons: Vec<_> = outcomes
        .filter_map(|it: &Value| it["reason"].as_str())
        .collect();
    for reason in ["bad_token", "unauthorized", "image_not_found", "no_report"] {
        assert!(reasons.contains(&reason), "{reason}");
    }
    let (stdout, stderr) = (serve.stdout(), serve.stderr());
    serve.stop();
    assert!(place.messages("scanhook-dlq").len() >= 5);
    search.look("stdout", stdout.as_bytes());
    search.look("stderr", stderr.as_bytes());
    for entry in fs::read_dir(place.data_dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            search.look(&path.display().to_string(), &fs::read(&path).unwrap());
        }
    }
    assert!(search.found.is_empty(), "{:#?}", search.found);
}

#[test]
fn the_search_finds_every_spelling() {
    let basic = |it: &str| BASE64_STANDARD.encode(format!("{it}:{MARK}-BASIC"));
    let texts = [
        format!("x{MARK}y"),
        hex::encode(MARK),
        basic("robot"),
        basic("robots"),
        basic("robot1s"),
    ];
    for text in texts {
        let mut search = Search::new();
        search.look("here", text.as_bytes());
        assert_eq!(search.found.len(), 1, "{text}");
    }
}
