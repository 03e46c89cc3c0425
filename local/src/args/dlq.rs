//! The command line of `scanhook dlq`.

use std::time::Duration;

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use jiff::SignedDuration;
use scanhook_core::failure::ErrorReason;

use super::{LedgerArgs, Output, Since};

/// Stands for the reason of a dead letter that names none, such as a crashed function's.
pub(crate) const UNKNOWN: &str = "unknown";

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List the dead letters: how many of each reason, and which
    ///
    /// One line is one scan request: letters of the same request are shown together, with the reason of the last one. The
    /// reason comes from the letter, else from the ledger. Looking changes nothing in the queue of `serve`; in SQS it
    /// hides the letters for some seconds.
    #[command(after_long_help = LIST_EXAMPLES)]
    List(DlqListArgs),
    /// Show everything about one dead letter, and what to do about it
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(DlqShowArgs),
    /// Send dead letters back to be scanned
    ///
    /// Says what it would do, and does it with `--yes`. Without a filter SQS moves the messages by itself; with one, or with
    /// `--force`, each message is sent first and deleted then, so that none is lost whenever that is interrupted: what an
    /// interruption leaves in both queues is scanned once. Run it again to go on.
    #[command(after_long_help = REDRIVE_EXAMPLES)]
    Redrive(DlqRedriveArgs),
    /// Write dead letters to stdout, a line of JSON each
    #[command(after_long_help = EXPORT_EXAMPLES)]
    Export(DlqExportArgs),
    /// Delete dead letters for good
    ///
    /// Says what it would do, and does it with `--yes`.
    #[command(after_long_help = DELETE_EXAMPLES)]
    Delete(DlqDeleteArgs),
}

const LIST_EXAMPLES: &str = "Examples:
  scanhook dlq list                                      what `serve` in this directory could not scan
  scanhook dlq list --reason unauthorized --since 24h
  scanhook dlq list --queue-url https://sqs.eu-central-1.amazonaws.com/123456789012/scanhook-dlq --table scanhook-ledger";

const SHOW_EXAMPLES: &str = "Examples:
  scanhook dlq show 01JD2Z7H8Q4K                         by the scan's id, or by SQS's id of the message";

const REDRIVE_EXAMPLES: &str = "Examples:
  scanhook dlq redrive                                   what would happen
  scanhook dlq redrive --yes                             everything
  scanhook dlq redrive --reason unauthorized --image 'harbor.example.com/prod/**' --rate 5 --yes
  scanhook dlq redrive 01JD2Z7H8Q4K --force --yes        scan this one, whatever the ledger says";

const EXPORT_EXAMPLES: &str = "Examples:
  scanhook dlq export > dead-letters.jsonl
  scanhook dlq export --reason timeout | jq -r .image | sort | uniq -c";

const DELETE_EXAMPLES: &str = "Examples:
  scanhook dlq export --reason image_not_found > gone.jsonl && scanhook dlq delete --reason image_not_found --yes
  scanhook dlq delete --all --yes";

/// Which dead-letter queue, and which ledger knows of it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which queue")]
pub(crate) struct DlqQueueArgs {
    /// The dead-letter queue in SQS; AWS_* variables and profiles tell region, credentials and endpoint
    #[arg(long, env = "SCANHOOK_DLQ_URL", value_name = "URL")]
    pub(crate) queue_url: Option<String>,
    #[command(flatten)]
    pub(crate) ledger: LedgerArgs,
    /// Look at a queue although it is not known to be a dead-letter queue
    ///
    /// Looking counts as a receive, so on a queue that is worked on it makes dead letters of messages that are not.
    #[arg(long)]
    pub(crate) any_queue: bool,
    /// How long SQS hides what is being looked at, at least; longer where looking takes longer [default: 30 s, and more for a long queue]
    #[arg(long, value_name = "TIME", value_parser = hide_time)]
    pub(crate) hide: Option<Duration>,
}

/// Which dead letters. Of several values of one filter any may match; of several filters all must.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which dead letters")]
pub(crate) struct DlqFilterArgs {
    /// Only these: ids of scans, or SQS's ids of messages
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Only those with this reason
    #[arg(long, value_name = "REASON", value_delimiter = ',', value_parser = reasons(), hide_possible_values = true)]
    pub(crate) reason: Vec<String>,
    /// Only those of this source
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) source: Vec<String>,
    /// Only these images: a glob for REGISTRY/REPOSITORY or REGISTRY/REPOSITORY:TAG; `*` within a component, `**` across
    #[arg(long, value_name = "GLOB")]
    pub(crate) image: Vec<String>,
    /// Only what failed since then: a time (2026-11-21T20:00:00Z) or how long ago (90m, 24h, 7d)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Since>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DlqListArgs {
    #[command(flatten)]
    pub(crate) filter: DlqFilterArgs,
    #[command(flatten)]
    pub(crate) queue: DlqQueueArgs,
    /// How many lines of the table; the groups and JSON have all
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: usize,
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DlqShowArgs {
    /// The scan's id, or SQS's id of the message
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) queue: DlqQueueArgs,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DlqRedriveArgs {
    #[command(flatten)]
    pub(crate) filter: DlqFilterArgs,
    #[command(flatten)]
    pub(crate) queue: DlqQueueArgs,
    /// Where to send them [default: the queue whose dead-letter queue this is]
    #[arg(long, value_name = "URL")]
    pub(crate) destination: Option<String>,
    /// Scan again, whatever the ledger says
    #[arg(long)]
    pub(crate) force: bool,
    /// Messages a second, 1 to 500
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) rate: u16,
    /// Send and delete each message even where SQS could move all of them by itself
    ///
    /// Needs no permission for sqs:StartMessageMoveTask.
    #[arg(long)]
    pub(crate) no_move_task: bool,
    /// Do it; without this, only say what would be done
    #[arg(long)]
    pub(crate) yes: bool,
    /// How to show what was done
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
    /// Do it; without this, only say what would be done
    #[arg(long)]
    pub(crate) yes: bool,
    /// How to show what was done
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

fn hide_time(text: &str) -> Result<Duration, String> {
    let time: Option<SignedDuration> = text.parse().ok();
    time.and_then(|it| Duration::try_from(it).ok())
        .filter(|it| (1..=12 * 3600).contains(&it.as_secs()))
        .ok_or_else(|| "a time is 1s to 12h".to_owned())
}

fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(
        ErrorReason::ALL
            .iter()
            .map(|it| it.as_str())
            .chain([UNKNOWN]),
    )
}
