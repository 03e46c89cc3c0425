//! A report of schema v1, written from its documented form, complete and damaged.

use scanhook_core::image::Image;
use scanhook_core::redact::Redactor;
use scanhook_core::report::Evaluation;
use scanhook_core::tools::sysdig::report::parse;
use scanhook_core::verdict::Verdict;
use scanhook_tests::reports::{check_damaged, verdict};
use serde_json::{Value, json};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn image() -> Image {
    Image::parse(&format!("h.example.com/team/app:1@{DIGEST}")).unwrap()
}

fn report(global: &str) -> Value {
    json!({
        "info": {"scanTime": "2026-11-21T20:00:00Z", "scanDuration": "4s", "resultUrl": "https://secure.sysdig.com/#/results/1", "resultId": "1"},
        "scanner": {"name": "sysdig-cli-scanner", "version": "1.22.6"},
        "result": {
            "assetType": "containerImage",
            "stage": "pipeline",
            "metadata": {
                "pullString": "h.example.com/team/app:1", "imageId": DIGEST, "digest": DIGEST, "baseOs": "debian 12",
                "size": 1024, "os": "linux", "architecture": "amd64", "labels": {"a/b": "c"}, "layersCount": 1,
                "createdAt": "2026-11-21T19:00:00Z",
            },
            "vulnerabilities": {
                "a": {"name": "CVE-2026-0001", "severity": "critical", "packageRef": "p", "fixVersion": "1.2", "exploitable": true},
                "b": {"name": "CVE-2026-0002", "severity": "high", "packageRef": "p", "fixVersion": null},
                "c": {"name": "CVE-2026-0003", "severity": "medium", "packageRef": "p", "fixVersion": ""},
                "d": {"name": "CVE-2026-0004", "severity": "low", "packageRef": "p"},
                "e": {"name": "CVE-2026-0005", "severity": "negligible", "packageRef": "p"},
                "f": {"name": "CVE-2026-0006", "severity": "a new word", "packageRef": "p", "fixVersion": "2"},
            },
            "packages": {"p": {"name": "libfoo", "version": "1.0", "type": "os", "vulnerabilitiesRefs": ["a", "b"], "layerRef": "l"}},
            "layers": {"l": {"digest": DIGEST, "index": 0, "command": "ADD x"}},
            "baseImages": {},
            "policies": {
                "globalEvaluation": global,
                "evaluations": [
                    {"identifier": "one", "name": "No critical", "evaluation": global, "createdAt": "x", "bundles": []},
                    {"identifier": "two", "name": "Best practice", "evaluation": "passed"},
                ],
            },
            "riskAccepts": {},
        },
    })
}

#[test]
fn a_report_is_counted_by_severity_and_by_fix() {
    let report = parse(report("failed").to_string().as_bytes(), &Redactor::new([])).unwrap();
    let it = report.findings;
    let counts = [
        it.critical,
        it.high,
        it.medium,
        it.low,
        it.negligible,
        it.fixable,
    ];
    assert_eq!(counts, [1, 1, 1, 1, 2, 2]);
    assert_eq!(report.evaluation, Evaluation::Failed);
    assert_eq!(report.policies_failed, ["No critical"]);
    assert!(
        report
            .policies_evaluated
            .starts_with(&report.policies_failed)
    );
    assert_eq!(report.cli_version.as_deref(), Some("1.22.6"));
}

#[test]
fn a_severity_counts_in_upper_and_lower_case() {
    let lower = report("failed").to_string();
    let counted = |text: &str| parse(text.as_bytes(), &Redactor::new([])).unwrap().findings;
    let upper = lower
        .replace("\"critical\"", "\"Critical\"")
        .replace("\"high\"", "\"HIGH\"");
    assert_eq!(counted(&upper), counted(&lower));
}

#[test]
fn only_a_complete_report_with_its_exit_code_makes_a_verdict() {
    let (passed, failed) = (report("passed").to_string(), report("failed").to_string());
    let verdict_of = |code, text: &str| verdict(&image(), code, text.as_bytes());
    assert_eq!(verdict_of(0, &passed), Ok(Verdict::Passed));
    assert_eq!(verdict_of(1, &failed), Ok(Verdict::Failed));
    assert_eq!(verdict_of(1, &passed), Err("report_mismatch"));
    assert_eq!(verdict_of(0, &failed), Err("report_mismatch"));
}

#[test]
fn a_truncated_report_is_not_a_report() {
    let text = report("passed").to_string();
    for end in 0..text.len() {
        let cut = text.get(..end).unwrap();
        assert_eq!(
            verdict(&image(), 0, cut.as_bytes()),
            Err("no_report"),
            "{end}"
        );
    }
}

#[test]
fn a_failed_report_never_becomes_passed_whatever_is_damaged() {
    let count = check_damaged(&image(), &report("failed")).unwrap();
    assert!(count > 300, "{count}");
}
