//! The background worker: whatever a sync ends with, the next one comes.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rusqlite::Connection;
use sync_client::context::{Environment, System};
use sync_client::report::ErrorClass;
use sync_client::{Client, Event, Repair};

use crate::world::{Device, World, converge};

/// The real environment, but for a busy file, for which it does not wait.
struct Hasty;

impl Environment for Hasty {
    fn now_ms(&self) -> i64 {
        System.now_ms()
    }
    fn new_id(&self) -> String {
        System.new_id()
    }
    fn random(&self) -> u64 {
        System.random()
    }
    fn opened(&self, conn: &Connection) {
        conn.busy_timeout(Duration::ZERO).unwrap();
    }
}

/// A client of the device's file, and how its syncs end.
fn told(w: &World, a: &mut Device) -> (Client, Receiver<Event>) {
    a.close();
    let (events, ends) = channel();
    let client = Client::builder(&a.path)
        .server(w.url())
        .token(|_| Ok("ada".into()))
        .environment(Arc::new(Hasty))
        .on_event(move |e| {
            if matches!(e, Event::Finished { .. } | Event::Failed { .. }) {
                let _ = events.send(e.clone());
            }
        })
        .open()
        .unwrap();
    (client, ends)
}

fn until(ends: &Receiver<Event>, wanted: impl Fn(&Event) -> bool) -> Event {
    loop {
        let event = ends.recv_timeout(Duration::from_secs(30)).expect("a sync ends, and says how");
        if wanted(&event) {
            return event;
        }
    }
}

/// The app holds the write lock for longer than a sync waits: neither what it did nor why it failed can be written
/// down. The failure is told, and the next try comes, with something to pull and with nothing.
#[test]
fn an_end_that_cannot_be_written_down_is_not_the_last() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    let (client, ends) = told(&w, &mut a);
    client.start().unwrap();
    for rows in [0, 1] {
        until(&ends, |e| matches!(e, Event::Finished { .. }));
        a.sql("BEGIN IMMEDIATE");
        if rows > 0 {
            b.sql("INSERT INTO people (id) VALUES ('of b')");
            b.sync();
        }
        client.wake();
        let failed = until(&ends, |e| matches!(e, Event::Failed { .. }));
        assert!(
            matches!(&failed, Event::Failed { class: ErrorClass::Local, message, retry_in_ms: Some(_) } if message.contains("locked")),
            "{failed:?}"
        );
        a.sql("COMMIT");
        client.wake();
    }
    until(&ends, |_| a.count("SELECT count(*) FROM people") == 1);
    client.stop();
    assert_eq!(client.status().unwrap().last_error, None);
}

/// What a verb fails with is what it says, also where that cannot be written down.
#[test]
fn the_first_error_is_told_not_that_it_could_not_be_kept() {
    let mut w = World::new();
    let mut a = w.device("a");
    a.sync();
    let (client, _ends) = told(&w, &mut a);
    w.stop();
    a.sql("BEGIN IMMEDIATE");
    let hour = Duration::from_secs(3600);
    let said = [
        client.sync().map(drop),
        client.sync_within(hour, None).map(drop),
        client.attach().map(drop),
        client.push().map(drop),
        client.pull().map(drop),
        client.rebuild().map(drop),
        client.verify(Repair::No).map(drop),
    ];
    for (n, outcome) in said.into_iter().enumerate() {
        let e = outcome.unwrap_err();
        assert_eq!(e.class(), ErrorClass::Offline, "{n}: {e}");
    }
}
