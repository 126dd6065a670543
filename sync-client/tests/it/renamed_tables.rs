//! Tables that the app renames, and makes anew under the old name: triggers go along with a table, so ours watch another
//! one then than the one that they are for.

use sync_client::{Client, Detach, Error, Policy};
use sync_server::limits::Limits;

use crate::world::{Device, World, converge};

const TWO: &str = "
CREATE TABLE n (id TEXT PRIMARY KEY NOT NULL, v TEXT, mail TEXT UNIQUE);
CREATE TABLE k (id TEXT PRIMARY KEY NOT NULL, v TEXT, mail TEXT UNIQUE);";

/// Two devices with three rows in each table.
fn two(setup: fn(sync_client::Builder) -> sync_client::Builder) -> (World, Device, Device) {
    let w = World::with(TWO, Limits::default());
    let (a, b) = (w.device_built("a", setup), w.device_built("b", setup));
    a.sql("INSERT INTO n VALUES ('1', 'n1', 'm1'), ('2', 'n2', NULL), ('3', 'n3', NULL); INSERT INTO k SELECT id, 'k' || id, mail FROM n");
    converge(&[&a, &b]);
    (w, a, b)
}

const ASIDE: &str =
    "BEGIN; ALTER TABLE n RENAME TO n_backup; CREATE TABLE n (id TEXT PRIMARY KEY NOT NULL, v TEXT, mail TEXT UNIQUE);
     INSERT INTO n SELECT * FROM n_backup; COMMIT";
const ROWS: &str = "SELECT group_concat(id || coalesce(v, '-'), ' ') FROM (SELECT * FROM n ORDER BY id)";

/// Nothing of either table is lost, whichever tables are synced, and whatever was written before, in between and after.
#[test]
fn a_table_renamed_aside_and_made_anew_syncs_on() {
    for setup in [|b: sync_client::Builder| b, |b: sync_client::Builder| b.tables(&["n", "k"])] {
        let (_w, a, b) = two(setup);
        a.sql("UPDATE n SET v = 'before' WHERE id = '1'; DELETE FROM n WHERE id = '2'");
        a.sql(ASIDE);
        a.sql("INSERT INTO n VALUES ('new', 'after', NULL); INSERT INTO k VALUES ('other', 'k', NULL)");
        // The old one is the app's own by now.
        a.sql("DELETE FROM n_backup WHERE id = '3'; UPDATE n_backup SET v = 'nobody cares'; INSERT INTO n_backup VALUES ('b', 'b', 'm9')");
        b.sql("INSERT INTO k VALUES ('from b', 'k', NULL); UPDATE n SET mail = 'm3' WHERE id = '3'");
        b.sync();
        for d in [&a, &b, &a, &b] {
            d.sync();
        }
        for d in [&a, &b] {
            assert_eq!(d.text(ROWS), "1before 3n3 newafter");
            assert_eq!(d.text("SELECT mail FROM n WHERE id = '3'"), "m3");
            assert_eq!(d.count("SELECT count(*) FROM k"), 5);
        }
        assert_eq!(a.client().discarded().unwrap(), []);
        assert_eq!(a.client().conflicts().unwrap(), []);
        // Both are what they are now: what is written to either is captured, or not, as it should be.
        a.sql("UPDATE n SET v = 'later' WHERE id = 'new'; DELETE FROM n_backup");
        a.sync();
        b.sync();
        assert_eq!(b.text(ROWS), "1before 3n3 newlater");
    }
}

/// What an UPDATE left out of the log is read from the table that has the row now: a base stays exact, and a merge right.
#[test]
fn the_rows_before_an_edit_are_known_after_the_rename() {
    let (_w, mut a, b) = two(|b| b.policy(Policy::MergeColumns(sync_client::Tie::Server)));
    a.close();
    a.sql("UPDATE n SET v = 'mine' WHERE id = '1'");
    a.sql(ASIDE);
    b.sql("UPDATE n SET mail = 'theirs' WHERE id = '1'");
    b.sync();
    a.open();
    converge_tables(&a, &b);
    assert_eq!(b.text("SELECT v || mail FROM n WHERE id = '1'"), "minetheirs");
    assert_eq!(a.client().discarded().unwrap(), []);
}

fn converge_tables(a: &Device, b: &Device) {
    for d in [a, b, a, b] {
        d.sync();
    }
    for table in ["n", "k"] {
        let rows = format!(
            "SELECT group_concat(id || coalesce(v, '-') || coalesce(mail, '-'), ' ') FROM (SELECT * FROM {table} ORDER BY id)"
        );
        assert_eq!(a.text(&rows), b.text(&rows), "{table}");
    }
}

