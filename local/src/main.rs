//! The command `scanhook`: the functions of AWS on one machine, with an embedded queue, and the commands for operators.
//!
//! In reading order: [`args`] (the command line), [`serve`] (the local server) with [`gateway`] and [`faults`], [`work`] (the scanner
//! alone), [`host`] (what both share) and [`ledger`]. Then one file for each command: [`demo`], [`send`], [`scans`], [`dlq`],
//! [`backfill`], [`init`], [`check`], [`doctor`] and [`manual`]. [`output`] prints, [`outcome`] is the result of a command.
//!
//! **Invariant**: exit codes are 0 for success, 1 for findings or failures, 2 for wrong usage or configuration.

mod args;
mod backfill;
mod check;
mod configuration;
mod demo;
mod dlq;
mod doctor;
mod endpoint;
mod faults;
mod gateway;
mod host;
mod http_client;
mod init;
mod ledger;
mod manual;
mod outcome;
mod output;
mod problem;
mod scans;
mod send;
mod serve;
mod work;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use scanhook_config::Environment;
use scanhook_scanner::cli;
use scanhook_telemetry::logs;
use scanhook_telemetry::traces::Traces;
use scanhook_worker::clock::Clock;

use crate::args::{Args, Command};
use crate::outcome::{Outcome, Unusable, unusable};

/// How long a command waits at its end for the trace collector.
const LAST_TRACES: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if let Some(ended) = cli::supervise() {
        return ended;
    }
    // `demo` starts this program as the CLI, through a link of that name.
    let program = std::env::args_os().next().unwrap_or_default();
    if Path::new(&program)
        .file_name()
        .is_some_and(|it| it == "sysdig-cli-scanner")
    {
        return scanhook_stand_in::main();
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(err) => return output::usage(&err),
    };
    if args.command.runs_the_cli() {
        cli::protect();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(err) => return output::fail(&anyhow::Error::new(err).context("could not start"), 2),
    };
    let outcome = runtime.block_on(run(args));
    // Tasks that a command left running must not keep the process alive.
    runtime.shutdown_background();
    match outcome {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        Err(err) if output::is_broken_pipe(&err) => ExitCode::SUCCESS,
        Err(err) => match err.downcast::<Unusable>() {
            Ok(Unusable(err)) => output::fail(&err, 2),
            Err(err) => output::fail(&err, 1),
        },
    }
}

async fn run(args: Args) -> anyhow::Result<Outcome> {
    let environment = scanhook_config::environment();
    match args.command {
        Command::Serve(args) => {
            let traces = start_log(&environment, args.log.format())?;
            traced(traces, Box::pin(serve::command(args, environment))).await
        }
        Command::Work(args) => {
            let traces = start_log(&environment, args.log.format())?;
            traced(traces, Box::pin(work::command(args, environment))).await
        }
        Command::Demo => {
            if environment("SCANHOOK_LOG").is_some() {
                start_log(&environment, logs::Format::Json)?;
            }
            demo::command().await
        }
        Command::Send(args) => send::command(args, environment).await,
        Command::Scans(args) => scans::command(args, Clock::System.now()).await,
        Command::Dlq(args) => dlq::command(args).await,
        Command::Backfill(args) => backfill::command(args, environment).await,
        Command::Init(args) => init::command(&args, &environment),
        Command::Manual(args) => manual::command(&args),
        Command::Check(args) => check::command(args, environment).await,
        Command::Doctor(args) => doctor::command(args, environment).await,
    }
}

fn start_log(environment: &Environment, format: logs::Format) -> anyhow::Result<Option<Traces>> {
    logs::init(environment, "scanhook", format).map_err(unusable)
}

/// Runs a command and exports its traces, the rest at its end.
async fn traced(
    traces: Option<Traces>,
    command: impl Future<Output = anyhow::Result<Outcome>>,
) -> anyhow::Result<Outcome> {
    let Some(traces) = traces else {
        return command.await;
    };
    let outcome = tokio::select! {
        outcome = command => outcome,
        never = traces.run() => match never {},
    };
    traces.flush(LAST_TRACES).await;
    outcome
}
