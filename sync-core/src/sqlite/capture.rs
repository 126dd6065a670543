//! Capture: triggers that append every change of a synced table to that table's own log, in the
//! app's own transaction (ARCHITECTURE.md, "Capture").
//!
//! INSERT appends the key; UPDATE and DELETE append the old row, typed. The first entry of a key is its
//! *base*. What happened is derived later ([`crate::engine::change`]). Everything here must
//! parse in SQLite 3.24 and needs no function of ours: the file stays an ordinary SQLite file.
//!
//! An UPDATE leaves out the texts that it did not change, which are most of what a row weighs. The
//! next entry of the key that has them, or else the row itself, says what they were.

use rusqlite::Row;

use super::{NotUtf8, quote, quote_all, value};
use crate::engine::departure::Trace;
use crate::record::Record;
use crate::schema::{Affinity, Table};
use crate::value::Value;

/// A log entry that carries the key only: the row came to be.
pub const CAME: i64 = 1;
/// The row as it was before an UPDATE.
pub const CHANGED: i64 = 2;
/// The row as it was before a DELETE.
pub const WENT: i64 = 3;
/// A row that another row's UNIQUE value may evict (`INSERT OR REPLACE` fires no DELETE trigger).
pub const THREATENED: i64 = 4;
/// As [`CHANGED`], without the texts that stayed the same. The bits above the third are the columns to
/// which this applies: NULL there is a text that stayed, the integer 1 is a NULL that did not.
pub const CHANGED_IN_PART: i64 = 5;
/// The whole row as it was before an UPDATE that gave it another key. The next entry of the log, always a
/// [`CAME`], has that key.
pub const REKEYED: i64 = 6;

const KIND_BITS: u32 = 3;

/// The kind of an entry, without the columns of [`CHANGED_IN_PART`].
#[must_use]
pub const fn kind(op: i64) -> i64 {
    op & ((1 << KIND_BITS) - 1)
}

/// What an entry says of the row with its key.
#[must_use]
pub const fn trace(op: i64) -> Trace {
    match kind(op) {
        CAME => Trace::Came,
        WENT => Trace::Went,
        THREATENED => Trace::Threatened,
        REKEYED => Trace::Rekeyed,
        _ => Trace::Changed,
    }
}

/// The name of a table's log. `id` is the table's number in the file.
#[must_use]
pub fn log_name(id: i64) -> String {
    format!("_sync_log_{id}")
}

/// The number of the table that a trigger captures: it is called by that number and appends to that log. `None` for
/// a trigger of the app, whatever its name. Which table it watches is another question: it goes along with one that
/// is renamed.
///
/// ```
/// use sync_core::sqlite::capture::captures;
/// let ours = r#"CREATE TRIGGER "_sync_1_insert" AFTER INSERT ON t BEGIN INSERT INTO "_sync_log_1" (op, c0) VALUES (1, NEW.id); END"#;
/// assert_eq!(captures("_sync_1_insert", ours), Some(1));
/// assert_eq!(captures("_sync_1_mine", "CREATE TRIGGER _sync_1_mine AFTER INSERT ON t BEGIN SELECT 1; END"), None);
/// ```
#[must_use]
pub fn captures(name: &str, sql: &str) -> Option<i64> {
    let (number, _) = name.strip_prefix("_sync_")?.split_once('_')?;
    let number: i64 = number.parse().ok()?;
    let log = log_name(number);
    let mut found = sql.match_indices(&log).map(|(at, _)| &sql[at + log.len()..]);
    found.any(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')).then_some(number)
}

/// The columns of a log, by position in the table: `c0, c1, …`
#[must_use]
pub fn log_columns(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("c{i}")).collect()
}

/// Creates a table's log. Columns have no declared type, so storage classes survive. Its rowid is the
/// order in which entries came.
#[must_use]
pub fn create_log(id: i64, columns: usize) -> String {
    format!("CREATE TABLE IF NOT EXISTS main.{} (op, {})", quote(&log_name(id)), log_columns(columns).join(", "))
}

/// The row as an entry has it: `None` for one that says only that the row came to be. Absent columns are
/// those that an UPDATE left alone. `first` is the position of `c0` in the result row.
///
/// # Errors
/// When text is not valid UTF-8.
pub fn old_row(op: i64, r: &Row<'_>, first: usize, columns: usize) -> Result<Option<Record>, NotUtf8> {
    if op == CAME {
        return Ok(None);
    }
    let in_part = kind(op) == CHANGED_IN_PART;
    let mut out = Record::with_capacity(columns);
    for i in 0..columns {
        let v = value(r.get_ref_unwrap(first + i), i)?;
        let bit = u32::try_from(i).ok().and_then(|i| op.checked_shr(i + KIND_BITS)).unwrap_or(0);
        out.push(match v {
            Value::Null if in_part && bit & 1 == 1 => None,
            Value::Integer(_) if in_part && bit & 1 == 1 => Some(Value::Null),
            v => Some(v),
        });
    }
    Ok(Some(out))
}

