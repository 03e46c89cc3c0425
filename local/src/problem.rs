//! Why something that a server needs does not work.

use scanhook_emulator::cause::Cause;

/// Why a part fails.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    /// For everybody.
    pub(crate) cause: Cause,
    /// For the log alone.
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
