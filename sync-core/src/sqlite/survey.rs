//! What of a file can be synced, the app's triggers taken into account: the same answer for whoever asks.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::introspect::{Found, Known, Note, Refusal, introspect_known};
use super::ledgers::tool;
use super::locals::Locals;
use super::triggers::{Misfit, Trigger, Why, all_run, cannot_run, plan, read, runnable};
use crate::schema::Schema;

/// What a file holds.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// Tables that can be synced, and those that cannot.
    pub found: Found,
    /// Every trigger of the app.
    pub triggers: Vec<Trigger>,
    /// Those that have to run for remote rows, as TEMP copies.
    pub copies: Vec<Trigger>,
    /// Unsynced tables that refer to synced ones.
    pub locals: Locals,
}

/// Looks at every table, or only at those named in `only`, and at every trigger. Tables of migration tools are left out
/// where nobody named them, but for those in `known`. A trigger that has to run for remote
/// rows and cannot, or that would do half its work, takes its own table out and no other, but what refers to it.
///
/// The connection's own copies of triggers are gone afterwards.
///
/// # Errors
/// SQLite's.
pub fn survey(conn: &mut Connection, only: Option<&[String]>, known: &Known) -> rusqlite::Result<Survey> {
    let mut found = introspect_known(conn, only, known)?;
    if only.is_none() {
        let unknown = found.schema.tables().iter().filter(|t| !known.contains_key(&t.name));
        let ledgers = unknown.filter_map(|t| ledger(conn, &t.sql_name).transpose()).collect::<Result<_, _>>()?;
        found = found.without(ledgers);
    }
    let triggers = read(conn)?;
    let mut tried = BTreeMap::new();
    loop {
        let mut planned = plan(&found.schema, &triggers);
        // Alone each of them compiles less than with the others.
        if planned.copy.iter().any(|t| !tried.contains_key(&t.name)) && all_run(conn, &planned.copy)? {
            tried.extend(planned.copy.iter().map(|t| (t.name.clone(), None)));
        }
        for trigger in &planned.copy {
            if !tried.contains_key(&trigger.name) {
                tried.insert(trigger.name.clone(), cannot_run(conn, trigger)?);
            }
            if let Some(Some(words)) = tried.get(&trigger.name) {
                let tables = planned.reached.get(&trigger.table.to_ascii_lowercase()).cloned().unwrap_or_default();
                let why = Why::CannotRun(words.clone());
                planned.misfits.push(Misfit { trigger: trigger.clone(), tables, why });
            }
        }
        if planned.misfits.is_empty() {
            let mut locals = Locals::read(conn, &found.schema)?;
            let mut copies = planned.copy;
            let beside = beside(&found.schema, &locals, &triggers, &copies);
            copies.extend(runnable(conn, beside)?);
            locals.mark_filled(&copies);
            found.notes.extend(notes(&locals));
            return Ok(Survey { found, triggers, copies, locals });
        }
        let mut refused: BTreeMap<String, Refusal> = BTreeMap::new();
        for misfit in &planned.misfits {
            for table in &misfit.tables {
                let Some(known) = found.schema.table(table) else { continue };
                refused.entry(table.clone()).or_insert_with(|| refusal(&known.sql_name, misfit));
            }
        }
        found = found.without(refused.into_values().collect());
    }
}

/// Triggers of unsynced tables whose rows go, or change, with synced ones, those included that only forbid that: as under
/// the app's own statements. One that writes synced tables stays silent, as everywhere.
#[must_use]
pub fn beside(schema: &Schema, locals: &Locals, triggers: &[Trigger], copies: &[Trigger]) -> Vec<Trigger> {
    let mut reached = locals.tables();
    let guard = |t: &&Trigger| reached.contains(&t.table.to_ascii_lowercase()) && t.unknown.is_none() && t.guards();
    let mut out: Vec<Trigger> = triggers.iter().filter(guard).cloned().collect();
    let mut left: Vec<&Trigger> = triggers.iter().filter(|t| !copies.contains(t) && t.unknown.is_none()).collect();
    while let Some(at) = left.iter().position(|t| reached.contains(&t.table.to_ascii_lowercase())) {
        let t = left.remove(at);
        if !t.writes.is_empty() && t.writes.iter().all(|w| schema.position(w).is_none()) {
            reached.extend(t.writes.iter().cloned());
            out.push(t.clone());
        }
    }
    out
}

