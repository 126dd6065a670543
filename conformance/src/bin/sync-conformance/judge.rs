//! `run`: the checks.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use sync_conformance::checks;
use sync_conformance::report::{self, Heading};
use sync_conformance::run::{self, Finding, Options, Verdict};

use crate::Outcome;
use crate::backend::Backend;

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    backend: Backend,
    /// Only these checks: ids, or beginnings of ids (`push.commit`).
    #[arg(long, value_name = "ID", num_args = 1..)]
    filter: Vec<String>,
    /// Leave out what waits or sends much.
    #[arg(long)]
    quick: bool,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as `JUnit` XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the report as one HTML page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Seconds to wait for a lease or a session to run out.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    patience: u64,
    /// Checks at a time.
    #[arg(long, value_name = "N", default_value_t = 8)]
    threads: usize,
    /// Fail also for should, may and inconclusive.
    #[arg(long)]
    strict: bool,
}

pub(crate) fn judge(options: &Run) -> Outcome {
    let chosen = Options { filter: options.filter.clone(), quick: options.quick, threads: options.threads };
    let total = chosen.choose().len();
    if total == 0 && !checks::REPLICA && options.filter.iter().all(|f| f.starts_with("replica")) {
        return Err("this program was built without real devices: cargo install with --features replica".into());
    }
    if total == 0 {
        return Err("no check has such an id; `sync-conformance list` shows them".into());
    }
    let backend = options.backend.open(Duration::from_secs(options.patience))?;
    let progress = Progress::new(total);
    let findings = run::run(&backend.subject, &chosen, &|f| progress.heard(f));
    progress.end();
    let heading = backend.heading()?;
    std::io::stdout().write_all(report::terminal::report(&heading, &findings).as_bytes())?;
    type Write = fn(&Heading, &[Finding]) -> String;
    let files: [(_, Write); 3] = [
        (&options.json, report::json::report),
        (&options.junit, report::junit::report),
        (&options.html, report::html::report),
    ];
    for (file, write) in files {
        if let Some(file) = file {
            crate::backend::write(file, &write(&heading, &findings))?;
        }
    }
    Ok(if run::conforms(&findings, options.strict) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// A line that says how far the run is; only where somebody looks.
struct Progress {
    done: std::sync::Mutex<(usize, usize)>,
    total: usize,
    shown: bool,
}

impl Progress {
    fn new(total: usize) -> Self {
        Self { done: std::sync::Mutex::new((0, 0)), total, shown: std::io::stderr().is_terminal() }
    }

    fn heard(&self, f: &Finding) {
        let mut done = self.done.lock().expect("invariant: no panic while the count is held");
        done.0 += 1;
        done.1 += usize::from(matches!(f.verdict, Verdict::Fail { .. }));
        if self.shown {
            // A closed stderr leaves nobody to tell.
            let _ = write!(std::io::stderr(), "\r{} of {}, {} failed  {:<48}", done.0, self.total, done.1, f.check.id);
        }
    }

    fn end(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r{:<80}\r", "");
        }
    }
}
