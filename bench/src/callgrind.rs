//! For a program that measures itself: runs it again with a mode and a count, under callgrind or alone.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a measurement fails where it fails, and runs itself under valgrind"
)]

use std::process::{Command, Stdio};

/// Two runs with these counts differ only in the measured work.
const COUNTS: [u64; 2] = [100, 600];

const VALGRIND: [&str; 3] = [
    "valgrind",
    "--tool=callgrind",
    "--callgrind-out-file=/dev/null",
];

/// The instructions that one round of `mode` takes.
pub fn instructions(mode: &str) -> u64 {
    let [few, many] = COUNTS.map(|it| number_after(&run(&VALGRIND, mode, it), "Collected :"));
    (many - few) / (COUNTS[1] - COUNTS[0])
}

/// The mean time of one of `count` rounds of `mode`, which the program prints after `nanoseconds:`.
pub fn nanoseconds(mode: &str, count: u64) -> u64 {
    number_after(&run(&[], mode, count), "nanoseconds:")
}

/// Runs this program with a mode and a count, prefixed by the command `before`, and returns its output.
fn run(before: &[&str], mode: &str, count: u64) -> String {
    let myself = std::env::current_exe().unwrap();
    let mut words: Vec<_> = before.iter().map(|it| (*it).to_owned()).collect();
    words.push(myself.to_str().unwrap().to_owned());
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args([mode, &count.to_string()])
        .stdout(Stdio::null());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

/// The number that follows a word in a text.
///
/// # Panics
/// If there is none.
pub fn number_after(text: &str, word: &str) -> u64 {
    let (_, rest) = text.split_once(word).unwrap_or_else(|| panic!("{text}"));
    rest.split_whitespace().next().unwrap().parse().unwrap()
}
