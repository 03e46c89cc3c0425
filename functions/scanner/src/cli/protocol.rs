//! How scanhook and its supervisor understand each other.

/// The name under which this program is a supervisor.
pub(super) const NAME: &str = "scanhook-supervisor";

/// What it is sent to end the CLI gently.
pub(super) const TERMINATE: u8 = b't';

/// The argument for one that only finds out what the platform lets it do.
pub(super) const TRIAL: &str = "--trial";
