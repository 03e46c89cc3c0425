//! What a run of the CLI means: its exit code, its report and what it printed, in one function.

use super::{classify, exit_code};
use crate::failure::ErrorReason;
use crate::image::{Digest, Image, Registry, Repository, split_host};
use crate::redact;
use crate::report::{Evaluation, Report};
use crate::target::Target;
use crate::tools::{Problem, Run, Subject};
use crate::verdict::{Identity, Judged, Verdict};

pub(super) fn judge_code(subject: &Subject<'_>, code: i32, run: Run) -> Result<Judged, Problem> {
    let printed = run.printed.as_str();
    match code {
        exit_code::POLICIES_PASSED | exit_code::POLICIES_FAILED => {}
        exit_code::BAD_PARAMETERS => {
            let reason = classify::reason_for_bad_parameters(printed);
            return Err((reason, redact::shown(printed)));
        }
        exit_code::ERROR => {
            let reason = classify::reason(subject.image, printed);
            return Err((reason, redact::shown(printed)));
        }
        other => {
            let problem = format!("exit code {other}: {}", redact::shown(printed));
            return Err((ErrorReason::ScannerError, problem));
        }
    }
    let report = run.report.map_err(|problem| {
        let problem = format!("exit code {code}, but {problem}");
        (ErrorReason::NoReport, problem)
    })?;
    let identity = identify(subject.image, subject.target, &report)
        .map_err(|problem| (ErrorReason::ReportMismatch, problem))?;
    let verdict = match (code, report.evaluation) {
        (exit_code::POLICIES_PASSED, Evaluation::Passed) => Verdict::Passed,
        (exit_code::POLICIES_PASSED, Evaluation::NoPolicy) => Verdict::PassedWithoutPolicy,
        (exit_code::POLICIES_FAILED, Evaluation::Failed) => Verdict::Failed,
        (code, evaluation) => {
            let problem = format!(
                "exit code {code}, but the report says the policies {}",
                evaluation.as_words()
            );
            return Err((ErrorReason::ReportMismatch, problem));
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
    use super::super::TOOL;
    use super::*;
    use crate::report::Findings;
    use crate::tools::Exit;

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

    fn run(exit: Exit, report: Result<Report, String>, printed: &str) -> Run {
        Run {
            exit,
            report,
            printed: printed.to_owned(),
        }
    }

    fn check(exit: Exit, report: Result<Report, String>, printed: &str) -> String {
        let (target, run) = (target(), run(exit, report, printed));
        match TOOL.judge(target.image(), Some(&target), run, 2) {
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
        let run = run(Exit::Code(0), Ok(report(Evaluation::Passed)), "");
        let judged = TOOL.judge(&image, None, run, 1).unwrap();
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
            let run = run(Exit::Code(0), Ok(report), "");
            TOOL.judge(target.image(), Some(&target), run, 1)
                .map(|it| it.identity)
                .map_err(|it| it.reason)
        };
        assert_eq!(told("9", "3"), Ok(Identity::Confirmed));
        assert_eq!(told("1", "9"), Ok(Identity::Unconfirmed));
        assert_eq!(told("2", "9"), Ok(Identity::Unconfirmed));
        assert_eq!(told("9", "8"), Err(ErrorReason::ReportMismatch));
    }
}
