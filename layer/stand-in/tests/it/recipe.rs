//! `layer/pin` and `layer/fetch`, against a server on loopback or a local file.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::cli::names;

const BINARY: &[u8] = b"#!/bin/sh\necho a scanner\n";

/// A copy of the layer's scripts, with a lock that wants [`BINARY`].
struct Layer(TempDir);

impl Layer {
    fn new() -> Self {
        let layer = Self(TempDir::new().unwrap());
        for name in ["pin", "fetch"] {
            fs::copy(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name),
                layer.path(name),
            )
            .unwrap();
        }
        let (amd64, arm64) = (sum(BINARY), sum(b"another"));
        let lock = format!(
            "version = \"1.2.3\"\nreleased = \"2026-01-01\"\nsha256_amd64 = \"{amd64}\"\nsha256_arm64 = \"{arm64}\"\n"
        );
        fs::write(layer.path("sysdig-cli.lock"), lock).unwrap();
        layer
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn lock(&self) -> String {
        fs::read_to_string(self.path("sysdig-cli.lock")).unwrap()
    }

    fn run(&self, script: &str, arguments: &[&str], base: &str) -> Output {
        Command::new(self.path(script))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TMPDIR", self.path("tmp"))
            .env("SYSDIG_DOWNLOAD_URL", base)
            .output()
            .unwrap()
    }

    fn fetch(&self, arguments: &[&str], base: &str) -> Output {
        fs::create_dir_all(self.path("tmp")).unwrap();
        let output = self.run("fetch", arguments, base);
        assert!(names(&self.path("tmp")).is_empty(), "left in TMPDIR");
        output
    }
}

/// Whether a program is installed; a machine with only Rust and a C compiler may lack some that the layer's scripts use.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    #[expect(clippy::print_stderr, reason = "a test that is skipped must say so")]
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

fn sum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Serves these paths on loopback until the test process ends; anything else is a 404 with a body.
fn serve(files: Vec<(&'static str, Vec<u8>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head: Vec<_> = BufReader::new(&stream)
                .lines()
                .map(Result::unwrap)
                .take_while(|it| !it.is_empty())
                .collect();
            let path = head[0].split(' ').nth(1).unwrap();
            let (status, body) = match files.iter().find(|(name, _)| *name == path) {
                Some((_, body)) => ("200 OK", body.as_slice()),
                None => ("404 Not Found", b"<html>not found</html>".as_slice()),
            };
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            )
            .unwrap();
            stream.write_all(body).unwrap();
        }
    });
    base
}

fn sums(amd64: String, arm64: String) -> String {
    serve(vec![
        (
            "/1.30.0/linux/amd64/sysdig-cli-scanner.sha256",
            amd64.into_bytes(),
        ),
        (
            "/1.30.0/linux/arm64/sysdig-cli-scanner.sha256",
            arm64.into_bytes(),
        ),
    ])
}

#[test]
fn pin_shows_both_published_checksums_and_writes_them() {
    if !has("curl") {
        return;
    }
    let layer = Layer::new();
    let (amd64, arm64) = (sum(b"a"), sum(b"b"));
    let base = sums(
        format!("{amd64}  sysdig-cli-scanner\n"),
        format!("{arm64}\n"),
    );
    let output = layer.run("pin", &["1.30.0", "2026-11-01"], &base);
    assert!(output.status.success(), "{}", stderr(&output));
    let lock = layer.lock();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), lock);
    for line in [
        "version = \"1.30.0\"".to_owned(),
        "released = \"2026-11-01\"".to_owned(),
        format!("sha256_amd64 = \"{amd64}\""),
        format!("sha256_arm64 = \"{arm64}\""),
    ] {
        assert!(lock.lines().any(|it| it == line), "{line} in\n{lock}");
    }
    assert_eq!(names(layer.0.path()), ["fetch", "pin", "sysdig-cli.lock"]);
}

