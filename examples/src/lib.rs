//! What the examples share: a server in this process, a proof of equality that trusts neither side,
//! the hops of a row as they are observed, and a little colour.
//!
//! | program | shows |
//! |---|---|
//! | `quickstart` | two devices and a server: every hop of a row, and the proof that all three agree |
//! | `todo` | the smallest real app |
//! | `mount` | the server inside one's own axum application, with one's own authentication |
//! | `merge` | a conflict settled by merging, column by column |

pub mod hops;
pub mod lab;
pub mod proof;
pub mod show;

/// What an example's steps return: the first failure ends the program.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
