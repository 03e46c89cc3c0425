//! The reports, in the v1 schema.

use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::command::Options;
use crate::findings::{CRITICAL, FINDINGS, Finding, PACKAGES, Package};
use crate::lock;
use crate::run;

/// The policy that is evaluated without being named.
const ALWAYS: &str = "Sysdig Best Practices";

/// The content of a report, or how it is broken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    Passed,
    Clean,
    FailedPolicyAccepted,
    Accepted,
    NoPolicy,
    PoliciesAbsent,
    PoliciesNull,
    Failed,
    Maybe,
    OtherRepository,
    OtherDigest,
    IndexDigest,
    NoDigest,
    EmptyDigest,
    Huge,
    Older,
    Truncated,
    NotJson,
    Empty,
    Missing,
}

/// The report of a run, if its shape has one.
pub(crate) fn text(options: &Options, shape: Shape, took: Duration) -> Option<Vec<u8>> {
    match shape {
        Shape::Missing => None,
        Shape::Empty => Some(Vec::new()),
        Shape::NotJson => Some(b"<html><body><h1>502 Bad Gateway</h1></body></html>\n".to_vec()),
        Shape::Older => Some(v1beta3(options).to_string().into_bytes()),
        Shape::Truncated => {
            let mut text = v1(options, shape, took).to_string().into_bytes();
            text.truncate(text.len() / 2);
            Some(text)
        }
        _ => Some(v1(options, shape, took).to_string().into_bytes()),
    }
}

fn v1(options: &Options, shape: Shape, took: Duration) -> Value {
    let now = run::now();
    let findings = findings(shape);
    let id = result_id(options);
    let info = json!({
        "scanTime": format!("{now:.9}"),
        "scanDuration": go_duration(took),
        "resultUrl": result_url(options, &id),
        "resultId": id,
    });
    let mut result = json!({
        "assetType": "containerImage",
        "stage": "pipeline",
        "metadata": metadata(options, shape),
        "baseImages": {},
        "layers": layers(),
        "packages": by_id(PACKAGES.iter().map(|it| (it.name.to_owned(), package(it, findings)))),
        "vulnerabilities": by_id(findings.iter().map(|it| (it.seed(), vulnerability(it)))),
        "riskAccepts": risk_accepts(shape),
        "producer": { "producedAt": format!("{now:.9}") },
    });
    insert(&mut result, "policies", policies(options, shape));
    json!({ "info": info, "scanner": { "name": "sysdig-cli-scanner", "version": lock::stand_in_version() }, "result": result })
}

/// The part of a report that identifies the image.
struct Identity {
    pull_string: String,
    digest: Option<String>,
    image_id: Option<String>,
}

impl Identity {
    fn of(options: &Options, shape: Shape) -> Self {
        let image = &options.image;
        let mut identity = Self {
            pull_string: image.text.clone(),
            digest: Some(image.digest.clone().unwrap_or_else(|| digest(&image.text))),
            image_id: Some(digest(&format!("configuration of {}", image.text))),
        };
        match shape {
            Shape::OtherRepository => {
                "registry.example.com/another/repository:1.0".clone_into(&mut identity.pull_string);
            }
            Shape::OtherDigest => {
                identity.digest = Some(digest("another image"));
                identity.image_id = Some(digest("configuration of another image"));
            }
            Shape::IndexDigest => {
                identity.digest = Some(digest("an index"));
                identity.image_id = None;
            }
            Shape::NoDigest => identity.digest = None,
            Shape::EmptyDigest => {
                identity.digest = Some(String::new());
                identity.image_id = Some(String::new());
            }
            _ => {}
        }
        identity
    }
}

fn metadata(options: &Options, shape: Shape) -> Value {
    let identity = Identity::of(options, shape);
    let mut metadata = json!({
        "architecture": "amd64",
        "author": "",
        "baseOs": "debian 13.1",
        "createdAt": "2026-10-01T08:00:00Z",
        "os": "linux",
        "pullString": identity.pull_string,
        "size": 134_217_728,
    });
    insert(&mut metadata, "digest", identity.digest);
    insert(&mut metadata, "imageId", identity.image_id);
    if shape == Shape::Huge {
        insert(
            &mut metadata,
            "labels",
            Some(json!({ "padding": "x".repeat(65 << 20) })),
        );
    }
    metadata
}

