//! The command line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
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
    /// Receives deliveries at `http://LISTEN/webhooks/SOURCE`, keeps them in a durable queue and scans the images. The
    /// AWS CLI and SDKs can use that queue too (`AWS_ENDPOINT_URL_SQS=http://SQS_LISTEN`). SIGINT or SIGTERM shuts it
    /// down gracefully; scans in flight are released and run again after the next start.
    Serve(ServeArgs),
    /// Run the scanner alone, on any SQS queue
    ///
    /// For scans that exceed Lambda's time limit, and for Kubernetes. Any number of workers can share one queue and one
    /// ledger; if a worker dies, the others retry its scans. SIGINT or SIGTERM shuts it down gracefully; scans that
    /// don't finish in time go back to the queue. `http://LISTEN/readyz` reports readiness, `/metrics` the metrics.
    Work(WorkArgs),
    /// Follow images from signed delivery to verdict, with built-in defaults
    ///
    /// Needs no configuration, account or network: a stand-in replaces the Sysdig CLI.
    Demo,
    /// Write a starter configuration and, in a separate file, a new secret
    ///
    /// Never overwrites a file. The configuration passes `scanhook check`.
    #[command(after_long_help = INIT_EXAMPLES)]
    Init(InitArgs),
    /// Send deliveries as a source's registry would, with a valid credential
    ///
    /// Shows the answer to each; with --count also rate and latency. Exits with 1 unless every answer is 2xx.
    #[command(after_long_help = SEND_EXAMPLES)]
    Send(SendArgs),
    /// Show past and current scans
    #[command(subcommand)]
    Scans(ScansCommand),
    /// Inspect, redrive, export and delete dead letters
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Queue the images of a registry that were never scanned
    ///
    /// For a registry that already has images, and for webhooks that were missed. Lists the tags and queues each digest
    /// once, at a limited rate, unless it has a verdict, is being scanned or was queued by an earlier run. If it is
    /// interrupted, run it again to resume.
    #[command(after_long_help = BACKFILL_EXAMPLES)]
    Backfill(BackfillArgs),
    /// Validate a configuration and its secrets, and show how to set up each registry
    Check(CheckArgs),
    /// Check the real Sysdig CLI, token and network
    ///
    /// Runs the CLI several times, on an image that passes its policies and on one that fails. Reports on the CLI, the
    /// token, the database, this machine and each assumption of docs/assumptions.md. Needs the configuration's `scanner`.
    Doctor(DoctorArgs),
    /// Write shell completions and man pages
    #[command(subcommand)]
    Manual(ManualCommand),
}

