//! Moves the messages of running tasks, at their rate.

use rusqlite::{OptionalExtension as _, params};
use tokio_util::sync::CancellationToken;

use super::super::attributes::name_in_arn;
use super::super::error::Error;
use super::super::store::{Db, Store};
use super::super::{queues, unique_id};
use super::{Task, finish, running};

/// How many messages a task without a rate moves in one transaction.
const CHUNK: i64 = 100;

/// Advances the tasks until `stopping`.
pub(crate) async fn run(store: &Store, stopping: &CancellationToken) {
    // Downtime doesn't count towards a task's rate: otherwise it would catch up in one burst.
    let mut progress = store.run(|db| rebase(db).and_then(|()| step(db))).await;
    loop {
        let next = match progress {
            Ok(next) => next,
            Err(err) => {
                tracing::error!(
                    error = &err as &dyn std::error::Error,
                    "could not move messages: {err}"
                );
                None
            }
        };
        let due = async {
            match next {
                Some(next) => store.shared.time.sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopping.cancelled() => return,
            () = store.shared.task_started.notified() => {}
            () = due => {}
        }
        progress = store.run(step).await;
    }
}

impl Task {
    /// The number of messages that the task may have moved by `now`.
    fn allowed(&self, now: i64) -> i64 {
        self.rate.map_or(self.moved + CHUNK, |rate| {
            self.paced_from + 1 + (now - self.paced_at) * rate / 1000
        })
    }

    fn next_due(&self, now: i64) -> i64 {
        self.rate.map_or(now, |rate| {
            self.paced_at + ((self.moved - self.paced_from) * 1000 + rate - 1) / rate
        })
    }
}

fn rebase(db: &mut Db<'_>) -> Result<(), Error> {
    let sql = "UPDATE move_task SET paced_at = ?1, paced_from = moved WHERE status = 'RUNNING'";
    db.sql.prepare_cached(sql)?.execute([db.now])?;
    Ok(())
}

/// Moves every message that is due, and returns when the next one will be.
fn step(db: &mut Db<'_>) -> Result<Option<i64>, Error> {
    let mut next = None;
    for mut task in running(db)? {
        let due = (task.allowed(db.now).min(task.to_move) - task.moved).min(CHUNK);
        let outcome = advance(db, &mut task, due)?;
        db.sql
            .prepare_cached("UPDATE move_task SET moved = ?2 WHERE id = ?1")?
            .execute([task.id, task.moved])?;
        match outcome {
            Progress::Failed(reason) => finish(db, &task, "FAILED", Some(reason))?,
            Progress::Drained => finish(db, &task, "COMPLETED", None)?,
            Progress::Moved if task.moved >= task.to_move => finish(db, &task, "COMPLETED", None)?,
            Progress::Moved => {
                let due = task.next_due(db.now);
                next = Some(next.map_or(due, |it: i64| it.min(due)));
            }
        }
    }
    Ok(next)
}

enum Progress {
    Moved,
    Drained,
    Failed(&'static str),
}

fn advance(db: &mut Db<'_>, task: &mut Task, due: i64) -> Result<Progress, Error> {
    const GONE: Progress = Progress::Failed("AWS.SimpleQueueService.NonExistentQueue");
    let Ok(source) = queues::find(db, &task.source) else {
        return Ok(GONE);
    };
    for _ in 0..due {
        let message: Option<(i64, Option<String>)> = db
            .sql
            .prepare_cached(
                "SELECT seq, dead_letter_source FROM message WHERE queue = ?1 AND visible_at <= ?2
                 ORDER BY visible_at, seq LIMIT 1",
            )?
            .query_row([source.id, db.now], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((seq, origin)) = message else {
            return Ok(Progress::Drained);
        };
        let origin = origin
            .as_deref()
            .and_then(|arn| name_in_arn(arn, db.region));
        let Some(destination) = task.destination.as_deref().or(origin) else {
            return Ok(Progress::Failed("CouldNotDetermineMessageSource"));
        };
        let Ok(destination) = queues::find(db, destination) else {
            return Ok(GONE);
        };
        // A moved message is a new one: new id, new age, no receives.
        db.sql
            .prepare_cached(
                "INSERT INTO message (queue, id, body, attributes, group_id, trace_header, sent_at, visible_at)
                 SELECT ?2, ?3, body, attributes, group_id, trace_header, ?4, ?4 FROM message WHERE seq = ?1",
            )?
            .execute(params![seq, destination.id, unique_id(), db.now])?;
        db.sql
            .prepare_cached("DELETE FROM message WHERE seq = ?1")?
            .execute([seq])?;
        db.wake(destination.id);
        task.moved += 1;
    }
    Ok(Progress::Moved)
}
