//! What `serve` and `work` share: hosting the functions on one machine.
//!
//! In reading order: [`data_dir`] (the state), [`queues`] (the messages), [`scanning`] (the scanner behind its event source mapping)
//! with [`breaker`], [`sockets`] and [`front`] (listeners), [`operations`] and [`metrics`] (readiness and metrics), [`signals`]
//! (shutdown).

pub(crate) mod breaker;
pub(crate) mod data_dir;
pub(crate) mod front;
mod metrics;
pub(crate) mod operations;
pub(crate) mod queues;
pub(crate) mod scanning;
pub(crate) mod signals;
pub(crate) mod sockets;
