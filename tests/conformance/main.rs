//! Tests what each kind makes of the deliveries that its registry can send: one JSON file per case, in a folder for
//! each kind.
//!
//! A case has the source's configuration, the raw request and the expected outcome. `README.md` in this folder
//! describes the format. Each request is sent in every way that is possible: through the router, and as API Gateway's
//! event with its body as text and as base64.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that fails should stop where it fails, and this one prints a table"
)]

mod case;
mod documentation;
mod outcome;
mod ways;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use scanhook_core::kinds;

use crate::case::Case;

/// The fewest cases of a kind.
const ENOUGH: usize = 10;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Lists the files of a folder whose names end with `end`, sorted.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .unwrap_or_else(|err| panic!("could not read {}: {err}", folder.display()));
    let paths = entries.map(|it| it.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|it| it.to_string_lossy().ends_with(end))
        .collect();
    paths.sort();
    paths
}

fn cases(kind: &str) -> Vec<PathBuf> {
    files(&root().join("tests/conformance").join(kind), ".json")
}

#[tokio::test]
async fn every_case_has_its_outcome_however_it_is_sent() {
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for kind in kinds::ALL {
        let files = cases(kind.name);
        for file in &files {
            if let Err(problem) = check(kind.name, file).await {
                let name = file.file_stem().unwrap_or_default().display();
                wrong.push(format!("{}/{name}: {problem}", kind.name));
            }
        }
        let _ = writeln!(table, "{:<14}{:>4}", kind.name, files.len());
    }
    println!("\n{table}");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

async fn check(kind: &str, file: &Path) -> Result<(), String> {
    let text = std::fs::read(file).map_err(|err| err.to_string())?;
    let case: Case = serde_json::from_slice(&text).map_err(|err| format!("no case: {err}"))?;
    if case.source["kind"] != kind {
        return Err("it is in another kind's folder".to_owned());
    }
    let request = case.request()?;
    for way in ways::of(&request) {
        let outcome = ways::send(&case, &request, way).await?;
        if outcome != case.expect {
            let shown = serde_json::to_string_pretty(&outcome).unwrap();
            return Err(format!("{}: {way:?} gave {shown}", case.says));
        }
    }
    Ok(())
}

#[test]
fn every_kind_has_enough_cases() {
    for kind in kinds::ALL {
        let count = cases(kind.name).len();
        assert!(count >= ENOUGH, "{} has only {count} cases", kind.name);
    }
}
