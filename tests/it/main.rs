//! Rules about the workspace, and about more than one crate.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that fails should stop where it fails"
)]

mod cycles;
mod documents;
mod reference;
mod reports;
mod workspace;
