//! What hosts the functions on a machine: what `serve` and `work` share.
//!
//! In reading order: [`data_dir`] (where its state is), [`queues`] (where messages are), [`scanning`] (the scanner behind its
//! event source mapping) with [`breaker`], [`sockets`] and [`front`] (how it is reached), [`operations`] and [`metrics`] (what it
//! reports), [`signals`] (how it ends).

pub(crate) mod breaker;
pub(crate) mod data_dir;
pub(crate) mod front;
mod metrics;
pub(crate) mod operations;
pub(crate) mod queues;
pub(crate) mod scanning;
pub(crate) mod signals;
pub(crate) mod sockets;
