//! A clone is a file that the app can open: it has what the app made beside its tables, as far as a server may make it.

#[cfg(unix)]
use std::process::Command;

use rusqlite::Connection;
use sync_core::sqlite::others::MARK;
use tempfile::TempDir;

#[cfg(unix)]
use crate::cli::program;
use crate::cli::{file, run, text};
use crate::support::{Gate, serve};
#[cfg(unix)]
use crate::world::until;

const APP: &str = "
    PRAGMA user_version = 42; PRAGMA application_id = 1234;
    CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL, body TEXT); CREATE INDEX by_body ON note(body);
    CREATE VIEW recent AS SELECT id FROM note;
    CREATE TABLE counter (n INTEGER); INSERT INTO counter VALUES (0);
    CREATE TABLE schema_migrations (version TEXT PRIMARY KEY NOT NULL); INSERT INTO schema_migrations VALUES ('0001'), ('it''s');
    CREATE VIRTUAL TABLE search USING fts5(body, content='note');
    CREATE VIRTUAL TABLE kept USING fts5(body);
    CREATE VIRTUAL TABLE lone USING fts5(body);
    CREATE TRIGGER keeping AFTER INSERT ON note BEGIN INSERT INTO kept (body) VALUES (NEW.body); UPDATE counter SET n = n + 1; END;
    INSERT INTO note VALUES ('1', 'hello world'), ('2', 'good morning');";

