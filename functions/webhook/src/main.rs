//! The webhook function. Started by Lambda; `scanhook serve` runs the same router without it.

use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use lambda_http::{Request, service_fn};
use scanhook_telemetry::logs::{self, Format};
use scanhook_telemetry::metrics::EmbeddedFormat;
use scanhook_webhook::config;
use tower::ServiceExt as _;

/// How long a delivery waits for a configuration that must be read first.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long an answer waits for the collector of traces: after it the function is frozen.
const COLLECTOR: Duration = Duration::from_millis(200);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let environment = scanhook_config::environment();
    if environment("AWS_LAMBDA_RUNTIME_API").is_none() {
        return fail("this is a Lambda function; `scanhook serve` runs it without Lambda");
    }
    let traces = match logs::init(&environment, "scanhook-webhook", Format::Json) {
        Ok(traces) => traces,
        Err(err) => return fail(&err.to_string()),
    };
    let metrics = EmbeddedFormat::install(&environment);
    let live = match config::load(&environment).await {
        Ok(live) => live,
        Err(err) => return fail(&format!("{err:#}")),
    };
    let service = service_fn(async |request: Request| {
        let router = Router::clone(&*live.present(PATIENCE).await);
        let response = router.oneshot(request).await;
        if let Some(traces) = &traces {
            traces.flush(COLLECTOR).await;
        }
        metrics.flush(scanhook_config::now().as_millisecond());
        response
    });
    match lambda_http::run(service).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => fail(&err.to_string()),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "what an operator reads when the function does not start"
)]
fn fail(message: &str) -> ExitCode {
    eprintln!("webhook: {message}");
    ExitCode::from(2)
}
