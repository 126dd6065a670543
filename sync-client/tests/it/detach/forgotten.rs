//! Removing everything of ours, and nothing else.

use sync_client::{Attached, Detach, Error};

use super::{ROWS, detach};
use crate::world::{World, converge};

/// Detached twice in a row, and forgotten: nothing of ours is left.
#[test]
fn a_detached_file_can_be_forgotten() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql(ROWS);
    converge(&[&a, &b]);
    for _ in 0..2 {
        detach(&mut a, Detach::WhenClean);
        a.open();
        a.sync();
    }
    assert!(matches!(sync_client::forget(&a.path), Err(Error::Owned { .. })));
    detach(&mut a, Detach::WhenClean);
    sync_client::forget(&a.path).unwrap();
    assert_eq!(a.count("SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_sync\\_%' ESCAPE '\\'"), 0);
    assert!(matches!(sync_client::forget(&a.path), Err(Error::NotInitialized)));
    a.open();
    assert_eq!(a.client().attach().unwrap(), Attached::Merged);
    converge(&[&a, &b]);
}

/// What the app has under names like ours stays, whichever way the file is detached.
#[test]
fn a_detach_leaves_what_is_called_like_ours() {
    let w = World::new();
    let mut a = w.device("a");
    a.sync();
    a.sql(
        "CREATE TABLE _sync_prefs (k TEXT, v TEXT); INSERT INTO _sync_prefs VALUES ('wifi', 'only'); \
         CREATE TABLE _SYNC_LOG_77 (x); CREATE TABLE local (x); \
         CREATE TRIGGER _sync_mine AFTER INSERT ON people BEGIN INSERT INTO local VALUES (NEW.id); END; \
         CREATE TRIGGER _sync_77_mine AFTER INSERT ON local BEGIN SELECT 1; END",
    );
    let theirs = "SELECT group_concat(name, ' ') FROM (SELECT name FROM sqlite_schema WHERE name IN \
                  ('_sync_prefs', '_SYNC_LOG_77', '_sync_mine', '_sync_77_mine') ORDER BY name)";
    let all = a.text(theirs);
    a.sync();
    a.client().detach(Detach::WhenClean).unwrap();
    a.close();
    assert_eq!(a.text(theirs), all);
    sync_client::forget(&a.path).unwrap();
    assert_eq!(a.text(theirs), all);
    assert_eq!(a.text("SELECT v FROM _sync_prefs"), "only");
    let ours = "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_sync\\_%' ESCAPE '\\'";
    assert_eq!(a.count(ours), 4);
    // Names that sync needs are told of before anything is made.
    a.sql("DROP TABLE _SYNC_LOG_77; DROP TRIGGER _sync_77_mine; CREATE TABLE _Sync_Row (x)");
    let refused = a.try_open().unwrap_err().to_string();
    assert!(refused.contains("a table _Sync_Row of its own"), "{refused}");
    assert_eq!(a.count(ours), 3);
    a.sql("DROP TABLE _Sync_Row");
    a.open();
    a.sync();
    // A version that does not know all of ours removes none of it.
    a.client().detach(Detach::WhenClean).unwrap();
    a.close();
    a.sql("UPDATE _sync_meta SET value = 99 WHERE name = 'format'");
    assert!(matches!(sync_client::forget(&a.path), Err(Error::NewerFormat(99))));
}

/// An app's own trigger runs for what comes from others, also where it is called like ours.
#[test]
fn a_trigger_that_is_called_like_ours_runs() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("CREATE TABLE local (x); CREATE TRIGGER _sync_mine AFTER INSERT ON people BEGIN INSERT INTO local VALUES (NEW.id); END");
    b.sql("INSERT INTO people (id) VALUES ('p')");
    converge(&[&b, &a]);
    assert_eq!(a.text("SELECT x FROM local"), "p");
}

/// However damaged what we keep in a file is, all of it can be removed.
#[test]
fn a_damaged_file_can_be_forgotten() {
    for damage in ["DROP TABLE _sync_table", "UPDATE _sync_meta SET value = 'x'", "DROP TABLE _sync_log_1"] {
        let w = World::new();
        let mut a = w.device("a");
        a.sql(ROWS);
        a.sync();
        a.close();
        a.sql(damage);
        sync_client::forget(&a.path).unwrap();
        let ours = "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_sync\\_%' ESCAPE '\\'";
        assert_eq!(a.count(ours), 0, "{damage}");
        a.sql("INSERT INTO people (id) VALUES ('p')");
    }
}
