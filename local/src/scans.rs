//! `scanhook scans`: the history of scans, from the ledger.

use std::time::Duration;

use anyhow::bail;
use jiff::Timestamp;
use scanhook_core::history::ScanFilter;
use scanhook_core::message::ScanId;
use scanhook_core::record::ScanRecord;
use scanhook_scanner::dynamodb::DynamoDbLedger;
use scanhook_scanner::ledger::{History, LedgerError};

use crate::args::{LedgerArgs, Output, ScansCommand, ScansListArgs, ScansShowArgs};
use crate::host::data_dir;
use crate::ledger::SqliteLedger;
use crate::outcome::{Outcome, unusable};
use crate::output;

pub(crate) async fn command(command: ScansCommand, now: Timestamp) -> anyhow::Result<Outcome> {
    match command {
        ScansCommand::List(args) => list(&args, now).await,
        ScansCommand::Show(args) => show(&args, now).await,
    }
}

/// The timeout of one call, for somebody who waits at a terminal.
const PATIENCE: Duration = Duration::from_secs(15);

/// The ledger that a command reads: the file of `serve`, or the table of the scanner function.
pub(crate) enum Records {
    Local(SqliteLedger),
    Table(DynamoDbLedger),
}

impl Records {
    pub(crate) async fn open(args: &LedgerArgs) -> anyhow::Result<Self> {
        let Some(table) = &args.table else {
            let path = data_dir::ledger(&args.data_dir);
            return Ok(Self::Local(
                SqliteLedger::open_to_read(&path).map_err(unusable)?,
            ));
        };
        let sdk = scanhook_config::aws::sdk_config(PATIENCE).await;
        // Readers don't need the retention.
        let (table, keep) = (table.clone(), Duration::ZERO);
        let ledger = DynamoDbLedger::new(&sdk, table, keep, PATIENCE);
        Ok(Self::Table(ledger))
    }
}

impl History for Records {
    async fn latest(
        &self,
        filter: &ScanFilter,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<ScanRecord>, LedgerError> {
        match self {
            Self::Local(ledger) => ledger.latest(filter, limit, now).await,
            Self::Table(ledger) => ledger.latest(filter, limit, now).await,
        }
    }

    async fn find(&self, scan_id: &ScanId, now: Timestamp) -> Result<Vec<ScanRecord>, LedgerError> {
        match self {
            Self::Local(ledger) => ledger.find(scan_id, now).await,
            Self::Table(ledger) => ledger.find(scan_id, now).await,
        }
    }
}

async fn list(args: &ScansListArgs, now: Timestamp) -> anyhow::Result<Outcome> {
    let filter = ScanFilter {
        image: args.image.clone(),
        verdict: args.verdict.clone(),
        since: args.since.map(|it| it.before(now)),
        source: args.source.clone(),
    };
    let ledger = Records::open(&args.ledger).await?;
    let records = ledger.latest(&filter, args.limit, now).await?;
    match args.output {
        Output::Json => output::json(&records)?,
        Output::Table if records.is_empty() => output::notice("no scans found"),
        Output::Table => output::table(
            &[
                "scan", "source", "image", "verdict", "critical", "high", "fixable", "attempts",
                "received",
            ],
            records.iter().map(|it| row(it, now)).collect(),
        )?,
    }
    Ok(Outcome::Fine)
}

fn row(record: &ScanRecord, now: Timestamp) -> Vec<String> {
    let findings = record.findings;
    let count = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |it| it.to_string());
    vec![
        record.scan_id.to_string(),
        record.source.to_string(),
        output::image(&record.image, record.tag.as_ref(), record.digest.as_ref()),
        verdict(record, now),
        count(findings.map(|it| it.critical)),
        count(findings.map(|it| it.high)),
        count(findings.map(|it| it.fixable)),
        record.attempts.to_string(),
        to_the_second(record.received_at),
    ]
}

fn to_the_second(instant: Timestamp) -> String {
    instant.strftime("%F %T").to_string()
}

/// The verdict with its reason; without a verdict, the state.
pub(crate) fn verdict(record: &ScanRecord, now: Timestamp) -> String {
    match (&record.verdict, &record.reason) {
        (Some(verdict), Some(reason)) => format!("{verdict}: {reason}"),
        (Some(verdict), None) => verdict.to_string(),
        (None, _) => state(record, now),
    }
}

/// The state. A scan in progress shows until when its claim lasts, or since when it is orphaned.
pub(crate) fn state(record: &ScanRecord, now: Timestamp) -> String {
    let word = record.state.as_str();
    match record.claimed_until {
        Some(until) if record.is_abandoned(now) => {
            format!("{word}: orphaned since {}", to_the_second(until))
        }
        Some(until) => format!("{word} until {} at the latest", to_the_second(until)),
        None => word.to_owned(),
    }
}

async fn show(args: &ScansShowArgs, now: Timestamp) -> anyhow::Result<Outcome> {
    let ledger = Records::open(&args.ledger).await?;
    let records = ledger.find(&args.scan_id, now).await?;
    if records.is_empty() {
        bail!(
            "the ledger has no scan {}; it may still be in the queue",
            args.scan_id
        );
    }
    match args.output {
        Output::Json => output::json(&records)?,
        Output::Table => {
            for record in &records {
                let serde_json::Value::Object(fields) = serde_json::to_value(record)? else {
                    continue;
                };
                let rows =
                    fields
                        .iter()
                        .filter(|(_, value)| !value.is_null())
                        .map(|(name, value)| {
                            let text = match value.as_str() {
                                Some(_) if name == "state" => state(record, now),
                                Some(text) => text.to_owned(),
                                None => value.to_string(),
                            };
                            vec![name.clone(), text]
                        });
                output::table(&["field", "value"], rows.collect())?;
            }
        }
    }
    Ok(Outcome::Fine)
}

#[cfg(test)]
mod tests {
    use scanhook_core::failure::{Class, ErrorReason, ScanError};
    use scanhook_core::message::QueueMessage;
    use scanhook_core::record::State;

    use super::*;

    fn at(minute: &str) -> Timestamp {
        format!("2026-11-21T{minute}:00Z").parse().unwrap()
    }

    #[test]
    fn a_scan_in_progress_shows_its_claim_or_that_it_is_orphaned() {
        let message = QueueMessage::parse(
            r#"{"version":1,"scan_id":"01JD","source":"s","image":{"registry":"h.io","repository":"a","tag":"1","digest":null},"event":{"id":null,"type":"push","actor":null,"occurred_at":null,"received_at":"2026-11-21T20:00:00Z"}}"#,
        );
        let started = ScanRecord::begin(&message.unwrap(), 1, at("20:00"));
        assert_eq!(verdict(&started, at("20:05")), "in_progress");
        let claimed = ScanRecord {
            claimed_until: Some(at("20:10")),
            ..started
        };
        assert_eq!(
            verdict(&claimed, at("20:09")),
            "in_progress until 2026-11-21 20:10:00 at the latest"
        );
        assert_eq!(
            verdict(&claimed, at("20:10")),
            "in_progress: orphaned since 2026-11-21 20:10:00"
        );
        let error = ScanError {
            reason: ErrorReason::Network,
            class: Class::Transient,
            detail: "no answer".to_owned(),
        };
        let failed = claimed.failed(&error, State::Retrying, at("20:05"));
        assert_eq!(verdict(&failed, at("20:10")), "error: network");
        assert_eq!(failed.claimed_until, None);
    }
}
