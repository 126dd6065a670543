//! What an app keeps beside its synced tables by triggers (search, counters, an R-tree) is, after whatever a sync did,
//! what it is when filled afresh.

use proptest::prelude::*;
use sync_client::{Policy, Repair};
use sync_server::limits::Limits;

use crate::world::{Device, World, unseen};

fn schema(numbers: &str) -> String {
    format!(
        "CREATE TABLE list (id INTEGER PRIMARY KEY {numbers}, name TEXT, code TEXT UNIQUE);
         CREATE TABLE entry (id INTEGER PRIMARY KEY {numbers}, list INTEGER REFERENCES list(id) ON DELETE CASCADE,
           title TEXT NOT NULL, x REAL NOT NULL DEFAULT 0)"
    )
}

/// An index that says what it forgets, and looks at changes of the title only; another one that has its own content; one
/// that reads its content, by triggers as they are often written; a counter by INSERT and DELETE, and one that also looks
/// at moves; an R-tree.
const HELPERS: &str = "
CREATE VIRTUAL TABLE told USING fts5(title, content=entry, content_rowid=id);
CREATE TRIGGER told_i AFTER INSERT ON entry BEGIN INSERT INTO told(rowid, title) VALUES (NEW.id, NEW.title); END;
CREATE TRIGGER told_d AFTER DELETE ON entry BEGIN INSERT INTO told(told, rowid, title) VALUES ('delete', OLD.id, OLD.title); END;
CREATE TRIGGER told_u AFTER UPDATE OF title ON entry WHEN OLD.title <> NEW.title BEGIN
  INSERT INTO told(told, rowid, title) VALUES ('delete', OLD.id, OLD.title);
  INSERT INTO told(rowid, title) VALUES (NEW.id, NEW.title); END;
CREATE VIRTUAL TABLE own USING fts5(title);
CREATE TRIGGER own_i AFTER INSERT ON entry BEGIN INSERT INTO own(rowid, title) VALUES (NEW.id, NEW.title); END;
CREATE TRIGGER own_d AFTER DELETE ON entry BEGIN DELETE FROM own WHERE rowid = OLD.id; END;
CREATE TRIGGER own_u AFTER UPDATE ON entry BEGIN UPDATE own SET title = NEW.title WHERE rowid = NEW.id; END;
CREATE VIRTUAL TABLE read USING fts5(title, content=entry, content_rowid=id);
CREATE TRIGGER read_i AFTER INSERT ON entry BEGIN INSERT INTO read(rowid, title) VALUES (NEW.id, NEW.title); END;
CREATE TRIGGER read_d AFTER DELETE ON entry BEGIN DELETE FROM read WHERE rowid = OLD.id; END;
CREATE TRIGGER read_u AFTER UPDATE ON entry BEGIN UPDATE read SET title = NEW.title WHERE rowid = NEW.id; END;
CREATE TABLE total (n INTEGER); INSERT INTO total VALUES (0);
CREATE TRIGGER total_i AFTER INSERT ON entry BEGIN UPDATE total SET n = n + 1; END;
CREATE TRIGGER total_d AFTER DELETE ON entry BEGIN UPDATE total SET n = n - 1; END;
CREATE TABLE stat (list INTEGER, n INTEGER);
CREATE TRIGGER stat_i AFTER INSERT ON entry WHEN NEW.list IS NOT NULL BEGIN
  INSERT INTO stat SELECT NEW.list, 0 WHERE NEW.list NOT IN (SELECT list FROM stat);
  UPDATE stat SET n = n + 1 WHERE list = NEW.list; END;
CREATE TRIGGER stat_d AFTER DELETE ON entry BEGIN UPDATE stat SET n = n - 1 WHERE list = OLD.list; END;
CREATE TRIGGER stat_u AFTER UPDATE OF list ON entry WHEN OLD.list IS NOT NEW.list BEGIN
  UPDATE stat SET n = n - 1 WHERE list = OLD.list;
  INSERT INTO stat SELECT NEW.list, 0 WHERE NEW.list NOT IN (SELECT list FROM stat);
  UPDATE stat SET n = n + 1 WHERE list = NEW.list; END;
CREATE VIRTUAL TABLE place USING rtree(id, low, high);
CREATE TRIGGER place_i AFTER INSERT ON entry BEGIN INSERT INTO place VALUES (NEW.id, NEW.x, NEW.x); END;
CREATE TRIGGER place_d AFTER DELETE ON entry BEGIN DELETE FROM place WHERE id = OLD.id; END;
CREATE TRIGGER place_u AFTER UPDATE OF x ON entry BEGIN
  UPDATE place SET low = NEW.x, high = NEW.x WHERE id = NEW.id; END;
