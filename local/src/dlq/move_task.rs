//! Redrives a whole dead-letter queue by a move task, which SQS runs itself.
//!
//! **Invariant**: the task always names a destination. Without one, SQS fails on messages that were sent to the queue rather than
//! moved, as the scanner's are.

use std::time::Duration;

use anyhow::{Context as _, bail};
use aws_sdk_sqs::types::ListMessageMoveTasksResultEntry;
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use super::act::Summary;
use super::queue::{DeadLetterQueue, Destination};
use crate::output;

/// How often to poll the task.
const POLL: Duration = Duration::from_millis(500);

/// Starts a move task, or joins the one that an earlier command started, and waits for its end. A request to stop cancels the
/// task.
pub(crate) async fn move_all(
    queue: &DeadLetterQueue,
    destination: &Destination,
    rate: u16,
    progress: &ProgressBar,
    stop: &CancellationToken,
) -> anyhow::Result<Summary> {
    match latest(queue).await?.filter(is_running) {
        Some(task) if task.destination_arn() != Some(&destination.arn) => {
            let elsewhere = task.destination_arn().unwrap_or("their source queues");
            bail!("SQS is already moving the messages to {elsewhere}");
        }
        Some(_) => output::notice("SQS is already moving the messages; waiting for it to finish"),
        None => {
            let call = queue
                .client
                .start_message_move_task()
                .source_arn(&queue.arn);
            let call = call.destination_arn(&destination.arn);
            let started = call
                .max_number_of_messages_per_second(i32::from(rate))
                .send()
                .await;
            let advice = "could not start a move task in SQS; --no-move-task sends and deletes each message instead";
            started.context(advice)?;
        }
    }
    let mut interrupted = false;
    loop {
        let Some(task) = latest(queue).await? else {
            bail!("SQS no longer lists the move task");
        };
        let moved = usize::try_from(task.approximate_number_of_messages_moved()).unwrap_or(0);
        progress.set_position(moved as u64);
        if !is_running(&task) {
            if let Some(reason) = task.failure_reason() {
                bail!("SQS moved {moved} messages and then failed: {reason}");
            }
            // Messages that failed again meanwhile are in the queue, but the task has moved them.
            let to_move = task.approximate_number_of_messages_to_move().unwrap_or(0);
            let to_move = usize::try_from(to_move).unwrap_or(0);
            return Ok(Summary {
                redriven: moved,
                deleted_messages: moved,
                left_messages: to_move.saturating_sub(moved),
                interrupted,
                ..Summary::default()
            });
        }
        if stop.is_cancelled() && !interrupted {
            interrupted = true;
            let handle = task.task_handle().unwrap_or_default();
            let cancelled = queue
                .client
                .cancel_message_move_task()
                .task_handle(handle)
                .send()
                .await;
            // The task may have ended meanwhile; the next poll shows it.
            if let Err(err) = cancelled {
                tracing::debug!("could not cancel the move task: {err}");
            }
            continue;
        }
        tokio::select! {
            () = stop.cancelled(), if !interrupted => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

async fn latest(
    queue: &DeadLetterQueue,
) -> anyhow::Result<Option<ListMessageMoveTasksResultEntry>> {
    let call = queue
        .client
        .list_message_move_tasks()
        .source_arn(&queue.arn);
    let listed = call.max_results(1).send().await;
    let listed = listed
        .context("could not list the move tasks of SQS; --no-move-task works without them")?;
    Ok(listed.results.and_then(|it| it.into_iter().next()))
}

fn is_running(task: &ListMessageMoveTasksResultEntry) -> bool {
    matches!(task.status(), Some("RUNNING" | "CANCELLING"))
}
