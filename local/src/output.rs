//! The only module that prints: tables for people, JSON for scripts, one line for errors.
//!
//! **Invariant**: no control character reaches a terminal, and no invisible character that reorders or hides others. Anybody who can
//! push an image or send to a queue can put such characters into what is printed.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use scanhook_core::image::{Digest, Tag};
use serde::Serialize;

/// Whether a character is invisible: a control character (C0, C1), a mark for the direction of text, or a character without
/// width.
pub(crate) fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e01ef}'
        )
}

/// Replaces each invisible character, except line breaks and tabs, by a mark.
fn printable(text: &str) -> String {
    let is_marked = |it: char| is_unseen(it) && !matches!(it, '\n' | '\t');
    text.replace(is_marked, "\u{fffd}")
}

/// Prints a line on stdout.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", printable(text))?;
    stdout.flush()?;
    Ok(())
}

/// A value as indented JSON. Invisible characters are escaped, so the JSON is exact.
pub(crate) fn pretty<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(escaped(&serde_json::to_string_pretty(value)?))
}

/// Escapes the invisible characters of a JSON text. They can only be in strings.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if is_unseen(character) && character != '\n' {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string can't fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(character);
        }
    }
    text
}

/// Prints a value as indented JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(&pretty(value)?)
}

/// Prints a value as JSON in one line.
pub(crate) fn json_line<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(&escaped(&serde_json::to_string(value)?))
}

/// Prints a table, as wide as the terminal allows.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> anyhow::Result<()> {
    // Replace before the table measures its columns.
    let rows = rows
        .into_iter()
        .map(|row| row.iter().map(|it| printable(it)).collect::<Vec<_>>());
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

/// An image with its tag, else with the start of its digest.
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

/// A progress bar on stderr, hidden if stderr isn't a terminal. The total may be a guess.
pub(crate) fn progress(total: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec}") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

/// Prints a notice on stderr, because stdout is for the result.
#[expect(clippy::print_stderr, reason = "the one place that prints")]
pub(crate) fn notice(text: &str) {
    eprintln!("{}", printable(text));
}

/// Prints what is wrong with the arguments, or the help that they ask for.
pub(crate) fn usage(err: &clap::Error) -> ExitCode {
    if err.use_stderr() {
        notice(err.render().to_string().trim_end());
        return ExitCode::from(2);
    }
    // As clap does: closing the output of `--help` is not an error.
    let _ = err.print();
    ExitCode::SUCCESS
}

/// Prints an error with all its causes in one line.
#[expect(clippy::print_stderr, reason = "the one place that prints")]
pub(crate) fn fail(err: &anyhow::Error, code: u8) -> ExitCode {
    // Indent the following lines, so that no foreign text can imitate our prefix.
    let text = printable(&format!("{err:#}")).replace('\n', "\n    ");
    eprintln!("scanhook: {text}");
    ExitCode::from(code)
}

/// Whether the reader of our output has closed it, which is not an error.
pub(crate) fn is_broken_pipe(err: &anyhow::Error) -> bool {
    let io = err
        .chain()
        .find_map(|it| it.downcast_ref::<std::io::Error>());
    io.is_some_and(|it| it.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_marked_in_text_and_escaped_in_json() {
        let text = "a\u{1b}[2J\u{7f}\u{9b}31m\u{61c}\u{200b}\u{200f}\u{2028}\u{202e}\u{2060}\u{2066}\u{feff}\té\nb";
        let marked = printable(text);
        assert_eq!(marked.replace('\u{fffd}', ""), "a[2J31m\té\nb");
        assert_eq!(marked.chars().count(), text.chars().count());
        let json = pretty(&[text]).unwrap();
        assert!(!json.contains(|it| is_unseen(it) && it != '\n'), "{json}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&json).unwrap(), [text]);
    }
}
