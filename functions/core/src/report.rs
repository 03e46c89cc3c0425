//! What a tool reports of an image.

use serde::{Deserialize, Serialize};

/// What a report says.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The version of the tool that wrote it.
    pub cli_version: Option<String>,
    /// Where people look at it, unless the upload was switched off.
    pub result_url: Option<String>,
    /// The image as the tool was asked for it.
    pub pull_string: Option<String>,
    /// The image's digest, if it has one.
    pub digest: Option<String>,
    /// The digest of its config.
    pub image_id: Option<String>,
    /// The one evaluation that counts.
    pub evaluation: Evaluation,
    /// The names of the policies that were evaluated, in the report's order.
    pub policies_evaluated: Vec<String>,
    /// The names of those that failed, likewise.
    pub policies_failed: Vec<String>,
    /// What was found.
    pub findings: Findings,
}

/// The number of findings by severity, one per vulnerability and package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Findings {
    /// `critical`, as all of them in any case
    pub critical: u64,
    /// `high`
    pub high: u64,
    /// `medium`
    pub medium: u64,
    /// `low`
    pub low: u64,
    /// `negligible`, and every severity without a name of its own here.
    pub negligible: u64,
    /// Those of all severities for which a version with a fix is known.
    pub fixable: u64,
}

/// What came of all policies: the tool's own word, never recomputed from the single policies, since risks may have been
/// accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evaluation {
    Passed,
    Failed,
    /// Nothing was evaluated.
    NoPolicy,
}

impl Evaluation {
    /// For a sentence that starts with "the policies".
    pub fn as_words(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NoPolicy => "were none",
        }
    }
}
