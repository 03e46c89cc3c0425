//! Tests of the program `scanhook`: real processes, real sockets, real signals.
#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests start processes, report what they measured, and stop where they fail"
)]

mod backfill;
mod canary;
mod collector;
mod commands;
mod confined;
mod dlq;
mod faults;
mod flood;
mod kill;
mod operations;
mod page;
mod reference;
mod registry;
mod sample;
mod slow_sqs;
mod starts;
mod stops;
mod surfaces;
mod traces;
mod work;
mod world;