fn layers() -> Value {
    json!({
        layer(0): { "command": "ADD rootfs.tar.xz / # buildkit", "digest": digest("layer 0"), "index": 0, "size": 83_886_080 },
        layer(1): { "command": "ENV A=b", "digest": "", "index": 1, "size": null },
        layer(2): { "command": null, "digest": digest("layer 2"), "index": 2, "size": 50_331_648 },
    })
}

fn layer(index: usize) -> String {
    uuid(&format!("layer {index}"))
        .chars()
        .filter(|it| *it != '-')
        .take(16)
        .collect()
}

fn package(package: &Package, findings: &[Finding]) -> Value {
    let found: Vec<_> = findings
        .iter()
        .filter(|it| it.package == package.name)
        .collect();
    let references: Vec<_> = found.iter().map(|it| uuid(&it.seed())).collect();
    let mut value = json!({
        "name": package.name,
        "version": package.version,
        "type": package.kind,
        "layerRef": layer(if package.path.is_some() { 2 } else { 0 }),
        "isRemoved": false,
        "isRunning": false,
        "vulnerabilitiesRefs": if references.is_empty() { Value::Null } else { references.into() },
    });
    insert(&mut value, "path", package.path);
    insert(
        &mut value,
        "suggestedFix",
        found.iter().find_map(|it| it.fix),
    );
    value
}

fn vulnerability(finding: &Finding) -> Value {
    let mut value = json!({
        "name": finding.cve,
        "severity": finding.severity,
        "packageRef": uuid(finding.package),
        "mainProvider": "nvd",
        "cvssScore": { "score": score(finding.score), "vector": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "version": "3.1" },
        "disclosureDate": "2099-01-01",
        "exploitable": finding.severity == "critical",
        "providersMetadata": {},
        "riskAcceptRefs": null,
    });
    insert(&mut value, "fixVersion", finding.fix);
    insert(&mut value, "solutionDate", finding.solution);
    if finding.severity == "critical" {
        insert(
            &mut value,
            "cisaKev",
            Some(json!({ "dueDate": "2099-02-01", "knownRansomwareCampaignUse": false })),
        );
    }
    value
}

/// A score in the form of real reports: whole numbers are integers.
fn score(score: f64) -> Value {
    let text = score.to_string();
    text.parse::<i64>()
        .map_or_else(|_| score.into(), Value::from)
}

/// The findings of a shape. Critical findings fail the policy.
fn findings(shape: Shape) -> &'static [Finding] {
    match shape {
        Shape::Clean => &[],
        Shape::Failed | Shape::FailedPolicyAccepted | Shape::Accepted => &FINDINGS,
        _ => FINDINGS.get(CRITICAL..).unwrap_or_default(),
    }
}

/// The global evaluation, and the evaluation of the policy that always applies, if a policy is evaluated.
fn evaluations(shape: Shape) -> (&'static str, Option<&'static str>) {
    match shape {
        Shape::NoPolicy | Shape::PoliciesAbsent | Shape::PoliciesNull => ("noPolicy", None),
        Shape::Failed => ("failed", Some("failed")),
        Shape::FailedPolicyAccepted => ("passed", Some("failed")),
        Shape::Accepted => ("accepted", Some("accepted")),
        Shape::Maybe => ("maybe", Some("passed")),
        _ => ("passed", Some("passed")),
    }
}

fn policies(options: &Options, shape: Shape) -> Option<Value> {
    if shape == Shape::PoliciesNull {
        return Some(Value::Null);
    }
    if shape == Shape::PoliciesAbsent {
        return None;
    }
    let (global, always) = evaluations(shape);
    let named = options
        .policies
        .iter()
        .map(|it| policy(it, it, "passed", shape));
    let evaluations: Vec<_> = always
        .map(|it| policy(ALWAYS, "sysdig-best-practices", it, shape))
        .into_iter()
        .chain(named.filter(|_| always.is_some()))
        .collect();
    Some(json!({ "globalEvaluation": global, "evaluations": evaluations }))
}

