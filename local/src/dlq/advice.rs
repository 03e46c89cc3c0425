//! What each reason means and what to do about it. `docs/operating.md` repeats this table; a test compares the two.

use scanhook_core::failure::ErrorReason;

/// The meaning of a reason, and what an operator should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Advice {
    pub(crate) meaning: &'static str,
    pub(crate) action: &'static str,
}

/// The advice for a dead letter with this reason.
pub(crate) fn advice(reason: &str) -> Advice {
    reason.parse().map_or(WITHOUT_REASON, of)
}

const WITHOUT_REASON: Advice = Advice {
    meaning: "SQS gave the message up: the scanner ended before it could write a reason (memory limit, time limit or \
              crash), or the message isn't a scan of scanhook.",
    action: "Search the scanner's log for the scan's id. If the scanner was killed, raise its memory or timeout. Then \
             redrive a few before all.",
};

#[expect(clippy::too_many_lines, reason = "a table: a row for each reason")]
fn of(reason: ErrorReason) -> Advice {
    let (meaning, action) = match reason {
        ErrorReason::BadMessage => (
            "The message can't be read: it isn't JSON of a version that this scanner knows. Or it names a registry that \
             is neither its source's `registry` nor one of its `hosts`; the detail contains both.",
            "Find out who else sends to the queue. A message of a newer version needs a newer scanner: deploy it, then \
             redrive. If the source's registry was renamed, add the old name to its `hosts` and redrive. Otherwise \
             export the dead letter, then delete it.",
        ),
        ErrorReason::BadParameters => (
            "The Sysdig CLI refused its arguments: something in the configuration doesn't fit the CLI's version.",
            "Read the detail. Compare scanner.api_url and the names of the policies with Sysdig, and the CLI's version \
             with layer/sysdig-cli.lock. Then redrive.",
        ),
        ErrorReason::BadToken => (
            "Sysdig refused the API token, and reading it again returned the same token.",
            "Renew scanner.api_token; its region must be that of scanner.api_url. `scanhook check` resolves it. Then \
             redrive with this reason.",
        ),
        ErrorReason::ClaimedElsewhere => (
            "On every attempt, another worker held the claim on the same content.",
            "Check with `scanhook scans list` whether the content has a verdict now. If it has, delete the dead letter; \
             if not, redrive. A claim ends at its worker's deadline.",
        ),
        ErrorReason::Database => (
            "The CLI couldn't download Sysdig's vulnerability database.",
            "Check that the scanner can reach scanner.api_url and that Sysdig is up. A token of another region also \
             causes this. Then redrive at a low rate.",
        ),
        ErrorReason::Expired => (
            "The message was in the queue of `scanhook serve` for longer than the retention of four days: it was never \
             scanned, or its retries didn't end in time.",
            "Find out why scans waited: `serve` ran with --no-scan, Sysdig's backend was down, or images were pushed \
             faster than they are scanned. Then redrive: the images haven't been scanned yet.",
        ),
        ErrorReason::ImageNotFound => (
            "The registry doesn't have the image: it was deleted, its tag was moved before the scan, or images are \
             pulled by another name.",
            "Pull the image by hand. If it is gone, delete the dead letter. If the registry has it under another host or \
             repository, correct the source's registry or repo_key and push again; the name in the message can't be \
             changed.",
        ),
        ErrorReason::Internal => (
            "A bug in scanhook: the scan panicked, or its scratch space failed.",
            "Search the log for the scan's id and report the bug with the lines around it. Then redrive.",
        ),
        ErrorReason::Network => (
            "The registry or Sysdig couldn't be reached, or answered with a server error.",
            "Check that the scanner reaches both: DNS, routes, proxy, firewall. If the detail contains a status, the \
             server answered: see the registry's log. Then redrive at a low rate.",
        ),
        ErrorReason::NoReport => (
            "The CLI exited with success but left no readable report, three times. scanhook never treats that as a pass.",
            "Check whether the scratch space is full, then run the CLI by hand on the image. Redrive a single dead \
             letter first.",
        ),
        ErrorReason::NoSpace => (
            "The scratch space is too small for the image, even when no other scan uses it.",
            "Give the scanner more space (ephemeral storage in Lambda, the data directory's disk elsewhere), or lower \
             scanner.concurrency. Then redrive.",
        ),
        ErrorReason::OutOfMemory => (
            "The CLI was killed three times, most likely for lack of memory.",
            "Give the scanner more memory, or lower scanner.concurrency. Then redrive.",
        ),
        ErrorReason::PlatformMissing => (
            "The image's index has no image for a platform that the source requires.",
            "List the pushed platforms with `skopeo inspect --raw`. Correct the source's platforms, or build and push \
             the missing one; a redrive alone doesn't help.",
        ),
        ErrorReason::RateLimited => (
            "The registry or Sysdig asked for a pause that outlasted all attempts.",
            "Use credentials for the registry (anonymous limits are low), lower scanner.concurrency, and redrive at a \
             low rate.",
        ),
        ErrorReason::ReportMismatch => (
            "The report is about another image, or contradicts the CLI's exit code, so there is no verdict. scanhook \
             never treats that as a pass.",
            "Check whether the tag moved during the scan; if so, redrive with --force. If the mismatch remains, run the \
             CLI by hand and send its report to Sysdig.",
        ),
        ErrorReason::ScannerError => (
            "The CLI failed in a way that has no reason of its own yet; the detail is the end of its output.",
            "Read the detail and run the CLI by hand on the image. Redrive a single dead letter first. Report an error \
             that recurs, so that it gets its own reason.",
        ),
        ErrorReason::Timeout => (
            "The scan exceeded scanner.timeout, three times.",
            "Check the size of the image. Raise scanner.timeout, or run `scanhook work` for scans longer than Lambda's \
             15 minutes. Then redrive.",
        ),
        ErrorReason::TooLarge => (
            "The image's layers exceed scanner.max_image, so it wasn't pulled.",
            "Raise scanner.max_image, and with it the scanner's scratch space, memory and timeout; then redrive. Or \
             exclude the repository in its source and delete the dead letter.",
        ),
        ErrorReason::Unauthorized => (
            "The registry refused the pull, or redirected to a place that scanhook doesn't follow. Reading the \
             credentials again returned the same ones.",
            "Read the detail, and find the cause that it names:\n\
             - `without credentials`: the registry requires credentials, and registries has none for its host. Add them.\n\
             - `with its credentials`: they are wrong, expired or revoked, or may not pull this repository. Renew them, \
             or grant the permission.\n\
             - `which its realm must not see`: the registry's token server is on another host, so scanhook withheld the \
             credentials. Add an entry for that host to registries; `{}` is enough.\n\
             - `less than https`: the registry names a token server by http. Correct the registry's public URL.\n\
             - `not public`: the token server or a redirect leads to a private address. Add its network to \
             registries.<host>.allow of the registry, or add an entry for its host to registries.\n\
             - `redirects`, `would be asked by`: the registry redirects in circles or to another scheme. Correct its \
             public URL, or insecure in that host's entry.\n\
             - `gives no token`: the role, key or service principal of the credentials was refused. Check that it exists \
             and may pull.\n\
             - `PROJECTPOLICYVIOLATION`: Harbor's deployment security blocks the image. Switch it off for the project, \
             or exclude the project in its source and delete the dead letter.\n\
             - Any other text is from the CLI: it was refused where scanhook wasn't. Pull the image by hand with the \
             same credentials.\n\
             Then redrive with this reason.",
        ),
        ErrorReason::UnknownSource => (
            "The message names a source that isn't in the scanner's configuration.",
            "Give webhook and scanner the same configuration, or restore the source. Keep the old name of a renamed \
             source until its messages are scanned. Then redrive.",
        ),
        ErrorReason::UnsupportedImage => (
            "The image can't be scanned: its manifest is of Docker's schema 1 or of a type that the CLI doesn't know, an \
             entry of the index isn't understood, or the index exceeds scanhook's limits.",
            "Read the detail. Push an image of schema 1 again with a current client; split an index that exceeds a \
             limit. If such artifacts are pushed on purpose, exclude their repository or tags in the source and delete \
             the dead letters. A redrive doesn't help.",
        ),
        ErrorReason::UntrustedTls => (
            "The certificate of the registry or of Sysdig isn't trusted.",
            "For a registry, add the issuing CA to registries.<host>.ca; for Sysdig, add it to the scanner's trust \
             store. Or correct the certificate's name or date. Then redrive.",
        ),
    };
    Advice { meaning, action }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::dlq::UNKNOWN;

    /// Ignores where the document breaks its lines.
    fn flat(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The parts of details that the advice quotes.
    fn quoted(text: &str) -> impl Iterator<Item = &str> {
        text.split('`').skip(1).step_by(2)
    }

    #[test]
    fn the_advice_for_unauthorized_covers_every_cause() {
        let Advice { action, .. } = of(ErrorReason::Unauthorized);
        for detail in [
            "h.io refuses us without credentials: status 401",
            "h.io refuses us with its credentials: status 404 (DENIED)",
            "h.io refuses us without the credentials, which its realm must not see: status 401",
            "h.io names the realm auth.example.org, which is less than https",
            "auth.example.org is at an address that is not public; if it belongs to the registry, add its network to registries.*.allow",
            "h.io redirects too often",
            "h.io redirects from https to http://cdn.example.org",
            "\"auth.example.org\" would be asked by http",
            "ECR gives no token: AccessDeniedException",
            "login.example.org gives no token: status 400 Bad Request",
            "h.io refuses us with its credentials: status 412 (PROJECTPOLICYVIOLATION)",
        ] {
            assert!(quoted(action).any(|it| detail.contains(it)), "{detail}");
        }
    }

    #[test]
    fn the_advice_for_unauthorized_quotes_words_of_the_client() {
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
