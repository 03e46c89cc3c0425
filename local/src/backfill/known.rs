//! What need not be queued: content with a record in the ledger, and content that an earlier run queued.

use std::collections::{HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use jiff::{SignedDuration, Timestamp};
use scanhook_core::image::{Digest, Tag};
use scanhook_core::message::{QueueMessage, ScanId};
use scanhook_core::record::{ScanRecord, State};
use scanhook_core::source::SourceName;
use serde::{Deserialize, Serialize};

use crate::host::data_dir;

/// The content with records in the ledger.
#[derive(Debug)]
pub(super) struct Known {
    /// Whether dead letters count as known.
    any_record: bool,
    /// The scans of each image and digest. For an image of an index, the index's digest, because tags refer to the index.
    contents: HashMap<(String, Digest), HashSet<ScanId>>,
    /// Tags whose records have no digest.
    tags: HashSet<(String, Tag)>,
    /// Scans that became dead letters.
    failed: HashSet<ScanId>,
    /// The content that this run has come across.
    seen: HashMap<String, HashSet<Digest>>,
}

impl Known {
    /// With `only_missing`, any record makes content known; otherwise only a verdict or an attempt in progress does.
    pub(super) fn new(only_missing: bool) -> Self {
        Self {
            any_record: only_missing,
            contents: HashMap::new(),
            tags: HashSet::new(),
            failed: HashSet::new(),
            seen: HashMap::new(),
        }
    }

    /// Adds a record. An orphaned scan counts as failed, because it may have become a dead letter.
    pub(super) fn add(&mut self, record: &ScanRecord, now: Timestamp) {
        let has_failed = record.state == State::DeadLetter || record.is_abandoned(now);
        if has_failed && !self.any_record {
            self.failed.insert(record.scan_id.clone());
            return;
        }
        match (
            record.index.as_ref().or(record.digest.as_ref()),
            &record.tag,
        ) {
            (Some(digest), _) => {
                let content = (record.image.clone(), digest.clone());
                let scans = self.contents.entry(content).or_default();
                scans.insert(record.scan_id.clone());
            }
            (None, Some(tag)) => {
                self.tags.insert((record.image.clone(), tag.clone()));
            }
            (None, None) => {}
        }
    }

    pub(super) fn has(&self, image: &str, tag: Option<&Tag>, digest: &Digest) -> bool {
        let has_tag = |tag: &Tag| self.tags.contains(&(image.to_owned(), tag.clone()));
        // If one image of an index failed, the scan of the index failed.
        let scans = self.contents.get(&(image.to_owned(), digest.clone()));
        let has_content = scans.is_some_and(|it| !it.is_subset(&self.failed));
        has_content || tag.is_some_and(has_tag)
    }

    /// Whether the scan failed; with `only_missing`, no scan counts as failed.
    pub(super) fn has_failed(&self, scan_id: &ScanId) -> bool {
        self.failed.contains(scan_id)
    }

    /// Whether this run comes across the content for the first time.
    pub(super) fn is_first(&mut self, image: &str, digest: &Digest) -> bool {
        self.seen
            .entry(image.to_owned())
            .or_default()
            .insert(digest.clone())
    }
}

/// How long the journal's lines count. After that, a message is in the ledger or has expired.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(14 * 24);

#[derive(Serialize, Deserialize)]
struct Line {
    image: String,
    digest: Digest,
    scan_id: ScanId,
    queued_at: Timestamp,
}

/// What the runs for a source have queued: a file in the data directory.
#[derive(Debug)]
pub(super) struct Journal {
    /// `None` for a dry run.
    file: Option<File>,
    queued: HashMap<(String, Digest), ScanId>,
}

impl Journal {
    /// Reads the file, or creates it, and locks it for this process. A line that a crash cut off doesn't count.
    pub(super) fn open(
        data_dir: &Path,
        source: &SourceName,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let path = path(data_dir, source);
        let open = || -> anyhow::Result<Self> {
            data_dir::create(data_dir)?;
            let mut file = File::options()
                .create(true)
                .append(true)
                .read(true)
                .open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    bail!("another backfill of this source is running")
                }
                Err(TryLockError::Error(err)) => return Err(err.into()),
            }
            let text = std::fs::read_to_string(&path)?;
            if !text.is_empty() && !text.ends_with('\n') {
                file.write_all(b"\n")?;
            }
            Ok(Self {
                file: Some(file),
                queued: queued(&text, now),
            })
        };
        open().with_context(|| format!("could not use {}", path.display()))
    }

    /// Reads the file, if it exists, and changes nothing.
    pub(super) fn read(
        data_dir: &Path,
        source: &SourceName,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let path = path(data_dir, source);
        let text = match std::fs::read_to_string(&path) {
            Err(err) if err.kind() == ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("could not read {}", path.display()))?,
        };
        Ok(Self {
            file: None,
            queued: queued(&text, now),
        })
    }

    /// The scan that was queued for this content.
    pub(super) fn scan_of(&self, image: &str, digest: &Digest) -> Option<&ScanId> {
        self.queued.get(&(image.to_owned(), digest.clone()))
    }

    /// Records messages that the queue has acknowledged.
    pub(super) fn add(&mut self, messages: &[QueueMessage], now: Timestamp) -> anyhow::Result<()> {
        let mut text = String::new();
        for message in messages {
            let Some(digest) = message.image.pin.digest() else {
                continue;
            };
            let line = Line {
                image: message.image.name(),
                digest: digest.clone(),
                scan_id: message.scan_id.clone(),
                queued_at: now,
            };
            text.push_str(&serde_json::to_string(&line)?);
            text.push('\n');
            self.queued.insert((line.image, line.digest), line.scan_id);
        }
        let file = self.file.as_mut();
        let file = file.context("a dry run has no journal to write to")?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        Ok(())
    }
}

