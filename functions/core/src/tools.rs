//! The programs that scan, one file each: what is run, what its report contains, and what its end means.
//!
//! **Invariant**: a verdict is only ever made from a readable report that agrees with the exit code. Everything else is an
//! error, and never clean. Secrets are only in a plan's environment, never among its arguments.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use crate::failure::{ErrorReason, ScanError};
use crate::image::Image;
use crate::login::RegistryLogin;
use crate::redact::Redactor;
use crate::report::Report;
use crate::target::Target;
use crate::verdict::Judged;

pub mod sysdig;

/// A program that scans.
pub struct Tool {
    /// The word for it in configuration and metrics.
    pub name: &'static str,
    /// Its own name, for people.
    pub title: &'static str,
    /// The file name of its program, by which it is found in `PATH`.
    pub program: &'static str,
    /// Plans a run.
    pub plan: fn(&ScanInputs, &RunDirectories<'_>) -> Plan,
    /// Judges a run that ended by itself with this exit code.
    pub judge_code: fn(&Subject<'_>, i32, Run) -> Result<Judged, Problem>,
    /// What the names of its rows in `docs/assumptions.md` begin with.
    pub assumptions: &'static str,
    /// What to do where its program is missing, for people.
    pub setup: &'static str,
}

/// Why a run has no verdict, and what an operator reads.
pub type Problem = (ErrorReason, String);

/// What a scan needs, whatever the tool; each takes what it knows of.
pub struct ScanInputs {
    pub image: Image,
    /// The service behind the tool, if it has one.
    pub backend: Option<Backend>,
    /// The policies to evaluate besides those that always apply.
    pub policies: Vec<String>,
    /// How to log in to the image's registry; else anonymously.
    pub login: Option<RegistryLogin>,
    /// All certificates to trust, in PEM; `None`: the system's.
    pub certificates: Option<Arc<str>>,
}

/// A service that a tool asks.
pub struct Backend {
    pub url: String,
    pub token: SecretString,
}

impl ScanInputs {
    /// Every secret of the run, to be removed from whatever the tool prints and reports.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let token = self.backend.iter().map(|it| &it.token);
        let password = self.login.iter().map(|it| &it.password);
        token.chain(password).map(ExposeSecret::expose_secret)
    }
}

/// Where a run may write.
pub struct RunDirectories<'a> {
    /// Of this run only: home, working directory and report, with `tmp` and `cache` in it.
    pub scan: &'a Path,
    /// What the tool keeps between runs; no other run uses it at the same time.
    pub database: &'a Path,
}

/// A run, as values.
pub struct Plan {
    pub arguments: Vec<OsString>,
    /// Besides what every run is given: `HOME`, `TMPDIR`, and the variables that are inherited.
    pub environment: Vec<(&'static str, OsString)>,
    /// What must be written before it starts.
    pub files: Vec<(PathBuf, Arc<str>)>,
    pub report: ExpectedReport,
}

/// The report of a run.
pub struct ExpectedReport {
    pub path: PathBuf,
    /// Whether this exit code promises one.
    pub is_promised_by: fn(i32) -> bool,
    /// Reads it without the secrets that are known.
    pub read: fn(&[u8], &Redactor) -> Result<Report, String>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// By ours, because its time was up.
    Deadline,
}

/// A run that ended.
#[derive(Debug)]
pub struct Run {
    pub exit: Exit,
    /// Its report, or what is wrong with it; only read after the exit codes that promise one.
    pub report: Result<Report, String>,
    /// The end of what it printed, redacted: of its stderr, or of its stdout if that is all there is.
    pub printed: String,
}

/// What a run was to scan.
pub struct Subject<'a> {
    pub image: &'a Image,
    /// What is known of its content.
    pub target: Option<&'a Target>,
}

const SIGKILL: i32 = 9;

impl Tool {
    /// Judges a run for `image` on this receive of its message. `target` is what the registry said about the image, if it
    /// was asked.
    pub fn judge(
        &self,
        image: &Image,
        target: Option<&Target>,
        run: Run,
        receive_count: u32,
    ) -> Result<Judged, ScanError> {
        let pinned = image.pin.digest().map(|it| Target::new(image, it.clone()));
        let subject = Subject {
            image,
            target: target.or(pinned.as_ref()),
        };
        let judged = match run.exit {
            Exit::Code(code) => (self.judge_code)(&subject, code, run),
            Exit::Deadline => Err((
                ErrorReason::Timeout,
                "the CLI was ended at its deadline".to_owned(),
            )),
            Exit::Signal(SIGKILL) => Err((
                ErrorReason::OutOfMemory,
                "the CLI was killed, most likely for its memory".to_owned(),
            )),
            Exit::Signal(signal) => Err((
                ErrorReason::ScannerError,
                format!("the CLI was ended by signal {signal}"),
            )),
        };
        judged.map_err(|(reason, detail)| ScanError {
            reason,
            class: reason.class(receive_count),
            detail,
        })
    }
}
