//! Programs that run, what they say, and how they end. Every wait is for something that is said, with
//! a bound that only a fault reaches.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::Outcome;

/// Longer than anything here takes; reaching it is a failure of the run.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) server: PathBuf,
    pub(crate) client: PathBuf,
}

impl Programs {
    /// The client program, in a directory.
    pub(crate) fn client(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.current_dir(dir).args(args).env_remove("SYNC_TOKEN").env_remove("SYNC_CLIENT_FAULT");
        command
    }
}

/// A line, and whether it came on stdout.
struct Line {
    out: bool,
    text: String,
}

/// A running program. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<Line>,
    heard: Vec<Line>,
    name: String,
}

/// How a program ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Process {
    pub(crate) fn start(name: impl Into<String>, command: &mut Command) -> Outcome<Self> {
        let name = name.into();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("{name} does not start: {e}"))?;
        let (sender, lines) = channel();
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            follow(out, true, sender.clone());
            follow(err, false, sender);
        }
        Ok(Self { child, lines, heard: Vec::new(), name })
    }

    /// The next line that has `mark` in it.
    pub(crate) fn wait_for(&mut self, mark: &str) -> Outcome<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = line.text.contains(mark).then(|| line.text.clone());
                    self.heard.push(line);
                    if let Some(found) = found {
                        return Ok(found);
                    }
                }
                Err(e) => {
                    let why = if e == RecvTimeoutError::Timeout { "does not say" } else { "ended without saying" };
                    return Err(format!("{} {why} \"{mark}\":\n{}", self.name, self.said()).into());
                }
            }
        }
    }

    /// Takes up to `n` further lines, as long as they come before `within` has passed.
    pub(crate) fn hear(&mut self, n: usize, within: Duration) {
        let until = Instant::now() + within;
        for _ in 0..n {
            let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) else { return };
            self.heard.push(line);
        }
    }

    /// Waits for the end.
    pub(crate) fn end(mut self) -> Outcome<Ended> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.heard.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{} does not end:\n{}", self.name, self.said()).into());
                }
            }
        }
        let code = self.child.wait()?.code();
        Ok(Ended { code, stdout: self.text(true), stderr: self.text(false) })
    }

    /// `kill -9`. Whether it was running until then.
    pub(crate) fn kill(&mut self) -> Outcome<bool> {
        let running = self.child.try_wait()?.is_none();
        self.child.kill()?;
        self.child.wait()?;
        Ok(running)
    }

    fn text(&self, out: bool) -> String {
        self.heard.iter().filter(|l| l.out == out).map(|l| format!("{}\n", l.text)).collect()
    }

    fn said(&self) -> String {
        self.heard.iter().map(|l| format!("  {}\n", l.text)).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a program to its end, which must be exit code 0.
pub(crate) fn run(name: &str, command: &mut Command) -> Outcome<String> {
    let ended = Process::start(name, command)?.end()?;
    if ended.code == Some(0) {
        return Ok(ended.stdout);
    }
    Err(format!("{name} ended with {:?}:\n{}{}", ended.code, ended.stdout, ended.stderr).into())
}

fn follow(stream: impl Read + Send + 'static, out: bool, to: Sender<Line>) {
    std::thread::spawn(move || {
        for text in BufReader::new(stream).lines().map_while(Result::ok) {
            if to.send(Line { out, text }).is_err() {
                return;
            }
        }
    });
}
