//! The emulator as its callers see it: through an AWS SDK and a socket, with a clock that the test controls.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that fails should stop where it fails"
)]

mod answers;
mod apigw;
mod clock;
mod durability;
mod faults;
mod limits;
mod mapping;
mod model;
mod queues;
mod recorded;
mod refusals;
mod tasks;
mod time;
mod world;
