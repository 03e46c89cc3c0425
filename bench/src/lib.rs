//! What the measurements are made on: [`payloads`] of the size that registries send.

pub mod payloads;