";

/// What is not as if it were filled afresh.
fn wrong(d: &Device) -> Vec<String> {
    let mut out = Vec::new();
    for index in ["told", "read"] {
        if let Err(e) =
            d.app.execute_batch(&format!("INSERT INTO {index}({index}, rank) VALUES ('integrity-check', 1)"))
        {
            out.push(format!("{index}: {e}"));
        }
    }
    for (what, sql) in [
        ("own", "SELECT count(*) FROM (SELECT rowid, title FROM own EXCEPT SELECT id, title FROM entry)"),
        ("own lacks", "SELECT count(*) FROM (SELECT id, title FROM entry EXCEPT SELECT rowid, title FROM own)"),
        ("total", "SELECT n - (SELECT count(*) FROM entry) FROM total"),
        ("stat", "SELECT count(*) FROM stat WHERE n <> (SELECT count(*) FROM entry e WHERE e.list = stat.list)"),
        ("stat lacks", "SELECT count(*) FROM entry WHERE list IS NOT NULL AND list NOT IN (SELECT list FROM stat)"),
        ("place", "SELECT count(*) FROM (SELECT id, low FROM place EXCEPT SELECT id, x FROM entry)"),
        ("place lacks", "SELECT count(*) FROM (SELECT id, x FROM entry EXCEPT SELECT id, low FROM place)"),
    ] {
        let n = d.count(sql);
        if n != 0 {
            out.push(format!("{what}: {n}"));
        }
    }
    out
}

/// What both apps do, and what only the one without helpers does: an app's own triggers may be wrong for these.
fn statement() -> impl Strategy<Value = (String, bool)> {
    let n = 1..6i64;
    let word = prop::sample::select(vec!["apple", "banana", "cherry"]);
    prop_oneof![
        3 => (n.clone(), word.clone()).prop_map(|(c, w)| (format!("INSERT OR IGNORE INTO list (name, code) VALUES ('{w}', 'c{c}')"), false)),
        5 => (n.clone(), word.clone(), n.clone()).prop_map(|(l, w, x)| (
            format!("INSERT INTO entry (list, title, x) SELECT (SELECT id FROM list ORDER BY id LIMIT 1 OFFSET {l}), '{w}', {x}"),
            false
        )),
        2 => (n.clone(), word).prop_map(|(i, w)| (format!("UPDATE entry SET title = '{w}' WHERE id = {i}"), true)),
        1 => (n.clone(), n.clone()).prop_map(|(i, x)| (format!("UPDATE entry SET x = {x} WHERE id = {i}"), true)),
        1 => (n.clone(), n.clone())
            .prop_map(|(i, l)| (format!("UPDATE entry SET list = (SELECT id FROM list WHERE id = {l}) WHERE id = {i}"), true)),
        2 => n.clone().prop_map(|i| (format!("DELETE FROM entry WHERE id = {i}"), true)),
        1 => n.prop_map(|i| (format!("DELETE FROM list WHERE id = {i}"), true)),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    (0..3).prop_map(|n| match n {
        0 => Policy::ServerWins,
        1 => Policy::ClientWins,
        _ => Policy::MergeColumns(sync_client::Tie::Server),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 10, ..ProptestConfig::default() })]

    #[test]
    fn helpers_are_as_if_filled_afresh(
        numbers in prop::sample::select(vec!["", "AUTOINCREMENT"]),
        policy in policy(),
        rounds in proptest::collection::vec(
            (proptest::collection::vec((statement(), any::<bool>()), 1..8), 0..5), 2..6),
    ) {
        let w = World::with(&schema(numbers), Limits::default());
        let a = w.device("a");
        let b = w.device_with("b", policy, |app| app.execute_batch(HELPERS).unwrap());
        for (statements, verb) in &rounds {
            for ((sql, only_a), at_a) in statements {
                let app = if *only_a || *at_a { &a } else { &b };
                let _ = app.app.execute_batch(sql);
            }
            a.sync();
            match verb {
                0 => { b.client().pull().unwrap(); }
                1 => { b.client().rebuild().unwrap(); }
                2 => {
                    unseen(&b.path, "UPDATE list SET name = 'damaged' WHERE id = 1");
                    b.client().verify(Repair::FromServer).unwrap();
                }
                _ => {}
            }
            b.sync();
            for r in b.client().rejected().unwrap() {
                let _ = b.client().retry(&r.table, &r.key);
            }
            b.sync();
            let wrong = wrong(&b);
            prop_assert!(wrong.is_empty(), "{wrong:?}");
            prop_assert_eq!(b.client().status().unwrap().set_aside_rows, 0);
        }
    }
}

