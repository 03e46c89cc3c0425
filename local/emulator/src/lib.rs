//! A small, faithful part of AWS for one machine; it needs neither Docker nor an account.
//!
//! In reading order: [`sqs`] is a durable queue store with the endpoint that AWS SDKs talk to; [`apigw`] converts HTTP
//! requests to API Gateway events and answers to responses; [`faults`] injects faults; [`cause`] names why a file can't
//! be used.
//!
//! **Invariant**: this crate uses no type of scanhook, and reads the time only from [`scanhook_worker::clock`].

pub mod apigw;
pub mod cause;
pub mod faults;
pub mod sqs;
