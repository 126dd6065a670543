//! Finds what loses, wedges or diverges: real clients, the real service, real SQLite files, in one thread
//! on a virtual clock and a seeded, faulty network (ARCHITECTURE.md, "The simulator").
//!
//! A seed makes a plan, a plan makes a run, and a run that breaks an invariant is shrunk to a plan that a
//! person can read and replay.

mod accounts;
pub mod app;
mod apps;
mod check;
pub mod cover;
mod device;
pub mod dice;
pub mod generate;
mod helpers;
mod history;
mod hooks;
mod june;
mod ledger;
mod model;
pub mod mutants;
mod observe;
pub mod plan;
mod power;
mod rules;
pub mod run;
mod server;
mod verbs;
mod way;
mod wire;
mod world;

pub use world::Violation;
