//! Schemas as strangers have them: what `schema` prints, `init --all` takes and a server makes are the same tables.

use rusqlite::Connection;
use tempfile::TempDir;

use crate::cli::{file, run, text};
use crate::support::serve;

/// A table of each kind that one of the three used to see otherwise, beside one that all take.
const ODD: &str = "
    CREATE TABLE plain (id TEXT PRIMARY KEY NOT NULL, x TEXT);
    CREATE TABLE deck (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL COLLATE unicase);
    CREATE TABLE indexed (id TEXT PRIMARY KEY NOT NULL, name TEXT COLLATE unicase UNIQUE);
    CREATE TABLE img (id TEXT PRIMARY KEY NOT NULL); CREATE TABLE com (id TEXT PRIMARY KEY NOT NULL, img TEXT);
    CREATE TABLE tags (img TEXT, tag TEXT);
    CREATE TABLE calls (id TEXT PRIMARY KEY NOT NULL, x TEXT);
    CREATE TABLE own (id TEXT PRIMARY KEY NOT NULL, x TEXT);
    CREATE TRIGGER del AFTER DELETE ON img BEGIN DELETE FROM com WHERE img = OLD.id; DELETE FROM tags WHERE img = OLD.id; END;
    CREATE TRIGGER calling AFTER INSERT ON calls BEGIN INSERT INTO tags VALUES (appfn(NEW.x), ''); END;
    CREATE TRIGGER stamping AFTER INSERT ON own BEGIN UPDATE own SET x = appfn(x) WHERE id = NEW.id; END;
    CREATE TRIGGER elsewhere AFTER INSERT ON tags BEGIN SELECT appfn(1); END;";

/// An app's connection, with what only the app has.
fn app(dir: &TempDir, name: &str, sql: &str) -> Connection {
    let conn = file(dir, name, "");
    conn.create_collation("unicase", |a: &str, b: &str| a.to_lowercase().cmp(&b.to_lowercase())).unwrap();
    let flags = rusqlite::functions::FunctionFlags::SQLITE_UTF8;
    conn.create_scalar_function("appfn", 1, flags, |c| Ok(format!("app {}", c.get::<String>(0)?))).unwrap();
    conn.execute_batch(sql).unwrap();
    conn
}

