//! A table that the app drops, or takes out of those that are synced, while its rows are pending or on their way.

use sync_client::transport::{Transport as _, TransportError};

use crate::relay::through;
use crate::world::{World, converge};

/// Whatever stage its push had reached: the rest goes on, and what the server does not have is told, whole where it was
/// frozen.
#[test]
fn a_table_dropped_with_rows_in_flight_holds_nobody_up() {
    for (n, arrives) in [None, Some(false), Some(true)].into_iter().enumerate() {
        let w = World::new();
        let (mut a, b) = (w.device("a"), w.device("b"));
        a.sql("INSERT INTO people (id) VALUES ('p'); INSERT INTO notes VALUES ('n', 'p', 'x'); INSERT INTO tags VALUES ('n', 'old')");
        converge(&[&a, &b]);
        a.sql("INSERT INTO tags VALUES ('n', 'red'); UPDATE notes SET body = 'y'");
        if arrives.is_some() {
            let arrives = arrives == Some(true);
            let client = through(&w, &mut a, move |http, request| {
                if request.path.ends_with("/commit") {
                    if arrives {
                        http.send(request)?;
                    }
                    return Err(TransportError::Offline("the network is gone".into()));
                }
                http.send(request)
            });
            client.push().unwrap_err();
            assert_eq!(client.status().unwrap().outbox, "sent");
        }
        a.sql("DROP TABLE tags");
        a.open();
        // Meanwhile there is something to tell as ever.
        let status = a.client().status().unwrap();
        assert_eq!(status.outbox, if arrives.is_some() { "sent" } else { "none" }, "{n}");
        assert_eq!(a.client().mark().unwrap(), status.position, "{n}");
        a.client().pending().unwrap();
        a.sync();
        a.sql("INSERT INTO people (id) VALUES ('after')");
        a.sync();
        let status = a.client().status().unwrap();
        assert_eq!((status.pending_rows, status.outbox.as_str()), (0, "none"), "{n}: {status:?}");
        assert!(!status.tables.contains(&"tags".to_owned()), "{n}");
        b.sync();
        assert_eq!(b.text("SELECT (SELECT body FROM notes) || group_concat(id) FROM people"), "yafter,p", "{n}");
        let there = if arrives == Some(true) { "old,red" } else { "old" };
        assert_eq!(b.text("SELECT group_concat(tag) FROM tags"), there, "{n}");
        let told = a.client().discarded().unwrap();
        match arrives {
            Some(true) => assert_eq!(told, [], "it is on the server"),
            Some(false) => {
                assert_eq!((told.len(), told[0].reason.as_str()), (1, "table_gone"), "{told:?}");
                assert_eq!(told[0].local_row.as_deref(), Some(r#"{"note":"n","tag":"red"}"#));
                assert!(told[0].message.contains("(dropped or renamed) before this change was on the server"));
            }
            None => {
                assert_eq!((told.len(), told[0].reason.as_str()), (1, "table_gone"), "{told:?}");
                assert!(told[0].message.contains("(dropped or renamed) while 1 changed rows of it were not"));
            }
        }
        // It comes back as a table like any other.
        a.sql("CREATE TABLE tags (note TEXT NOT NULL REFERENCES notes(id) ON DELETE CASCADE, tag TEXT NOT NULL, PRIMARY KEY (note, tag)) WITHOUT ROWID");
        converge(&[&a, &b]);
        assert_eq!(a.text("SELECT group_concat(tag) FROM tags"), there, "{n}");
    }
}

/// Taken out while its rows are on their way: what waits can be told of, before and after the file is opened.
#[test]
fn a_table_taken_out_with_rows_in_flight_can_be_looked_at() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    a.sql("INSERT INTO counters VALUES (1, 'one')");
    let client = through(&w, &mut a, |http, request| {
        if request.path.ends_with("/commit") {
            return Err(TransportError::Offline("the network is gone".into()));
        }
        http.send(request)
    });
    client.push().unwrap_err();
    drop(client);
    a.setup = Box::new(|b| b.tables(&["people", "notes", "tags"]));
    a.open();
    a.sql("INSERT INTO people (id) VALUES ('p'); INSERT INTO counters VALUES (2, 'two')");
    let status = sync_client::read_status(&a.path).unwrap();
    assert_eq!((status.outbox.as_str(), status.pending_rows), ("sent", 2));
    let pending: Vec<String> = a.client().pending().unwrap().into_iter().map(|p| p.table).collect();
    assert_eq!(pending, ["counters", "people"]);
    a.sync();
    assert_eq!(a.client().status().unwrap().pending_rows, 0);
}

/// A table that is not among those that are synced any more: its rows stay here, and it is told what the server lacks.
#[test]
fn a_table_taken_out_keeps_its_rows() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id) VALUES ('p'); INSERT INTO counters VALUES (1, 'one')");
    converge(&[&a, &b]);
    a.sql("INSERT INTO counters VALUES (2, 'two')");
    a.client().status().unwrap();
    a.setup = Box::new(|b| b.tables(&["people", "notes", "tags"]));
    a.open();
    a.sql("INSERT INTO people (id) VALUES ('q')");
    a.sync();
    b.sync();
    assert_eq!((a.count("SELECT count(*) FROM counters"), b.count("SELECT count(*) FROM counters")), (2, 1));
    assert_eq!(b.count("SELECT count(*) FROM people"), 2);
    a.setup = Box::new(|b| b);
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM counters"), 2);
}
