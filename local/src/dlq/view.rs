//! How dead letters are shown: tables for people, JSON for scripts.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::act::Done;
use super::advice::advice;
use super::letter::{self, Case};
use crate::output;

/// The groups, then the newest cases.
pub(crate) fn list(cases: &[Case], limit: usize, now: Timestamp) -> anyhow::Result<()> {
    if cases.is_empty() {
        output::notice("no dead letters");
        return Ok(());
    }
    groups(cases, now)?;
    let header = [
        "id", "image", "source", "reason", "attempts", "failed", "detail",
    ];
    let rows = cases.iter().rev().take(limit).map(|it| row(it, now));
    output::table(&header, rows.collect())?;
    if cases.len() > limit {
        output::notice(&format!(
            "{} older dead letters are not shown; raise --limit to see more",
            cases.len() - limit
        ));
    }
    output::notice("`scanhook dlq show ID` shows one in full, and what to do about it");
    Ok(())
}

/// How many of each reason.
pub(crate) fn groups(cases: &[Case], now: Timestamp) -> anyhow::Result<()> {
    let header = [
        "reason",
        "dead letters",
        "messages",
        "sources",
        "first failed",
        "last failed",
    ];
    let rows = letter::groups(cases).into_iter().map(|it| {
        vec![
            it.reason,
            it.requests.to_string(),
            it.messages.to_string(),
            it.sources.into_iter().collect::<Vec<_>>().join(", "),
            ago(it.first_failed_at, now),
            ago(it.last_failed_at, now),
        ]
    });
    output::table(&header, rows.collect())
}

fn row(case: &Case, now: Timestamp) -> Vec<String> {
    let view = case.view();
    let since = if view.scanned_since {
        ", scanned since"
    } else {
        ""
    };
    vec![
        view.id.clone(),
        view.reference(),
        view.source.unwrap_or("-").to_owned(),
        format!("{}{since}", view.reason),
        view.attempts
            .map_or_else(|| "-".to_owned(), |it| it.to_string()),
        ago(view.last_failed_at, now),
        shortened(view.detail.as_deref().unwrap_or_default()),
    ]
}

/// At most this much of a detail stands in a table.
const DETAIL: usize = 80;

fn shortened(detail: &str) -> String {
    let line = detail.lines().next().unwrap_or_default();
    if line.chars().count() <= DETAIL {
        return line.to_owned();
    }
    let start: String = line.chars().take(DETAIL - 1).collect();
    format!("{start}…")
}

