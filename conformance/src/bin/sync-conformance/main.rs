//! The program: `run`, `list`, `init`, `load`.

mod backend;
mod judge;
mod load;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use sync_conformance::profile::Profile;
use sync_conformance::subject::Subject;
use sync_conformance::{checks, init, report};

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
    Run(judge::Run),
    /// Print the checks: id, level, what is asked.
    List(List),
    /// Print a first profile, from a backend's capabilities.
    Init(Init),
    /// Put a load on a backend: throughput, latencies, and whether the protocol holds meanwhile. Exit
    /// status: 0 nothing violated, 1 something was, 2 could not run or could not compare.
    Load(load::Load),
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
        Command::Run(options) => judge::judge(&options),
        Command::List(options) => list(&options),
        Command::Init(options) => first_profile(&options),
        Command::Load(options) => load::load(&options),
    };
    result.unwrap_or_else(|e| {
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(std::io::stderr(), "sync-conformance: {e}");
        ExitCode::from(2)
    })
}

type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

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
