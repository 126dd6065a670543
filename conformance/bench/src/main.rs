//! What syncing costs: `cargo run --release -p sync-bench`. Real HTTP on loopback, file-backed,
//! a process each for server and devices; every figure also as a ratio to a floor of the same run.
//!
//! `--quick` runs one round of small counts, for CI; `--write` keeps the result in the tree.

mod floor;
mod measure;
mod report;
mod roles;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["role", rest @ ..] => roles::run(rest),
        flags if flags.iter().all(|f| ["--quick", "--write", "--no-million"].contains(f)) => {
            let plan = measure::Plan::new(flags.contains(&"--quick"), !flags.contains(&"--no-million"));
            measure::run(&plan).and_then(|r| report::print(&r, flags.contains(&"--write")))
        }
        _ => {
            eprintln!("usage: sync-bench [--quick] [--no-million] [--write]");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sync-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Any failure ends the run.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
