//! What becomes of rows of unsynced tables where this file gives up what they refer to.

use sync_server::limits::Limits;

use crate::world::World;

const SYNCED: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, mail TEXT UNIQUE);
    CREATE TABLE posts (id TEXT PRIMARY KEY NOT NULL, user INTEGER REFERENCES users(id) ON DELETE CASCADE, body TEXT);";

/// Rows that go along with one that this file gives up are kept whole, as that one is; what somebody deleted elsewhere
/// takes them along as their schema says, without a word.
#[test]
fn rows_that_go_along_with_what_is_given_up_are_kept_whole() {
    for way in ["discard", "export", "take remote", "parent deleted", "unique", "deleted elsewhere"] {
        let w = World::with(SYNCED, Limits::default());
        let a = w.device("a");
        a.sql("INSERT INTO users (id, name) VALUES (50, 'theirs')");
        a.sync();
        let local = "CREATE TABLE l (\"P\" TEXT REFERENCES posts(id) ON DELETE CASCADE, x REAL UNIQUE, b BLOB, t, g AS (x + 1));
            CREATE TABLE far (x REFERENCES l(x) ON DELETE CASCADE, t); CREATE TABLE side (p REFERENCES posts(id) ON DELETE SET NULL);
            CREATE TABLE m (u TEXT REFERENCES users(mail) ON DELETE CASCADE)";
        let mut b = w.closed_device("b", |app| app.execute_batch(local).unwrap());
        if way == "take remote" {
            b.setup = Box::new(|builder| builder.attach(sync_client::Attach::TakeRemote));
        }
        b.open();
        if way != "take remote" {
            b.sync();
        }
        b.sql("INSERT INTO users VALUES (7, 'mine', 'm@x'); INSERT INTO posts VALUES ('mine', 7, 'x'), ('of 50', NULL, 'x')");
        b.sql(
            "INSERT INTO l VALUES ('mine', 1.5, x'00ff', CAST(x'ff' AS TEXT)), ('mine', 2, NULL, 'two'), (NULL, 3, 1, 2);
             INSERT INTO far VALUES (2, 'far'), (3, 'stays'); INSERT INTO side VALUES ('mine'); INSERT INTO m VALUES ('m@x')",
        );
        match way {
            "discard" => drop(b.client().detach(sync_client::Detach::Discard).unwrap()),
            "export" => drop(b.client().detach(sync_client::Detach::Export(w.dir.path().join("e.db"))).unwrap()),
            "parent deleted" => {
                b.sql("UPDATE posts SET user = 50");
                a.sql("DELETE FROM users WHERE id = 50");
                a.sync();
                b.client().pull().unwrap();
            }
            "unique" => {
                a.sql("INSERT INTO users VALUES (8, 'eight', 'm@x')");
                a.sync();
                b.client().pull().unwrap();
            }
            "deleted elsewhere" => {
                b.sync();
                a.sync();
                a.sql("DELETE FROM users WHERE id = 7");
                a.sync();
                b.sync();
            }
            _ => drop(b.sync()),
        }
        assert_eq!(b.count("SELECT count(*) FROM l"), 1, "{way}");
        assert_eq!((b.text("SELECT t FROM far"), b.count("SELECT count(p) FROM side")), ("stays".into(), 0), "{way}");
        assert_eq!(b.count("SELECT count(*) FROM pragma_foreign_key_check"), 0, "{way}");
        let told = sync_client::read_inbox(&b.path, "discarded").unwrap();
        let along: Vec<_> = told.iter().filter(|e| e.reason == "went_along").collect();
        let rows: Vec<&str> = along.iter().filter_map(|e| e.local_row.as_deref()).collect();
        if way == "deleted elsewhere" {
            assert!(rows.is_empty(), "{rows:?}");
            continue;
        }
        for row in [
            r#"{"p":"mine","x":1.5,"b":{"$blob":"AP8="},"t":{"$blob":"/w=="},"g":2.5}"#,
            r#"{"p":"mine","x":2.0,"b":null,"t":"two","g":3.0}"#,
            r#"{"x":2,"t":"far"}"#,
            r#"{"p":"mine"}"#,
        ] {
            assert!(rows.contains(&row), "{way}: {row} {rows:?}");
        }
        assert_eq!(rows.len(), 4 + usize::from(way != "parent deleted" && way != "unique"), "{way}: {rows:?}");
        if way == "parent deleted" {
            let refused = b.client().retry_entry(along[0].id).unwrap_err().to_string();
            assert!(refused.contains("which is not synced"), "{refused}");
        }
    }
}
