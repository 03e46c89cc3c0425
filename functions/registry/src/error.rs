//! Why a login could not be made.

use scanhook_core::failure::ErrorReason;

/// Credentials are configured, but no login could be made with them.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub(super) struct LoginError {
    pub(super) reason: ErrorReason,
    pub(super) detail: String,
    /// Whether the secret was refused and could not be read again.
    pub(super) is_unconfirmed: bool,
}
