//! What a run of the CLI means: the table of `docs/reference/outcomes.md`, in one function.
//!
//! **Invariant**: a verdict is only ever made of a readable report whose global evaluation and exit code agree. Whatever
//! else happens is an error, and never clean.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::classify;
use crate::failure::{ErrorReason, ScanError};
use crate::image::{Digest, Image, Registry, Repository, split_host};
use crate::redact;
use crate::report::{Evaluation, Report};
use crate::target::Target;

/// What is known of an image after a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Verdict {
    /// Its policies passed, or what failed was accepted.
    Passed,
    /// It was scanned, but no policy was evaluated.
    #[strum(serialize = "passed")]
    PassedWithoutPolicy,
    /// A policy failed.
    Failed,
    /// There was nothing to scan: a signature, an SBOM, a chart, a cache, or something nobody has a name for.
    #[strum(serialize = "skipped")]
    NotAnImage,
}

impl Verdict {
    /// The word in records and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// How the CLI ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// By ours, because its time was up.
    Deadline,
}

/// The CLI's exit codes. Source: `docs/reference/outcomes.md`, "What an exit means".
mod exit_code {
    pub(super) const POLICIES_PASSED: i32 = 0;
    pub(super) const POLICIES_FAILED: i32 = 1;
    pub(super) const BAD_PARAMETERS: i32 = 2;
    pub(super) const ERROR: i32 = 3;
}

const SIGKILL: i32 = 9;

/// A finished run, as far as judging needs it.
pub struct CliRun<'a> {
    /// How it ended.
    pub exit: Exit,
    /// The report, if there is a readable one; else what is wrong with it.
    pub report: Result<Report, String>,
    /// The end of what it printed, redacted.
    pub stderr: &'a str,
}

/// How sure it is that the report is about the manifest that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// Its digest, or that of its config, is the one asked for.
    Confirmed,
    /// Nothing speaks against it.
    Unconfirmed,
}

/// A verdict and what it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// How sure the report is this image's.
    pub identity: Identity,
    /// What was found.
    pub report: Report,
}

/// Judges a run for `target` on this receive of its message.
pub fn judge(target: &Target, run: CliRun<'_>, receive_count: u32) -> Result<Judged, ScanError> {
    judge_one(target.image(), Some(target), run, receive_count)
}

/// Judges a run for an image that no registry was asked about.
pub fn judge_image(
    image: &Image,
    run: CliRun<'_>,
    receive_count: u32,
) -> Result<Judged, ScanError> {
    let digest = image.pin.digest();
    let target = digest.map(|it| Target::new(image, it.clone()));
    judge_one(image, target.as_ref(), run, receive_count)
}

fn judge_one(
    image: &Image,
    target: Option<&Target>,
    run: CliRun<'_>,
    receive_count: u32,
) -> Result<Judged, ScanError> {
    let error = |reason: ErrorReason, detail: String| ScanError {
        reason,
        class: reason.class(receive_count),
        detail,
    };
    let code = match run.exit {
        Exit::Code(code) => code,
        Exit::Deadline => {
            return Err(error(
                ErrorReason::Timeout,
                "the CLI was ended at its deadline".to_owned(),
            ));
        }
        Exit::Signal(SIGKILL) => {
            return Err(error(
                ErrorReason::OutOfMemory,
                "the CLI was killed, most likely for its memory".to_owned(),
            ));
        }
        Exit::Signal(signal) => {
            return Err(error(
                ErrorReason::ScannerError,
                format!("the CLI was ended by signal {signal}"),
            ));
        }
    };
    match code {
        exit_code::POLICIES_PASSED | exit_code::POLICIES_FAILED => {}
        exit_code::BAD_PARAMETERS => {
            let reason = classify::reason_for_bad_parameters(run.stderr);
            return Err(error(reason, redact::shown(run.stderr)));
        }
        exit_code::ERROR => {
            let reason = classify::reason(image, run.stderr);
            return Err(error(reason, redact::shown(run.stderr)));
        }
        other => {
            return Err(error(
                ErrorReason::ScannerError,
                format!("exit code {other}: {}", redact::shown(run.stderr)),
            ));
        }
    }
    let report = run.report.map_err(|problem| {
        error(
            ErrorReason::NoReport,
            format!("exit code {code}, but {problem}"),
        )
    })?;
    let identity = identify(image, target, &report)
        .map_err(|problem| error(ErrorReason::ReportMismatch, problem))?;
    let verdict = match (code, report.evaluation) {
        (exit_code::POLICIES_PASSED, Evaluation::Passed) => Verdict::Passed,
        (exit_code::POLICIES_PASSED, Evaluation::NoPolicy) => Verdict::PassedWithoutPolicy,
        (exit_code::POLICIES_FAILED, Evaluation::Failed) => Verdict::Failed,
        (code, evaluation) => {
            let problem = format!(
                "exit code {code}, but the report says the policies {}",
                evaluation.as_words()
            );
            return Err(error(ErrorReason::ReportMismatch, problem));
        }
    };
    Ok(Judged {
        verdict,
        identity,
        report,
    })
}

