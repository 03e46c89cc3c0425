//! Dead letters as values: read from messages, grouped by scan, filtered and counted.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use jiff::Timestamp;
use scanhook_core::image::{Digest, Tag};
use scanhook_core::message::{QueueMessage, ScanId};
use scanhook_core::record::{RecordVerdict, ScanRecord, State};
use serde::Serialize;

use crate::args::dlq::{DlqFilterArgs, UNKNOWN};
use crate::output;

/// A message of a dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetterMessage {
    pub(crate) message_id: String,
    /// Any text; empty if it was dropped by [`Self::without_body`].
    pub(crate) body: String,
    /// The scan in the body, if the body is one.
    scan: Option<QueueMessage>,
    /// The message attributes that are text.
    pub(crate) attributes: BTreeMap<String, String>,
    /// The queue that SQS moved the message from. None if the scanner sent it here.
    pub(crate) moved_from: Option<String>,
    /// When the message was sent: to this queue, or to the queue that SQS moved it from.
    pub(crate) sent_at: Timestamp,
    /// From the body, else from the attribute that the scanner wrote.
    pub(crate) scan_id: Option<ScanId>,
    /// From the attribute that the scanner wrote.
    failed_at: Option<Timestamp>,
}

impl DeadLetterMessage {
    pub(crate) fn new(
        message_id: String,
        body: String,
        attributes: BTreeMap<String, String>,
        moved_from: Option<String>,
        sent_at: Timestamp,
    ) -> Self {
        let attribute = |name| attributes.get(name).map(String::as_str);
        let scan = QueueMessage::parse(&body).ok();
        let scan_id = scan
            .as_ref()
            .map(|it| it.scan_id.clone())
            .or_else(|| ScanId::try_from(attribute("scanhook.scan_id")?.to_owned()).ok());
        let failed_at = attribute("scanhook.failed_at").and_then(|it| it.parse().ok());
        Self {
            message_id,
            body,
            scan,
            attributes,
            moved_from,
            sent_at,
            scan_id,
            failed_at,
        }
    }

    /// Drops the body, which only `show` and `export` print. A body can be a megabyte, and a queue can have any number of
    /// messages.
    #[must_use]
    pub(crate) fn without_body(self) -> Self {
        Self {
            body: String::new(),
            ..self
        }
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// The scan's id, else the SQS message id.
    fn id(&self) -> &str {
        self.scan_id
            .as_ref()
            .map_or(&self.message_id, ScanId::as_str)
    }
}

/// A scan that was given up: all its messages, and its records in the ledger.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetter {
    /// In the order in which they failed; at least one.
    messages: Vec<DeadLetterMessage>,
    scan: Option<QueueMessage>,
    records: Vec<ScanRecord>,
}

impl DeadLetter {
    /// The messages, in the order in which they failed.
    pub(crate) fn messages(&self) -> &[DeadLetterMessage] {
        &self.messages
    }

    /// The scan in the newest message, if there is one.
    pub(crate) fn scan(&self) -> Option<&QueueMessage> {
        self.scan.as_ref()
    }

    /// The ledger's records, one for each platform.
    pub(crate) fn records(&self) -> &[ScanRecord] {
        &self.records
    }

    #[must_use]
    pub(crate) fn with_records(self, records: Vec<ScanRecord>) -> Self {
        Self { records, ..self }
    }

    fn newest(&self) -> &DeadLetterMessage {
        match self.messages.last() {
            Some(message) => message,
            None => unreachable!("a dead letter has a message"),
        }
    }

    /// The scan's id, else the SQS message id.
    pub(crate) fn id(&self) -> String {
        self.newest().id().to_owned()
    }

    fn failed_record(&self) -> Option<&ScanRecord> {
        let mut records = self.records.iter();
        records.find(|it| it.verdict == Some(RecordVerdict::Error))
    }

    /// The reason in the newest message, else in the ledger.
    pub(crate) fn reason(&self) -> &str {
        let in_ledger = || Some(self.failed_record()?.reason.as_ref()?.as_str());
        let in_message = self.newest().attribute("scanhook.reason");
        in_message.or_else(in_ledger).unwrap_or(UNKNOWN)
    }

