//! Hosts a function outside Lambda: what `serve` and `work` run in production.
//!
//! In reading order: [`clock`] is the time everything else runs on; [`mapping`] receives from a queue and hands batches to a
//! function, as Lambda's event source mapping does; [`listener`] is the HTTP server of a process that strangers can reach.
//!
//! **Invariant**: no type of scanhook is known here, and nothing but [`clock`] reads the time.

pub mod clock;
pub mod listener;
pub mod mapping;
