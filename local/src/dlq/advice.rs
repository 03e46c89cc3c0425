//! What each reason means and what to do about it: one table, which `docs/operating.md` repeats.

use scanhook_core::failure::ErrorReason;

/// What an operator is told about a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Advice {
    /// What it means.
    pub(crate) meaning: &'static str,
    /// What to do.
    pub(crate) action: &'static str,
}

/// The advice for a letter with that reason.
pub(crate) fn advice(reason: &str) -> Advice {
    reason.parse().map_or(WITHOUT_REASON, of)
}

const WITHOUT_REASON: Advice = Advice {
    meaning: "SQS gave the message up by itself: the scanner ended before it could say why, at its memory limit, at its time \
              limit or by a crash; or the message is not one of scanhook's.",
    action: "Look in the scanner's log for the scan's id, and raise its memory or its timeout if it was killed. Then redrive \
             a few before all.",
};

#[expect(clippy::too_many_lines, reason = "a table: a row for each reason")]
fn of(reason: ErrorReason) -> Advice {
    let (meaning, action) = match reason {
        ErrorReason::BadMessage => (
            "The message can't be read: it is not JSON of a version that this scanner knows. Or it names a registry that is \
             neither its source's `registry` nor one of its `hosts`: the detail names both.",
            "See who else sends to the queue. A message of a newer version needs the newer scanner: deploy it, then redrive. \
             If the source's registry was renamed, list the old name in its `hosts` and redrive. Anything else: export it, then delete it.",
        ),
        ErrorReason::BadParameters => (
            "The Sysdig CLI refused its arguments, so something in the configuration does not fit its version.",
            "Read the detail; compare scanner.api_url and the names of the policies with Sysdig, and the CLI's version with \
             layer/sysdig-cli.lock. Then redrive.",
        ),
        ErrorReason::BadToken => (
            "Sysdig refused the API token, and reading it again gave the same one.",
            "Renew scanner.api_token; it must be of the same region as scanner.api_url. `scanhook check` resolves it. Then \
             redrive with this reason.",
        ),
        ErrorReason::ClaimedElsewhere => (
            "Another worker held the claim on the same content each time this message came up.",
            "See with `scanhook scans list` whether the content has a verdict by now: then delete the dead letter. Else redrive; a \
             claim ends by itself at its worker's deadline.",
        ),
        ErrorReason::Database => (
            "The CLI could not get Sysdig's vulnerability database.",
            "See whether the scanner may reach scanner.api_url and Sysdig is up; a token of another region gives this too. \
             Then redrive at a low rate.",
        ),
        ErrorReason::Expired => (
            "The message waited for longer than the queue of `scanhook serve` keeps one (four days), so it was never scanned, or \
             its retries did not end in time.",
            "See why scans waited: `serve` ran with --no-scan, Sysdig's backend was down, or more was pushed than is scanned. \
             Then redrive; the images are still to be scanned.",
        ),
        ErrorReason::ImageNotFound => (
            "The registry has no such image: it was deleted or its tag moved before the scan, or the pull name is another one.",
            "Pull the image by hand. If it is gone, delete the dead letter. If the registry knows it under another host or \
             repository, correct the source's registry or repo_key, and push again: the name in the message stays as it is.",
        ),
        ErrorReason::Internal => (
            "A fault in scanhook itself: the scan panicked or its scratch space failed.",
            "Look in the log for the scan's id and report it with the lines around it. Then redrive.",
        ),
        ErrorReason::Network => (
            "The registry or Sysdig could not be reached, or answered with an error of its own.",
            "See whether the scanner reaches both: DNS, routes, proxy, firewall. A status in the detail is an answer: see the \
             registry's log. Then redrive at a low rate.",
        ),
        ErrorReason::NoReport => (
            "The CLI ended as if all were well, three times, and left no readable report; that is never taken for clean.",
            "See whether scratch space is full or short, then run the CLI by hand on the image. Redrive a single one first.",
        ),
        ErrorReason::NoSpace => (
            "The scratch space has no room for the image, also when no other scan holds any of it.",
            "Give the scanner more space (ephemeral storage in Lambda, the data directory's disk elsewhere) or lower \
             scanner.concurrency. Then redrive.",
        ),
        ErrorReason::OutOfMemory => (
            "The CLI was killed three times, most likely for its memory.",
            "Give the scanner more memory, or lower scanner.concurrency. Then redrive.",
        ),
        ErrorReason::PlatformMissing => (
            "The image's index has no image for a platform that the source asks for.",
            "See with `skopeo inspect --raw` which platforms were pushed. Correct the source's platforms, or have the missing \
             one built and pushed again; redriving alone does not help.",
        ),
        ErrorReason::RateLimited => (
            "The registry or Sysdig asked for a pause, longer than all attempts together.",
            "Log in to the registry (limits for strangers are low), lower scanner.concurrency, and redrive at a low rate.",
        ),
        ErrorReason::ReportMismatch => (
            "The report is of another image or contradicts the CLI's exit code, so there is no verdict; that is never taken for \
             clean.",
            "See whether the tag moved while it was scanned: then redrive with --force. If it stays, run the CLI by hand and \
             report it to Sysdig with its report.",
        ),
        ErrorReason::ScannerError => (
            "The CLI failed in a way that has no name yet; the detail is the end of what it printed.",
            "Read the detail and run the CLI by hand on the image. Redrive a single one first; report text that comes up often, \
             so that it gets a reason.",
        ),
        ErrorReason::Timeout => (
            "The scan did not end within scanner.timeout, three times.",
            "See how large the image is. Raise scanner.timeout, or run `scanhook work` for scans longer than Lambda's 15 \
             minutes. Then redrive.",
        ),
        ErrorReason::TooLarge => (
            "The image's layers are larger than scanner.max_image, so it was not pulled.",
            "Raise scanner.max_image, together with the scanner's scratch space, memory and timeout, and redrive; or exclude the \
             repository in its source and delete the dead letter.",
        ),
        ErrorReason::Unauthorized => (
            "The registry refused the pull, or led to where scanhook does not follow; reading the credentials again gave the \
             same ones.",
            "Read the detail, and look at the cause that it names:\n\
             - `without credentials`: the registry takes no strangers, and registries has no credentials for its host. Add them.\n\
             - `with its credentials`: they are wrong, expired or revoked, or may not pull this repository. Renew them, or grant \
             the right.\n\
             - `which its realm must not see`: the registry's token server is on another host, so the credentials were withheld. \
             Give that host an entry of its own in registries; `{}` is enough.\n\
             - `less than https`: the registry names a token server by http. Correct the registry's public URL.\n\
             - `not public`: the token server or a redirect leads to a private address. Add its network to \
             registries.<host>.allow of the registry, or give its host an entry in registries.\n\
             - `redirects`, `would be asked by`: the registry leads in circles or to another scheme. Correct its public URL, or \
             insecure in that host's entry.\n\
             - `gives no token`: the role, key or service principal of the credentials is refused. See that it exists and may \
             pull.\n\
             - `PROJECTPOLICYVIOLATION`: Harbor's deployment security holds the image back. Switch it off for the project, or \
             exclude the project in its source and delete the dead letter.\n\
             - Any other text is the CLI's: it was refused where scanhook was not. Pull the image by hand with the same \
             credentials.\n\
             Then redrive with this reason.",
        ),
        ErrorReason::UnknownSource => (
            "The message names a source that the scanner's configuration does not have.",
            "Give webhook and scanner the same configuration, or put the source back; a renamed one stays under its old name \
             until its messages are gone. Then redrive.",
        ),
        ErrorReason::UnsupportedImage => (
            "It can't be scanned: its manifest is of Docker's schema 1 or of a type that the CLI does not know, an index entry is \
             not understood, or an index is beyond scanhook's limits.",
            "Read the detail. Push an image of schema 1 again with a current client, and divide an index that is beyond a limit. \
             If such artifacts are pushed on purpose, exclude their repository or tags in the source, and delete the dead letters. \
             Redriving does not help.",
        ),
        ErrorReason::UntrustedTls => (
            "The certificate of the registry or of Sysdig is not trusted.",
            "For a registry, name the issuing authority in registries.<host>.ca; for Sysdig, put it into the scanner's trust \
             store; or correct the certificate's name or date. Then redrive.",
        ),
    };
    Advice { meaning, action }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::dlq::UNKNOWN;

    /// One line of single spaces, so that the document may break lines where it likes.
    fn flat(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// What the advice quotes of details.
    fn quoted(text: &str) -> impl Iterator<Item = &str> {
        text.split('`').skip(1).step_by(2)
    }

    #[test]
    fn the_advice_for_a_refusal_has_every_cause() {
        let Advice { action, .. } = of(ErrorReason::Unauthorized);
        for detail in [
            "h.io refuses us without credentials: status 401",
            "h.io refuses us with its credentials: status 404 (DENIED)",
            "h.io refuses us without the credentials, which its realm must not see: status 401",
            "h.io names the realm auth.example.org, which is less than https",
            "auth.example.org is at an address that is not public; if it belongs to the registry, add its network to registries.*.allow",
            "h.io redirects and redirects",
            "h.io redirects to cdn.example.org, and from https to less",
            "\"auth.example.org\" would be asked by http",
            "ECR gives no token: AccessDeniedException",
            "login.example.org gives no token: status 400 Bad Request",
            "h.io refuses us with its credentials: status 412 (PROJECTPOLICYVIOLATION)",
        ] {
            assert!(quoted(action).any(|it| detail.contains(it)), "{detail}");
        }
    }

    #[test]
    fn the_advice_for_a_refusal_quotes_what_details_have() {
        let client = [
            include_str!("../../../functions/registry/src/session.rs"),
            include_str!("../../../functions/registry/src/http.rs"),
            include_str!("../../../functions/registry/src/grant.rs"),
            include_str!("../../../functions/registry/src/problem.rs"),
        ]
        .concat();
        let Advice { action, .. } = of(ErrorReason::Unauthorized);
        for text in quoted(action).filter(|it| *it != "{}") {
            assert!(client.contains(text), "{text}");
        }
    }

    #[test]
    fn the_runbook_has_a_section_for_every_reason_with_this_advice() {
        let runbook = include_str!("../../../docs/operating.md");
        let reasons = ErrorReason::ALL.iter().map(|it| it.as_str());
        for reason in reasons.chain([UNKNOWN]) {
            let heading = format!("\n### `{reason}`\n");
            let (_, rest) = runbook
                .split_once(&heading)
                .unwrap_or_else(|| panic!("docs/operating.md has no section {reason}"));
            let section = flat(rest.split("\n##").next().unwrap());
            let Advice { meaning, action } = advice(reason);
            for text in [meaning, action] {
                assert!(
                    section.contains(&flat(text)),
                    "docs/operating.md, {reason}: {text}\n{section}"
                );
            }
            assert!(
                section.contains("How to see it"),
                "docs/operating.md, {reason}"
            );
        }
    }
}