impl Command {
    /// Whether it runs the CLI, which handles untrusted images below this process.
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
  scanhook send my-ghcr --file delivery.json                     a saved delivery, with a new signature
  scanhook send my-harbor --count 5000 --concurrency 32          a load test: rate, p50 and p99";

const BACKFILL_EXAMPLES: &str = "Examples:
  scanhook backfill my-harbor --dry-run                              count the images, queue nothing
  scanhook backfill my-harbor --repositories 'prod/**' --since 90d --rate 5
  scanhook backfill my-harbor --only-missing                         leave dead letters alone
  scanhook backfill my-harbor --queue-url https://sqs.eu-central-1.amazonaws.com/123456789012/scanhook --table scanhook-ledger";

const MANUAL_EXAMPLES: &str = "Examples:
  scanhook manual completions bash > /etc/bash_completion.d/scanhook
  scanhook manual completions zsh > ~/.zfunc/_scanhook
  scanhook manual man /usr/local/share/man/man1";

#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Where to write the configuration; the secret goes into the same directory
    #[arg(long, default_value = "scanhook.yaml", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The kind of registry that will send deliveries
    #[arg(long, default_value = "harbor", value_name = "KIND", value_parser = kind)]
    pub(crate) kind: &'static Kind,
    /// The host that images are pulled from [default: the kind's own, or an example to replace]
    #[arg(long, value_name = "HOST", value_parser = registry)]
    pub(crate) registry: Option<Registry>,
    /// The source's name [default: its kind]
    #[arg(long, value_name = "NAME", value_parser = source_name)]
    pub(crate) name: Option<SourceName>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BackfillArgs {
    /// The source whose registry, credentials and filters to use: its name in the configuration
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Only these repositories: names, or globs for names in the registry's catalog [default: the whole catalog]
    #[arg(long, value_name = "NAME|GLOB", value_delimiter = ',')]
    pub(crate) repositories: Vec<String>,
    /// Only images built since a time (2026-11-21T20:00:00Z) or within a duration (90d); images without a build time are included
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Since>,
    /// Leave dead letters alone: queue only images without a record in the ledger
    #[arg(long)]
    pub(crate) only_missing: bool,
    /// Scans to queue per second
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) rate: u16,
    /// Count the images, and queue nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The SQS queue [default: the queue of `serve`]
    #[arg(long, env = "SCANHOOK_QUEUE_URL", value_name = "URL")]
    pub(crate) queue_url: Option<String>,
    /// The ledger's DynamoDB table [default: the ledger in the data directory]
    #[arg(long, env = "SCANHOOK_LEDGER_TABLE", value_name = "NAME")]
    pub(crate) table: Option<String>,
    /// Where `serve` keeps its data, and where this command records what it has queued
    #[arg(long, default_value = ".scanhook", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
#[command(after_long_help = MANUAL_EXAMPLES)]
pub(crate) enum ManualCommand {
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a man page for each command
    Man {
        /// The directory to write to
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
    /// Log format; `SCANHOOK_LOG` sets the level
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum LogFormat {
    /// One JSON object per line
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
    /// The address to receive deliveries at: IP:PORT; `:PORT` and `PORT` mean 127.0.0.1:PORT
    #[arg(
        long,
        env = "SCANHOOK_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDR",
        value_parser = address
    )]
    pub(crate) listen: SocketAddr,
    /// The address of the queue's SQS endpoint
    #[arg(long, default_value = "127.0.0.1:9324", value_name = "ADDR", value_parser = address)]
    pub(crate) sqs_listen: SocketAddr,
    #[command(flatten)]
    pub(crate) surfaces: SurfaceArgs,
    /// The directory of queue, ledger and scratch space
    #[arg(long, default_value = ".scanhook", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Use this SQS queue instead of the embedded one
    #[arg(long, env = "SCANHOOK_QUEUE_URL", value_name = "URL")]
    pub(crate) queue_url: Option<String>,
    /// Receive and queue deliveries, but scan nothing
    #[arg(long)]
    pub(crate) no_scan: bool,
    /// The Sysdig CLI; a name without a slash is searched in PATH
    #[arg(long, default_value = "sysdig-cli-scanner", value_name = "PATH")]
    pub(crate) scanner_cli: PathBuf,
    /// Show the page `http://LISTEN/` to other machines too, by this machine's IP address or a name of --allow-host
    #[arg(long)]
    pub(crate) open_page: bool,
    /// Inject faults: sqs-throttle=P%, sqs-latency=TIME, scanner-crash=P%, scanner-hang=P%
    ///
    /// sqs-throttle answers this share of the queue's requests with `RequestThrottled`; sqs-latency delays each of them
    /// (200ms, 2s). scanner-crash ends this share of the scanner's invocations within their first second, as a crash of
    /// the function would; scanner-hang stops them within their first second and lets them run into the function's timeout.
    #[arg(long, value_name = "FAULT=VALUE,...", value_delimiter = ',')]
    pub(crate) fault: Vec<Fault>,
    /// Selects the requests and invocations that fail; the same seed selects the same ones
    #[arg(long, default_value_t = 0, value_name = "N", requires = "fault")]
    pub(crate) seed: u64,
}

/// Who may reach the local surfaces: page, metrics, readiness and the queue's endpoint.
#[derive(Debug, clap::Args)]
pub(crate) struct SurfaceArgs {
    /// Answer requests for this host name too; can be repeated
    ///
    /// `/`, `/metrics`, `/readyz` and the queue's endpoint answer only for `localhost` and for the IP address of the
    /// connection. This stops web pages that point a name of their own at this machine. `/webhooks` and `/healthz`
    /// answer for every host.
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub(crate) allow_host: Vec<String>,
    /// A separate address for /healthz, /readyz and /metrics, so that a flood of deliveries doesn't delay probes
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) health_listen: Option<SocketAddr>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    match port.parse::<u16>() {
        Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => text
            .parse()
            .map_err(|_| "must be IP:PORT, :PORT or PORT".to_owned()),
    }
}

fn host_name(text: &str) -> Result<String, String> {
    let host = text.parse::<http::uri::Authority>();
    if host.is_ok_and(|it| it.host() == text) {
        Ok(text.to_owned())
    } else {
        Err("must be a host without a port, such as scanhook.example.com".to_owned())
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct WorkArgs {
    /// The queue's URL
    #[arg(long, env = "SCANHOOK_QUEUE_URL", value_name = "URL")]
    pub(crate) queue_url: String,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// The address of readiness and metrics: IP:PORT; `:PORT` and `PORT` mean 127.0.0.1:PORT
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
    /// Keep the ledger in this DynamoDB table, which workers can share [default: a file in the data directory]
    #[arg(long, env = "SCANHOOK_LEDGER_TABLE", value_name = "NAME")]
    pub(crate) table: Option<String>,
    /// The directory of scratch space and, without --table, of the ledger; each worker needs its own
    #[arg(long, default_value = ".scanhook", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// The Sysdig CLI; a name without a slash is searched in PATH
    #[arg(long, default_value = "sysdig-cli-scanner", value_name = "PATH")]
    pub(crate) scanner_cli: PathBuf,
    /// The visibility timeout of messages, which live workers keep renewing: 5s to 12h
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = hidden_for)]
    pub(crate) hidden_for: Duration,
    /// How long scans may continue after SIGINT or SIGTERM
    #[arg(long, default_value = "25s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) drain: Duration,
}

