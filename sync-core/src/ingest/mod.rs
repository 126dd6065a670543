//! Ingest: records that devices send and a server keeps, by declared contracts.
//!
//! One facility for all of them. A [`contract`] is data: a TOML declaration and a JSON Schema for each version. It names
//! the routes, the order of the [`gates`], the record kinds with their ids, scopes and stamps, what is never stored, and
//! what is summed up. Only how replies are written is code ([`statsai`], [`aexy`]). StatsAI's `sync_batch.v1` and Aexy Tracker's
//! event batches are compiled in ([`contract::Contract::of`]).
//!
//! | hop of a batch on a server | module |
//! |---|---|
//! | its bytes become exact JSON | [`exact`] |
//! | version, schema, what is stripped | [`gates`], [`validate`] |
//! | each record is new, updated or a duplicate | [`outcome`] |
//! | or, where records are rejected one by one: each is stored once, a duplicate, or named with a reason | [`records`] |
//! | windows that a request has to fit into; what an enrolled device is told to do | [`rates`], [`config`] |
//! | what its records come to later, where they are a tracker's samples | [`spans`] |
//! | the buckets that it touches are summed up again | [`rollups`] |
//! | the reply | [`statsai`], [`aexy`] |
//!
//! | hop of a record on a producer | module |
//! |---|---|
//! | it is scrubbed, checked and put into batches | [`redaction`], [`batches`] |
//! | a reply acknowledges this very batch, or it does not | [`acks`] |
//! | where a target stands | [`cursors`] |
//!
//! Nothing here knows a clock, a file or a socket: what a batch does is a function of what is stored and of the batch.

pub mod acks;
pub mod aexy;
pub mod batches;
pub mod config;
pub mod contract;
pub mod cursors;
pub mod exact;
pub mod gates;
pub mod outcome;
pub mod pointer;
pub mod rates;
pub mod records;
pub mod redaction;
pub mod rollups;
pub mod spans;
pub mod statsai;
pub mod time;
pub mod validate;
