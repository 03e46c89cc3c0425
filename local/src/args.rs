//! The command line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use scanhook_core::image::{Image, Registry};
use scanhook_core::kinds::{self, Kind};
use scanhook_core::message::ScanId;
use scanhook_core::record::RecordVerdict;
use scanhook_core::source::SourceName;
use scanhook_scanner::doctor::Images;
use scanhook_telemetry::logs::Format;

use self::dlq::DlqCommand;
use crate::faults::Fault;

pub(crate) mod dlq;

/// Scans every container image that is pushed to a registry with Sysdig.
#[derive(Debug, Parser)]
#[command(name = "scanhook", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run webhook, queue and scanner in one process
    ///
    /// Takes deliveries at `http://LISTEN/webhooks/SOURCE`, keeps them in a durable queue that the AWS CLI and SDKs can
    /// use too (`AWS_ENDPOINT_URL_SQS=http://SQS_LISTEN`), and scans them. Ends with SIGINT or SIGTERM; what was in
    /// flight is released and scanned after the next start.
    Serve(ServeArgs),
    /// Run the scanner alone, on any SQS queue
    ///
    /// For scans that take longer than Lambda lets them, and for Kubernetes: as many workers as you like, on one queue with one
    /// ledger. A worker that dies leaves its scans to the others. Ends with SIGINT or SIGTERM; what is not done by then
    /// is given back. Whether it is ready, and its figures, are at `http://LISTEN/readyz` and `/metrics`.
    Work(WorkArgs),
    /// Show the whole way of an image, from signed delivery to verdict, on embedded defaults
    ///
    /// Needs no configuration, no account and no network: a stand-in plays the Sysdig CLI.
    Demo,
    /// Write a starter configuration, with a new secret in a file of its own
    ///
    /// Overwrites nothing. What it writes passes `scanhook check`.
    #[command(after_long_help = INIT_EXAMPLES)]
    Init(InitArgs),
    /// Send deliveries as a source's registry would, with the right credential
    ///
    /// Says what became of each; with --count it says how fast they were answered. Ends with 1 unless each was answered 2xx.
    #[command(after_long_help = SEND_EXAMPLES)]
    Send(SendArgs),
    /// Look at what was scanned
    #[command(subcommand)]
    Scans(ScansCommand),
    /// Look at what could not be scanned, and bring it back
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Queue what a registry holds and the ledger doesn't know
    ///
    /// For the first day, and for webhooks that were missed. Tags are listed, and each content that has no verdict, no attempt under
    /// way and was not queued by an earlier run is queued once, at a rate. Run it again after an interruption: it goes on.
    #[command(after_long_help = BACKFILL_EXAMPLES)]
    Backfill(BackfillArgs),
    /// Check a configuration and its secrets, and show how to set up each registry
    Check(CheckArgs),
    /// Find out what only the real Sysdig CLI, token and network can show
    ///
    /// Runs the CLI several times, on an image that passes and on one that fails, and says what it saw of the CLI, the token,
    /// the database, this machine, and each assumption of docs/assumptions.md. Needs the configuration's `scanner`.
    Doctor(DoctorArgs),
    /// Write what shells and man need, made of this very command line
    #[command(subcommand)]
    Manual(ManualCommand),
}

impl Command {
    /// Whether it runs the CLI, so that images are at work below this process.
    pub(crate) fn runs_the_cli(&self) -> bool {
        matches!(
            self,
            Self::Serve(_) | Self::Work(_) | Self::Demo | Self::Doctor(_)
        )
    }
}

const INIT_EXAMPLES: &str = "Examples:
  scanhook init --kind harbor --registry harbor.example.com
  scanhook init --kind ghcr --name my-org --config /etc/scanhook/scanhook.yaml";

const SEND_EXAMPLES: &str = "Examples:
  scanhook send my-harbor --image harbor.example.com/prod/api:1.4.2
  scanhook send my-ghcr --file delivery.json                     a saved delivery, signed anew
  scanhook send my-harbor --count 5000 --concurrency 32          load: rate, p50 and p99";

const BACKFILL_EXAMPLES: &str = "Examples:
  scanhook backfill my-harbor --dry-run                              how much there is
  scanhook backfill my-harbor --repositories 'prod/**' --since 90d --rate 5
  scanhook backfill my-harbor --only-missing                         whose webhooks never came
  scanhook backfill my-harbor --queue-url https://sqs.eu-central-1.amazonaws.com/123456789012/scanhook --table scanhook-ledger";

