//! How `serve` starts, or refuses to with one line that explains why.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::world::{Place, Ran, YAML, wait_for};

/// One clear line on stderr and exit code 2.
#[track_caller]
fn refused(ran: &Ran, words: &str) {
    assert_eq!(ran.code, Some(2), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    assert!(ran.stderr.starts_with("scanhook: "), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

fn serve_on_free_ports(place: &Place, arguments: &[&str]) -> Ran {
    let free = ["serve", "--listen=127.0.0.1:0", "--sqs-listen=127.0.0.1:0"];
    place.run(&[&free, arguments].concat())
}

#[test]
fn a_second_serve_on_a_data_directory_is_refused() {
    let place = Place::new();
    let first = place.serve(&[]);
    refused(
        &serve_on_free_ports(&place, &[]),
        "another scanhook uses the data directory",
    );
    assert_eq!(first.get("/healthz").status, 200);
}

#[test]
fn a_port_in_use_is_named_with_the_flag_for_another() {
    let place = Place::new();
    let first = place.serve(&[]);
    let (listen, sqs_listen) = (
        format!("--listen={}", first.address),
        format!("--sqs-listen={}", first.sqs_address),
    );
    let ran = place.run(&[
        "serve",
        "--data-dir=other",
        &listen,
        "--sqs-listen=127.0.0.1:0",
    ]);
    refused(
        &ran,
        &format!(
            "could not listen on {}; choose another address with --listen: ",
            first.address
        ),
    );
    let ran = place.run(&[
        "serve",
        "--data-dir=other",
        "--listen=127.0.0.1:0",
        &sqs_listen,
    ]);
    refused(
        &ran,
        &format!(
            "could not listen on {}; choose another address with --sqs-listen: ",
            first.sqs_address
        ),
    );
}

#[test]
fn a_bad_configuration_is_refused() {
    let mut place = Place::new();
    refused(
        &serve_on_free_ports(&place, &["--config=none.yaml"]),
        "no configuration found; write one with `scanhook init`, or name one with --config: could not read the configuration file none.yaml",
    );
    for (yaml, words) in [
        (
            "",
            "sources (line 1, column 1): expected a map of at least one source, found nothing",
        ),
        (
            "sources: {}\n",
            "sources (line 1, column 10): expected a map of at least one source, found an empty map",
        ),
        (": :\n", "scanhook.yaml"),
        ("\0", "scanhook.yaml"),
        (
            &YAML.replace("concurrency: 4", "concurrency: 0"),
            "expected a number between 1 and 64, found a number",
        ),
        (&YAML.replace("scanner:", "skanner:"), "skanner"),
        (&format!("{YAML}scanner: {{}}\n"), "scanner"),
        (
            &YAML.replace("scanner: {", "limits: {}\n# {"),
            "scanner: missing: without it nothing can be scanned",
        ),
    ] {
        fs::write(place.path("scanhook.yaml"), yaml).unwrap();
        refused(&serve_on_free_ports(&place, &[]), words);
    }
    fs::write(place.path("scanhook.yaml"), YAML).unwrap();
    place.environment.remove("GHCR");
    refused(
        &serve_on_free_ports(&place, &[]),
        "sources.ghcr.auth[0].secret: the environment variable GHCR is not set",
    );
}

#[test]
fn a_missing_cli_is_refused_with_advice() {
    let mut place = Place::new();
    refused(
        &serve_on_free_ports(&place, &["--scanner-cli=./none"]),
        "name the Sysdig CLI with --scanner-cli, or start with --no-scan",
    );
    refused(
        &serve_on_free_ports(&place, &["--scanner-cli=./bin"]),
        "--no-scan",
    );
    refused(
        &serve_on_free_ports(&place, &["--scanner-cli=./scanhook.yaml"]),
        "scanhook.yaml is not executable; name the Sysdig CLI with --scanner-cli, or start with --no-scan",
    );
    place
        .environment
        .insert("PATH".to_owned(), "/nowhere".to_owned());
    refused(
        &serve_on_free_ports(&place, &[]),
        "name the Sysdig CLI with --scanner-cli, or start with --no-scan",
    );
}

#[test]
fn an_unusable_data_directory_is_refused() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    refused(&serve_on_free_ports(&place, &["--data-dir=file"]), "file");
    refused(
        &serve_on_free_ports(&place, &["--data-dir=file/below"]),
        "file/below",
    );
    refused(
        &serve_on_free_ports(&place, &["--data-dir=/proc/none"]),
        "/proc/none",
    );
    for (file, words) in [
        ("queue.sqlite", "queue.sqlite"),
        ("ledger.sqlite", "ledger.sqlite"),
    ] {
        let directory = place.path(&format!("broken {file}"));
        fs::create_dir(&directory).unwrap();
        fs::write(
            directory.join(file),
            "this is no database, but long enough to be one".repeat(10),
        )
        .unwrap();
        let argument = format!("--data-dir={}", directory.display());
        refused(&serve_on_free_ports(&place, &[&argument]), words);
        assert!(
            fs::read_to_string(directory.join(file))
                .unwrap()
                .starts_with("this is no database")
        );
    }
}

#[test]
fn only_its_owner_can_read_a_data_directory() {
    let place = Place::new();
    let _serve = place.serve(&["--no-scan", "--data-dir=a b/ü"]);
    let mode = fs::metadata(place.path("a b/ü"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn paths_with_spaces_and_ipv6_addresses_work() {
    let place = Place::new();
    fs::rename(place.path("bin"), place.path("the bin")).unwrap();
    fs::rename(place.path("scanhook.yaml"), place.path("the config.yaml")).unwrap();
    let serve = place.serve(&[
        "--listen=[::1]:0",
        "--sqs-listen=[::1]:0",
        "--config=the config.yaml",
        "--data-dir=the data",
        "--scanner-cli=the bin/sysdig-cli-scanner",
    ]);
    fs::rename(place.path("the config.yaml"), place.path("scanhook.yaml")).unwrap();
    let scan_id = serve.queue(&place.delivery("registry", "registry.example.com/prod/pass:1"));
    let shown = wait_for("a verdict", || {
        let ran = place.run(&[
            "scans",
            "show",
            &scan_id,
            "--data-dir=the data",
            "--output=json",
        ]);
        ran.stdout.contains(r#""state": "done""#).then_some(ran)
    });
    assert!(
        shown.stdout.contains(r#""verdict": "passed""#),
        "{}",
        shown.stdout
    );
    assert_eq!(serve.get("/readyz").status, 200);
}

#[test]
fn images_queued_without_a_scanner_are_scanned_after_a_later_start() {
    let place = Place::new();
    let taking = place.serve(&["--no-scan"]);
    let scan_id = taking.queue(&place.delivery("ghcr", "ghcr.io/prod/fail:1"));
    assert_eq!(place.scans(), [] as [serde_json::Value; 0]);
    let list = place.run(&["scans", "list"]);
    assert_eq!(
        (list.code, list.stderr.as_str()),
        (Some(0), "no scans found\n")
    );
    taking.stop();
    assert_eq!(place.messages("scanhook").len(), 1);
    let scanning = place.serve(&[]);
    assert_eq!(place.settled(&scan_id)["verdict"], json!("failed"));
    scanning.stop();
    assert_eq!(place.messages("scanhook").len(), 0);
}

#[test]
fn a_start_waits_for_the_lock_of_a_killed_server() {
    let place = Place::new();
    fs::create_dir(place.data_dir()).unwrap();
    let path = place.data_dir().join("lock");
    // A child between fork and exec still has the lock of its parent, even if the parent was killed.
    let lock = fs::File::create(&path).unwrap();
    lock.lock().unwrap();
    let mut serve = place.start(&[]);
    wait_for("a look at the lock", || {
        let files = fs::read_dir(format!("/proc/{}/fd", serve.pid())).unwrap();
        let mut files = files
            .flatten()
            .filter_map(|it| fs::read_link(it.path()).ok());
        files.find(|it| *it == path)
    });
    drop(lock);
    serve.wait_until_ready();
}
