//! `scanhook dlq`: inspects, redrives, exports and deletes dead letters.
//!
//! In reading order: [`queue`] (which queue), [`dead_letter`] (its content, as values), [`receive`] (how it is read), [`view`] (how
//! it is shown), [`act`] and [`move_task`] (how it is changed), [`advice`] (what an operator should do).

pub(crate) mod act;
pub(crate) mod advice;
pub(crate) mod dead_letter;
mod move_task;
mod queue;
mod receive;
mod view;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::ProgressBar;
use jiff::Timestamp;
use scanhook_scanner::ledger::{History as _, LedgerError};
use scanhook_worker::clock::Clock;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::act::{Action, Summary};
use self::dead_letter::{DeadLetter, Filter};
use self::queue::DeadLetterQueue;
use self::receive::{Detail, Snapshot};
use crate::args::Output;
use crate::args::dlq::{
    DlqCommand, DlqDeleteArgs, DlqExportArgs, DlqListArgs, DlqQueueArgs, DlqRedriveArgs,
    DlqShowArgs,
};
use crate::host::data_dir;
use crate::host::signals;
use crate::outcome::{Outcome, unusable};
use crate::output;
use crate::scans::Records;

/// The command was asked to stop, and has released every message.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; nothing was changed")]
struct Interrupted;

pub(crate) async fn command(command: DlqCommand) -> anyhow::Result<Outcome> {
    let stop = CancellationToken::new();
    let work = Box::pin(async {
        match command {
            DlqCommand::List(args) => list(&args, &stop).await,
            DlqCommand::Show(args) => show(&args, &stop).await,
            DlqCommand::Redrive(args) => redrive(&args, &stop).await,
            DlqCommand::Export(args) => export(&args, &stop).await,
            DlqCommand::Delete(args) => delete(&args, &stop).await,
        }
    });
    signals::until_stopped(work, &stop).await
}

/// The content of a dead-letter queue at one moment.
struct Content {
    queue: DeadLetterQueue,
    /// About how many messages could not be read.
    hidden: u64,
    /// Oldest failure first.
    dead_letters: Vec<DeadLetter>,
    now: Timestamp,
}

impl Content {
    fn matching(&self, filter: &Filter) -> Vec<DeadLetter> {
        self.dead_letters
            .iter()
            .filter(|it| filter.admits(it))
            .cloned()
            .collect()
    }

    fn notice_hidden(&self) {
        let hidden = self.hidden;
        if hidden > 0 {
            output::notice(&format!(
                "about {hidden} more messages are hidden: something else holds them, or they are gone already (SQS's counts lag by about a minute); try again later"
            ));
        }
    }
}

/// Reads every message, and the ledger's records of the dead letters that `filter` can match.
async fn read(
    args: &DlqQueueArgs,
    filter: &Filter,
    detail: Detail,
    stop: &CancellationToken,
) -> anyhow::Result<Content> {
    let queue = DeadLetterQueue::open(args).await?;
    let progress = output::progress(queue.visible, "reading messages");
    let snapshot = receive::snapshot(&queue, detail, &progress, stop).await;
    progress.finish_and_clear();
    let Snapshot { messages, hidden } = snapshot?;
    let now = Clock::System.now();
    let dead_letters = dead_letter::group_by_scan(messages);
    let dead_letters = match records(args).await? {
        Some(records) => with_records(dead_letters, &records, filter, now).await?,
        None => dead_letters,
    };
    Ok(Content {
        queue,
        hidden,
        dead_letters,
        now,
    })
}

/// The ledger, if there is one.
async fn records(args: &DlqQueueArgs) -> anyhow::Result<Option<Records>> {
    if args.ledger.table.is_none() && !data_dir::ledger(&args.ledger.data_dir).is_file() {
        return Ok(None);
    }
    Records::open(&args.ledger).await.map(Some)
}

/// The number of concurrent reads from the ledger.
const LEDGER_READS: usize = 16;

