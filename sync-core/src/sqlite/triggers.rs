//! Copies of triggers as TEMP triggers, and what each trigger writes.
//!
//! The schema's own triggers are off on our connections (`SQLITE_DBCONFIG_ENABLE_TRIGGER`), TEMP ones
//! are not. So a trigger that has to run, runs as a copy on one connection, and nothing of it is left
//! in the file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::capture::captures;
use super::quote;
use crate::schema::Schema;

/// One trigger of the main schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// The table that it is on.
    pub table: String,
    /// The `CREATE TRIGGER` statement.
    pub sql: String,
    /// Lowercase names of the tables that it writes itself.
    pub writes: BTreeSet<String>,
}

/// Every trigger that the app put on ordinary tables, with the tables that it writes.
///
/// # Errors
/// SQLite's. A trigger that cannot be compiled (it names a function that only the app has) is an
/// error that names it.
pub fn read(conn: &mut Connection) -> rusqlite::Result<Vec<Trigger>> {
    let sql = "SELECT t.name, t.tbl_name, t.sql FROM main.sqlite_schema t JOIN main.sqlite_schema o \
               ON o.type = 'table' AND o.name = t.tbl_name \
               WHERE t.type = 'trigger' ORDER BY t.name";
    let mut s = conn.prepare(sql)?;
    let mut list: Vec<Trigger> = s
        .query_map([], |r| Ok(Trigger { name: r.get(0)?, table: r.get(1)?, sql: r.get(2)?, writes: BTreeSet::new() }))?
        .collect::<Result<_, _>>()?;
    drop(s);
    list.retain(|t| captures(&t.name, &t.sql).is_none());
    if list.is_empty() {
        return Ok(list);
    }
    let written = written_by_triggers(conn, list.iter().map(|t| t.table.as_str()))?;
    for t in &mut list {
        t.writes = written.get(&t.name.to_ascii_lowercase()).cloned().unwrap_or_default();
    }
    Ok(list)
}

/// Compiles a write of each kind to each table under an authorizer, which hears of every table that
/// a trigger's program writes, and in the name of which trigger.
fn written_by_triggers<'a>(
    conn: &mut Connection,
    tables: impl Iterator<Item = &'a str>,
) -> rusqlite::Result<BTreeMap<String, BTreeSet<String>>> {
    let heard: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>> = Arc::default();
    let tables: BTreeSet<&str> = tables.collect();
    let was = conn.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    let sink = Arc::clone(&heard);
    conn.authorizer(Some(move |ctx: AuthContext<'_>| {
        if let (
            Some(trigger),
            AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name },
        ) = (ctx.accessor, ctx.action)
        {
            let mut heard = sink.lock().unwrap_or_else(PoisonError::into_inner);
            heard.entry(trigger.to_ascii_lowercase()).or_default().insert(table_name.to_ascii_lowercase());
        }
        Authorization::Allow
    }))?;
    let mut outcome = Ok(());
    for table in tables {
        let first: rusqlite::Result<String> =
            conn.query_row("SELECT name FROM pragma_table_info(?) LIMIT 1", [table], |r| r.get(0));
        let t = quote(table);
        outcome = first.and_then(|column| {
            conn.prepare(&format!("INSERT INTO main.{t} DEFAULT VALUES"))?;
            conn.prepare(&format!("DELETE FROM main.{t}"))?;
            // Every column, so that UPDATE OF triggers are compiled whichever they name.
            let mut s = conn.prepare("SELECT name FROM pragma_table_info(?)")?;
            let names: Vec<String> = s.query_map([table], |r| r.get(0))?.collect::<Result<_, _>>()?;
            let c = quote(&column);
            let set: Vec<String> = names.iter().map(|n| format!("{} = {c}", quote(n))).collect();
            conn.prepare(&format!("UPDATE main.{t} SET {}", set.join(", ")))?;
            Ok(())
        });
        if outcome.is_err() {
            break;
        }
    }
    conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, was)?;
    outcome?;
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(heard.clone())
}

/// What applying a remote row has to do with the app's triggers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Run as TEMP copies: they maintain tables that are not synced (a full-text index, a counter).
    pub copy: Vec<Trigger>,
    /// Write both kinds of tables: half of their work would be lost or done twice.
    pub mixed: Vec<Trigger>,
}

/// Sorts the triggers that a write to a synced table sets off. Those that write synced tables only
/// stay silent: their effects are in the bundle.
#[must_use]
pub fn plan(schema: &Schema, triggers: &[Trigger]) -> Plan {
    let synced = |name: &str| schema.position(name).is_some();
    let mut plan = Plan::default();
    let mut reached: BTreeSet<String> = schema.tables().iter().map(|t| t.name.clone()).collect();
    let mut left: Vec<&Trigger> = triggers.iter().collect();
    while let Some(at) = left.iter().position(|t| reached.contains(&t.table.to_ascii_lowercase())) {
        let t = left.remove(at);
        let inside = t.writes.iter().filter(|w| synced(w)).count();
        if inside > 0 && inside < t.writes.len() {
            plan.mixed.push(t.clone());
        } else if inside == 0 && !t.writes.is_empty() {
            reached.extend(t.writes.iter().cloned());
            plan.copy.push(t.clone());
        }
    }
    plan
}

