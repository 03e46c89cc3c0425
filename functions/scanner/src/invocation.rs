//! What the scanner function is invoked with: a batch of the queue, or a request for an examination.
//!
//! **Invariant**: nothing in a queue can ask for an examination. What the queue delivers has `Records`, and is a batch
//! whatever else it has; a request has none, and only who may invoke the function can make one.

use std::path::Path;
use std::time::Duration;

use aws_lambda_events::sqs::SqsEvent;
use jiff::Timestamp;
use scanhook_config::Environment;
use scanhook_core::image::Image;
use scanhook_core::time::{before, until};
use serde::Deserialize;
use serde_json::Value;

use crate::batch;
use crate::doctor::{self, Check, Images, Outcome};
use crate::scanner::Scanner;

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
    let limit = until(before(deadline, scanner.margin), (scanner.now)());
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

/// How long an invocation lasts whose deadline is not known: as long as Lambda lets one last.
const LONGEST_INVOCATION: Duration = Duration::from_mins(15);

/// The deadline of an invocation, from its milliseconds. One from before this process started means that it is unknown:
/// `cargo lambda watch` always sends the same one.
pub fn deadline(milliseconds: u64, started_at: Timestamp, now: Timestamp) -> Timestamp {
    let deadline = i64::try_from(milliseconds)
        .ok()
        .and_then(|it| Timestamp::from_millisecond(it).ok());
    deadline.filter(|it| *it > started_at).unwrap_or_else(|| {
        now.checked_add(LONGEST_INVOCATION)
            .unwrap_or(Timestamp::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_before_the_start_of_the_process_is_unknown() {
        let now: Timestamp = "2026-11-21T20:00:00Z".parse().unwrap();
        let in_15_minutes: Timestamp = "2026-11-21T20:15:00Z".parse().unwrap();
        assert_eq!(deadline(600_000, now, now), in_15_minutes);
        assert_eq!(deadline(u64::MAX, now, now), in_15_minutes);
        let milliseconds = u64::try_from(now.as_millisecond()).unwrap() + 30_000;
        let in_30_seconds: Timestamp = "2026-11-21T20:00:30Z".parse().unwrap();
        assert_eq!(deadline(milliseconds, now, now), in_30_seconds);
    }
}
