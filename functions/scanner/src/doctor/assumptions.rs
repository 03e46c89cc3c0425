//! What an examination says of each row of `docs/assumptions.md`.

use scanhook_core::failure::ErrorReason;
use scanhook_core::tools::Exit;
use scanhook_core::verdict::Identity;
use serde::Serialize;
use strum::IntoStaticStr;

use super::trials::{Observed, Trial, Tried};

const DOCUMENT: &str = include_str!("../../../../docs/assumptions.md");

/// What is known of an assumption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Finding {
    /// It was seen to hold.
    Verified,
    /// It was seen not to hold.
    Refuted,
    /// Neither.
    NotChecked,
}

impl Finding {
    /// The word in output.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A row of the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assumption {
    /// The row's name in the document.
    pub id: &'static str,
    /// What is assumed, in the document's words.
    pub assumption: &'static str,
    /// What is known of it.
    pub finding: Finding,
    /// By what, or why nothing is.
    pub how: String,
}

/// What the examination says of every row.
pub(super) fn conclude(observed: &Observed) -> Vec<Assumption> {
    let conclude = |(id, assumption)| {
        let (finding, how) = conclusion(id, observed);
        Assumption {
            id,
            assumption,
            finding,
            how,
        }
    };
    rows(DOCUMENT).map(conclude).collect()
}

/// Name and text of each row of the document's tables.
fn rows(document: &str) -> impl Iterator<Item = (&str, &str)> {
    document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let (id, assumption) = (cells.next()?, cells.next()?);
        let (_, number) = id.split_once('-')?;
        number.parse::<u32>().ok()?;
        Some((id, assumption))
    })
}

type Conclusion = (Finding, String);

fn conclusion(id: &str, observed: &Observed) -> Conclusion {
    if id.starts_with("aws-") {
        return unchecked("only a deployed stack shows it");
    }
    if id.starts_with("registry-") {
        return unchecked("only a delivery of the registry shows it");
    }
    if observed.is_stand_in() {
        return unchecked("a stand-in ran, not the Sysdig CLI");
    }
    match id {
        "cli-1" => verdict_reached(&observed.pass, "a scan with these flags wrote its report"),
        "cli-2" => schema(observed),
        "cli-3" => verdict_reached(
            &observed.pass,
            "a scan with this environment reached its verdict",
        ),
        "cli-4" => exit_codes(observed),
        "cli-5" => unchecked("a crash can't be brought about"),
        "cli-6" => words(observed),
        "cli-7" => verdict_reached(
            &observed.again,
            "a scan of tag and digest reached its verdict",
        ),
        "cli-8" => identity(&observed.again),
        "cli-9" => evaluation(observed),
        "cli-10" => verdict_reached(
            &observed.again,
            "a second scan with the same --dbpath reached its verdict",
        ),
        "cli-11" => cut_short(observed),
        "cli-14" => certificates(observed),
        "cli-15" => plain_http(observed),
        "cli-16" if !observed.is_confined => unchecked("this platform lets the CLI write anywhere"),
        "cli-16" => verdict_reached(
            &observed.pass,
            "a scan that could write nowhere else reached its verdict",
        ),
        _ => unchecked("no run of the doctor shows it"),
    }
}

fn verified(how: impl Into<String>) -> Conclusion {
    (Finding::Verified, how.into())
}

fn refuted(how: impl Into<String>) -> Conclusion {
    (Finding::Refuted, how.into())
}

fn unchecked(why: impl Into<String>) -> Conclusion {
    (Finding::NotChecked, why.into())
}

/// Verified by a verdict, refuted by an error that speaks against it: wrong parameters, or no readable report.
fn verdict_reached(tried: &Tried, how: &str) -> Conclusion {
    match tried {
        Err(err) => unchecked(err),
        Ok(trial) => match trial.reason() {
            None => verified(how),
            Some(
                ErrorReason::BadParameters | ErrorReason::NoReport | ErrorReason::ReportMismatch,
            ) => refuted(trial.in_words()),
            Some(_) => unchecked(trial.in_words()),
        },
    }
}

fn schema(observed: &Observed) -> Conclusion {
    let version = match &observed.version {
        Ok(version) => version,
        Err(err) => return unchecked(err),
    };
    let (finding, how) = verdict_reached(&observed.pass, "a report of schema v1 was read");
    (finding, format!("{version}: {how}"))
}

