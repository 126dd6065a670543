//! Statements that do not come to an end, or that make very much of a row. A trigger runs with each row that is written,
//! and it may be one that a server handed out, as the columns of its table: a stop ends it all the same, and a row that
//! takes too much is given up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Serialize};
use sync_core::hash::Digest;
use sync_core::sqlite::connection::{is_too_long, no_longer_than, room_for};
use sync_core::value::Value;

use super::{Meta, Store};
use crate::aside::RETURNED;
use crate::error::Error;
use crate::inbox::key_json;

/// How many looks are left for the row that is being written.
#[derive(Clone, Default)]
pub(crate) struct Work(Arc<AtomicI64>);

impl Store {
    /// From here on a statement fails with [`Error::Stopped`] once this says so.
    pub(crate) fn heed(&mut self, stopped: impl Fn() -> bool + Send + 'static) -> Result<(), Error> {
        let Work(left) = self.work.clone();
        let look = move || stopped() || left.fetch_sub(1, Ordering::Relaxed) == 1;
        Ok(self.conn.progress_handler(STEPS, Some(look))?)
    }

    /// Writes a row of a table, of which so many bytes came, with what its columns and triggers make of it.
    pub(crate) fn bounded<T>(
        &self,
        position: usize,
        key: &[Value],
        came: u64,
        write: impl Fn() -> Result<T, rusqlite::Error>,
    ) -> Result<Result<T, rusqlite::Error>, Error> {
        self.work.0.store(LOOKS, Ordering::Relaxed);
        let mut written = no_longer_than(&self.conn, room_for(came.max(SHORT)), &write)?;
        if written.as_ref().is_err_and(is_too_long) {
            // It may touch what is here already, as a large full-text index or the rest of a long row. None of that is
            // longer than the file.
            let size = "SELECT page_count * page_size FROM pragma_page_count('main'), pragma_page_size('main')";
            let size: i64 = self.conn.prepare_cached(size)?.query_row([], |r| r.get(0))?;
            let more = size.unsigned_abs().saturating_add(room_for(came));
            if more > room_for(came.max(SHORT)) {
                written = no_longer_than(&self.conn, more, &write)?;
            }
        }
        if self.work.0.swap(0, Ordering::Relaxed) <= 0 && written.is_err() {
            return Err(self.give_up(position, key)?);
        }
        Ok(written)
    }

    /// Remembers a row on which a statement was ended. SQLite has undone the whole transaction with that, so that this is
    /// kept: the next try of it passes the row over, and the others come.
    fn give_up(&self, position: usize, key: &[Value]) -> Result<Error, Error> {
        let table = self.table(position);
        let key = key_json(table, key);
        if self.conn.is_autocommit() {
            let mut rows = self.given_up()?;
            rows.insert((table.name.clone(), key.clone()));
            let kept = GivenUp { triggers: self.all_triggers()?.hex(), rows };
            Meta::GivenUp.set(&self.conn, serde_json::to_string(&kept).unwrap_or_default())?;
        }
        let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE \
                   AND name NOT LIKE '\\_sync\\_%' ESCAPE '\\' ORDER BY name";
        let triggers = self.conn.prepare(sql)?.query_map([&table.sql_name], |r| r.get(0))?.collect::<Result<_, _>>()?;
        Ok(Error::Endless { table: table.sql_name.clone(), key, triggers })
    }

    /// The rows that were given up under the triggers of today, by table and key.
    pub(crate) fn given_up(&self) -> Result<BTreeSet<(String, String)>, Error> {
        match self.kept_given_up()? {
            Some(kept) if kept.triggers == self.all_triggers()?.hex() => Ok(kept.rows),
            _ => Ok(BTreeSet::new()),
        }
    }

