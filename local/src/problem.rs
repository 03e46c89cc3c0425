//! Why a part of a server fails.

use scanhook_emulator::cause::Cause;

/// Why a part fails.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    /// Safe to show to strangers.
    pub(crate) cause: Cause,
    /// Only for the log.
    pub(crate) text: String,
}

impl Problem {
    pub(crate) fn new(cause: Cause, err: impl Into<anyhow::Error>) -> Self {
        Self {
            cause,
            text: format!("{:#}", err.into()),
        }
    }

    pub(crate) fn unavailable(err: impl Into<anyhow::Error>) -> Self {
        Self::new(Cause::Unavailable, err)
    }
}