#[test]
fn a_clone_has_what_the_app_made_beside_its_tables() {
    let dir = TempDir::new().unwrap();
    file(&dir, "a.db", APP);
    let schema = run(&dir, &["schema", "a.db"]).ends(0).stdout;
    assert_eq!(schema.lines().filter(|l| *l == MARK).count(), 1);
    // A server that was started with it goes on with it, also where the app's other objects changed.
    let server = serve(&schema);
    let url = server.url();
    run(&dir, &["init", "a.db", "--server", &url, "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    let synced = run(&dir, &["schema", "a.db"]).ends(0).stdout;
    assert_eq!(synced, schema, "nothing of ours is printed");

    let ran = run(&dir, &["clone", &url, "b.db", "--token", "ann", "--json"]).ends(0);
    let report = ran.json();
    assert_eq!((&report["tables"], &report["left_out"]), (&serde_json::json!(["note"]), &serde_json::json!([])));
    assert_eq!(report["unfilled"], serde_json::json!(["lone"]));
    let b = Connection::open(dir.path().join("b.db")).unwrap();
    let number = |sql: &str| b.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
    assert_eq!((number("PRAGMA user_version"), number("PRAGMA application_id")), (42, 1234));
    assert_eq!(text(&b, "SELECT group_concat(version, ';') FROM schema_migrations"), "0001;it's");
    assert_eq!(number("SELECT count(*) FROM recent"), 2);
    for (index, found) in [("search", 1), ("kept", 1), ("lone", 0)] {
        assert_eq!(number(&format!("SELECT count(*) FROM {index} WHERE {index} MATCH 'hello'")), found, "{index}");
    }
    // It is the app's file from here on, with its triggers.
    b.execute_batch("INSERT INTO note VALUES ('3', 'late hello'); INSERT INTO schema_migrations VALUES ('0002')")
        .unwrap();
    assert_eq!(number("SELECT count(*) FROM kept WHERE kept MATCH 'hello'"), 2);
    assert_eq!(run(&dir, &["sync", "b.db"]).ends(0).stdout, "Sent 1 row.\n");
    assert_eq!(run(&dir, &["schema", "b.db", "--json"]).ends(0).json()["tables"], serde_json::json!(["note"]));
}

/// The server keeps what it was given, whatever that is; the device does not do it.
#[test]
fn a_hostile_server_makes_nothing_else() {
    let dir = TempDir::new().unwrap();
    let stolen = dir.path().join("stolen.db");
    let server = serve(&format!(
        "CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL, body TEXT);\n{MARK}\n\
         ATTACH '{0}' AS x; VACUUM INTO '{0}'; PRAGMA journal_mode = OFF; UPDATE _sync_meta SET value = 'http://evil';\n\
         CREATE TABLE _sync_more (x); CREATE VIEW peek AS SELECT load_extension('x'); CREATE VIEW fine AS SELECT 1;\n\
         CREATE TRIGGER grab AFTER INSERT ON note BEGIN DELETE FROM _sync_dirty; END; INSERT INTO note VALUES ('evil', '');",
        stolen.display()
    ));
    let ran = run(&dir, &["clone", &server.url(), "b.db", "--token", "ann", "--json"]).ends(0);
    let what: Vec<String> =
        ran.json()["left_out"].as_array().unwrap().iter().map(|l| l["what"].as_str().unwrap().into()).collect();
    assert_eq!(what.len(), 8, "{what:?}");
    assert!(what.contains(&"view peek".into()) && what.contains(&"trigger grab".into()), "{what:?}");
    let told = run(&dir, &["clone", &server.url(), "c.db", "--token", "ann"]).ends(0).stderr;
    assert!(told.contains("Left out of c.db: table _sync_more: it names _sync_more"), "{told}");
    assert!(!stolen.exists());
    let b = Connection::open(dir.path().join("b.db")).unwrap();
    assert_eq!(text(&b, "SELECT count(*) || '' FROM note"), "0");
    assert_eq!(text(&b, "SELECT group_concat(name) FROM sqlite_schema WHERE type = 'view'"), "fine");
    assert_eq!(text(&b, "SELECT value FROM _sync_meta WHERE name = 'server'"), server.url());
}

/// What the server says that it syncs makes tables and indexes, or nothing at all.
#[test]
fn what_is_synced_is_tables() {
    let dir = TempDir::new().unwrap();
    let url = crate::cli::schema_server(&["CREATE TABLE a (id TEXT PRIMARY KEY)", "CREATE TABLE b AS SELECT 1 AS id"]);
    let ran = run(&dir, &["clone", &url, "b.db", "--token", "ann"]).ends(1);
    assert!(ran.stderr.contains("table b: it does more than that"), "{}", ran.stderr);
    assert!(!dir.path().join("b.db").exists());
}

/// What only a module that is not taken would keep goes without it, and its table syncs; a table that cannot is told.
#[test]
fn a_table_syncs_without_an_index_of_a_foreign_module() {
    let dir = TempDir::new().unwrap();
    let app = "CREATE TABLE mail (uid INTEGER PRIMARY KEY NOT NULL, body TEXT); CREATE TABLE k (id TEXT PRIMARY KEY NOT NULL);
        CREATE VIRTUAL TABLE mail_fts USING FTS4(body TEXT, content=mail);
        CREATE TRIGGER ai AFTER INSERT ON mail BEGIN INSERT INTO mail_fts(docid, body) VALUES (new.rowid, new.body); END;";
    file(&dir, "a.db", &format!("{app} INSERT INTO mail VALUES (1, 'hello')"));
    let schema = run(&dir, &["schema", "a.db"]).ends(0).stdout;
    let server = serve(&schema);
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    let ran = run(&dir, &["clone", &server.url(), "b.db", "--token", "ann", "--json"]).ends(0);
    let report = ran.json();
    assert_eq!(report["tables"], serde_json::json!(["k", "mail"]));
    assert_eq!(report["not_synced"], serde_json::json!([]));
    let what: Vec<&str> = report["left_out"].as_array().unwrap().iter().map(|l| l["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["virtual table mail_fts", "trigger ai"]);
    let b = Connection::open(dir.path().join("b.db")).unwrap();
    b.execute_batch("INSERT INTO mail VALUES (2, 'from b')").unwrap();
    assert_eq!(run(&dir, &["sync", "b.db"]).ends(0).stdout, "Sent 1 row.\n");

    // A trigger that comes with the schema, and that no pull may run.
    let broken = "CREATE TABLE local (x); CREATE TRIGGER both AFTER INSERT ON mail BEGIN INSERT INTO local VALUES (1); \
                  INSERT INTO k VALUES (NEW.uid); END;";
    let server = serve(&format!("{schema}\n{broken}"));
    let ran = run(&dir, &["clone", &server.url(), "c.db", "--token", "ann", "--json"]).ends(5);
    assert_eq!(ran.json()["not_synced"][0]["table"], "mail");
    let told = run(&dir, &["clone", &server.url(), "d.db", "--token", "ann"]).ends(5).stderr;
    assert!(told.contains("The server syncs mail, and this file does not"), "{told}");
}

/// What a clone goes without is told by the run that finishes it, also where an earlier one made the file; and so is a
/// table that the server has only since then.
#[test]
fn a_clone_that_was_cut_tells_what_it_lacks() {
    let dir = TempDir::new().unwrap();
    let tables = "CREATE TABLE mail (uid INTEGER PRIMARY KEY NOT NULL, body TEXT); CREATE TABLE k (id TEXT PRIMARY KEY NOT NULL);";
    let others = "CREATE TABLE local (x); CREATE TRIGGER both AFTER INSERT ON mail BEGIN INSERT INTO local VALUES (1);
        INSERT INTO k VALUES (NEW.uid); END; CREATE VIEW _sync_v AS SELECT 1;";
    let gate = Gate::default();
    let server = gate.serve(&format!("{tables}\n{MARK}\n{others}"));
    let clone = |name: &'static str| run(&dir, &["clone", &server.url(), name, "--token", "ann", "--json"]);
    clone("cut.db").ends(4);
    assert!(dir.path().join("cut.db").exists());
    gate.open();
    let (whole, cut) = (clone("whole.db").ends(5), clone("cut.db").ends(5));
    assert_eq!(cut.json()["not_synced"][0]["table"], "mail", "{}", cut.json());
    for part in ["not_synced", "left_out", "tables"] {
        assert_eq!(cut.json()[part], whole.json()[part], "{part}");
    }

    let gate = Gate::default();
    let server = gate.serve(tables);
    run(&dir, &["clone", &server.url(), "late.db", "--token", "ann"]).ends(4);
    // As if the server had got `k` meanwhile.
    let late = Connection::open(dir.path().join("late.db")).unwrap();
    run(&dir, &["detach", "late.db", "--forget"]).ends(0);
    late.execute_batch("DROP TABLE k").unwrap();
    run(&dir, &["init", "late.db", "--server", &server.url(), "--all", "--offline"]).ends(0);
    gate.open();
    let ran = run(&dir, &["clone", &server.url(), "late.db", "--token", "ann"]).ends(5);
    assert!(ran.stderr.contains("Table k cannot be synced: the server has it since"), "{}", ran.stderr);
}

/// What a file's columns and triggers make of a short row has a bound: such a row waits with its reason, the others come,
/// and it comes once it is another one. What is long itself has its room, also in what it touches.
#[test]
fn a_short_row_of_which_much_is_made_waits_alone() {
    let dir = TempDir::new().unwrap();
    let plain = "CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL, n INTEGER, body TEXT);
        CREATE TABLE tap (id TEXT PRIMARY KEY NOT NULL, n INTEGER);";
    let server = serve(plain);
    let much = "CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL, n INTEGER, body TEXT,
            g TEXT GENERATED ALWAYS AS (body || printf('%.*c', n, 'x')) STORED);
        CREATE TABLE tap (id TEXT PRIMARY KEY NOT NULL, n INTEGER); CREATE TABLE local (x, y);
        CREATE TRIGGER t AFTER INSERT ON tap BEGIN INSERT INTO local VALUES (zeroblob(NEW.n), 1); END;";
    let a = file(&dir, "a.db", plain);
    let b = file(&dir, "b.db", much);
    for name in ["a.db", "b.db"] {
        run(&dir, &["init", name, "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    }
    let fits = "INSERT INTO note VALUES ('fits', 20000000, 'y'), ('last', 1, 'z');
        INSERT INTO note VALUES ('long', 1, printf('%.*c', 9000000, 'x'));";
    a.execute_batch("INSERT INTO note VALUES ('much', 900000000, 'x'); INSERT INTO tap VALUES ('much', 900000000);")
        .unwrap();
    a.execute_batch(fits).unwrap();
    run(&dir, &["sync", "a.db"]).ends(0);
    for _ in 0..2 {
        run(&dir, &["sync", "b.db"]).ends(5);
    }
    let all = "SELECT group_concat(id || '=' || length(g)) FROM (SELECT * FROM note ORDER BY id)";
    assert_eq!(text(&b, all), "fits=20000001,last=2,long=9000001");
    let told = run(&dir, &["conflicts", "b.db"]).ends(0).stdout;
    assert!(told.contains("much") && told.contains("is too long; once that is changed here"), "{told}");
    a.execute_batch("UPDATE note SET n = 2; UPDATE tap SET n = 2").unwrap();
    run(&dir, &["sync", "a.db"]).ends(0);
    run(&dir, &["sync", "b.db"]).ends(0);
    assert_eq!(text(&b, all), "fits=3,last=3,long=9000002,much=3");
    assert_eq!(text(&b, "SELECT length(x) || '' FROM local"), "2");
}

/// One row whose trigger never ends stops no other: it is set aside with its reason, is not tried again for as long as the
/// triggers are the same, and comes once they are not. So does its delete.
#[test]
fn a_row_that_comes_to_no_end_waits_alone() {
    let dir = TempDir::new().unwrap();
    let tables = "CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL, body TEXT);";
    let endless = |on: &str, id: &str| {
        format!(
            "CREATE TRIGGER endless AFTER {on} ON note WHEN {id} = 'x' BEGIN INSERT INTO f SELECT i FROM (WITH RECURSIVE n(i) \
             AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0); END;"
        )
    };
    let server = serve(tables);
    let a = file(&dir, "a.db", tables);
    let b = file(&dir, "b.db", &format!("{tables} CREATE TABLE f (x); {}", endless("INSERT", "NEW.id")));
    for name in ["a.db", "b.db"] {
        run(&dir, &["init", name, "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
        run(&dir, &["sync", name]).ends(0);
    }
    let synced = |code: i32| {
        run(&dir, &["sync", "a.db"]).ends(0);
        run(&dir, &["sync", "b.db"]).ends(code)
    };
    let ids = || text(&b, "SELECT coalesce(group_concat(id), '') FROM (SELECT id FROM note ORDER BY id)");
    a.execute_batch("INSERT INTO note VALUES ('a', ''), ('x', ''), ('z', '')").unwrap();
    synced(5);
    assert_eq!(ids(), "a,z");
    let told = run(&dir, &["conflicts", "b.db"]).ends(0).stdout;
    assert!(told.contains("note x") && told.contains("does not come to an end"), "{told}");
    // A look costs nothing: the row is not written again.
    a.execute_batch("INSERT INTO note VALUES ('zz', '')").unwrap();
    let begun = std::time::Instant::now();
    synced(5);
    assert!(begun.elapsed() < std::time::Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(ids(), "a,z,zz");
    b.execute_batch("DROP TRIGGER endless").unwrap();
    synced(0);
    assert_eq!(ids(), "a,x,z,zz");

    b.execute_batch(&endless("DELETE", "OLD.id")).unwrap();
    a.execute_batch("DELETE FROM note WHERE id <> 'z'").unwrap();
    synced(5);
    assert_eq!(ids(), "x,z");
    b.execute_batch("DROP TRIGGER endless").unwrap();
    synced(0);
    assert_eq!(ids(), "z");
}

/// A trigger that never ends, handed out by a server: a signal ends the program all the same, and nothing is half done.
#[cfg(unix)]
#[test]
fn a_trigger_without_an_end_is_stopped() {
    let dir = TempDir::new().unwrap();
    let tables = "CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL, body TEXT);";
    let server = serve(&format!(
        "{tables}\n{MARK}\nCREATE TABLE f (x);\n\
         CREATE TRIGGER endless AFTER INSERT ON note BEGIN INSERT INTO f SELECT i FROM \
         (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0); END;"
    ));
    file(&dir, "a.db", &format!("{tables} INSERT INTO note VALUES ('1', 'x')"));
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    let mut clone = program(&dir, &["clone", &server.url(), "b.db", "--token", "ann"]).spawn().unwrap();
    // It writes the row: from then on nobody else can.
    let path = dir.path().join("b.db");
    let busy = || {
        let conn = Connection::open(&path).unwrap();
        conn.busy_timeout(std::time::Duration::ZERO).unwrap();
        conn.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_err()
    };
    let mut seen = 0;
    until("it is in the trigger", || {
        seen = if path.exists() && busy() { seen + 1 } else { 0 };
        seen > 1000
    });
    assert!(Command::new("kill").args(["-TERM", &clone.id().to_string()]).status().unwrap().success());
    let ended = clone.wait().unwrap();
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    let b = Connection::open(&path).unwrap();
    assert_eq!(text(&b, "SELECT (SELECT count(*) FROM note) || ' ' || (SELECT count(*) FROM f)"), "0 0");
    // Once it is gone, all goes on.
    b.execute_batch("DROP TRIGGER endless").unwrap();
    run(&dir, &["sync", "b.db", "--token", "ann"]).ends(0);
    assert_eq!(text(&b, "SELECT body FROM note"), "x");
}
