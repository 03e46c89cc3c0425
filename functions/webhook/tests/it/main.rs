//! The webhook as its senders see it: a request in, an answer and a queue out.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that fails should stop where it fails"
)]

mod connections;
mod counting;
mod credentials;
mod hostile;
mod metrics;
mod process;
mod pushes;
mod queue;
mod request;
mod rotation;
mod sharing;
mod store;
mod tokens;
mod world;
