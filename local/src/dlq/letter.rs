//! Dead letters as values: what each says, folded by scan request, filtered and counted.

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

/// Stands for the reason where neither the letter nor the ledger tells one.

/// A message of a dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    /// SQS's id of the message.
    pub(crate) message_id: String,
    /// Its body, which is anything; empty where nobody wants to see it.
    pub(crate) body: String,
    /// The scan request that the body is, if it is one.
    message: Option<QueueMessage>,
    /// Its message attributes that are text.
    pub(crate) attributes: BTreeMap<String, String>,
    /// The queue SQS moved it from, if SQS did.
    pub(crate) moved_from: Option<String>,
    /// When it was sent: to this queue, or to the one SQS moved it from.
    pub(crate) sent_at: Timestamp,
    /// The scan request's id: the body's, else what the scanner wrote beside it.
    pub(crate) scan_id: Option<ScanId>,
    /// When it failed, if the scanner wrote it.
    failed_at: Option<Timestamp>,
}

impl Letter {
    /// Reads what a message tells.
    pub(crate) fn new(
        message_id: String,
        body: String,
        attributes: BTreeMap<String, String>,
        moved_from: Option<String>,
        sent_at: Timestamp,
    ) -> Self {
        let told = || ScanId::try_from(attributes.get("scanhook.scan_id")?.clone()).ok();
        let message = QueueMessage::parse(&body).ok();
        let scan_id = message.as_ref().map(|it| it.scan_id.clone());
        let failed_at = attributes
            .get("scanhook.failed_at")
            .and_then(|it| it.parse().ok());
        Self {
            scan_id: scan_id.or_else(told),
            failed_at,
            message_id,
            body,
            message,
            attributes,
            moved_from,
            sent_at,
        }
    }

    /// The same without what only `show` and `export` print: a body may have a megabyte, and a queue any number of them.
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

    /// The scan's id, else SQS's id of the message.
    fn id(&self) -> &str {
        self.scan_id
            .as_ref()
            .map_or(&self.message_id, ScanId::as_str)
    }
}

/// All dead letters of one scan request, with what the ledger knows of it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// In the order in which they failed; at least one.
    letters: Vec<Letter>,
    message: Option<QueueMessage>,
    records: Vec<ScanRecord>,
}

impl Case {
    /// The letters, in the order in which they failed.
    pub(crate) fn letters(&self) -> &[Letter] {
        &self.letters
    }

    /// The scan request, if its last letter tells one.
    pub(crate) fn message(&self) -> Option<&QueueMessage> {
        self.message.as_ref()
    }

    /// What the ledger knows of it, one record for each platform.
    pub(crate) fn records(&self) -> &[ScanRecord] {
        &self.records
    }

    /// The same with what the ledger knows of it.
    #[must_use]
    pub(crate) fn with_records(self, records: Vec<ScanRecord>) -> Self {
        Self { records, ..self }
    }

    fn last(&self) -> &Letter {
        match self.letters.last() {
            Some(letter) => letter,
            None => unreachable!("a case is made of a letter"),
        }
    }

    /// What people call it by: the scan's id, else SQS's id of the message.
    pub(crate) fn id(&self) -> String {
        self.last().id().to_owned()
    }

    /// The record that tells of a failure, if one does.
    fn failed_record(&self) -> Option<&ScanRecord> {
        let mut records = self.records.iter();
        records.find(|it| it.verdict == Some(RecordVerdict::Error))
    }

    /// Why it is here: what the last letter says, else what the ledger says.
    pub(crate) fn reason(&self) -> &str {
        let ledger = || Some(self.failed_record()?.reason.as_ref()?.as_str());
        let told = self.last().attribute("scanhook.reason").or_else(ledger);
        told.unwrap_or(UNKNOWN)
    }

    /// When it failed for the last time, as far as anything tells.
    fn last_failed_at(&self) -> Timestamp {
        let ledger = || self.failed_record()?.finished_at;
        let told = self.last().failed_at.or_else(ledger);
        told.unwrap_or(self.last().sent_at)
    }

