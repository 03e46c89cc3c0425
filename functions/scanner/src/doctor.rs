//! What only the real CLI, token, network and machine can show: examined by real runs, the same in Lambda and locally.
//!
//! In reading order: `trials` (what is run, and what came of it), `assumptions` (what follows for each row of
//! `docs/assumptions.md`), `host` (the machine).
//!
//! **Invariant**: nothing is called verified that was not seen in this examination, and nothing seen of another program
//! than the Sysdig CLI is reported of it.

use std::io;
use std::path::Path;
use std::time::Duration;

use scanhook_config::Environment;
use scanhook_core::image::Image;
use serde::Serialize;
use strum::IntoStaticStr;

use crate::cli::{Cli, Confinement, Slots};
use crate::config::ScannerSettings;
use scanhook_registry::Registries;

mod assumptions;
mod host;
mod lock;
mod trials;

pub use assumptions::{Assumption, Finding};
pub use host::Host;

/// The images that are scanned: one whose policies pass, and one that fails them.
#[derive(Debug, Clone)]
pub struct Images {
    /// Passes.
    pub pass: Image,
    /// Fails.
    pub fail: Image,
}

impl Images {
    /// An image with nothing in it that could be vulnerable.
    pub const PASS: &'static str = "registry.k8s.io/pause:3.10";
    /// An image with critical vulnerabilities that were fixed years ago.
    pub const FAIL: &'static str = "docker.io/library/alpine:3.10.0";
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Not so, and scans go on without it.
    Warning,
    /// Not so.
    Failed,
    /// Not known, because something else failed first.
    NotChecked,
}

impl Outcome {
    /// The word in output.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, which stays the same.
    pub check: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was seen, without secrets.
    pub detail: String,
}

/// All that was found. Its JSON is what scripts read.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// In the order of the document.
    pub assumptions: Vec<Assumption>,
    /// The machine.
    pub host: Host,
}

impl Diagnosis {
    /// Whether nothing failed and nothing was refuted.
    pub fn is_healthy(&self) -> bool {
        let failed = self.checks.iter().any(|it| it.outcome == Outcome::Failed);
        let refuted = |it: &Assumption| it.finding == Finding::Refuted;
        !failed && !self.assumptions.iter().any(refuted)
    }
}

/// Examines the CLI and the machine with `images`. Runs write below `scratch`, and nothing is left there; no run is begun
/// when `limit` has passed.
pub async fn examine(
    cli: &Cli,
    (settings, registries): (&ScannerSettings, &Registries),
    images: Images,
    scratch: &Path,
    environment: &Environment,
    limit: Duration,
) -> io::Result<Diagnosis> {
    let directory = tempfile::Builder::new()
        .prefix("doctor-")
        .tempdir_in(scratch)?;
    let slots = Slots::open(directory.path(), 1).map_err(io::Error::other)?;
    let host = host::examine(environment, directory.path());
    let mut checks = trials::of_the_program(cli).await;
    checks.push(confined(&cli.confinement));
    let hosts = [
        host::authority(settings.api_url()),
        images.pass.registry.as_str().to_owned(),
        images.fail.registry.as_str().to_owned(),
    ];
    checks.extend(host::reach(hosts).await);
    let observed = trials::Observed::make(
        cli,
        (settings, registries),
        &images,
        slots.lease().await,
        limit,
    )
    .await;
    checks.extend(observed.checks());
    let assumptions = assumptions::conclude(&observed);
    Ok(Diagnosis {
        checks,
        assumptions,
        host,
    })
}

/// What the CLI is kept from on this platform, and what it is not.
fn confined(confinement: &Confinement) -> Check {
    let refused = confinement.refused().iter();
    let refused: Vec<_> = refused
        .map(|(measure, why)| format!("it {}: {why}", measure.danger()))
        .collect();
    let (outcome, detail) = if refused.is_empty() {
        let kept = "an image that takes over the CLI reads no memory, no environment and no file of scanhook, writes to no file but its \
             scan's, and signals no other process";
        (Outcome::Ok, kept.to_owned())
    } else {
        let detail = format!(
            "of an image that takes over the CLI: {}",
            refused.join("; ")
        );
        (Outcome::Warning, detail)
    };
    Check {
        check: "confinement",
        outcome,
        detail,
    }
}
