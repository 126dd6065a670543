//! The sync protocol without I/O: wire types, canonical forms, hashes, and every decision it asks for.
//!
//! Rows are typed [`value`]s inside and JSON only at the edge ([`wire`]). The [`engine`] decides as
//! pure functions: time, ids and randomness are inputs. With the feature `sqlite`, [`sqlite`] holds
//! what both ends do to a SQLite file: introspect its tables, capture changes, read and write rows.
//!
//! | hop of a row | module |
//! |---|---|
//! | the app's SQL is captured | `sqlite::capture` |
//! | a captured change gets its meaning | [`engine::change`] |
//! | a push is admitted, checked, committed | [`engine::admit`], [`engine::conflict`], [`engine::effects`] |
//! | a pull's window | [`engine::window`] |
//! | a remote row meets a local edit | [`engine::settle`] |
//!
//! With the feature `ingest`, `ingest` holds the other way to a server: records that are sent once, by declared contracts.

pub mod canonical;
pub mod engine;
pub mod hash;
#[cfg(feature = "ingest")]
pub mod ingest;
pub mod json;
pub mod key;
pub mod protocol;
pub mod record;
pub mod schema;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(test)]
mod testing;
pub mod value;
pub mod wire;