#[test]
fn pin_keeps_the_lock_if_a_checksum_is_missing_or_invalid() {
    if !has("curl") {
        return;
    }
    let good = || sum(b"a");
    for (amd64, arm64, expected) in [
        (
            "<html>maintenance</html>".to_owned(),
            good(),
            "no sha256 in",
        ),
        (good(), good().to_uppercase(), "no sha256 in"),
        (good(), format!("{}0", good()), "no sha256 in"),
        (good(), String::new(), "no sha256 in"),
        (good(), good(), "both architectures"),
    ] {
        let layer = Layer::new();
        let before = layer.lock();
        let output = layer.run("pin", &["1.30.0"], &sums(amd64, arm64));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(layer.lock(), before);
        assert_eq!(names(layer.0.path()), ["fetch", "pin", "sysdig-cli.lock"]);
    }
    let layer = Layer::new();
    let output = layer.run("pin", &["1.31.0"], &sums(good(), good()));
    assert!(
        stderr(&output).contains("could not read http://127.0.0.1"),
        "{}",
        stderr(&output)
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn pin_accepts_only_a_version_and_a_date() {
    let layer = Layer::new();
    for arguments in [
        &[][..],
        &["v1.30.0"],
        &["latest"],
        &["1.30.0", "today"],
        &["1.30.0\nx = 1"],
        &["1.30.0", "2026-11-01", "x"],
    ] {
        assert_eq!(
            layer
                .run("pin", arguments, "http://127.0.0.1:1")
                .status
                .code(),
            Some(2),
            "{arguments:?}"
        );
    }
}

#[test]
fn fetch_builds_the_tree_from_the_network() {
    if !has("curl") {
        return;
    }
    let layer = Layer::new();
    let base = serve(vec![(
        "/1.2.3/linux/amd64/sysdig-cli-scanner",
        BINARY.to_vec(),
    )]);
    let to = layer.path("opt");
    let output = layer.fetch(&["--arch", "amd64", "--to", to.to_str().unwrap()], &base);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(names(&to.join("bin")), ["sysdig-cli-scanner"]);
    let placed = to.join("bin/sysdig-cli-scanner");
    assert_eq!(fs::read(&placed).unwrap(), BINARY);
    assert_eq!(
        fs::metadata(&placed).unwrap().permissions().mode() & 0o7777,
        0o755
    );
    assert_eq!(
        fs::metadata(to.join("bin")).unwrap().permissions().mode() & 0o7777,
        0o755
    );
}

#[test]
fn fetch_accepts_a_local_file_without_the_network() {
    let layer = Layer::new();
    let file = layer.path("local binary");
    fs::write(&file, BINARY).unwrap();
    let to = layer.path("opt");
    let arguments = [
        "--arch",
        "amd64",
        "--to",
        to.to_str().unwrap(),
        "--file",
        file.to_str().unwrap(),
    ];
    // Nothing listens there.
    let output = layer.fetch(&arguments, "http://127.0.0.1:1");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(to.join("bin/sysdig-cli-scanner")).unwrap(), BINARY);
}

#[test]
fn a_changed_byte_stops_fetch_and_leaves_nothing() {
    let layer = Layer::new();
    let mut changed = BINARY.to_vec();
    changed[3] ^= 1;
    let file = layer.path("changed");
    fs::write(&file, &changed).unwrap();
    let base = serve(vec![("/1.2.3/linux/amd64/sysdig-cli-scanner", changed)]);
    let to = layer.path("opt");
    let to = to.to_str().unwrap();
    for arguments in [
        &["--arch", "amd64", "--to", to][..],
        &[
            "--arch",
            "amd64",
            "--to",
            to,
            "--file",
            file.to_str().unwrap(),
        ],
        &[
            "--arch",
            "arm64",
            "--to",
            to,
            "--file",
            file.to_str().unwrap(),
        ],
        // A 404's body must not become the binary.
        &["--arch", "arm64", "--to", to],
        &["--arch", "amd64", "--to", to, "--file", "/nonexistent"],
    ] {
        let output = layer.fetch(arguments, &base);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(!Path::new(to).exists(), "{arguments:?}");
    }
}

#[test]
fn fetch_keeps_the_good_binary_when_a_bad_one_follows() {
    let layer = Layer::new();
    let to = layer.path("opt");
    fs::create_dir_all(to.join("bin")).unwrap();
    fs::write(to.join("bin/sysdig-cli-scanner"), "the good one").unwrap();
    let output = layer.fetch(
        &[
            "--arch",
            "amd64",
            "--to",
            to.to_str().unwrap(),
            "--file",
            "/dev/null",
        ],
        "",
    );
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        fs::read(to.join("bin/sysdig-cli-scanner")).unwrap(),
        b"the good one"
    );
}

#[test]
fn fetch_accepts_only_its_own_arguments() {
    let layer = Layer::new();
    for arguments in [
        &[][..],
        &["--arch", "amd64"],
        &["--arch", "mips", "--to", "/x"],
        &["--arch"],
        &["--stand-in", "1"],
    ] {
        assert_eq!(
            layer.fetch(arguments, "").status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
}

#[test]
fn sam_builds_the_layer_with_make() {
    if !has("make") {
        return;
    }
    let layer = Layer::new();
    let makefile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Makefile");
    fs::copy(makefile, layer.path("Makefile")).unwrap();
    fs::write(layer.path("binary"), BINARY).unwrap();
    let artifacts = layer.path("artifacts");
    let output = Command::new("make")
        .args(["build-SysdigCliLayer", "ARCH=amd64", "CLI_FILE=binary"])
        .env("ARTIFACTS_DIR", &artifacts)
        .current_dir(layer.0.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(names(&artifacts.join("bin")), ["sysdig-cli-scanner"]);
}
