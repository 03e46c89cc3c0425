//! Each behaviour does what its row of the table says.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use rustix::process::{Signal, test_kill_process_group};
use scanhook_stand_in::behaviour::{self, Ends};

use crate::cli::{Cli, Hanging, names};

fn last_line(text: &str) -> &str {
    text.lines().next_back().unwrap_or_default()
}

fn stderr_of(name: &str, expected_code: i32) -> String {
    let cli = Cli::new();
    let run = cli.run(&mut cli.named(name));
    assert_eq!(run.code(), Some(expected_code), "{name}: {}", run.stderr);
    assert!(
        run.report.is_none() || expected_code < 2,
        "{name} wrote a report"
    );
    run.stderr
}

#[test]
fn a_certificate_file_must_contain_certificates() {
    let cli = Cli::new();
    for (pem, code) in [
        (None, 3),
        (Some("no certificate"), 3),
        (Some("-----BEGIN CERTIFICATE-----\n"), 0),
    ] {
        if let Some(pem) = pem {
            fs::write(cli.path("certificates.pem"), pem).unwrap();
        }
        let mut command = cli.named("pass");
        command.env("SSL_CERT_FILE", cli.path("certificates.pem"));
        let run = cli.run(&mut command);
        assert_eq!(run.code(), Some(code), "{}", run.stderr);
    }
}

#[test]
fn every_behaviour_ends_as_the_table_says() {
    for behaviour in behaviour::all() {
        let cli = Cli::new();
        let mut command = cli.named(behaviour.name);
        command
            .env("REGISTRY_USER", "robot")
            .env("REGISTRY_PASSWORD", "fake-registry-password");
        match behaviour.ends {
            Ends::Code(code) => {
                let run = cli.run(&mut command);
                assert_eq!(run.code(), Some(code.into()), "{}", behaviour.name);
                assert_eq!(
                    run.report.is_some(),
                    code < 2 && !behaviour.name.starts_with("no-report"),
                    "{}",
                    behaviour.name
                );
            }
            Ends::Second => {
                assert_eq!(cli.run(&mut command).code(), Some(3), "{}", behaviour.name);
                fs::remove_file(cli.path("db/main.db")).unwrap();
                assert_eq!(cli.run(&mut command).code(), Some(0), "{}", behaviour.name);
            }
            Ends::Killed => assert_eq!(
                cli.run(&mut command).status.signal(),
                Some(9),
                "{}",
                behaviour.name
            ),
            Ends::Never => {
                let mut hanging = Hanging::start(&mut command);
                assert_eq!(
                    hanging.kill(Signal::KILL).signal(),
                    Some(9),
                    "{}",
                    behaviour.name
                );
                assert!(!cli.path("report.json").exists(), "{}", behaviour.name);
            }
        }
    }
}

#[test]
fn names_are_different_and_fit_a_repository() {
    let names: Vec<_> = behaviour::all().iter().map(|it| it.name).collect();
    for name in &names {
        assert_eq!(names.iter().filter(|it| *it == name).count(), 1, "{name}");
        assert!(
            name.bytes()
                .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-'),
            "{name}"
        );
    }
}

#[test]
fn the_readme_has_the_row_of_every_behaviour() {
    let readme = include_str!("../../../README.md");
    let rows: Vec<_> = readme.lines().filter(|it| it.starts_with("| `")).collect();
    let expected: Vec<_> = behaviour::all()
        .iter()
        .map(|it| {
            let ends = match it.ends {
                Ends::Code(code) => code.to_string(),
                Ends::Second => "3, then 0".to_owned(),
                Ends::Killed => "SIGKILL".to_owned(),
                Ends::Never => "never".to_owned(),
            };
            format!("| `{}` | {ends} | {} |", it.name, it.about)
        })
        .collect();
    assert_eq!(
        rows,
        expected,
        "the table should be\n{}",
        expected.join("\n")
    );
}

#[test]
fn other_names_pass_and_only_the_last_component_counts() {
    let cli = Cli::new();
    assert_eq!(
        cli.run(&mut cli.scan("pull://registry.example.com/fail/api:1.0"))
            .code(),
        Some(0)
    );
    assert_eq!(
        cli.run(&mut cli.scan("pull://registry.example.com/a/b/c/fail"))
            .code(),
        Some(1)
    );
}