    /// The time of the last failure: from the newest message, else from the ledger, else the time when the message was sent.
    fn last_failed_at(&self) -> Timestamp {
        let in_ledger = || self.failed_record()?.finished_at;
        let in_message = self.newest().failed_at;
        in_message
            .or_else(in_ledger)
            .unwrap_or(self.newest().sent_at)
    }

    /// Whether every platform got a verdict after the failure, so that nothing is left to scan.
    pub(crate) fn is_scanned_since(&self) -> bool {
        let failed_at = self.newest().failed_at;
        let is_later = |it: &ScanRecord| {
            it.state == State::Done && failed_at.is_none_or(|failed| it.finished_at > Some(failed))
        };
        !self.records.is_empty() && self.records.iter().all(is_later)
    }

    /// The fields that JSON and tables show.
    pub(crate) fn view(&self) -> DeadLetterView<'_> {
        let newest = self.newest();
        let failed_record = self.failed_record();
        let detail = newest.attribute("scanhook.detail").map(str::to_owned);
        let attempts = newest
            .attribute("scanhook.attempts")
            .and_then(|it| it.parse().ok());
        let scan = self.scan.as_ref();
        let message_ids = self.messages.iter().map(|it| it.message_id.as_str());
        DeadLetterView {
            id: self.id(),
            scan_id: newest.scan_id.clone(),
            message_ids: message_ids.collect(),
            reason: self.reason(),
            detail: detail.or_else(|| failed_record?.detail.clone()),
            attempts: attempts.or_else(|| failed_record.map(|it| it.attempts)),
            source: scan.map(|it| it.source.as_str()),
            image: scan.map(|it| it.image.name()),
            tag: scan.and_then(|it| it.image.pin.tag()),
            digest: scan.and_then(|it| it.image.pin.digest()),
            received_at: scan.map(|it| it.event.received_at),
            first_failed_at: self.messages.first().and_then(|it| it.failed_at),
            last_failed_at: self.last_failed_at(),
            scanned_since: self.is_scanned_since(),
        }
    }
}

/// A dead letter in JSON; its fields are stable.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeadLetterView<'a> {
    /// The scan's id, else the SQS message id.
    pub(crate) id: String,
    pub(crate) scan_id: Option<ScanId>,
    pub(crate) message_ids: Vec<&'a str>,
    pub(crate) reason: &'a str,
    pub(crate) detail: Option<String>,
    pub(crate) attempts: Option<u32>,
    pub(crate) source: Option<&'a str>,
    /// Registry and repository.
    pub(crate) image: Option<String>,
    pub(crate) tag: Option<&'a Tag>,
    pub(crate) digest: Option<&'a Digest>,
    /// When the webhook received the delivery.
    pub(crate) received_at: Option<Timestamp>,
    /// From the oldest message.
    pub(crate) first_failed_at: Option<Timestamp>,
    /// From the newest message, else from the ledger, else the time when the message was sent.
    pub(crate) last_failed_at: Timestamp,
    /// Whether every platform got a verdict after the failure.
    pub(crate) scanned_since: bool,
}

impl DeadLetterView<'_> {
    /// The image with tag or digest; `-` if the message is not a scan.
    pub(crate) fn reference(&self) -> String {
        let name = self.image.as_deref().unwrap_or("-");
        output::image(name, self.tag, self.digest)
    }
}

/// Makes one dead letter of all messages of a scan; oldest failure first.
pub(crate) fn group_by_scan(messages: Vec<DeadLetterMessage>) -> Vec<DeadLetter> {
    let mut by_id: BTreeMap<String, Vec<DeadLetterMessage>> = BTreeMap::new();
    for message in messages {
        by_id
            .entry(message.id().to_owned())
            .or_default()
            .push(message);
    }
    let mut dead_letters: Vec<_> = by_id.into_values().map(of_one_scan).collect();
    dead_letters.sort_by_key(DeadLetter::last_failed_at);
    dead_letters
}

fn of_one_scan(mut messages: Vec<DeadLetterMessage>) -> DeadLetter {
    messages.sort_by_key(|it| (it.failed_at.unwrap_or(it.sent_at), it.message_id.clone()));
    DeadLetter {
        scan: messages.last().and_then(|it| it.scan.clone()),
        messages,
        records: Vec::new(),
    }
}

/// Which dead letters are selected.
#[derive(Debug)]
pub(crate) struct Filter {
    ids: BTreeSet<String>,
    reasons: BTreeSet<String>,
    sources: BTreeSet<String>,
    images: Option<GlobSet>,
    since: Option<Timestamp>,
}

