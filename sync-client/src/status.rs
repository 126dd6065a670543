//! What waits, since when, and why: read on a connection of its own, so that it never waits for a sync.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::record;
use sync_core::schema::Table;
use sync_core::sqlite::capture::log_name;
use sync_core::sqlite::connection::configure;
use sync_core::sqlite::introspect::{Found, introspect};
use sync_core::sqlite::quote;
use sync_core::sqlite::rows::{RowSql, read_values};

use crate::error::Error;
use crate::inbox;
use crate::report::{ErrorClass, InboxRow, LastError, PendingRow, Status};
use crate::settle::op_of;
use crate::store::{Meta, SETTINGS, rfc3339};

/// Reads the status of a synced file, also while another process syncs it.
///
/// # Errors
/// [`Error::NotInitialized`] where the file is not a synced one; SQLite's.
pub fn read_status(path: &Path) -> Result<Status, Error> {
    let conn = open(path)?;
    let one = |sql: &str| -> Result<i64, Error> { Ok(conn.query_row(sql, [], |r| r.get(0))?) };
    let when = |m: Meta| -> Result<Option<String>, Error> { Ok(m.get::<i64>(&conn)?.map(rfc3339)) };
    let logged = logged_rows(&conn)?;
    let frozen = one("SELECT count(*) FROM main._sync_out")?;
    let outbox: Option<String> = conn.query_row("SELECT state FROM main._sync_outbox", [], |r| r.get(0)).optional()?;
    let oldest: Option<i64> = conn.query_row(
        "SELECT min(since) FROM (SELECT min(since) AS since FROM main._sync_dirty WHERE held IS NULL \
         UNION ALL SELECT min(since) FROM main._sync_out WHERE since > 0)",
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
    Ok(Status {
        server: Meta::Server.get(&conn)?.unwrap_or_default(),
        attached: Meta::Attached.integer(&conn)? != 0,
        source_id: Meta::SourceId.get(&conn)?.unwrap_or_default(),
        tables: tables(&conn)?.into_iter().map(|(_, name)| name).collect(),
        pending_rows: (one("SELECT count(*) FROM main._sync_dirty WHERE held IS NULL")? + frozen).unsigned_abs()
            + logged,
        outbox_rows: frozen.unsigned_abs(),
        outbox: outbox.unwrap_or_else(|| "none".into()),
        oldest_pending: oldest.map(rfc3339),
        rejected_rows: rejected(&conn)?.len() as u64,
        discarded_rows: one("SELECT count(*) FROM main._sync_inbox WHERE kind = 'discarded'")?.unsigned_abs(),
        conflicts: one("SELECT count(*) FROM main._sync_inbox WHERE kind = 'conflict'")?.unsigned_abs(),
        checkpoint: Meta::Checkpoint.integer(&conn)?,
        latest_known: Meta::LatestKnown.integer(&conn)?,
        last_success: when(Meta::LastSuccess)?,
        last_error,
        retry_after_seconds: Meta::RetryAfter.get::<i64>(&conn)?.map(i64::unsigned_abs),
    })
}

/// Lists what waits to be pushed, or is on its way; at most 10,000 rows.
///
/// # Errors
/// As [`read_status`].
pub fn read_pending(path: &Path) -> Result<Vec<PendingRow>, Error> {
    let conn = open(path)?;
    let found = introspect(&conn, None)?;
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
            "SELECT d.k, d.since, d.base, r.v, d.held, d.message FROM main._sync_dirty d \
             LEFT JOIN main._sync_row r ON r.t = d.t AND r.k = d.k WHERE d.t = ? LIMIT 10000",
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
                why: held
                    .map_or_else(|| "next push".into(), |h| format!("refused ({h}): {}", message.unwrap_or_default())),
            });
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
                since: rfc3339(jiff::Timestamp::now().as_millisecond()),
                why: "next push".into(),
            });
        }
    }
    Ok(out)
}

/// Reads the inbox entries of a kind: `rejected`, `discarded` or `conflict`.
///
/// # Errors
/// As [`read_status`].
pub fn read_inbox(path: &Path, kind: &str) -> Result<Vec<InboxRow>, Error> {
    let conn = open(path)?;
    if kind == "rejected" { rejected(&conn) } else { inbox::read(&conn, kind) }
}

/// Which tables of a file can be synced and which cannot; changes nothing.
///
/// # Errors
/// Where the file cannot be opened; a named table that cannot be synced is among the refusals.
pub fn inspect(path: &Path, only: Option<&[String]>) -> Result<Found, Error> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    configure(&conn, SETTINGS)?;
    Ok(introspect(&conn, only)?)
}

