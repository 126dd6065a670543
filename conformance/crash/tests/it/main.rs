//! The README's own commands, run as they stand there, and the table of tests.

#[cfg(unix)]
mod readme;
mod table;
