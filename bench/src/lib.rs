//! For benchmarks: [`payloads`] of the size that registries send, and the tools [`callgrind`] and a lean [`http`].

pub mod callgrind;
pub mod http;
pub mod payloads;
