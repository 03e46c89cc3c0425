//! Message move tasks: return dead letters to their queues, at a limited rate.
//!
//! **Invariant**: at any moment a message is in exactly one of the two queues, and a task resumes after a restart
//! without a burst.

pub(crate) mod mover;

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rusqlite::{OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::attributes::name_in_arn;
use super::error::{Code, Error};
use super::queue::Queue;
use super::store::Db;
use super::{inspect, queue_arn, queues, unique_id};

const FASTEST: i64 = 500;

pub(crate) struct Task {
    id: i64,
    handle: String,
    source: String,
    destination: Option<String>,
    rate: Option<i64>,
    started_at: i64,
    status: String,
    to_move: i64,
    moved: i64,
    failure: Option<String>,
    paced_at: i64,
    paced_from: i64,
    region: String,
}

/// The content of a task's handle.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Handle {
    task_id: String,
    source_arn: String,
}

const SELECT: &str = "SELECT id, handle, source, destination, rate, started_at, status, to_move, moved, failure, paced_at, paced_from
     FROM move_task";

/// Starts to move the messages of the dead-letter queue `source`, and returns the task's handle.
pub(crate) fn start(
    db: &mut Db<'_>,
    source_arn: &str,
    destination_arn: Option<&str>,
    rate: Option<i64>,
) -> Result<String, Error> {
    let refused = |message: &str| Err(Error::new(Code::InvalidParameterValue, message));
    if let Some(rate) = rate.filter(|it| !(1..=FASTEST).contains(it)) {
        let reason = "Must be between 1 and 500, if provided.";
        return Err(Error::invalid_value(
            rate,
            "MaxNumberOfMessagesPerSecond",
            reason,
        ));
    }
    let source = find(db, source_arn, "SourceArn")?;
    let destination = destination_arn
        .map(|arn| find(db, arn, "DestinationArn"))
        .transpose()?;
    if destination.as_ref().is_some_and(|it| it.id == source.id) {
        return refused("Source queue arn and destination queue arn cannot be the same.");
    }
    if queues::sources(db, &source.name)?.is_empty() {
        return refused("Source queue must be configured as a Dead Letter Queue.");
    }
    if running(db)?.iter().any(|task| task.source == source.name) {
        return refused(
            "There is already a task running. Only one active task is allowed for a source queue arn at a given time.",
        );
    }
    let handle = Handle {
        task_id: unique_id(),
        source_arn: source_arn.to_owned(),
    };
    let handle = BASE64_STANDARD.encode(serde_json::to_string(&handle)?);
    let to_move = i64::try_from(inspect::depth(db, &source)?.visible).unwrap_or(i64::MAX);
    db.sql
        .prepare_cached(
            "INSERT INTO move_task (handle, source, destination, rate, started_at, paced_at, status, to_move)
             VALUES (?1, ?2, ?3, ?4, ?5, ?5, 'RUNNING', ?6)",
        )?
        .execute(params![handle, source.name, destination.map(|it| it.name.clone()), rate, db.now, to_move])?;
    Ok(handle)
}

/// Returns the last `count` tasks of a dead-letter queue, newest first.
pub(crate) fn list(db: &Db<'_>, source_arn: &str, count: i64) -> Result<Vec<Task>, Error> {
    let source = find(db, source_arn, "SourceArn")?;
    let mut statement = db.sql.prepare_cached(&format!(
        "{SELECT} WHERE source = ?1 ORDER BY id DESC LIMIT ?2"
    ))?;
    let tasks = statement.query_map(params![source.name, count], |row| {
        let task = from_row(row, db.region)?;
        Ok(Task {
            started_at: db.shift.shown(task.started_at),
            ..task
        })
    })?;
    Ok(tasks.collect::<Result<_, _>>()?)
}

/// Stops a task, and returns how many messages it moved.
pub(crate) fn cancel(db: &Db<'_>, handle: &str) -> Result<i64, Error> {
    let parsed: Option<Handle> = BASE64_STANDARD
        .decode(handle)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let parsed = parsed.ok_or_else(|| {
        Error::new(
            Code::InvalidParameterValue,
            "Value for parameter TaskHandle is invalid.",
        )
    })?;
    find(db, &parsed.source_arn, "SourceArn")?;
    let task = db
        .sql
        .prepare_cached(&format!("{SELECT} WHERE handle = ?1"))?
        .query_row([handle], |row| from_row(row, db.region))
        .optional()?
        .ok_or_else(|| Error::new(Code::ResourceNotFound, "Task does not exist."))?;
    if task.status != "RUNNING" {
        return Err(Error::new(
            Code::InvalidParameterValue,
            "Only active tasks can be cancelled.",
        ));
    }
    finish(db, &task, "CANCELLED", None)?;
    Ok(task.moved)
}

impl Task {
    /// Renders the task for `ListMessageMoveTasks`.
    pub(crate) fn render(self) -> Value {
        let is_running = self.status == "RUNNING";
        let members = [
            ("TaskHandle", is_running.then(|| json!(self.handle))),
            ("Status", Some(json!(self.status))),
            (
                "SourceArn",
                Some(json!(queue_arn(&self.region, &self.source))),
            ),
            (
                "DestinationArn",
                self.destination
                    .map(|it| json!(queue_arn(&self.region, &it))),
            ),
            ("MaxNumberOfMessagesPerSecond", self.rate.map(Value::from)),
            ("ApproximateNumberOfMessagesMoved", Some(json!(self.moved))),
            (
                "ApproximateNumberOfMessagesToMove",
                Some(json!(self.to_move)),
            ),
            ("FailureReason", self.failure.map(Value::from)),
            ("StartedTimestamp", Some(json!(self.started_at))),
        ];
        members
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    }
}

fn finish(db: &Db<'_>, task: &Task, status: &str, failure: Option<&str>) -> Result<(), Error> {
    let sql = "UPDATE move_task SET status = ?2, failure = ?3 WHERE id = ?1";
    db.sql
        .prepare_cached(sql)?
        .execute(params![task.id, status, failure])?;
    Ok(())
}

fn running(db: &Db<'_>) -> Result<Vec<Task>, Error> {
    let mut statement = db
        .sql
        .prepare_cached(&format!("{SELECT} WHERE status = 'RUNNING' ORDER BY id"))?;
    Ok(statement
        .query_map([], |row| from_row(row, db.region))?
        .collect::<Result<_, _>>()?)
}

fn find(db: &Db<'_>, arn: &str, parameter: &str) -> Result<Arc<Queue>, Error> {
    let missing = || {
        let message =
            format!("The resource that you specified for the {parameter} parameter doesn't exist.");
        Error::new(Code::ResourceNotFound, message)
    };
    let name = name_in_arn(arn, db.region).ok_or_else(missing)?;
    queues::find(db, name).map_err(|err| {
        if err.is(Code::QueueDoesNotExist) {
            missing()
        } else {
            err
        }
    })
}

fn from_row(row: &Row<'_>, region: &str) -> Result<Task, rusqlite::Error> {
    Ok(Task {
        id: row.get(0)?,
        handle: row.get(1)?,
        source: row.get(2)?,
        destination: row.get(3)?,
        rate: row.get(4)?,
        started_at: row.get(5)?,
        status: row.get(6)?,
        to_move: row.get(7)?,
        moved: row.get(8)?,
        failure: row.get(9)?,
        paced_at: row.get(10)?,
        paced_from: row.get(11)?,
        region: region.to_owned(),
    })
}
