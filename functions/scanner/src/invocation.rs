//! What the scanner function is invoked with: a batch of the queue, or a request for an examination.
//!
//! **Invariant**: nothing in a queue can ask for an examination. What the queue delivers has `Records`, and is a batch
//! whatever else it has; a request has none, and only who may invoke the function can make one.

use std::path::Path;

use aws_lambda_events::sqs::SqsEvent;
use jiff::Timestamp;
use scanhook_config::Environment;
use scanhook_core::image::Image;
use serde::Deserialize;
use serde_json::Value;

use crate::batch::{self, Scanner};
use crate::doctor::{self, Check, Images, Outcome};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRequest {
    doctor: WireImages,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireImages {
    pass_image: Option<String>,
    fail_image: Option<String>,
}

/// Works on a batch, or examines; `{"doctor": {}}` asks for that, and may name the images (`pass_image`, `fail_image`).
/// `deadline` is the invocation's. Runs of an examination write below `scratch`.
pub async fn answer(
    scanner: &Scanner,
    event: Value,
    deadline: Timestamp,
    environment: &Environment,
    scratch: &Path,
) -> anyhow::Result<Value> {
    if event.get("Records").is_some() || event.get("doctor").is_none() {
        let event: SqsEvent = serde_json::from_value(event)?;
        let response = batch::handle(scanner, event, deadline).await;
        return Ok(serde_json::to_value(response)?);
    }
    let WireRequest { doctor: images } = serde_json::from_value(event)?;
    let image =
        |named: Option<String>, other: &str| Image::parse(named.as_deref().unwrap_or(other));
    let images = Images {
        pass: image(images.pass_image, Images::PASS)?,
        fail: image(images.fail_image, Images::FAIL)?,
    };
    let limit = batch::time_left(scanner, deadline);
    let Scanner {
        cli,
        settings,
        registries,
        ..
    } = scanner;
    let account = (settings, registries);
    let diagnosis = doctor::examine(cli, account, images, scratch, environment, limit);
    let mut diagnosis = diagnosis.await?;
    diagnosis.checks.push(ledger_check(scanner).await);
    tracing::info!(
        event = "doctor.finished",
        healthy = diagnosis.is_healthy(),
        "the doctor's findings are the invocation's answer"
    );
    Ok(serde_json::to_value(diagnosis)?)
}

async fn ledger_check(scanner: &Scanner) -> Check {
    let (outcome, detail) = match scanner.ledger.ping().await {
        None => (
            Outcome::NotChecked,
            "SCANHOOK_LEDGER_TABLE is not set".to_owned(),
        ),
        Some(Ok(())) => (Outcome::Ok, "the table answers".to_owned()),
        Some(Err(err)) => (Outcome::Failed, format!("{:#}", anyhow::Error::from(err))),
    };
    Check {
        check: "ledger",
        outcome,
        detail,
    }
}
