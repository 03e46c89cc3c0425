//! What a run prints: progress on stderr and in the log file, the table on stdout.

use std::fs::File;
use std::io::{self, Write};

use jiff::Timestamp;

use crate::options::{Log, Options, Output};
use crate::stop::Stop;

/// The streams of one run.
pub(crate) struct Console {
    log_file: Option<File>,
    /// Whether stdout carries the report, and nothing but it.
    report_on_stdout: bool,
}

impl Console {
    /// Opens the log file, if the log does not go to the console.
    pub(crate) fn open(options: &Options) -> Result<Self, Stop> {
        let log_file = match &options.log {
            Log::Console => None,
            Log::File(path) => {
                let opened = File::options().create(true).append(true).open(path);
                Some(opened.map_err(|err| {
                    Stop::error(format!("unable to open log file {}: {err}", path.display()))
                })?)
            }
        };
        Ok(Self {
            log_file,
            report_on_stdout: options.output == Output::Stdout,
        })
    }

    /// Prints a line of progress, with the time.
    pub(crate) fn progress(&mut self, words: &str) -> io::Result<()> {
        let line = format!("{} {words}\n", now());
        if let Some(file) = &mut self.log_file {
            file.write_all(line.as_bytes())?;
        }
        io::stderr().write_all(line.as_bytes())
    }

    /// Prints the result for people.
    pub(crate) fn table(&self, text: &str) -> io::Result<()> {
        if self.report_on_stdout {
            Ok(())
        } else {
            io::stdout().write_all(text.as_bytes())
        }
    }
}

/// The time of day.
pub(crate) fn now() -> Timestamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "the stand-in has one clock, and it is here"
    )]
    Timestamp::now()
}
