//! Under construction.
pub mod limits;
pub mod service;
