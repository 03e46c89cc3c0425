//! A strict stand-in for `sysdig-cli-scanner`: takes its flags, environment and image forms, refuses all else, and shows the
//! behaviour that the image's name asks for.
//!
//! **Invariant:** it opens no connection and scans nothing; every report and version it prints says `-stand-in`.
//!
//! In reading order: [`lock`] is the pinned version it stands in for; `command` is the command line, `environment` what it
//! reads beside it; [`behaviour`] the table of what it can show; `scan` is one run, `run` what it has, such as its
//! `database`, and `actions` what some behaviours do; `report` is what it writes, made of `findings`.

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
            // With stderr closed there is nobody to tell; the exit code still does.
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
