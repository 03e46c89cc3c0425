//! Hosts a function outside Lambda. `serve` and `work` use it in production.
//!
//! In reading order: [`clock`] is the time source; [`mapping`] receives from a queue and invokes a function with batches, as Lambda's
//! event source mapping does; [`listener`] is an HTTP server that strangers can reach.
//!
//! **Invariant**: the crate uses no type of scanhook, and only [`clock`] reads the time.

pub mod clock;
pub mod listener;
pub mod mapping;
