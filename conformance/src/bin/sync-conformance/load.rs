//! `load`: many users and devices at once.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use sync_conformance::load::{self, Mix, Plan};

use crate::Outcome;
use crate::backend::{Backend, write};

#[derive(Debug, Args)]
pub(crate) struct Load {
    #[command(flatten)]
    backend: Backend,
    /// Fresh users.
    #[arg(long, value_name = "N", default_value_t = 4)]
    users: usize,
    /// Devices of each user; each works by itself, as fast as it gets replies.
    #[arg(long, value_name = "N", default_value_t = 2)]
    devices: usize,
    /// Weights of what a device does next.
    #[arg(long, value_name = "MIX", default_value = "push=6,pull=3,snapshot=1")]
    mix: Mix,
    /// Rows of a push.
    #[arg(long, value_name = "N", default_value_t = 10)]
    rows: usize,
    /// Bytes of each row's text.
    #[arg(long, value_name = "N", default_value_t = 100)]
    bytes: usize,
    /// The load ends after so long at the latest ...
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// ... and after exactly so many requests. The comparison at the end takes a few more for each device.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn load(options: &Load) -> Outcome {
    let run = options.backend.open(Duration::ZERO)?;
    let rate = run.subject.profile.requests_per_second;
    if rate > 0 {
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(
            std::io::stderr(),
            "held to {rate} requests per second; --requests-per-second 0 measures what the backend can take"
        );
    }
    let plan = Plan {
        users: options.users,
        devices: options.devices,
        rows: options.rows,
        bytes: options.bytes,
        mix: options.mix,
        time: Duration::from_secs(options.seconds),
        requests: options.requests,
    };
    let outcome = load::run(&run.subject, &plan)?;
    let heading = run.heading()?;
    std::io::stdout().write_all(load::text(&heading, &outcome).as_bytes())?;
    if let Some(file) = &options.json {
        write(file, &load::json(&heading, &outcome))?;
    }
    Ok(ExitCode::from(outcome.status()))
}
