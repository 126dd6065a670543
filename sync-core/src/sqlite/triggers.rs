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
use super::copies::{Contents, contents, temp_copy};
use super::introspect::object_sql;
use super::stubs::Stubs;
use super::{quote, sql};
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
    /// Those among them that it puts rows into where a row comes into a table.
    pub fills: BTreeSet<String>,
    /// Why that cannot be told, in SQLite's words.
    pub unknown: Option<String>,
}

impl Trigger {
    /// Whether all that it does is to forbid a DELETE or an UPDATE.
    pub(super) fn guards(&self) -> bool {
        let tokens = sql::tokens(&self.sql);
        let event = tokens.iter().skip(3).find(|t| ["DELETE", "UPDATE", "INSERT"].iter().any(|e| t.is(e)));
        let body = tokens.iter().skip_while(|t| !t.is("BEGIN"));
        self.writes.is_empty() && event.is_some_and(|t| !t.is("INSERT")) && body.into_iter().any(|t| t.is("RAISE"))
    }
}

/// Every trigger that the app put on ordinary tables, with the tables that it writes. Functions and collations that only
/// the app has are no obstacle.
///
/// # Errors
/// SQLite's.
pub fn read(conn: &mut Connection) -> rusqlite::Result<Vec<Trigger>> {
    let sql = "SELECT t.name, t.tbl_name, t.sql FROM main.sqlite_schema t JOIN main.sqlite_schema o \
               ON o.type = 'table' AND o.name = t.tbl_name \
               WHERE t.type = 'trigger' ORDER BY t.name";
    let mut s = conn.prepare(sql)?;
    let mut list: Vec<Trigger> = s
        .query_map([], |r| {
            let (name, table, sql) = (r.get(0)?, r.get(1)?, r.get(2)?);
            Ok(Trigger { name, table, sql, writes: BTreeSet::new(), fills: BTreeSet::new(), unknown: None })
        })?
        .collect::<Result<_, _>>()?;
    drop(s);
    list.retain(|t| captures(&t.name, &t.sql).is_none());
    if list.is_empty() {
        return Ok(list);
    }
    let mut written = written_by_triggers(conn, list.iter().map(|t| t.table.as_str()))?;
    // Few apps have functions of their own, and a file is looked at whenever it is opened.
    if !written.unknown.is_empty() {
        let stubs = Stubs::of_schema(conn)?;
        let again = written_by_triggers(conn, list.iter().map(|t| t.table.as_str()));
        stubs.remove(conn)?;
        written = again?;
    }
    for t in &mut list {
        t.writes = written.by.get(&t.name.to_ascii_lowercase()).cloned().unwrap_or_default();
        t.fills = written.fills.get(&t.name.to_ascii_lowercase()).cloned().unwrap_or_default();
        t.unknown = written.unknown.get(&t.table.to_ascii_lowercase()).cloned();
    }
    Ok(list)
}

/// What is heard while statements are compiled.
struct Written {
    /// The tables that each trigger writes; all names lowercase.
    by: BTreeMap<String, BTreeSet<String>>,
    /// Those that it puts rows into while a row is inserted.
    fills: BTreeMap<String, BTreeSet<String>>,
    /// The tables that no write could be compiled to, and why.
    unknown: BTreeMap<String, String>,
}

/// Compiles a write of each kind to each table under an authorizer, which hears of every table that
/// a trigger's program writes, and in the name of which trigger.
fn written_by_triggers<'a>(conn: &mut Connection, tables: impl Iterator<Item = &'a str>) -> rusqlite::Result<Written> {
    let heard: Arc<Mutex<Heard>> = Arc::default();
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
            let (trigger, table) = (trigger.to_ascii_lowercase(), table_name.to_ascii_lowercase());
            if heard.inserting && matches!(ctx.action, AuthAction::Insert { .. }) {
                heard.fills.entry(trigger.clone()).or_default().insert(table.clone());
            }
            heard.by.entry(trigger).or_default().insert(table);
        }
        Authorization::Allow
    }))?;
    let mut unknown = BTreeMap::new();
    for table in tables {
        let inserting = |is: bool| heard.lock().unwrap_or_else(PoisonError::into_inner).inserting = is;
        inserting(true);
        let inserted = compile_insert(conn, table);
        inserting(false);
        if let Err(e) = inserted.and_then(|()| compile_writes(conn, table)) {
            unknown.insert(table.to_ascii_lowercase(), words(&e));
        }
    }
    conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, was)?;
    let heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Written { by: heard.by, fills: heard.fills, unknown })
}

/// What the authorizer has heard so far.
#[derive(Debug, Default)]
struct Heard {
    by: BTreeMap<String, BTreeSet<String>>,
    fills: BTreeMap<String, BTreeSet<String>>,
    /// Whether an INSERT is being compiled.
    inserting: bool,
}

fn compile_insert(conn: &Connection, table: &str) -> rusqlite::Result<()> {
    conn.prepare(&format!("INSERT INTO main.{} DEFAULT VALUES", quote(table))).map(|_| ())
}

/// Compiles an INSERT, an UPDATE and a DELETE of a table of the main database, with the triggers that they set off.
fn compile_writes(conn: &Connection, table: &str) -> rusqlite::Result<()> {
    let t = quote(table);
    compile_insert(conn, table)?;
    conn.prepare(&format!("DELETE FROM main.{t}"))?;
    // Every column, so that UPDATE OF triggers are compiled whichever they name.
    let mut s = conn.prepare("SELECT name FROM pragma_table_info(?)")?;
    let names: Vec<String> = s.query_map([table], |r| r.get(0))?.collect::<Result<_, _>>()?;
    let Some(first) = names.first().map(|n| quote(n)) else { return Ok(()) };
    let set: Vec<String> = names.iter().map(|n| format!("{} = {first}", quote(n))).collect();
    conn.prepare(&format!("UPDATE main.{t} SET {}", set.join(", ")))?;
    Ok(())
}

