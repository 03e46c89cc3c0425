//! `scanhook dlq`: what could not be scanned, why, and how it comes back.
//!
//! In reading order: [`queue`] (which one), [`letter`] (what lies there, as values), [`sweep`] (how it is seen), [`view`] (how it
//! is shown), [`act`] and [`move_task`] (what is done with it), [`advice`] (what an operator is told).

pub(crate) mod act;
pub(crate) mod advice;
pub(crate) mod letter;
mod move_task;
mod queue;
mod sweep;
mod view;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::ProgressBar;
use jiff::Timestamp;
use scanhook_scanner::ledger::{History as _, LedgerError};
use scanhook_worker::clock::Clock;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::act::{Deed, Done};
use self::letter::{Case, Filter};
use self::queue::DeadLetterQueue;
use self::sweep::{Fetched, Kept};
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

/// It was asked to stop, and let go of everything.
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

/// What a command found.
struct Found {
    queue: DeadLetterQueue,
    /// About how many letters could not be seen.
    hidden: u64,
    /// Every case, oldest failure first.
    cases: Vec<Case>,
    now: Timestamp,
}

impl Found {
    fn chosen(&self, filter: &Filter) -> Vec<Case> {
        self.cases
            .iter()
            .filter(|it| filter.admits(it))
            .cloned()
            .collect()
    }

    /// Says which letters can't be seen at the moment.
    fn notice_hidden(&self) {
        let hidden = self.hidden;
        if hidden > 0 {
            output::notice(&format!(
                "about {hidden} more messages are hidden: something else holds them, or they are gone already (SQS's counts lag by about a minute); try again later"
            ));
        }
    }
}

