//! The measures, each against its floor.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use sync_client::Client;

use crate::roles::{Follower, ServerProcess, device};
use crate::{Outcome, floor};

/// How much is measured.
#[derive(Debug)]
pub(crate) struct Plan {
    rows: u32,
    rounds: usize,
    singles: u32,
    edits: u32,
    /// Rows of the small and the large transfer, for growth and memory.
    small: u32,
    large: Option<u32>,
}

impl Plan {
    pub(crate) const fn new(quick: bool, million: bool) -> Self {
        if quick {
            Self { rows: 5_000, rounds: 1, singles: 200, edits: 5, small: 1_000, large: None }
        } else {
            let large = if million { Some(1_000_000) } else { None };
            Self { rows: 100_000, rounds: 5, singles: 2_000, edits: 60, small: 10_000, large }
        }
    }
}

/// One line of the result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Median of the ratios to the floor of the same round.
    pub(crate) ratio: Option<f64>,
    /// The ratio that has to be reached.
    pub(crate) bar: Option<f64>,
}

/// Runs every measure.
pub(crate) fn run(plan: &Plan) -> Outcome<Vec<Figure>> {
    let dir = tempfile::tempdir()?;
    let mut out = Vec::new();
    capture(plan, dir.path(), &mut out)?;
    transfers(plan, dir.path(), &mut out)?;
    latency(plan, dir.path(), &mut out)?;
    if let Some(large) = plan.large {
        growth(plan, large, dir.path(), &mut out)?;
    }
    Ok(out)
}

fn synced(path: &Path, url: &str) -> Outcome<()> {
    drop(Client::builder(path).server(url).token(|_| Ok("bench".into())).all_tables().open()?);
    Ok(())
}

/// The app's own writes, with capture and without.
fn capture(plan: &Plan, dir: &Path, out: &mut Vec<Figure>) -> Outcome<()> {
    const STEPS: [(&str, f64); 4] = [
        ("bulk insert with capture", 2.2),
        ("bulk update with capture", 2.8),
        ("bulk delete with capture", 1.5),
        ("single-row commits with capture", 1.8),
    ];
    let mut series: Vec<Series> = STEPS.iter().map(|_| Series::default()).collect();
    let mut pages = [0.0; 2];
    for round in 0..plan.rounds {
        let mut times: Vec<[Duration; 4]> = Vec::new();
        for captured in [false, true] {
            let path = dir.join(format!("capture-{round}-{captured}.db"));
            let conn = floor::make(&path, false)?;
            if captured {
                synced(&path, "http://127.0.0.1:9")?;
            }
            let insert = floor::insert(&conn, plan.rows, 0)?;
            let update = floor::statement(&conn, "UPDATE items SET done = 1 - done")?;
            let delete = floor::statement(&conn, "DELETE FROM items WHERE changed > 0")?;
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            conn.pragma_update(None, "wal_autocheckpoint", 0)?;
            let singles = floor::singles(&conn, plan.singles)?;
            pages[usize::from(captured)] = wal_pages(&path)? / f64::from(plan.singles);
            times.push([insert, update, delete, singles]);
            drop(conn);
            std::fs::remove_file(&path)?;
        }
        for (i, s) in series.iter_mut().enumerate() {
            s.add(times[1][i], times[0][i]);
        }
    }
    for ((name, bar), s) in STEPS.iter().zip(series) {
        out.push(s.figure(name, Some(*bar)));
    }
    out.push(plain("extra WAL pages per single-row commit", "pages", pages[1] - pages[0]));
    Ok(())
}

/// Frames in the write-ahead log, by its length.
fn wal_pages(path: &Path) -> Outcome<f64> {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    Ok((std::fs::metadata(name)?.len().saturating_sub(32) / (4096 + 24)) as f64)
}

/// What one transfer of `n` rows cost: push, pull, rebuild.
struct Transfer {
    ms: [f64; 3],
    lock_ms: [f64; 3],
    peak_kb: [u64; 3],
    server_kb: u64,
    client_bytes: f64,
    server_bytes: f64,
}