/// Installs copies of triggers on this connection alone.
///
/// # Errors
/// SQLite's.
pub fn install_copies(conn: &Connection, copies: &[Trigger]) -> rusqlite::Result<()> {
    let mut s = conn.prepare("SELECT name FROM temp.sqlite_schema WHERE type = 'trigger'")?;
    let old: Vec<String> = s.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
    drop(s);
    for name in &old {
        conn.execute_batch(&format!("DROP TRIGGER temp.{}", quote(name)))?;
    }
    for t in copies {
        conn.execute_batch(&temp_copy(&t.sql))?;
    }
    Ok(())
}

/// SQLite stores a trigger as `CREATE TRIGGER name …`, without schema and IF NOT EXISTS.
fn temp_copy(sql: &str) -> String {
    let rest = sql.get("CREATE TRIGGER".len()..).unwrap_or_default();
    format!("CREATE TEMP TRIGGER{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::connection::{Settings, configure};
    use crate::sqlite::introspect::introspect;

    fn open(sql: &str) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(sql).unwrap();
        let settings = Settings {
            foreign_keys: false,
            triggers: false,
            durable: true,
            busy: std::time::Duration::ZERO,
            cache_kib: 512,
        };
        configure(&conn, settings).unwrap();
        conn
    }

    const NOTES: &str = "
        CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT);
        CREATE TABLE tags (id TEXT PRIMARY KEY, n INTEGER);
        CREATE TABLE counter (n INTEGER);
        CREATE TABLE audit (what TEXT);
        INSERT INTO counter VALUES (0);
        CREATE VIRTUAL TABLE fts USING fts5(body, content='notes', content_rowid='id');
        CREATE TRIGGER if not exists main.notes_ai AFTER INSERT ON notes BEGIN INSERT INTO fts(rowid, body) VALUES (NEW.id, NEW.body); END;
        CREATE TRIGGER notes_ad AFTER DELETE ON notes BEGIN INSERT INTO fts(fts, rowid, body) VALUES ('delete', OLD.id, OLD.body); END;
        CREATE TRIGGER notes_count AFTER INSERT ON notes BEGIN UPDATE counter SET n = n + 1; END;
        CREATE TRIGGER counted AFTER UPDATE ON counter BEGIN INSERT INTO audit VALUES ('counted'); END;
        CREATE TRIGGER notes_tag AFTER INSERT ON notes BEGIN INSERT INTO tags VALUES ('t' || NEW.id, 1); END;
        CREATE TRIGGER notes_check BEFORE INSERT ON notes WHEN NEW.body = '' BEGIN SELECT RAISE(ABORT, 'empty'); END;";

    #[test]
    fn triggers_are_sorted_and_copies_keep_search_right() {
        let mut conn = open(NOTES);
        let schema = introspect(&conn, Some(&["notes".into(), "tags".into()])).unwrap().schema;
        let found = read(&mut conn).unwrap();
        let plan = plan(&schema, &found);
        let names: Vec<&str> = plan.copy.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        for n in ["notes_ai", "notes_ad", "notes_count", "counted"] {
            assert!(names.contains(&n), "{n} maintains a table that is not synced");
        }
        assert!(plan.mixed.is_empty());
        install_copies(&conn, &plan.copy).unwrap();
        install_copies(&conn, &plan.copy).unwrap();
        conn.execute("INSERT INTO notes VALUES (1, 'hello world')", []).unwrap();
        conn.execute("INSERT INTO notes VALUES (2, '')", []).unwrap();
        let count = |sql: &str| conn.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM fts WHERE fts MATCH 'hello'"), 1);
        assert_eq!(count("SELECT n FROM counter"), 2);
        assert_eq!(count("SELECT count(*) FROM audit"), 2);
        assert_eq!(count("SELECT count(*) FROM tags"), 0);
        conn.execute("DELETE FROM notes", []).unwrap();
        conn.execute_batch("INSERT INTO fts(fts, rank) VALUES ('integrity-check', 1)").unwrap();
    }

    #[test]
    fn a_trigger_that_writes_both_kinds_is_named() {
        let mut conn = open(
            "CREATE TABLE a (id TEXT PRIMARY KEY); CREATE TABLE b (id TEXT PRIMARY KEY); CREATE TABLE c (id TEXT);
             CREATE TRIGGER both AFTER INSERT ON a BEGIN INSERT INTO b VALUES (NEW.id); INSERT INTO c VALUES (NEW.id); END;",
        );
        let schema = introspect(&conn, Some(&["a".into(), "b".into()])).unwrap().schema;
        let found = read(&mut conn).unwrap();
        assert_eq!(plan(&schema, &found).mixed[0].name, "both");
    }
}
