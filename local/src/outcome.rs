//! How a command ends.

/// How a command ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Fine,
    /// Something was found, or something failed.
    Findings,
}

/// An error of usage, configuration or environment that keeps a command from starting: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub(crate) struct Unusable(#[source] pub(crate) anyhow::Error);

/// Marks an error as one of usage, configuration or environment.
pub(crate) fn unusable(err: impl Into<anyhow::Error>) -> anyhow::Error {
    Unusable(err.into()).into()
}
