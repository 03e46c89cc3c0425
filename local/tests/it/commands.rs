//! The output and the exit code of each command.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};

use scanhook_core::kinds;
use serde_json::{Value, json};

use crate::world::{PROGRAM, Place, Ran, YAML, digest};

/// A refused command explains why in one line, on stderr only.
#[track_caller]
fn refused(ran: &Ran, code: i32, words: &str) {
    assert_eq!(ran.code, Some(code), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("scanhook: "), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

#[test]
fn the_demo_exits_with_0_and_shows_a_verdict_for_every_kind() {
    let mut place = Place::new();
    // The user's proxy doesn't reach this machine.
    place.environment.remove("no_proxy");
    let ran = place.run(&["demo"]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    for kind in kinds::ALL {
        let row = |it: &str| {
            it.contains(kind.name) && it.contains("demo/pass:1.0") && it.contains("passed")
        };
        assert!(ran.stdout.lines().any(row), "{}: {}", kind.name, ran.stdout);
    }
    for words in [
        "failed",
        "error: image_not_found → dead-letter queue",
        "skipped: not_an_image",
        "refused: 401",
        "1 in the dead-letter queue; all outcomes are as expected",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
}

#[test]
fn scans_are_shown_as_a_table_and_as_json() {
    let place = Place::new();
    let serve = place.serve(&[]);
    let passed = serve.queue(&place.delivery(
        "harbor",
        &format!("harbor.example.com/prod/pass:1.0@{}", digest(1)),
    ));
    let gone = serve.queue(&place.delivery("hub", "hub.example.com/prod/not-found:2.0"));
    let record = place.settled(&passed);
    assert_eq!(
        (&record["verdict"], &record["attempts"]),
        (&json!("passed"), &json!(1))
    );
    assert_eq!(record["digest"], digest(1));
    let record = place.settled(&gone);
    assert_eq!(
        (&record["verdict"], &record["reason"]),
        (&json!("error"), &json!("image_not_found"))
    );
    assert_eq!(
        (&record["state"], &record["attempts"]),
        (&json!("dead_letter"), &json!(2))
    );

    let list = place.run(&["scans", "list"]);
    assert_eq!((list.code, list.stderr.as_str()), (Some(0), ""));
    for words in [
        "harbor.example.com/prod/pass:1.0",
        "passed",
        "hub.example.com/prod/not-found:2.0",
        "error: image_not_found",
    ] {
        assert!(list.stdout.contains(words), "{words}: {}", list.stdout);
    }
    let limited: Value = serde_json::from_str(
        &place
            .run(&["scans", "list", "--output=json", "--limit=1"])
            .stdout,
    )
    .unwrap();
    assert_eq!(limited.as_array().unwrap().len(), 1);
    for (filter, expected) in [
        ("--verdict=passed", vec![&passed]),
        ("--verdict=error", vec![&gone]),
        ("--image=prod/pass:1.0@sha256", vec![&passed]),
        ("--source=hub", vec![&gone]),
        ("--since=1h", vec![&gone, &passed]),
        ("--since=2099-01-01T00:00:00Z", vec![]),
    ] {
        let ran = place.run(&["scans", "list", "--output=json", filter]);
        let records: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
        let mut ids: Vec<_> = records
            .iter()
            .map(|it| it["scan_id"].as_str().unwrap())
            .collect();
        let mut expected: Vec<_> = expected.iter().map(|it| it.as_str()).collect();
        // Both deliveries may have the same time.
        ids.sort_unstable();
        expected.sort_unstable();
        assert_eq!(ids, expected, "{filter}");
    }

    let shown = place.run(&["scans", "show", &passed]);
    assert_eq!(shown.code, Some(0));
    assert!(
        shown.stdout.contains(&passed) && shown.stdout.contains("stand-in"),
        "{}",
        shown.stdout
    );
    let shown = place.run(&["scans", "show", &passed, "--output=json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown[0]["scan_id"], passed);

    refused(
        &place.run(&["scans", "show", "01NONE"]),
        1,
        "the ledger has no scan 01NONE",
    );
}

#[test]
fn scans_without_a_ledger_names_the_command_that_creates_it() {
    refused(
        &Place::new().run(&["scans", "list"]),
        2,
        "could not open the ledger .scanhook/ledger.sqlite: there is none; `scanhook serve` makes it",
    );
}

#[test]
fn send_shows_the_outcome_of_a_delivery() {
    let mut place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    let url = format!("--url=http://{}", serve.address);
    for source in ["harbor", "hub", "ghcr", "registry", "basic"] {
        let sent = place.run(&["send", source, &url]);
        assert_eq!(
            (sent.code, sent.stderr.as_str()),
            (Some(0), ""),
            "{source}: {}",
            sent.stdout
        );
        assert!(
            sent.stdout.contains("202") && sent.stdout.contains("queued as 01"),
            "{source}: {}",
            sent.stdout
        );
    }
    let sent = place.run(&["send", "harbor", &url, "--count=3", "--output=json"]);
    let sent: Value = serde_json::from_str(&sent.stdout).unwrap();
    assert_eq!(
        sent.as_array()
            .unwrap()
            .iter()
            .filter(|it| it["status"] == 202)
            .count(),
        3
    );

    let skipped = place.run(&["send", "harbor", &url, "--image=elsewhere.example.com/a:1"]);
    assert_eq!(skipped.code, Some(0));
    assert!(
        skipped.stdout.contains("skipped: foreign_registry"),
        "{}",
        skipped.stdout
    );

    fs::write(place.path("body"), "{}").unwrap();
    let garbled = place.run(&["send", "harbor", &url, "--file=body"]);
    assert_eq!(garbled.code, Some(1));
    assert!(
        garbled.stdout.contains("400") && garbled.stdout.contains("Not a payload"),
        "{}",
        garbled.stdout
    );

    for name in ["HARBOR", "HUB", "GHCR", "REGISTRY", "BASIC"] {
        place
            .environment
            .insert(name.to_owned(), "fake-wrong-secret".to_owned());
        let source = name.to_ascii_lowercase();
        let sent = place.run(&["send", &source, &url]);
        assert_eq!(sent.code, Some(1), "{source}: {}", sent.stdout);
        assert!(
            sent.stdout.contains("401") && sent.stdout.contains("No valid credential"),
            "{}",
            sent.stdout
        );
    }
}

#[test]
fn send_explains_why_it_cannot_send() {
    let place = Place::new();
    refused(
        &place.run(&["send", "elsewhere"]),
        2,
        "scanhook.yaml has no source elsewhere",
    );
    refused(
        &place.run(&["send", "harbor", "--image=UPPER CASE"]),
        2,
        "--image",
    );
    refused(
        &place.run(&["send", "harbor", "--file=none"]),
        2,
        "could not read none",
    );
    refused(
        &place.run(&["send", "harbor", "--url=nonsense"]),
        2,
        "--url",
    );
    refused(
        &place.run(&["send", "harbor", "--url=http://127.0.0.1:1"]),
        1,
        "could not send",
    );
    refused(
        &place.run(&["send", "harbor", "--config=none.yaml"]),
        2,
        "none.yaml",
    );
    // The path token is a secret, so it is in no error.
    let sent = place.run(&["send", "hub", "--url=http://127.0.0.1:1"]);
    refused(&sent, 1, "could not send");
    assert!(!sent.stderr.contains("fake-secret"), "{}", sent.stderr);
}

#[test]
fn check_shows_how_to_set_up_each_source() {
    let ran = Place::new().run(&["check", "--url=https://scan.example.com/"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for words in [
        "https://scan.example.com/webhooks/harbor\n",
        "https://scan.example.com/webhooks/hub/<the secret>\n",
        "  signs   nothing; it sends its auth header as you typed it\n",
        "  repeats waits 3 s and tries 3 times in all, after any answer other than 2xx\n",
        "scanhook.yaml is valid: all secrets resolved, sources: 5\n",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    assert!(!ran.stdout.contains("fake-secret"), "{}", ran.stdout);
}

#[test]
fn check_names_the_key_of_a_problem_and_never_its_value() {
    let mut place = Place::new();
    for (name, path) in [
        ("HARBOR", "sources.harbor.auth[0].secret"),
        (
            "PASSWORD",
            "registries.harbor.example.com.credentials.password",
        ),
        ("SYSDIG", "scanner.api_token"),
    ] {
        let secret = place.environment.remove(name).unwrap();
        refused(
            &place.run(&["check"]),
            2,
            &format!("{path}: the environment variable {name} is not set"),
        );
        place.environment.insert(name.to_owned(), secret);
    }
    let secret = place
        .environment
        .insert("HUB".to_owned(), "fake-short".to_owned())
        .unwrap();
    let ran = place.run(&["check"]);
    refused(
        &ran,
        2,
        "sources.hub.auth[0].secret: the secret is shorter than 16 bytes",
    );
    assert!(!ran.stderr.contains("fake-short"), "{}", ran.stderr);
    place.environment.insert("HUB".to_owned(), secret);

    for (key, path) in [
        ("env:HARBOR", "sources.harbor.auth[0]"),
        ("env:PASSWORD", "registries.harbor.example.com"),
        ("env:SYSDIG", "scanner"),
    ] {
        fs::write(
            place.path("scanhook.yaml"),
            YAML.replace(key, "fake-literal-secret"),
        )
        .unwrap();
        let ran = place.run(&["check"]);
        refused(&ran, 2, path);
        assert!(!ran.stderr.contains("fake-literal"), "{}", ran.stderr);
    }
}

/// Runs a command that must neither block nor read without end: within 20 s and 4 GB.
fn run_at_once(place: &Place, arguments: &[&str]) -> Ran {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "ulimit -v 4000000; exec timeout 20 \"$0\" \"$@\""])
        .arg(PROGRAM)
        .args(arguments)
        .env_clear()
        .envs(&place.environment)
        .current_dir(place.path(""));
    Ran::new(command.output().unwrap())
}

#[test]
fn a_device_a_pipe_a_directory_and_a_missing_file_are_refused_at_once() {
    let place = Place::new();
    let fifo = place.path("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
    fs::create_dir(place.path("directory")).unwrap();
    let secret = "fake-secret-in-a-file\n";
    let long = |length: usize| secret.bytes().cycle().take(length).collect::<Vec<_>>();
    fs::write(place.path("64KiB"), long(64 << 10)).unwrap();
    fs::write(place.path("longer"), long((64 << 10) + 1)).unwrap();
    fs::write(place.path("huge"), long(5 << 20)).unwrap();
    fs::write(place.path("bytes"), b"\xff-fake-secret-in-bytes").unwrap();
    let odd = [
        ("/dev/zero", "not a regular file"),
        ("fifo", "not a regular file"),
        ("directory", "not a regular file"),
        ("nowhere", "entity not found"),
    ];
    let config = |key: &str, value: &str| {
        let yaml = YAML.replace(key, value);
        assert_ne!(yaml, YAML);
        fs::write(place.path("other.yaml"), yaml).unwrap();
        run_at_once(&place, &["check", "--config=other.yaml"])
    };

    for (file, problem) in odd.into_iter().chain([
        ("longer", "longer than 64.0 KiB"),
        ("bytes", "not a text in UTF-8"),
    ]) {
        let ran = config("env:HARBOR", &format!("file:{file}"));
        let words = format!("the file {file} can't be read ({problem})");
        refused(&ran, 2, &format!("sources.harbor.auth[0].secret: {words}"));
        assert!(!ran.stderr.contains("fake-secret"), "{}", ran.stderr);
    }
    assert_eq!(config("env:HARBOR", "file:64KiB").code, Some(0));

    for (file, problem) in odd.into_iter().chain([("huge", "longer than 1.0 MiB")]) {
        let ran = run_at_once(&place, &["check", &format!("--config=file:{file}")]);
        refused(
            &ran,
            2,
            &format!("the file {file} can't be read ({problem})"),
        );
        let anonymous = "\"*.example.com\": { insecure: true";
        let ran = config(
            anonymous,
            &format!("\"*.example.com\": {{ ca: \"file:{file}\""),
        );
        refused(
            &ran,
            2,
            &format!("the file {file} can't be read ({problem})"),
        );
    }

    for (file, problem) in odd.into_iter().chain([("huge", "longer than 4.0 MiB")]) {
        let words = format!("could not read {file}: {problem}");
        let ran = run_at_once(&place, &["send", "harbor", &format!("--file={file}")]);
        refused(&ran, 2, &words);
        let ran = run_at_once(&place, &["check", "--sample", file, "harbor"]);
        refused(&ran, 2, &words);
    }
}

#[test]
fn secrets_leave_this_machine_only_over_https() {
    let place = Place::new();
    let check = |key: &str, value: &str| {
        fs::write(place.path("scanhook.yaml"), YAML.replace(key, value)).unwrap();
        place.run(&["check"])
    };
    for url in [
        "http://secure.sysdig.com",
        "http://127.0.0.1.example.com",
        "http://10.0.0.1:8080",
        "http://[fe80::1]",
    ] {
        let ran = check("http://127.0.0.1:1", url);
        refused(&ran, 2, "scanner.api_url (line ");
        let ran = ran.stderr;
        assert!(
            ran.contains("expected an https URL, since Sysdig's token goes there"),
            "{ran}"
        );
    }
    for url in [
        "https://eu1.app.sysdig.com",
        "http://localhost:1",
        "http://[::1]:1",
    ] {
        assert_eq!(check("http://127.0.0.1:1", url).code, Some(0), "{url}");
    }

    let warning = "insecure: true sends its credentials over plain HTTP";
    let ran = check("none", "none");
    assert!(
        ran.stderr.contains(&format!(
            "warning: registries.harbor.example.com: {warning}"
        )),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.stderr.matches(warning).count(), 1, "{}", ran.stderr);
    for host in ["127.0.0.1:5000", "localhost", "\"[::1]:5000\""] {
        let ran = check("harbor.example.com: {", &format!("{host}: {{"));
        assert_eq!(ran.code, Some(0), "{host}: {}", ran.stderr);
        assert!(!ran.stderr.contains(warning), "{host}: {}", ran.stderr);
    }
    fs::write(place.path("scanhook.yaml"), YAML).unwrap();
    let serve = place.serve(&[]);
    let log = serve.log();
    let is_warning =
        |it: &Value| it["level"] == "WARN" && it["message"].to_string().contains(warning);
    assert!(log.iter().any(is_warning), "{log:?}");
}

#[test]
fn help_and_version_exit_with_0_and_wrong_usage_with_2() {
    let place = Place::new();
    for arguments in [
        &["--help"] as &[&str],
        &["help", "serve"],
        &["serve", "--help"],
        &["--version"],
    ] {
        let ran = place.run(arguments);
        assert_eq!(
            (ran.code, ran.stderr.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
        assert!(ran.stdout.contains("scanhook"), "{}", ran.stdout);
    }
    for arguments in [
        &[] as &[&str],
        &["nonsense"],
        &["serve", "--listen=nonsense"],
        &["send"],
        &["scans"],
        &["serve", "--sideways"],
    ] {
        let ran = place.run(arguments);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(2), ""),
            "{arguments:?}"
        );
        assert!(
            ran.stderr.contains("--help") || ran.stderr.contains("Usage"),
            "{arguments:?}: {}",
            ran.stderr
        );
    }
}

#[test]
fn a_closed_pipe_is_not_a_failure() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    serve.stop();
    for arguments in [
        &["check"] as &[&str],
        &["scans", "list", "--output=json"],
        &["--help"],
    ] {
        let mut child = place
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        assert_eq!(
            child.wait().unwrap().code(),
            Some(0),
            "{arguments:?}: {stderr}"
        );
        assert!(
            !stderr.contains("panic") && !stderr.contains("Broken pipe"),
            "{arguments:?}: {stderr}"
        );
    }
}

/// `YAML` with a Sysdig API at an address where nothing listens.
fn without_network() -> String {
    YAML.replace("http://127.0.0.1:1", "https://127.0.0.1:1")
}

const DOCTOR: [&str; 3] = [
    "doctor",
    "--pass-image=127.0.0.1:1/demo/pass:1.0",
    "--fail-image=127.0.0.1:1/demo/fail:1.0",
];

#[test]
fn the_doctor_reports_a_stand_in() {
    let place = Place::with(&without_network());
    let ran = place.run(&[&DOCTOR[..], &["--output=json"]].concat());
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let diagnosis: Value = serde_json::from_str(&ran.stdout).unwrap();
    let outcome = |check: &str| {
        let checks = diagnosis["checks"].as_array().unwrap();
        let check = checks.iter().find(|it| it["check"] == check).unwrap();
        check["outcome"].as_str().unwrap()
    };
    let outcomes = ["cli_present", "cli_checksum", "cli_version", "network"].map(outcome);
    assert_eq!(outcomes, ["ok", "failed", "failed", "failed"]);
    assert_eq!(diagnosis["assumptions"][0]["id"], "cli-1");
    assert_eq!(diagnosis["assumptions"][0]["finding"], "not_checked");
    assert!(diagnosis["host"]["disk_available_bytes"].is_u64());

    let ran = place.run(&DOCTOR);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    for words in [
        "this is the stand-in, which scans nothing",
        "cli-1 ",
        "registry-1 ",
        "machine: ",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
}

#[test]
fn the_doctor_reports_a_missing_cli() {
    let place = Place::with(&without_network());
    let nowhere = ["--scanner-cli=./nowhere", "--output=json"];
    let ran = place.run(&[&DOCTOR[..], &nowhere].concat());
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let diagnosis: Value = serde_json::from_str(&ran.stdout).unwrap();
    let [present, ..] = diagnosis["checks"].as_array().unwrap().as_slice() else {
        panic!("{diagnosis}")
    };
    assert_eq!(present["outcome"], "failed");
    let detail = present["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("no program at /") && detail.ends_with("/nowhere"),
        "{detail}"
    );
}

#[test]
fn the_doctor_needs_a_configuration() {
    refused(
        &Place::new().run(&["doctor", "--config=missing.yaml"]),
        2,
        "missing.yaml",
    );
}

#[test]
fn scans_refuses_invalid_filters() {
    let place = Place::new();
    for arguments in [
        ["scans", "list", "--verdict=clean"],
        ["scans", "list", "--since=yesterday"],
        ["scans", "list", "--source=no source"],
        ["scans", "show", "not/an/id"],
    ] {
        let ran = place.run(&arguments);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(2), ""),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn init_writes_a_configuration_that_check_accepts_and_overwrites_nothing() {
    use std::os::unix::fs::PermissionsExt as _;

    for kind in kinds::ALL {
        let mut place = Place::new();
        fs::remove_file(place.path("scanhook.yaml")).unwrap();
        let ran = place.run(&["init", "--kind", kind.name, "--name=mine"]);
        assert_eq!(
            (ran.code, ran.stderr.as_str()),
            (Some(0), ""),
            "{}",
            kind.name
        );
        for words in ["Next:", "scanhook check", "SECURE_API_TOKEN", "mine.secret"] {
            assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
        }
        let secret = fs::read_to_string(place.path("mine.secret")).unwrap();
        let mode = fs::metadata(place.path("mine.secret"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!((secret.trim().len(), mode & 0o777), (64, 0o600));
        assert!(
            !ran.stdout.contains(secret.trim()),
            "the secret is not shown"
        );
        let check = place.run(&["check"]);
        assert_eq!(check.code, Some(0), "{}: {}", kind.name, check.stderr);
        let written = fs::read_to_string(place.path("scanhook.yaml")).unwrap();
        refused(&place.run(&["init"]), 2, "scanhook.yaml already exists");
        fs::remove_file(place.path("scanhook.yaml")).unwrap();
        refused(
            &place.run(&["init", "--name=mine"]),
            2,
            "mine.secret already exists",
        );
        assert_eq!(
            fs::read_to_string(place.path("mine.secret")).unwrap(),
            secret
        );

        fs::remove_file(place.path("mine.secret")).unwrap();
        place
            .environment
            .insert("SECURE_API_TOKEN".to_owned(), "fake-token".to_owned());
        let ran = place.run(&["init", "--kind", kind.name, "--name=mine"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let with_token = fs::read_to_string(place.path("scanhook.yaml")).unwrap();
        assert!(!written.contains("\nscanner:") && with_token.contains("\nscanner:"));
        assert_eq!(place.run(&["check"]).code, Some(0));
    }
    let place = Place::new();
    refused(
        &place.run(&["init", "--config=none/scanhook.yaml"]),
        2,
        "could not write none/",
    );
}

#[test]
fn the_configuration_of_init_accepts_deliveries() {
    let place = Place::new();
    fs::remove_file(place.path("scanhook.yaml")).unwrap();
    assert_eq!(place.run(&["init"]).code, Some(0));
    let serve = place.serve(&["--no-scan"]);
    let url = format!("--url=http://{}", serve.address);
    let sent = place.run(&["send", "harbor", &url]);
    assert_eq!(sent.code, Some(0), "{}{}", sent.stdout, sent.stderr);
}

#[test]
fn send_with_count_shows_rate_and_latency() {
    let mut place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    let url = format!("--url=http://{}", serve.address);
    let load = place.run(&[
        "send",
        "harbor",
        &url,
        "--count=200",
        "--concurrency=8",
        "--output=json",
    ]);
    assert_eq!(load.code, Some(0), "{}", load.stderr);
    let figures: Value = serde_json::from_str(&load.stdout).unwrap();
    assert_eq!(
        (&figures["deliveries"], &figures["statuses"]),
        (&json!(200), &json!({"202": 200}))
    );
    let of = |name: &str| figures[name].as_f64().unwrap();
    assert!(
        0.0 < of("p50_ms") && of("p50_ms") <= of("p99_ms") && of("p99_ms") <= of("max_ms"),
        "{figures}"
    );
    assert!(
        (of("per_second") * of("seconds") - 200.0).abs() < 0.001,
        "{figures}"
    );
    let table = place.run(&["send", "harbor", &url, "--count=30"]);
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    assert!(
        table.stdout.contains("(p99)") && table.stdout.contains("30 × 202"),
        "{}",
        table.stdout
    );

    place
        .environment
        .insert("HARBOR".to_owned(), "fake-wrong-secret".to_owned());
    let refused = place.run(&[
        "send",
        "harbor",
        &url,
        "--count=5",
        "--summary",
        "--output=json",
    ]);
    assert_eq!(refused.code, Some(1));
    let figures: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!(figures["statuses"], json!({"401": 5}));
    let nobody = place.run(&[
        "send",
        "harbor",
        "--url=http://127.0.0.1:1",
        "--count=5",
        "--summary",
        "--output=json",
    ]);
    assert_eq!(nobody.code, Some(1));
    let figures: Value = serde_json::from_str(&nobody.stdout).unwrap();
    assert_eq!(figures["statuses"], json!({"none": 5}));
}

#[test]
fn a_saved_delivery_is_replayed_with_its_headers() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    let url = format!("--url=http://{}", serve.address);
    fs::write(
        place.path("body"),
        place.delivery("harbor", "harbor.example.com/a/b:7").body,
    )
    .unwrap();
    for _ in 0..2 {
        let sent = place.run(&["send", "harbor", &url, "--file=body"]);
        assert_eq!(sent.code, Some(0), "{}", sent.stdout);
        assert!(
            sent.stdout.contains("harbor.example.com/a/b:7"),
            "{}",
            sent.stdout
        );
    }
    let encoded = place.run(&[
        "send",
        "harbor",
        &url,
        "--file=body",
        "--header=Content-Encoding: gzip",
    ]);
    assert_eq!(encoded.code, Some(1), "{}", encoded.stdout);
    assert!(encoded.stdout.contains("415"), "{}", encoded.stdout);
    let nonsense = place.run(&["send", "harbor", &url, "--header=nonsense"]);
    assert_eq!(nonsense.code, Some(2));
    assert!(
        nonsense.stderr.contains("NAME: VALUE"),
        "{}",
        nonsense.stderr
    );
}

#[test]
fn completions_and_man_pages_cover_every_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let ran = place.run(&["manual", "completions", shell]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        for words in ["redrive", "--no-move-task", "image_not_found"] {
            assert!(
                ran.stdout.contains(words.trim_start_matches("--")),
                "{shell}: {words}"
            );
        }
    }
    assert_eq!(place.run(&["manual", "man", "man1"]).code, Some(0));
    let page = fs::read_to_string(place.path("man1/scanhook-dlq-redrive.1")).unwrap();
    assert!(
        page.contains("Examples:") && page.contains("no\\-move\\-task"),
        "{page}"
    );
    assert!(
        place.path("man1/scanhook.1").is_file() && place.path("man1/scanhook-serve.1").is_file()
    );
}
