//! Local intents: each key that changed since it was last frozen, with its base.
//!
//! Triggers append to logs; [`Store::absorb`] folds the logs into one entry a key, in a transaction
//! of ours. The first entry of a key is its base, later ones add nothing.

use rusqlite::{Connection, OptionalExtension as _};
use sync_core::engine::departure::Departure;
use sync_core::record::{self, Record};
use sync_core::sqlite::capture::{log_columns, log_name};
use sync_core::sqlite::quote;

use super::fold::{Rows, fold};
use super::{Meta, Store};
use crate::error::Error;

/// Entries of a log: about a tenth of a second.
const MUCH: i64 = 20_000;

/// Why a row is held that belongs to more rows than the server takes at once. One that changes changes them all.
const GROUP_TOO_LARGE: &str = "group_too_large";

/// Why a row is held that nobody refused: it needs one that was. An index of our tables names it, too.
pub(crate) const WAITS_FOR: &str = "waits_for";

/// One key's intent.
#[derive(Debug)]
pub(crate) struct Dirty {
    /// When it was noticed, in milliseconds since the epoch.
    pub(crate) since: i64,
    /// The row at its known version, where known.
    pub(crate) base: Option<Record>,
    /// The refusal that it waits for, in one word.
    pub(crate) held: Option<String>,
}

impl Store {
    /// Folds the logs into the intents. An edit of a refused row lets it be tried again.
    pub(crate) fn absorb(&self, now: i64) -> Result<(), Error> {
        let mut noticed = false;
        let grouped = self.grouped()?;
        for (position, m) in self.managed.iter().enumerate() {
            let table = self.table(position);
            let log = quote(&log_name(m.id));
            let mut any = self.conn.prepare_cached(&format!("SELECT 1 FROM main.{log} LIMIT 1"))?;
            if !any.exists([])? {
                continue;
            }
            let names = log_columns(table.columns.len());
            let key: Vec<&str> = table.key.iter().map(|i| names[*i].as_str()).collect();
            let rows = Rows { id: m.id, key: &key, columns: names.len(), live: Some(&m.sql) };
            if fold(&self.conn, &rows, now)? {
                note_unnameable(&self.conn, &table.name, &format!("main.{log}"), &key, now)?;
            }
            self.forget_trials(m.id, &key.join(", "), &log)?;
            self.conn.prepare_cached(&format!("DELETE FROM main.{log}"))?.execute([])?;
            noticed = true;
        }
        if !noticed {
            return Ok(());
        }
        if grouped > self.grouped()? {
            self.let_groups_go()?;
        }
        notice(&self.conn)
    }

    /// Rows that are held with a group of rows.
    fn grouped(&self) -> Result<i64, Error> {
        let sql = "SELECT count(*) FROM main._sync_dirty WHERE held = ? AND held IS NOT NULL";
        Ok(self.conn.prepare_cached(sql)?.query_row([GROUP_TOO_LARGE], |r| r.get(0))?)
    }

    /// One of them changed: the groups are made anew by the next freeze.
    fn let_groups_go(&self) -> Result<(), Error> {
        self.conn
            .prepare_cached("UPDATE main._sync_dirty SET held = NULL, message = NULL WHERE held = ?")?
            .execute([GROUP_TOO_LARGE])?;
        Ok(())
    }

    /// Whether there is any intent, or, with `pushable`, one that no refusal holds back.
    pub(crate) fn any_dirty(&self, pushable: bool) -> Result<bool, Error> {
        let sql = if pushable {
            "SELECT 1 FROM main._sync_dirty WHERE held IS NULL LIMIT 1"
        } else {
            "SELECT 1 FROM main._sync_dirty LIMIT 1"
        };
        Ok(self.conn.prepare_cached(sql)?.exists([])?)
    }

