//! The values and pure functions of the flow: from one delivery of a registry to one verdict.
//!
//! In reading order: [`source`] (who may send), [`delivery`], [`auth`] and [`oidc`] (one HTTP request, verified),
//! [`kinds`] (one file per registry: its wire format), [`event`] (what was pushed), [`select`] (what of it is
//! scanned), [`message`] (what is queued), [`manifest`] (what the registry has under that name), [`choice`] and [`target`] (what of it is
//! scanned), [`tools`] (what is run, and what came of it), [`report`], [`verdict`] and [`failure`] (how that is put),
//! [`retry`] (when it is tried again), [`record`] (what is kept of it), [`history`] (what of that is asked for).
//! [`image`], [`login`], [`redact`], [`ecr`], [`platform`], [`media_type`], [`time`] and [`trace`] are used throughout.
//!
//! **Invariant**: no async runtime, AWS crate, clock, randomness, environment or other I/O. Times and ids come in
//! as arguments.

pub mod auth;
pub mod choice;
pub mod delivery;
pub mod ecr;
pub mod event;
pub mod failure;
pub mod history;
pub mod image;
pub mod kinds;
pub mod login;
pub mod manifest;
pub mod media_type;
pub mod message;
pub mod oidc;
pub mod platform;
pub mod record;
pub mod redact;
pub mod report;
pub mod retry;
pub mod select;
pub mod source;
pub mod target;
pub mod time;
pub mod tools;
pub mod trace;
pub mod verdict;
mod wire;
