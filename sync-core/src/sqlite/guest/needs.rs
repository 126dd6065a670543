//! What was made and cannot do without something that was left out: a trigger that keeps a full-text index of a module that
//! is not taken would make every write to its table fail.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::{Guest, LeftOut, Makes};
use crate::sqlite::quote;
use crate::sqlite::sql::Token;
use crate::sqlite::triggers::{Trigger, cannot_run};

/// What was made, and what is missing.
#[derive(Default)]
pub(super) struct Needs<'a> {
    pub(super) made: Vec<Guest<'a>>,
    /// By lowercase name: what it is called where it is told of.
    missing: BTreeMap<String, String>,
}

impl<'a> Needs<'a> {
    /// Tables and views may be needed by others.
    pub(super) fn is_missing(&mut self, guest: &Guest<'a>) {
        if matches!(guest.makes, Makes::Table | Makes::View | Makes::Virtual) {
            self.missing.insert(guest.name.to_ascii_lowercase(), guest.name.clone());
        }
    }

    /// Takes views and triggers away again that need what is missing, and then what needs those.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn leave_out(mut self, conn: &Connection) -> rusqlite::Result<Vec<LeftOut>> {
        let mut left_out = Vec::new();
        if self.missing.is_empty() {
            return Ok(left_out);
        }
        // Of each trigger alone it is asked whether it can run.
        let was = conn.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        while let Some((at, what)) = self.next(conn)? {
            let guest = self.made.remove(at);
            let kind = if guest.makes == Makes::View { "VIEW" } else { "TRIGGER" };
            conn.execute_batch(&format!("DROP {kind} IF EXISTS main.{}", quote(&guest.name)))?;
            self.is_missing(&guest);
            left_out.push(guest.left_out(format!("it needs {what}, which is left out")));
        }
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, was)?;
        Ok(left_out)
    }

    /// One that cannot do without something that is missing, and what that is.
    fn next(&self, conn: &Connection) -> rusqlite::Result<Option<(usize, String)>> {
        for (at, guest) in self.made.iter().enumerate() {
            let Some(what) = self.named_in(guest) else { continue };
            let works = match guest.makes {
                Makes::View => conn.prepare(&format!("SELECT * FROM main.{}", quote(&guest.name))).is_ok(),
                Makes::Trigger => runs(conn, &guest.name)?,
                _ => true,
            };
            if !works {
                return Ok(Some((at, what)));
            }
        }
        Ok(None)
    }

    /// Something missing that a view or trigger names: it may be a column's name too.
    fn named_in(&self, guest: &Guest<'_>) -> Option<String> {
        let named = |t: &Token<'_>| self.missing.get(&t.name()?.to_ascii_lowercase()).cloned();
        guest.tokens.iter().find_map(named)
    }
}

/// Whether a trigger is there still, and SQLite can compile it. It goes with its view.
fn runs(conn: &Connection, name: &str) -> rusqlite::Result<bool> {
    let mut s = conn.prepare(
        "SELECT t.tbl_name, t.sql, o.type FROM main.sqlite_schema t JOIN main.sqlite_schema o ON o.name = t.tbl_name \
         AND o.type IN ('table', 'view') WHERE t.type = 'trigger' AND t.name = ? COLLATE NOCASE",
    )?;
    let mut rows = s.query([name])?;
    let Some(r) = rows.next()? else { return Ok(false) };
    // Of a view not every kind of write can be compiled, which says nothing; that the trigger names it is enough.
    if r.get::<_, String>(2)? == "view" {
        return Ok(false);
    }
    let trigger = Trigger {
        name: name.to_owned(),
        table: r.get(0)?,
        sql: r.get(1)?,
        writes: BTreeSet::new(),
        fills: BTreeSet::new(),
        unknown: None,
    };
    drop(rows);
    Ok(cannot_run(conn, &trigger)?.is_none())
}