fn exit_codes(observed: &Observed) -> Conclusion {
    let expected = [
        ("the image that passes", exit(&observed.pass), 0),
        ("the image that fails", exit(&observed.fail), 1),
        (
            "wrong parameters",
            observed.wrong_parameters.as_ref().ok(),
            2,
        ),
        ("a wrong token", exit(&observed.wrong_token), 3),
    ];
    let (mut seen, mut missing) = (Vec::new(), Vec::new());
    for (what, exit, code) in expected {
        match exit {
            Some(Exit::Code(other)) if *other == code => seen.push(format!("{code} for {what}")),
            // A code of the table, but of another row: the image or the network is the matter, not the code.
            Some(Exit::Code(other @ (0 | 1 | 3))) if code < 2 => {
                missing.push(format!("{what} ended with {other}"));
            }
            Some(other) => return refuted(format!("{what}: {other:?} instead of code {code}")),
            None => missing.push(format!("{what} did not run")),
        }
    }
    if missing.is_empty() {
        verified(seen.join(", "))
    } else {
        unchecked(missing.join(", "))
    }
}

fn exit(tried: &Tried) -> Option<&Exit> {
    tried.as_ref().ok().map(|it| &it.exit)
}

/// Two of the table's rows can be brought about.
fn words(observed: &Observed) -> Conclusion {
    let expect = |tried: &Tried, expected| match tried {
        Ok(trial) if trial.reason() == Some(expected) => Ok(expected.as_str()),
        Ok(trial)
            if trial.reason() == Some(ErrorReason::ScannerError) || trial.verdict().is_some() =>
        {
            Err(refuted(format!(
                "{} expected: {}",
                expected.as_str(),
                trial.in_words()
            )))
        }
        Ok(trial) => Err(unchecked(trial.in_words())),
        Err(err) => Err(unchecked(err)),
    };
    let both = [
        expect(&observed.wrong_token, ErrorReason::BadToken),
        expect(&observed.absent, ErrorReason::ImageNotFound),
    ];
    let refutation = both.iter().find_map(|it| match it {
        Err((Finding::Refuted, how)) => Some(how.clone()),
        _ => None,
    });
    match (refutation, both) {
        (Some(how), _) => refuted(how),
        (None, [Ok(one), Ok(two)]) => verified(format!(
            "of {one} and {two}; the others were not brought about"
        )),
        (None, [Err(conclusion), _] | [_, Err(conclusion)]) => conclusion,
    }
}

fn identity(tried: &Tried) -> Conclusion {
    match tried {
        Err(err) => unchecked(err),
        Ok(trial) => match &trial.outcome {
            Ok(judged) if judged.identity == Identity::Confirmed => {
                verified("the report names the digest that was asked for")
            }
            Ok(_) => unchecked("the report says less than who it is of"),
            Err(err) if err.reason == ErrorReason::ReportMismatch => refuted(trial.in_words()),
            Err(_) => unchecked(trial.in_words()),
        },
    }
}

fn evaluation(observed: &Observed) -> Conclusion {
    let is_contradiction = |it: &&Trial| it.reason() == Some(ErrorReason::ReportMismatch);
    let runs = || [&observed.pass, &observed.fail].into_iter().flatten();
    if let Some(contradiction) = runs().find(is_contradiction) {
        return refuted(contradiction.in_words());
    }
    if runs().filter(|it| it.verdict().is_some()).count() == 2 {
        verified(
            "exit code and global evaluation agreed for both images; the totals were not compared",
        )
    } else {
        unchecked("not both images were scanned")
    }
}

fn cut_short(observed: &Observed) -> Conclusion {
    let (Ok(cut), Ok(next)) = (&observed.cut_short, &observed.pass) else {
        return unchecked("no run was ended");
    };
    match (cut.exit, next.verdict()) {
        (Exit::Deadline, Some(_)) => {
            verified("a run was ended, and the next one reached its verdict")
        }
        (Exit::Deadline, None) => unchecked(format!(
            "a run was ended; the next one: {}",
            next.in_words()
        )),
        _ => unchecked("the run ended before it was ended"),
    }
}

fn certificates(observed: &Observed) -> Conclusion {
    match &observed.pass {
        _ if !observed.has_certificates => {
            unchecked("the image that passes is not of a registry with a `ca`; name one that is")
        }
        Ok(trial) if trial.reason() == Some(ErrorReason::UntrustedTls) => refuted(trial.in_words()),
        tried => verdict_reached(tried, "an image of a registry with a `ca` was scanned"),
    }
}