/// Why a copy of a trigger cannot run on this connection, in SQLite's words: it needs a function, a collation or a module
/// that only the app has. No other copy is left on the connection.
///
/// # Errors
/// SQLite's.
pub fn cannot_run(conn: &Connection, trigger: &Trigger) -> rusqlite::Result<Option<String>> {
    install_copies(conn, &[])?;
    let outcome =
        conn.execute_batch(&temp_copy(trigger, &contents(conn)?)).and_then(|()| compile_writes(conn, &trigger.table));
    install_copies(conn, &[])?;
    Ok(outcome.err().map(|e| words(&e)))
}

/// Whether copies of all of these can run on this connection. No copy is left on it.
///
/// # Errors
/// SQLite's.
pub fn all_run(conn: &Connection, triggers: &[Trigger]) -> rusqlite::Result<bool> {
    let tables: BTreeSet<&str> = triggers.iter().map(|t| t.table.as_str()).collect();
    let outcome =
        install_copies(conn, triggers).and_then(|()| tables.iter().try_for_each(|table| compile_writes(conn, table)));
    install_copies(conn, &[])?;
    Ok(outcome.is_ok())
}

/// Those of these triggers whose copies can run on this connection.
///
/// # Errors
/// SQLite's.
pub fn runnable(conn: &Connection, copies: Vec<Trigger>) -> rusqlite::Result<Vec<Trigger>> {
    if copies.is_empty() || all_run(conn, &copies)? {
        return Ok(copies);
    }
    let mut out = Vec::with_capacity(copies.len());
    for trigger in copies {
        if cannot_run(conn, &trigger)?.is_none() {
            out.push(trigger);
        }
    }
    Ok(out)
}

/// SQLite's own words, without the statement of ours that it refused.
fn words(e: &rusqlite::Error) -> String {
    match e {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

/// What applying a remote row has to do with the app's triggers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Run as TEMP copies: they maintain tables that are not synced (a full-text index, a counter).
    pub copy: Vec<Trigger>,
    /// Those whose work cannot be done for remote rows.
    pub misfits: Vec<Misfit>,
    /// By lowercase name of a table: the synced ones from whose changes a write to it follows.
    pub reached: BTreeMap<String, BTreeSet<String>>,
}

/// A trigger that has to run for remote rows, and must not or cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The trigger.
    pub trigger: Trigger,
    /// Lowercase names of the synced tables whose changes set it off.
    pub tables: BTreeSet<String>,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// It writes both kinds of tables: half of its work would be lost or done twice.
    WritesBoth,
    /// What it writes cannot be told, in SQLite's words.
    Unknown(String),
    /// It cannot run here, in SQLite's words.
    CannotRun(String),
}

/// Sorts the triggers that a write to a synced table sets off. Those that write synced tables only
/// stay silent: their effects are in the bundle.
#[must_use]
pub fn plan(schema: &Schema, triggers: &[Trigger]) -> Plan {
    let synced = |name: &str| schema.position(name).is_some();
    let mut plan = Plan::default();
    let mut reached: BTreeMap<String, BTreeSet<String>> =
        schema.tables().iter().map(|t| (t.name.clone(), BTreeSet::from([t.name.clone()]))).collect();
    let mut left: Vec<&Trigger> = triggers.iter().collect();
    while let Some(at) = left.iter().position(|t| reached.contains_key(&t.table.to_ascii_lowercase())) {
        let t = left.remove(at);
        let roots = reached.get(&t.table.to_ascii_lowercase()).cloned().unwrap_or_default();
        let inside = t.writes.iter().filter(|w| synced(w)).count();
        let mut misfit = |why| plan.misfits.push(Misfit { trigger: t.clone(), tables: roots.clone(), why });
        if let Some(words) = &t.unknown {
            misfit(Why::Unknown(words.clone()));
        } else if inside > 0 && inside < t.writes.len() {
            misfit(Why::WritesBoth);
        } else if inside == 0 && !t.writes.is_empty() {
            for table in &t.writes {
                reached.entry(table.clone()).or_default().extend(roots.iter().cloned());
            }
            plan.copy.push(t.clone());
        }
    }
    plan.reached = reached;
    plan
}

/// Whether one of these triggers, or a table that they write, says of a conflict that it ends more than the statement, or
/// less: a write that sets it off has to say otherwise.
///
/// # Errors
/// SQLite's.
pub fn end_more(conn: &Connection, copies: &[Trigger]) -> rusqlite::Result<bool> {
    for t in copies {
        if sql::ends_more(&t.sql) {
            return Ok(true);
        }
        for table in &t.writes {
            if object_sql(conn, "table", table)?.is_some_and(|sql| sql::ends_more(&sql)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
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
    let contents = if copies.is_empty() { Contents::default() } else { contents(conn)? };
    for t in copies {
        conn.execute_batch(&temp_copy(t, &contents))?;
    }
    Ok(())
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
        assert!(plan.misfits.is_empty());
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
        let misfits = plan(&schema, &found).misfits;
        assert_eq!((misfits[0].trigger.name.as_str(), &misfits[0].why), ("both", &Why::WritesBoth));
    }
}