impl Filter {
    pub(crate) fn new(args: &DlqFilterArgs, now: Timestamp) -> anyhow::Result<Self> {
        let set = |values: &[String]| values.iter().cloned().collect();
        let images = if args.image.is_empty() {
            None
        } else {
            Some(globs(&args.image)?)
        };
        Ok(Self {
            ids: set(&args.ids),
            reasons: set(&args.reason),
            sources: set(&args.source),
            images,
            since: args.since.map(|it| it.before(now)),
        })
    }

    /// Selects the one dead letter with that id.
    pub(crate) fn of(id: &str) -> Self {
        Self {
            ids: BTreeSet::from([id.to_owned()]),
            reasons: BTreeSet::new(),
            sources: BTreeSet::new(),
            images: None,
            since: None,
        }
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.ids.is_empty()
            && self.reasons.is_empty()
            && self.sources.is_empty()
            && self.images.is_none()
            && self.since.is_none()
    }

    pub(crate) fn admits(&self, dead_letter: &DeadLetter) -> bool {
        self.may_admit(dead_letter)
            && is_in(&self.reasons, dead_letter.reason())
            && self
                .since
                .is_none_or(|it| dead_letter.last_failed_at() >= it)
    }

    /// Whether the filter can select a dead letter, judged without the ledger's records.
    pub(crate) fn may_admit(&self, dead_letter: &DeadLetter) -> bool {
        let scan = dead_letter.scan.as_ref();
        let is_selected = self.ids.is_empty() || self.ids.iter().any(|id| has_id(dead_letter, id));
        is_selected
            && is_in(&self.sources, scan.map_or("", |it| it.source.as_str()))
            && self
                .images
                .as_ref()
                .is_none_or(|globs| scan.is_some_and(|scan| is_image_in(globs, scan)))
    }

    /// The requested ids that no dead letter has.
    pub(crate) fn unknown_ids<'a>(&'a self, dead_letters: &[DeadLetter]) -> Vec<&'a str> {
        let is_unknown = |id: &&str| !dead_letters.iter().any(|it| has_id(it, id));
        self.ids
            .iter()
            .map(String::as_str)
            .filter(is_unknown)
            .collect()
    }
}

/// Whether an id is that of the dead letter or of one of its messages.
fn has_id(dead_letter: &DeadLetter, id: &str) -> bool {
    dead_letter.id() == id || dead_letter.messages.iter().any(|it| it.message_id == id)
}

fn is_image_in(globs: &GlobSet, scan: &QueueMessage) -> bool {
    let name = scan.image.name();
    let tagged = scan.image.pin.tag().map(|tag| format!("{name}:{tag}"));
    globs.is_match(&name) || tagged.is_some_and(|it| globs.is_match(it))
}

/// Whether a value is in a set; every value is in an empty one.
fn is_in(set: &BTreeSet<String>, value: &str) -> bool {
    set.is_empty() || set.contains(value)
}

fn globs(patterns: &[String]) -> anyhow::Result<GlobSet> {
    let mut globs = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        globs.add(glob.with_context(|| format!("--image {pattern:?}"))?);
    }
    globs.build().context("--image")
}

/// The dead letters of one reason, counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Group {
    pub(crate) reason: String,
    /// Dead letters; the JSON's older word.
    pub(crate) requests: usize,
    pub(crate) messages: usize,
    pub(crate) sources: BTreeSet<String>,
    pub(crate) first_failed_at: Timestamp,
    pub(crate) last_failed_at: Timestamp,
}