fn policy(name: &str, identifier: &str, evaluation: &str, shape: Shape) -> Value {
    let rule_result = if evaluation == "passed" {
        "passed"
    } else {
        "failed"
    };
    let failures: Vec<_> = findings(shape)
        .iter()
        .filter(|it| it.severity == "critical" && rule_result == "failed")
        .map(|it| json!({ "packageRef": uuid(it.package), "vulnerabilityRef": uuid(&it.seed()), "remediation": "update" }))
        .collect();
    json!({
        "name": name,
        "identifier": identifier,
        "description": "of the stand-in",
        "createdAt": "2026-01-01T00:00:00Z",
        "updatedAt": "2026-01-01T00:00:00Z",
        "evaluation": evaluation,
        "bundles": [{
            "name": "No critical vulnerability",
            "identifier": format!("{identifier}-bundle"),
            "type": "predefined",
            "rules": [
                {
                    "ruleId": "1",
                    "ruleType": "vulnSeverityAndThreats",
                    "failureType": "pkgVulnFailure",
                    "description": "severity is at least critical and a fix exists",
                    "evaluationResult": rule_result,
                    "predicates": [{ "type": "vulnSeverityEquals", "extra": { "level": "critical" } }],
                    "failures": failures,
                },
                {
                    "ruleId": "2",
                    "ruleType": "imageConfigDefaultUser",
                    "failureType": "imageConfigFailure",
                    "description": "the default user is not root",
                    "evaluationResult": "passed",
                    "predicates": null,
                    "failures": [],
                },
            ],
        }],
    })
}

fn risk_accepts(shape: Shape) -> Value {
    match shape {
        Shape::Accepted | Shape::FailedPolicyAccepted => json!({
            uuid("risk"): {
                "id": uuid("risk"),
                "entityType": "vulnerability",
                "entityValue": "CVE-2099-0001",
                "context": [],
                "reason": "RiskAvoided",
                "status": "active",
                "expirationDate": null,
            },
        }),
        _ => json!({}),
    }
}

/// A report in the schema before v1, as far as it differs.
fn v1beta3(options: &Options) -> Value {
    let severity = |it: &Finding| json!({ "value": it.severity });
    let vulnerabilities = |package: &Package| {
        let found = findings(Shape::Passed)
            .iter()
            .filter(|it| it.package == package.name);
        found
            .map(|it| json!({ "name": it.cve, "severity": severity(it), "fixedInVersion": it.fix }))
            .collect::<Vec<_>>()
    };
    json!({
        "info": { "scanTime": format!("{:.9}", run::now()), "resultUrl": result_url(options, &result_id(options)) },
        "scanner": { "name": "sysdig-cli-scanner", "version": lock::stand_in_version() },
        "result": {
            "type": "dockerImage",
            "metadata": metadata(options, Shape::Passed),
            "vulnTotalBySeverity": { "critical": 0, "high": 2, "medium": 2, "low": 1, "negligible": 1 },
            "packages": PACKAGES.iter().map(|it| {
                json!({ "name": it.name, "version": it.version, "type": it.kind, "vulns": vulnerabilities(it) })
            }).collect::<Vec<_>>(),
            "policyEvaluations": [],
            "policyEvaluationsResult": "passed",
        },
    })
}

fn result_id(options: &Options) -> String {
    uuid(&options.image.text).replace('-', "")
}

fn result_url(options: &Options, id: &str) -> String {
    format!(
        "{}/secure/#/vulnerabilities/results/{id}/overview",
        options.api_url
    )
}

/// Sets a member that may be absent.
fn insert(object: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let (Value::Object(members), Some(value)) = (object, value) {
        members.insert(name.to_owned(), value.into());
    }
}

/// A map of entries, keyed by the ids of their seeds.
fn by_id(entries: impl Iterator<Item = (String, Value)>) -> Value {
    entries
        .map(|(seed, value)| (uuid(&seed), value))
        .collect::<Map<_, _>>()
        .into()
}

fn digest(text: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(text)))
}

/// A UUID that depends only on the text.
pub(crate) fn uuid(text: &str) -> String {
    let number = Sha256::digest(text)
        .iter()
        .take(16)
        .fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        number >> 96,
        number >> 80 & 0xffff,
        number >> 64 & 0xffff,
        number >> 48 & 0xffff,
        number & 0xffff_ffff_ffff
    )
}

/// A duration as Go prints it, below an hour.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match duration.as_secs() {
        0 => format!("{}ms", seconds * 1000.0),
        1..60 => format!("{seconds}s"),
        whole => format!("{}m{}s", whole / 60, whole % 60),
    }
}
