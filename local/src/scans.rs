//! `scanhook scans`: the history of scans, from the ledger.

use anyhow::bail;
use scanhook_core::record::ScanRecord;

use crate::args::{Output, ScansCommand, ScansListArgs, ScansShowArgs};
use crate::ledger::SqliteLedger;
use crate::{Outcome, data_dir, output, unusable};

pub(crate) fn command(command: ScansCommand) -> anyhow::Result<Outcome> {
    match command {
        ScansCommand::List(args) => list(&args),
        ScansCommand::Show(args) => show(&args),
    }
}

fn list(args: &ScansListArgs) -> anyhow::Result<Outcome> {
    let ledger = SqliteLedger::open_to_read(&data_dir::ledger(&args.data_dir)).map_err(unusable)?;
    let records = ledger.latest(args.limit)?;
    match args.output {
        Output::Json => output::json(&records)?,
        Output::Table if records.is_empty() => output::notice("no scans yet"),
        Output::Table => output::table(
            &[
                "scan", "image", "verdict", "critical", "high", "fixable", "attempts", "received",
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
        reference(record),
        verdict(record),
        count(findings.map(|it| it.critical)),
        count(findings.map(|it| it.high)),
        count(findings.map(|it| it.fixable)),
        record.attempts.to_string(),
        record.received_at.strftime("%F %T").to_string(),
    ]
}

/// The image as people name it: with its tag, else with the start of its digest.
pub(crate) fn reference(record: &ScanRecord) -> String {
    match (&record.tag, &record.digest) {
        (Some(tag), _) => format!("{}:{tag}", record.image),
        (None, Some(digest)) => format!("{}@sha256:{:.12}", record.image, digest.hex()),
        (None, None) => record.image.clone(),
    }
}

/// The verdict with its reason, or the state while there is no verdict.
pub(crate) fn verdict(record: &ScanRecord) -> String {
    match (&record.verdict, &record.reason) {
        (Some(verdict), Some(reason)) => format!("{verdict}: {reason}"),
        (Some(verdict), None) => verdict.clone(),
        (None, _) => record.state.as_str().to_owned(),
    }
}

fn show(args: &ScansShowArgs) -> anyhow::Result<Outcome> {
    let ledger = SqliteLedger::open_to_read(&data_dir::ledger(&args.data_dir)).map_err(unusable)?;
    let records = ledger.find(&args.scan_id)?;
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
