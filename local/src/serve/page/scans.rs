//! How the page tells of scans: in words, in counts, and as columns of its plot.

use std::time::Duration;

use jiff::Timestamp;
use scanhook_core::record::{RecordReason, RecordVerdict, ScanRecord, State};

use super::html::Cell;

/// The plot's columns, one an hour.
const HOURS: usize = 24;

const HOUR: Duration = Duration::from_hours(1);

/// The worst that a scan found, as the classes of the style sheet.
pub(super) const WORST: [&str; 7] = [
    "critical",
    "high",
    "medium",
    "low",
    "negligible",
    "clean",
    "error",
];

fn worst(record: &ScanRecord) -> Option<usize> {
    match (record.state, record.findings) {
        (State::DeadLetter, _) => Some(6),
        (State::Done, Some(it)) => {
            let counts = [it.critical, it.high, it.medium, it.low, it.negligible];
            Some(counts.iter().position(|it| *it > 0).unwrap_or(5))
        }
        _ => None,
    }
}

/// For each of the last hours, how many scans found what at worst.
pub(super) fn columns(records: &[ScanRecord], now: Timestamp) -> [[usize; 7]; HOURS] {
    let mut columns = [[0; 7]; HOURS];
    for record in records {
        let (Some(worst), Some(finished_at)) = (worst(record), record.finished_at) else {
            continue;
        };
        let age = Duration::try_from(now.duration_since(finished_at)).unwrap_or_default();
        let hours = usize::try_from(age.as_secs() / HOUR.as_secs()).unwrap_or(HOURS);
        let column = HOURS
            .checked_sub(hours + 1)
            .and_then(|it| columns.get_mut(it));
        if let Some(count) = column.and_then(|it| it.get_mut(worst)) {
            *count += 1;
        }
    }
    columns
}

/// How long ago that was, in its largest unit.
pub(super) fn ago(now: Timestamp, then: Timestamp) -> String {
    let age = Duration::try_from(now.duration_since(then)).unwrap_or_default();
    let seconds = match age.as_secs() {
        it @ 0..60 => it,
        it @ 60..3600 => it / 60 * 60,
        it => it / 3600 * 3600,
    };
    format!(
        "{} ago",
        humantime::format_duration(Duration::from_secs(seconds))
    )
}

/// The verdict, in its colour.
pub(super) fn verdict(record: &ScanRecord) -> Cell {
    let word = record.verdict.as_ref().map_or("", RecordVerdict::as_str);
    match (record.state, &record.verdict) {
        (State::Retrying, _) => Cell::Marked("error", format!("{word}, tried again")),
        (_, Some(RecordVerdict::Passed)) => Cell::Marked("clean", word.to_owned()),
        (_, Some(RecordVerdict::Failed)) => Cell::Marked("critical", word.to_owned()),
        (_, Some(RecordVerdict::Error)) => Cell::Marked("error", word.to_owned()),
        _ => Cell::Word(word.to_owned()),
    }
}

/// The reason, and the policies that failed.
pub(super) fn why(record: &ScanRecord) -> String {
    let reason = record.reason.iter().map(RecordReason::as_str);
    let policies = record.policies_failed.iter().map(String::as_str);
    let words: Vec<_> = reason.chain(policies).collect();
    words.join(", ")
}

/// How many findings of each severity, the worst first.
pub(super) fn severities(record: &ScanRecord) -> [Cell; 5] {
    let counts = record
        .findings
        .map(|it| [it.critical, it.high, it.medium, it.low, it.negligible]);
    let [critical, high, medium, low, negligible, ..] = WORST;
    let mut of_severity = [critical, high, medium, low, negligible].into_iter();
    let cell = |count: u64| match (count, of_severity.next()) {
        (1.., Some(class)) => Cell::Marked(class, count.to_string()),
        _ => Cell::Word(count.to_string()),
    };
    counts.map_or_else(
        || [(); 5].map(|()| Cell::Word(String::new())),
        |it| it.map(cell),
    )
}

/// The image by its tag, or by the begin of its digest if it has none.
pub(super) fn name(record: &ScanRecord) -> String {
    match (&record.tag, &record.digest) {
        (Some(tag), _) => format!("{}:{tag}", record.image),
        (None, Some(digest)) => {
            let begin: String = digest.as_str().chars().take(19).collect();
            format!("{}@{begin}…", record.image)
        }
        (None, None) => record.image.clone(),
    }
}

/// What else is known of a scan.
pub(super) fn details(record: &ScanRecord) -> Vec<(&'static str, String)> {
    let mut details = vec![("scan", record.scan_id.to_string())];
    let mut add = |name, value: Option<String>| details.extend(value.map(|it| (name, it)));
    add("digest", record.digest.as_ref().map(ToString::to_string));
    add("index", record.index.as_ref().map(ToString::to_string));
    add("entry", record.choice.as_ref().map(ToString::to_string));
    add(
        "platform",
        record.platform.as_ref().map(ToString::to_string),
    );
    add("attempts", Some(record.attempts.to_string()));
    add("received", Some(record.received_at.to_string()));
    add("begun", Some(record.started_at.to_string()));
    add("ended", record.finished_at.map(|it| it.to_string()));
    add("detail", record.detail.clone());
    add("result", record.result_url.clone());
    add("CLI", record.cli_version.clone());
    details
}