const MANUAL_EXAMPLES: &str = "Examples:
  scanhook manual completions bash > /etc/bash_completion.d/scanhook
  scanhook manual completions zsh > ~/.zfunc/_scanhook
  scanhook manual man /usr/local/share/man/man1";

#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Where to write the configuration; the secret is written beside it
    #[arg(long, default_value = "scanhook.yaml", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// What kind of registry will post
    #[arg(long, default_value = "harbor", value_name = "KIND", value_parser = kind)]
    pub(crate) kind: &'static Kind,
    /// The host that images are pulled from [default: that of the kind, or an example to be replaced]
    #[arg(long, value_name = "HOST", value_parser = registry)]
    pub(crate) registry: Option<Registry>,
    /// What to call the source [default: its kind]
    #[arg(long, value_name = "NAME", value_parser = source_name)]
    pub(crate) name: Option<SourceName>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BackfillArgs {
    /// The source's name in the configuration, which tells the registry, its credentials and the filters
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Only these repositories: names, or globs for names in the registry's catalog [default: the whole catalog]
    #[arg(long, value_name = "NAME|GLOB", value_delimiter = ',')]
    pub(crate) repositories: Vec<String>,
    /// Only images built since then: a time (2026-11-21T20:00:00Z) or how long ago (90d); those that don't tell are not left out
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Since>,
    /// Leave dead letters alone: queue only what the ledger has no record of
    #[arg(long)]
    pub(crate) only_missing: bool,
    /// Scans queued a second
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) rate: u16,
    /// Queue nothing, and say how much there is
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The queue in SQS [default: that of `serve`]
    #[arg(long, env = "SCANHOOK_QUEUE_URL", value_name = "URL")]
    pub(crate) queue_url: Option<String>,
    /// The ledger's DynamoDB table [default: the ledger in the data directory]
    #[arg(long, env = "SCANHOOK_LEDGER_TABLE", value_name = "NAME")]
    pub(crate) table: Option<String>,
    /// Where `serve` keeps its data, and where this command writes down what it has queued
    #[arg(long, default_value = ".scanhook", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// How to show what was done
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
#[command(after_long_help = MANUAL_EXAMPLES)]
pub(crate) enum ManualCommand {
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write man pages, one for each command
    Man {
        /// Where to
        directory: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file
    #[arg(
        long = "config",
        env = "SCANHOOK_CONFIG",
        default_value = "scanhook.yaml",
        value_name = "FILE"
    )]
    pub(crate) location: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// How to write the log; `SCANHOOK_LOG` says how much of it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum LogFormat {
    /// A JSON object a line
    #[default]
    Json,
    /// For people
    Pretty,
}

impl LogArgs {
    pub(crate) fn format(&self) -> Format {
        match self.log_format {
            LogFormat::Json => Format::Json,
            LogFormat::Pretty => Format::Pretty,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// Where to take deliveries: IP:PORT; `:PORT` and `PORT` are on 127.0.0.1
    #[arg(
        long,
        env = "SCANHOOK_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDR",
        value_parser = address
    )]
    pub(crate) listen: SocketAddr,
    /// Where to offer the queue's SQS endpoint
    #[arg(long, default_value = "127.0.0.1:9324", value_name = "ADDR", value_parser = address)]
    pub(crate) sqs_listen: SocketAddr,
    #[command(flatten)]
    pub(crate) surfaces: SurfaceArgs,
    /// Where queue, ledger and scratch space are kept
    #[arg(long, default_value = ".scanhook", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Use this SQS queue instead of the embedded one
    #[arg(long, env = "SCANHOOK_QUEUE_URL", value_name = "URL")]
    pub(crate) queue_url: Option<String>,
    /// Take and queue deliveries, but scan nothing
    #[arg(long)]
    pub(crate) no_scan: bool,
    /// The Sysdig CLI; without a slash it is looked for in PATH
    #[arg(long, default_value = "sysdig-cli-scanner", value_name = "PATH")]
    pub(crate) scanner_cli: PathBuf,
    /// Show the local page, `http://LISTEN/`, to others than this machine, too, by its IP address or a name of --allow-host
    #[arg(long)]
    pub(crate) open_page: bool,
    /// Break things on purpose: sqs-throttle=P%, sqs-latency=TIME, scanner-crash=P%, scanner-hang=P%
    ///
    /// sqs-throttle refuses this share of the requests to the queue's endpoint with `RequestThrottled`; sqs-latency has each
    /// of them wait (200ms, 2s). scanner-crash ends this share of the scanner's invocations within their first second, as a
    /// crash of the function would; scanner-hang stops them as early and lets them run into the function's timeout.
    #[arg(long, value_name = "FAULT=VALUE,...", value_delimiter = ',')]
    pub(crate) fault: Vec<Fault>,
    /// Decides which requests and invocations the faults strike: the same seed, the same ones
    #[arg(long, default_value_t = 0, value_name = "N", requires = "fault")]
    pub(crate) seed: u64,
}

