//! The versions of our tables in the app's file, and the steps from each to the next.
//!
//! A file is brought up to date when it is opened, in one transaction with everything else that opening
//! does. A step, once released, never changes: a new version is a new step.

use rusqlite::Connection;

use super::Meta;
use crate::error::Error;

/// The version of our tables; a newer one than this program knows is an error.
pub(super) fn readable(conn: &Connection) -> Result<i64, Error> {
    let version = Meta::Format.integer(conn)?;
    if version > FORMAT { Err(Error::NewerFormat(version)) } else { Ok(version) }
}

/// Brings our tables to the newest version.
pub(super) fn migrate(conn: &Connection) -> Result<(), Error> {
    let from = readable(conn)?;
    let done = usize::try_from(from).map_err(|_| Error::Damaged("format".into()))?;
    if done == STEPS.len() {
        return Ok(());
    }
    for step in &STEPS[done..] {
        conn.execute_batch(step)?;
    }
    Meta::Format.set(conn, FORMAT)
}

/// Makes our tables in a file that has none.
pub(super) fn create(conn: &Connection) -> Result<(), Error> {
    for step in STEPS {
        conn.execute_batch(step)?;
    }
    Meta::Format.set(conn, FORMAT)
}

/// The tables and indexes of ours that are missing from a file, as statements that make them: an app's clean-up may have
/// taken some.
pub(super) fn missing(conn: &Connection) -> Result<Vec<(String, String)>, Error> {
    let done = usize::try_from(readable(conn)?).map_err(|_| Error::Damaged("format".into()))?;
    let whole = Connection::open_in_memory()?;
    for step in &STEPS[..done] {
        whole.execute_batch(step)?;
    }
    let mut s = whole.prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type DESC, name")?;
    let all: Vec<(String, String)> = s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut there = conn.prepare("SELECT 1 FROM main.sqlite_schema WHERE name = ?")?;
    let mut missing = Vec::new();
    for (name, sql) in all {
        if !there.exists([&name])? {
            missing.push((name, sql));
        }
    }
    Ok(missing)
}

/// The newest version: the number of steps.
pub(crate) const FORMAT: i64 = STEPS.len() as i64;

