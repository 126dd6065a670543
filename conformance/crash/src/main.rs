//! Two client processes, a server process, and `kill -9` of any of them in every phase:
//! `cargo run -p sync-crash` after `cargo build -p sync-client -p sync-server`.
//!
//! A kill counts only where it lands in its phase with work in flight. The run prints kills by phase
//! and process, and fails on a phase with too few of them, on a write that the app was told is done and that is nowhere, and
//! on anything that happened twice.

mod check;
mod model;
mod phases;
mod process;
mod random;
mod shell;
mod tally;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use crate::process::Programs;
use crate::tally::Tally;
use crate::world::World;

/// Any failure ends the run.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Rounds of random kills where no number is given.
const ROUNDS: u32 = 150;
/// Kills in each phase where no number is given.
const KILLS: usize = 10;

/// Kills the processes of a sync in every phase, and checks that nothing is lost.
#[derive(Debug, Parser)]
#[command(name = "sync-crash", max_term_width = 100)]
struct Args {
    /// The server program; beside this one where it is not given.
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// The client program; beside this one where it is not given.
    #[arg(long, value_name = "PATH")]
    client: Option<PathBuf>,
    /// Kills in each named phase, with work in flight; fewer are a failure.
    #[arg(long, value_name = "N", default_value_t = KILLS)]
    kills: usize,
    /// Kills in all, with work in flight; fewer are a failure.
    #[arg(long, value_name = "N", default_value_t = 0)]
    in_all: usize,
    /// Rounds of random kills.
    #[arg(long, value_name = "N", default_value_t = ROUNDS)]
    rounds: u32,
    /// What the random kills are drawn from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Leave the named phases out, to try many seeds.
    #[arg(long)]
    no_phases: bool,
}

fn main() -> ExitCode {
    let mut tally = Tally::default();
    let args = Args::parse();
    let outcome = run(&args, &mut tally);
    println!("\n{}", tally.table());
    // Of a run that was cut short, only the reason is of use.
    let mut wrong = if outcome.is_ok() { tally.missing(args.least(), args.in_all) } else { Vec::new() };
    wrong.extend(outcome.err().map(|e| e.to_string()));
    for text in &wrong {
        eprintln!("sync-crash: {text}");
    }
    if !wrong.is_empty() {
        return ExitCode::FAILURE;
    }
    println!("{} kills, nothing lost, nothing twice.", tally.landed());
    ExitCode::SUCCESS
}

impl Args {
    fn least(&self) -> usize {
        if self.no_phases { 0 } else { self.kills }
    }
}

fn run(args: &Args, tally: &mut Tally) -> Outcome<()> {
    let programs = Programs {
        server: found(args.server.as_ref(), "sync-server")?,
        client: found(args.client.as_ref(), "sync-client")?,
    };
    if !args.no_phases {
        let begun = Instant::now();
        let mut writes = 0;
        for turn in 0..args.kills {
            // A new world each time: what is checked after each kill grows with its history.
            let mut world = World::new(programs.clone())?;
            phases::run(&mut world, tally, turn % 2).map_err(|e| format!("turn {}: {e}", turn + 1))?;
            phases::seeding(&programs, tally).map_err(|e| format!("turn {}: {e}", turn + 1))?;
            writes += world.model.acknowledged();
        }
        println!("phases: {} turns, {writes} writes, {:.0?}", args.kills, begun.elapsed());
    }
    let begun = Instant::now();
    let mut world = World::new(programs.clone())?;
    random::run(&mut world, tally, args.rounds, args.seed)?;
    println!(
        "random kills, seed {}: {} rounds, {} writes, {:.0?}",
        args.seed,
        args.rounds,
        world.model.acknowledged(),
        begun.elapsed()
    );
    let begun = Instant::now();
    let mut world = World::new(programs)?;
    let done = shell::run(&mut world)?;
    match done {
        Some((done, bundles)) => println!(
            "sqlite3 shell: {done} statements done, all on both devices, in {bundles} bundles, {:.0?}",
            begun.elapsed()
        ),
        None => println!("sqlite3 shell: not installed, skipped"),
    }
    Ok(())
}

fn found(given: Option<&PathBuf>, name: &str) -> Outcome<PathBuf> {
    let path = match given {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX)),
    };
    // A relative path means this directory, not that of the programs.
    path.canonicalize()
        .map_err(|e| format!("{}: {e}; build it, or name it with --{}", path.display(), &name[5..]).into())
}