    /// Whether it has been scanned since it failed, so that nothing is left to do.
    pub(crate) fn is_scanned_since(&self) -> bool {
        let failed_at = self.last().failed_at;
        let is_later = |it: &ScanRecord| {
            it.state == State::Done && failed_at.is_none_or(|failed| it.finished_at > Some(failed))
        };
        !self.records.is_empty() && self.records.iter().all(is_later)
    }

    /// What scripts and tables show.
    pub(crate) fn view(&self) -> CaseView<'_> {
        let last = self.last();
        let failed = self.failed_record();
        let ledger = |it: &ScanRecord| it.detail.clone();
        let attempts = last
            .attribute("scanhook.attempts")
            .and_then(|it| it.parse().ok());
        let message = self.message.as_ref();
        CaseView {
            id: self.id(),
            scan_id: last.scan_id.clone(),
            message_ids: self
                .letters
                .iter()
                .map(|it| it.message_id.as_str())
                .collect(),
            reason: self.reason(),
            detail: last
                .attribute("scanhook.detail")
                .map(str::to_owned)
                .or_else(|| failed.and_then(ledger)),
            attempts: attempts.or_else(|| failed.map(|it| it.attempts)),
            source: message.map(|it| it.source.as_str()),
            image: message.map(|it| it.image.name()),
            tag: message.and_then(|it| it.image.pin.tag()),
            digest: message.and_then(|it| it.image.pin.digest()),
            received_at: message.map(|it| it.event.received_at),
            first_failed_at: self.letters.first().and_then(|it| it.failed_at),
            last_failed_at: self.last_failed_at(),
            scanned_since: self.is_scanned_since(),
        }
    }
}

/// A case in JSON; its fields are stable.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CaseView<'a> {
    /// The scan's id, else SQS's id of the message.
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
    /// When the webhook took the delivery.
    pub(crate) received_at: Option<Timestamp>,
    /// What the oldest letter tells.
    pub(crate) first_failed_at: Option<Timestamp>,
    /// What the newest letter tells, else the ledger, else when the letter was sent.
    pub(crate) last_failed_at: Timestamp,
    /// Whether it was scanned after it failed.
    pub(crate) scanned_since: bool,
}

impl CaseView<'_> {
    /// The image as people name it; what is no message has none.
    pub(crate) fn reference(&self) -> String {
        let name = self.image.as_deref().unwrap_or("-");
        output::image(name, self.tag, self.digest)
    }
}

/// Puts the letters of each scan request together; oldest failure first.
pub(crate) fn fold(letters: Vec<Letter>) -> Vec<Case> {
    let mut by_id: BTreeMap<String, Vec<Letter>> = BTreeMap::new();
    for letter in letters {
        by_id
            .entry(letter.id().to_owned())
            .or_default()
            .push(letter);
    }
    let mut cases: Vec<_> = by_id
        .into_values()
        .map(|mut letters| {
            letters.sort_by_key(|it| (it.failed_at.unwrap_or(it.sent_at), it.message_id.clone()));
            Case {
                message: letters.last().and_then(|it| it.message.clone()),
                letters,
                records: Vec::new(),
            }
        })
        .collect();
    cases.sort_by_key(Case::last_failed_at);
    cases
}

/// Which cases are meant.
#[derive(Debug)]
pub(crate) struct Filter {
    ids: BTreeSet<String>,
    reasons: BTreeSet<String>,
    sources: BTreeSet<String>,
    images: Option<GlobSet>,
    since: Option<Timestamp>,
}

impl Filter {
    /// Reads the flags.
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

    /// The one case with that id.
    pub(crate) fn of(id: &str) -> Self {
        Self {
            ids: BTreeSet::from([id.to_owned()]),
            reasons: BTreeSet::new(),
            sources: BTreeSet::new(),
            images: None,
            since: None,
        }
    }

    /// Whether every case is meant.
    pub(crate) fn is_everything(&self) -> bool {
        self.ids.is_empty()
            && self.reasons.is_empty()
            && self.sources.is_empty()
            && self.images.is_none()
            && self.since.is_none()
    }

