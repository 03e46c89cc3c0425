//! The scanner as its callers see it: an event in, an answer out, with a real queue, real processes and the stand-in CLI.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails should stop where it fails"
)]

mod batches;
mod binary;
mod cases;
mod certificates;
mod classification;
mod credentials;
mod doctor;
mod dynamodb;
mod faults;
mod hostile;
mod hostile_cli;
mod ledger;
mod listing;
mod metrics;
mod outcomes;
mod privacy;
mod processes;
mod registry;
mod resolve;
mod runs;
mod space;
mod world;