fn hidden_for(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|err| err.to_string())?;
    let allowed = Duration::from_secs(5)..=Duration::from_hours(12);
    if allowed.contains(&duration) {
        Ok(duration)
    } else {
        Err("must be 5s to 12h".to_owned())
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
    /// Send the body from this file
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    pub(crate) file: Option<PathBuf>,
    /// The URL of scanhook
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) url: String,
    /// Send this header too; replaces the kind's header of that name
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) header: Vec<(http::HeaderName, http::HeaderValue)>,
    /// The number of deliveries
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Deliveries in flight at once
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) concurrency: u16,
    /// Show only rate and latency, not each answer; always so for more than 20 deliveries
    #[arg(long)]
    pub(crate) summary: bool,
    /// Output format
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

/// Which ledger to read.
#[derive(Debug, clap::Args)]
pub(crate) struct LedgerArgs {
    /// Where `serve` keeps its data
    #[arg(long, default_value = ".scanhook", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Read the ledger in this DynamoDB table, which the scanner function writes
    #[arg(long, value_name = "NAME", conflicts_with = "data_dir")]
    pub(crate) table: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ScansListArgs {
    #[command(flatten)]
    pub(crate) ledger: LedgerArgs,
    /// Only images whose reference (registry/repository:tag@digest) contains this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) image: Option<String>,
    /// Only scans with this verdict
    #[arg(long, value_parser = verdict())]
    pub(crate) verdict: Option<RecordVerdict>,
    /// Only deliveries since a time (2026-11-21T20:00:00Z) or within a duration (90m, 2h, 7d)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Since>,
    /// Only deliveries of this source
    #[arg(long, value_name = "SOURCE", value_parser = source_name)]
    pub(crate) source: Option<SourceName>,
    /// The maximum number of scans; the latest come first
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: usize,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ScansShowArgs {
    /// The scan's id, from the answer to the delivery
    #[arg(value_parser = scan_id)]
    pub(crate) scan_id: ScanId,
    #[command(flatten)]
    pub(crate) ledger: LedgerArgs,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The URL by which registries reach scanhook
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) url: String,
    /// Show what SOURCE would make of the saved delivery in this file, and why
    ///
    /// The file contains a body, as for `send --file`. The headers come from FILE.headers, or from FILE with .headers in
    /// place of .json: one `Name: value` per line. Without such a file, the headers are those that the kind's registry
    /// sends. No secret is needed, and credentials are not checked.
    #[arg(long, value_name = "FILE", requires = "source")]
    pub(crate) sample: Option<PathBuf>,
    /// The source of the sample
    #[arg(requires = "sample")]
    pub(crate) source: Option<String>,
    /// Output format of the sample's result
    #[arg(long, value_enum, default_value_t, requires = "sample")]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The Sysdig CLI; a name without a slash is searched in PATH
    #[arg(long, default_value = "sysdig-cli-scanner", value_name = "PATH")]
    pub(crate) scanner_cli: PathBuf,
    /// An image whose policies pass
    #[arg(long, default_value = Images::PASS, value_name = "REF", value_parser = image)]
    pub(crate) pass_image: Image,
    /// An image that fails its policies
    #[arg(long, default_value = Images::FAIL, value_name = "REF", value_parser = image)]
    pub(crate) fail_image: Image,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// How a command shows its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// Tables for people
    #[default]
    Table,
    /// JSON for scripts; its fields are stable
    Json,
}

/// A start time: an instant, or a duration before now.
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
            "must be a time (2026-11-21T20:00:00Z) or a duration (90m, 2h, 7d)".to_owned()
        })
    }
}

fn kind(text: &str) -> Result<&'static Kind, String> {
    let names = || kinds::ALL.map(|it| it.name).join(", ");
    kinds::find(text).ok_or_else(|| format!("unknown kind; known kinds: {}", names()))
}

fn registry(text: &str) -> Result<Registry, String> {
    Registry::normalise(text).map_err(|err| err.to_string())
}

fn header(text: &str) -> Result<(http::HeaderName, http::HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("must be NAME: VALUE")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| "the header's name is not valid")?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| "the header's value is not valid")?;
    Ok((name, value))
}

fn verdict() -> impl TypedValueParser<Value = RecordVerdict> {
    PossibleValuesParser::new(["passed", "failed", "skipped", "error"])
        .map(|word| word.parse().unwrap_or(RecordVerdict::Other(word)))
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
    fn since_is_a_time_or_a_duration_before_now() {
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
