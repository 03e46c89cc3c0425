//! The stand-in as an executable, and the scripts of the layer.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests start processes, and fail by panicking"
)]

mod behaviours;
mod cli;
mod command_line;
mod recipe;
mod reports;