    /// Whether a case is meant.
    pub(crate) fn admits(&self, case: &Case) -> bool {
        self.may_admit(case)
            && is_in(&self.reasons, case.reason())
            && self.since.is_none_or(|it| case.last_failed_at() >= it)
    }

    /// Whether a case can be meant, whatever the ledger knows of it.
    pub(crate) fn may_admit(&self, case: &Case) -> bool {
        let is_named = self.ids.is_empty()
            || self.ids.contains(&case.id())
            || case
                .letters
                .iter()
                .any(|it| self.ids.contains(&it.message_id));
        let message = case.message.as_ref();
        let is_image = |globs: &GlobSet| {
            message.is_some_and(|it| {
                let name = it.image.name();
                let tagged = it.image.pin.tag().map(|tag| format!("{name}:{tag}"));
                globs.is_match(&name) || tagged.is_some_and(|it| globs.is_match(it))
            })
        };
        is_named
            && is_in(&self.sources, message.map_or("", |it| it.source.as_str()))
            && self.images.as_ref().is_none_or(is_image)
    }

    /// The ids that were asked for and are in none of the cases.
    pub(crate) fn unknown_ids<'a>(&'a self, cases: &[Case]) -> Vec<&'a str> {
        let is_unknown = |id: &&String| {
            let has =
                |it: &Case| it.id() == **id || it.letters.iter().any(|it| it.message_id == **id);
            !cases.iter().any(has)
        };
        self.ids
            .iter()
            .filter(is_unknown)
            .map(String::as_str)
            .collect()
    }
}

/// Whether a value is one of those that were asked for, or none was.
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

/// The cases of one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Group {
    pub(crate) reason: String,
    /// Scan requests.
    pub(crate) requests: usize,
    /// Messages in the queue.
    pub(crate) messages: usize,
    pub(crate) sources: BTreeSet<String>,
    pub(crate) first_failed_at: Timestamp,
    pub(crate) last_failed_at: Timestamp,
}

