//! Stand-ins for the functions and collations that only the app has, so that SQLite can say what a statement would
//! write. Nothing is run with them.

use std::collections::BTreeSet;

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use super::sql;

/// The stand-ins that one connection has. They go when [`Stubs::remove`] is called, at the latest with the connection.
#[derive(Debug, Default)]
pub struct Stubs {
    functions: Vec<String>,
    collations: Vec<String>,
}

impl Stubs {
    /// Stands in for whatever the texts may call that this connection does not have.
    ///
    /// # Errors
    /// SQLite's.
    pub fn install<'a>(conn: &Connection, texts: impl IntoIterator<Item = &'a str>) -> rusqlite::Result<Self> {
        let mut stubs = Self::default();
        // Read once: SQLite lists some hundred functions, and it does so for each question.
        let mut functions = listed(conn, "SELECT DISTINCT lower(name) FROM pragma_function_list")?;
        let mut collations = listed(conn, "SELECT lower(name) FROM pragma_collation_list")?;
        for text in texts {
            let operators = ["regexp".to_owned()];
            for name in sql::called(text).into_iter().chain(operators) {
                if !name.is_empty() && functions.insert(name.clone()) {
                    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
                    conn.create_scalar_function(name.as_str(), -1, flags, |_| Ok(rusqlite::types::Null))?;
                    stubs.functions.push(name);
                }
            }
            for name in sql::collations(text) {
                if collations.insert(name.to_ascii_lowercase()) {
                    conn.create_collation(name.as_str(), Ord::cmp)?;
                    stubs.collations.push(name);
                }
            }
        }
        Ok(stubs)
    }

    /// As [`Stubs::install`], for the whole schema of the main database.
    ///
    /// # Errors
    /// SQLite's.
    pub fn of_schema(conn: &Connection) -> rusqlite::Result<Self> {
        let mut s = conn.prepare("SELECT sql FROM main.sqlite_schema WHERE sql IS NOT NULL")?;
        let texts: Vec<String> = s.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
        drop(s);
        Self::install(conn, texts.iter().map(String::as_str))
    }

    /// Takes them away again.
    ///
    /// # Errors
    /// SQLite's.
    pub fn remove(self, conn: &Connection) -> rusqlite::Result<()> {
        for name in self.functions {
            conn.remove_function(name.as_str(), -1)?;
        }
        for name in self.collations {
            conn.remove_collation(name.as_str())?;
        }
        Ok(())
    }
}

fn listed(conn: &Connection, sql: &str) -> rusqlite::Result<BTreeSet<String>> {
    conn.prepare(sql)?.query_map([], |r| r.get(0))?.collect()
}
