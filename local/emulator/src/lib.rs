//! A faithful corner of AWS for one machine, without Docker and without an account.
//!
//! In reading order: [`sqs`] is a durable queue store and the endpoint that AWS SDKs talk to; [`apigw`] turns an HTTP
//! request into an API Gateway event and an answer back; [`faults`] breaks things on purpose; [`cause`] says why a file can't
//! be used.
//!
//! **Invariant**: no type of scanhook is known here, and the time is only read from [`scanhook_worker::clock`].

pub mod apigw;
pub mod cause;
pub mod faults;
pub mod sqs;
