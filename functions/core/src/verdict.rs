//! What is known of an image after a scan, and how sure that is.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::report::Report;

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
