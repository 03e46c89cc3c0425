//! Reports of the CLI, damaged in every place, and what may come of them.

use std::collections::BTreeSet;

use scanhook_core::image::Image;
use scanhook_core::redact::Redactor;
use scanhook_core::report::Report;
use scanhook_core::tools::sysdig::TOOL;
use scanhook_core::tools::sysdig::report::parse;
use scanhook_core::tools::{Exit, Run};
use scanhook_core::verdict::Verdict;
use serde_json::{Value, json};

/// A report with one place changed.
pub struct Damaged {
    /// The place, and what was done to it.
    pub what: String,
    /// The report.
    pub report: Value,
}

/// Removes each field of a report, makes it null, and gives it each other type, one at a time. Of a list or map with
/// entries of the same shape only the first is damaged.
pub fn damaged(report: &Value) -> Vec<Damaged> {
    let mut places = Vec::new();
    collect(report, String::new(), &mut BTreeSet::new(), &mut places);
    let mut all = Vec::new();
    for place in places {
        for replacement in [
            json!(null),
            json!(7),
            json!(true),
            json!("x"),
            json!([]),
            json!({}),
        ] {
            let mut report = report.clone();
            let Some(value) = report.pointer_mut(&place) else {
                continue;
            };
            if std::mem::discriminant(value) != std::mem::discriminant(&replacement) {
                let what = format!("{place} = {replacement}");
                *value = replacement;
                all.push(Damaged { what, report });
            }
        }
        let mut report = report.clone();
        let (parent, key) = place.rsplit_once('/').unwrap_or_default();
        if let Some(Value::Object(parent)) = report.pointer_mut(parent) {
            parent.remove(&key.replace("~1", "/").replace("~0", "~"));
            let what = format!("{place} removed");
            all.push(Damaged { what, report });
        }
    }
    all
}

/// Maps of entries under keys that mean nothing: only the first entry is looked into.
const MAPS: [&str; 5] = [
    "/result/vulnerabilities",
    "/result/packages",
    "/result/layers",
    "/result/baseImages",
    "/result/metadata/labels",
];

fn collect(value: &Value, place: String, seen: &mut BTreeSet<String>, places: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) if MAPS.contains(&place.as_str()) => {
            fields.iter().take(1).map(pointer).collect()
        }
        Value::Object(fields) => fields.iter().map(pointer).collect(),
        Value::Array(items) => items
            .iter()
            .take(1)
            .map(|it| ("0".to_owned(), it))
            .collect(),
        _ => Vec::new(),
    };
    for (key, child) in children {
        let place = format!("{place}/{key}");
        if seen.insert(place.clone()) {
            places.push(place.clone());
            collect(child, place, seen, places);
        }
    }
}

fn pointer<'a>((key, value): (&String, &'a Value)) -> (String, &'a Value) {
    (key.replace('~', "~0").replace('/', "~1"), value)
}

/// What a run with this exit code and report comes to, for any image.
///
/// # Errors
///
/// Tells the reason why there is no verdict.
pub fn verdict(image: &Image, code: i32, report: &[u8]) -> Result<Verdict, &'static str> {
    let run = Run {
        exit: Exit::Code(code),
        report: parse(report, &Redactor::new([])).map_err(|err| err.to_string()),
        printed: String::new(),
    };
    match TOOL.judge(image, None, run, 1) {
        Ok(judged) => Ok(judged.verdict),
        Err(err) => Err(err.reason.as_str()),
    }
}

/// Checks every damaged form of a report whose policies failed: none may become passed at the exit code of failed
/// policies, none may lose a finding that was not removed itself, and at exit code 0 none may become a verdict that
/// policies passed. Returns how many there were.
///
/// # Errors
///
/// Tells each that came to something else.
pub fn check_damaged(image: &Image, report: &Value) -> Result<usize, Vec<String>> {
    let text = report.to_string();
    let whole = parse(text.as_bytes(), &Redactor::new([])).map_err(|err| vec![err.to_string()])?;
    let total = |it: &Report| {
        let findings = &it.findings;
        findings.critical + findings.high + findings.medium + findings.low + findings.negligible
    };
    let all = damaged(report);
    let mut wrong = Vec::new();
    for Damaged { what, report } in &all {
        let text = report.to_string();
        for code in [0, 1] {
            let passed = match verdict(image, code, text.as_bytes()) {
                Ok(Verdict::Passed) => true,
                Ok(Verdict::PassedWithoutPolicy) => code == 1,
                Ok(Verdict::Failed | Verdict::NotAnImage) | Err(_) => false,
            };
            if passed {
                wrong.push(format!("{what}: passed at exit code {code}"));
            }
        }
        if let Ok(report) = parse(text.as_bytes(), &Redactor::new([])) {
            let removed = what.starts_with("/result/vulnerabilities/") && what.ends_with("removed");
            if total(&report) + u64::from(removed) < total(&whole) {
                wrong.push(format!("{what}: findings are lost"));
            }
        }
    }
    if wrong.is_empty() {
        Ok(all.len())
    } else {
        Err(wrong)
    }
}
