//! The result of a command.

/// The result of a command that ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Fine,
    /// The command found a problem, or some of its work failed: exit code 1.
    Findings,
}

/// An error of usage, configuration or environment that prevents a command from starting: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub(crate) struct Unusable(#[source] pub(crate) anyhow::Error);

/// Marks an error as one of usage, configuration or environment.
pub(crate) fn unusable(err: impl Into<anyhow::Error>) -> anyhow::Error {
    Unusable(err.into()).into()
}
