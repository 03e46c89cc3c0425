//! From a message in the queue to a verdict: each record of a batch is claimed, scanned by the Sysdig CLI, judged and
//! recorded.
//!
//! In reading order: [`lambda`] and [`invocation`] (the function, and what it is asked for), [`scanner`] (what records are worked on
//! with), [`config`] (what the configuration says of it), [`batch`] (the handler, the same under Lambda, `serve` and `work`),
//! [`queue`] (what it says to SQS), [`ledger`] and [`dynamodb`] (what it remembers), [`cli`] (how it runs the CLI), [`program`] (where
//! that is) and [`secret_places`] (what that must not read), [`doctor`] (what it can find out about all of that).
//!
//! **Invariant**: a record is only ever deleted from the queue after its verdict was reached, or after it is in the
//! dead-letter queue with its reason.

pub mod batch;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod dynamodb;
pub mod invocation;
pub mod lambda;
pub mod ledger;
pub mod program;
pub mod queue;
pub mod scanner;
pub mod secret_places;