#[test]
fn schema_init_and_serve_take_the_same_tables() {
    let dir = TempDir::new().unwrap();
    let a = app(&dir, "a.db", ODD);
    let printed = run(&dir, &["schema", "a.db"]).ends(0);
    for told in [
        "Table indexed cannot be synced: this SQLite cannot write it: no such collation sequence: unicase",
        "Table img cannot be synced: its trigger del writes both synced and unsynced tables",
        "Table calls cannot be synced: its trigger calling has to run for synced rows too",
    ] {
        assert!(printed.stderr.contains(told), "{}", printed.stderr);
    }
    let server = serve(&printed.stdout);
    let url = server.url();
    let init = run(&dir, &["init", "a.db", "--server", &url, "--all", "--token", "ann", "--json"]).ends(0).json();
    assert_eq!(init["tables"], serde_json::json!(["com", "deck", "own", "plain"]));
    a.execute_batch(
        "INSERT INTO own VALUES ('o', 'x'); INSERT INTO deck VALUES ('d', 'Deck'); INSERT INTO img VALUES ('i');
        INSERT INTO com VALUES ('c', 'i'), ('k', NULL); DELETE FROM img;",
    )
    .unwrap();
    run(&dir, &["sync", "a.db"]).ends(0);
    run(&dir, &["clone", &url, "b.db", "--token", "ann"]).ends(0);
    let b = app(&dir, "b.db", "");
    assert_eq!(text(&b, "SELECT x FROM own"), "app x", "what the app's trigger wrote travels");
    assert_eq!(text(&b, "SELECT name FROM deck"), "Deck");
    assert_eq!(text(&b, "SELECT group_concat(id) FROM com"), "k", "also into tables that others write");
    b.execute_batch("UPDATE deck SET name = 'DECK'; INSERT INTO own VALUES ('p', 'from b')").unwrap();
    run(&dir, &["sync", "b.db"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    assert_eq!(text(&a, "SELECT name FROM deck"), "DECK");
    assert_eq!(text(&a, "SELECT x FROM own WHERE id = 'p'"), "app from b", "a trigger whose effects travel ran once");
    run(&dir, &["verify", "a.db"]).ends(0);
}

/// What a file with the app's own schema has, `sqlite3 .schema` prints too: the server reads it likewise.
#[test]
fn a_server_reads_the_apps_own_ddl() {
    let dir = TempDir::new().unwrap();
    let fits = ODD.lines().filter(|l| !l.contains("indexed")).collect::<Vec<_>>().join("\n");
    app(&dir, "a.db", &fits);
    let server = serve(&fits);
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);

    // A table that no device can sync is left out at both ends, and keeps neither from the others.
    let unfit = format!(
        "{fits} CREATE TABLE r (at REAL PRIMARY KEY); CREATE TABLE c (id INTEGER PRIMARY KEY, r REFERENCES r);"
    );
    let a = app(&dir, "u.db", &unfit);
    a.execute_batch("INSERT INTO r VALUES (1.5); INSERT INTO c VALUES (1, 1.5); INSERT INTO plain VALUES ('p', 'x')")
        .unwrap();
    let server = serve(&unfit);
    let init =
        run(&dir, &["init", "u.db", "--server", &server.url(), "--all", "--token", "ann", "--json"]).ends(0).json();
    let refused: Vec<_> = init["refused"].as_array().unwrap().iter().map(|r| r["table"].clone()).collect();
    assert!(refused.contains(&"r".into()) && refused.contains(&"c".into()), "{init}");
    run(&dir, &["sync", "u.db"]).ends(0);
    run(&dir, &["clone", &server.url(), "v.db", "--token", "ann"]).ends(0);
    assert_eq!(text(&app(&dir, "v.db", ""), "SELECT x FROM plain"), "x");
}

/// Named, such a table is refused with its reason, and the file stays as it was.
#[test]
fn named_tables_are_refused_by_their_triggers() {
    let dir = TempDir::new().unwrap();
    let a = app(&dir, "a.db", ODD);
    for (tables, said) in
        [("img,com", "trigger del"), ("calls", "no such function: appfn"), ("plain,indexed", "unicase")]
    {
        let ran = run(&dir, &["init", "a.db", "--server", "http://h", "--tables", tables]).ends(1);
        assert!(ran.stderr.contains(said), "{tables}: {}", ran.stderr);
    }
    assert_eq!(text(&a, "SELECT count(*) || '' FROM sqlite_schema WHERE name LIKE '\\_sync%' ESCAPE '\\'"), "0");
}

/// A synced file to which the app adds such a trigger stops with the sentence, as for any table that cannot go on, and
/// can still be detached with what it has.
#[test]
fn a_trigger_that_comes_later_is_told_and_the_file_can_leave() {
    let dir = TempDir::new().unwrap();
    let ddl = "CREATE TABLE a (id TEXT PRIMARY KEY NOT NULL); CREATE TABLE local (x);";
    let (a, server) = (app(&dir, "a.db", ddl), serve(ddl));
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    let trigger = "CREATE TRIGGER late AFTER INSERT ON a BEGIN INSERT INTO local VALUES (appfn('x')); END;
        INSERT INTO a VALUES ('1');";
    a.execute_batch(trigger).unwrap();
    let ran = run(&dir, &["sync", "a.db"]).ends(1);
    assert!(ran.stderr.contains("trigger late") && ran.stderr.contains("appfn"), "{}", ran.stderr);
    run(&dir, &["detach", "a.db", "--keep"]).ends(0);
    a.execute_batch("DROP TRIGGER late").unwrap();
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    assert_eq!(run(&dir, &["sync", "a.db"]).ends(0).stdout, "Sent 1 row.\n");
}

/// Where migration tools remember what they did is each file's own, but where somebody names it, or where it is synced
/// already.
#[test]
fn tables_of_migration_tools_are_left_out_unless_named() {
    let dir = TempDir::new().unwrap();
    let ddl = "CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL, body TEXT);
        CREATE TABLE schema_migrations (version TEXT PRIMARY KEY NOT NULL);
        CREATE TABLE migrations (id TEXT PRIMARY KEY NOT NULL, what TEXT);";
    let server = serve(ddl);
    let a = app(
        &dir,
        "a.db",
        &format!("{ddl} INSERT INTO schema_migrations VALUES ('0001'); INSERT INTO migrations VALUES ('m', 'geese');"),
    );
    let schema = run(&dir, &["schema", "a.db", "--json"]).ends(0).json();
    let url = server.url();
    let init = run(&dir, &["init", "a.db", "--server", &url, "--all", "--token", "ann", "--json"]).ends(0).json();
    assert_eq!(init["tables"], serde_json::json!(["migrations", "note"]), "the other is the app's own");
    assert_eq!(init["tables"], schema["tables"]);
    assert_eq!(init["refused"][0]["table"], "schema_migrations");
    run(&dir, &["sync", "a.db"]).ends(0);
    a.execute_batch("INSERT INTO schema_migrations VALUES ('0002')").unwrap();
    assert_eq!(run(&dir, &["sync", "a.db"]).ends(0).stdout, "Up to date.\n");

    app(&dir, "b.db", &format!("{ddl} INSERT INTO schema_migrations VALUES ('0001');"));
    let tables = "note,schema_migrations,migrations";
    run(&dir, &["init", "b.db", "--server", &url, "--tables", tables, "--token", "ann"]).ends(0);
    assert_eq!(run(&dir, &["sync", "b.db", "--json"]).ends(0).json()["report"]["push"]["committed_rows"], 1);
    let again = run(&dir, &["init", "b.db", "--server", &url, "--all", "--token", "ann", "--json"]).ends(0).json();
    assert_eq!(
        again["tables"],
        serde_json::json!(["migrations", "note", "schema_migrations"]),
        "what is synced stays so"
    );
}

/// Keys that cannot travel are told before anything is sent, and the rest goes.
#[test]
fn keys_that_their_type_cannot_carry_are_counted_first() {
    let dir = TempDir::new().unwrap();
    let ddl = "CREATE TABLE p (code INTEGER_OR_TEXT PRIMARY KEY, v);";
    let server = serve(ddl);
    file(&dir, "a.db", &format!("{ddl} INSERT INTO p VALUES (1, 'one'), ('Naiad', 2), ('Io', 3), (NULL, 4);"));
    let init = run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    for told in
        ["Table p: 2 of its rows have a key that column code (INTEGER_OR_TEXT)", "Table p: 1 of its rows have NULL"]
    {
        assert!(init.stderr.contains(told), "{}", init.stderr);
    }
    let report = run(&dir, &["sync", "a.db", "--json"]);
    assert_eq!(report.json()["report"]["push"]["committed_rows"], 1, "{}", report.stderr);
}