/// Two tables that swap their names, in one transaction, with edits around it.
#[test]
fn tables_that_swap_their_names_sync_on() {
    for legacy in [false, true] {
        let (_w, a, b) = two(|b| b);
        a.sql(&format!("PRAGMA legacy_alter_table = {legacy}"));
        a.sql("UPDATE n SET v = 'edited' WHERE id = '1'; DELETE FROM k WHERE id = '2'");
        a.sql("BEGIN; ALTER TABLE n RENAME TO t; ALTER TABLE k RENAME TO n; ALTER TABLE t RENAME TO k; COMMIT");
        a.sql("UPDATE n SET v = 'was k' WHERE id = '3'; INSERT INTO k VALUES ('4', 'was n', NULL)");
        converge_tables(&a, &b);
        assert_eq!(b.text(ROWS), "1k1 3was k", "{legacy}");
        assert_eq!(
            b.text("SELECT group_concat(id || v, ' ') FROM (SELECT * FROM k ORDER BY id)"),
            "1edited 2n2 3n3 4was n",
            "{legacy}"
        );
        a.sql("DELETE FROM n; UPDATE k SET v = 'end'");
        converge_tables(&a, &b);
        assert_eq!(b.count("SELECT (SELECT count(*) FROM n) + (SELECT count(DISTINCT v) FROM k)"), 1, "{legacy}");
    }
}

/// One that takes the name of a table that was dropped; and a plain new name.
#[test]
fn a_table_that_takes_the_name_of_another_syncs_on() {
    let (_w, a, b) = two(|b| b);
    a.sql("DROP TABLE n; ALTER TABLE k RENAME TO n; UPDATE n SET v = 'moved' WHERE id = '1'");
    for d in [&a, &b, &a] {
        d.sync();
    }
    assert_eq!(b.text(ROWS), "1moved 2k2 3k3");
    a.sql("ALTER TABLE n RENAME TO elsewhere; UPDATE elsewhere SET v = 'local'");
    a.sync();
    b.sync();
    assert_eq!(b.text(ROWS), "1moved 2k2 3k3");
}

/// A view in the table's place is no table: the sentence says so where it was named, and there is a way out.
#[test]
fn a_view_in_a_tables_place_is_told() {
    let (_w, mut a, b) = two(|b| b.tables(&["n", "k"]));
    a.sql("UPDATE n SET v = 'pending' WHERE id = '1'; ALTER TABLE n RENAME TO n_data; CREATE VIEW n AS SELECT * FROM n_data");
    let refused = a.client().sync().unwrap_err();
    assert!(matches!(&refused, Error::Schema(r) if r[0].table == "n"), "{refused}");
    a.close();
    Client::builder(&a.path).detach(&Detach::KeepData).unwrap();
    assert_eq!(a.count("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"), 0);
    a.sql("DROP VIEW n; ALTER TABLE n_data RENAME TO n");
    a.open();
    converge_tables(&a, &b);
    assert_eq!(b.text("SELECT v FROM n WHERE id = '1'"), "pending");
}

/// States that `sync` refuses, or that it does not know.
const STATES: &[(&str, &str)] = &[
    ("renamed aside", ASIDE),
    (
        "renamed aside, other columns",
        "ALTER TABLE n RENAME TO n_old; CREATE TABLE n (id TEXT PRIMARY KEY NOT NULL, w TEXT); INSERT INTO n SELECT id, v FROM n_old",
    ),
    ("swapped", "BEGIN; ALTER TABLE n RENAME TO t; ALTER TABLE k RENAME TO n; ALTER TABLE t RENAME TO k; COMMIT"),
    (
        "another key",
        "ALTER TABLE n RENAME TO n_old; CREATE TABLE n (id TEXT NOT NULL, v TEXT PRIMARY KEY, mail TEXT UNIQUE); INSERT INTO n SELECT * FROM n_old",
    ),
    (
        "no key",
        "CREATE TABLE x (id TEXT, v TEXT, mail TEXT); INSERT INTO x SELECT * FROM n; DROP TABLE n; ALTER TABLE x RENAME TO n",
    ),
    ("a view", "ALTER TABLE n RENAME TO n_data; CREATE VIEW n AS SELECT * FROM n_data"),
    (
        "a mixed trigger",
        "CREATE TABLE local (x); CREATE TRIGGER both AFTER UPDATE ON n BEGIN INSERT INTO local VALUES (NEW.id); UPDATE k SET v = NEW.v WHERE id = NEW.id; END",
    ),
    (
        "a trigger that cannot run",
        "CREATE TABLE local (x); CREATE TRIGGER app AFTER INSERT ON n BEGIN INSERT INTO local VALUES (only_the_app_has_this(NEW.id)); END",
    ),
    (
        "a trigger to nowhere",
        "CREATE TABLE local (x); CREATE TRIGGER app AFTER INSERT ON n BEGIN INSERT INTO local VALUES (NEW.id); END; DROP TABLE local",
    ),
    (
        "an index of the app's",
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE n (id TEXT PRIMARY KEY NOT NULL, v TEXT COLLATE mine, mail TEXT UNIQUE)' WHERE name = 'n'; PRAGMA writable_schema = RESET; CREATE INDEX by_id ON n(id)",
    ),
    ("a log that is gone", "DROP TABLE _sync_log_1"),
    ("triggers that are gone", "DROP TRIGGER _sync_1_insert; DROP TRIGGER _sync_2_update"),
    ("dropped", "DROP TABLE n"),
];

