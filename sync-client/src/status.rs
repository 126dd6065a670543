//! What waits, since when, and why: read on a connection of its own, so that it never waits for a sync.

use std::path::Path;
use std::time::SystemTime;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::record;
use sync_core::sqlite::capture::log_name;
use sync_core::sqlite::connection::configure;
use sync_core::sqlite::introspect::{Found, Note};
use sync_core::sqlite::keys::unfit;
use sync_core::sqlite::quote;
use sync_core::sqlite::rows::RowSql;
use sync_core::sqlite::survey::survey;

use crate::aside::COUNT_ASIDE;
use crate::context::ms_of;
use crate::error::Error;
use crate::listing::{held_rows, inbox_rows, keyless_rows};
use crate::report::{ErrorClass, LastError, Mark, PendingRow, Status};
use crate::settle::op_of;
use crate::store::{Meta, SETTINGS, known, rfc3339, tables_of};
use crate::{held_back, inbox};

/// Reads the status of a synced file, also while another process syncs it. It waits for nobody, writes
/// nothing, and takes about as long with a million changed rows as with one.
///
/// # Errors
/// [`Error::NotInitialized`] where the file is not a synced one; SQLite's.
pub fn read_status(path: &Path) -> Result<Status, Error> {
    let conn = open(path)?;
    // One state of the file, whatever is committed meanwhile.
    let conn = conn.unchecked_transaction()?;
    let one = |sql: &str| -> Result<i64, Error> { Ok(conn.query_row(sql, [], |r| r.get(0))?) };
    let when = |m: Meta| -> Result<Option<String>, Error> { Ok(m.get::<i64>(&conn)?.map(rfc3339)) };
    let outbox: Option<(String, i64)> =
        conn.query_row("SELECT state, rows FROM main._sync_outbox", [], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
    let (outbox, frozen) = outbox.unwrap_or_else(|| ("none".into(), 0));
    let dirty = Count::of(one(&format!(
        "SELECT count(*) FROM (SELECT 1 FROM main._sync_dirty WHERE held IS NULL LIMIT {})",
        EXACT + 1
    ))?);
    let logged = logged_rows(&conn)?;
    let oldest: Option<i64> = conn.query_row(
        &format!(
            "SELECT min(since) FROM (SELECT since FROM (SELECT since FROM main._sync_dirty WHERE held IS NULL LIMIT {EXACT}) \
             UNION ALL SELECT since FROM (SELECT since FROM main._sync_out WHERE since > 0 LIMIT {EXACT}))"
        ),
        [],
        |r| r.get(0),
    )?;
    let class = Meta::LastErrorClass.get::<String>(&conn)?.and_then(|c| class_of(&c));
    let last_error = match (Meta::LastError.get::<String>(&conn)?, class) {
        (Some(message), Some(class)) => {
            Some(LastError { at: when(Meta::LastErrorAt)?.unwrap_or_default(), class, message })
        }
        _ => None,
    };
    let last_success = when(Meta::LastSuccess)?;
    let keyless = keyless_rows(&conn)?;
    let unfit =
        one("SELECT count(*) FROM main._sync_dirty WHERE held IS NOT NULL AND held = 'key_form'")?.unsigned_abs();
    Ok(Status {
        server: Meta::Server.get(&conn)?.unwrap_or_default(),
        attached: Meta::Attached.integer(&conn)? != 0,
        source_id: Meta::SourceId.get(&conn)?.unwrap_or_default(),
        tables: tables(&conn)?.into_iter().map(|(_, name)| name).collect(),
        pending_rows: frozen.unsigned_abs() + dirty.rows + logged.rows,
        pending_more: dirty.more || logged.more,
        outbox_rows: frozen.unsigned_abs(),
        outbox,
        waiting_bundle: Meta::WaitingBundle.get(&conn)?,
        oldest_pending: oldest.map(rfc3339),
        position: position(&conn)?,
        synced_through: Mark(Meta::SyncedThrough.integer(&conn)?.unsigned_abs()),
        rejected_rows: inbox_rows(&conn, "rejected")? + held_rows(&conn)? + keyless,
        local_rows: keyless + unfit,
        server_rounds: Meta::ServerRounds.integer(&conn)? != 0,
        server_respells: Meta::ServerRespells.integer(&conn)? != 0,
        held_back: held_back::read(Meta::HeldBack.get(&conn)?)?,
        discarded_rows: inbox_rows(&conn, "discarded")?,
        conflicts: inbox_rows(&conn, "conflict")?,
        set_aside_rows: one(COUNT_ASIDE)?.unsigned_abs(),
        checkpoint: Meta::Checkpoint.integer(&conn)?,
        latest_known: Meta::LatestKnown.integer(&conn)?.max(Meta::Checkpoint.integer(&conn)?),
        last_success,
        last_error,
        retry_after_seconds: Meta::RetryAfter.get::<i64>(&conn)?.map(i64::unsigned_abs),
        ca: Meta::Ca.get(&conn)?,
        online: Meta::Reached.get::<i64>(&conn)?.map(|reached| reached != 0),
    })
}

/// The place of the newest local commit among those that were, or will be, noticed.
pub(crate) fn read_mark(path: &Path) -> Result<Mark, Error> {
    let conn = open(path)?;
    let conn = conn.unchecked_transaction()?;
    position(&conn)
}

/// What is in a log will be noticed as the next.
fn position(conn: &Connection) -> Result<Mark, Error> {
    let noticed = Meta::Noticed.integer(conn)?.unsigned_abs();
    for (t, _) in logs(conn)? {
        if conn.prepare(&format!("SELECT 1 FROM main.{} LIMIT 1", quote(&log_name(t))))?.exists([])? {
            return Ok(Mark(noticed + 1));
        }
    }
    Ok(Mark(noticed))
}

/// Rows that were counted, up to [`EXACT`].
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    rows: u64,
    more: bool,
}

