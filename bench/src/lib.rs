//! What the measurements are made on, [`payloads`] of the size that registries send, and with: [`callgrind`].

pub mod callgrind;
pub mod payloads;
