//! The only place that prints: tables for people, JSON for scripts, one line for errors.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use scanhook_core::image::{Digest, Tag};
use serde::Serialize;

/// Prints a line on stdout.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()?;
    Ok(())
}

/// Prints a value as indented JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Prints a table, as wide as the terminal allows.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> anyhow::Result<()> {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_BORDERS_ONLY)
        .set_header(header)
        .add_rows(rows);
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    line(&table.to_string())
}

/// An image as people name it: with its tag, else with the start of its digest.
pub(crate) fn image(name: &str, tag: Option<&Tag>, digest: Option<&Digest>) -> String {
    match (tag, digest) {
        (Some(tag), _) => format!("{name}:{tag}"),
        (None, Some(digest)) => {
            let (algorithm, digits) = digest.parts();
            format!("{name}@{algorithm}:{digits:.12}")
        }
        (None, None) => name.to_owned(),
    }
}

/// A bar on stderr for what takes a while; nothing where stderr is no terminal. The total may be a guess.
pub(crate) fn progress(total: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec}") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

/// Tells the person at the terminal what is going on; on stderr, so that stdout stays for the result.
#[expect(clippy::print_stderr, reason = "the one place that prints")]
pub(crate) fn notice(text: &str) {
    eprintln!("{text}");
}

/// Says in one line why a command failed, with all its causes.
#[expect(clippy::print_stderr, reason = "the one place that prints")]
pub(crate) fn fail(err: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("scanhook: {err:#}");
    ExitCode::from(code)
}

/// Whether the reader of our output has gone away, which is no error.
pub(crate) fn is_broken_pipe(err: &anyhow::Error) -> bool {
    let io = err
        .chain()
        .find_map(|it| it.downcast_ref::<std::io::Error>());
    io.is_some_and(|it| it.kind() == std::io::ErrorKind::BrokenPipe)
}
