//! What a scope's file remembers beside the rows: state, sources, row versions, bundles.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use sync_core::engine::admit::{Source, SourceState};
use sync_core::engine::connect::{Lease, Lifecycle};
use sync_core::engine::window::History;
use sync_core::hash::Digest;

use super::fail::{Fail, Outcome};

/// The tables of this program in a scope's file. `_sync_bundle_row.n` grows by one a row, so a
/// bundle's rows are a range: appended at the end, read and pruned in order.
pub(crate) const TABLES: &str = "
CREATE TABLE _sync_scope (
    id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL, user_id TEXT NOT NULL, scope_id TEXT NOT NULL,
    lifecycle INTEGER NOT NULL, initializer TEXT, initialization_id TEXT, lease_expires_ms INTEGER,
    initialized_ms INTEGER, initialized_by TEXT,
    latest INTEGER NOT NULL, floor INTEGER NOT NULL, history_hash BLOB NOT NULL);
CREATE TABLE _sync_table (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE _sync_source (
    source_id TEXT PRIMARY KEY, state INTEGER NOT NULL, max_committed INTEGER NOT NULL, replaced_by TEXT, reason TEXT
) WITHOUT ROWID;
CREATE TABLE _sync_row (
    tab INTEGER NOT NULL, key BLOB NOT NULL, version INTEGER NOT NULL, deleted INTEGER NOT NULL, PRIMARY KEY (tab, key)
) WITHOUT ROWID;
CREATE TABLE _sync_bundle (
    seq INTEGER PRIMARY KEY, source_id TEXT NOT NULL, source_bundle_id INTEGER NOT NULL, first_row INTEGER NOT NULL,
    row_count INTEGER NOT NULL, bytes INTEGER NOT NULL, blake3 BLOB NOT NULL, sha256 BLOB, history_hash BLOB NOT NULL,
    request_hash BLOB, committed_ms INTEGER NOT NULL, UNIQUE (source_id, source_bundle_id));
CREATE TABLE _sync_bundle_row (
    n INTEGER PRIMARY KEY, tab INTEGER NOT NULL, op INTEGER NOT NULL, key TEXT NOT NULL, payload TEXT);
";

/// What was seen in a scope. A file from before has no such table: then the hashes that plain clients
/// asked for tell of them.
pub(crate) const SEEN: &str = "
CREATE TABLE _sync_seen (what TEXT PRIMARY KEY NOT NULL) WITHOUT ROWID;
INSERT INTO _sync_seen SELECT 'plain' WHERE EXISTS (SELECT 1 FROM _sync_bundle WHERE sha256 IS NOT NULL);
";

/// The number of the format above.
pub(crate) const FORMAT: i64 = 1;

/// Where a scope stands.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) lifecycle: Lifecycle,
    pub(crate) history: History,
    pub(crate) history_hash: Digest,
}

/// One bundle of the log.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    pub(crate) seq: i64,
    pub(crate) source: String,
    pub(crate) source_bundle_id: i64,
    pub(crate) first_row: i64,
    pub(crate) row_count: i64,
    pub(crate) bytes: i64,
    pub(crate) blake3: Digest,
    pub(crate) sha256: Option<Digest>,
    pub(crate) history_hash: Digest,
    pub(crate) request_hash: Option<Digest>,
}

fn digest(row: &Row<'_>, i: usize) -> Outcome<Digest> {
    Digest::from_bytes(row.get_ref(i)?.as_blob().map_err(|_| Fail::Damaged("a hash"))?).ok_or(Fail::Damaged("a hash"))
}

fn optional_digest(row: &Row<'_>, i: usize) -> Outcome<Option<Digest>> {
    let raw: Option<Vec<u8>> = row.get(i)?;
    raw.map(|b| Digest::from_bytes(&b).ok_or(Fail::Damaged("a hash"))).transpose()
}

/// The id of a user's scope, also before there is one.
pub(crate) fn scope_id(user: &str) -> String {
    let id = blake3::Hash::from(blake3::derive_key("sync-server 2026 scope id", user.as_bytes())).to_hex();
    id.as_str()[..32].to_owned()
}

/// Makes the one row of `_sync_scope`.
///
/// The scope's id is derived from the user's: another user never has it, and it is the same again after
/// the server was wiped, so that a device tells the one from the other (cases H3, H8).
pub(crate) fn create(conn: &Connection, user: &str) -> rusqlite::Result<()> {
    let scope_id = scope_id(user);
    conn.execute_batch(TABLES)?;
    conn.execute(
        "INSERT INTO _sync_scope VALUES (1, ?, ?, ?, 0, NULL, NULL, NULL, NULL, NULL, 0, 0, zeroblob(32))",
        params![FORMAT, user, scope_id],
    )?;
    Ok(())
}