/// What is for this machine: page, figures, readiness and the queue's endpoint.
#[derive(Debug, clap::Args)]
pub(crate) struct SurfaceArgs {
    /// Answer requests for this host, too; may be given more than once
    ///
    /// `/`, `/metrics`, `/readyz` and the queue's endpoint answer only for `localhost` and for the IP address that they are reached
    /// at, so that no web page reaches them by a name of its own. `/webhooks` and `/healthz` answer for every host.
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub(crate) allow_host: Vec<String>,
    /// Serve /healthz, /readyz and /metrics here, too, where no sender of deliveries keeps probes waiting
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) health_listen: Option<SocketAddr>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    match port.parse::<u16>() {
        Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => text
            .parse()
            .map_err(|_| "it must be IP:PORT, :PORT or PORT".to_owned()),
    }
}

fn host_name(text: &str) -> Result<String, String> {
    let host = text.parse::<http::uri::Authority>();
    if host.is_ok_and(|it| it.host() == text) {
        Ok(text.to_owned())
    } else {
        Err("it must be a host without a port, such as scanhook.example.com".to_owned())
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct WorkArgs {
    /// The queue
    #[arg(long, env = "SCANHOOK_QUEUE_URL", value_name = "URL")]
    pub(crate) queue_url: String,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// Where to tell whether it is ready, and its figures: IP:PORT; `:PORT` and `PORT` are on 127.0.0.1
    #[arg(
        long,
        env = "SCANHOOK_LISTEN",
        default_value = "127.0.0.1:8081",
        value_name = "ADDR",
        value_parser = address
    )]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) surfaces: SurfaceArgs,
    /// Keep the ledger in this DynamoDB table, which workers can share, instead of in the data directory
    #[arg(long, env = "SCANHOOK_LEDGER_TABLE", value_name = "NAME")]
    pub(crate) table: Option<String>,
    /// Where scratch space is, and the ledger if there is no table; for each worker another one
    #[arg(long, default_value = ".scanhook", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// The Sysdig CLI; without a slash it is looked for in PATH
    #[arg(long, default_value = "sysdig-cli-scanner", value_name = "PATH")]
    pub(crate) scanner_cli: PathBuf,
    /// How long a message stays hidden without a sign of life of its worker, 5s to 12h
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = hidden_for)]
    pub(crate) hidden_for: Duration,
    /// How long scans may go on after SIGINT or SIGTERM
    #[arg(long, default_value = "25s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) drain: Duration,
}

fn hidden_for(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|err| err.to_string())?;
    let allowed = Duration::from_secs(5)..=Duration::from_hours(12);
    if allowed.contains(&duration) {
        Ok(duration)
    } else {
        Err("it must be 5s to 12h".to_owned())
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct SendArgs {
    /// The source's name in the configuration
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The image that was pushed [default: scanhook/test:latest at the source's registry]
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
    /// Send the body in this file instead
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    pub(crate) file: Option<PathBuf>,
    /// Where scanhook listens
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) url: String,
    /// Send this header with it, in place of the kind's own of that name
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) header: Vec<(http::HeaderName, http::HeaderValue)>,
    /// How many deliveries
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// How many at once
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) concurrency: u16,
    /// Show the figures only, not each answer; so it is from 21 deliveries on
    #[arg(long)]
    pub(crate) summary: bool,
    /// How to show the answers
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScansCommand {
    /// List the latest scans
    List(ScansListArgs),
    /// Show everything about one scan
    Show(ScansShowArgs),
}

