//! The table of behaviours. The last component of the repository selects one.

use crate::actions::{self, Action, NETWORK, UNAUTHORIZED};
use crate::report::Shape;

/// Something that the real CLI does, or that a broken one could do.
#[derive(Debug)]
pub struct Behaviour {
    /// The last component of the repository that selects it.
    pub name: &'static str,
    pub ends: Ends,
    /// A short description, for the README.
    pub about: &'static str,
    pub(crate) act: Act,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ends {
    /// With this exit code.
    Code(u8),
    /// With 3 the first time, and with 0 when the same image is scanned again.
    Second,
    /// By a SIGKILL of its own.
    Killed,
    /// Not within an hour; its last line on stderr is then [`STILL_SCANNING`].
    Never,
}

pub use crate::actions::STILL_SCANNING;

/// What a behaviour does that the others don't.
#[derive(Debug)]
pub(crate) enum Act {
    /// Prints this at that stage, and stops.
    Stops(Stage, &'static str),
    /// Does this while it loads the image; then reports like `pass`.
    Does(Action),
    /// Writes a report of this shape.
    Reports(Shape),
}

/// The stages at which a run can stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stage {
    Database,
    Image,
}

/// Every behaviour. The first is also the behaviour of all other names.
pub fn all() -> &'static [Behaviour] {
    ALL
}

/// The behaviour of an image whose repository ends in this name.
pub(crate) fn of(name: &str) -> &'static Behaviour {
    ALL.iter().find(|it| it.name == name).unwrap_or(&PASS)
}