/// Reads where the scope stands.
pub(crate) fn state(conn: &Connection) -> Outcome<State> {
    let mut s = conn.prepare_cached(
        "SELECT lifecycle, initializer, initialization_id, lease_expires_ms, latest, floor, history_hash FROM _sync_scope",
    )?;
    let mut rows = s.query([])?;
    let r = rows.next()?.ok_or(Fail::Damaged("the scope's own row"))?;
    let lifecycle = match r.get::<_, i64>(0)? {
        0 => Lifecycle::Uninitialized,
        1 => Lifecycle::Initializing(Lease { source: r.get(1)?, id: r.get(2)?, expires_ms: r.get(3)? }),
        2 => Lifecycle::Initialized,
        _ => return Err(Fail::Damaged("a lifecycle")),
    };
    let history = History { latest: r.get(4)?, floor: r.get(5)? };
    Ok(State { lifecycle, history, history_hash: digest(r, 6)? })
}

/// Writes the lifecycle; `by` is who initialized, where it becomes initialized.
pub(crate) fn set_lifecycle(conn: &Connection, next: &Lifecycle, by: &str, now_ms: i64) -> rusqlite::Result<()> {
    match next {
        Lifecycle::Uninitialized => conn.execute("UPDATE _sync_scope SET lifecycle = 0", [])?,
        Lifecycle::Initializing(l) => conn.execute(
            "UPDATE _sync_scope SET lifecycle = 1, initializer = ?, initialization_id = ?, lease_expires_ms = ?",
            params![l.source, l.id, l.expires_ms],
        )?,
        Lifecycle::Initialized => conn.execute(
            "UPDATE _sync_scope SET lifecycle = 2, initializer = NULL, initialization_id = NULL, \
             lease_expires_ms = NULL, initialized_ms = ?, initialized_by = ?",
            params![now_ms, by],
        )?,
    };
    Ok(())
}

/// Moves the lease on.
pub(crate) fn renew_lease(conn: &Connection, expires_ms: i64) -> rusqlite::Result<()> {
    conn.execute("UPDATE _sync_scope SET lease_expires_ms = ? WHERE lifecycle = 1", [expires_ms])?;
    Ok(())
}

/// What is remembered of a source.
pub(crate) fn source(conn: &Connection, id: &str) -> Outcome<Option<Source>> {
    let mut s =
        conn.prepare_cached("SELECT state, max_committed, replaced_by FROM _sync_source WHERE source_id = ?")?;
    let found: Option<(i64, i64, Option<String>)> =
        s.query_row([id], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).optional()?;
    let Some((state, max_committed, replaced_by)) = found else { return Ok(None) };
    let state = match state {
        0 => SourceState::Active,
        1 => SourceState::Reserved,
        2 => SourceState::Retired,
        _ => return Err(Fail::Damaged("a source's state")),
    };
    Ok(Some(Source { state, max_committed, replaced_by }))
}

/// Makes a source active with its newest committed id.
pub(crate) fn activate(conn: &Connection, id: &str, max_committed: i64) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT INTO _sync_source (source_id, state, max_committed) VALUES (?1, 0, ?2) \
         ON CONFLICT (source_id) DO UPDATE SET state = 0, max_committed = ?2",
        params![id, max_committed],
    )?;
    Ok(())
}

/// Makes a source known, reserved.
pub(crate) fn reserve(conn: &Connection, id: &str) -> rusqlite::Result<()> {
    conn.execute("INSERT INTO _sync_source (source_id, state, max_committed) VALUES (?, 1, 0)", [id])?;
    Ok(())
}

/// Retires a source for good.
pub(crate) fn retire(conn: &Connection, id: &str, by: &str, reason: &str) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT INTO _sync_source (source_id, state, max_committed, replaced_by, reason) VALUES (?1, 2, 0, ?2, ?3) \
         ON CONFLICT (source_id) DO UPDATE SET state = 2, replaced_by = ?2, reason = ?3",
        params![id, by, reason],
    )?;
    Ok(())
}

const BUNDLE: &str = "SELECT seq, source_id, source_bundle_id, first_row, row_count, bytes, blake3, sha256, \
                      history_hash, request_hash FROM _sync_bundle";

fn read_bundle(r: &Row<'_>) -> Outcome<Bundle> {
    Ok(Bundle {
        seq: r.get(0)?,
        source: r.get(1)?,
        source_bundle_id: r.get(2)?,
        first_row: r.get(3)?,
        row_count: r.get(4)?,
        bytes: r.get(5)?,
        blake3: digest(r, 6)?,
        sha256: optional_digest(r, 7)?,
        history_hash: digest(r, 8)?,
        request_hash: optional_digest(r, 9)?,
    })
}

/// A bundle by its place.
pub(crate) fn bundle(conn: &Connection, seq: i64) -> Outcome<Option<Bundle>> {
    let mut s = conn.prepare_cached(&format!("{BUNDLE} WHERE seq = ?"))?;
    let mut rows = s.query([seq])?;
    rows.next()?.map(read_bundle).transpose()
}

/// A bundle by its tuple, where history still holds it.
pub(crate) fn bundle_of(conn: &Connection, source: &str, source_bundle_id: i64) -> Outcome<Option<Bundle>> {
    let mut s = conn.prepare_cached(&format!("{BUNDLE} WHERE source_id = ? AND source_bundle_id = ?"))?;
    let mut rows = s.query(params![source, source_bundle_id])?;
    rows.next()?.map(read_bundle).transpose()
}

