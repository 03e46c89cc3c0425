//! From a message in the queue to a verdict: each record of a batch is claimed, scanned by the Sysdig CLI, judged and
//! recorded.
//!
//! In reading order: [`config`] (what a scanner is made of), [`invocation`] (what the function is asked for), [`batch`] (the handler, the same under Lambda, `serve` and
//! `work`), [`queue`] (what it says to SQS), [`ledger`] and [`dynamodb`] (what it remembers), [`cli`] (how it runs the CLI),
//! [`doctor`] (what it can find out about all of that).
//!
//! **Invariant**: a record is only ever deleted from the queue after its verdict was reached, or after it lies in the
//! dead-letter queue with its reason.

pub mod batch;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod dynamodb;
pub mod invocation;
pub mod ledger;
pub mod queue;
