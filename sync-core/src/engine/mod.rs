//! Every decision that the protocol asks for, as pure functions: no clock, no randomness, no I/O.
//!
//! The client's: [`change`], [`settle`], [`backoff`]. The server's: admission, conflicts, effects,
//! windows, snapshots, retention.

pub mod backoff;
pub mod change;
pub mod settle;
