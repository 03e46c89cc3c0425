//! What the CLI is put to, and what came of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use scanhook_core::failure::{ErrorReason, ScanError};
use scanhook_core::image::{Digest, Image, Pin};
use scanhook_core::message::ScanId;
use scanhook_core::tools::{Backend, Exit, ScanInputs};
use scanhook_core::verdict::{Judged, Verdict};
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};

use super::{Check, Images, Outcome, lock};
use crate::cli::{Cli, Measure, Slot};
use crate::config::ScannerSettings;
use scanhook_registry::Registries;

/// How long a question may take that needs no network.
const QUESTION: Duration = Duration::from_secs(10);

/// After this long a run is ended on purpose.
const CUT_SHORT: Duration = Duration::from_secs(2);

/// What Sysdig can't have issued.
const NO_TOKEN: &str = "scanhook-doctor-knows-no-such-token";

/// No manifest has this digest.
const NO_DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// What the stand-in's version ends with.
const STAND_IN: &str = "-stand-in";

/// One run with an image.
pub(super) struct Trial {
    pub(super) exit: Exit,
    pub(super) outcome: Result<Box<Judged>, ScanError>,
    pub(super) took: Duration,
}

impl Trial {
    /// What came of it, in words.
    pub(super) fn in_words(&self) -> String {
        let exit = match self.exit {
            Exit::Code(code) => format!("exit code {code}"),
            Exit::Signal(signal) => format!("signal {signal}"),
            Exit::Deadline => "ended by us".to_owned(),
        };
        let outcome = match &self.outcome {
            Ok(judged) => judged.verdict.as_str().to_owned(),
            Err(err) => err.to_string(),
        };
        format!("{outcome} ({exit}, {:.1} s)", self.took.as_secs_f64())
    }

    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.outcome.as_ref().ok().map(|it| it.verdict)
    }

    pub(super) fn reason(&self) -> Option<ErrorReason> {
        self.outcome.as_ref().err().map(|it| it.reason)
    }
}

/// A run, or why there is none.
pub(super) type Tried = Result<Trial, String>;

/// All runs.
pub(super) struct Observed {
    /// What it says its version is.
    pub(super) version: Result<String, String>,
    /// With an unknown flag.
    pub(super) wrong_parameters: Result<Exit, String>,
    /// Ended early, before any other scan.
    pub(super) cut_short: Tried,
    /// Of the image that passes, with no database yet.
    pub(super) pass: Tried,
    /// How much lay in the database's directory then.
    pub(super) database_bytes: u64,
    /// Of the same image by its digest, with the database of the run before.
    pub(super) again: Tried,
    /// Of the image that fails.
    pub(super) fail: Tried,
    /// Of a digest that the registry does not have.
    pub(super) absent: Tried,
    /// With a token that is none.
    pub(super) wrong_token: Tried,
    /// Whether the registry of the image that passes has certificates of its own.
    pub(super) has_certificates: bool,
    /// Whether that registry is asked in plain HTTP.
    pub(super) is_plain: bool,
    /// Whether the CLI was kept from writing elsewhere than it is assumed to.
    pub(super) is_confined: bool,
}

impl Observed {
    /// Makes all runs, one after the other in one slot, as long as there is time.
    pub(super) async fn make(
        cli: &Cli,
        (settings, registries): (&ScannerSettings, &Registries),
        images: &Images,
        slot: Slot,
        limit: Duration,
    ) -> Self {
        let mut bench = Bench {
            cli,
            settings,
            registries,
            slot,
            end: Instant::now() + limit,
        };
        let version = bench.version().await;
        let wrong_parameters = bench.wrong_parameters().await;
        let cut_short = bench.scan_within(bench.inputs(&images.pass).await, CUT_SHORT);
        let cut_short = cut_short.await;
        let pass = bench.scan(&images.pass).await;
        let database_bytes = size_of(&bench.slot.database());
        let digest = pass.as_ref().ok().and_then(reported_digest);
        let again = match digest {
            Some(digest) => bench.scan(&pinned(&images.pass, digest)).await,
            None => Err("no digest of the image is known".to_owned()),
        };
        let fail = bench.scan(&images.fail).await;
        let absent = match Digest::parse(NO_DIGEST) {
            Ok(digest) => bench.scan(&pinned(&images.pass, digest)).await,
            Err(err) => Err(err.to_string()),
        };
        let wrong_token = ScanInputs {
            backend: Some(Backend {
                url: settings.api_url().to_owned(),
                token: SecretString::from(NO_TOKEN),
            }),
            ..bench.inputs(&images.pass).await
        };
        // In a directory without a database, or the token would not be needed.
        bench.slot.forget_database();
        let wrong_token = bench.scan_within(wrong_token, settings.timeout()).await;
        Self {
            version,
            wrong_parameters,
            cut_short,
            pass,
            database_bytes,
            again,
            fail,
            absent,
            wrong_token,
            has_certificates: registries.certificates(&images.pass.registry).is_some(),
            is_plain: registries.is_plain(&images.pass.registry),
            is_confined: cli.confinement.takes(Measure::Files),
        }
    }