/// Adds the ledger's records. Dead letters that the filter excludes in any case are not looked up, to save reads.
async fn with_records(
    dead_letters: Vec<DeadLetter>,
    records: &Records,
    filter: &Filter,
    now: Timestamp,
) -> anyhow::Result<Vec<DeadLetter>> {
    let progress = output::progress(dead_letters.len() as u64, "reading the ledger");
    let joined = stream::iter(dead_letters).map(async |dead_letter| {
        let newest = dead_letter.messages().last();
        let scan_id = newest.and_then(|it| it.scan_id.clone());
        let found = match scan_id.filter(|_| filter.may_admit(&dead_letter)) {
            Some(scan_id) => records.find(&scan_id, now).await?,
            None => Vec::new(),
        };
        progress.inc(1);
        Ok::<_, LedgerError>(dead_letter.with_records(found))
    });
    let joined = joined.buffered(LEDGER_READS).try_collect().await;
    progress.finish_and_clear();
    Ok(joined?)
}

async fn list(args: &DlqListArgs, stop: &CancellationToken) -> anyhow::Result<Outcome> {
    let filter = Filter::new(&args.filter, Clock::System.now()).map_err(unusable)?;
    let content = read(&args.queue, &filter, Detail::WithoutBody, stop).await?;
    let dead_letters = content.matching(&filter);
    match args.output {
        Output::Json => output::json(&json!({
            "queue": content.queue.url,
            "hidden": content.hidden,
            "groups": dead_letter::groups(&dead_letters),
            "letters": dead_letters.iter().rev().map(DeadLetter::view).collect::<Vec<_>>(),
        }))?,
        Output::Table => {
            view::list(&dead_letters, args.limit, content.now)?;
            content.notice_hidden();
        }
    }
    Ok(report_unknown_ids(&filter, &content.dead_letters))
}

async fn show(args: &DlqShowArgs, stop: &CancellationToken) -> anyhow::Result<Outcome> {
    let filter = Filter::of(&args.id);
    let content = read(&args.queue, &filter, Detail::Full, stop).await?;
    let dead_letters = content.matching(&filter);
    for dead_letter in &dead_letters {
        match args.output {
            Output::Json => output::json(&view::in_full(dead_letter))?,
            Output::Table => view::show(dead_letter, content.now)?,
        }
    }
    if dead_letters.is_empty() {
        content.notice_hidden();
    }
    Ok(report_unknown_ids(&filter, &content.dead_letters))
}

/// Reports each requested id that no dead letter has.
fn report_unknown_ids(filter: &Filter, dead_letters: &[DeadLetter]) -> Outcome {
    let unknown = filter.unknown_ids(dead_letters);
    for id in &unknown {
        output::notice(&format!("dead letter {id} not found"));
    }
    if unknown.is_empty() {
        Outcome::Fine
    } else {
        Outcome::Findings
    }
}

async fn export(args: &DlqExportArgs, stop: &CancellationToken) -> anyhow::Result<Outcome> {
    let filter = Filter::new(&args.filter, Clock::System.now()).map_err(unusable)?;
    let content = read(&args.queue, &filter, Detail::Full, stop).await?;
    for dead_letter in content.matching(&filter) {
        for message in view::messages(&dead_letter) {
            output::json_line(&message)?;
        }
    }
    content.notice_hidden();
    Ok(report_unknown_ids(&filter, &content.dead_letters))
}

async fn redrive(args: &DlqRedriveArgs, stop: &CancellationToken) -> anyhow::Result<Outcome> {
    let filter = Filter::new(&args.filter, Clock::System.now()).map_err(unusable)?;
    let content = read(&args.queue, &filter, Detail::WithoutBody, stop).await?;
    let destination = content
        .queue
        .destination(args.destination.as_deref())
        .await
        .map_err(unusable)?;
    let dead_letters = content.matching(&filter);
    let by_task = filter.is_everything() && !args.force && !args.no_move_task;
    let way = if by_task {
        "SQS moves the messages"
    } else {
        "each message is sent, then deleted"
    };
    let plan = format!("to {} at {} per second; {way}", destination.url, args.rate);
    if !args.yes {
        return report_dry_run(
            "redrive",
            &plan,
            args.output,
            &filter,
            &content,
            &dead_letters,
        );
    }
    let progress = output::progress(count_messages(&dead_letters), "redriving");
    let done = if dead_letters.is_empty() {
        Ok(Summary::default())
    } else if by_task {
        move_task::move_all(&content.queue, &destination, args.rate, &progress, stop).await
    } else {
        let (force, rate) = (args.force, args.rate);
        let action = Action::Redrive {
            destination,
            force,
            rate,
        };
        act::act(&content.queue, &action, &dead_letters, &progress, stop).await
    };
    report("redrive", args.output, &filter, &content, &progress, done)
}