/// Counts the dead letters of each reason, the most frequent first.
pub(crate) fn groups(dead_letters: &[DeadLetter]) -> Vec<Group> {
    let mut by_reason: BTreeMap<&str, Group> = BTreeMap::new();
    for dead_letter in dead_letters {
        let view = dead_letter.view();
        let group = by_reason.entry(view.reason).or_insert_with(|| Group {
            reason: view.reason.to_owned(),
            requests: 0,
            messages: 0,
            sources: BTreeSet::new(),
            first_failed_at: Timestamp::MAX,
            last_failed_at: Timestamp::MIN,
        });
        group.requests += 1;
        group.messages += dead_letter.messages.len();
        group.sources.extend(view.source.map(str::to_owned));
        let first = view.first_failed_at.unwrap_or(view.last_failed_at);
        group.first_failed_at = group.first_failed_at.min(first);
        group.last_failed_at = group.last_failed_at.max(view.last_failed_at);
    }
    let mut groups: Vec<_> = by_reason.into_values().collect();
    groups.sort_by_key(|it| std::cmp::Reverse(it.requests));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-21T{text}:00Z").parse().unwrap()
    }

    fn message(id: &str, scan_id: &str, attributes: &[(&str, &str)]) -> DeadLetterMessage {
        let body = format!(
            r#"{{"version":1,"scan_id":"{scan_id}","source":"prod","image":{{"registry":"h.io","repository":"team/app","tag":"1","digest":null}},"event":{{"id":null,"type":"push","actor":null,"occurred_at":null,"received_at":"2026-11-21T08:00:00Z"}}}}"#
        );
        let attributes = attributes
            .iter()
            .map(|(name, value)| (format!("scanhook.{name}"), (*value).to_owned()));
        DeadLetterMessage::new(id.to_owned(), body, attributes.collect(), None, at("08:00"))
    }

    fn failed(id: &str, scan_id: &str, reason: &str, time: &str) -> DeadLetterMessage {
        let time = at(time).to_string();
        message(
            id,
            scan_id,
            &[("reason", reason), ("failed_at", &time), ("attempts", "3")],
        )
    }

    fn record(
        dead_letter: &DeadLetter,
        state: &str,
        verdict: &str,
        finished_at: &str,
    ) -> ScanRecord {
        let record = ScanRecord::begin(dead_letter.scan().unwrap(), 4, at("08:00"));
        let mut json = serde_json::to_value(record).unwrap();
        json["state"] = state.into();
        json["verdict"] = verdict.into();
        json["reason"] = if verdict == "error" {
            "network".into()
        } else {
            serde_json::Value::Null
        };
        json["finished_at"] = at(finished_at).to_string().into();
        serde_json::from_value(json).unwrap()
    }

    fn filter(set: impl FnOnce(&mut DlqFilterArgs)) -> Filter {
        let mut args = DlqFilterArgs {
            ids: Vec::new(),
            reason: Vec::new(),
            source: Vec::new(),
            image: Vec::new(),
            since: None,
        };
        set(&mut args);
        Filter::new(&args, at("12:00")).unwrap()
    }

    #[test]
    fn messages_of_one_scan_are_one_dead_letter_with_the_newest_reason() {
        let dead_letters = group_by_scan(vec![
            failed("m2", "01A", "timeout", "11:00"),
            failed("m3", "01B", "network", "10:30"),
            failed("m1", "01A", "network", "10:00"),
        ]);
        let shown: Vec<_> = dead_letters
            .iter()
            .map(|it| (it.id(), it.reason().to_owned(), it.messages().len()))
            .collect();
        assert_eq!(
            shown,
            [
                ("01B".into(), "network".into(), 1),
                ("01A".into(), "timeout".into(), 2)
            ]
        );
        let view = dead_letters[1].view();
        assert_eq!(view.message_ids, ["m1", "m2"]);
        assert_eq!(
            (view.first_failed_at, view.last_failed_at),
            (Some(at("10:00")), at("11:00"))
        );
        assert_eq!(
            (view.attempts, view.reference()),
            (Some(3), "h.io/team/app:1".to_owned())
        );
    }

    #[test]
    fn the_ledger_has_the_reason_if_the_message_has_none() {
        let dead_letter = group_by_scan(vec![message("m1", "01A", &[])]).remove(0);
        assert_eq!(dead_letter.reason(), UNKNOWN);
        let failed = record(&dead_letter, "retrying", "error", "09:00");
        let dead_letter = dead_letter.with_records(vec![failed]);
        assert_eq!(dead_letter.reason(), "network");
        assert_eq!(
            (
                dead_letter.view().attempts,
                dead_letter.view().last_failed_at
            ),
            (Some(4), at("09:00"))
        );
        assert!(!dead_letter.is_scanned_since());
    }

    #[test]
    fn a_verdict_after_the_failure_leaves_nothing_to_scan() {
        let dead_letter = group_by_scan(vec![failed("m1", "01A", "network", "10:00")]).remove(0);
        for (state, finished_at, expected) in [
            ("done", "10:01", true),
            ("done", "09:59", false),
            ("dead_letter", "10:01", false),
            ("in_progress", "10:01", false),
        ] {
            let record = record(&dead_letter, state, "passed", finished_at);
            let one = dead_letter.clone().with_records(vec![record.clone()]);
            assert_eq!(one.is_scanned_since(), expected, "{state} {finished_at}");
            let open = self::record(&dead_letter, "retrying", "error", "10:02");
            assert!(
                !dead_letter
                    .clone()
                    .with_records(vec![record, open])
                    .is_scanned_since(),
                "another platform is open"
            );
        }
    }

    #[test]
    fn a_message_that_is_not_a_scan_is_a_dead_letter_of_its_own() {
        let attributes = BTreeMap::from([("scanhook.reason".to_owned(), "bad_message".to_owned())]);
        let garbage = |id: &str| {
            DeadLetterMessage::new(
                id.to_owned(),
                "nonsense".to_owned(),
                attributes.clone(),
                None,
                at("08:00"),
            )
        };
        let dead_letters = group_by_scan(vec![garbage("m1"), garbage("m2")]);
        let ids: Vec<_> = dead_letters.iter().map(DeadLetter::id).collect();
        assert_eq!(ids, ["m1", "m2"]);
        assert_eq!(dead_letters[0].view().reference(), "-");
        assert!(filter(|it| it.reason = vec!["bad_message".into()]).admits(&dead_letters[0]));
        assert!(!filter(|it| it.source = vec!["prod".into()]).admits(&dead_letters[0]));
        assert!(!filter(|it| it.image = vec!["**".into()]).admits(&dead_letters[0]));
    }

    #[test]
    fn filters_are_anded_and_their_values_ored() {
        let dead_letter = group_by_scan(vec![failed("m1", "01A", "network", "10:00")]).remove(0);
        let admits = |set: fn(&mut DlqFilterArgs)| filter(set).admits(&dead_letter);
        assert!(filter(|_| ()).is_everything() && admits(|_| ()));
        assert!(admits(|it| it.ids = vec!["x".into(), "01A".into()]));
        assert!(admits(|it| it.ids = vec!["m1".into()]));
        assert!(!admits(|it| it.ids = vec!["x".into()]));
        assert!(admits(
            |it| it.reason = vec!["timeout".into(), "network".into()]
        ));
        assert!(!admits(|it| it.reason = vec!["timeout".into()]));
        assert!(!admits(|it| {
            it.reason = vec!["network".into()];
            it.source = vec!["dev".into()];
        }));
        let by_reason = filter(|it| it.reason = vec!["timeout".into()]);
        let by_source = filter(|it| it.source = vec!["dev".into()]);
        assert!(by_reason.may_admit(&dead_letter) && !by_source.may_admit(&dead_letter));
        assert!(admits(|it| it.since = Some("2h".parse().unwrap())));
        assert!(!admits(|it| it.since = Some("1h".parse().unwrap())));
        for (glob, expected) in [
            ("h.io/team/app", true),
            ("h.io/team/*", true),
            ("h.io/*", false),
            ("h.io/**", true),
            ("**/app:1", true),
            ("**/app:2", false),
        ] {
            let args = filter(|it| it.image = vec![glob.to_owned()]);
            assert_eq!(args.admits(&dead_letter), expected, "{glob}");
        }
        let requested = filter(|it| it.ids = vec!["01A".into(), "m1".into(), "01X".into()]);
        assert_eq!(requested.unknown_ids(&[dead_letter]), ["01X"]);
    }

    #[test]
    fn groups_count_dead_letters_and_messages_of_each_reason() {
        let dead_letters = group_by_scan(vec![
            failed("m1", "01A", "network", "10:00"),
            failed("m2", "01A", "network", "10:10"),
            failed("m3", "01B", "network", "09:00"),
            failed("m4", "01C", "timeout", "11:00"),
        ]);
        let shown: Vec<_> = groups(&dead_letters)
            .into_iter()
            .map(|it| (it.reason, it.requests, it.messages, it.first_failed_at))
            .collect();
        assert_eq!(
            shown,
            [
                ("network".to_owned(), 2, 3, at("09:00")),
                ("timeout".to_owned(), 1, 1, at("11:00")),
            ]
        );
    }
}
