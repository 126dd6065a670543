//! What is in motion while files are compared: what the app writes, what it has pending, what others commit.

use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use sync_client::context::FaultPoint;
use sync_client::transport::Transport;
use sync_client::{Client, Remedy, Repair};

use super::{DAMAGE, counts, named, two, verify};
use crate::relay::through;
use crate::world::{AtFault, World, converge, unseen};

#[test]
fn what_the_app_is_changing_is_left_out() {
    let w = World::new();
    let (a, b) = two(&w);
    unseen(&a.path, DAMAGE);
    a.sql("UPDATE people SET name = 'mine' WHERE id = 'a'; DELETE FROM people WHERE id = 'c'; INSERT INTO people (id) VALUES ('new')");
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), named(&r).len()), ((2, 2, 3), 2));
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name || age FROM people WHERE id = 'a'"), "mine31");
    assert_eq!(b.text("SELECT group_concat(id) FROM (SELECT id FROM people ORDER BY id)"), "a,b,new");
}

#[test]
fn a_row_that_the_app_writes_meanwhile_is_not_repaired() {
    let w = World::new();
    let (mut a, b) = two(&w);
    a.close();
    unseen(&a.path, DAMAGE);
    // An app that writes between the comparison and its repair.
    let app = Mutex::new(Some(Connection::open(&a.path).unwrap()));
    let writes = move |point| {
        if point == FaultPoint::Staged
            && let Some(app) = app.lock().unwrap().take()
        {
            app.execute_batch("UPDATE people SET name = 'later' WHERE id = 'a'").unwrap();
        }
    };
    let client = Client::builder(&a.path)
        .server(w.url())
        .token(|_| Ok("ada".into()))
        .environment(Arc::new(AtFault(writes)))
        .open()
        .unwrap();
    let r = client.verify(Repair::FromServer).unwrap();
    assert_eq!(counts(&r), (2, 2, 1));
    let of = |table: &str| r.differences.iter().find(|d| d.table == table).unwrap().remedy;
    assert_eq!((of("people"), of("tags")), (Remedy::Overtaken, Remedy::FromServer));
    drop(client);
    a.open();
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people WHERE id = 'a'"), "later");
}

/// Bundles come between the pull and the snapshot, and between the snapshot and the pull that follows.
#[test]
fn rows_newer_than_the_snapshot_are_left_out() {
    let w = World::new();
    let (mut a, b) = two(&w);
    unseen(&a.path, DAMAGE);
    let other = Mutex::new((Connection::open(&b.path).unwrap(), 0));
    let syncs = b.client().clone();
    let client = through(&w, &mut a, move |http, request| {
        if request.path != "/sync/snapshot-sessions" {
            return http.send(request);
        }
        let mut other = other.lock().unwrap();
        let mut write = || {
            other.1 += 1;
            let n = other.1;
            other.0.pragma_update(None, "foreign_keys", true).unwrap();
            let sql = format!(
                "UPDATE people SET name = 'step {n}' WHERE id = 'b'; INSERT INTO counters VALUES (100 + {n}, '');
                 DELETE FROM notes WHERE id = 'n{n}'"
            );
            other.0.execute_batch(&sql).unwrap();
            syncs.sync().unwrap();
        };
        write();
        let response = http.send(request);
        write();
        response
    });
    let r = client.verify(Repair::FromServer).unwrap();
    // Bundle 2 took the first note and its tags away, so that unseen damage to them is none any more.
    assert_eq!((counts(&r), r.bundle_seq), ((2, 2, 3), 2));
    drop(client);
    a.open();
    assert_eq!(a.text("SELECT name FROM people WHERE id = 'b'"), "step 2");
    assert_eq!((a.count("SELECT count(*) FROM notes"), a.count("SELECT count(*) FROM counters")), (0, 4));
    assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
}