/// Says whether the report is about `target`, or what speaks against it.
fn identify(image: &Image, target: Option<&Target>, report: &Report) -> Result<Identity, String> {
    if let Some((registry, repository)) = report.pull_string.as_deref().and_then(repository_of)
        && (&registry, &repository) != (&image.registry, &image.repository)
    {
        return Err("the report names another repository".to_owned());
    }
    let Some(target) = target else {
        return Ok(Identity::Unconfirmed);
    };
    let [digest, image_id] = [report.digest.as_deref(), report.image_id.as_deref()]
        .map(|it| it.and_then(|it| Digest::parse(it).ok()));
    let is_asked = |it: &Digest| it == target.digest() || target.config.as_ref() == Some(it);
    let is_near = |it: &Digest| target.index.as_ref() == Some(it) || target.siblings.contains(it);
    let told = || digest.iter().chain(&image_id);
    if told().any(is_asked) {
        Ok(Identity::Confirmed)
    } else if digest.is_some() && image_id.is_some() && !told().any(is_near) {
        Err("the report's digest and image id are of another image".to_owned())
    } else {
        Ok(Identity::Unconfirmed)
    }
}

fn repository_of(pull_string: &str) -> Option<(Registry, Repository)> {
    let text = pull_string
        .split_once("://")
        .map_or(pull_string, |(_, rest)| rest);
    let name = text.split('@').next().unwrap_or_default();
    let path = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path,
        _ => name,
    };
    split_host(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Findings;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn target() -> Target {
        let image = Image::parse("h.io/a/b:1").unwrap();
        Target::new(&image, Digest::parse(&format!("sha256:{HEX}")).unwrap())
    }

    fn report(evaluation: Evaluation) -> Report {
        Report {
            cli_version: None,
            result_url: None,
            pull_string: Some(format!("h.io/a/b:1@sha256:{HEX}")),
            digest: Some(format!("sha256:{HEX}")),
            image_id: None,
            evaluation,
            policies_evaluated: Vec::new(),
            policies_failed: Vec::new(),
            findings: Findings::default(),
        }
    }

    fn check(exit: Exit, report: Result<Report, String>, stderr: &str) -> String {
        match judge(
            &target(),
            CliRun {
                exit,
                report,
                stderr,
            },
            2,
        ) {
            Ok(judged) => format!("{:?} {:?}", judged.verdict, judged.identity),
            Err(err) => format!("{} {}", err.class.as_str(), err.reason.as_str()),
        }
    }

    #[test]
    fn a_verdict_needs_an_exit_code_and_an_evaluation_that_agree() {
        use Evaluation::{Failed, NoPolicy, Passed};
        assert_eq!(
            check(Exit::Code(0), Ok(report(Passed)), ""),
            "Passed Confirmed"
        );
        assert_eq!(
            check(Exit::Code(0), Ok(report(NoPolicy)), ""),
            "PassedWithoutPolicy Confirmed"
        );
        assert_eq!(
            check(Exit::Code(1), Ok(report(Failed)), ""),
            "Failed Confirmed"
        );
        for (code, evaluation) in [(0, Failed), (1, Passed), (1, NoPolicy)] {
            assert_eq!(
                check(Exit::Code(code), Ok(report(evaluation)), ""),
                "permanent report_mismatch"
            );
        }
        for code in [0, 1] {
            assert_eq!(
                check(Exit::Code(code), Err("it is cut off".to_owned()), ""),
                "transient no_report"
            );
        }
    }

    #[test]
    fn an_end_without_a_verdict_is_an_error_whatever_the_report_says() {
        let passed = || Ok(report(Evaluation::Passed));
        assert_eq!(check(Exit::Deadline, passed(), ""), "transient timeout");
        assert_eq!(
            check(Exit::Signal(9), passed(), ""),
            "transient out_of_memory"
        );
        assert_eq!(
            check(Exit::Signal(11), passed(), ""),
            "transient scanner_error"
        );
        assert_eq!(
            check(Exit::Code(2), passed(), "unknown flag"),
            "permanent bad_parameters"
        );
        // A Go program that panics or runs out of memory ends with 2 as well.
        assert_eq!(
            check(
                Exit::Code(2),
                passed(),
                "panic: x\n\ngoroutine 1 [running]:"
            ),
            "transient scanner_error"
        );
        assert_eq!(
            check(
                Exit::Code(2),
                passed(),
                "fatal error: runtime: out of memory"
            ),
            "transient scanner_error"
        );
        assert_eq!(
            check(Exit::Code(3), passed(), "MANIFEST_UNKNOWN"),
            "permanent image_not_found"
        );
        for code in [4, 42, 127, 255, -1] {
            assert_eq!(
                check(Exit::Code(code), passed(), ""),
                "transient scanner_error"
            );
        }
    }

    #[test]
    fn a_report_of_another_image_is_never_clean() {
        let with = |change: fn(&mut Report)| {
            let mut report = report(Evaluation::Passed);
            change(&mut report);
            check(Exit::Code(0), Ok(report), "")
        };
        assert_eq!(
            with(|it| it.pull_string = Some("h.io/a/c:1".to_owned())),
            "permanent report_mismatch"
        );
        assert_eq!(
            with(|it| it.pull_string = Some("g.io/a/b:1".to_owned())),
            "permanent report_mismatch"
        );
        // The same host, spelled otherwise.
        assert_eq!(
            with(|it| it.pull_string = Some("pull://h.io:443/a/b:1".to_owned())),
            "Passed Confirmed"
        );
        assert_eq!(
            with(|it| it.pull_string = Some("%%%".to_owned())),
            "Passed Confirmed"
        );
        assert_eq!(with(|it| it.digest = None), "Passed Unconfirmed");
        assert_eq!(
            with(|it| it.digest = Some(String::new())),
            "Passed Unconfirmed"
        );
        assert_eq!(
            with(|it| it.digest = Some(format!("sha256:{}", "f".repeat(64)))),
            "Passed Unconfirmed"
        );
        assert_eq!(
            with(|it| {
                it.digest = Some(format!("sha256:{}", "f".repeat(64)));
                it.image_id = Some(format!("sha256:{}", "e".repeat(64)));
            }),
            "permanent report_mismatch"
        );
        assert_eq!(
            with(|it| {
                it.digest = Some(format!("sha256:{}", "f".repeat(64)));
                it.image_id = Some(format!("sha256:{HEX}"));
            }),
            "Passed Confirmed"
        );
    }

    #[test]
    fn a_tag_alone_can_not_be_confirmed() {
        let image = Image::parse("h.io/a/b:1").unwrap();
        let run = CliRun {
            exit: Exit::Code(0),
            report: Ok(report(Evaluation::Passed)),
            stderr: "",
        };
        let judged = judge_image(&image, run, 1).unwrap();
        assert_eq!(judged.identity, Identity::Unconfirmed);
    }

    #[test]
    fn a_report_may_tell_any_digest_of_the_images_family() {
        let digest = |hex: &str| Digest::parse(&format!("sha256:{}", hex.repeat(64))).unwrap();
        let mut target = target();
        target.index = Some(digest("1"));
        target.siblings = vec![digest("2")];
        target.config = Some(digest("3"));
        let told = |report_digest: &str, image_id: &str| {
            let report = Report {
                digest: Some(digest(report_digest).to_string()),
                image_id: Some(digest(image_id).to_string()),
                ..report(Evaluation::Passed)
            };
            let run = CliRun {
                exit: Exit::Code(0),
                report: Ok(report),
                stderr: "",
            };
            judge(&target, run, 1)
                .map(|it| it.identity)
                .map_err(|it| it.reason)
        };
        assert_eq!(told("9", "3"), Ok(Identity::Confirmed));
        assert_eq!(told("1", "9"), Ok(Identity::Unconfirmed));
        assert_eq!(told("2", "9"), Ok(Identity::Unconfirmed));
        assert_eq!(told("9", "8"), Err(ErrorReason::ReportMismatch));
    }
}
