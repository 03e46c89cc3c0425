//! Reports of the real CLI, read against the table of their provenance, whole and damaged.

use std::path::Path;

use scanhook_core::image::Image;
use scanhook_core::redact::Redactor;
use scanhook_core::report::Evaluation;
use scanhook_core::tools::sysdig::report::{ReadReportError, parse};
use scanhook_tests::reports::check_damaged;
use serde_json::Value;

use crate::{corpus, files, read_json};

/// A line of the table: file, image, evaluation, critical/high/medium/low/negligible, fixable.
struct Line {
    file: String,
    image: String,
    evaluation: String,
    severities: String,
    fixable: String,
}

/// The table "What each holds"; its file names are cut short by an ellipsis.
fn table() -> Vec<Line> {
    let text = std::fs::read_to_string(corpus("sysdig/PROVENANCE.md")).unwrap();
    let (_, text) = text.split_once("## What each holds").unwrap();
    let rows = text.lines().filter(|it| it.starts_with("| v1"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(|it| it.trim().to_owned()).collect();
        Line {
            file: cells[1].clone(),
            image: cells[2].clone(),
            evaluation: cells[3].clone(),
            severities: cells[4].clone(),
            fixable: cells[5].clone(),
        }
    })
    .collect()
}

/// Whether a name in the table, shortened where the ellipsis stands, is that of this file.
fn is_named(path: &Path, name: &str) -> bool {
    let file = path.file_name().unwrap().to_str().unwrap();
    match name.split_once('…') {
        Some((start, end)) => file.starts_with(start) && file.contains(end),
        None => file.starts_with(name),
    }
}

#[test]
fn every_report_is_read_as_its_provenance_says() {
    let paths = files(&corpus("sysdig"), ".json");
    let table = table();
    assert_eq!(table.len(), paths.len());
    for path in &paths {
        let lines: Vec<_> = table.iter().filter(|it| is_named(path, &it.file)).collect();
        let [line] = lines.as_slice() else {
            panic!("{} has {} lines", path.display(), lines.len())
        };
        let report = parse(&std::fs::read(path).unwrap(), &Redactor::new([]));
        if line.file.starts_with("v1beta3") {
            assert_eq!(report.unwrap_err(), ReadReportError::OlderSchema);
            continue;
        }
        let report = report.unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        let it = report.findings;
        let severities = [it.critical, it.high, it.medium, it.low, it.negligible];
        let severities = severities.map(|it| it.to_string()).join("/");
        assert_eq!(severities, line.severities, "{}", path.display());
        assert_eq!(it.fixable.to_string(), line.fixable, "{}", path.display());
        let evaluation = match (line.evaluation.as_str(), report.policies_failed.is_empty()) {
            ("failed", false) => Evaluation::Failed,
            // It passed, but it lists no evaluation: nothing was evaluated.
            ("passed", true) => Evaluation::NoPolicy,
            _ => panic!("{}: {:?}", path.display(), report.policies_failed),
        };
        assert_eq!(report.evaluation, evaluation, "{}", path.display());
        assert!(report.cli_version.is_some());
        let pulled = report.pull_string.unwrap();
        assert_eq!(
            Image::parse(&pulled).unwrap(),
            Image::parse(&line.image).unwrap(),
            "{}",
            path.display()
        );
    }
    println!("\n{:<20} {1}/{1}", "reports", paths.len());
}

#[test]
fn a_real_failed_report_never_becomes_passed_whatever_is_damaged() {
    let report: Value = read_json(&corpus("sysdig/v1_jenkins_ubuntu_24.04.json"));
    let image = Image::parse(report["result"]["metadata"]["pullString"].as_str().unwrap()).unwrap();
    let count = check_damaged(&image, &report).unwrap();
    println!("\n{:<20} {count}/{count}", "damaged reports");
    assert!(count > 300, "{count}");
}