    /// Whether what ran says of itself that it is the stand-in.
    pub(super) fn is_stand_in(&self) -> bool {
        self.version.as_ref().is_ok_and(|it| it.ends_with(STAND_IN))
    }

    /// The runs that used the configured token and an image that should be there.
    fn real_runs(&self) -> impl Iterator<Item = &Trial> {
        [&self.pass, &self.again, &self.fail].into_iter().flatten()
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        vec![
            self.version_check(),
            self.token_check(),
            self.database_check(),
            scanned("pass_image", &self.pass, |it| {
                matches!(
                    it.verdict(),
                    Some(Verdict::Passed | Verdict::PassedWithoutPolicy)
                )
            }),
            scanned("fail_image", &self.fail, |it| {
                it.verdict() == Some(Verdict::Failed)
            }),
            scanned("absent_image", &self.absent, |it| {
                it.reason() == Some(ErrorReason::ImageNotFound)
            }),
            scanned("wrong_token", &self.wrong_token, |it| {
                it.reason() == Some(ErrorReason::BadToken)
            }),
            match &self.wrong_parameters {
                Ok(Exit::Code(2)) => check("wrong_parameters", Outcome::Ok, "exit code 2"),
                Ok(other) => check(
                    "wrong_parameters",
                    Outcome::Failed,
                    format!("{other:?} instead of exit code 2"),
                ),
                Err(err) => check("wrong_parameters", Outcome::NotChecked, err),
            },
        ]
    }

    fn version_check(&self) -> Check {
        let pinned = lock::version();
        match &self.version {
            Ok(version) if version == pinned => check("cli_version", Outcome::Ok, version),
            Ok(version) if self.is_stand_in() => check(
                "cli_version",
                Outcome::Failed,
                format!("{version}: this is the stand-in, which scans nothing"),
            ),
            Ok(version) => check(
                "cli_version",
                Outcome::Failed,
                format!("{version}, but layer/sysdig-cli.lock pins {pinned}"),
            ),
            Err(err) => check("cli_version", Outcome::Failed, err),
        }
    }

    fn token_check(&self) -> Check {
        let mut runs = self.real_runs();
        if runs.any(|it| it.outcome.is_ok()) {
            return check("token", Outcome::Ok, "a scan with it reached its verdict");
        }
        match self
            .real_runs()
            .find(|it| it.reason() == Some(ErrorReason::BadToken))
        {
            Some(refused) => check("token", Outcome::Failed, refused.in_words()),
            None => check("token", Outcome::NotChecked, "no scan came so far"),
        }
    }

    fn database_check(&self) -> Check {
        let refused = self
            .real_runs()
            .find(|it| it.reason() == Some(ErrorReason::Database));
        match (&self.pass, refused) {
            (Ok(pass), _) if pass.outcome.is_ok() => {
                let outcome = if self.database_bytes > 0 {
                    Outcome::Ok
                } else {
                    Outcome::Failed
                };
                let detail = format!("{} bytes lie in --dbpath after a scan", self.database_bytes);
                check("database", outcome, detail)
            }
            (_, Some(refused)) => check("database", Outcome::Failed, refused.in_words()),
            _ => check("database", Outcome::NotChecked, "no scan came so far"),
        }
    }
}

/// What is seen of the program without running it.
pub(super) async fn of_the_program(cli: &Cli) -> Vec<Check> {
    let program = cli.program.clone();
    let path = program.display().to_string();
    let is_executable =
        fs::metadata(&program).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0);
    if !is_executable {
        return vec![
            check(
                "cli_present",
                Outcome::Failed,
                format!("no program at {path}"),
            ),
            check("cli_checksum", Outcome::NotChecked, "there is none"),
        ];
    }
    let sum = tokio::task::spawn_blocking(move || sha256(&program)).await;
    let sum = sum.map_err(io::Error::other).flatten();
    let (outcome, detail) = match (sum, lock::sha256()) {
        (Err(err), _) => (Outcome::Failed, format!("could not read it: {err}")),
        (Ok(sum), Some(pinned)) if sum == pinned => (Outcome::Ok, sum),
        (Ok(sum), Some(pinned)) => (
            Outcome::Failed,
            format!("sha256 is {sum}, layer/sysdig-cli.lock says {pinned}"),
        ),
        (Ok(sum), None) => (
            Outcome::NotChecked,
            format!("sha256 is {sum}; no sum is pinned for this architecture"),
        ),
    };
    vec![
        check("cli_present", Outcome::Ok, path),
        check("cli_checksum", outcome, detail),
    ]
}