/// Looks at every letter, and joins what the ledger knows of those that can be meant.
async fn find(
    args: &DlqQueueArgs,
    filter: &Filter,
    kept: Kept,
    stop: &CancellationToken,
) -> anyhow::Result<Found> {
    let queue = DeadLetterQueue::open(args).await?;
    let progress = output::progress(queue.visible, "reading messages");
    let looked = sweep::look(&queue, kept, &progress, stop).await;
    progress.finish_and_clear();
    let Fetched { letters, hidden } = looked?;
    let now = Clock::System.now();
    let cases = letter::fold(letters);
    let cases = match records(args).await? {
        Some(records) => join(cases, &records, filter, now).await?,
        None => cases,
    };
    Ok(Found {
        queue,
        hidden,
        cases,
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

/// So many questions to the ledger are under way at once.
const QUESTIONS: usize = 16;

/// Adds what the ledger knows of those that can be meant; what it knows of others would be asked for in vain.
async fn join(
    cases: Vec<Case>,
    records: &Records,
    filter: &Filter,
    now: Timestamp,
) -> anyhow::Result<Vec<Case>> {
    let progress = output::progress(cases.len() as u64, "reading the ledger");
    let joined = stream::iter(cases).map(async |case| {
        let scan_id = case.letters().last().and_then(|it| it.scan_id.clone());
        let known = match scan_id.filter(|_| filter.may_admit(&case)) {
            Some(scan_id) => records.find(&scan_id, now).await?,
            None => Vec::new(),
        };
        progress.inc(1);
        Ok::<_, LedgerError>(case.with_records(known))
    });
    let joined = joined.buffered(QUESTIONS).try_collect().await;
    progress.finish_and_clear();
    Ok(joined?)
}

async fn list(args: &DlqListArgs, stop: &CancellationToken) -> anyhow::Result<Outcome> {
    let filter = Filter::new(&args.filter, Clock::System.now()).map_err(unusable)?;
    let found = find(&args.queue, &filter, Kept::Outline, stop).await?;
    let cases = found.chosen(&filter);
    match args.output {
        Output::Json => output::json(&json!({
            "queue": found.queue.url,
            "hidden": found.hidden,
            "groups": letter::groups(&cases),
            "letters": cases.iter().rev().map(Case::view).collect::<Vec<_>>(),
        }))?,
        Output::Table => {
            view::list(&cases, args.limit, found.now)?;
            found.notice_hidden();
        }
    }
    Ok(missing(&filter, &found.cases))
}

async fn show(args: &DlqShowArgs, stop: &CancellationToken) -> anyhow::Result<Outcome> {
    let filter = Filter::of(&args.id);
    let found = find(&args.queue, &filter, Kept::Everything, stop).await?;
    let cases = found.chosen(&filter);
    for case in &cases {
        match args.output {
            Output::Json => output::json(&view::everything(case))?,
            Output::Table => view::show(case, found.now)?,
        }
    }
    if cases.is_empty() {
        found.notice_hidden();
    }
    Ok(missing(&filter, &found.cases))
}

/// Says which of the ids that were asked for are not there.
fn missing(filter: &Filter, cases: &[Case]) -> Outcome {
    let unknown = filter.unknown_ids(cases);
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
    let found = find(&args.queue, &filter, Kept::Everything, stop).await?;
    for case in found.chosen(&filter) {
        for letter in view::letters(&case) {
            output::json_line(&letter)?;
        }
    }
    found.notice_hidden();
    Ok(missing(&filter, &found.cases))
}

async fn redrive(args: &DlqRedriveArgs, stop: &CancellationToken) -> anyhow::Result<Outcome> {
    let filter = Filter::new(&args.filter, Clock::System.now()).map_err(unusable)?;
    let found = find(&args.queue, &filter, Kept::Outline, stop).await?;
    let destination = found
        .queue
        .destination(args.destination.as_deref())
        .await
        .map_err(unusable)?;
    let cases = found.chosen(&filter);
    let by_task = filter.is_everything() && !args.force && !args.no_move_task;
    let way = if by_task {
        "SQS moves the messages"
    } else {
        "each message is sent, then deleted"
    };
    let plan = format!("to {} at {} per second; {way}", destination.url, args.rate);
    if !args.yes {
        return report_dry_run("redrive", &plan, args.output, &filter, &found, &cases);
    }
    let progress = output::progress(messages(&cases), "redriving");
    let done = if cases.is_empty() {
        Ok(Done::default())
    } else if by_task {
        move_task::move_all(&found.queue, &destination, args.rate, &progress, stop).await
    } else {
        let (force, rate) = (args.force, args.rate);
        let deed = Deed::Redrive {
            destination,
            force,
            rate,
        };
        act::act(&found.queue, &deed, &cases, &progress, stop).await
    };
    report("redrive", args.output, &filter, &found, &progress, done)
}

async fn delete(args: &DlqDeleteArgs, stop: &CancellationToken) -> anyhow::Result<Outcome> {
    let filter = Filter::new(&args.filter, Clock::System.now()).map_err(unusable)?;
    if filter.is_everything() && !args.all {
        return Err(unusable(anyhow::anyhow!(
            "name the dead letters to delete, or use --all"
        )));
    }
    let found = find(&args.queue, &filter, Kept::Outline, stop).await?;
    let cases = found.chosen(&filter);
    if !args.yes {
        return report_dry_run("delete", "for good", args.output, &filter, &found, &cases);
    }
    let progress = output::progress(messages(&cases), "deleting");
    let done = if cases.is_empty() {
        Ok(Done::default())
    } else {
        act::act(&found.queue, &Deed::Delete, &cases, &progress, stop).await
    };
    report("delete", args.output, &filter, &found, &progress, done)
}

fn messages(cases: &[Case]) -> u64 {
    cases.iter().map(|it| it.letters().len() as u64).sum()
}

/// Says what would be done.
fn report_dry_run(
    verb: &str,
    plan: &str,
    format: Output,
    filter: &Filter,
    found: &Found,
    cases: &[Case],
) -> anyhow::Result<Outcome> {
    let settled = cases.iter().filter(|it| it.is_scanned_since()).count();
    match format {
        Output::Json => output::json(&json!({
            "dry_run": true,
            "queue": found.queue.url,
            "requests": cases.len(),
            "messages": messages(cases),
            "scanned_since": settled,
            "groups": letter::groups(cases),
        }))?,
        Output::Table => {
            view::groups(cases, found.now)?;
            output::line(&format!(
                "would {verb} {} dead letters ({} messages) {plan}",
                cases.len(),
                messages(cases)
            ))?;
            if settled > 0 {
                output::line(&format!(
                    "{settled} of them have a verdict now and need no other scan"
                ))?;
            }
            output::line("nothing was changed; add --yes to do it")?;
            found.notice_hidden();
        }
    }
    Ok(missing(filter, &found.cases))
}

/// Says what was done. Whatever is left makes it a finding.
fn report(
    verb: &str,
    format: Output,
    filter: &Filter,
    found: &Found,
    progress: &ProgressBar,
    done: anyhow::Result<Done>,
) -> anyhow::Result<Outcome> {
    progress.finish_and_clear();
    let done = done.with_context(|| format!("could not {verb} all; run it again to resume"))?;
    match format {
        Output::Json => output::json(&done)?,
        Output::Table => {
            view::done(verb, &done)?;
            found.notice_hidden();
        }
    }
    if done.interrupted {
        output::notice("interrupted; run it again to resume");
    }
    let is_complete = done.left_messages == 0 && done.refused.is_empty() && !done.interrupted;
    let hidden = found.hidden > 0;
    if is_complete && !hidden {
        Ok(missing(filter, &found.cases))
    } else {
        Ok(Outcome::Findings)
    }
}
