//! What the app was told is done, kept apart from everything that syncs.
//!
//! Every write has a stamp that no other write has, and its row names the stamp that it was written
//! over. So a write is accounted for where it is in a row, or where a write over it is, or where the
//! inbox has the row that it made.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use crate::Outcome;

/// The app's tables.
pub(crate) const SCHEMA: &str = "\
CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, stamp INTEGER NOT NULL, prev INTEGER, body TEXT NOT NULL, \
num REAL, data BLOB, parent TEXT);
CREATE TABLE items (id TEXT PRIMARY KEY NOT NULL, stamp INTEGER NOT NULL, prev INTEGER, body TEXT NOT NULL, \
num REAL, data BLOB, parent TEXT NOT NULL REFERENCES notes(id));
CREATE INDEX items_by_parent ON items(parent);
";

/// The tables, parents first.
pub(crate) const TABLES: [&str; 2] = ["notes", "items"];

/// Rows that every device writes to.
const SHARED: i64 = 12;

/// A row's table and id.
pub(crate) type Place = (&'static str, String);

/// A write that the app made, acknowledged once its transaction is committed.
struct Write {
    place: Place,
    stamp: i64,
    prev: Option<i64>,
    gone: bool,
    shared: bool,
}

/// All acknowledged writes.
#[derive(Default)]
pub(crate) struct Model {
    stamp: i64,
    acknowledged: usize,
    /// Writes to rows that every device writes, and the stamp that each was made over.
    shared: BTreeMap<i64, Option<i64>>,
    /// What a row that only one device writes must be: its stamp, or gone.
    owned: BTreeMap<Place, Option<i64>>,
    /// Writes that are in an inbox.
    pub(crate) set_aside: BTreeSet<i64>,
    /// Deletes that were undone, which an inbox says.
    pub(crate) undone: BTreeSet<Place>,
}

/// What a batch of edits has.
#[derive(Clone, Copy)]
pub(crate) struct Batch {
    /// New rows.
    pub(crate) fresh: usize,
    /// Whether rows are written that other devices write too.
    pub(crate) shared: bool,
    /// Whether rows refer to rows that another device may be deleting.
    pub(crate) tangled: bool,
}

/// The body that a write with this stamp has.
pub(crate) fn body(stamp: i64) -> String {
    format!("write {stamp}: it's \"é\u{1f600}\" {}", "x".repeat(usize::try_from(stamp % 50).unwrap_or(0)))
}

fn data(stamp: i64) -> Vec<u8> {
    stamp.to_be_bytes().repeat(usize::try_from(stamp % 7).unwrap_or(0))
}

/// What a row must hold beside its stamp, as on the wire.
pub(crate) fn is_whole(stamp: i64, row: &serde_json::Value) -> bool {
    row["body"] == body(stamp)
        && row["num"] == serde_json::json!(number(stamp))
        && row["data"] == STANDARD.encode(data(stamp))
}

/// A fraction, so that no JSON makes an integer of it.
#[expect(clippy::cast_precision_loss, reason = "stamps are small")]
fn number(stamp: i64) -> f64 {
    stamp as f64 + 0.5
}

/// A row of a file as on the wire, with the column names of the statement.
pub(crate) fn wire(row: &rusqlite::Row<'_>) -> rusqlite::Result<serde_json::Value> {
    let mut object = serde_json::Map::new();
    for (i, name) in row.as_ref().column_names().enumerate() {
        let value = match row.get::<_, rusqlite::types::Value>(i)? {
            rusqlite::types::Value::Null => serde_json::Value::Null,
            rusqlite::types::Value::Integer(n) => n.into(),
            rusqlite::types::Value::Real(n) => n.into(),
            rusqlite::types::Value::Text(s) => s.into(),
            rusqlite::types::Value::Blob(b) => STANDARD.encode(b).into(),
        };
        object.insert(name.to_owned(), value);
    }
    Ok(object.into())
}

impl Model {
    /// A stamp of its own.
    pub(crate) fn next(&mut self) -> i64 {
        self.stamp += 1;
        self.stamp
    }

    /// The statement by which the `sqlite3` shell writes, and what it does once it is reported as done.
    pub(crate) fn shell_write(&mut self, device: &str, n: usize) -> (String, ShellWrite) {
        let stamp = self.next();
        // Every third one writes over an earlier row of the same shell.
        let id = format!("{device}-shell-{}", n - n % 3 / 2);
        let blob: String = data(stamp).iter().map(|b| format!("{b:02x}")).collect();
        let (text, num) = (body(stamp).replace('\'', "''"), number(stamp));
        let sql = format!(
            "INSERT INTO notes (id, stamp, prev, body, num, data) VALUES ('{id}', {stamp}, NULL, '{text}', {num:?}, \
             x'{blob}') ON CONFLICT (id) DO UPDATE SET stamp = excluded.stamp, prev = notes.stamp, \
             body = excluded.body, num = excluded.num, data = excluded.data;"
        );
        (sql, ShellWrite { place: ("notes", id), stamp })
    }

    /// The shell said that it is done.
    pub(crate) fn shell_done(&mut self, write: ShellWrite) {
        let prev = self.owned.get(&write.place).copied().flatten();
        self.acknowledge(vec![Write { place: write.place, stamp: write.stamp, prev, gone: false, shared: false }]);
    }

    /// Writes a batch in one transaction.
    pub(crate) fn edit(&mut self, conn: &mut Connection, device: &str, batch: Batch) -> Outcome<()> {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut writes = Vec::new();
        for _ in 0..batch.fresh {
            let stamp = self.next();
            let note = format!("{device}-{stamp}");
            if stamp % 3 > 0 {
                put(&tx, &mut writes, ("notes", note), stamp, None, false)?;
            } else {
                let which = if batch.tangled { "%" } else { "shared-%" };
                let parent: Option<String> = tx
                    .query_row(
                        "SELECT id FROM notes WHERE id LIKE ? ORDER BY (stamp + ?) * 7919 % 101 LIMIT 1",
                        (which, stamp),
                        |r| r.get(0),
                    )
                    .optional()?;
                let table = if parent.is_some() { "items" } else { "notes" };
                put(&tx, &mut writes, (table, note), stamp, parent.as_deref(), false)?;
            }
        }
        let own: Vec<Place> = self
            .owned
            .iter()
            .filter(|((_, id), last)| last.is_some() && id.starts_with(&format!("{device}-")) && !id.contains("shell"))
            .map(|(place, _)| place.clone())
            .collect();
        let step = own.len() / 4 + 1;
        for (n, place) in own.into_iter().enumerate().filter(|(n, _)| n % step == step / 2) {
            if stamp_of(&tx, &place)?.is_none() {
                // It was set aside: the row that it referred to was deleted elsewhere.
                continue;
            }
            let stamp = self.next();
            if n % 2 == 0 && !referred_to(&tx, &place)? {
                remove(&tx, &mut writes, place, stamp)?;
            } else {
                put(&tx, &mut writes, place, stamp, None, false)?;
            }
        }
        if batch.shared {
            for _ in 0..3 {
                let stamp = self.next();
                put(&tx, &mut writes, ("notes", format!("shared-{}", stamp * 7 % SHARED)), stamp, None, true)?;
            }
        }
        tx.commit()?;
        self.acknowledge(writes);
        Ok(())
    }

    /// Acknowledged writes, so far.
    pub(crate) const fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    fn acknowledge(&mut self, writes: Vec<Write>) {
        self.acknowledged += writes.len();
        for w in writes {
            if w.shared {
                self.shared.insert(w.stamp, w.prev);
            } else {
                self.owned.insert(w.place, (!w.gone).then_some(w.stamp));
            }
        }
    }

    /// What is wrong with these rows, given all that was acknowledged.
    pub(crate) fn judge(&self, rows: &BTreeMap<Place, i64>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (place, last) in &self.owned {
            let is = rows.get(place).copied();
            let said = match (is, *last) {
                (None, Some(stamp)) => self.set_aside.contains(&stamp),
                (Some(_), None) => self.undone.contains(place),
                _ => false,
            };
            if is != *last && !said {
                wrong.push(format!("{} {} is {is:?}, the app wrote {last:?}", place.0, place.1));
            }
        }
        for (place, stamp) in rows {
            if !self.shared.contains_key(stamp) && !self.owned.contains_key(place) {
                wrong.push(format!("{} {} was written by nobody", place.0, place.1));
            }
        }
        let mut kept = BTreeSet::new();
        let mut walk: Vec<i64> = rows.values().chain(&self.set_aside).copied().collect();
        while let Some(stamp) = walk.pop() {
            if let (Some(prev), true) = (self.shared.get(&stamp), kept.insert(stamp)) {
                walk.extend(prev);
            }
        }
        for stamp in self.shared.keys().filter(|s| !kept.contains(s)) {
            wrong.push(format!("write {stamp} was acknowledged, and is in no row and no inbox"));
        }
        wrong
    }
}

/// A write of the `sqlite3` shell.
pub(crate) struct ShellWrite {
    place: Place,
    pub(crate) stamp: i64,
}

fn put(
    tx: &Transaction<'_>,
    writes: &mut Vec<Write>,
    place: Place,
    stamp: i64,
    parent: Option<&str>,
    shared: bool,
) -> Outcome<()> {
    let (table, id) = &place;
    let prev = stamp_of(tx, &place)?;
    let (text, num, blob) = (body(stamp), number(stamp), data(stamp));
    if prev.is_some() {
        let sql = format!("UPDATE {table} SET stamp = ?, prev = ?, body = ?, num = ?, data = ? WHERE id = ?");
        tx.execute(&sql, (stamp, prev, text, num, blob, id))?;
    } else {
        let sql =
            format!("INSERT INTO {table} (id, stamp, prev, body, num, data, parent) VALUES (?, ?, ?, ?, ?, ?, ?)");
        tx.execute(&sql, (id, stamp, prev, text, num, blob, parent))?;
    }
    writes.push(Write { place, stamp, prev, gone: false, shared });
    Ok(())
}

fn remove(tx: &Transaction<'_>, writes: &mut Vec<Write>, place: Place, stamp: i64) -> Outcome<()> {
    let prev = stamp_of(tx, &place)?;
    tx.execute(&format!("DELETE FROM {} WHERE id = ?", place.0), [&place.1])?;
    writes.push(Write { place, stamp, prev, gone: true, shared: false });
    Ok(())
}

fn referred_to(tx: &Transaction<'_>, (table, id): &Place) -> Outcome<bool> {
    Ok(*table == "notes" && tx.prepare("SELECT 1 FROM items WHERE parent = ?")?.exists([id])?)
}

fn stamp_of(tx: &Transaction<'_>, (table, id): &Place) -> Outcome<Option<i64>> {
    Ok(tx.query_row(&format!("SELECT stamp FROM {table} WHERE id = ?"), [id], |r| r.get(0)).optional()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(stamp: i64, prev: Option<i64>) -> Write {
        Write { place: ("notes", "s".into()), stamp, prev, gone: false, shared: true }
    }

    fn owned(stamp: i64, gone: bool) -> Write {
        Write { place: ("notes", "o".into()), stamp, prev: None, gone, shared: false }
    }

    fn rows(stamps: &[(&str, i64)]) -> BTreeMap<Place, i64> {
        stamps.iter().map(|(id, stamp)| (("notes", (*id).to_owned()), *stamp)).collect()
    }

    #[test]
    fn a_write_is_in_a_row_under_one_or_in_an_inbox() {
        let mut model = Model::default();
        model.acknowledge(vec![shared(1, None), shared(2, Some(1)), shared(3, Some(1))]);
        assert_eq!(model.judge(&rows(&[("s", 2)])).len(), 1, "write 3 is nowhere");
        assert_eq!(model.judge(&rows(&[])).len(), 3);
        model.set_aside.insert(3);
        assert_eq!(model.judge(&rows(&[("s", 2)])), Vec::<String>::new());
        assert_eq!(model.judge(&rows(&[("s", 1)])).len(), 1, "write 2 is nowhere");
    }

    #[test]
    fn a_row_of_one_device_is_what_that_device_wrote_last() {
        let mut model = Model::default();
        model.acknowledge(vec![owned(1, false), owned(2, false)]);
        assert!(model.judge(&rows(&[("o", 2)])).is_empty());
        for wrong in [&[("o", 1)][..], &[], &[("o", 2), ("x", 3)]] {
            assert_eq!(model.judge(&rows(wrong)).len(), 1, "{wrong:?}");
        }
        model.acknowledge(vec![owned(3, true)]);
        assert!(model.judge(&rows(&[])).is_empty());
        assert_eq!(model.judge(&rows(&[("o", 2)])).len(), 1, "the delete came undone");
        model.undone.insert(("notes", "o".into()));
        assert!(model.judge(&rows(&[("o", 2)])).is_empty());
    }

    #[test]
    fn rows_are_whole_or_not() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(SCHEMA).unwrap();
        let (mut model, mut conn) = (Model::default(), conn);
        model.edit(&mut conn, "a", Batch { fresh: 9, shared: true, tangled: true }).unwrap();
        let mut statement = conn.prepare("SELECT * FROM notes").unwrap();
        let found: Vec<serde_json::Value> =
            statement.query_map([], wire).unwrap().collect::<rusqlite::Result<_>>().unwrap();
        assert!(found.len() > 5);
        for row in found {
            let stamp = row["stamp"].as_i64().unwrap();
            assert!(is_whole(stamp, &row) && !is_whole(stamp + 1, &row), "{row}");
        }
    }
}
