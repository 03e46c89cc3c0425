//! The state of one run, and its output.

use std::fs::File;
use std::io::Write as _;

use jiff::Timestamp;

use crate::command::{Image, Options};
use crate::database::Database;
use crate::environment::Environment;
use crate::stop::Stop;

pub(crate) struct Run<'a> {
    pub(crate) options: &'a Options,
    pub(crate) environment: &'a Environment,
    /// Locked until the process ends.
    pub(crate) cache: File,
    pub(crate) database: Database,
}

/// Prints a line of progress, with the time.
pub(crate) fn progress(words: &str) -> Result<(), Stop> {
    Ok(writeln!(std::io::stderr(), "{} {words}", now())?)
}

/// Stops a run, with a message about the image.
pub(crate) fn stop(code: u8, words: &str, image: &Image) -> Stop {
    let words = words
        .replace("{image}", &image.text)
        .replace("{host}", &image.host)
        .replace("{repository}", &image.repository)
        .replace("{manifest}", &image.manifest_url());
    Stop { code, words }
}

/// The current time.
pub(crate) fn now() -> Timestamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "the stand-in has one clock, and it is here"
    )]
    Timestamp::now()
}