/// How long ago, in the largest unit that fits.
fn ago(instant: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(instant).as_secs().max(0);
    match seconds {
        ..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..172_800 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// Everything known of a case, for people.
pub(crate) fn show(case: &Case, now: Timestamp) -> anyhow::Result<()> {
    let view = case.view();
    let mut rows = vec![
        ("id", view.id.clone()),
        ("reason", view.reason.to_owned()),
        ("image", view.reference()),
    ];
    let mut add = |name: &'static str, value: Option<String>| {
        rows.extend(value.map(|it| (name, it)));
    };
    add("digest", view.digest.map(ToString::to_string));
    add("source", view.source.map(str::to_owned));
    add("attempts", view.attempts.map(|it| it.to_string()));
    add(
        "last failed",
        Some(format!(
            "{} ({})",
            view.last_failed_at,
            ago(view.last_failed_at, now)
        )),
    );
    add(
        "first failed",
        view.first_failed_at.map(|it| it.to_string()),
    );
    if let Some(message) = case.message() {
        let event = &message.event;
        add("delivery received", Some(event.received_at.to_string()));
        add("event", Some(event.info.event_type.as_str().to_owned()));
        add(
            "event id",
            event.info.id.as_ref().map(|it| it.as_str().to_owned()),
        );
        add(
            "pushed by",
            event.info.actor.as_ref().map(|it| it.as_str().to_owned()),
        );
        add("pushed at", event.info.occurred_at.map(|it| it.to_string()));
        add("force", message.force.then(|| "true".to_owned()));
        add(
            "trace",
            message.traceparent.map(|it| it.trace_id.to_string()),
        );
    }
    output::table(
        &["", ""],
        rows.into_iter()
            .map(|(name, value)| vec![name.to_owned(), value])
            .collect(),
    )?;
    if let Some(detail) = &view.detail {
        output::line(&format!("\nDetail:\n{}", indented(detail)))?;
    }
    for record in case.records() {
        let platform = record.platform.as_ref();
        let platform = platform.map(|it| format!(" for {it}")).unwrap_or_default();
        let json = output::pretty(record)?;
        output::line(&format!("\nLedger record{platform}:\n{}", indented(&json)))?;
    }
    for letter in letters(case) {
        let json = output::pretty(&letter)?;
        output::line(&format!("\nMessage:\n{}", indented(&json)))?;
    }
    let advice = advice(view.reason);
    output::line(&format!(
        "\nWhat {} means:\n  {}\n\nWhat to do:\n  {}",
        view.reason,
        advice.meaning,
        indented(advice.action)
    ))?;
    if view.scanned_since {
        output::line(
            "\nIt was scanned after it failed, so it can be deleted. `dlq redrive` deletes it without another scan.",
        )?;
    }
    Ok(())
}

fn indented(text: &str) -> String {
    format!("  {}", text.replace('\n', "\n  "))
}

/// Everything known of a case, for scripts.
pub(crate) fn everything(case: &Case) -> Value {
    let view = case.view();
    let advice = advice(view.reason);
    json!({
        "letter": view,
        "messages": letters(case),
        "records": case.records(),
        "meaning": advice.meaning,
        "action": advice.action,
    })
}

/// Each letter of a case on its own, complete.
pub(crate) fn letters(case: &Case) -> Vec<Value> {
    let view = case.view();
    let letters = case.letters().iter();
    let value = |it: &letter::Letter| {
        json!({
            "message_id": it.message_id,
            "scan_id": view.scan_id,
            "reason": view.reason,
            "detail": view.detail,
            "attempts": view.attempts,
            "source": view.source,
            "image": view.image,
            "tag": view.tag,
            "digest": view.digest,
            "received_at": view.received_at,
            "last_failed_at": view.last_failed_at,
            "sent_at": it.sent_at,
            "moved_from": it.moved_from,
            "attributes": it.attributes,
            "body": body(&it.body),
        })
    };
    letters.map(value).collect()
}

/// The body as JSON, if it is some; else as the text it is.
fn body(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// What was done.
pub(crate) fn done(verb: &str, done: &Done) -> anyhow::Result<()> {
    match verb {
        "delete" => output::line(&format!("deleted {} messages", done.deleted_messages))?,
        _ => output::line(&format!(
            "redrove {} dead letters; removed {} messages from the dead-letter queue",
            done.redriven, done.deleted_messages
        ))?,
    }
    if done.scanned_since > 0 {
        output::line(&format!(
            "{} already had a verdict and were not queued again",
            done.scanned_since
        ))?;
    }
    if done.left_messages > 0 {
        output::line(&format!(
            "{} messages are still in the dead-letter queue",
            done.left_messages
        ))?;
    }
    for (id, why) in &done.refused {
        output::notice(&format!("{id}: {why}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_the_largest_unit_that_fits() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        for (seconds, expected) in [
            (-5, "0s ago"),
            (0, "0s ago"),
            (59, "59s ago"),
            (60, "1m ago"),
            (3600, "1h ago"),
            (47 * 3600, "47h ago"),
            (72 * 3600, "3d ago"),
        ] {
            let instant = now
                .checked_sub(jiff::SignedDuration::from_secs(seconds))
                .unwrap();
            assert_eq!(ago(instant, now), expected);
        }
    }

    #[test]
    fn a_table_has_the_start_of_a_details_first_line() {
        let long = shortened(&format!("{}\nsecond line", "x".repeat(200)));
        assert_eq!(long.chars().count(), DETAIL);
    }
}
