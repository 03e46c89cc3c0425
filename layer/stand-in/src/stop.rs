//! Why a run stops before its report.

use std::io;

/// The exit code of a run that stops early, and its last line on stderr.
#[derive(Debug, PartialEq)]
pub(crate) struct Stop {
    pub(crate) code: u8,
    pub(crate) words: String,
}

impl Stop {
    /// Wrong parameters.
    pub(crate) fn usage(words: impl Into<String>) -> Self {
        Self {
            code: 2,
            words: words.into(),
        }
    }

    /// Any other failure.
    pub(crate) fn error(words: impl Into<String>) -> Self {
        Self {
            code: 3,
            words: words.into(),
        }
    }
}

impl From<io::Error> for Stop {
    fn from(err: io::Error) -> Self {
        Self::error(err.to_string())
    }
}