/// Counts the cases of each reason, the most frequent first.
pub(crate) fn groups(cases: &[Case]) -> Vec<Group> {
    let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
    for case in cases {
        let view = case.view();
        let group = groups.entry(view.reason).or_insert_with(|| Group {
            reason: view.reason.to_owned(),
            requests: 0,
            messages: 0,
            sources: BTreeSet::new(),
            first_failed_at: Timestamp::MAX,
            last_failed_at: Timestamp::MIN,
        });
        group.requests += 1;
        group.messages += case.letters.len();
        group.sources.extend(view.source.map(str::to_owned));
        let first = view.first_failed_at.unwrap_or(view.last_failed_at);
        group.first_failed_at = group.first_failed_at.min(first);
        group.last_failed_at = group.last_failed_at.max(view.last_failed_at);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|it| std::cmp::Reverse(it.requests));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-21T{text}:00Z").parse().unwrap()
    }

    fn letter(id: &str, scan_id: &str, attributes: &[(&str, &str)]) -> Letter {
        let body = format!(
            r#"{{"version":1,"scan_id":"{scan_id}","source":"prod","image":{{"registry":"h.io","repository":"team/app","tag":"1","digest":null}},"event":{{"id":null,"type":"push","actor":null,"occurred_at":null,"received_at":"2026-11-21T08:00:00Z"}}}}"#
        );
        let attributes = attributes
            .iter()
            .map(|(name, value)| (format!("scanhook.{name}"), (*value).to_owned()));
        Letter::new(id.to_owned(), body, attributes.collect(), None, at("08:00"))
    }

    fn failed(id: &str, scan_id: &str, reason: &str, time: &str) -> Letter {
        let time = at(time).to_string();
        letter(
            id,
            scan_id,
            &[("reason", reason), ("failed_at", &time), ("attempts", "3")],
        )
    }

    fn record(case: &Case, state: &str, verdict: &str, finished_at: &str) -> ScanRecord {
        let record = ScanRecord::begin(case.message().unwrap(), 4, at("08:00"));
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
    fn letters_of_one_scan_are_one_case_with_the_last_reason() {
        let cases = fold(vec![
            failed("m2", "01A", "timeout", "11:00"),
            failed("m3", "01B", "network", "10:30"),
            failed("m1", "01A", "network", "10:00"),
        ]);
        let shown: Vec<_> = cases
            .iter()
            .map(|it| (it.id(), it.reason().to_owned(), it.letters().len()))
            .collect();
        assert_eq!(
            shown,
            [
                ("01B".into(), "network".into(), 1),
                ("01A".into(), "timeout".into(), 2)
            ]
        );
        let view = cases[1].view();
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
    fn the_ledger_tells_the_reason_that_a_letter_does_not() {
        let case = fold(vec![letter("m1", "01A", &[])]).remove(0);
        assert_eq!(case.reason(), UNKNOWN);
        let told = record(&case, "retrying", "error", "09:00");
        let case = case.with_records(vec![told]);
        assert_eq!(case.reason(), "network");
        assert_eq!(
            (case.view().attempts, case.view().last_failed_at),
            (Some(4), at("09:00"))
        );
        assert!(!case.is_scanned_since());
    }

    #[test]
    fn a_verdict_after_the_failure_leaves_nothing_to_do() {
        let case = fold(vec![failed("m1", "01A", "network", "10:00")]).remove(0);
        for (state, finished_at, expected) in [
            ("done", "10:01", true),
            ("done", "09:59", false),
            ("dead_letter", "10:01", false),
            ("in_progress", "10:01", false),
        ] {
            let record = record(&case, state, "passed", finished_at);
            let one = case.clone().with_records(vec![record.clone()]);
            assert_eq!(one.is_scanned_since(), expected, "{state} {finished_at}");
            let open = self::record(&case, "retrying", "error", "10:02");
            assert!(
                !case
                    .clone()
                    .with_records(vec![record, open])
                    .is_scanned_since(),
                "another platform is open"
            );
        }
    }

    #[test]
    fn what_is_no_message_is_a_case_of_its_own() {
        let attributes = BTreeMap::from([("scanhook.reason".to_owned(), "bad_message".to_owned())]);
        let garbage = |id: &str| {
            Letter::new(
                id.to_owned(),
                "nonsense".to_owned(),
                attributes.clone(),
                None,
                at("08:00"),
            )
        };
        let cases = fold(vec![garbage("m1"), garbage("m2")]);
        let ids: Vec<_> = cases.iter().map(Case::id).collect();
        assert_eq!(ids, ["m1", "m2"]);
        assert_eq!(cases[0].view().reference(), "-");
        assert!(filter(|it| it.reason = vec!["bad_message".into()]).admits(&cases[0]));
        assert!(!filter(|it| it.source = vec!["prod".into()]).admits(&cases[0]));
        assert!(!filter(|it| it.image = vec!["**".into()]).admits(&cases[0]));
    }

    #[test]
    fn every_filter_must_match_and_of_its_values_one() {
        let case = fold(vec![failed("m1", "01A", "network", "10:00")]).remove(0);
        let admits = |set: fn(&mut DlqFilterArgs)| filter(set).admits(&case);
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
        let by_ledger = filter(|it| it.reason = vec!["timeout".into()]);
        let by_letter = filter(|it| it.source = vec!["dev".into()]);
        assert!(by_ledger.may_admit(&case) && !by_letter.may_admit(&case));
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
            assert_eq!(args.admits(&case), expected, "{glob}");
        }
        let asked = filter(|it| it.ids = vec!["01A".into(), "m1".into(), "01X".into()]);
        assert_eq!(asked.unknown_ids(&[case]), ["01X"]);
    }

    #[test]
    fn groups_count_requests_and_messages_of_each_reason() {
        let cases = fold(vec![
            failed("m1", "01A", "network", "10:00"),
            failed("m2", "01A", "network", "10:10"),
            failed("m3", "01B", "network", "09:00"),
            failed("m4", "01C", "timeout", "11:00"),
        ]);
        let shown: Vec<_> = groups(&cases)
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
