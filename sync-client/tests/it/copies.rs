//! Copies of one file that are attached as strangers: numbers carry the same rows on both sides, and nobody can tell for
//! sure. It is asked, unless nothing depends on it.

use sync_client::{Attach, Error, Policy};
use tempfile::TempDir;

use crate::cli::{file, run, text};
use crate::support::serve;
use crate::world::{Device, World, converge};

const TREE: &str = "CREATE TABLE cat (id INTEGER PRIMARY KEY, name TEXT, parent INTEGER REFERENCES cat(id));
    CREATE TABLE item (id INTEGER PRIMARY KEY, cat INTEGER REFERENCES cat(id), t TEXT);
    CREATE TABLE tag (item INTEGER NOT NULL REFERENCES item(id), tag TEXT NOT NULL, mark TEXT, PRIMARY KEY (item, tag));";

const ROWS: &str = "INSERT INTO cat VALUES (1, 'root', NULL);
    WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 30) INSERT INTO item SELECT n, 1, 'i' || n FROM i;
    INSERT INTO tag VALUES (7, 'red', 'x');";

/// `a` has filled the account; `b` is a copy of its file, with this difference.
fn copy(w: &World, of_a: &str, of_b: &str) -> (Device, Device) {
    let fill = |own: &str| format!("{ROWS}{own}");
    let a = w.device_with("a", Policy::ServerWins, |c| c.execute_batch(&fill(of_a)).unwrap());
    a.sync();
    let b = w.device_with("b", Policy::ServerWins, |c| c.execute_batch(&fill(of_b)).unwrap());
    (a, b)
}

fn asks(d: &Device) -> (u64, u64) {
    match d.client().sync() {
        Err(Error::LooksLikeCopy { equal, differing, .. }) => (equal, differing),
        other => panic!("{other:?}"),
    }
}

const RENAMED: &str = "UPDATE cat SET name = 'Root' WHERE id = 1;";

#[test]
fn a_copy_with_another_root_is_asked_about_and_not_doubled() {
    let w = World::with(TREE, Default::default());
    // Above what both have, rows of their own: these are numbered anew.
    let (a, b) = copy(
        &w,
        &format!("{RENAMED} INSERT INTO item VALUES (31, 1, 'of a')"),
        "INSERT INTO item VALUES (31, 1, 'of b'); INSERT INTO tag VALUES (31, 'blue', 'of b'), (8, 'green', 'y')",
    );
    for _ in 0..2 {
        assert_eq!(asks(&b), (30, 1));
        assert!(!b.client().status().unwrap().attached);
    }
    a.sync();
    assert_eq!(a.count("SELECT count(*) FROM item"), 31, "nothing was sent");
    b.client().attach_as(Attach::Copy).unwrap();
    converge(&[&b, &a]);
    assert_eq!(a.count("SELECT count(*) FROM cat"), 1);
    assert_eq!(a.count("SELECT count(*) FROM item"), 32);
    assert_eq!(a.text("SELECT t || ' ' || tag FROM item JOIN tag ON item = id WHERE mark = 'of b'"), "of b blue");
    assert_eq!(a.text("SELECT group_concat(tag) FROM tag WHERE item < 10"), "red,green");
    // Both rows are kept.
    assert_eq!(b.text("SELECT name FROM cat"), "Root");
    let lost = b.client().discarded().unwrap();
    assert!(lost.len() == 1 && lost[0].local_row.as_ref().unwrap().contains("\"root\""), "{lost:?}");
}

#[test]
fn merge_is_as_it_was() {
    let w = World::with(TREE, Default::default());
    let (a, b) = copy(&w, RENAMED, "");
    assert_eq!(asks(&b), (30, 1));
    b.client().attach_as(Attach::Merge).unwrap();
    converge(&[&b, &a]);
    assert_eq!(a.count("SELECT count(*) FROM item"), 60);
}

#[test]
fn the_client_may_win_in_a_copy() {
    let w = World::with(TREE, Default::default());
    let (a, mut b) = copy(&w, RENAMED, "UPDATE item SET t = 'edited' WHERE id = 3");
    b.setup = Box::new(|b| b.policy(Policy::ClientWins).attach(Attach::Copy));
    b.open();
    converge(&[&b, &a]);
    assert_eq!(
        a.text("SELECT name || (SELECT t FROM item WHERE id = 3) || (SELECT count(*) FROM item) FROM cat"),
        "rootedited30"
    );
    let kept = b.client().conflicts().unwrap();
    assert!(kept.iter().any(|e| e.server_row.as_ref().unwrap().contains("\"Root\"")), "{kept:?}");
}

/// Where no answer would make a difference, and where nothing looks like a copy, nobody is asked.
#[test]
fn nobody_is_asked_in_vain() {
    for (of_a, of_b, items) in [
        ("", "", 30),
        ("INSERT INTO item VALUES (31, 1, 'a')", "INSERT INTO item VALUES (31, 1, 'b')", 32),
        ("DELETE FROM item WHERE id = 20", "", 30),
        // Nineteen equal rows may be chance, and so may less than four of five.
        ("DELETE FROM item WHERE id > 20; UPDATE item SET t = 'a' WHERE id = 1", "DELETE FROM item WHERE id > 20", 21),
        ("UPDATE item SET t = 'a' WHERE id > 23", "", 37),
    ] {
        let w = World::with(TREE, Default::default());
        let (a, b) = copy(&w, of_a, of_b);
        converge(&[&b, &a]);
        assert_eq!(a.count("SELECT count(*) FROM item"), items, "{of_a} {of_b}");
    }
}