impl Count {
    fn of(counted: i64) -> Self {
        Self { rows: counted.min(EXACT).unsigned_abs(), more: counted > EXACT }
    }
}

/// Keys in the logs that are not counted among the intents yet.
fn logged_rows(conn: &Connection) -> Result<Count, Error> {
    let mut all = Count::default();
    let mut keys = conn.prepare(
        "SELECT id, group_concat('c' || at, ', ') FROM \
         (SELECT t.id, c.key AS at FROM main._sync_table t JOIN main.sqlite_schema s ON s.name = '_sync_log_' || t.id, \
          pragma_table_info(t.name, 'main') i, json_each(t.columns) c WHERE i.pk > 0 AND c.value = i.name COLLATE NOCASE ORDER BY t.id, i.pk) GROUP BY id",
    )?;
    let keys: Vec<(i64, String)> = keys.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
    for (t, key) in keys {
        let log = quote(&log_name(t));
        if !conn.prepare(&format!("SELECT 1 FROM main.{log} LIMIT 1"))?.exists([])? {
            continue;
        }
        // Entries are taken out all at once, so their numbers have no gaps.
        let entries: i64 = conn.query_row(
            &format!("SELECT (SELECT max(rowid) FROM main.{log}) - (SELECT min(rowid) FROM main.{log}) + 1"),
            [],
            |r| r.get(0),
        )?;
        let rows: i64 = conn.query_row(
            &format!(
                "SELECT count(DISTINCT k) FROM (SELECT _sync_key({key}) AS k FROM main.{log} LIMIT {EXACT}) l \
                 WHERE k IS NOT NULL AND NOT EXISTS (SELECT 1 FROM main._sync_dirty d WHERE d.t = {t} AND d.k = l.k)"
            ),
            [],
            |r| r.get(0),
        )?;
        all.rows += rows.unsigned_abs();
        all.more |= entries > EXACT;
    }
    Ok(all)
}

