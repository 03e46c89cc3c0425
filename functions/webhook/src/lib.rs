//! The webhook function: one delivery in, its images in the queue, one answer out.
//!
//! In reading order: [`router`] (the order of work), [`credentials`] (what verifies a delivery,
//! and how it is kept up to date), [`rate`] (how many are taken), [`rejection`] (what a sender is told when it is refused), [`queue`]
//! (how messages are sent, and for how long it is tried), [`config`] (how all of it is put together).
//!
//! **Invariant**: nothing of a delivery is parsed, queued or logged before it is verified, except the name of its source.
//! A 202 is given only after SQS has acknowledged every message of the delivery.

pub mod config;
pub mod credentials;
mod measure;
pub mod queue;
pub mod rate;
pub mod rejection;
pub mod router;
