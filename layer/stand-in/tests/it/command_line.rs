//! Flags, environment, files and streams of a run.

use std::fs;

use crate::cli::{Cli, Hanging, names};

#[test]
fn the_version_shows_which_program_this_is() {
    let cli = Cli::new();
    let version = cli.run(cli.bare().arg("--version"));
    assert_eq!(version.code(), Some(0));
    assert!(
        version.stdout.starts_with("Sysdig CLI Scanner 1."),
        "{}",
        version.stdout
    );
    assert!(
        version.stdout.ends_with("-stand-in\n"),
        "{}",
        version.stdout
    );
}

#[test]
fn wrong_parameters_exit_with_2_and_write_nothing() {
    for argument in [
        "--registry-user=robot",
        "--platform=linux/amd64",
        "--output=xml",
        "--apiurl=https://twice",
        "--standalone",
    ] {
        let cli = Cli::new();
        let run = cli.run(&mut cli.with(&[argument], "pass"));
        assert_eq!(run.code(), Some(2), "{argument}");
        assert!(
            run.report.is_none() && !cli.path("db").exists(),
            "{argument}"
        );
    }
}

#[test]
fn a_token_is_required() {
    let cli = Cli::new();
    for run in [
        cli.run(cli.named("pass").env_remove("SECURE_API_TOKEN")),
        cli.run(cli.named("pass").env("SECURE_API_TOKEN", "")),
    ] {
        assert_eq!(run.code(), Some(2));
        assert_eq!(
            run.stderr,
            "environment variable SECURE_API_TOKEN cannot be empty\n"
        );
    }
}

#[test]
fn a_token_can_be_refused() {
    let cli = Cli::new();
    let run = cli.run(cli.named("pass").env("SECURE_API_TOKEN", "fake-bad-token"));
    assert_eq!(run.code(), Some(3));
    assert!(
        run.stderr.ends_with(
            "Unable to retrieve MainDB: unexpected status 401 Unauthorized. Exiting now\n"
        )
    );
    let run = cli.run(
        cli.named("pass")
            .env("SECURE_API_TOKEN", "fake-wrong-region"),
    );
    assert_eq!(run.code(), Some(3));
    assert!(
        run.stderr
            .ends_with("Unable to retrieve MainDB ... Exiting now\n")
    );
}

#[test]
fn home_and_tmpdir_must_be_writable() {
    let cli = Cli::new();
    for (name, value) in [("HOME", "/proc"), ("TMPDIR", "/nonexistent")] {
        let run = cli.run(cli.named("pass").env(name, value));
        assert_eq!(run.code(), Some(3), "{name}");
        assert!(
            run.stderr
                .contains(&format!("{name} {value} is not writable")),
            "{}",
            run.stderr
        );
    }
    let run = cli.run(cli.named("pass").env_remove("HOME"));
    assert!(
        run.code() == Some(3) && run.stderr.contains("$HOME is not defined"),
        "{}",
        run.stderr
    );
}

#[test]
fn the_second_run_uses_the_cached_database() {
    let cli = Cli::new();
    assert!(
        cli.run(&mut cli.named("pass"))
            .stderr
            .contains("Done 116.3 MB")
    );
    assert!(
        cli.run(&mut cli.named("pass"))
            .stderr
            .contains("Done, using cached DB")
    );
    assert_eq!(names(&cli.path("db")), ["main.db", "main.db.meta.json"]);
    assert_eq!(names(&cli.path("cache")), ["inlineScannerCache.db"]);
}

#[test]
fn a_foreign_database_is_an_error_of_the_database() {
    let cli = Cli::new();
    fs::create_dir(cli.path("db")).unwrap();
    fs::write(cli.path("db/main.db"), "something else").unwrap();
    let run = cli.run(&mut cli.named("pass"));
    assert_eq!(run.code(), Some(3));
    assert!(
        run.stderr
            .contains("Unable to retrieve MainDB: main.db: invalid database"),
        "{}",
        run.stderr
    );
}

#[test]
fn two_runs_share_neither_database_nor_cache() {
    let cli = Cli::new();
    let _hanging = Hanging::start(&mut cli.named("hang"));
    let run = cli.run(&mut cli.named("pass"));
    assert_eq!(run.code(), Some(3));
    assert!(
        run.stderr.contains("unable to open cache"),
        "{}",
        run.stderr
    );
    let other = Cli::new();
    assert_eq!(other.run(&mut other.named("pass")).code(), Some(0));
}

#[test]
fn a_report_that_cannot_be_written_is_an_error() {
    let cli = Cli::new();
    fs::create_dir(cli.path("report.json")).unwrap();
    assert_eq!(cli.run(&mut cli.named("pass")).code(), Some(3));
}