async fn delete(args: &DlqDeleteArgs, stop: &CancellationToken) -> anyhow::Result<Outcome> {
    let filter = Filter::new(&args.filter, Clock::System.now()).map_err(unusable)?;
    if filter.is_everything() && !args.all {
        return Err(unusable(anyhow::anyhow!(
            "name the dead letters to delete, or use --all"
        )));
    }
    let content = read(&args.queue, &filter, Detail::WithoutBody, stop).await?;
    let dead_letters = content.matching(&filter);
    if !args.yes {
        return report_dry_run(
            "delete",
            "for good",
            args.output,
            &filter,
            &content,
            &dead_letters,
        );
    }
    let progress = output::progress(count_messages(&dead_letters), "deleting");
    let done = if dead_letters.is_empty() {
        Ok(Summary::default())
    } else {
        act::act(
            &content.queue,
            &Action::Delete,
            &dead_letters,
            &progress,
            stop,
        )
        .await
    };
    report("delete", args.output, &filter, &content, &progress, done)
}

fn count_messages(dead_letters: &[DeadLetter]) -> u64 {
    dead_letters
        .iter()
        .map(|it| it.messages().len() as u64)
        .sum()
}

/// Shows what would be done.
fn report_dry_run(
    verb: &str,
    plan: &str,
    format: Output,
    filter: &Filter,
    content: &Content,
    dead_letters: &[DeadLetter],
) -> anyhow::Result<Outcome> {
    let settled = dead_letters
        .iter()
        .filter(|it| it.is_scanned_since())
        .count();
    match format {
        Output::Json => output::json(&json!({
            "dry_run": true,
            "queue": content.queue.url,
            "requests": dead_letters.len(),
            "messages": count_messages(dead_letters),
            "scanned_since": settled,
            "groups": dead_letter::groups(dead_letters),
        }))?,
        Output::Table => {
            view::groups(dead_letters, content.now)?;
            output::line(&format!(
                "would {verb} {} dead letters ({} messages) {plan}",
                dead_letters.len(),
                count_messages(dead_letters)
            ))?;
            if settled > 0 {
                output::line(&format!(
                    "{settled} of them have a verdict now and need no other scan"
                ))?;
            }
            output::line("nothing was changed; add --yes to do it")?;
            content.notice_hidden();
        }
    }
    Ok(report_unknown_ids(filter, &content.dead_letters))
}

/// Shows what was done. Anything left over makes the outcome a finding.
fn report(
    verb: &str,
    format: Output,
    filter: &Filter,
    content: &Content,
    progress: &ProgressBar,
    done: anyhow::Result<Summary>,
) -> anyhow::Result<Outcome> {
    progress.finish_and_clear();
    let summary = done.with_context(|| format!("could not {verb} all; run it again to resume"))?;
    match format {
        Output::Json => output::json(&summary)?,
        Output::Table => {
            view::summary(verb, &summary)?;
            content.notice_hidden();
        }
    }
    if summary.interrupted {
        output::notice("interrupted; run it again to resume");
    }
    let is_complete =
        summary.left_messages == 0 && summary.refused.is_empty() && !summary.interrupted;
    let hidden = content.hidden > 0;
    if is_complete && !hidden {
        Ok(report_unknown_ids(filter, &content.dead_letters))
    } else {
        Ok(Outcome::Findings)
    }
}
