//! The schema: what can be synced, what may be added, and that every scope follows.

use serde_json::json;
use sync_core::protocol::pull::PullRequest;
use sync_server::service::{OpenError, Service, ServiceConfig};
use tempfile::TempDir;

use super::{Fake, NOTES, World, insert, update};

fn refused(schema: &str, rules: Option<&str>) -> String {
    let dir = TempDir::new().unwrap();
    let config = ServiceConfig { rules_sql: rules.map(str::to_owned), ..ServiceConfig::new(dir.path(), schema) };
    Service::open(config, std::sync::Arc::new(Fake::default())).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_synced_is_named() {
    for (schema, words) in [
        ("CREATE TABLE t (id REAL PRIMARY KEY)", vec!["table t", "is REAL", "use an INTEGER"]),
        (
            "CREATE TABLE log (line TEXT); CREATE TABLE t (id TEXT PRIMARY KEY, l TEXT REFERENCES log(line))",
            vec!["table t", "log"],
        ),
        ("CREATE TABLE log (line TEXT)", vec!["no table that can be synced", "table log", "no PRIMARY KEY"]),
        ("CREATE TALE t", vec!["schema.sql is not valid"]),
    ] {
        let text = refused(schema, None);
        assert!(words.iter().all(|w| text.contains(w)), "{text}");
    }
    for (rules, words) in [
        ("CREATE TABLE more (id TEXT)", "CREATE TRIGGER statements only"),
        ("CREATE TRIGGER r AFTER INSERT ON notes BEGIN INSERT INTO nowhere VALUES (1); END", "nowhere"),
        (
            "CREATE TRIGGER r AFTER INSERT ON notes BEGIN INSERT OR IGNORE INTO notes (id) VALUES ('x'); END",
            "OR IGNORE",
        ),
        ("CREATE TRIGGER _sync_x AFTER INSERT ON notes BEGIN SELECT 1; END", "are taken"),
    ] {
        let text = refused(NOTES, Some(rules));
        assert!(text.contains(words), "{text}");
    }
}

/// As `init --all` and `schema` do: what cannot be synced is left out and told, and what refers to it with it.
#[test]
fn one_table_that_cannot_be_synced_stops_no_other() {
    let unfit = "CREATE TABLE reading (id REAL PRIMARY KEY, v TEXT);
        CREATE TABLE typeless (id PRIMARY KEY, v TEXT);
        CREATE TABLE alarm (id TEXT PRIMARY KEY NOT NULL, at REAL REFERENCES reading(id));
        CREATE TABLE bell (id TEXT PRIMARY KEY NOT NULL, alarm TEXT REFERENCES alarm(id));";
    let mut w = World::new(&format!("{unfit} {NOTES}"));
    let left = |w: &World| -> Vec<String> { w.service().left_out().iter().map(|r| r.table.clone()).collect() };
    assert_eq!(left(&w), ["alarm", "bell", "reading", "typeless"]);
    let told = w.service().left_out();
    assert!(told[0].reason.contains("refers to reading") && told[2].reason.contains("REAL"), "{told:?}");
    let a = w.ready("a");
    a.push(1, &[insert("notes", json!({"id": "n1", "body": "x"}))]).unwrap();
    assert_eq!(w.service().schema(&a.caller).unwrap().statements.len(), 2, "new devices are not handed them either");

    // Mended, they are additions; the rows are still there, and a restart says nothing of them any more.
    let mended = unfit.replace("REAL", "INTEGER").replace("id PRIMARY", "id TEXT PRIMARY");
    w.open(&format!("{mended} {NOTES}")).unwrap();
    assert!(left(&w).is_empty());
    let a = w.device("ann", "a");
    a.push(2, &[insert("reading", json!({"id": 1})), insert("alarm", json!({"id": "x", "at": 1}))]).unwrap();
    assert_eq!(a.pull(0).unwrap()["bundles"][0]["rows"][0]["payload"]["body"], "x");

    // A table that has users' rows is never left out: that is said, with the reason, and nothing is touched.
    let e = w.open(&format!("{unfit} {NOTES}")).unwrap_err();
    let OpenError::SchemaChanged(text) = &e else { panic!("{e}") };
    for said in ["table reading is gone", "key column id is REAL", "table bell is gone", "refers to alarm"] {
        assert!(text.contains(said), "{text}");
    }
    w.open(&format!("{mended} {NOTES}")).unwrap();
    let rows = w.device("ann", "a").pull(1).unwrap()["bundles"][0]["rows"].clone();
    assert_eq!(rows.as_array().unwrap().len(), 2, "{rows}");

    // Where none is left, there is nothing to serve, and each is named.
    let text = refused(unfit, None);
    for said in ["no table that can be synced", "table reading", "table typeless", "table alarm", "table bell"] {
        assert!(text.contains(said), "{text}");
    }
    // A rule for one of them is told why its table is not there.
    let rule = "CREATE TRIGGER r AFTER INSERT ON reading BEGIN SELECT 1; END";
    let text = refused(&format!("{unfit} {NOTES}"), Some(rule));
    assert!(text.contains("no such table") && text.contains("table reading: key column id is REAL"), "{text}");
}

#[test]
fn additions_reach_every_scope() {
    let mut w = World::new(NOTES);
    w.ready("a").push(1, &[insert("notes", json!({"id": "n1", "body": "x"}))]).unwrap();
    let added = NOTES.replace("n INTEGER DEFAULT 7", "n INTEGER DEFAULT 7, colour TEXT DEFAULT 'red'")
        + "CREATE TABLE a_first (id TEXT PRIMARY KEY, note TEXT REFERENCES notes(id)); CREATE INDEX by_body ON notes(body);";
    w.open(&added).unwrap();
    let a = w.device("ann", "a");
    assert_eq!(a.pull(0).unwrap()["bundles"][0]["rows"][0]["payload"], json!({"id": "n1", "body": "x", "n": 7}));
    a.push(2, &[update("notes", 1, json!({"id": "n1", "n": 8})), insert("a_first", json!({"id": "f", "note": "n1"}))])
        .unwrap();
    let rows = a.rows(2, None, None).unwrap()["rows"].clone();
    assert_eq!(rows[0]["payload"], json!({"id": "n1", "body": "x", "n": 8, "colour": "red"}));
    assert_eq!(rows[1]["table"], "a_first");
    assert_eq!(
        a.clone().plain().rows(1, None, None).unwrap()["rows"][0]["table"],
        "notes",
        "old rows keep their table"
    );
    // Back again is not an addition.
    let e = w.open(NOTES).unwrap_err();
    assert!(
        matches!(&e, OpenError::SchemaChanged(t) if t.contains("a_first is gone") && t.contains("colour TEXT")),
        "{e}"
    );
    let changed = added.replace("weight > 0", "weight > 1");
    let e = w.open(&changed).unwrap_err().to_string();
    assert!(e.contains("was: weight") && e.contains("> 1"), "{e}");
    w.open(&added).unwrap();
    // What SQLite refuses where there are rows is refused before any scope is touched.
    for column in
        ["late TEXT NOT NULL", "late TEXT DEFAULT CURRENT_TIMESTAMP", "late TEXT REFERENCES notes(id) DEFAULT 'x'"]
    {
        let e = w.open(&added.replace("colour TEXT DEFAULT 'red'", &format!("colour TEXT DEFAULT 'red', {column}")));
        assert!(matches!(e, Err(OpenError::SchemaChanged(_))), "{column}");
    }
    w.open(&added).unwrap();
}

/// H6: rows in history lack a column that came since. A client of the plain view may stop at them for
/// good, so it is sent to a snapshot; where none was seen, nobody is.
#[test]
fn history_ends_at_a_new_column_where_a_client_may_insist_on_it() {
    let column = NOTES.replace("n INTEGER DEFAULT 7", "n INTEGER DEFAULT 7, colour TEXT DEFAULT 'red'");
    for (plain, connects, schema, pruned) in [
        (true, false, column.clone(), true),
        (true, true, column.clone(), true),
        (false, false, column, false),
        (true, false, format!("{NOTES} CREATE TABLE more (id TEXT PRIMARY KEY);"), false),
    ] {
        let case = format!("plain {plain}, connects {connects}, {schema}");
        let mut w = World::new(NOTES);
        let a = w.ready("a");
        if plain && connects {
            w.device("ann", "june").plain().connect(false).unwrap();
        }
        let rows: Vec<_> = (0..3).map(|i| insert("notes", json!({"id": format!("n{i}")}))).collect();
        a.push(1, &rows).unwrap();
        if plain && !connects {
            w.device("ann", "june").plain().pull(0).unwrap();
        }
        let hash = a.push(2, &[insert("notes", json!({"id": "n3"}))]).unwrap().history_hash.unwrap();
        // It is remembered in the file, not by this process.
        w.restart();
        w.open(&schema).unwrap();
        let (a, june) = (w.device("ann", "a"), w.device("ann", "june").plain());
        assert_eq!(super::code(a.pull(1)), if pruned { "history_pruned" } else { "ok" }, "{case}");
        // What is up to date stays so, and history goes on from there.
        let request = PullRequest { after_bundle_seq: 2, after_history_hash: Some(hash), ..PullRequest::default() };
        assert_eq!(a.pull_with(request).unwrap()["bundles"], json!([]), "{case}");
        assert_eq!(a.push(3, &[insert("notes", json!({"id": "n4"}))]).unwrap().bundle_seq, 3);
        let page = june.pull(2).unwrap();
        assert_eq!(page["bundles"][0]["rows"].as_array().unwrap().len(), 1, "{case}");
        assert_eq!(page["bundles"][0]["rows"][0]["key"]["id"], "n4", "{case}");
        let s = w.service().status().unwrap();
        assert_eq!(s.retained_bundle_floor_max, if pruned { 2 } else { 0 }, "{case}");
        // No more is lost with every start.
        w.restart();
        assert_eq!(super::code(w.device("ann", "june").plain().pull(2)), "ok", "{case}");
    }
}

/// A scope's file from before this was remembered tells of such a client by what it asked for.
#[test]
fn a_client_that_came_before_its_kind_was_remembered_is_known_by_its_hash() {
    for plain in [true, false] {
        let mut w = World::new(NOTES);
        let a = w.ready("a");
        a.push(1, &[insert("notes", json!({"id": "n1"}))]).unwrap();
        if plain {
            w.device("ann", "june").plain().pull(0).unwrap();
        }
        w.close();
        let conn = rusqlite::Connection::open(w.scope_file()).unwrap();
        conn.execute_batch("DROP TABLE _sync_seen").unwrap();
        drop(conn);
        w.open(&NOTES.replace("n INTEGER DEFAULT 7", "n INTEGER DEFAULT 7, colour TEXT")).unwrap();
        let expected = if plain { "history_pruned" } else { "ok" };
        assert_eq!(super::code(w.device("ann", "a").pull(0)), expected);
    }
}

/// A session that was staged under other columns is not read by today's.
#[test]
fn staged_rows_do_not_outlive_their_schema() {
    let mut w = World::new(NOTES);
    let push = w.ready("a").stage(1, &[insert("notes", json!({"id": "n1", "body": "x"}))]);
    w.open(&NOTES.replace("n INTEGER DEFAULT 7", "colour TEXT DEFAULT 'red', n INTEGER DEFAULT 7")).unwrap();
    let a = w.device("ann", "a");
    assert_eq!(super::code(a.commit(&push)), "push_session_not_found");
    a.push(1, &[insert("notes", json!({"id": "n1", "body": "x"}))]).unwrap();
    assert_eq!(a.pull(0).unwrap()["bundles"][0]["rows"][0]["payload"]["colour"], "red");
}

/// What may not fit some user's rows is refused at once, not for that user alone and for good.
#[test]
fn additions_that_may_not_fit_are_shown() {
    let mut w = World::new(NOTES);
    w.ready("a").push(1, &[insert("notes", json!({"id": "n1"}))]).unwrap();
    for added in [
        format!("{NOTES} CREATE UNIQUE INDEX u ON notes(body);"),
        format!("{NOTES} CREATE INDEX e ON notes(json_extract(body, '$.x'));"),
        NOTES.replace("n INTEGER DEFAULT 7", "n INTEGER DEFAULT 7, m INTEGER DEFAULT 0 CHECK (m < n)"),
    ] {
        assert!(w.open(&added).is_err(), "{added}");
    }
    w.open(&format!("{NOTES} CREATE TABLE more (id TEXT PRIMARY KEY, v TEXT); CREATE UNIQUE INDEX v ON more(v);"))
        .unwrap();
}