    /// Whether the app wrote something that is not absorbed yet.
    pub(crate) fn any_logged(&self) -> Result<bool, Error> {
        for m in &self.managed {
            let sql = format!("SELECT 1 FROM main.{} LIMIT 1", quote(&log_name(m.id)));
            if self.conn.prepare_cached(&sql)?.exists([])? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether there is so much of it that an app would notice how long it takes to absorb.
    pub(crate) fn much_logged(&self) -> Result<bool, Error> {
        for m in &self.managed {
            let sql =
                format!("SELECT max(rowid) - (SELECT min(rowid) FROM main.{0}) FROM main.{0}", quote(&log_name(m.id)));
            let entries: Option<i64> = self.conn.prepare_cached(&sql)?.query_row([], |r| r.get(0))?;
            if entries.is_some_and(|n| n >= MUCH) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The intent for a key.
    pub(crate) fn dirty(&self, t: i64, k: &[u8]) -> Result<Option<Dirty>, Error> {
        let found = self
            .conn
            .prepare_cached("SELECT since, base, held FROM main._sync_dirty WHERE t = ? AND k = ?")?
            .query_row((t, k), |r| Ok((r.get(0)?, r.get::<_, Option<Vec<u8>>>(1)?, r.get(2)?)))
            .optional()?;
        found
            .map(|(since, base, held)| Ok(Dirty { since, base: base.map(|b| record::decode(&b)).transpose()?, held }))
            .transpose()
    }

    /// Ends an intent: confirmed, or discarded and recorded.
    pub(crate) fn drop_dirty(&self, t: i64, k: &[u8]) -> Result<bool, Error> {
        let sql = "DELETE FROM main._sync_dirty WHERE t = ? AND k = ? RETURNING held";
        let held: Option<Option<String>> = self.conn.prepare_cached(sql)?.query_row((t, k), |r| r.get(0)).optional()?;
        if held.as_ref().is_some_and(|h| h.as_deref() == Some(GROUP_TOO_LARGE)) {
            self.let_groups_go()?;
        }
        // Whatever waited for this row is looked at again by the next freeze.
        if held.as_ref().is_some_and(|h| h.as_deref().is_some_and(|h| h != WAITS_FOR)) {
            self.let_waiting_go()?;
        }
        Ok(held.is_some())
    }

    /// Rows that wait for others are looked at again by the next freeze.
    pub(crate) fn let_waiting_go(&self) -> Result<(), Error> {
        self.conn
            .prepare_cached(
                "UPDATE main._sync_dirty INDEXED BY _sync_dirty_waits SET held = NULL, message = NULL \
                 WHERE held = 'waits_for'",
            )?
            .execute([])?;
        Ok(())
    }

    /// Records an intent, or moves the base of one that exists. It is tried again if it was held.
    pub(crate) fn put_dirty(&self, t: i64, k: &[u8], since: i64, base: Option<&Record>) -> Result<(), Error> {
        self.conn
            .prepare_cached(
                "INSERT INTO main._sync_dirty (t, k, since, base) VALUES (?, ?, ?, ?) \
                 ON CONFLICT (t, k) DO UPDATE SET base = excluded.base, held = NULL, message = NULL",
            )?
            .execute((t, k, since, base.map(|b| record::encode_partial(b))))?;
        Ok(())
    }

    /// Remembers how the row of an intent left its table.
    pub(crate) fn note_departure(
        &self,
        t: i64,
        k: &[u8],
        departure: Departure,
        heir: Option<&[u8]>,
    ) -> Result<(), Error> {
        self.conn
            .prepare_cached("UPDATE main._sync_dirty SET departure = ?3, heir = ?4 WHERE t = ?1 AND k = ?2")?
            .execute((t, k, departure.stored(), heir))?;
        Ok(())
    }

    /// The key under which a row went on that has another one now.
    pub(crate) fn heir(&self, t: i64, k: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let sql = "SELECT heir FROM main._sync_dirty WHERE t = ? AND k = ?";
        Ok(self.conn.prepare_cached(sql)?.query_row((t, k), |r| r.get(0)).optional()?.flatten())
    }

    /// Holds an intent back, with the reason in one word and for a person.
    pub(crate) fn hold(&self, t: i64, k: &[u8], reason: &str, message: &str) -> Result<(), Error> {
        self.conn
            .prepare_cached("UPDATE main._sync_dirty SET held = ?3, message = ?4 WHERE t = ?1 AND k = ?2")?
            .execute((t, k, reason, message))?;
        Ok(())
    }

    /// Lets one held intent be tried again.
    pub(crate) fn let_go(&self, t: i64, k: &[u8]) -> Result<(), Error> {
        if self.dirty(t, k)?.is_some_and(|d| d.held.as_deref() == Some(GROUP_TOO_LARGE)) {
            return self.let_groups_go();
        }
        self.conn
            .prepare_cached("UPDATE main._sync_dirty SET held = NULL, message = NULL WHERE t = ? AND k = ?")?
            .execute((t, k))?;
        Ok(())
    }

    /// A person changed something, as an edit of the app would.
    pub(crate) fn notice(&self) -> Result<(), Error> {
        notice(&self.conn)
    }
}

/// Local changes were noticed: what comes later is told from them.
pub(super) fn notice(conn: &Connection) -> Result<(), Error> {
    Meta::Noticed.set(conn, Meta::Noticed.integer(conn)? + 1)
}

/// S11: rows whose key no other device could name: a REAL in a NUMERIC key, or text that is not UTF-8.
/// They stay in their table, nothing waits for them, and the inbox says so, once a table.
pub(super) fn note_unnameable(
    conn: &Connection,
    table: &str,
    from: &str,
    keys: &[&str],
    now: i64,
) -> Result<(), Error> {
    let null: Vec<String> = keys.iter().map(|k| format!("{k} IS NULL")).collect();
    if conn.prepare(&format!("SELECT 1 FROM {from} WHERE {} LIMIT 1", null.join(" OR ")))?.exists([])? {
        let seen: String = Meta::Keyless.get(conn)?.unwrap_or_default();
        if !seen.lines().any(|s| s == table) {
            Meta::Keyless.set(conn, format!("{seen}{table}\n"))?;
        }
    }
    let not_null: Vec<String> = keys.iter().map(|k| format!("{k} IS NOT NULL")).collect();
    let sql = format!(
        "SELECT count(*) FROM {from} WHERE {} AND _sync_key({}) IS NULL",
        not_null.join(" AND "),
        keys.join(", ")
    );
    let n: i64 = conn.query_row(&sql, [], |r| r.get(0))?;
    if n == 0 {
        return Ok(());
    }
    conn.execute("DELETE FROM main._sync_inbox WHERE tbl = ? AND reason = 'unnameable'", [table])?;
    conn.execute(
        "INSERT INTO main._sync_inbox (kind, at, tbl, key, op, reason, message) \
         VALUES ('rejected', ?, ?, '{}', 'INSERT', 'unnameable', ?)",
        (
            now,
            table,
            format!(
                "{n} changes are to rows whose key no other device could name (a REAL value, or text that is not \
                 valid UTF-8); the rows stay here; give them other keys"
            ),
        ),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::store::Selection;

    /// Steps of SQLite's machine that ending so many held intents takes, one of which others wait for.
    fn steps(held: u32) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY)").unwrap();
        let mut store = Store::open(&path).unwrap();
        store.install("http://localhost", &Selection::All, "source", 0).unwrap();
        let numbers = format!("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {held})");
        app.execute_batch(&format!("{numbers} INSERT INTO t SELECT i FROM n")).unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let step = move || counted.fetch_add(1, Ordering::Relaxed) == u64::MAX;
        store.conn.progress_handler(1, Some(step)).unwrap();
        let tx = store.begin().unwrap();
        store.absorb(1).unwrap();
        tx.execute_batch(
            "UPDATE main._sync_dirty SET held = 'check'; \
             UPDATE main._sync_dirty SET held = 'waits_for' WHERE k = (SELECT max(k) FROM main._sync_dirty)",
        )
        .unwrap();
        let keys: Vec<Vec<u8>> = {
            let mut s = tx.prepare("SELECT k FROM main._sync_dirty ORDER BY k").unwrap();
            s.query_map([], |r| r.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
        };
        let t = store.managed[0].id;
        let before = count.load(Ordering::Relaxed);
        for (n, k) in keys.iter().enumerate() {
            assert!(store.drop_dirty(t, k).unwrap());
            // What waits is looked at again.
            assert!(n + 1 == keys.len() || store.dirty(t, &keys[keys.len() - 1]).unwrap().unwrap().held.is_none());
        }
        count.load(Ordering::Relaxed) - before
    }

    #[test]
    fn the_end_of_a_held_row_costs_no_more_beside_many() {
        let (few, many) = (steps(100), steps(2000));
        assert!(many <= 25 * few, "{many} steps for 2000 held rows, {few} for 100");
    }
}