/// The columns that an UPDATE may leave out: texts that are not part of the key. Such a column holds
/// TEXT, BLOB or NULL, whatever is written to it: equal values are of one storage class, and an integer
/// can stand for something else.
fn texts(table: &Table) -> Vec<usize> {
    let most = (i64::BITS - 1 - KIND_BITS) as usize;
    (0..table.columns.len().min(most))
        .filter(|i| table.columns[*i].affinity == Affinity::Text && !table.key.contains(i))
        .collect()
}

/// The capture triggers of a table: name and `CREATE TRIGGER` statement.
///
/// `early` appends old rows before they change, which costs a little more: where triggers of the app may
/// write the same row again, SQLite runs the newest first, and a later append would see their work.
#[must_use]
pub fn triggers(id: i64, table: &Table, early: bool) -> Vec<(String, String)> {
    let log = quote(&log_name(id));
    let on = quote(&table.sql_name);
    let column = |i: usize| quote(&table.columns[i].sql_name);
    let all = log_columns(table.columns.len()).join(", ");
    let old = (0..table.columns.len()).map(|i| format!("OLD.{}", column(i))).collect::<Vec<_>>().join(", ");
    let key_log = table.key.iter().map(|i| format!("c{i}")).collect::<Vec<_>>().join(", ");
    let key_new = table.key.iter().map(|i| format!("NEW.{}", column(*i))).collect::<Vec<_>>().join(", ");
    let key_columns = quote_all(table.key.iter().map(|i| table.columns[*i].sql_name.as_str()));
    let key_changed =
        table.key.iter().map(|i| format!("OLD.{0} IS NOT NEW.{0}", column(*i))).collect::<Vec<_>>().join(" OR ");
    let moment = if early { "BEFORE" } else { "AFTER" };
    // An INTEGER PRIMARY KEY also changes through its other names.
    let other_names = if table.integer_key() && !table.without_rowid { ", rowid, oid, _rowid_" } else { "" };
    // A row that takes another key is logged whole: under its old key nothing is left to say the rest.
    let texts = if early { Vec::new() } else { texts(table) };
    let in_part = texts.iter().fold(CHANGED_IN_PART, |op, i| op | 1 << (*i as u32 + KIND_BITS));
    let changed = (0..table.columns.len())
        .map(|i| {
            let c = column(i);
            if texts.contains(&i) {
                format!("CASE WHEN OLD.{c} IS NOT NEW.{c} COLLATE BINARY THEN ifnull(OLD.{c}, 1) END")
            } else {
                format!("OLD.{c}")
            }
        })
        .collect::<Vec<_>>()
        .join(", ");
    let whole = format!("INSERT INTO {log} (op, {all}) VALUES ({CHANGED}, {old});");
    let came = format!("INSERT INTO {log} (op, {key_log}) VALUES ({CAME}, {key_new});");
    let mut out = Vec::new();
    let mut add = |suffix: &str, head: String, body: &str| {
        let name = format!("_sync_{id}_{suffix}");
        let sql = format!("CREATE TRIGGER {} {head} BEGIN {body} END", quote(&name));
        out.push((name, sql));
    };
    let rekeyed = format!("INSERT INTO {log} (op, {all}) VALUES ({REKEYED}, {old}); {came}");
    add("insert", format!("AFTER INSERT ON {on}"), &came);
    let in_part = format!("INSERT INTO {log} (op, {all}) VALUES ({in_part}, {changed});");
    add("update", format!("{moment} UPDATE ON {on}"), if texts.is_empty() { &whole } else { &in_part });
    add("rekey", format!("AFTER UPDATE OF {key_columns}{other_names} ON {on} WHEN {key_changed}"), &rekeyed);
    add(
        "delete",
        format!("{moment} DELETE ON {on}"),
        &format!("INSERT INTO {log} (op, {all}) VALUES ({WENT}, {old});"),
    );
    // Rows that hold a UNIQUE value of the new row: REPLACE would evict them in silence.
    let threatened = |columns: &[usize], collations: &[String], not: &str| {
        let same = columns
            .iter()
            .enumerate()
            .map(|(n, i)| {
                let collate = collations.get(n).map(|c| format!(" COLLATE {}", quote(c))).unwrap_or_default();
                format!("{0} = NEW.{0}{collate}", column(*i))
            })
            .collect::<Vec<_>>()
            .join(" AND ");
        let values = (0..table.columns.len()).map(column).collect::<Vec<_>>().join(", ");
        format!("INSERT INTO {log} (op, {all}) SELECT {THREATENED}, {values} FROM {on} WHERE {same}{not};")
    };
    if !table.uniques.is_empty() {
        let body: Vec<String> = table.uniques.iter().map(|u| threatened(&u.columns, &u.collations, "")).collect();
        add("evict_insert", format!("BEFORE INSERT ON {on}"), &body.join(" "));
    }
    let not_itself = format!(
        " AND NOT ({})",
        table.key.iter().map(|i| format!("{0} IS OLD.{0}", column(*i))).collect::<Vec<_>>().join(" AND ")
    );
    let body: Vec<String> = std::iter::once(threatened(&table.key, &[], &not_itself))
        .chain(table.uniques.iter().map(|u| threatened(&u.columns, &u.collations, &not_itself)))
        .collect();
    let watched: std::collections::BTreeSet<usize> =
        table.key.iter().copied().chain(table.uniques.iter().flat_map(|u| u.columns.iter().copied())).collect();
    add(
        "evict_update",
        format!("BEFORE UPDATE OF {} ON {on}", quote_all(watched.iter().map(|i| table.columns[*i].sql_name.as_str()))),
        &body.join(" "),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::introspect::introspect;
    use rusqlite::Connection;

    fn captured(ddl: &str, early: bool) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(ddl).unwrap();
        let schema = introspect(&conn, None).unwrap().schema;
        for (id, t) in schema.tables().iter().enumerate() {
            conn.execute_batch(&create_log(id as i64, t.columns.len())).unwrap();
            for (_, sql) in triggers(id as i64, t, early) {
                conn.execute_batch(&sql).unwrap();
            }
        }
        conn
    }

    fn log(conn: &Connection, id: i64) -> Vec<String> {
        let mut s = conn
            .prepare(&format!("SELECT op || ' ' || quote(c0) || ' ' || quote(c1) FROM _sync_log_{id} ORDER BY rowid"))
            .unwrap();
        s.query_map([], |r| r.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn every_kind_of_change_leaves_its_base() {
        for early in [false, true] {
            changes(&captured("CREATE TABLE \"my tab\" (\"group\" TEXT PRIMARY KEY, v INTEGER)", early));
        }
    }

    fn changes(conn: &Connection) {
        conn.execute_batch(
            "INSERT INTO \"my tab\" VALUES ('a', 1), ('b', 2);
             UPDATE \"my tab\" SET v = 5 WHERE \"group\" = 'a';
             UPDATE \"my tab\" SET \"group\" = 'c' WHERE \"group\" = 'b';
             DELETE FROM \"my tab\" WHERE \"group\" = 'a';",
        )
        .unwrap();
        let log = log(conn, 0);
        assert_eq!(&log[..3], ["1 'a' NULL", "1 'b' NULL", "2 'a' 1"]);
        let rekeyed = log.iter().position(|e| e == "6 'b' 2").expect("an entry of the old key");
        assert_eq!(log[rekeyed + 1], "1 'c' NULL", "the next entry has the new key: {log:?}");
        assert!(log[3..6].contains(&"2 'b' 2".into()), "{log:?}");
        assert_eq!(&log[6..], ["3 'a' 5"]);
    }

    #[test]
    fn rows_that_replace_evicts_are_captured() {
        let conn = captured("CREATE TABLE t (id TEXT PRIMARY KEY, email TEXT UNIQUE)", false);
        conn.execute_batch("INSERT INTO t VALUES ('a', 'x'), ('b', 'y'); DELETE FROM _sync_log_0").unwrap();
        conn.execute_batch("INSERT OR REPLACE INTO t VALUES ('c', 'x')").unwrap();
        assert_eq!(log(&conn, 0), ["4 'a' 'x'", "1 'c' NULL"]);
        conn.execute_batch("DELETE FROM _sync_log_0; UPDATE OR REPLACE t SET email = 'y' WHERE id = 'c'").unwrap();
        assert_eq!(log(&conn, 0), ["4 'b' 'y'", "21 'c' 'x'"]);
        conn.execute_batch(
            "INSERT INTO t VALUES ('d', 'z'); DELETE FROM _sync_log_0; UPDATE OR REPLACE t SET id = 'd' WHERE id = 'c'",
        )
        .unwrap();
        let log = log(&conn, 0);
        assert_eq!(log[0], "4 'd' 'z'");
    }

    #[test]
    fn a_rolled_back_change_leaves_nothing() {
        let conn = captured("CREATE TABLE t (id TEXT PRIMARY KEY, email TEXT UNIQUE)", false);
        conn.execute_batch("BEGIN; INSERT INTO t VALUES ('a', 'x'); ROLLBACK").unwrap();
        assert!(conn.execute("INSERT INTO t VALUES ('a', NULL), ('a', NULL)", []).is_err());
        assert!(log(&conn, 0).is_empty());
    }
}
