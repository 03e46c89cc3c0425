//! `scanhook.yaml` and the secrets it refers to.
//!
//! In reading order: [`location`] (where the file is), [`config`] (what it says, checked), [`live`] (how a function sees
//! that it changed), [`secrets`] (the values behind references), [`oidc`] (the keys of identity providers), [`cached`] (how all of
//! these are kept and read again), [`aws`] and [`http`] (how secrets are reached), [`mod@file`] (how a file that somebody names is
//! read).
//!
//! **Invariant**: an error of this crate names the key's path and never a value: any value may be a secret that was
//! typed into the wrong place.

pub mod aws;
pub mod cached;
pub mod config;
pub mod file;
pub mod http;
pub mod live;
pub mod location;
pub mod oidc;
pub mod secrets;
mod wire;

/// Reads the time; an argument everywhere, so that tests have their own.
pub type Clock = std::sync::Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;

/// The time of this machine.
#[expect(
    clippy::disallowed_methods,
    reason = "the functions' clock, handed on as a value"
)]
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Reads an environment variable by name; an argument everywhere, so that tests need not change the process.
pub type Environment = std::sync::Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The environment of this process.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the environment is read"
)]
pub fn environment() -> Environment {
    std::sync::Arc::new(|name| std::env::var(name).ok())
}
