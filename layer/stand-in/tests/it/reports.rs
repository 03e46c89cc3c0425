//! The reports have the shape of the v1 schema, and are broken only where their behaviour says so.

use scanhook_stand_in::behaviour;
use scanhook_stand_in::lock;
use serde_json::{Value, json};

use crate::cli::{Cli, DIGEST, Run};

fn run(name: &str) -> Run {
    let cli = Cli::new();
    cli.run(&mut cli.named(name))
}

fn policies(name: &str) -> Value {
    run(name).json()["result"]["policies"].clone()
}

/// Checks that every reference of a report leads somewhere, and each vulnerability is a v1 one.
fn check_v1(name: &str, report: &Value) {
    let result = &report["result"];
    assert_eq!(
        report["scanner"]["version"],
        lock::stand_in_version(),
        "{name}"
    );
    assert_eq!(result["assetType"], "containerImage", "{name}");
    for package in result["packages"].as_object().unwrap().values() {
        assert!(
            result["layers"]
                .get(package["layerRef"].as_str().unwrap())
                .is_some(),
            "{name}: {package}"
        );
        for reference in package["vulnerabilitiesRefs"]
            .as_array()
            .into_iter()
            .flatten()
        {
            assert!(
                result["vulnerabilities"]
                    .get(reference.as_str().unwrap())
                    .is_some(),
                "{name}: {package}"
            );
        }
    }
    for vulnerability in result["vulnerabilities"].as_object().unwrap().values() {
        assert!(
            result["packages"]
                .get(vulnerability["packageRef"].as_str().unwrap())
                .is_some(),
            "{name}"
        );
        let severity = vulnerability["severity"].as_str().unwrap();
        assert!(
            ["critical", "high", "medium", "low", "negligible"].contains(&severity),
            "{name}: {severity}"
        );
    }
}

#[test]
fn every_report_that_is_not_meant_to_be_broken_is_v1() {
    let broken = [
        "truncated",
        "empty-report",
        "not-json",
        "older-schema",
        "huge-report",
    ];
    for behaviour in behaviour::all() {
        if behaviour.ends == behaviour::Ends::Never || broken.contains(&behaviour.name) {
            continue;
        }
        let run = run(behaviour.name);
        if run.report.is_some() {
            check_v1(behaviour.name, &run.json());
        }
    }
}

#[test]
fn broken_reports_are_broken() {
    assert!(serde_json::from_slice::<Value>(&run("truncated").report.unwrap()).is_err());
    assert!(run("not-json").report.unwrap().starts_with(b"<html>"));
    assert_eq!(run("empty-report").report, Some(Vec::new()));
    let older = run("older-schema").json();
    assert!(older["result"]["packages"].is_array());
    assert_eq!(older["result"]["type"], "dockerImage");
}

#[test]
fn findings_are_counted_by_entry_and_fixable_by_version() {
    let count = |name: &str| {
        let report = run(name).json();
        let found: Vec<_> = report["result"]["vulnerabilities"]
            .as_object()
            .unwrap()
            .values()
            .cloned()
            .collect();
        let fixable = found
            .iter()
            .filter(|it| it.get("fixVersion").is_some())
            .count();
        let dated = found
            .iter()
            .filter(|it| it.get("solutionDate").is_some() && it.get("fixVersion").is_none())
            .count();
        (found.len(), fixable, dated)
    };
    assert_eq!(count("pass"), (6, 2, 1));
    assert_eq!(count("fail"), (8, 4, 1));
    assert_eq!(count("pass-clean"), (0, 0, 0));
}

#[test]
fn policies_match_the_behaviour() {
    assert_eq!(policies("pass")["globalEvaluation"], "passed");
    assert_eq!(policies("fail")["globalEvaluation"], "failed");
    assert_eq!(policies("accepted")["globalEvaluation"], "accepted");
    assert_eq!(policies("unknown-evaluation")["globalEvaluation"], "maybe");
    assert_eq!(policies("contradiction-pass")["globalEvaluation"], "failed");
    assert_eq!(policies("contradiction-fail")["globalEvaluation"], "passed");
    assert_eq!(
        policies("no-policy"),
        json!({ "globalEvaluation": "noPolicy", "evaluations": [] })
    );
    assert_eq!(policies("policies-null"), Value::Null);
    assert!(
        run("policies-absent").json()["result"]
            .get("policies")
            .is_none()
    );
    let despite = policies("pass-despite-failed-policy");
    assert_eq!(
        (
            &despite["globalEvaluation"],
            &despite["evaluations"][0]["evaluation"]
        ),
        (&json!("passed"), &json!("failed"))
    );
}

#[test]
fn named_policies_are_evaluated_besides_the_default_one() {
    let cli = Cli::new();
    let run = cli.run(&mut cli.with(&["--policy=nist", "--policy=my own"], "fail"));
    let evaluations = run.json()["result"]["policies"]["evaluations"].clone();
    let found: Vec<_> = evaluations
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["name"].as_str(), it["evaluation"].as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (Some("Sysdig Best Practices"), Some("failed")),
            (Some("nist"), Some("passed")),
            (Some("my own"), Some("passed")),
        ]
    );
}

#[test]
fn a_report_names_the_requested_image() {
    let metadata = |name: &str| run(name).json()["result"]["metadata"].clone();
    let pass = metadata("pass");
    assert_eq!(
        pass["pullString"],
        format!("registry.example.com/demo/pass:1.0@{DIGEST}")
    );
    assert_eq!(pass["digest"], DIGEST);
    assert_eq!(
        metadata("other-repository")["pullString"],
        "registry.example.com/another/repository:1.0"
    );
    assert_ne!(metadata("other-digest")["digest"], DIGEST);
    assert_ne!(metadata("index-digest")["digest"], DIGEST);
    assert!(metadata("index-digest").get("imageId").is_none());
    assert!(metadata("no-digest").get("digest").is_none());
    assert_eq!(
        (
            &metadata("empty-digest")["digest"],
            &metadata("empty-digest")["imageId"]
        ),
        (&json!(""), &json!(""))
    );
}

#[test]
fn a_tag_alone_gets_a_digest_of_its_text() {
    let cli = Cli::new();
    let report = cli.run(&mut cli.scan("pull://a.io/postgres:13")).json();
    assert_eq!(
        report["result"]["metadata"]["pullString"],
        "a.io/postgres:13"
    );
    assert_eq!(
        report["result"]["metadata"]["digest"]
            .as_str()
            .unwrap()
            .len(),
        DIGEST.len()
    );
}

#[test]
fn a_result_has_a_url() {
    let cli = Cli::new();
    let info = cli.run(&mut cli.named("pass")).json()["info"].clone();
    let id = info["resultId"].as_str().unwrap();
    assert_eq!(id.len(), 32);
    assert_eq!(
        info["resultUrl"],
        format!("https://us2.app.sysdig.com/secure/#/vulnerabilities/results/{id}/overview")
    );
}
