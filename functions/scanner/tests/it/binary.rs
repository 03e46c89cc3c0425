//! The function's executable, started by hand.

use std::process::{Command, Output};

fn start(variables: &[(&str, &str)]) -> Output {
    #[expect(
        clippy::disallowed_methods,
        reason = "it is the executable that is tested"
    )]
    let mut command = Command::new(env!("CARGO_BIN_EXE_scanner"));
    command.env_clear().envs(variables.iter().copied());
    command.output().unwrap()
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
