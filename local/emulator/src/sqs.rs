//! A durable SQS for one machine: the store, its AWS JSON 1.0 endpoint, and a look inside.
//!
//! In reading order: `file` opens and checks the database; `time` is what messages age by; `store` is the writer thread everything goes through; `attributes`,
//! `queues`, `message`, `messages`, `receive`, `retention` and `tasks` are what SQS does, on one connection and at one instant;
//! `protocol` and `operations` speak AWS's wire format; `client` is an SDK's way there without a socket; `inspect` looks without touching.
//!
//! **Invariant**: what was acknowledged is on disk; a process killed at any moment loses no answered change.

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

pub use error::{Code, Error};
pub use expiry::{DeadLetter, Expiry};
pub use file::OpenError;
pub use inspect::{Depth, Filter, Page};
pub use peeked::{Peeked, State};
pub use protocol::Endpoint;
pub use store::Store;

/// The account that owns every queue here.
pub const ACCOUNT: &str = "000000000000";

/// The region of every queue, unless the store is opened in another.
pub const REGION: &str = "us-east-1";

/// Tells the ARN of the queue `name`.
pub fn queue_arn(region: &str, name: &str) -> String {
    format!("arn:aws:sqs:{region}:{ACCOUNT}:{name}")
}

/// Tells the URL of the queue `name` on the endpoint at `base`, such as `http://127.0.0.1:9324`.
pub fn queue_url(base: &str, name: &str) -> String {
    format!("{base}/{ACCOUNT}/{name}")
}

/// Makes an id that is unique and shaped as AWS's are.
pub(crate) fn unique_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