fn check(name: &'static str, outcome: Outcome, detail: impl Into<String>) -> Check {
    Check {
        check: name,
        outcome,
        detail: detail.into(),
    }
}

fn scanned(name: &'static str, tried: &Tried, is_expected: impl Fn(&Trial) -> bool) -> Check {
    match tried {
        Ok(trial) if is_expected(trial) => check(name, Outcome::Ok, trial.in_words()),
        Ok(trial) => check(name, Outcome::Failed, trial.in_words()),
        Err(err) => check(name, Outcome::NotChecked, err),
    }
}

/// Where runs are made.
struct Bench<'a> {
    cli: &'a Cli,
    settings: &'a ScannerSettings,
    registries: &'a Registries,
    slot: Slot,
    end: Instant,
}

impl Bench<'_> {
    async fn inputs(&self, image: &Image) -> ScanInputs {
        // An image that can't be pulled without one shows that in its run.
        let login = self.registries.login(&image.registry).await;
        ScanInputs {
            login: login.unwrap_or(None),
            certificates: self.registries.certificates(&image.registry),
            ..self.settings.inputs(image.clone()).await
        }
    }

    async fn scan(&mut self, image: &Image) -> Tried {
        let inputs = self.inputs(image).await;
        self.scan_within(inputs, self.settings.timeout()).await
    }

    async fn scan_within(&mut self, inputs: ScanInputs, limit: Duration) -> Tried {
        let limit = limit.min(self.remaining()?);
        let began = Instant::now();
        let run = self
            .cli
            .run(&inputs, &ScanId::doctor(), &mut self.slot, limit)
            .await
            .map_err(|err| could_not_run(&err))?;
        let took = began.elapsed();
        let exit = run.exit;
        // As on a later receive: what may pass after a push has passed.
        let judged = self.cli.tool.judge(&inputs.image, None, run, 2);
        let outcome = judged.map(Box::new);
        Ok(Trial {
            exit,
            outcome,
            took,
        })
    }

    async fn version(&mut self) -> Result<String, String> {
        let limit = QUESTION.min(self.remaining()?);
        let (exit, printed) = self
            .cli
            .ask(&["--version"], &mut self.slot, limit)
            .await
            .map_err(|err| could_not_run(&err))?;
        version_in(&printed)
            .ok_or_else(|| format!("--version tells no version, but ends with {exit:?}"))
    }

    async fn wrong_parameters(&mut self) -> Result<Exit, String> {
        let limit = QUESTION.min(self.remaining()?);
        let asked = self.cli.ask(
            &["--scanhook-doctor-knows-no-such-flag"],
            &mut self.slot,
            limit,
        );
        let (exit, _) = asked.await.map_err(|err| could_not_run(&err))?;
        Ok(exit)
    }

    fn remaining(&self) -> Result<Duration, String> {
        let remaining = self.end.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            Err("there was no time left".to_owned())
        } else {
            Ok(remaining)
        }
    }
}

fn could_not_run(err: &io::Error) -> String {
    format!("could not run the CLI: {err}")
}

/// The first word that looks like a version.
fn version_in(printed: &str) -> Option<String> {
    let words = printed
        .split_whitespace()
        .map(|it| it.trim_start_matches('v'));
    let is_version = |it: &&str| {
        let numbers = it.split('-').next().unwrap_or_default();
        let mut parts = numbers.split('.');
        parts.clone().count() == 3 && parts.all(|it| it.parse::<u32>().is_ok())
    };
    words.into_iter().find(is_version).map(str::to_owned)
}

fn reported_digest(trial: &Trial) -> Option<Digest> {
    let report = &trial.outcome.as_ref().ok()?.report;
    Digest::parse(report.digest.as_deref()?).ok()
}

/// The image by this digest, with its tag if it has one.
fn pinned(image: &Image, digest: Digest) -> Image {
    let pin = match image.pin.tag() {
        Some(tag) => Pin::TagAndDigest(tag.clone(), digest),
        None => Pin::Digest(digest),
    };
    Image {
        pin,
        ..image.clone()
    }
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut HashWriter(&mut hash))?;
    Ok(hex::encode(hash.finalize()))
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes of all files below a directory; none that can't be read.
fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(it) if it.is_dir() => size_of(&entry.path()),
        Ok(it) => it.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_among_words() {
        for (printed, version) in [
            (
                "Sysdig CLI Scanner 1.22.6-stand-in",
                Some("1.22.6-stand-in"),
            ),
            ("sysdig-cli-scanner version v1.26.1\n", Some("1.26.1")),
            ("1.26.1", Some("1.26.1")),
            ("flag provided but not defined: -version", None),
            ("127.0.0.1 1.2", None),
        ] {
            assert_eq!(version_in(printed).as_deref(), version, "{printed}");
        }
    }
}
