//! Every decision that the protocol asks for, as pure functions: no clock, no randomness, no I/O.
//!
//! The client's: [`alike`], [`change`], [`departure`], [`settle`], [`merge`], [`ties`], [`bisect`], [`schedule`], [`backoff`],
//! [`patience`]. The server's: admission, conflicts, effects, windows, snapshots, retention, budgets. Both: [`digest`].

pub mod admit;
pub mod alike;
pub mod backoff;
pub mod bisect;
pub mod budget;
pub mod change;
pub mod conflict;
pub mod connect;
pub mod departure;
pub mod digest;
pub mod effects;
pub mod merge;
pub mod patience;
pub mod retention;
pub mod schedule;
pub mod settle;
pub mod snapshot;
pub mod ties;
pub mod window;
