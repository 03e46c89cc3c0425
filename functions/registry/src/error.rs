//! Why there is no login.

use scanhook_core::failure::ErrorReason;

/// There are credentials, but no login is to be had with them.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub(super) struct LoginError {
    pub(super) reason: ErrorReason,
    pub(super) detail: String,
    /// Whether the secret was refused and could not be read again.
    pub(super) is_unconfirmed: bool,
}