/// What to know of unsynced tables that refer to synced ones.
fn notes(locals: &Locals) -> Vec<Note> {
    let mut out: Vec<Note> = Vec::new();
    for target in locals.targets.iter().filter(|p| p.position.is_some()) {
        for r in &target.references {
            let becomes = match r.on_delete.as_str() {
                "CASCADE" => "its rows go with them",
                "SET NULL" => "its rows refer to nothing then",
                "SET DEFAULT" => "its rows get their default then",
                _ => "a delete that comes from the server is set aside for as long as its rows refer to the row",
            };
            let follows = if r.generated {
                "where a row there would get another number it stays for as long as its rows refer to it, since the \
                 column that does is generated, and the server's row under that number is set aside"
            } else {
                "where rows there get another number its rows follow"
            };
            let text = format!(
                "is not synced and refers to {}: {follows}, and where they are deleted elsewhere {becomes}",
                target.table
            );
            out.push(Note { table: r.child.clone(), text });
        }
    }
    out
}

/// Why a table is left out in which a tool remembers its migrations.
fn ledger(conn: &Connection, table: &str) -> rusqlite::Result<Option<Refusal>> {
    Ok(tool(conn, table)?.map(|tool| Refusal {
        table: table.to_owned(),
        reason: format!("it says which migrations {tool} ran on this file, and each device runs its own"),
        fix: "name it with --tables to sync it all the same".into(),
    }))
}

