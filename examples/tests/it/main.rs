//! The examples, run as a newcomer runs them.

mod input;
mod order;
mod programs;
mod soak;

use std::process::{Command, Output};

/// Runs a program to its end.
fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

/// What a program printed, which ended well.
fn printed(program: &str, arguments: &[&str]) -> String {
    let out = run(program, arguments);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}\n{text}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    text
}

const QUICKSTART: &str = env!("CARGO_BIN_EXE_quickstart");
