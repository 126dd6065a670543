//! Syncs an app's own SQLite file. The app keeps writing plain SQL, online or not; this carries the
//! changes to a server of the sync protocol and to the user's other devices.
//!
//! ```no_run
//! use sync_client::Client;
//! let client = Client::builder("app.db")
//!     .server("https://sync.example.org")
//!     .token(|_| Ok("a bearer token".into()))
//!     .all_tables()
//!     .open()?;
//! let report = client.sync()?;
//! println!("{} rows went out, {} came in", report.push.committed_rows, report.pull.applied_rows);
//! client.start()?; // from here on in the background
//! # Ok::<(), sync_client::Error>(())
//! ```
//!
//! | noun | is |
//! |---|---|
//! | [`Client`] | one file's syncing: the verbs |
//! | [`Policy`] | what happens when a remote row meets a local edit |
//! | [`Question`] | a conflict that waits for the app's answer |
//! | [`Repair`] | whose row is right where a file differs from its server ([`Client::verify`]) |
//! | [`report`] | what the verbs say |
//! | [`transport`] | the port to the network |
//! | [`context`] | time, ids and fault points, as inputs |
//!
//! With the feature `ingest`, `ingest` is another way to a server: records that are sent once, by declared contracts.
#![cfg_attr(doctest, doc = include_str!("../../README.md"))]

mod absent;
mod along;
mod api;
mod apply;
mod aside;
mod asking;
mod attach;
mod budget;
mod builder;
mod calling;
mod changes;
mod client;
mod commits;
mod conflict;
pub mod context;
mod copy;
mod decide;
mod departed;
mod detach;
mod download;
mod earlier;
mod effects;
mod engine;
mod error;
mod evict;
mod export;
mod freeze;
mod give_way;
mod held;
mod held_back;
mod holding;
mod import;
mod inbox;
#[cfg(feature = "ingest")]
pub mod ingest;
mod intermediary;
mod keep;
mod learn;
mod leaving;
mod lineage;
mod listing;
mod locals;
mod lock;
mod moving;
#[doc(hidden)]
pub mod mutant;
mod offered;
mod orphans;
mod own;
mod place;
mod private;
mod pull;
mod push;
mod question;
mod rebuild;
mod rekey;
mod release;
mod renamed;
pub mod report;
mod returned;
mod ring;
mod rounding;
mod same_bundle;
mod search;
mod settle;
mod stage;
mod status;
mod store;
mod subset;
mod ties;
pub mod transport;
mod turn;
mod unattached;
mod undecided;
mod undone;
mod upload;
mod verify;
mod whole;
mod worker;

/// The SQLite bindings of [`Error::Sqlite`] and [`context::Environment::opened`]: their version is this one's.
pub use rusqlite;

pub use api::{TokenRequest, TokenSource};
pub use attach::Attach;
pub use builder::Builder;
pub use client::Client;
pub use conflict::{Asker, Conflict, Policy, Resolution, Resolver, RowValues};
pub use detach::{Detach, Detached, forget};
pub use error::Error;
pub use import::Imported;
pub use listing::{read_inbox, read_inbox_page};
pub use question::Question;
pub use report::*;
pub use status::{inspect, read_pending, read_status};
pub use sync_core::engine::merge::Tie;
pub use sync_core::value::Value;
pub use unattached::{ask_server, fetch_schema, patiently};
pub use undecided::Inbox;
pub use verify::{CompareReport, Difference, Kind, Remedy, Repair, VerifyReport, compare_files};
