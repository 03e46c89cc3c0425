//! A strict stand-in for `sysdig-cli-scanner`: accepts its flags, environment and image references, refuses everything else, and
//! behaves as the image's name requests.
//!
//! **Invariant:** it opens no connection and scans nothing; every report and every printed version contains `-stand-in`.
//!
//! In reading order: [`lock`] (the pinned version), `command` (the command line), `environment` (the variables), [`behaviour`] (the
//! table of behaviours), `scan` (one run), `run` (its state, such as its `database`), `actions` (what some behaviours do), `report`
//! (the output, made of `findings`).

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use command::Request;
use environment::Environment;
use stop::Stop;

mod actions;
pub mod behaviour;
mod command;
mod database;
mod environment;
mod findings;
pub mod lock;
mod report;
mod run;
mod scan;
mod stop;

/// Runs the stand-in on the arguments and environment of this process.
pub fn main() -> ExitCode {
    match run(std::env::args_os().collect(), &Environment::of_process()) {
        Ok(code) => ExitCode::from(code),
        Err(stop) => {
            // If stderr is closed, the exit code still shows the failure.
            let _ = writeln!(std::io::stderr(), "{}", stop.words);
            ExitCode::from(stop.code)
        }
    }
}

fn run(arguments: Vec<OsString>, environment: &Environment) -> Result<u8, Stop> {
    match command::parse(arguments.into_iter().skip(1).collect())? {
        Request::Version => {
            let version = lock::stand_in_version();
            writeln!(std::io::stdout(), "Sysdig CLI Scanner {version}")?;
            Ok(0)
        }
        Request::Scan(options) => scan::scan(&options, environment),
    }
}