/// Bundles above `after`, up to `to`, handed over in order until `each` says to stop.
pub(crate) fn bundles(conn: &Connection, after: i64, to: i64, mut each: impl FnMut(Bundle) -> bool) -> Outcome<()> {
    let mut s = conn.prepare_cached(&format!("{BUNDLE} WHERE seq > ? AND seq <= ? ORDER BY seq"))?;
    let mut rows = s.query(params![after, to])?;
    while let Some(r) = rows.next()? {
        if !each(read_bundle(r)?) {
            break;
        }
    }
    Ok(())
}

/// Rows of the bundles after one, up to another.
pub(crate) fn rows_between(conn: &Connection, after: i64, to: i64) -> rusqlite::Result<i64> {
    let sql = "SELECT coalesce((SELECT first_row + row_count FROM _sync_bundle WHERE seq > ?1 AND seq <= ?2 ORDER BY seq DESC LIMIT 1) \
               - (SELECT first_row FROM _sync_bundle WHERE seq > ?1 ORDER BY seq LIMIT 1), 0)";
    conn.prepare_cached(sql)?.query_row([after, to], |r| r.get(0))
}

/// Where the next bundle's rows go.
pub(crate) fn next_row(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("SELECT coalesce(max(first_row + row_count), 1) FROM (SELECT first_row, row_count FROM _sync_bundle ORDER BY seq DESC LIMIT 1)", [], |r| r.get(0))
}

/// Appends a bundle and moves the scope on to it.
pub(crate) fn append(conn: &Connection, b: &Bundle, now_ms: i64) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT INTO _sync_bundle VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            b.seq,
            b.source,
            b.source_bundle_id,
            b.first_row,
            b.row_count,
            b.bytes,
            b.blake3.0,
            b.sha256.map(|d| d.0),
            b.history_hash.0,
            b.request_hash.map(|d| d.0),
            now_ms
        ],
    )?;
    conn.execute("UPDATE _sync_scope SET latest = ?, history_hash = ?", params![b.seq, b.history_hash.0])?;
    Ok(())
}

/// Raises the floor and drops what is below.
pub(crate) fn prune(conn: &Connection, floor: i64) -> rusqlite::Result<()> {
    conn.execute("UPDATE _sync_scope SET floor = ?", [floor])?;
    conn.execute(
        "DELETE FROM _sync_bundle_row WHERE n < coalesce((SELECT min(first_row) FROM _sync_bundle WHERE seq > ?), ?)",
        [floor, i64::MAX],
    )?;
    conn.execute(
        "INSERT OR IGNORE INTO _sync_lineage SELECT seq, history_hash FROM _sync_bundle WHERE seq <= ?",
        [floor],
    )?;
    conn.execute("DELETE FROM _sync_lineage WHERE seq <= ?", [floor - KEPT_LINEAGE])?;
    conn.execute("DELETE FROM _sync_bundle WHERE seq <= ?", [floor])?;
    Ok(())
}

/// Makes the table of what is left of pruned bundles, where a file from before has none.
pub(crate) fn make_lineage(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("CREATE TABLE IF NOT EXISTS _sync_lineage (seq INTEGER PRIMARY KEY, history_hash BLOB NOT NULL)")
}

/// The history hash of a pruned bundle, where it is remembered.
pub(crate) fn lineage(conn: &Connection, seq: i64) -> rusqlite::Result<Option<Digest>> {
    let mut s = conn.prepare_cached("SELECT history_hash FROM _sync_lineage WHERE seq = ?")?;
    let found: Option<Vec<u8>> = s.query_row([seq], |r| r.get(0)).optional()?;
    Ok(found.and_then(|h| Digest::from_bytes(&h)))
}

/// Pruned bundles of which the history hash stays: a device that was away for long must not take another
/// history's numbers for its own.
const KEPT_LINEAGE: i64 = 100_000;

/// Whether a client was seen that takes the plain view. Such clients may insist on every column.
pub(crate) fn plain_seen(conn: &Connection) -> rusqlite::Result<bool> {
    let made: bool =
        conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name = '_sync_seen'", [], |r| r.get(0))?;
    if !made {
        conn.execute_batch(SEEN)?;
    }
    conn.query_row("SELECT count(*) FROM _sync_seen WHERE what = 'plain'", [], |r| r.get(0))
}

/// Remembers that one was seen.
pub(crate) fn see_plain(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute("INSERT OR IGNORE INTO _sync_seen VALUES ('plain')", [])?;
    Ok(())
}

/// Bundles kept and their bytes.
pub(crate) fn totals(conn: &Connection) -> rusqlite::Result<(i64, i64)> {
    conn.query_row("SELECT count(*), coalesce(sum(bytes), 0) FROM _sync_bundle", [], |r| Ok((r.get(0)?, r.get(1)?)))
}
