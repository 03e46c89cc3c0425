//! How dead letters are shown: tables for people, JSON for scripts.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::act::Summary;
use super::advice::advice;
use super::dead_letter::{self, DeadLetter, DeadLetterMessage};
use crate::output;

/// Prints the counts by reason, then the newest dead letters.
pub(crate) fn list(
    dead_letters: &[DeadLetter],
    limit: usize,
    now: Timestamp,
) -> anyhow::Result<()> {
    if dead_letters.is_empty() {
        output::notice("no dead letters");
        return Ok(());
    }
    groups(dead_letters, now)?;
    let header = [
        "id", "image", "source", "reason", "attempts", "failed", "detail",
    ];
    let rows = dead_letters.iter().rev().take(limit).map(|it| row(it, now));
    output::table(&header, rows.collect())?;
    if dead_letters.len() > limit {
        output::notice(&format!(
            "{} older dead letters are not shown; raise --limit to see more",
            dead_letters.len() - limit
        ));
    }
    output::notice("`scanhook dlq show ID` shows one in full, and what to do about it");
    Ok(())
}

pub(crate) fn groups(dead_letters: &[DeadLetter], now: Timestamp) -> anyhow::Result<()> {
    let header = [
        "reason",
        "dead letters",
        "messages",
        "sources",
        "first failed",
        "last failed",
    ];
    let rows = dead_letter::groups(dead_letters).into_iter().map(|it| {
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

fn row(dead_letter: &DeadLetter, now: Timestamp) -> Vec<String> {
    let view = dead_letter.view();
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

/// The most characters of a detail in a table.
const DETAIL: usize = 80;

fn shortened(detail: &str) -> String {
    let line = detail.lines().next().unwrap_or_default();
    if line.chars().count() <= DETAIL {
        return line.to_owned();
    }
    let start: String = line.chars().take(DETAIL - 1).collect();
    format!("{start}…")
}

/// The age, in the largest unit that fits.
fn ago(instant: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(instant).as_secs().max(0);
    match seconds {
        ..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..172_800 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// Prints one dead letter in full.
pub(crate) fn show(dead_letter: &DeadLetter, now: Timestamp) -> anyhow::Result<()> {
    let view = dead_letter.view();
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
    if let Some(scan) = dead_letter.scan() {
        let event = &scan.event;
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
        add("force", scan.force.then(|| "true".to_owned()));
        add("trace", scan.traceparent.map(|it| it.trace_id.to_string()));
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
    for record in dead_letter.records() {
        let platform = record
            .platform
            .as_ref()
            .map_or_else(String::new, |it| format!(" for {it}"));
        let json = output::pretty(record)?;
        output::line(&format!("\nLedger record{platform}:\n{}", indented(&json)))?;
    }
    for message in messages(dead_letter) {
        let json = output::pretty(&message)?;
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

/// One dead letter in full, as JSON.
pub(crate) fn in_full(dead_letter: &DeadLetter) -> Value {
    let view = dead_letter.view();
    let advice = advice(view.reason);
    json!({
        "letter": view,
        "messages": messages(dead_letter),
        "records": dead_letter.records(),
        "meaning": advice.meaning,
        "action": advice.action,
    })
}

/// Each message of a dead letter in full, as JSON.
pub(crate) fn messages(dead_letter: &DeadLetter) -> Vec<Value> {
    let view = dead_letter.view();
    let value = |message: &DeadLetterMessage| {
        json!({
            "message_id": message.message_id,
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
            "sent_at": message.sent_at,
            "moved_from": message.moved_from,
            "attributes": message.attributes,
            "body": body(&message.body),
        })
    };
    dead_letter.messages().iter().map(value).collect()
}

/// The body as JSON if it is JSON, else as text.
fn body(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

pub(crate) fn summary(verb: &str, summary: &Summary) -> anyhow::Result<()> {
    match verb {
        "delete" => output::line(&format!("deleted {} messages", summary.deleted_messages))?,
        _ => output::line(&format!(
            "redrove {} dead letters; removed {} messages from the dead-letter queue",
            summary.redriven, summary.deleted_messages
        ))?,
    }
    if summary.scanned_since > 0 {
        output::line(&format!(
            "{} already had a verdict and were not queued again",
            summary.scanned_since
        ))?;
    }
    if summary.left_messages > 0 {
        output::line(&format!(
            "{} messages are still in the dead-letter queue",
            summary.left_messages
        ))?;
    }
    for (id, why) in &summary.refused {
        output::notice(&format!("{id}: {why}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_the_largest_unit_that_fits() {
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
    fn a_table_shows_the_start_of_a_details_first_line() {
        let long = shortened(&format!("{}\nsecond line", "x".repeat(200)));
        assert_eq!(long.chars().count(), DETAIL);
    }
}
