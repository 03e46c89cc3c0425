//! The function's executable, started by hand.

use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// Held while the function runs: all of them have one scratch directory.
static SCRATCH: Mutex<()> = Mutex::new(());

fn start(variables: &[(&str, &str)]) -> Output {
    #[expect(
        clippy::disallowed_methods,
        reason = "it is the executable that is tested"
    )]
    let mut command = Command::new(env!("CARGO_BIN_EXE_scanner"));
    command.env_clear().envs(variables.iter().copied());
    let _alone = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner);
    command.output().unwrap()
}

const CONFIG: &str = r#"
sources: { prod: { kind: harbor, registry: harbor.example.com, auth: [{ type: token, secret: "env:NOT_READ" }] } }
scanner: { api_token: "env:API_TOKEN" }
"#;

#[test]
fn a_configuration_that_no_scanner_can_work_with_is_told_by_its_keys_path_and_never_by_its_value() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("scanhook.yaml");
    let location = format!("file:{}", file.display());
    let start_with = |config: &str, more: &[(&str, &str)]| {
        std::fs::write(&file, config).unwrap();
        let variables = [
            ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9"),
            ("SCANHOOK_QUEUE_URL", "http://127.0.0.1:9/0/scans"),
            ("SCANHOOK_CONFIG", &location),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "canary-access-key"),
            ("AWS_SECRET_ACCESS_KEY", "canary-secret-key"),
            // So that nothing but loopback is asked.
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        let output = start(&[&variables, more].concat());
        assert_eq!(output.status.code(), Some(2));
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(!line.contains("canary"), "{line}");
        line
    };
    let queue = ("SCANHOOK_DLQ_URL", "http://127.0.0.1:9/0/dlq");
    let token = ("API_TOKEN", "canary");
    for (config, more, expected) in [
        (CONFIG, &[token][..], "SCANHOOK_DLQ_URL is not set"),
        (CONFIG, &[queue], "scanner.api_token"),
        (
            CONFIG,
            &[queue, token],
            "the queue http://127.0.0.1:9/0/scans",
        ),
        (
            &CONFIG.replace("sources", "sauces"),
            &[queue, token],
            "sauces",
        ),
    ] {
        let line = start_with(config, more);
        assert!(
            line.starts_with("scanner: ") && line.contains(expected),
            "{line}"
        );
    }
}

#[test]
fn what_is_missing_at_start_is_told_in_one_line() {
    for (variables, expected) in [
        (
            vec![],
            "scanner: this is a Lambda function; `scanhook work` runs it without Lambda\n",
        ),
        (
            vec![("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9")],
            "scanner: SCANHOOK_QUEUE_URL is not set\n",
        ),
        (
            vec![
                ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9"),
                ("SCANHOOK_QUEUE_URL", "http://127.0.0.1:9/0/scans"),
                ("SCANHOOK_DLQ_URL", "http://127.0.0.1:9/0/dlq"),
                ("SCANHOOK_CONFIG", "file:/nowhere/scanhook.yaml"),
            ],
            "scanner: could not read the configuration file /nowhere/scanhook.yaml: the file /nowhere/scanhook.yaml can't be read (entity not found)\n",
        ),
    ] {
        let output = start(&variables);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
    }
}
