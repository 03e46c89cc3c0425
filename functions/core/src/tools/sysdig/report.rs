//! The CLI's report, schema v1, read for what is used of it and nothing else.
//!
//! Lenient where a difference changes nothing, strict where it could turn findings into none: a report without a map of
//! vulnerabilities or without a global evaluation is not readable. Totals are counted, since v1 has none: one entry per
//! vulnerability and package, fixable if `fixVersion` is there. `globalEvaluation` is authoritative: `passed`, `accepted`,
//! `failed` or `noPolicy`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::event::FreeText;
use crate::redact::Redactor;
use crate::report::{Evaluation, Findings, Report};
use crate::wire::{Text, object};

/// A report that can't be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadReportError {
    /// Cut off, or not JSON.
    #[error("the report is not JSON")]
    NotJson,
    /// Written in a schema before v1.
    #[error("the report has an older schema than v1")]
    OlderSchema,
    /// No map of vulnerabilities in it.
    #[error("the report lists no vulnerabilities, not even none")]
    NoVulnerabilities,
    /// No evaluation that is known.
    #[error("the report tells no known policy evaluation")]
    NoEvaluation,
}

#[derive(Deserialize)]
struct WireReport<'a> {
    #[serde(borrow, default, deserialize_with = "object")]
    info: WireInfo<'a>,
    #[serde(borrow, default)]
    scanner: Lenient<WireScanner<'a>>,
    #[serde(borrow)]
    result: Option<WireResult<'a>>,
}

#[derive(Deserialize, Default)]
struct WireInfo<'a> {
    #[serde(borrow, default, rename = "resultUrl")]
    result_url: Text<'a>,
}

#[derive(Deserialize, Default)]
struct WireScanner<'a> {
    #[serde(borrow, default)]
    version: Text<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireResult<'a> {
    #[serde(borrow, default)]
    metadata: Lenient<WireMetadata<'a>>,
    #[serde(default)]
    vulnerabilities: Lenient<WireFindings>,
    #[serde(borrow, default)]
    policies: Lenient<WirePolicies<'a>>,
    /// Only v1beta3 has it.
    vuln_total_by_severity: Option<IgnoredAny>,
    /// Only v1beta3 has it.
    policy_evaluations_result: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct WireMetadata<'a> {
    #[serde(borrow, default)]
    pull_string: Text<'a>,
    #[serde(borrow, default)]
    digest: Text<'a>,
    #[serde(borrow, default)]
    image_id: Text<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePolicies<'a> {
    #[serde(borrow, default)]
    global_evaluation: Lenient<Text<'a>>,
    #[serde(borrow, default)]
    evaluations: Lenient<Vec<WireEvaluation<'a>>>,
}

#[derive(Deserialize)]
struct WireEvaluation<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, default)]
    evaluation: Text<'a>,
}

/// A value of the right type; absent or null; or something else, which is told apart from absent.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lenient<T> {
    Known(T),
    Other(Option<IgnoredAny>),
}

impl<T> Default for Lenient<T> {
    fn default() -> Self {
        Self::Other(None)
    }
}

impl<T> Lenient<T> {
    fn known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Other(_) => None,
        }
    }
}

/// The counts of a map of vulnerabilities, made while it is read.
struct WireFindings(Findings);

impl<'de> Deserialize<'de> for WireFindings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FindingsVisitor;

        impl<'de> Visitor<'de> for FindingsVisitor {
            type Value = WireFindings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of vulnerabilities")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireFindings, A::Error> {
                let mut findings = Findings::default();
                while let Some((_, finding)) =
                    map.next_entry::<IgnoredAny, Lenient<WireFinding<'de>>>()?
                {
                    let finding = finding.known();
                    let severity = finding
                        .as_ref()
                        .and_then(|it| it.severity.get())
                        .unwrap_or_default();
                    *match severity.to_ascii_lowercase().as_str() {
                        "critical" => &mut findings.critical,
                        "high" => &mut findings.high,
                        "medium" => &mut findings.medium,
                        "low" => &mut findings.low,
                        _ => &mut findings.negligible,
                    } += 1;
                    findings.fixable +=
                        u64::from(finding.is_some_and(|it| it.fix_version.get().is_some()));
                }
                Ok(WireFindings(findings))
            }
        }

        deserializer.deserialize_map(FindingsVisitor)
    }
}