fn transfer(dir: &Path, n: u32) -> Outcome<Transfer> {
    let dir = tempfile::tempdir_in(dir)?;
    let mut server = ServerProcess::start(&dir.path().join("data"))?;
    let file = |name: &str| dir.path().join(format!("{name}.db"));
    for name in ["a", "b", "c"] {
        drop(floor::make(&file(name), false)?);
    }
    let url = server.url.clone();
    for name in ["a", "b"] {
        device("sync", &file(name), &url)?;
    }
    floor::insert(&Connection::open(file("a"))?, n, 0)?;
    let push = device("sync", &file("a"), &url)?;
    let pull = device("pull", &file("b"), &url)?;
    let rebuild = device("attach", &file("c"), &url)?;
    for name in ["a", "b", "c"] {
        let got: u32 = Connection::open(file(name))?.query_row("SELECT count(*) FROM items", [], |r| r.get(0))?;
        if got != n {
            return Err(format!("{name} has {got} rows of {n}").into());
        }
    }
    let server_kb = server.peak_kb()?;
    drop(server);
    let plain_path = file("plain");
    floor::insert(&floor::make(&plain_path, false)?, n, 0)?;
    let plain = used_bytes(&plain_path)?;
    let mut scopes = Vec::new();
    largest_file(&dir.path().join("data"), &mut scopes)?;
    let scope = scopes.into_iter().max().map(|(_, p)| p).ok_or("no scope file")?;
    Ok(Transfer {
        ms: [push.ms, pull.ms, rebuild.ms],
        lock_ms: [push.lock_ms, pull.lock_ms, rebuild.lock_ms],
        peak_kb: [push.peak_kb, pull.peak_kb, rebuild.peak_kb],
        server_kb,
        client_bytes: (used_bytes(&file("b"))? - plain) / f64::from(n),
        server_bytes: (used_bytes(&scope)? - plain) / f64::from(n),
    })
}

fn largest_file(dir: &Path, out: &mut Vec<(u64, PathBuf)>) -> Outcome<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            largest_file(&entry.path(), out)?;
        } else if entry.path().extension().is_some_and(|e| e == "db") {
            out.push((entry.metadata()?.len(), entry.path()));
        }
    }
    Ok(())
}

/// Bytes of the pages in use.
fn used_bytes(path: &Path) -> Outcome<f64> {
    let conn = Connection::open(path)?;
    let one = |sql: &str| conn.query_row(sql, [], |r| r.get::<_, i64>(0));
    Ok(((one("PRAGMA page_count")? - one("PRAGMA freelist_count")?) * one("PRAGMA page_size")?) as f64)
}

const TRANSFERS: [(&str, u32, f64); 3] =
    [("push until settled", 2, 8.0), ("pull by a second device", 1, 6.0), ("snapshot rebuild", 1, 5.0)];

fn transfers(plan: &Plan, dir: &Path, out: &mut Vec<Figure>) -> Outcome<()> {
    let mut series: Vec<Series> = TRANSFERS.iter().map(|_| Series::default()).collect();
    let mut last = None;
    for _ in 0..plan.rounds {
        let floors = [floor::into_files(dir, plan.rows, 2)?, floor::into_files(dir, plan.rows, 1)?];
        let t = transfer(dir, plan.rows)?;
        for ((s, ms), (_, files, _)) in series.iter_mut().zip(t.ms).zip(TRANSFERS) {
            s.add(Duration::from_secs_f64(ms / 1e3), floors[if files == 2 { 0 } else { 1 }]);
        }
        last = Some(t);
    }
    for ((name, _, bar), s) in TRANSFERS.iter().zip(series) {
        out.push(s.figure(name, Some(*bar)));
    }
    let t = last.ok_or("no rounds")?;
    out.push(plain("metadata on the client", "bytes/row", t.client_bytes));
    out.push(plain("metadata and history on the server", "bytes/row", t.server_bytes));
    Ok(())
}

