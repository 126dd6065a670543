//! The floors: the same rows by plain SQLite, and the rows themselves.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use crate::Outcome;

/// The synced table: small rows, as apps have them.
pub(crate) const SCHEMA: &str = "CREATE TABLE items (id TEXT PRIMARY KEY NOT NULL, list TEXT, title TEXT, done INTEGER, \
                                 rank REAL, changed INTEGER);";

/// A file with the schema, in WAL mode.
pub(crate) fn make(path: &Path, durable: bool) -> Outcome<Connection> {
    let conn = Connection::open(path)?;
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })?;
    conn.execute_batch(SCHEMA)?;
    Ok(conn)
}

/// Inserts `n` rows by a prepared statement in one transaction, and returns how long it took.
pub(crate) fn insert(conn: &Connection, n: u32, salt: u32) -> Outcome<Duration> {
    let begun = Instant::now();
    let tx = conn.unchecked_transaction()?;
    {
        let mut s = tx.prepare("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)")?;
        for i in 0..n {
            s.execute(row(i, salt))?;
        }
    }
    tx.commit()?;
    Ok(begun.elapsed())
}

/// Scattered keys, as UUIDs are, the same in every run.
fn row(i: u32, salt: u32) -> (String, String, String, i64, f64, i64) {
    let mixed = (u64::from(i) + (u64::from(salt) << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let id = format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        mixed >> 32,
        (mixed >> 16) & 0xffff,
        mixed & 0xfff,
        i & 0xfff,
        i
    );
    (
        id,
        format!("list-{}", i % 50),
        format!("something to do, number {i}"),
        i64::from(i % 2),
        f64::from(i) / 8.0,
        1_700_000_000_000 + i64::from(i),
    )
}

/// The floor of a transfer: the rows into `files` files, one durable transaction each.
pub(crate) fn into_files(dir: &Path, n: u32, files: u32) -> Outcome<Duration> {
    let mut total = Duration::ZERO;
    for f in 0..files {
        let path = dir.join(format!("floor-{n}-{f}.db"));
        let conn = make(&path, true)?;
        total += insert(&conn, n, 0)?;
        drop(conn);
        std::fs::remove_file(&path)?;
    }
    Ok(total)
}

/// Updates or deletes every row, or commits rows one by one, and returns how long it took.
pub(crate) fn statement(conn: &Connection, sql: &str) -> Outcome<Duration> {
    let begun = Instant::now();
    let tx = conn.unchecked_transaction()?;
    tx.execute(sql, [])?;
    tx.commit()?;
    Ok(begun.elapsed())
}

/// `n` commits of one row each.
pub(crate) fn singles(conn: &Connection, n: u32) -> Outcome<Duration> {
    let begun = Instant::now();
    for i in 0..n {
        conn.prepare_cached("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)")?.execute(row(i, 7))?;
    }
    Ok(begun.elapsed())
}

/// One durable commit and two round trips on loopback: the floor of an edit that is seen elsewhere.
pub(crate) fn hop(conn: &Connection, url: &str, i: u32) -> Outcome<Duration> {
    let agent = ureq::Agent::new_with_defaults();
    agent.get(format!("{url}/health")).call()?.into_body().read_to_vec()?;
    let begun = Instant::now();
    conn.execute("INSERT OR REPLACE INTO items (id, changed) VALUES (?, ?)", params![format!("hop-{i}"), i])?;
    for _ in 0..2 {
        agent.get(format!("{url}/health")).call()?.into_body().read_to_vec()?;
    }
    Ok(begun.elapsed())
}