#[test]
fn errors_have_the_words_of_the_real_cli() {
    for (name, code, words) in [
        (
            "bad-token",
            3,
            "Unable to retrieve MainDB: unexpected status 401 Unauthorized. Exiting now",
        ),
        (
            "wrong-region",
            3,
            "Unable to retrieve MainDB ... Exiting now",
        ),
        ("not-found", 3, "MANIFEST_UNKNOWN: manifest unknown"),
        ("registry-401", 3, "UNAUTHORIZED: authentication required"),
        ("registry-login", 3, "UNAUTHORIZED: authentication required"),
        (
            "registry-denied",
            3,
            "DENIED: requested access to the resource is denied",
        ),
        ("rate-limited", 3, "TOOMANYREQUESTS"),
        ("unsupported", 3, "unsupported MediaType"),
        (
            "no-platform",
            3,
            "no child with platform linux/amd64 in index registry.example.com/demo/no-platform",
        ),
        (
            "untrusted-tls",
            3,
            "x509: certificate signed by unknown authority",
        ),
        ("network", 3, "i/o timeout"),
        ("network-5xx", 3, "503 Service Unavailable"),
        ("flaky", 3, "i/o timeout"),
        ("no-space", 3, "no space left on device"),
        ("fill-disk", 3, "no space left on device"),
        ("prints-token", 3, "fake-token-of-a-test"),
        ("exit-2", 2, "invalid argument for flag `--policy'"),
    ] {
        let stderr = stderr_of(name, code);
        assert!(last_line(&stderr).contains(words), "{name}: {stderr}");
        assert!(!last_line(&stderr).contains('{'), "{name}: {stderr}");
    }
}

#[test]
fn a_hang_that_ignores_sigterm_keeps_its_locks() {
    let cli = Cli::new();
    let hanging = Hanging::start(&mut cli.named("hang-ignoring-term"));
    let status = fs::read_to_string(format!("/proc/{}/status", hanging.child.id())).unwrap();
    let ignored = status
        .lines()
        .find_map(|it| it.strip_prefix("SigIgn:"))
        .unwrap();
    assert_ne!(
        u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 << 14,
        0,
        "{status}"
    );
    assert_eq!(cli.run(&mut cli.named("pass")).code(), Some(3));
}

#[test]
fn a_hang_ends_on_sigterm() {
    let cli = Cli::new();
    assert_eq!(
        Hanging::start(&mut cli.named("hang"))
            .kill(Signal::TERM)
            .signal(),
        Some(15)
    );
}

#[test]
fn a_grandchild_outlives_the_sigterm_that_ends_its_parent() {
    let cli = Cli::new();
    let mut hanging = Hanging::start(&mut cli.named("grandchild-hang"));
    assert_eq!(hanging.kill(Signal::TERM).signal(), Some(15));
    test_kill_process_group(hanging.group()).unwrap();
}

#[test]
fn a_grandchild_holds_the_streams_of_a_run_that_has_passed() {
    let cli = Cli::new();
    let mut child = cli
        .named("grandchild")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let group = rustix::process::Pid::from_child(&child);
    test_kill_process_group(group).unwrap();
    rustix::process::kill_process_group(group, Signal::KILL).unwrap();
}

#[test]
fn only_leftovers_leaves_files() {
    let cli = Cli::new();
    assert_eq!(cli.run(&mut cli.named("pass")).code(), Some(0));
    for name in ["work", "home", "tmp"] {
        assert!(names(&cli.path(name)).is_empty(), "{name}");
    }
    assert_eq!(cli.run(&mut cli.named("leftovers")).code(), Some(0));
    for name in ["work", "home", "tmp"] {
        assert_eq!(names(&cli.path(name)), ["layer-1"], "{name}");
    }
    assert_eq!(cli.run(&mut cli.named("fill-disk")).code(), Some(3));
}

#[test]
fn floods_are_as_large_as_promised() {
    let cli = Cli::new();
    assert!(cli.run(&mut cli.named("huge-stderr")).stderr.len() > 100_000_000);
    assert!(cli.run(&mut cli.named("huge-stdout")).stdout.len() >= 100_000_000);
    assert!(
        cli.run(&mut cli.named("huge-report"))
            .json()
            .to_string()
            .len()
            > 64 << 20
    );
}

#[test]
fn prints_env_shows_what_the_child_was_given() {
    let cli = Cli::new();
    let run = cli.run(
        cli.named("prints-env")
            .env("AWS_SECRET_ACCESS_KEY", "fake-aws-key"),
    );
    assert!(
        run.stderr
            .contains("environment AWS_SECRET_ACCESS_KEY=fake-aws-key"),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains("argument --console-log"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_flaky_image_fails_once_for_each_image_and_database_directory() {
    let cli = Cli::new();
    let codes = ["1", "1", "2", "1"].map(|it| {
        cli.run(&mut cli.scan(&format!("pull://a.io/flaky:{it}")))
            .code()
    });
    assert_eq!(codes, [Some(3), Some(0), Some(3), Some(0)]);
}

#[test]
fn a_spoilt_database_fails_until_it_is_deleted() {
    let cli = Cli::new();
    assert_eq!(cli.run(&mut cli.named("database-stale")).code(), Some(0));
    for _ in 0..2 {
        let run = cli.run(&mut cli.named("database-stale"));
        assert_eq!(run.code(), Some(3));
        assert!(
            last_line(&run.stderr).contains("Unable to retrieve MainDB"),
            "{}",
            run.stderr
        );
    }
    assert_eq!(cli.run(&mut cli.named("pass")).code(), Some(3));
    fs::remove_dir_all(cli.path("db")).unwrap();
    assert_eq!(cli.run(&mut cli.named("database-stale")).code(), Some(0));
}