/// What makes each version from the one before; the first makes them from nothing. Keys and rows are stored
/// forms of `sync_core::key` and `sync_core::record`; a version of a row below zero is a tombstone's.
const STEPS: &[&str] = &[
    "
CREATE TABLE main._sync_meta (name TEXT PRIMARY KEY NOT NULL, value) WITHOUT ROWID;
CREATE TABLE main._sync_table (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, columns TEXT NOT NULL,
  grown_from INTEGER);
CREATE TABLE main._sync_dirty (t INTEGER NOT NULL, k BLOB NOT NULL, since INTEGER NOT NULL, base BLOB, held TEXT,
  message TEXT, PRIMARY KEY (t, k)) WITHOUT ROWID;
CREATE TABLE main._sync_row (t INTEGER NOT NULL, k BLOB NOT NULL, v INTEGER NOT NULL, PRIMARY KEY (t, k))
  WITHOUT ROWID;
CREATE TABLE main._sync_outbox (state TEXT NOT NULL, source_id TEXT NOT NULL, source_bundle_id INTEGER NOT NULL,
  rows INTEGER NOT NULL, request_hash BLOB NOT NULL, bundle_seq INTEGER NOT NULL);
CREATE TABLE main._sync_out (ordinal INTEGER PRIMARY KEY, t INTEGER NOT NULL, k BLOB NOT NULL, op INTEGER NOT NULL,
  base_version INTEGER NOT NULL, row BLOB, base BLOB, since INTEGER NOT NULL);
CREATE TABLE main._sync_inbox (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, at INTEGER NOT NULL, tbl TEXT NOT NULL,
  key TEXT NOT NULL, op TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL, local_row TEXT, base_row TEXT,
  server_row TEXT);
CREATE TABLE main._sync_history (seq INTEGER PRIMARY KEY, hash BLOB NOT NULL);
",
    // Entries of a log may lack the texts that an UPDATE left alone: a form, not a table. Held rows are found at once.
    "CREATE INDEX IF NOT EXISTS main._sync_dirty_held ON _sync_dirty (t, k) WHERE held IS NOT NULL;",
    // How often a refused row was tried in vain, and what changed around it since; which part of a large dirty set a row
    // belongs to; where the search for a row that the server does not name stands.
    "
CREATE TABLE IF NOT EXISTS main._sync_refusal (t INTEGER NOT NULL, k BLOB NOT NULL, tries INTEGER NOT NULL,
  touches INTEGER NOT NULL, PRIMARY KEY (t, k)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS main._sync_part (t INTEGER NOT NULL, k BLOB NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (t, k))
  WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS main._sync_part_n ON _sync_part (n);
CREATE TABLE IF NOT EXISTS main._sync_suspect (t INTEGER NOT NULL, k BLOB NOT NULL, g INTEGER NOT NULL, kept INTEGER NOT NULL,
  PRIMARY KEY (t, k)) WITHOUT ROWID;
",
    // What a merge made of two rows.
    "ALTER TABLE main._sync_inbox ADD COLUMN merged_row TEXT;",
    // The declared types and the key of a table, to tell when the app changes them; none in a file of before.
    "ALTER TABLE main._sync_table ADD COLUMN shape TEXT;",
    // Rows that wait for a held one are found at once, beside however many that are held themselves.
    "CREATE INDEX IF NOT EXISTS main._sync_dirty_waits ON _sync_dirty (t, k) WHERE held = 'waits_for';",
    // Rows that are set aside are looked up for each row that comes.
    "CREATE INDEX IF NOT EXISTS main._sync_inbox_aside ON _sync_inbox (tbl, key) WHERE reason = 'set_aside';",
    // How a row left its table, and under which key it went on: a change of a key is not the delete of a row. Why a row is
    // set aside is said by a value, no longer by the end of a sentence. What we wrote as triggers, to tell whether anybody
    // else did. What was known of the history before this one. What
    // the server said when a suspect failed alone.
    "
CREATE TABLE IF NOT EXISTS main._sync_earlier (t INTEGER NOT NULL, k BLOB NOT NULL, v INTEGER NOT NULL, base BLOB, hash BLOB,
  PRIMARY KEY (t, k)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS main._sync_earlier_history (seq INTEGER PRIMARY KEY, hash BLOB NOT NULL);
ALTER TABLE main._sync_table ADD COLUMN triggers TEXT;
UPDATE main._sync_inbox SET reason = 'set_aside_unique' WHERE kind = 'conflict' AND reason = 'set_aside'
  AND message LIKE '%a UNIQUE value is held by another row, by a rule that only this file has';
UPDATE main._sync_inbox SET reason = 'set_aside_parent' WHERE kind = 'conflict' AND reason = 'set_aside'
  AND message = 'the row that this one refers to is set aside: this file''s schema refuses it';
DROP INDEX IF EXISTS main._sync_inbox_aside;
CREATE INDEX main._sync_inbox_aside ON _sync_inbox (tbl, key)
  WHERE reason IN ('set_aside', 'set_aside_unique', 'set_aside_parent', 'set_aside_local');
ALTER TABLE main._sync_dirty ADD COLUMN departure INTEGER;
ALTER TABLE main._sync_dirty ADD COLUMN heir BLOB;
ALTER TABLE main._sync_out ADD COLUMN departure INTEGER;
ALTER TABLE main._sync_out ADD COLUMN heir BLOB;
CREATE INDEX IF NOT EXISTS main._sync_dirty_followed ON _sync_dirty (t, k) WHERE departure > 1;
ALTER TABLE main._sync_suspect ADD COLUMN message TEXT;
",
];