/// An edit on A, seen on B.
fn latency(plan: &Plan, dir: &Path, out: &mut Vec<Figure>) -> Outcome<()> {
    let dir = tempfile::tempdir_in(dir)?;
    let server = ServerProcess::start(&dir.path().join("data"))?;
    let (a, b) = (dir.path().join("a.db"), dir.path().join("b.db"));
    for f in [&a, &b] {
        drop(floor::make(f, true)?);
        device("sync", f, &server.url)?;
    }
    let followers = [Follower::start(&a, &server.url)?, Follower::start(&b, &server.url)?];
    let (writer, reader) = (Connection::open(&a)?, Connection::open(&b)?);
    writer.busy_timeout(Duration::from_secs(10))?;
    let floor_file = floor::make(&dir.path().join("floor.db"), true)?;
    let mut series = Series::default();
    for i in 0..plan.edits + 3 {
        let hop = floor::hop(&floor_file, &server.url, i)?;
        let id = format!("edit-{i}");
        let begun = Instant::now();
        writer.execute("INSERT INTO items (id, changed) VALUES (?, 1)", [&id])?;
        while !reader.prepare_cached("SELECT 1 FROM items WHERE id = ?")?.exists([&id])? {
            if begun.elapsed() > Duration::from_secs(30) {
                return Err("an edit was not seen within 30 s".into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        if i >= 3 {
            series.add(begun.elapsed(), hop);
        }
    }
    drop(followers);
    let p95 = series.percentile(0.95);
    out.push(series.figure("edit on A visible on B, median", None));
    out.push(plain("edit on A visible on B, p95", "ms", p95));
    Ok(())
}

/// Memory and locks at a million rows, and how ratios grow.
fn growth(plan: &Plan, large: u32, dir: &Path, out: &mut Vec<Figure>) -> Outcome<()> {
    let ratios = |n: u32| -> Outcome<(Transfer, [f64; 3])> {
        let floors = [floor::into_files(dir, n, 2)?, floor::into_files(dir, n, 1)?];
        let t = transfer(dir, n)?;
        let [push, pull, rebuild] = t.ms;
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let r = [push / ms(floors[0]), pull / ms(floors[1]), rebuild / ms(floors[1])];
        Ok((t, r))
    };
    // The small one thrice: it is short, and the machine is not quiet.
    let mut small: Vec<[f64; 3]> = Vec::new();
    for _ in 0..3 {
        small.push(ratios(plan.small)?.1);
    }
    let (t, big) = ratios(large)?;
    for (i, name) in ["push", "pull", "rebuild"].iter().enumerate() {
        let mut s: Vec<f64> = small.iter().map(|r| r[i]).collect();
        s.sort_by(f64::total_cmp);
        out.push(plain(&format!("{name} of {large} rows, time"), "ms", t.ms[i]));
        out.push(Figure {
            bar: Some(1.5),
            ratio: Some(big[i] / s[1]),
            ..plain(&format!("{name}, ratio at {large} rows over that at {}", plan.small), "x", big[i] / s[1])
        });
        out.push(plain(&format!("{name} of {large} rows, longest write lock"), "ms", t.lock_ms[i]));
        out.push(plain(&format!("{name} of {large} rows, client's peak memory"), "MB", t.peak_kb[i] as f64 / 1024.0));
    }
    out.push(plain(&format!("server's peak memory in all of these, {large} rows"), "MB", t.server_kb as f64 / 1024.0));
    Ok(())
}

/// Durations with the floors of their rounds.
#[derive(Default)]
struct Series(Vec<(f64, f64)>);

impl Series {
    fn add(&mut self, took: Duration, floor: Duration) {
        self.0.push((took.as_secs_f64() * 1e3, floor.as_secs_f64() * 1e3));
    }

    fn percentile(&self, p: f64) -> f64 {
        let mut v: Vec<f64> = self.0.iter().map(|(t, _)| *t).collect();
        v.sort_by(f64::total_cmp);
        v.get(((v.len() - 1) as f64 * p).round() as usize).copied().unwrap_or(0.0)
    }

    fn figure(&self, name: &str, bar: Option<f64>) -> Figure {
        let mut ratios: Vec<f64> = self.0.iter().map(|(t, f)| t / f).collect();
        ratios.sort_by(f64::total_cmp);
        Figure {
            name: name.into(),
            unit: "ms".into(),
            median: self.percentile(0.5),
            low: self.percentile(0.0),
            high: self.percentile(1.0),
            ratio: ratios.get(ratios.len() / 2).copied(),
            bar,
        }
    }
}

fn plain(name: &str, unit: &str, value: f64) -> Figure {
    Figure { name: name.into(), unit: unit.into(), median: value, low: value, high: value, ratio: None, bar: None }
}
