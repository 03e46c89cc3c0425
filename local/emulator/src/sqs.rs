//! A durable SQS for one machine: the store, its AWS JSON 1.0 endpoint, and read-only inspection.
//!
//! In reading order: `file` opens and checks the database; `time` is the clock by which messages age; `store` is the
//! writer thread that runs every operation; `attributes`, `queues`, `message`, `messages`, `receive`, `retention` and
//! `tasks` implement SQS on one connection at one instant; `protocol` and `operations` implement AWS's wire format;
//! `client` connects an SDK to the endpoint without a socket; `inspect` reads without changing anything.
//!
//! **Invariant**: an acknowledged change is on disk; a process killed at any moment loses none.

mod attributes;
mod batch;
mod client;
mod digest;
mod error;
mod expiry;
mod file;
mod inspect;
mod message;
mod messages;
mod operations;
mod peeked;
mod protocol;
mod queue;
mod queues;
mod receipt;
mod receive;
mod retention;
mod store;
mod tasks;
mod time;

pub use client::{Recorder, client_settings, in_process};
pub use error::{Code, Error};
pub use expiry::{DeadLetter, Expiry};
pub use file::OpenError;
pub use inspect::{Depth, Filter, Page};
pub use peeked::{Peeked, State};
pub use protocol::Endpoint;
pub use store::Store;

/// The account that owns every queue.
pub const ACCOUNT: &str = "000000000000";

/// The region of every queue, unless the store is opened for another one.
pub const REGION: &str = "us-east-1";

/// Returns the ARN of the queue `name`.
pub fn queue_arn(region: &str, name: &str) -> String {
    format!("arn:aws:sqs:{region}:{ACCOUNT}:{name}")
}

/// Returns the URL of the queue `name` on the endpoint at `base`, such as `http://127.0.0.1:9324`.
pub fn queue_url(base: &str, name: &str) -> String {
    format!("{base}/{ACCOUNT}/{name}")
}

/// Makes a unique id in AWS's format.
pub(crate) fn unique_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