/// The error of Go's `net/http` for a server that speaks plain HTTP where TLS was expected.
const NO_TLS: &str = "server gave HTTP response to HTTPS client";

fn plain_http(observed: &Observed) -> Conclusion {
    match &observed.pass {
        _ if !observed.is_plain => unchecked(
            "the image that passes is not of a registry with `insecure`; name one that is",
        ),
        Ok(trial) if trial.in_words().contains(NO_TLS) => refuted(trial.in_words()),
        tried => verdict_reached(tried, "an image of a registry with `insecure` was scanned"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use scanhook_core::failure::ScanError;

    use super::*;

    fn observed() -> Observed {
        let none = || Err("not here".to_owned());
        Observed {
            version: Ok("1.22.6".to_owned()),
            wrong_parameters: Err("not here".to_owned()),
            cut_short: none(),
            pass: none(),
            database_bytes: 0,
            again: none(),
            fail: none(),
            absent: none(),
            wrong_token: none(),
            has_certificates: false,
            is_plain: false,
            is_confined: true,
        }
    }

    #[test]
    fn each_row_of_the_document_has_a_name_of_its_own_in_order() {
        let ids: Vec<_> = rows(DOCUMENT).map(|(id, _)| id).collect();
        for (family, at_least) in [("cli", 12), ("aws", 7), ("registry", 5)] {
            let of_family: Vec<_> = ids.iter().filter(|it| it.starts_with(family)).collect();
            let expected: Vec<_> = (1..=of_family.len())
                .map(|it| format!("{family}-{it}"))
                .collect();
            assert!(
                of_family.iter().copied().eq(expected.iter()),
                "{of_family:?}"
            );
            assert!(of_family.len() >= at_least, "{of_family:?}");
        }
        let tables = DOCUMENT.lines().filter(|it| it.starts_with("| ")).count();
        let headers = DOCUMENT
            .lines()
            .filter(|it| it.starts_with("| # |"))
            .count();
        assert_eq!(ids.len(), tables - headers, "a row has no name");
    }

    #[test]
    fn the_doctor_knows_no_row_that_the_document_has_not() {
        let source = include_str!("assumptions.rs");
        let known = source.lines().filter_map(|it| {
            let (id, _) = it.trim().strip_prefix('"')?.split_once("\" => ")?;
            Some(id)
        });
        let known: Vec<_> = known.collect();
        assert!(known.len() >= 11, "{known:?}");
        for id in known {
            assert!(rows(DOCUMENT).any(|(it, _)| it == id), "{id}");
        }
    }

    #[test]
    fn certificates_and_plain_http_are_judged_by_an_image_that_needs_them() {
        let failed = |reason, detail: &str| {
            Ok(Trial {
                exit: Exit::Code(3),
                outcome: Err(ScanError {
                    reason,
                    class: reason.class(2),
                    detail: detail.to_owned(),
                }),
                took: Duration::ZERO,
            })
        };
        let finding = |id, has_certificates, is_plain, pass| {
            let observed = Observed {
                pass,
                has_certificates,
                is_plain,
                ..observed()
            };
            conclusion(id, &observed).0
        };
        let untrusted = || failed(ErrorReason::UntrustedTls, "x509: unknown authority");
        let no_tls = || failed(ErrorReason::ScannerError, NO_TLS);
        assert_eq!(
            finding("cli-14", true, false, untrusted()),
            Finding::Refuted
        );
        assert_eq!(
            finding("cli-14", false, false, untrusted()),
            Finding::NotChecked
        );
        assert_eq!(finding("cli-15", false, true, no_tls()), Finding::Refuted);
        assert_eq!(
            finding("cli-15", false, false, no_tls()),
            Finding::NotChecked
        );
    }

    #[test]
    fn nothing_is_verified_of_what_did_not_run_or_of_a_stand_in() {
        let stand_in = Observed {
            version: Ok("1.22.6-stand-in".to_owned()),
            wrong_parameters: Ok(Exit::Code(2)),
            ..observed()
        };
        for observed in [observed(), stand_in] {
            for row in conclude(&observed) {
                assert_eq!(row.finding, Finding::NotChecked, "{row:?}");
            }
        }
    }
}