/// The highest equal row says how far a copy goes: what differs below it is in doubt, what differs above it is not.
#[test]
fn the_highest_equal_row_is_the_mark() {
    let w = World::with(TREE, Default::default());
    let (a, b) = copy(&w, "UPDATE item SET t = 'a' WHERE id IN (3, 4, 30)", "");
    assert_eq!(asks(&b), (27, 2));
    b.client().attach_as(Attach::Copy).unwrap();
    converge(&[&b, &a]);
    assert_eq!(a.text("SELECT group_concat(id || t) FROM item WHERE id IN (3, 4, 30, 31)"), "3a,4a,30a,31i30");
}

#[test]
fn the_program_ends_with_5_and_takes_an_answer() {
    let (dir, server) = (TempDir::new().unwrap(), serve(TREE));
    let url = server.url();
    file(&dir, "a.db", &format!("{TREE} {ROWS} {RENAMED}"));
    let b = file(&dir, "b.db", &format!("{TREE} {ROWS}"));
    for name in ["a.db", "b.db"] {
        run(&dir, &["init", name, "--server", &url, "--all", "--token", "ann"]).ends(0);
    }
    run(&dir, &["sync", "a.db"]).ends(0);
    for command in ["sync", "watch", "rebuild"] {
        let ran = run(&dir, &[command, "b.db"]).ends(5);
        assert!(
            ran.stderr.contains("30 rows of item") && ran.stderr.contains("`sync-client sync b.db --attach copy`"),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(run(&dir, &["sync", "b.db", "--json"]).ends(5).json()["error"]["class"], "local");
    assert_eq!(text(&b, "SELECT name FROM cat"), "root");
    run(&dir, &["sync", "b.db", "--attach", "copy"]).ends(0);
    assert_eq!(text(&b, "SELECT name || count(*) FROM cat, item"), "Root30");
    // `init` asks already, where the server can be reached and the account has rows; it changes nothing.
    let c = file(&dir, "c.db", &format!("{TREE} {ROWS}"));
    for again in [false, true] {
        let ran = run(&dir, &["init", "c.db", "--server", &url, "--all", "--token", "ann"]).ends(5);
        assert!(ran.stderr.contains("30 rows of item") && ran.stderr.contains("nothing was sent"), "{}", ran.stderr);
        assert_eq!(text(&c, "SELECT name || count(*) FROM cat, item"), "root30", "{again}");
    }
    run(&dir, &["init", "c.db", "--server", &url, "--all", "--token", "ann", "--offline"]).ends(0);
    run(&dir, &["init", "c.db", "--server", &url, "--all", "--attach", "copy"]).ends(0);
    run(&dir, &["sync", "c.db"]).ends(0);
    assert_eq!(text(&c, "SELECT name || count(*) FROM cat, item"), "Root30");
}

/// A synced file, copied while it had rows that were never sent: both send them. Where another device took their numbers
/// meanwhile, both give them the same other ones, and the rows are there once.
#[test]
fn rows_that_were_never_sent_go_once_from_a_file_and_its_copy() {
    for (of_a, of_b, takes, items) in [
        ("", "", false, "1one 2two 3three 4four"),
        ("", "", true, "1one 2two 3of d 4four 5three"),
        ("", "INSERT INTO item VALUES (7, 1, 'of b')", false, "1one 2two 3three 4four 7of b"),
        (
            "INSERT INTO item VALUES (5, 1, 'of a')",
            "INSERT INTO item VALUES (5, 1, 'of b')",
            false,
            "1one 2two 3three 4four 5of a 6of b",
        ),
        // Nobody can tell an edit of the same row from another one: both stay, and that is told.
        ("UPDATE item SET t = 'edited' WHERE id = 3", "", false, "1one 2two 3edited 4four 5three"),
    ] {
        let case = format!("{of_a} {of_b} {takes}");
        let w = World::with(TREE, Default::default());
        let mut a = w.device("a");
        a.sql("INSERT INTO cat VALUES (1, 'root', NULL); INSERT INTO item VALUES (1, 1, 'one'), (2, 1, 'two')");
        a.sync();
        let d = w.device("d");
        d.sync();
        if takes {
            d.sql("INSERT INTO cat VALUES (2, 'of d', NULL); INSERT INTO item VALUES (3, 2, 'of d')");
            d.sync();
        }
        a.sql(
            "INSERT INTO cat VALUES (2, 'new', NULL); INSERT INTO item VALUES (3, 2, 'three'), (4, 2, 'four');
               INSERT INTO tag VALUES (3, 'red', 'x')",
        );
        a.close();
        let mut b = w.closed_device("b", |_| {});
        a.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        std::fs::copy(&a.path, &b.path).unwrap();
        b.open();
        a.open();
        a.sql(of_a);
        b.sql(of_b);
        a.sync();
        b.sync();
        converge(&[&a, &b, &d]);
        assert_eq!(a.text("SELECT group_concat(id || t, ' ') FROM (SELECT * FROM item ORDER BY id)"), items, "{case}");
        assert_eq!(a.count("SELECT count(*) FROM cat"), if takes { 3 } else { 2 }, "{case}");
        assert_eq!(
            a.count("SELECT count(*) FROM item WHERE cat = (SELECT id FROM cat WHERE name = 'new')"),
            if of_a.contains("edited") { 3 } else { 2 },
            "{case}"
        );
        if of_a.contains("edited") {
            let told = b.client().conflicts().unwrap();
            assert!(told.iter().any(|e| e.message.contains("a copy of this file sent another row")), "{told:?}");
        }
    }
}
