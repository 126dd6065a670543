//! The program: `run`, `list`, `init`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use sync_conformance::report::{self, Heading};
use sync_conformance::run::{Finding, Options, Verdict};
use sync_conformance::{checks, init, profile::Profile, run, subject::Subject};

/// Judges a backend of the sync protocol over HTTP.
#[derive(Debug, Parser)]
#[command(name = "sync-conformance", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the checks. Exit status: 0 no must failed, 1 some did, 2 could not run.
    Run(Run),
    /// Print the checks: id, level, what is asked.
    List(List),
    /// Print a first profile, from a backend's capabilities.
    Init(Init),
}

#[derive(Debug, Args)]
struct Run {
    /// The backend; may carry a path.
    #[arg(long, value_name = "URL")]
    url: String,
    /// How to get tokens, and which tables there are.
    #[arg(long, value_name = "FILE")]
    profile: PathBuf,
    /// Only these checks: ids, or beginnings of ids (`push.commit`).
    #[arg(long, value_name = "ID", num_args = 1..)]
    filter: Vec<String>,
    /// Leave out what waits or sends much.
    #[arg(long)]
    quick: bool,
    /// Part of the users' names; another run needs another. Chosen by the clock where absent.
    #[arg(long, value_name = "TEXT")]
    run_id: Option<String>,
    /// Seed of what is chosen at random; chosen by the clock where absent.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
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
    /// Requests per second over all checks, in place of the profile's; 0 for no bound.
    #[arg(long, value_name = "N")]
    requests_per_second: Option<u32>,
    /// Checks at a time.
    #[arg(long, value_name = "N", default_value_t = 8)]
    threads: usize,
    /// Fail also for should, may and inconclusive.
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Args)]
struct List {
    /// As the page CHECKS.md.
    #[arg(long)]
    markdown: bool,
}

#[derive(Debug, Args)]
struct Init {
    /// The backend; may carry a path.
    #[arg(long, value_name = "URL")]
    url: String,
    /// A token of any user.
    #[arg(long, value_name = "TOKEN", default_value = "conformance-init")]
    token: String,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(options) => judge(&options),
        Command::List(options) => list(&options),
        Command::Init(options) => first_profile(&options),
    };
    result.unwrap_or_else(|e| {
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(std::io::stderr(), "sync-conformance: {e}");
        ExitCode::from(2)
    })
}

type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

fn judge(options: &Run) -> Outcome {
    let text = std::fs::read_to_string(&options.profile)
        .map_err(|e| format!("cannot read {}: {e}", options.profile.display()))?;
    let mut profile = Profile::parse(&text).map_err(|e| format!("{}: {e}", options.profile.display()))?;
    if let Some(rate) = options.requests_per_second {
        profile.requests_per_second = rate;
    }
    let begun = Instant::now();
    let now = jiff::Timestamp::now();
    let run_id = options.run_id.clone().unwrap_or_else(|| format!("{:x}", now.as_millisecond()));
    let mut subject = Subject::open(&options.url, profile, &run_id, Duration::from_secs(options.patience))?;
    subject.seed = options.seed.unwrap_or_else(|| now.as_millisecond().unsigned_abs());
    let chosen = Options { filter: options.filter.clone(), quick: options.quick, threads: options.threads };
    let total = chosen.choose().len();
    if total == 0 {
        return Err("no check has such an id; `sync-conformance list` shows them".into());
    }
    let progress = Progress::new(total);
    let findings = run::run(&subject, &chosen, &|f| progress.heard(f));
    progress.end();
    let heading = Heading {
        backend: subject.profile.name.clone(),
        url: subject.base.clone(),
        at: jiff::Timestamp::from_second(now.as_second())?.to_string(),
        seconds: begun.elapsed().as_secs_f64(),
        users: subject.users(),
    };
    std::io::stdout().write_all(report::terminal::report(&heading, &findings).as_bytes())?;
    type Write = fn(&Heading, &[Finding]) -> String;
    let files: [(_, Write); 3] = [
        (&options.json, report::json::report),
        (&options.junit, report::junit::report),
        (&options.html, report::html::report),
    ];
    for (file, write) in files {
        if let Some(file) = file {
            std::fs::write(file, write(&heading, &findings))
                .map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        }
    }
    Ok(if run::conforms(&findings, options.strict) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn list(options: &List) -> Outcome {
    let mut out = std::io::stdout().lock();
    if options.markdown {
        out.write_all(report::markdown::catalogue().as_bytes())?;
    } else {
        for c in checks::all() {
            writeln!(out, "{:<44} {:<7} {}", c.id, c.level.name(), c.about)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn first_profile(options: &Init) -> Outcome {
    let tokens = vec![options.token.clone()];
    let text = format!("name = \"\"\n[token]\nkind = \"list\"\ntokens = {tokens:?}\n");
    let subject = Subject::open(&options.url, Profile::parse(&text)?, "init", Duration::ZERO)?;
    std::io::stdout().write_all(init::profile(&subject.capabilities).as_bytes())?;
    Ok(ExitCode::SUCCESS)
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