/// A trigger of the app fails for a row that comes: it is told, and comes once the app has made its index right.
#[test]
fn a_row_comes_once_the_apps_own_index_takes_it() {
    let w = World::with(&schema(""), Limits::default());
    let a = w.device("a");
    let b = w.device_with("b", Policy::ServerWins, |app| {
        app.execute_batch(
            "CREATE TABLE seen (id INTEGER); CREATE TRIGGER see AFTER INSERT ON entry BEGIN
             SELECT RAISE(ABORT, 'seen already') WHERE NEW.id IN (SELECT id FROM seen);
             INSERT INTO seen VALUES (NEW.id); END; INSERT INTO seen VALUES (1), (2)",
        )
        .unwrap();
    });
    a.sql("INSERT INTO entry (id, title) VALUES (1, 'one'), (2, 'two')");
    a.sync();
    for _ in 0..2 {
        b.sync();
        assert_eq!((b.count("SELECT count(*) FROM entry"), b.client().status().unwrap().set_aside_rows), (0, 2));
        let entries = b.client().conflicts().unwrap();
        assert_eq!(entries.len(), 2, "one line a row: {entries:?}");
        // Nothing else tells of them.
        assert_eq!(b.client().clear_all("conflict").unwrap(), 0);
        b.client().clear_entry(entries[0].id).unwrap_err();
        assert!(b.client().retry_entry(entries[0].id).unwrap());
    }
    b.sql("DELETE FROM seen WHERE id = 1");
    b.sync();
    assert_eq!((b.count("SELECT count(*) FROM entry"), b.client().status().unwrap().set_aside_rows), (1, 1));
    b.sql("DELETE FROM seen WHERE id = 2");
    assert!(b.client().retry("entry", "2").unwrap());
    b.sync();
    assert_eq!((b.count("SELECT count(*) FROM entry"), b.client().status().unwrap().set_aside_rows), (2, 0));
}

/// What the app's triggers say of conflicts in their own tables counts for rows that come, as for the app's own.
#[test]
fn triggers_may_ignore_and_replace() {
    let rows = "INSERT INTO list VALUES (1, 'one', 'x'), (2, 'one', 'y'), (3, 'two', 'z')";
    for (tables, body) in [
        ("CREATE TABLE tag (p UNIQUE)", "INSERT OR IGNORE INTO tag VALUES (NEW.name)"),
        ("CREATE TABLE tag (p UNIQUE)", "INSERT OR REPLACE INTO tag VALUES (NEW.name)"),
        ("CREATE TABLE tag (p UNIQUE)", "REPLACE INTO tag VALUES (NEW.name)"),
        ("CREATE TABLE tag (p UNIQUE ON CONFLICT IGNORE)", "INSERT INTO tag VALUES (NEW.name)"),
        ("CREATE TABLE tag (p UNIQUE ON CONFLICT REPLACE)", "INSERT INTO tag VALUES (NEW.name)"),
        (
            "CREATE TABLE tag (p UNIQUE); INSERT INTO tag VALUES ('one'), ('three')",
            "UPDATE OR IGNORE tag SET p = NEW.name WHERE p = 'three'",
        ),
    ] {
        let w = World::with(&schema(""), Limits::default());
        let a = w.device("a");
        let b = w.device_with("b", Policy::ServerWins, |app| {
            let on = |event: &str| format!("CREATE TRIGGER on_{event} AFTER {event} ON list BEGIN {body}; END;");
            app.execute_batch(&format!("{tables}; {} {}", on("INSERT"), on("UPDATE"))).unwrap();
        });
        a.sql(rows);
        a.sync();
        b.sync();
        a.sql("UPDATE list SET name = 'two' WHERE id = 2; UPDATE list SET name = 'one' WHERE id = 3");
        a.sync();
        b.sync();
        assert_eq!(b.client().status().unwrap().set_aside_rows, 0, "{tables}: {body}");
        assert_eq!(b.text("SELECT group_concat(name, ' ') FROM (SELECT * FROM list ORDER BY id)"), "one two one");
        assert_eq!(b.text("SELECT group_concat(p, ' ') FROM (SELECT * FROM tag ORDER BY p)"), "one two", "{body}");
    }
}

