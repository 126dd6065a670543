//! A referee for any backend of the sync protocol: it talks HTTP, knows the protocol, and never looks inside.
//!
//! | what | where |
//! |---|---|
//! | what the suite is told about a backend | [`profile`] |
//! | the backend: tokens, fresh users, pace | [`subject`] |
//! | one question and its levels | [`check`] |
//! | all questions, by area | [`checks`] |
//! | what the protocol states | [`statements`] |
//! | running them | [`run`] |
//! | many users and devices at once | [`load`] |
//! | real devices, with the feature `replica` | `replica` |
//! | what is said in the end | [`report`] |

mod calls;
pub mod check;
pub mod checks;
mod device;
mod hashing;
pub mod init;
pub mod json;
pub mod lab;
pub mod load;
pub mod profile;
mod property;
mod random;
#[cfg(feature = "replica")]
mod replica;
mod reply;
pub mod report;
mod rows;
pub mod run;
pub mod statements;
pub mod subject;
