//! The scanner function. Started by Lambda; `scanhook serve` and `scanhook work` run the same handler without it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use lambda_runtime::{Error, LambdaEvent, service_fn};
use scanhook_scanner::{cli, invocation, lambda};
use scanhook_telemetry::logs::{self, Format};
use scanhook_telemetry::metrics::EmbeddedFormat;
use serde_json::Value;

/// How long an answer waits for the collector of traces: after it the function is frozen. A part of the margin that
/// is kept before the deadline.
const COLLECTOR: Duration = Duration::from_secs(1);

/// How long a batch waits for a configuration that must be read first.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    if let Some(ended) = cli::supervise() {
        return ended;
    }
    cli::protect();
    run()
}

#[tokio::main(flavor = "current_thread")]
async fn run() -> ExitCode {
    let environment = scanhook_config::environment();
    if environment("AWS_LAMBDA_RUNTIME_API").is_none() {
        return fail("this is a Lambda function; `scanhook work` runs it without Lambda");
    }
    let traces = match logs::init(&environment, "scanhook-scanner", Format::Json) {
        Ok(traces) => traces,
        Err(err) => return fail(&err.to_string()),
    };
    let program = Path::new("/opt/bin/sysdig-cli-scanner");
    // On Lambda that is /tmp, the only place to write.
    let scratch = std::env::temp_dir().join("scanhook");
    let metrics = EmbeddedFormat::install(&environment);
    let live = match lambda::open(&environment, program, &scratch).await {
        Ok(live) => live,
        Err(err) => return fail(&format!("{err:#}")),
    };
    let started_at = scanhook_config::now();
    let handler = service_fn(async |event: LambdaEvent<Value>| {
        let scanner = live.present(PATIENCE).await;
        let deadline =
            invocation::deadline(event.context.deadline, started_at, scanhook_config::now());
        let answer = invocation::answer(
            &scanner,
            event.payload,
            deadline,
            &environment,
            Path::new("/tmp"),
        );
        let answer = answer.await.map_err(Error::from);
        if let Some(traces) = &traces {
            traces.flush(COLLECTOR).await;
        }
        metrics.flush(scanhook_config::now().as_millisecond());
        answer
    });
    match lambda_runtime::run(handler).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => fail(&err.to_string()),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "what an operator reads when the function does not start"
)]
fn fail(message: &str) -> ExitCode {
    eprintln!("scanner: {message}");
    ExitCode::from(2)
}
