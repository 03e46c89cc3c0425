//! Operations on message move tasks.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::error::Error;
use super::super::tasks::{self, Task};
use super::Call;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireTask {
    source_arn: Option<String>,
    destination_arn: Option<String>,
    max_number_of_messages_per_second: Option<i64>,
    max_results: Option<i64>,
    task_handle: Option<String>,
}

pub(super) async fn start(call: Call) -> Result<Value, Error> {
    let wire: WireTask = call.parse()?;
    let source = wire
        .source_arn
        .ok_or_else(|| Error::missing_parameter("SourceArn"))?;
    let (destination, rate) = (wire.destination_arn, wire.max_number_of_messages_per_second);
    let started = call
        .store
        .run(move |db| tasks::start(db, &source, destination.as_deref(), rate));
    let handle = started.await?;
    call.store.shared.task_started.notify_one();
    Ok(json!({"TaskHandle": handle}))
}

pub(super) async fn list(call: Call) -> Result<Value, Error> {
    let wire: WireTask = call.parse()?;
    let source = wire
        .source_arn
        .ok_or_else(|| Error::missing_parameter("SourceArn"))?;
    let count = wire.max_results.unwrap_or(1);
    if !(1..=10).contains(&count) {
        return Err(Error::invalid_value(
            count,
            "MaxResults",
            "Must be between 1 and 10, if provided.",
        ));
    }
    let listed = call.store.run(move |db| tasks::list(db, &source, count));
    let results: Vec<_> = listed.await?.into_iter().map(Task::render).collect();
    Ok(json!({"Results": results}))
}

pub(super) async fn cancel(call: Call) -> Result<Value, Error> {
    let wire: WireTask = call.parse()?;
    let handle = wire
        .task_handle
        .ok_or_else(|| Error::missing_parameter("TaskHandle"))?;
    let moved = call.store.run(move |db| tasks::cancel(db, &handle)).await?;
    Ok(json!({"ApproximateNumberOfMessagesMoved": moved}))
}