fn path(data_dir: &Path, source: &SourceName) -> PathBuf {
    data_dir.join(format!("backfill-{source}.jsonl"))
}

fn queued(text: &str, now: Timestamp) -> HashMap<(String, Digest), ScanId> {
    let lines = text
        .lines()
        .filter_map(|it| serde_json::from_str::<Line>(it).ok());
    let recent = lines.filter(|it| now.duration_since(it.queued_at) < REMEMBERED);
    recent
        .map(|it| ((it.image, it.digest), it.scan_id))
        .collect()
}

#[cfg(test)]
mod tests {
    use scanhook_core::message::QueueMessage;

    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::parse(&format!("sha256:{}", format!("{number:02x}").repeat(32))).unwrap()
    }

    fn message(number: u8) -> QueueMessage {
        let digest = digest(number);
        QueueMessage::parse(&format!(
            r#"{{"version":1,"scan_id":"01A{number}","source":"s","image":{{"registry":"h.io","repository":"a","tag":"1","digest":"{digest}"}},"event":{{"id":null,"type":"backfill","actor":null,"occurred_at":null,"received_at":"2026-11-21T20:00:00Z"}}}}"#
        ))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-21T20:00:00Z".parse().unwrap()
    }

    #[test]
    fn queued_content_is_remembered_for_14_days_and_a_torn_line_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let source = SourceName::try_from("s".to_owned()).unwrap();
        let open = |days: i64| {
            let now = now()
                .checked_add(SignedDuration::from_hours(24 * days))
                .unwrap();
            Journal::open(directory.path(), &source, now).unwrap()
        };
        open(0).add(&[message(1), message(2)], now()).unwrap();
        let path = directory.path().join("backfill-s.jsonl");
        let mut torn = std::fs::read_to_string(&path).unwrap();
        torn.truncate(torn.len() - 9);
        std::fs::write(&path, &torn).unwrap();
        let has = |journal: &Journal, image, number| {
            journal.scan_of(image, &digest(number)) == Some(&message(number).scan_id)
        };
        let mut journal = open(1);
        assert!(has(&journal, "h.io/a", 1) && !has(&journal, "h.io/a", 2));
        journal.add(&[message(3)], now()).unwrap();
        let second = Journal::open(directory.path(), &source, now());
        let second = format!("{:#}", second.unwrap_err());
        assert!(
            second.ends_with("another backfill of this source is running"),
            "{second}"
        );
        drop(journal);
        assert!(has(&open(13), "h.io/a", 3), "after the torn line");
        assert!(!has(&open(14), "h.io/a", 1));
        assert!(!has(&open(1), "h.io/b", 1));
    }

    #[test]
    fn a_dry_run_reads_the_journal_and_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (data_dir, source) = (
            directory.path().join("d"),
            SourceName::try_from("s".to_owned()).unwrap(),
        );
        let read = || Journal::read(&data_dir, &source, now()).unwrap();
        assert!(read().scan_of("h.io/a", &digest(1)).is_none() && !data_dir.exists());
        Journal::open(&data_dir, &source, now())
            .unwrap()
            .add(&[message(1)], now())
            .unwrap();
        assert!(read().scan_of("h.io/a", &digest(1)).is_some());
        assert!(read().add(&[message(2)], now()).is_err());
    }

    #[test]
    fn a_dead_letter_is_known_only_with_only_missing() {
        let record = |number: u8, state: State| ScanRecord {
            state,
            ..ScanRecord::begin(&message(number), 1, now())
        };
        for (only_missing, expected) in [(false, false), (true, true)] {
            let mut known = Known::new(only_missing);
            known.add(&record(1, State::Done), now());
            known.add(&record(2, State::DeadLetter), now());
            known.add(&record(3, State::InProgress), now());
            let abandoned = ScanRecord {
                claimed_until: Some(now()),
                ..record(5, State::InProgress)
            };
            known.add(&abandoned, now());
            assert_eq!(known.has("h.io/a", None, &digest(5)), expected);
            assert_eq!(known.has_failed(&message(2).scan_id), !only_missing);
            assert!(!known.has_failed(&message(1).scan_id));
            let has = |number| known.has("h.io/a", None, &digest(number));
            assert_eq!(
                [has(1), has(2), has(3), has(4)],
                [true, expected, true, false]
            );
        }
    }

    #[test]
    fn an_index_is_known_if_no_image_of_it_failed_or_another_scan_succeeded() {
        let record = |scan: u8, image: u8, state: State| ScanRecord {
            state,
            digest: Some(digest(image)),
            index: Some(digest(9)),
            ..ScanRecord::begin(&message(scan), 1, now())
        };
        let has = |only_missing, records: &[ScanRecord]| {
            let mut known = Known::new(only_missing);
            for it in records {
                known.add(it, now());
            }
            known.has("h.io/a", None, &digest(9))
        };
        let mut records = vec![
            record(1, 1, State::Done),
            record(1, 2, State::DeadLetter),
            record(1, 3, State::Done),
        ];
        assert!(!has(false, &records));
        assert!(has(true, &records));
        records.push(record(2, 2, State::Done));
        assert!(has(false, &records));
    }

    #[test]
    fn content_is_known_by_the_digest_of_its_index() {
        let mut known = Known::new(false);
        let record = ScanRecord {
            index: Some(digest(9)),
            ..ScanRecord::begin(&message(1), 1, now())
        };
        known.add(&record, now());
        assert!(known.has("h.io/a", None, &digest(9)) && !known.has("h.io/a", None, &digest(1)));
        assert!(known.is_first("h.io/a", &digest(4)) && !known.is_first("h.io/a", &digest(4)));
        assert!(known.is_first("h.io/b", &digest(4)));
    }
}