#[rustfmt::skip] // A table reads by its rows.
const ALL: &[Behaviour] = &[
    // Verdicts.
    PASS,
    reports("pass-clean", 0, Shape::Clean, "passes, without findings"),
    reports("pass-despite-failed-policy", 0, Shape::FailedPolicyAccepted, "a policy failed, the global evaluation passed"),
    reports("accepted", 0, Shape::Accepted, "fails a policy, the risk is accepted"),
    reports("no-policy", 0, Shape::NoPolicy, "no policy is evaluated: noPolicy"),
    reports("policies-absent", 0, Shape::PoliciesAbsent, "no policy is evaluated: the report has no policies"),
    reports("policies-null", 0, Shape::PoliciesNull, "no policy is evaluated: policies is null"),
    reports("fail", 1, Shape::Failed, "fails a policy"),
    // Errors of the backend.
    stops("bad-token", 3, Stage::Database, "the backend refuses the token",
        "Unable to retrieve MainDB: unexpected status 401 Unauthorized. Exiting now"),
    stops("wrong-region", 3, Stage::Database, "the token is of another region; the output has no 401",
        "Unable to retrieve MainDB ... Exiting now"),
    does("database-stale", Ends::Code(0), actions::spoil_stale_database,
        "spoils a database that an earlier run fetched, and exits with 3; passes with one that it fetched itself"),
    // Errors of the registry.
    stops("not-found", 3, Stage::Image, "the registry has no such manifest",
        "unable to retrieve image {image}: GET {manifest}: MANIFEST_UNKNOWN: manifest unknown"),
    stops("registry-401", 3, Stage::Image, "the registry refuses the credentials",
        UNAUTHORIZED),
    does("registry-login", Ends::Code(0), actions::want_login,
        "passes with REGISTRY_USER=robot and REGISTRY_PASSWORD=fake-registry-password, else as registry-401"),
    stops("registry-denied", 3, Stage::Image, "the credentials may not pull this repository",
        "unable to retrieve image {image}: GET {manifest}: DENIED: requested access to the resource is denied"),
    stops("rate-limited", 3, Stage::Image, "the registry's rate limit is exceeded",
        "unable to retrieve image {image}: GET {manifest}: TOOMANYREQUESTS: You have reached your pull rate limit; status code 429 Too Many Requests"),
    stops("unsupported", 3, Stage::Image, "the manifest has Docker's schema 1",
        "unable to retrieve image {image}: unsupported MediaType: \"application/vnd.docker.distribution.manifest.v1+prettyjws\" (schema1)"),
    stops("no-platform", 3, Stage::Image, "the index has no image for this platform",
        "unable to retrieve image {image}: no child with platform linux/amd64 in index {host}/{repository}"),
    stops("untrusted-tls", 3, Stage::Image, "the registry's certificate is signed by an unknown CA",
        "unable to retrieve image {image}: Get \"https://{host}/v2/\": tls: failed to verify certificate: x509: certificate signed by unknown authority"),
    stops("network", 3, Stage::Image, "the registry does not answer",
        NETWORK),
    stops("network-5xx", 3, Stage::Image, "the registry answers 503",
        "unable to retrieve image {image}: GET {manifest}: unexpected status code 503 Service Unavailable"),
    does("flaky", Ends::Second, actions::fail_once,
        "network at the first scan of an image (per database directory), then pass"),
    // Other errors.
    stops("no-space", 3, Stage::Image, "reports a full disk",
        "unable to retrieve image {image}: write /tmp/layer-1/data: no space left on device"),
    does("fill-disk", Ends::Code(3), actions::fill_disk,
        "writes 64 MB to TMPDIR, leaves the file, and reports a full disk"),
    stops("unknown-error", 3, Stage::Image, "an unknown error",
        "unable to analyze image {image}: analyzer stopped: internal inconsistency"),
    stops("digits-in-digest", 3, Stage::Image, "an unknown error amid numbers that look like status codes",
        "unable to analyze layer sha256:4014034044295005025035044014034044295005025035044014034044295005: analyzer stopped after 401 of 404 files (429 ms, 503 bytes, pid 500): internal inconsistency"),
    stops("toomanyrequests-denied-eof", 3, Stage::Image, "an unknown error of an image whose name contains the words of other errors",
        "unable to analyze image {image}: analyzer stopped: internal inconsistency"),
    does("prints-token", Ends::Code(3), actions::print_token, "prints the token, with an unknown error"),
    stops("exit-2", 2, Stage::Image, "wrong parameters",
        "invalid argument for flag `--policy': no such policy"),
    stops("go-panic", 2, Stage::Image, "the Go runtime panics, which also exits with 2",
        "panic: runtime error: invalid memory address or nil pointer dereference\n[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x401404]\n\ngoroutine 1 [running]:\nmain.main()"),
    stops("exit-42", 42, Stage::Image, "an unknown exit code",
        "unexpected end of the analysis"),
    // Processes.
    does("slow", Ends::Code(0), actions::be_slow, "takes 300 ms, with progress, and passes"),
    does("hang", Ends::Never, actions::hang, "hangs; ends on SIGTERM"),
    does("hang-ignoring-term", Ends::Never, actions::hang_ignoring_term, "hangs; only SIGKILL ends it"),
    does("grandchild", Ends::Code(0), actions::leave_grandchild,
        "passes, and leaves a process that holds stdout and stderr open"),
    does("grandchild-hang", Ends::Never, actions::hang_with_grandchild,
        "hangs, with a child that ignores SIGTERM and holds stdout and stderr open"),
    does("killed", Ends::Killed, actions::kill_self, "is killed, as by the kernel when memory runs out"),
    // Broken reports.
    reports("truncated", 0, Shape::Truncated, "half a report"),
    reports("no-report", 0, Shape::Missing, "exit 0 without a report"),
    reports("no-report-fail", 1, Shape::Missing, "exit 1 without a report"),
    reports("empty-report", 0, Shape::Empty, "an empty report"),
    reports("not-json", 0, Shape::NotJson, "a report in HTML"),
    reports("older-schema", 0, Shape::Older, "a report of schema v1beta3"),
    reports("huge-report", 0, Shape::Huge, "a well-formed report of 65 MiB"),
    // Wrong reports.
    reports("contradiction-pass", 0, Shape::Failed, "exit 0, but the report is failed"),
    reports("contradiction-fail", 1, Shape::Passed, "exit 1, but the report is passed"),
    reports("unknown-evaluation", 0, Shape::Maybe, "the global evaluation is none of the known ones"),
    reports("other-repository", 0, Shape::OtherRepository, "the pull string names another repository"),
    reports("other-digest", 0, Shape::OtherDigest, "digest and image id are another image's"),
    reports("index-digest", 0, Shape::IndexDigest,
        "the digest is another one and there is no image id: identity unconfirmed"),
    reports("no-digest", 0, Shape::NoDigest, "no digest, as for an image never pushed: identity unconfirmed"),
    reports("empty-digest", 0, Shape::EmptyDigest, "digest and image id are empty: identity unconfirmed"),
    // Output and traces.
    does("huge-stderr", Ends::Code(0), actions::flood_stderr, "100 MB on stderr, then passes"),
    does("huge-stdout", Ends::Code(0), actions::flood_stdout, "100 MB on stdout, then passes"),
    does("leftovers", Ends::Code(0), actions::leave_files,
        "passes, and leaves files in the working directory, TMPDIR and HOME"),
    does("prints-env", Ends::Code(0), actions::print_environment,
        "prints its arguments and environment to stderr, then passes"),
];

const PASS: Behaviour = reports(
    "pass",
    0,
    Shape::Passed,
    "passes, with findings below critical; so does every other name",
);

const fn reports(name: &'static str, code: u8, shape: Shape, about: &'static str) -> Behaviour {
    Behaviour {
        name,
        ends: Ends::Code(code),
        about,
        act: Act::Reports(shape),
    }
}

const fn stops(
    name: &'static str,
    code: u8,
    stage: Stage,
    about: &'static str,
    words: &'static str,
) -> Behaviour {
    Behaviour {
        name,
        ends: Ends::Code(code),
        about,
        act: Act::Stops(stage, words),
    }
}

const fn does(name: &'static str, ends: Ends, action: Action, about: &'static str) -> Behaviour {
    Behaviour {
        name,
        ends,
        about,
        act: Act::Does(action),
    }
}
