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
use crate::ledger::SqliteLedger;
use crate::{Outcome, data_dir, output, unusable};

pub(crate) async fn command(command: ScansCommand, now: Timestamp) -> anyhow::Result<Outcome> {
    match command {
        ScansCommand::List(args) => list(&args, now).await,
        ScansCommand::Show(args) => show(&args, now).await,
    }
}

/// How long somebody at a terminal waits for a call.
const PATIENCE: Duration = Duration::from_secs(15);

/// A ledger that a command reads: that of a `serve` on this machine, or that of the scanner function.
pub(crate) enum Records {
    Local(SqliteLedger),
    Table(DynamoDbLedger),
}

impl Records {
    /// Opens what the arguments name.
    pub(crate) async fn open(args: &LedgerArgs) -> anyhow::Result<Self> {
        let Some(table) = &args.table else {
            let path = data_dir::ledger(&args.data_dir);
            return Ok(Self::Local(
                SqliteLedger::open_to_read(&path).map_err(unusable)?,
            ));
        };
        let sdk = scanhook_settings::aws::sdk_config(PATIENCE).await;
        // How long things are kept matters to writers only.
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
        verdict: args.verdict.map(|it| it.as_str().to_owned()),
        since: args.since.map(|it| it.before(now)),
        source: args.source.clone(),
    };
    let records = Records::open(&args.ledger).await?;
    let records = records.latest(&filter, args.limit, now).await?;
    match args.output {
        Output::Json => output::json(&records)?,
        Output::Table if records.is_empty() => output::notice("no such scans"),
        Output::Table => output::table(
            &[
                "scan", "source", "image", "verdict", "critical", "high", "fixable", "attempts",
                "received",
            ],
            records.iter().map(row).collect(),
        )?,
    }
    Ok(Outcome::Fine)
}

fn row(record: &ScanRecord) -> Vec<String> {
    let findings = record.findings;
    let count = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |it| it.to_string());
    vec![
        record.scan_id.to_string(),
        record.source.to_string(),
        output::image(&record.image, record.tag.as_ref(), record.digest.as_ref()),
        verdict(record),
        count(findings.map(|it| it.critical)),
        count(findings.map(|it| it.high)),
        count(findings.map(|it| it.fixable)),
        record.attempts.to_string(),
        record.received_at.strftime("%F %T").to_string(),
    ]
}

/// The verdict with its reason, or the state while there is no verdict.
pub(crate) fn verdict(record: &ScanRecord) -> String {
    match (&record.verdict, &record.reason) {
        (Some(verdict), Some(reason)) => format!("{verdict}: {reason}"),
        (Some(verdict), None) => verdict.clone(),
        (None, _) => record.state.as_str().to_owned(),
    }
}

async fn show(args: &ScansShowArgs, now: Timestamp) -> anyhow::Result<Outcome> {
    let records = Records::open(&args.ledger).await?;
    let records = records.find(&args.scan_id, now).await?;
    if records.is_empty() {
        bail!(
            "the ledger knows no scan {}: it may still wait in the queue",
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
                            let text = value
                                .as_str()
                                .map_or_else(|| value.to_string(), str::to_owned);
                            vec![name.clone(), text]
                        });
                output::table(&["field", "value"], rows.collect())?;
            }
        }
    }
    Ok(Outcome::Fine)
}