    /// Rows that were given up are tried again once any trigger of the file is another one.
    pub(crate) fn look_again_at_given_up(&self) -> Result<(), Error> {
        let Some(kept) = self.kept_given_up()? else { return Ok(()) };
        if kept.triggers == self.all_triggers()?.hex() {
            return Ok(());
        }
        let tx = self.begin()?;
        for (table, key) in &kept.rows {
            if tx.execute(RETURNED, (table, key))? > 0 {
                Meta::Rebuild.set(&tx, "rows that came to no end may do so now")?;
            }
        }
        Meta::GivenUp.clear(&tx)?;
        Ok(tx.commit()?)
    }

    fn kept_given_up(&self) -> Result<Option<GivenUp>, Error> {
        let text: Option<String> = Meta::GivenUp.get(&self.conn)?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    fn all_triggers(&self) -> Result<Digest, Error> {
        let sql = "SELECT coalesce(group_concat(sql, ';'), '') FROM (SELECT sql FROM main.sqlite_schema \
                   WHERE type = 'trigger' AND name NOT LIKE '\\_sync\\_%' ESCAPE '\\' ORDER BY name)";
        let text: String = self.conn.query_row(sql, [], |r| r.get(0))?;
        Ok(Digest::of(text.as_bytes()))
    }
}

/// Rows whose writing did not come to an end, and the triggers that the file had then.
#[derive(Serialize, Deserialize)]
struct GivenUp {
    triggers: String,
    rows: BTreeSet<(String, String)>,
}

/// Rows up to this have the same room: what is made of them may be as long as the longest that apps have.
const SHORT: u64 = 16 << 20;
/// Steps of SQLite's virtual machine between two looks.
const STEPS: i32 = 10_000;
/// Looks while one row is written: some seconds, where counting a large table anew takes one.
const LOOKS: i64 = if cfg!(test) { 100 } else { 30_000 };

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::report::ErrorClass;

    const ENDLESS: &str =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n WHERE i < 0";

    #[test]
    fn a_row_that_takes_too_much_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let schema = "CREATE TABLE n (id TEXT PRIMARY KEY NOT NULL)";
        rusqlite::Connection::open(&path).unwrap().execute_batch(schema).unwrap();
        let mut store = Store::open(&path).unwrap();
        store.install("http://h", &super::super::Selection::All, "s", 0).unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        store.heed(move || stop.load(Ordering::Relaxed)).unwrap();
        let key = |id: &str| [Value::Text(id.into())];
        let insert = |id: &str| store.conn.execute("INSERT INTO n VALUES (?)", [id]);
        let endless =
            format!("CREATE TEMP TRIGGER t AFTER INSERT ON n WHEN NEW.id = 'x' BEGIN SELECT * FROM ({ENDLESS}); END");
        store.conn.execute_batch(&endless).unwrap();
        assert!(matches!(store.bounded(0, &key("a"), 0, || insert("a")), Ok(Ok(1))));
        let given_up = store.bounded(0, &key("x"), 0, || insert("x")).unwrap_err();
        assert!(matches!(given_up, Error::Endless { .. }) && given_up.class() == ErrorClass::Local);
        let said = given_up.to_string();
        assert!(
            said.contains(r#"the row {"id":"x"} of table n "#) && said.contains("does not come to an end"),
            "{said}"
        );
        // It is known by then, until the triggers are others.
        let known = || store.given_up().unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(known(), [("n".to_owned(), r#"{"id":"x"}"#.to_owned())]);
        store.conn.execute_batch("CREATE TRIGGER main.other AFTER DELETE ON n BEGIN SELECT 1; END").unwrap();
        assert!(known().is_empty());
        // What is no row may take long, but for a stop.
        let long = ENDLESS.replace("FROM n) ", "FROM n LIMIT 200000) ");
        let long = || Ok::<_, Error>(store.conn.query_row(&long, [], |r| r.get::<_, i64>(0))?);
        assert_eq!(long().unwrap(), 0);
        stopped.store(true, Ordering::Relaxed);
        assert!(matches!(long(), Err(Error::Stopped)));
        let rows: i64 = store.conn.query_row("SELECT count(*) FROM n", [], |r| r.get(0)).unwrap();
        assert_eq!(rows, 1);
    }
}