/// Refused rows that are still in their tables, and those that had to leave them.
fn rejected(conn: &Connection) -> Result<Vec<InboxRow>, Error> {
    let mut out = inbox::read(conn, "rejected")?;
    let found = introspect(conn, None)?;
    for (t, name) in tables(conn)? {
        let Some(table) = found.schema.table(&name) else { continue };
        let sql = RowSql::new(table);
        let mut s = conn.prepare(
            "SELECT d.k, d.since, d.base, r.v, d.held, d.message FROM main._sync_dirty d \
             LEFT JOIN main._sync_row r ON r.t = d.t AND r.k = d.k WHERE d.t = ? AND d.held IS NOT NULL",
        )?;
        out.extend(keyless(conn, table, &sql)?);
        let mut rows = s.query([t])?;
        while let Some(r) = rows.next()? {
            let key = Key::from_stored(r.get(0)?).unpack()?;
            let base = r.get::<_, Option<Vec<u8>>>(2)?.map(|b| record::decode(&b)).transpose()?;
            let live = sql.read(conn, &key)?.and_then(Result::ok);
            out.push(InboxRow {
                id: 0,
                kind: "rejected".into(),
                at: rfc3339(r.get(1)?),
                table: name.clone(),
                key: inbox::key_json(table, &key),
                op: op_of(live.as_deref(), Known::from_stored(r.get(3)?), base.as_ref()).into(),
                reason: r.get(4)?,
                message: r.get::<_, Option<String>>(5)?.unwrap_or_default(),
                local_row: live.map(|l| inbox::row_json(table, &l)),
                base_row: None,
                server_row: None,
            });
        }
    }
    Ok(out)
}

/// S11: rows with NULL in their key. SQLite allows them, no other device could name them; they stay
/// here, and nothing else waits for them. At most 1,000 a table.
fn keyless(conn: &Connection, table: &Table, sql: &RowSql) -> Result<Vec<InboxRow>, Error> {
    let null: Vec<String> =
        table.key.iter().map(|i| format!("{} IS NULL", quote(&table.columns[*i].sql_name))).collect();
    let text =
        format!("SELECT {} FROM main.{} WHERE {} LIMIT 1000", sql.columns, quote(&table.sql_name), null.join(" OR "));
    let mut s = conn.prepare(&text)?;
    let mut rows = s.query([])?;
    let mut out = Vec::new();
    while let Some(r) = rows.next()? {
        let row = read_values(r, 0, table.columns.len()).ok();
        out.push(InboxRow {
            id: 0,
            kind: "rejected".into(),
            at: rfc3339(jiff::Timestamp::now().as_millisecond()),
            table: table.name.clone(),
            key: "{}".into(),
            op: "INSERT".into(),
            reason: "null_key".into(),
            message: "the key of this row is NULL, so no other device could name it; give it a key".into(),
            local_row: row.map(|r| inbox::row_json(table, &r)),
            base_row: None,
            server_row: None,
        });
    }
    Ok(out)
}

fn open(path: &Path) -> Result<Connection, Error> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    configure(&conn, SETTINGS)?;
    let synced =
        conn.prepare("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = '_sync_meta'")?.exists([])?;
    if synced { Ok(conn) } else { Err(Error::NotInitialized) }
}

fn tables(conn: &Connection) -> Result<Vec<(i64, String)>, Error> {
    let mut s = conn.prepare("SELECT id, name FROM main._sync_table ORDER BY name")?;
    Ok(s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?)
}

/// Keys in the logs that are not counted among the intents yet.
fn logged_rows(conn: &Connection) -> Result<u64, Error> {
    let found = introspect(conn, None)?;
    let mut n = 0i64;
    for (t, name) in tables(conn)? {
        let Some(table) = found.schema.table(&name) else { continue };
        let key = table.key.iter().map(|i| format!("c{i}")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT count(DISTINCT k) FROM (SELECT _sync_key({key}) AS k FROM main.{}) l \
             WHERE k IS NOT NULL AND NOT EXISTS (SELECT 1 FROM main._sync_dirty d WHERE d.t = {t} AND d.k = l.k)",
            quote(&log_name(t))
        );
        n += conn.query_row(&sql, [], |r| r.get::<_, i64>(0))?;
    }
    Ok(n.unsigned_abs())
}

fn class_of(stored: &str) -> Option<ErrorClass> {
    Some(match stored.trim_matches('"') {
        "offline" => ErrorClass::Offline,
        "auth" => ErrorClass::Auth,
        "refused" => ErrorClass::Refused,
        "local" => ErrorClass::Local,
        "protocol" => ErrorClass::Protocol,
        _ => return None,
    })
}