#[derive(Deserialize)]
struct WireFinding<'a> {
    #[serde(borrow, default)]
    severity: Text<'a>,
    #[serde(borrow, default, rename = "fixVersion")]
    fix_version: Text<'a>,
}

/// At most this many names of policies are kept.
const MAX_POLICIES: usize = 50;

/// Reads a report. What is shown of it is free of the secrets that `redactor` knows, and capped; they are removed first, so
/// that the cap leaves no part of one.
pub fn parse(json: &[u8], redactor: &Redactor) -> Result<Report, ReadReportError> {
    let wire: WireReport<'_> =
        serde_json::from_slice(json).map_err(|_| ReadReportError::NotJson)?;
    let result = wire.result.ok_or(ReadReportError::OlderSchema)?;
    if result.vuln_total_by_severity.is_some() || result.policy_evaluations_result.is_some() {
        return Err(ReadReportError::OlderSchema);
    }
    let findings = result
        .vulnerabilities
        .known()
        .ok_or(ReadReportError::NoVulnerabilities)?
        .0;
    let shown = |text: &str| FreeText::new(&redactor.clean(text)).as_str().to_owned();
    let policies = evaluate(result.policies, shown)?;
    let metadata = result.metadata.known().unwrap_or_default();
    Ok(Report {
        cli_version: wire
            .scanner
            .known()
            .unwrap_or_default()
            .version
            .get()
            .map(shown),
        result_url: wire.info.result_url.get().map(shown),
        // Identities are compared and never shown, so they are kept whole.
        pull_string: metadata.pull_string.get().map(str::to_owned),
        digest: metadata.digest.get().map(str::to_owned),
        image_id: metadata.image_id.get().map(str::to_owned),
        evaluation: policies.evaluation,
        policies_evaluated: policies.evaluated,
        policies_failed: policies.failed,
        findings,
    })
}

/// The policies in a report.
struct Policies {
    evaluation: Evaluation,
    evaluated: Vec<String>,
    failed: Vec<String>,
}

fn evaluate(
    policies: Lenient<WirePolicies<'_>>,
    shown: impl Fn(&str) -> String,
) -> Result<Policies, ReadReportError> {
    let WirePolicies {
        global_evaluation,
        evaluations,
    } = match policies {
        Lenient::Known(policies) => policies,
        Lenient::Other(None) => {
            return Ok(Policies {
                evaluation: Evaluation::NoPolicy,
                evaluated: Vec::new(),
                failed: Vec::new(),
            });
        }
        Lenient::Other(Some(_)) => return Err(ReadReportError::NoEvaluation),
    };
    let is_empty = match &evaluations {
        Lenient::Known(evaluations) => evaluations.is_empty(),
        Lenient::Other(other) => other.is_none(),
    };
    let global = match &global_evaluation {
        Lenient::Known(text) => Some(text.get().unwrap_or("?")),
        Lenient::Other(other) => other.map(|_| "?"),
    };
    let evaluation = match global {
        Some("failed") => Evaluation::Failed,
        Some("passed" | "accepted") if !is_empty => Evaluation::Passed,
        Some("passed" | "accepted" | "noPolicy") => Evaluation::NoPolicy,
        None if is_empty => Evaluation::NoPolicy,
        _ => return Err(ReadReportError::NoEvaluation),
    };
    let evaluations = evaluations.known().unwrap_or_default();
    let name = |it: &WireEvaluation<'_>| shown(it.name.get().unwrap_or("?"));
    let failed = evaluations
        .iter()
        .filter(|it| it.evaluation.get() == Some("failed"));
    Ok(Policies {
        evaluation,
        evaluated: evaluations.iter().take(MAX_POLICIES).map(name).collect(),
        failed: failed.take(MAX_POLICIES).map(name).collect(),
    })
}