/// Where the records are.
#[derive(Debug, clap::Args)]
pub(crate) struct LedgerArgs {
    /// Where `serve` keeps its data
    #[arg(long, default_value = ".scanhook", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Read the ledger of the scanner function, in this DynamoDB table
    #[arg(long, value_name = "NAME", conflicts_with = "data_dir")]
    pub(crate) table: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ScansListArgs {
    #[command(flatten)]
    pub(crate) ledger: LedgerArgs,
    /// Only images with this in their reference, registry/repository:tag@digest
    #[arg(long, value_name = "TEXT")]
    pub(crate) image: Option<String>,
    /// Only scans with this verdict
    #[arg(long, value_enum)]
    pub(crate) verdict: Option<VerdictWord>,
    /// Only what was delivered since then: a time (2026-11-21T20:00:00Z) or how long ago (90m, 2h, 7d)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Since>,
    /// Only what this source delivered
    #[arg(long, value_name = "SOURCE", value_parser = source_name)]
    pub(crate) source: Option<SourceName>,
    /// How many at most, the latest first
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: usize,
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ScansShowArgs {
    /// The scan's id, as the answer to the delivery told it
    #[arg(value_parser = scan_id)]
    pub(crate) scan_id: ScanId,
    #[command(flatten)]
    pub(crate) ledger: LedgerArgs,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The address under which registries reach scanhook
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) url: String,
    /// Show what the saved delivery in this file would yield at SOURCE, and why
    ///
    /// The file holds a body as `send --file` sends it. Its headers are those of FILE.headers, or of the file beside it that
    /// ends in .headers instead of .json, a `Name: value` a line; else those that the kind's registry sends. No secret is
    /// needed, and no credential is looked at.
    #[arg(long, value_name = "FILE", requires = "source")]
    pub(crate) sample: Option<PathBuf>,
    /// The source that the sample is for
    #[arg(requires = "sample")]
    pub(crate) source: Option<String>,
    /// How to show what the sample yields
    #[arg(long, value_enum, default_value_t, requires = "sample")]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The Sysdig CLI; without a slash it is looked for in PATH
    #[arg(long, default_value = "sysdig-cli-scanner", value_name = "PATH")]
    pub(crate) scanner_cli: PathBuf,
    /// An image whose policies pass
    #[arg(long, default_value = Images::PASS, value_name = "REF", value_parser = image)]
    pub(crate) pass_image: Image,
    /// An image that fails its policies
    #[arg(long, default_value = Images::FAIL, value_name = "REF", value_parser = image)]
    pub(crate) fail_image: Image,
    /// How to show what was found
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// How a command shows its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For scripts; its fields are stable
    Json,
}

/// The verdicts of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerdictWord {
    Passed,
    Failed,
    Skipped,
    Error,
}

impl From<VerdictWord> for RecordVerdict {
    fn from(word: VerdictWord) -> Self {
        match word {
            VerdictWord::Passed => Self::Passed,
            VerdictWord::Failed => Self::Failed,
            VerdictWord::Skipped => Self::Skipped,
            VerdictWord::Error => Self::Error,
        }
    }
}

/// A beginning: an instant, or how long before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    At(Timestamp),
    Ago(Duration),
}

impl Since {
    pub(crate) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(instant) => instant,
            Self::Ago(duration) => now.checked_sub(duration).unwrap_or(Timestamp::MIN),
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(instant) = text.parse() {
            return Ok(Self::At(instant));
        }
        let ago = humantime::parse_duration(text);
        ago.map(Self::Ago).map_err(|_| {
            "neither a time (2026-11-21T20:00:00Z) nor a duration (90m, 2h, 7d)".to_owned()
        })
    }
}

fn kind(text: &str) -> Result<&'static Kind, String> {
    let names = || kinds::ALL.map(|it| it.name).join(", ");
    kinds::find(text).ok_or_else(|| format!("there is no such kind; there are {}", names()))
}

fn registry(text: &str) -> Result<Registry, String> {
    Registry::normalise(text).map_err(|err| err.to_string())
}

fn header(text: &str) -> Result<(http::HeaderName, http::HeaderValue), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("a header is written NAME: VALUE")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| "that is no name of a header")?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| "that can't stand in a header")?;
    Ok((name, value))
}

fn source_name(text: &str) -> Result<SourceName, String> {
    SourceName::try_from(text.to_owned()).map_err(|err| err.to_string())
}

fn image(text: &str) -> Result<Image, String> {
    Image::parse(text).map_err(|err| err.to_string())
}

fn scan_id(text: &str) -> Result<ScanId, String> {
    ScanId::try_from(text.to_owned()).map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_beginning_is_a_time_or_how_long_ago() {
        let now: Timestamp = "2026-11-21T20:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-11-20T20:00:00+01:00", "2026-11-20T19:00:00Z"),
            ("90m", "2026-11-21T18:30:00Z"),
            ("7d", "2026-11-14T20:00:00Z"),
        ] {
            let since: Since = text.parse().unwrap();
            assert_eq!(since.before(now).to_string(), expected, "{text}");
        }
        for text in ["", "yesterday", "2026-11-21", "-1h"] {
            assert!(text.parse::<Since>().is_err(), "{text}");
        }
    }
}
