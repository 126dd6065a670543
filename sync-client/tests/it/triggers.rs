//! Triggers of ours that somebody drops or changes: a clean-up of the app, a part of a schema that is restored. What
//! was written meanwhile is looked for, and an older version's triggers are nobody's doing.

use sync_core::hash::Digest;

use crate::world::{Device, World, converge};

/// Two devices with three people.
fn two(w: &World) -> (Device, Device) {
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name, email) VALUES ('p', 'old', 'p@x'), ('q', 'old', 'q@x'), ('r', 'old', 'r@x')");
    converge(&[&a, &b]);
    (a, b)
}

/// The number of a table among ours.
fn id(d: &Device, table: &str) -> i64 {
    d.count(&format!("SELECT id FROM _sync_table WHERE name = '{table}'"))
}

fn people(d: &Device) -> String {
    d.text("SELECT group_concat(id || name) FROM (SELECT * FROM people ORDER BY id)")
}

const UNSEEN: &str = "INSERT INTO people (id, name) VALUES ('s', 'new'); UPDATE people SET name = 'new' WHERE id = 'p';
    UPDATE people SET id = 'qq' WHERE id = 'q'; DELETE FROM people WHERE id = 'r';
    INSERT OR IGNORE INTO people (id, email) VALUES ('z', 'p@x');";

#[test]
fn what_is_written_without_one_trigger_is_sent() {
    for trigger in ["insert", "update", "rekey", "delete", "evict_insert", "evict_update"] {
        for reopened in [false, true] {
            let w = World::new();
            let (mut a, b) = two(&w);
            if reopened {
                a.close();
            }
            a.sql(&format!("DROP TRIGGER _sync_{}_{trigger}; {UNSEEN}", id(&a, "people")));
            if reopened {
                a.open();
            }
            converge(&[&a, &b]);
            assert_eq!(people(&b), "pnew,qqold,snew", "{trigger}");
            assert!(!a.sync().pull.rebuilt, "once: {trigger}");
        }
    }
}

#[test]
fn what_is_written_beside_a_changed_trigger_is_sent() {
    for what in ["INSERT", "UPDATE", "DELETE"] {
        let w = World::new();
        let (a, b) = two(&w);
        let trigger = format!("_sync_{}_{}", id(&a, "people"), what.to_lowercase());
        a.sql(&format!(
            "DROP TRIGGER {trigger}; CREATE TRIGGER {trigger} AFTER {what} ON people WHEN 0 BEGIN SELECT 1; END; {UNSEEN}"
        ));
        converge(&[&a, &b]);
        assert_eq!(people(&b), "pnew,qqold,snew", "{what}");
    }
}

/// A clean-up that takes the log along, with the triggers or without: nothing of it is stuck for ever.
#[test]
fn a_log_that_is_gone_is_made_anew() {
    for with_triggers in [false, true] {
        let w = World::new();
        let (a, b) = two(&w);
        let n = id(&a, "people");
        // Its last entry goes with it.
        a.sql(&format!("UPDATE people SET name = 'new' WHERE id = 'p'; DROP TABLE _sync_log_{n}"));
        if with_triggers {
            for part in ["insert", "update", "rekey", "delete", "evict_insert", "evict_update"] {
                a.sql(&format!("DROP TRIGGER _sync_{n}_{part}"));
            }
            a.sql("DELETE FROM people WHERE id = 'q'");
        }
        a.sync();
        // Where a trigger names a table that this connection dropped, SQLite looks at its own schema again by a read only.
        a.count("SELECT count(*) FROM people");
        a.sql("UPDATE people SET name = 'newer' WHERE id = 'r'");
        converge(&[&a, &b]);
        assert_eq!(people(&b), if with_triggers { "pnew,rnewer" } else { "pnew,qold,rnewer" });
    }
}

/// What an older version wrote is replaced, and nobody did anything unseen: no table is compared for that.
#[test]
fn an_older_versions_triggers_are_not_a_strangers() {
    for told in [true, false] {
        let w = World::new();
        let (mut a, b) = two(&w);
        a.close();
        let n = id(&a, "people");
        let older = format!(
            "CREATE TRIGGER _sync_{n}_insert AFTER INSERT ON people BEGIN \
             INSERT INTO _sync_log_{n} (op, c0) VALUES (1, NEW.id); END"
        );
        a.sql(&format!("DROP TRIGGER _sync_{n}_insert; {older}"));
        let was = a.text("SELECT triggers FROM _sync_table WHERE name = 'people'");
        let ours = a.text(&format!("SELECT sql FROM sqlite_schema WHERE name = '_sync_{n}_insert'"));
        if told {
            let mut digests: serde_json::Value = serde_json::from_str(&was).unwrap();
            digests[format!("_sync_{n}_insert")] = Digest::of(ours.as_bytes()).hex().into();
            a.app.execute("UPDATE _sync_table SET triggers = ? WHERE name = 'people'", [digests.to_string()]).unwrap();
        } else {
            a.sql("UPDATE _sync_table SET triggers = NULL");
        }
        a.sql("INSERT INTO people (id, name) VALUES ('s', 'new')");
        a.open();
        assert_eq!(a.client().pending().unwrap().len(), 1, "{told}");
        assert!(!a.sync().pull.rebuilt, "{told}");
        assert_eq!(a.text("SELECT triggers FROM _sync_table WHERE name = 'people'"), was);
        converge(&[&a, &b]);
        // One that is missing tells also there.
        a.close();
        a.sql(
            &format!("UPDATE _sync_table SET triggers = NULL; DROP TRIGGER _sync_{n}_update; {UNSEEN}")
                .replace("'s'", "'t'"),
        );
        a.open();
        converge(&[&a, &b]);
        assert_eq!(people(&b), "pnew,qqold,snew,tnew", "{told}");
    }
}

/// Renaming a column and back rewrites triggers; so does an index of the app. Neither is a reason to compare.
#[test]
fn what_sqlite_and_the_schema_do_to_triggers_is_no_reason() {
    let w = World::new();
    let (a, b) = two(&w);
    a.sql("ALTER TABLE people RENAME COLUMN name TO title; ALTER TABLE people RENAME COLUMN title TO name");
    a.sql("CREATE UNIQUE INDEX one_age ON people(age); CREATE TRIGGER mine AFTER UPDATE ON people BEGIN SELECT 1; END");
    a.sql("UPDATE people SET name = 'new' WHERE id = 'p'");
    assert!(!a.sync().pull.rebuilt);
    a.sql("DROP INDEX one_age; DROP TRIGGER mine; UPDATE people SET name = 'new' WHERE id = 'q'");
    assert!(!a.sync().pull.rebuilt);
    converge(&[&a, &b]);
    assert_eq!(people(&b), "pnew,qnew,rold");
}
