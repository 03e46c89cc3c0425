//! A strict stand-in for `sysdig-cli-scanner`: takes its flags, environment and image forms, refuses all else, and shows the
//! behaviour that the image's name asks for.
//!
//! **Invariant:** it opens no connection and scans nothing; every report and version it prints says `-stand-in`.
//!
//! In reading order: [`lock`] is the pinned version it stands in for; `options` and `reference` are the command line;
//! `environment` what it reads beside it; [`behaviour`] the table of what it can show; `scan` one run, on its `console`,
//! `database` and with the `deeds` some behaviours do; `report` what it writes, made of `findings`.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use environment::Environment;
use options::Request;
use stop::Stop;

pub mod behaviour;
mod console;
mod database;
mod deeds;
mod environment;
mod findings;
pub mod lock;
mod options;
mod reference;
mod report;
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
    match options::parse(arguments.into_iter().skip(1).collect())? {
        Request::Help => writeln!(std::io::stdout(), "{}", options::help())?,
        Request::Version => writeln!(
            std::io::stdout(),
            "Sysdig CLI Scanner {}",
            lock::stand_in_version()
        )?,
        Request::Scan(options) => return scan::scan(&options, environment),
    }
    Ok(0)
}
