//! What the measurements are made on, [`payloads`] of the size that registries send, and with: [`callgrind`] and a lean [`http`].

pub mod callgrind;
pub mod http;
pub mod payloads;