/// Whatever the app did to the file: each way of detaching ends, the rows stay, and nothing of ours is in the app's way.
#[test]
fn every_way_of_detaching_works_on_a_file_in_any_state() {
    let (w, _a, _b) = two(|b| b.tables(&["n", "k"]));
    for (i, (state, sql)) in STATES.iter().enumerate() {
        for form in ["keep", "discard", "export", "forget"] {
            let mut a = w.device_built(&format!("{form}{i}"), |b| b.tables(&["n", "k"]));
            a.sync();
            a.sql("UPDATE n SET v = 'pending' WHERE id = '1'; UPDATE k SET v = 'pending' WHERE id = '1'; DELETE FROM k WHERE id = '2'");
            a.close();
            a.sql(sql);
            a.reconnect();
            let rows = |d: &Device| d.count("SELECT count(*) FROM k");
            let n = if state == &"dropped" { 0 } else { a.count("SELECT count(*) FROM n") };
            let how = match form {
                "keep" => Some(Detach::KeepData),
                "discard" => Some(Detach::Discard),
                "export" => Some(Detach::Export(w.dir.path().join(format!("{i}.export")))),
                _ => None,
            };
            let done = match how {
                Some(how) => Client::builder(&a.path).detach(&how).map(|_| ()),
                None => sync_client::forget(&a.path),
            };
            done.unwrap_or_else(|e| panic!("{state}, {form}: {e}"));
            let ours = "SELECT group_concat(name) FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '\\_sync\\_%' ESCAPE '\\'";
            assert_eq!(a.text(ours), "NULL", "{state}, {form}");
            if state != &"dropped" {
                assert_eq!(a.count("SELECT count(*) FROM n"), n, "{state}, {form}");
            }
            a.sql("INSERT INTO k VALUES ('written afterwards', 'x', NULL)");
            assert!(rows(&a) >= 3, "{state}, {form}");
        }
    }
}

/// An app's clean-up took tables of ours: what was in them is not known, and nothing of the app's is lost over that.
#[test]
fn a_file_that_lost_tables_of_ours_can_be_detached_and_goes_on() {
    for table in ["_sync_dirty", "_sync_row", "_sync_out", "_sync_inbox", "_sync_history"] {
        let (_w, mut a, b) = two(|b| b);
        a.sql("UPDATE n SET v = 'pending' WHERE id = '1'; INSERT INTO n VALUES ('new', 'new', NULL)");
        a.close();
        a.sql(&format!("DROP TABLE {table}"));
        let refused = Client::builder(&a.path).detach(&Detach::WhenClean).unwrap_err();
        assert!(matches!(&refused, Error::Damaged(what) if what.contains(table)), "{refused}");
        Client::builder(&a.path).detach(&Detach::KeepData).unwrap_or_else(|e| panic!("{table}: {e}"));
        a.open();
        converge_tables(&a, &b);
        let told = a.client().discarded().unwrap();
        let kept = told.iter().any(|d| d.local_row.as_ref().is_some_and(|row| row.contains("pending")));
        assert!(b.text(ROWS).starts_with("1pending") || kept, "{table}: {} {told:?}", b.text(ROWS));
        assert!(b.text(ROWS).ends_with("newnew"), "{table}");
    }
    // Without the first of them nobody knows that it is a synced one, and its triggers are in the app's way.
    let (_w, mut a, _b) = two(|b| b);
    a.close();
    a.sql("DROP TABLE _sync_meta; DROP TABLE _sync_log_1");
    assert!(a.app.execute_batch("DELETE FROM k").is_err());
    sync_client::forget(&a.path).unwrap();
    assert_eq!(a.count("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"), 0);
    a.sql("DELETE FROM k");
    assert!(matches!(sync_client::forget(&a.path), Err(Error::NotInitialized)));
}

/// An app's own trigger is its own, whatever it is called.
#[test]
fn a_trigger_of_the_app_that_is_called_like_ours_stays() {
    let (_w, mut a, b) = two(|b| b);
    a.sql("CREATE TABLE local (x); CREATE TRIGGER _sync_1_mine AFTER INSERT ON n BEGIN INSERT INTO local VALUES (NEW.id); END");
    a.sql("ALTER TABLE n ADD COLUMN more TEXT");
    b.sql("INSERT INTO n VALUES ('b', 'b', NULL)");
    converge_tables(&b, &a);
    assert_eq!(a.text("SELECT x FROM local"), "b");
    a.close();
    sync_client::forget(&a.path).unwrap();
    assert_eq!(a.text("SELECT name FROM sqlite_schema WHERE type = 'trigger'"), "_sync_1_mine");
}