/// Lists what waits to be pushed, or is on its way; at most 10,000 rows.
///
/// # Errors
/// As [`read_status`].
pub fn read_pending(path: &Path) -> Result<Vec<PendingRow>, Error> {
    let conn = open(path)?;
    let found = tables_of(&conn, None)?;
    let logs = logs(&conn)?;
    let mut out = Vec::new();
    for (t, name) in tables(&conn)? {
        let Some(table) = found.schema.table(&name) else { continue };
        let sql = RowSql::new(table);
        let key_of = |k: Vec<u8>| -> Result<_, Error> { Ok(Key::from_stored(k).unpack()?) };
        let mut s = conn.prepare("SELECT k, op, since FROM main._sync_out WHERE t = ? LIMIT 10000")?;
        let frozen: Vec<(Vec<u8>, i64, i64)> =
            s.query_map([t], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?.collect::<Result<_, _>>()?;
        for (k, op, since) in frozen {
            out.push(PendingRow {
                table: name.clone(),
                key: inbox::key_json(table, &key_of(k)?),
                op: sync_core::protocol::Op::from_stored(op).map_or("", |o| o.name()).into(),
                since: rfc3339(since),
                why: "in flight".into(),
            });
        }
        let mut s = conn.prepare(
            "SELECT d.k, d.since, d.base, r.v, d.held, coalesce(d.message, s.message) FROM main._sync_dirty d \
             LEFT JOIN main._sync_row r ON r.t = d.t AND r.k = d.k \
             LEFT JOIN main._sync_suspect s ON s.t = d.t AND s.k = d.k WHERE d.t = ? LIMIT 10000",
        )?;
        let mut rows = s.query([t])?;
        while let Some(r) = rows.next()? {
            let key = key_of(r.get(0)?)?;
            let base = r.get::<_, Option<Vec<u8>>>(2)?.map(|b| record::decode(&b)).transpose()?;
            let live = sql.read(&conn, &key)?.and_then(Result::ok);
            let held: Option<String> = r.get(4)?;
            let message: Option<String> = r.get(5)?;
            out.push(PendingRow {
                table: name.clone(),
                key: inbox::key_json(table, &key),
                op: op_of(live.as_deref(), Known::from_stored(r.get(3)?), base.as_ref()).into(),
                since: rfc3339(r.get(1)?),
                why: match (held, message) {
                    (Some(h), message) => format!("refused ({h}): {}", message.unwrap_or_default()),
                    (None, Some(said)) => format!("next push; alone it failed: {said}"),
                    (None, None) => "next push".into(),
                },
            });
        }
        if !logs.iter().any(|(id, _)| *id == t) {
            continue;
        }
        let log = quote(&log_name(t));
        let key_columns = table.key.iter().map(|i| format!("c{i}")).collect::<Vec<_>>().join(", ");
        let mut s = conn.prepare(&format!(
            "SELECT DISTINCT _sync_key({key_columns}) FROM main.{log} WHERE _sync_key({key_columns}) IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM main._sync_dirty d WHERE d.t = ? AND d.k = _sync_key({key_columns})) LIMIT 10000"
        ))?;
        let fresh: Vec<Vec<u8>> = s.query_map([t], |r| r.get(0))?.collect::<Result<_, _>>()?;
        for k in fresh {
            let key = key_of(k.clone())?;
            let live = sql.read(&conn, &key)?.and_then(Result::ok);
            let v: Option<i64> = conn
                .query_row("SELECT v FROM main._sync_row WHERE t = ? AND k = ?", (t, &k), |r| r.get(0))
                .optional()?;
            out.push(PendingRow {
                table: name.clone(),
                key: inbox::key_json(table, &key),
                op: op_of(live.as_deref(), Known::from_stored(v), None).into(),
                since: rfc3339(ms_of(SystemTime::now())),
                why: "next push".into(),
            });
        }
    }
    Ok(out)
}

/// Which tables of a file can be synced and which cannot; changes nothing.
///
/// # Errors
/// Where the file cannot be opened; a named table that cannot be synced is among the refusals.
pub fn inspect(path: &Path, only: Option<&[String]>) -> Result<Found, Error> {
    let mut conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    configure(&conn, SETTINGS)?;
    let known = known(&conn)?;
    let mut found = survey(&mut conn, only, &known)?.found;
    for table in found.schema.tables() {
        let said = unfit(&conn, table)?;
        found.notes.extend(said.into_iter().map(|text| Note { table: table.sql_name.clone(), text }));
    }
    Ok(found)
}

/// A connection that only reads, and that does not even tidy up when it is the last one to close. Also to a
/// file that was detached and remembers where it was.
pub(crate) fn open_any(path: &Path) -> Result<Connection, Error> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    configure(&conn, SETTINGS)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.pragma_update(None, "query_only", true)?;
    let synced =
        conn.prepare("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = '_sync_meta'")?.exists([])?;
    if synced { Ok(conn) } else { Err(Error::NotInitialized) }
}

/// The same to a file that is a synced one now.
pub(crate) fn open(path: &Path) -> Result<Connection, Error> {
    let conn = open_any(path)?;
    if Meta::Detached.get::<i64>(&conn)?.is_some() { Err(Error::NotInitialized) } else { Ok(conn) }
}

pub(crate) fn tables(conn: &Connection) -> Result<Vec<(i64, String)>, Error> {
    let mut s = conn.prepare("SELECT id, name FROM main._sync_table ORDER BY name")?;
    Ok(s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?)
}

/// The tables that are captured. One that the app dropped, or that is not synced any more, is known on while rows of it
/// are in flight.
fn logs(conn: &Connection) -> Result<Vec<(i64, String)>, Error> {
    let mut there = conn.prepare("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?")?;
    let mut logs = Vec::new();
    for (t, name) in tables(conn)? {
        if there.exists([log_name(t)])? {
            logs.push((t, name));
        }
    }
    Ok(logs)
}

fn class_of(stored: &str) -> Option<ErrorClass> {
    Some(match stored.trim_matches('"') {
        "offline" => ErrorClass::Offline,
        "auth" => ErrorClass::Auth,
        "refused" => ErrorClass::Refused,
        "local" => ErrorClass::Local,
        "protocol" => ErrorClass::Protocol,
        "failing" => ErrorClass::Failing,
        "intermediary" => ErrorClass::Intermediary,
        _ => return None,
    })
}

/// Rows are counted one by one up to here; beyond, a status says "more".
const EXACT: i64 = 10_000;
