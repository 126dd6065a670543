//! `sync-simulator`: runs seeds, replays plans.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use serde::Deserialize as _;
use sync_client::mutant::{Mutant, choose};
use sync_simulator::cover::Cover;
use sync_simulator::generate;
use sync_simulator::mutants::find;
use sync_simulator::plan::Plan;
use sync_simulator::run::{operations, run, shrink};

/// Real clients and a real server on a virtual clock and a faulty network.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs so many seeds, or for so many minutes.
    Run {
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// How many.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// Stop after so many minutes.
        #[arg(long)]
        minutes: Option<u64>,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        threads: u64,
        /// So many times the statements where an app is busy.
        #[arg(long, default_value_t = 1)]
        busy: u64,
        /// Go on after a failure.
        #[arg(long)]
        keep_going: bool,
        /// Do not shrink.
        #[arg(long)]
        raw: bool,
    },
    /// Breaks the client on purpose, in one way after the other, and has each noticed.
    Mutants {
        /// Within so many seeds.
        #[arg(long, default_value_t = 150)]
        seeds: u64,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Only these, by name.
        only: Vec<String>,
    },
    /// Runs one seed or one plan again and prints everything that happens.
    Replay {
        /// The seed.
        #[arg(long)]
        seed: Option<u64>,
        /// A file with a plan.
        plan: Option<PathBuf>,
        /// The seed was run with so many times the statements.
        #[arg(long, default_value_t = 1)]
        busy: u64,
        /// Shrink it first.
        #[arg(long)]
        shrink: bool,
        /// With this fault in the client.
        #[arg(long)]
        mutant: Option<String>,
    },
}

fn main() -> ExitCode {
    // What unwinds here is planned; a real panic is reported as a violation.
    std::panic::set_hook(Box::new(|info| {
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            eprintln!("{info}\n{}", std::backtrace::Backtrace::force_capture());
        }
    }));
    match Args::parse().command {
        Command::Run { from, seeds, minutes, threads, busy, keep_going, raw } => {
            many(from, seeds, minutes, threads, busy, keep_going, raw)
        }
        Command::Mutants { seeds, threads, only } => find_mutants(seeds, threads, &only),
        Command::Replay { seed, plan, busy, shrink: smaller, mutant } => {
            choose(mutant.and_then(|name| Mutant::ALL.iter().copied().find(|m| name == format!("{m:?}"))));
            let plan = match (seed, plan) {
                (Some(seed), _) => generate::busy_plan(seed, busy),
                (None, Some(file)) => match read_plan(&file) {
                    Ok(plan) => plan,
                    Err(e) => {
                        eprintln!("{}: {e}", file.display());
                        return ExitCode::from(2);
                    }
                },
                (None, None) => {
                    eprintln!("give a file with a plan, or --seed");
                    return ExitCode::from(2);
                }
            };
            let broken = if smaller { run(&plan, false).violation } else { None };
            let plan = broken.map_or_else(|| plan.clone(), |v| shrink(&plan, v.invariant, TRIES));
            match run(&plan, true).violation {
                None => ExitCode::SUCCESS,
                Some(v) => {
                    println!("{}: {}\n{}", v.invariant, v.message, serde_json::to_string(&plan).unwrap_or_default());
                    ExitCode::FAILURE
                }
            }
        }
    }
}

/// A plan as it is printed, or beside its story as it is kept.
fn read_plan(file: &Path) -> std::io::Result<Plan> {
    let read: serde_json::Value = serde_json::from_slice(&std::fs::read(file)?)?;
    Ok(Plan::deserialize(read.get("plan").unwrap_or(&read))?)
}

fn many(from: u64, seeds: u64, minutes: Option<u64>, threads: u64, busy: u64, keep_going: bool, raw: bool) -> ExitCode {
    let begun = Instant::now();
    let next = AtomicU64::new(from);
    let end = if minutes.is_some() { u64::MAX } else { from + seeds };
    let failed = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let cover = Mutex::new(Cover::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let late = minutes.is_some_and(|m| begun.elapsed() > Duration::from_secs(m * 60));
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || late || (failed.load(Ordering::Relaxed) > 0 && !keep_going) {
                        return;
                    }
                    let plan = generate::busy_plan(seed, busy);
                    let outcome = run(&plan, false);
                    done.fetch_add(1, Ordering::Relaxed);
                    cover.lock().expect("counts").add(&outcome.cover);
                    let Some(v) = outcome.violation else { continue };
                    failed.fetch_add(1, Ordering::Relaxed);
                    if raw {
                        println!("seed {seed}: {}: {}", v.invariant, v.message);
                        continue;
                    }
                    let small = shrink(&plan, v.invariant, TRIES);
                    let again = run(&small, false).violation.unwrap_or(v);
                    println!(
                        "seed {seed}: {}: {}\n  {} steps: {}\n  sync-simulator replay --seed {seed} --busy {busy} --shrink",
                        again.invariant,
                        again.message,
                        small.steps.len(),
                        serde_json::to_string(&small).unwrap_or_default()
                    );
                }
            });
        }
    });
    let cover = cover.into_inner().expect("counts");
    print!("{}", cover.table());
    let (done, failed) = (done.into_inner(), failed.into_inner());
    println!(
        "{done} runs, {} operations, {failed} failed, {:.1} runs a second",
        operations(&cover),
        done as f64 / begun.elapsed().as_secs_f64()
    );
    let missing = cover.missing();
    if done >= RUNS_FOR_COVERAGE && !missing.is_empty() {
        println!("never occurred:\n  {}", missing.join("\n  "));
        return ExitCode::FAILURE;
    }
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn find_mutants(seeds: u64, threads: usize, only: &[String]) -> ExitCode {
    let all: Vec<(usize, Mutant)> = (1..)
        .zip(Mutant::ALL.iter().copied())
        .filter(|(_, m)| only.is_empty() || only.contains(&format!("{m:?}")))
        .collect();
    let next = AtomicU64::new(0);
    let rows = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((number, mutant)) = all.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let found = find(*mutant, seeds);
                    rows.lock().expect("rows").insert(*number, (*mutant, found));
                }
            });
        }
    });
    println!("mutant                 seeds  invariant");
    let mut missed = false;
    for (number, (mutant, found)) in rows.into_inner().expect("rows") {
        let name = format!("{mutant:?}");
        match found {
            Some(ref f) => println!("{number:>2}  {name:<17} {:>6}  {}", f.seed, f.violation.invariant),
            None => println!("{number:>2}  {name:<17}      –  not found within {seeds} seeds"),
        }
        missed |= found.is_none();
    }
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// From so many runs on, everything has to occur.
const RUNS_FOR_COVERAGE: u64 = 1000;

/// Runs that shrinking may cost.
const TRIES: u32 = 1500;
