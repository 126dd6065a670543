//! The processes of the benchmark: a server, and a device that does one verb and says what it cost.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use sync_client::Client;
use sync_server::auth::DevAuth;
use sync_server::limits::Limits;
use sync_server::service::{Service, ServiceConfig};
use sync_server::{Server, SystemEnvironment, router};

use crate::{Outcome, floor};

/// What a device's verb cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) ms: f64,
    /// Peak memory of the process.
    pub(crate) peak_kb: u64,
    /// The longest that another connection waited for the file's write lock.
    pub(crate) lock_ms: f64,
}

/// Runs a role that [`device`] or [`ServerProcess`] asked for.
pub(crate) fn run(args: &[&str]) -> Outcome<()> {
    match args {
        ["server", data] => serve(Path::new(data)),
        ["device", "follow", file, url] => follow(Path::new(file), url),
        ["device", verb, file, url] => {
            println!("{}", serde_json::to_string(&verb_cost(verb, Path::new(file), url)?)?);
            Ok(())
        }
        _ => Err("unknown role".into()),
    }
}

fn serve(data: &Path) -> Outcome<()> {
    let config = ServiceConfig {
        data_dir: data.to_owned(),
        schema_sql: floor::SCHEMA.into(),
        rules_sql: None,
        wire_schema: "main".into(),
        app_name: "bench".into(),
        limits: Limits::default(),
    };
    let server =
        Server::start("127.0.0.1:0", router(Service::open(config, Arc::new(SystemEnvironment::default()))?, DevAuth))?;
    println!("{}", server.url());
    std::io::stdout().flush()?;
    for line in std::io::stdin().lock().lines() {
        if line? == "peak" {
            println!("{}", peak_kb());
            std::io::stdout().flush()?;
        }
    }
    server.stop()?;
    Ok(())
}

/// Syncs in the background until its input ends.
fn follow(file: &Path, url: &str) -> Outcome<()> {
    let client = open(file, url)?;
    client.start()?;
    println!("following");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    client.stop();
    Ok(())
}

fn open(file: &Path, url: &str) -> Outcome<Client> {
    Ok(Client::builder(file).server(url).token(|_| Ok("bench".into())).all_tables().open()?)
}

fn verb_cost(verb: &str, file: &Path, url: &str) -> Outcome<Cost> {
    let client = open(file, url)?;
    let probe = Probe::start(file)?;
    let begun = Instant::now();
    let known = match verb {
        "sync" => client.sync().map(|_| true)?,
        "pull" => client.pull().map(|_| true)?,
        "rebuild" => client.rebuild().map(|_| true)?,
        "attach" => client.attach().map(|_| true)?,
        _ => false,
    };
    if !known {
        return Err("unknown verb".into());
    }
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    Ok(Cost { ms, peak_kb: peak_kb(), lock_ms: probe.stop() })
}

/// Takes the write lock again and again, as an app would, and keeps the longest wait.
struct Probe {
    done: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Duration>,
}

impl Probe {
    fn start(file: &Path) -> Outcome<Self> {
        let conn = Connection::open(file)?;
        conn.busy_timeout(Duration::from_secs(120))?;
        let done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                if conn.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok() {
                    longest = longest.max(begun.elapsed());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            longest
        });
        Ok(Self { done, thread })
    }

    fn stop(self) -> f64 {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().map_or(0.0, |d| d.as_secs_f64() * 1e3)
    }
}

/// `VmHWM` of this process, in KiB; 0 where the system does not say.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// A server in a process of its own.
pub(crate) struct ServerProcess {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    pub(crate) url: String,
}

impl ServerProcess {
    pub(crate) fn start(data: &Path) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["role", "server"])
            .arg(data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut out = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut url = String::new();
        out.read_line(&mut url)?;
        Ok(Self { child, out, url: url.trim().to_owned() })
    }

    pub(crate) fn peak_kb(&mut self) -> Outcome<u64> {
        writeln!(self.child.stdin.as_mut().ok_or("no stdin")?, "peak")?;
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Does one verb in a process of its own.
pub(crate) fn device(verb: &str, file: &Path, url: &str) -> Outcome<Cost> {
    let out = Command::new(std::env::current_exe()?)
        .args(["role", "device", verb])
        .arg(file)
        .arg(url)
        .stderr(Stdio::inherit())
        .output()?;
    if !out.status.success() {
        return Err(format!("{verb} of {} failed", file.display()).into());
    }
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// A device that syncs in the background until it is dropped.
pub(crate) struct Follower(Child);

impl Follower {
    pub(crate) fn start(file: &PathBuf, url: &str) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["role", "device", "follow"])
            .arg(file)
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut out = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        out.read_line(&mut String::new())?;
        Ok(Self(child))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}
