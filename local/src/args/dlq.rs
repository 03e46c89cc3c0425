//! The command line of `scanhook dlq`.

use std::time::Duration;

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use jiff::SignedDuration;
use scanhook_core::failure::ErrorReason;

use super::{LedgerArgs, Output, Since};

/// The reason of a dead letter without one, such as one whose scanner function crashed.
pub(crate) const UNKNOWN: &str = "unknown";

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List the dead letters, counted by reason
    ///
    /// Each line is one dead letter: the messages of one scan, with the reason of the newest. The reason comes from the
    /// message or, if the message has none, from the ledger. Listing doesn't change the queue of `serve`; in SQS it
    /// hides the messages for some seconds.
    #[command(after_long_help = LIST_EXAMPLES)]
    List(DlqListArgs),
    /// Show one dead letter in full, and what to do about it
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(DlqShowArgs),
    /// Send dead letters back to the queue, to be scanned again
    ///
    /// Shows what it would do; `--yes` does it. Without a filter, SQS moves the messages itself. With a filter or `--force`,
    /// each message is sent before it is deleted, so an interruption loses none; a message that it leaves in both queues
    /// is scanned once. If it is interrupted, run it again to resume.
    #[command(after_long_help = REDRIVE_EXAMPLES)]
    Redrive(DlqRedriveArgs),
    /// Write the messages of dead letters to stdout, one JSON object per line
    #[command(after_long_help = EXPORT_EXAMPLES)]
    Export(DlqExportArgs),
    /// Delete dead letters for good
    ///
    /// Shows what it would do; `--yes` does it.
    #[command(after_long_help = DELETE_EXAMPLES)]
    Delete(DlqDeleteArgs),
}

const LIST_EXAMPLES: &str = "Examples:
  scanhook dlq list                                      the dead letters of `serve` in this directory
  scanhook dlq list --reason unauthorized --since 24h
  scanhook dlq list --queue-url https://sqs.eu-central-1.amazonaws.com/123456789012/scanhook-dlq --table scanhook-ledger";

const SHOW_EXAMPLES: &str = "Examples:
  scanhook dlq show 01JD2Z7H8Q4K                         by the scan's id or the SQS message id";

const REDRIVE_EXAMPLES: &str = "Examples:
  scanhook dlq redrive                                   show what it would do
  scanhook dlq redrive --yes                             redrive all
  scanhook dlq redrive --reason unauthorized --image 'harbor.example.com/prod/**' --rate 5 --yes
  scanhook dlq redrive 01JD2Z7H8Q4K --force --yes        scan this one even if it has a verdict";

const EXPORT_EXAMPLES: &str = "Examples:
  scanhook dlq export > dead-letters.jsonl
  scanhook dlq export --reason timeout | jq -r .image | sort | uniq -c";

const DELETE_EXAMPLES: &str = "Examples:
  scanhook dlq export --reason image_not_found > gone.jsonl && scanhook dlq delete --reason image_not_found --yes
  scanhook dlq delete --all --yes";

/// Which dead-letter queue and which ledger to use.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which queue")]
pub(crate) struct DlqQueueArgs {
    /// The URL of a dead-letter queue in SQS; region, credentials and endpoint come from AWS_* variables and profiles
    #[arg(long, env = "SCANHOOK_DLQ_URL", value_name = "URL")]
    pub(crate) queue_url: Option<String>,
    #[command(flatten)]
    pub(crate) ledger: LedgerArgs,
    /// Accept a queue that isn't known to be a dead-letter queue
    ///
    /// Looking counts as a receive, so on a queue in use it can push live messages over their limit.
    #[arg(long)]
    pub(crate) any_queue: bool,
    /// How long SQS hides the messages at least; longer if looking takes longer [default: 30s, more for a long queue]
    #[arg(long, value_name = "TIME", value_parser = hide_time)]
    pub(crate) hide: Option<Duration>,
}

/// Which dead letters. Values of one filter are combined by OR, filters by AND.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which dead letters")]
pub(crate) struct DlqFilterArgs {
    /// Only these: scan ids or SQS message ids
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Only dead letters with this reason
    #[arg(long, value_name = "REASON", value_delimiter = ',', value_parser = reasons(), hide_possible_values = true)]
    pub(crate) reason: Vec<String>,
    /// Only dead letters of this source
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) source: Vec<String>,
    /// Only images that match this glob: REGISTRY/REPOSITORY or REGISTRY/REPOSITORY:TAG; `*` matches within a component, `**` across components
    #[arg(long, value_name = "GLOB")]
    pub(crate) image: Vec<String>,
    /// Only failures since a time (2026-11-21T20:00:00Z) or within a duration (90m, 24h, 7d)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Since>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DlqListArgs {
    #[command(flatten)]
    pub(crate) filter: DlqFilterArgs,
    #[command(flatten)]
    pub(crate) queue: DlqQueueArgs,
    /// The maximum number of rows in the table; the counts by reason and the JSON cover all
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: usize,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DlqShowArgs {
    /// The scan's id or the SQS message id
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) queue: DlqQueueArgs,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DlqRedriveArgs {
    #[command(flatten)]
    pub(crate) filter: DlqFilterArgs,
    #[command(flatten)]
    pub(crate) queue: DlqQueueArgs,
    /// The URL of the queue to send to [default: the queue whose dead-letter queue this is]
    #[arg(long, value_name = "URL")]
    pub(crate) destination: Option<String>,
    /// Scan again even if the ledger has a verdict
    #[arg(long)]
    pub(crate) force: bool,
    /// Messages per second, 1 to 500
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) rate: u16,
    /// Send and delete each message, even if SQS could move them all itself
    ///
    /// Needs no permission for sqs:StartMessageMoveTask.
    #[arg(long)]
    pub(crate) no_move_task: bool,
    /// Do it; without this flag, only show what would be done
    #[arg(long)]
    pub(crate) yes: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DlqExportArgs {
    #[command(flatten)]
    pub(crate) filter: DlqFilterArgs,
    #[command(flatten)]
    pub(crate) queue: DlqQueueArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DlqDeleteArgs {
    #[command(flatten)]
    pub(crate) filter: DlqFilterArgs,
    #[command(flatten)]
    pub(crate) queue: DlqQueueArgs,
    /// Delete every dead letter
    #[arg(long, conflicts_with_all = ["ids", "reason", "source", "image", "since"])]
    pub(crate) all: bool,
    /// Do it; without this flag, only show what would be done
    #[arg(long)]
    pub(crate) yes: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

fn hide_time(text: &str) -> Result<Duration, String> {
    let time: Option<SignedDuration> = text.parse().ok();
    time.and_then(|it| Duration::try_from(it).ok())
        .filter(|it| (1..=12 * 3600).contains(&it.as_secs()))
        .ok_or_else(|| "must be 1s to 12h".to_owned())
}

fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(
        ErrorReason::ALL
            .iter()
            .map(|it| it.as_str())
            .chain([UNKNOWN]),
    )
}