fn refusal(table: &str, misfit: &Misfit) -> Refusal {
    let Trigger { name, table: on, .. } = &misfit.trigger;
    let trigger = if on.eq_ignore_ascii_case(table) {
        format!("its trigger {name}")
    } else {
        format!("trigger {name} on {on}, which its changes set off,")
    };
    let (reason, fix) = match &misfit.why {
        Why::WritesBoth => (
            format!("{trigger} writes both synced and unsynced tables"),
            "sync all tables that the trigger writes, or split it into two triggers",
        ),
        Why::Unknown(words) => (format!("{trigger} cannot be compiled here: {words}"), "mend the trigger, or drop it"),
        Why::CannotRun(words) => (
            format!("{trigger} has to run for synced rows too, and cannot run here: {words}"),
            "let triggers that write unsynced tables do without functions, collations and modules of the app",
        ),
    };
    Refusal { table: table.to_owned(), reason, fix: fix.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sqlite::connection::{Settings, configure};
    use crate::sqlite::introspect::{introspect, statements};
    use crate::sqlite::triggers::install_copies;

    fn of(sql: &str) -> (Connection, Survey) {
        let mut conn = Connection::open_in_memory().unwrap();
        // The app's own functions and collations, which are not there when we look.
        conn.create_collation("unicase", |a: &str, b: &str| a.to_lowercase().cmp(&b.to_lowercase())).unwrap();
        conn.execute_batch(sql).unwrap();
        conn.remove_collation("unicase").unwrap();
        let settings =
            Settings { foreign_keys: false, triggers: false, durable: true, busy: Duration::ZERO, cache_kib: 512 };
        configure(&conn, settings).unwrap();
        let found = survey(&mut conn, None, &Known::new()).unwrap();
        (conn, found)
    }

    const TABLES: &str = "CREATE TABLE a (id TEXT PRIMARY KEY, t TEXT, n TEXT COLLATE unicase);
        CREATE TABLE b (id TEXT PRIMARY KEY, t TEXT); CREATE TABLE c (id TEXT PRIMARY KEY, b TEXT REFERENCES b(id));
        CREATE TABLE local (x); CREATE TABLE other (x); CREATE VIEW called AS SELECT appfn(x) AS y FROM other;";

    /// What one trigger makes of three tables: which are synced, and what is said of the others.
    #[test]
    fn a_trigger_takes_out_its_own_table_only() {
        for (trigger, synced, said) in [
            ("AFTER INSERT ON local BEGIN SELECT appfn(1); END", "a b c", ""),
            ("AFTER INSERT ON local BEGIN SELECT * FROM nowhere; END", "a b c", ""),
            ("AFTER INSERT ON b BEGIN UPDATE b SET t = appfn(1) WHERE id = NEW.id; END", "a b c", ""),
            ("BEFORE INSERT ON b BEGIN SELECT RAISE(ABORT, 'no') WHERE NEW.t REGEXP 'x'; END", "a b c", ""),
            ("AFTER INSERT ON b BEGIN INSERT INTO local VALUES (NEW.t); END", "a b c", ""),
            ("AFTER INSERT ON b BEGIN INSERT INTO local VALUES (appfn(1)); END", "a", "no such function: appfn"),
            ("AFTER UPDATE OF t ON b WHEN appfn(1) BEGIN INSERT INTO local VALUES (1); END", "a", "appfn"),
            ("AFTER DELETE ON b WHEN OLD.t REGEXP 'x' BEGIN INSERT INTO local VALUES (1); END", "a", "REGEXP"),
            ("AFTER INSERT ON b BEGIN INSERT INTO local SELECT y FROM called; END", "a", "appfn"),
            ("AFTER INSERT ON a BEGIN DELETE FROM local WHERE NEW.n = x; END", "b c", "unicase"),
            ("AFTER INSERT ON a BEGIN DELETE FROM local WHERE NEW.t = x; END", "a b c", ""),
            ("AFTER INSERT ON b BEGIN INSERT INTO nowhere VALUES (1); END", "a", "cannot be compiled here"),
            ("AFTER INSERT ON c BEGIN INSERT INTO local VALUES (1); UPDATE b SET t = 1; END", "a b", "writes both"),
        ] {
            let (_, found) = of(&format!("{TABLES} CREATE TRIGGER g {trigger};"));
            let names: Vec<&str> = found.found.schema.tables().iter().map(|t| t.name.as_str()).collect();
            assert_eq!(names.join(" "), synced, "{trigger}");
            let reasons: String = found.found.refused.iter().map(|r| r.reason.as_str()).collect::<Vec<_>>().join("; ");
            assert!(
                said.is_empty() || (reasons.contains(said) && reasons.contains("trigger g")),
                "{trigger}: {reasons}"
            );
        }
    }

    /// Through a trigger on a table that is not synced, too, and with what refers to the table.
    #[test]
    fn a_trigger_further_on_takes_out_who_sets_it_off() {
        let (conn, found) = of(&format!(
            "{TABLES} CREATE TRIGGER first AFTER INSERT ON b BEGIN INSERT INTO local VALUES (1); END;
             CREATE TRIGGER second AFTER INSERT ON local BEGIN INSERT INTO other VALUES (1); UPDATE a SET t = 1; END;
             CREATE TRIGGER fine AFTER INSERT ON a BEGIN INSERT INTO other VALUES (NEW.id); END;"
        ));
        let names: Vec<&str> = found.found.schema.tables().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a"]);
        let reason = |table: &str| &found.found.refused.iter().find(|r| r.table == table).unwrap().reason;
        assert_eq!(
            reason("b"),
            "trigger second on local, which its changes set off, writes both synced and unsynced tables"
        );
        assert_eq!(reason("c"), "it refers to b, which is not synced");
        assert_eq!(found.copies.len(), 1, "what is left runs");
        install_copies(&conn, &found.copies).unwrap();
        conn.execute("INSERT INTO a VALUES ('1', 't', 'n')", []).unwrap();
        assert_eq!(conn.query_row("SELECT x FROM other", [], |r| r.get::<_, String>(0)).unwrap(), "1");
    }

    /// Nothing of the stand-ins is left, and what is printed can be made by any SQLite.
    #[test]
    fn what_is_printed_needs_no_collation_of_the_app() {
        let (conn, found) = of(&format!(
            "{TABLES} CREATE TABLE indexed (id TEXT PRIMARY KEY, n TEXT COLLATE unicase);
             CREATE INDEX by_n ON indexed(n);
             CREATE TABLE refers (id TEXT PRIMARY KEY, b TEXT COLLATE unicase REFERENCES b(id));
             CREATE TABLE checked (id TEXT PRIMARY KEY, n TEXT COLLATE unicase CHECK (n <> 'x'));"
        ));
        let names: Vec<&str> = found.found.schema.tables().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        for table in ["indexed", "refers", "checked"] {
            let reason = &found.found.refused.iter().find(|r| r.table == table).unwrap().reason;
            assert!(reason.contains("unicase"), "{reason}");
        }
        conn.prepare("SELECT appfn(1)").unwrap_err();
        conn.prepare("SELECT 'a' = 'b' COLLATE unicase").unwrap_err();
        let plain = Connection::open_in_memory().unwrap();
        for sql in statements(&conn, &found.found.schema).unwrap() {
            plain.execute_batch(&sql).unwrap();
        }
        assert_eq!(introspect(&plain, None).unwrap().schema.tables().len(), 3);
    }
}
