//! What a process reports of itself.
//!
//! In reading order: [`logs`] (how a process writes its log), [`traces`] (where its time went), [`metrics`] (what it counts).

mod fields;
pub mod logs;
pub mod metrics;
pub mod traces;