/// What would undo more than the row, or less, is refused for it alone.
#[test]
fn triggers_may_not_end_the_transaction() {
    for (declared, said) in
        [("", "OR ROLLBACK"), ("", "OR FAIL"), ("ON CONFLICT ROLLBACK", ""), ("ON CONFLICT FAIL", "")]
    {
        let w = World::with(&schema(""), Limits::default());
        let a = w.device("a");
        let b = w.device_with("b", Policy::ServerWins, |app| {
            app.execute_batch(&format!(
                "CREATE TABLE tag (p UNIQUE {declared}); CREATE TABLE seen (p); CREATE TRIGGER i AFTER INSERT ON list BEGIN
                 INSERT INTO seen VALUES (NEW.name); INSERT {said} INTO tag VALUES (NEW.name); END;"
            ))
            .unwrap();
        });
        a.sql("INSERT INTO list VALUES (1, 'one', 'x'), (2, 'one', 'y'), (3, 'two', 'z')");
        a.sync();
        b.sync();
        assert_eq!(b.count("SELECT count(*) FROM list"), 2, "{declared} {said}");
        assert_eq!((b.count("SELECT count(*) FROM seen"), b.client().status().unwrap().set_aside_rows), (2, 1));
    }
}

/// Rows that a trigger fills and a foreign key empties go with a row that is taken out, before it is put in again: a
/// number given anew, a ring of UNIQUE values. Those of the user's own follow.
#[test]
fn what_a_trigger_fills_goes_with_its_row() {
    for key in ["PRIMARY KEY", ""] {
        // Without a declared type it stays a table of this file.
        let w = World::with(&schema(""), Limits::default());
        let local = format!(
            "CREATE TABLE side (list {key} REFERENCES list(id) ON DELETE CASCADE, len INTEGER);
             CREATE TABLE deep (list INTEGER REFERENCES list(id) ON DELETE CASCADE, n INTEGER);
             CREATE TABLE mine (list INTEGER REFERENCES list(id) ON DELETE CASCADE ON UPDATE CASCADE, note TEXT);
             CREATE TRIGGER fill AFTER INSERT ON list BEGIN INSERT INTO side VALUES (NEW.id, length(NEW.name)); END;
             CREATE TRIGGER fill_deep AFTER INSERT ON side BEGIN INSERT INTO deep VALUES (NEW.list, NEW.len); END;
             CREATE TRIGGER more AFTER UPDATE ON list BEGIN UPDATE mine SET note = note || '!' WHERE 0; END;"
        );
        let a = w.device("a");
        let b = w.device_with("b", Policy::ServerWins, |app| app.execute_batch(&local).unwrap());
        a.sql("INSERT INTO list VALUES (1, 'aaa', 'x')");
        b.sql("INSERT INTO list VALUES (1, 'bbbbbb', 'y'); INSERT INTO mine VALUES (1, 'of b')");
        a.sync();
        b.sync();
        b.sync();
        let side =
            |b: &Device| b.text("SELECT group_concat(list || '=' || len, ' ') FROM (SELECT * FROM side ORDER BY list)");
        assert_eq!(side(&b), "1=3 2=6", "{key}");
        assert_eq!(b.text("SELECT note FROM mine JOIN list ON id = list AND name = 'bbbbbb'"), "of b");
        a.sync();
        a.sql("UPDATE list SET code = 't' WHERE id = 1; UPDATE list SET code = 'x' WHERE id = 2; UPDATE list SET code = 'y' WHERE id = 1");
        a.sync();
        b.sync();
        assert_eq!(side(&b), "1=3 2=6", "{key}");
        assert_eq!(b.count("SELECT count(*) FROM deep"), 2, "{key}");
        assert_eq!(
            (b.count("SELECT count(*) FROM mine"), b.count("SELECT count(*) FROM pragma_foreign_key_check")),
            (1, 0)
        );
        a.sql("DELETE FROM list WHERE id = 2");
        a.sync();
        b.sync();
        assert_eq!((side(&b).as_str(), b.count("SELECT count(*) FROM mine")), ("1=3", 0), "{key}");
        assert_eq!(b.client().status().unwrap().set_aside_rows, 0);
    }
}
