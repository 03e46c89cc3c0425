//! A faithful corner of AWS for one machine, without Docker and without an account.
//!
//! In reading order: [`clock`] is the time everything else runs on; [`sqs`] is a durable queue store and the endpoint
//! that AWS SDKs talk to; [`mapping`] receives from a queue and hands batches to a function, as Lambda's event source
//! mapping does; [`apigw`] turns an HTTP request into an API Gateway event and an answer back; [`listener`] is
//! the HTTP server before both; [`faults`] breaks things on purpose; [`cause`] says why a file can't be used.
//!
//! **Invariant**: no type of scanhook is known here, and nothing but [`clock`] reads the time.

pub mod apigw;
pub mod cause;
pub mod clock;
pub mod faults;
pub mod listener;
pub mod mapping;
pub mod sqs;
