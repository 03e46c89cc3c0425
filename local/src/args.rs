//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::faults::Fault;

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
    /// Show the whole way of an image, from signed delivery to verdict, on embedded defaults
    ///
    /// Needs no configuration, no account and no network: a stand-in plays the Sysdig CLI.
    Demo,
    /// Send deliveries as a source's registry would, with the right credential
    Send(SendArgs),
    /// Look at what was scanned
    #[command(subcommand)]
    Scans(ScansCommand),
    /// Check a configuration and its secrets, and show how to set up each registry
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// The configuration file
    #[arg(
        long,
        env = "SCANHOOK_CONFIG",
        default_value = "scanhook.yaml",
        value_name = "FILE"
    )]
    pub(crate) config: String,
    /// Where to take deliveries
    #[arg(
        long,
        env = "SCANHOOK_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "IP:PORT"
    )]
    pub(crate) listen: SocketAddr,
    /// Where to offer the queue's SQS endpoint
    #[arg(long, default_value = "127.0.0.1:9324", value_name = "IP:PORT")]
    pub(crate) sqs_listen: SocketAddr,
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

#[derive(Debug, clap::Args)]
pub(crate) struct SendArgs {
    /// The source's name in the configuration
    pub(crate) source: String,
    /// The configuration file
    #[arg(
        long,
        env = "SCANHOOK_CONFIG",
        default_value = "scanhook.yaml",
        value_name = "FILE"
    )]
    pub(crate) config: String,
    /// The image that was pushed [default: scanhook/test:latest at the source's registry]
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
    /// Send the body in this file instead
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    pub(crate) file: Option<PathBuf>,
    /// Where scanhook listens
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) url: String,
    /// How many deliveries
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) count: u32,
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

#[derive(Debug, clap::Args)]
pub(crate) struct ScansListArgs {
    /// Where `serve` keeps its data
    #[arg(long, default_value = ".scanhook", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// How many
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: u32,
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ScansShowArgs {
    /// The scan's id, as the answer to the delivery told it
    pub(crate) scan_id: String,
    /// Where `serve` keeps its data
    #[arg(long, default_value = ".scanhook", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The configuration file
    #[arg(
        long,
        env = "SCANHOOK_CONFIG",
        default_value = "scanhook.yaml",
        value_name = "FILE"
    )]
    pub(crate) config: String,
    /// The address under which registries reach scanhook
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) url: String,
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
