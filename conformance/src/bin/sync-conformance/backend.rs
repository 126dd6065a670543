//! What `run` and `load` ask for alike: which backend, whose users, how fast.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use sync_conformance::profile::Profile;
use sync_conformance::report::Heading;
use sync_conformance::subject::Subject;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Debug, Args)]
pub(crate) struct Backend {
    /// The backend; may carry a path.
    #[arg(long, value_name = "URL")]
    url: String,
    /// How to get tokens, and which tables there are.
    #[arg(long, value_name = "FILE")]
    profile: PathBuf,
    /// Part of the users' names; another run needs another. Chosen by the clock where absent.
    #[arg(long, value_name = "TEXT")]
    run_id: Option<String>,
    /// Seed of what is chosen at random; chosen by the clock where absent.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Requests per second in all, in place of the profile's; 0 for no bound.
    #[arg(long, value_name = "N")]
    requests_per_second: Option<u32>,
}

/// A backend that answers, and when the run began.
pub(crate) struct Run {
    pub(crate) subject: Subject,
    at: jiff::Timestamp,
    begun: Instant,
}

impl Backend {
    /// Reads the profile and asks the backend for its capabilities.
    pub(crate) fn open(&self, patience: Duration) -> Result<Run> {
        let file = self.profile.display();
        let text = std::fs::read_to_string(&self.profile).map_err(|e| format!("cannot read {file}: {e}"))?;
        let mut profile = Profile::parse(&text).map_err(|e| format!("{file}: {e}"))?;
        if let Some(rate) = self.requests_per_second {
            profile.requests_per_second = rate;
        }
        let (at, begun) = (jiff::Timestamp::now(), Instant::now());
        let run_id = self.run_id.clone().unwrap_or_else(|| format!("{:x}", at.as_millisecond()));
        let mut subject = Subject::open(&self.url, profile, &run_id, patience)?;
        subject.seed = self.seed.unwrap_or_else(|| at.as_millisecond().unsigned_abs());
        Ok(Run { subject, at, begun })
    }
}

impl Run {
    /// What reports say of the run.
    pub(crate) fn heading(&self) -> Result<Heading> {
        Ok(Heading {
            backend: self.subject.profile.name.clone(),
            url: self.subject.base.clone(),
            at: jiff::Timestamp::from_second(self.at.as_second())?.to_string(),
            seconds: self.begun.elapsed().as_secs_f64(),
            users: self.subject.users(),
        })
    }
}

/// Writes a report.
pub(crate) fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|e| format!("cannot write {}: {e}", file.display()).into())
}
