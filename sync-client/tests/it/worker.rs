//! The background worker: whatever a sync ends with, the next one comes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sync_client::report::ErrorClass;
use sync_client::transport::{Http, Request, Response, Transport, TransportError};
use sync_client::{Client, Detach, Event, Repair, SyncWithin, read_status};

use crate::world::{Device, Impatient, World, converge};

/// A client of the device's file, and how its syncs end.
fn told(w: &World, a: &mut Device) -> (Client, Receiver<Event>) {
    a.close();
    let (events, ends) = channel();
    let client = Client::builder(&a.path)
        .server(w.url())
        .token(|_| Ok("ada".into()))
        .environment(Arc::new(Impatient))
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

/// Where there is no token, the server refused nothing: it is told so, and the next try comes as after any outage.
#[test]
fn a_token_that_cannot_be_had_is_no_refusal() {
    let w = World::new();
    let mut a = w.device("a");
    a.close();
    let online = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&online);
    let (events, ends) = channel();
    let client = Client::builder(&a.path)
        .server(w.url())
        .token(move |r| match (asked.load(Ordering::Relaxed), r.renew) {
            (false, false) => Err("no network".into()),
            // The server takes no empty one.
            (false, true) => Ok(String::new()),
            (true, _) => Ok("ada".into()),
        })
        .on_event(move |e| drop(events.send(e.clone())))
        .open()
        .unwrap();
    client.start().unwrap();
    let failed = until(&ends, |e| matches!(e, Event::Failed { .. }));
    assert!(
        matches!(&failed, Event::Failed { class: ErrorClass::Offline, message, retry_in_ms: Some(_) }
            if message == "no token could be had: no network"),
        "{failed:?}"
    );
    online.store(true, Ordering::Relaxed);
    client.wake();
    until(&ends, |e| matches!(e, Event::Finished { .. }));
    client.stop();
    assert_eq!(client.status().unwrap().last_error, None);
}

/// A server that refuses a token, and nobody who has another.
#[test]
fn a_refused_token_without_another_is_a_refusal() {
    let w = World::new();
    let mut a = w.device("a");
    a.close();
    let client = Client::builder(&a.path)
        .server(w.url())
        .token(|r| if r.renew { Err("signed out".into()) } else { Ok(String::new()) })
        .open()
        .unwrap();
    let e = client.sync().unwrap_err();
    assert_eq!(e.class(), ErrorClass::Auth);
    assert_eq!(
        e.to_string(),
        "the server refuses the token: the Authorization header with a bearer token is missing; no other could be had (signed out)"
    );
}

/// A token function that logs the user out, say, would wait for itself.
#[test]
fn a_verb_inside_the_token_function_is_an_error_at_once() {
    let w = World::new();
    let mut a = w.device("a");
    a.close();
    let of_itself: Arc<Mutex<Option<Client>>> = Arc::default();
    let inner = Arc::clone(&of_itself);
    let (said, heard) = channel();
    let client = Client::builder(&a.path)
        .server(w.url())
        .token(move |_| {
            let client = inner.lock().unwrap().clone().unwrap();
            client.stop();
            said.send(client.detach(Detach::KeepData).unwrap_err().to_string()).unwrap();
            said.send(client.sync().unwrap_err().to_string()).unwrap();
            Ok("ada".into())
        })
        .open()
        .unwrap();
    *of_itself.lock().unwrap() = Some(client.clone());
    let (done, end) = channel();
    std::thread::spawn(move || done.send(client.sync().map(drop)));
    end.recv_timeout(Duration::from_secs(30)).expect("it does not wait for itself").unwrap();
    *of_itself.lock().unwrap() = None;
    let said: Vec<String> = heard.iter().collect();
    assert!(said.len() == 2 && said.iter().all(|s| s.contains("after the sync")), "{said:?}");
}

/// HTTP whose first stream is refused for its token.
struct Expired {
    http: Http,
    streams: AtomicUsize,
}

impl Transport for Expired {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        if request.stream && self.streams.fetch_add(1, Ordering::Relaxed) == 0 {
            return Ok(Response { status: 401, retry_after: None, body: Box::new(std::io::empty()) });
        }
        self.http.send(request)
    }
    fn interrupt(&self) {
        self.http.interrupt();
    }
    fn resume(&self) {
        self.http.resume();
    }
}

/// The thread that listens asks for tokens too; a panic there is not the end of the news.
#[test]
fn a_panic_while_listening_is_not_the_end_of_it() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    b.sync();
    a.close();
    let transport = Arc::new(Expired { http: Http::new(w.url()).unwrap(), streams: AtomicUsize::new(0) });
    let (events, ends) = channel();
    let client = Client::builder(&a.path)
        .token(|r| {
            assert!(!r.renew, "no keychain");
            Ok("ada".into())
        })
        .transport(Arc::clone(&transport) as _)
        .on_event(move |e| drop(events.send(e.clone())))
        .open()
        .unwrap();
    client.start().unwrap();
    until(&ends, |e| matches!(e, Event::Finished { .. }));
    b.sql("INSERT INTO people (id) VALUES ('p')");
    b.sync();
    until(&ends, |_| a.count("SELECT count(*) FROM people") == 1);
    client.stop();
    assert!(transport.streams.load(Ordering::Relaxed) > 1);
}

/// A function of the app that panics inside a sync within limits: the limits are over with it.
#[test]
fn a_panic_ends_the_limits_of_its_sync() {
    let w = World::new();
    let boom = Arc::new(AtomicBool::new(false));
    let armed = Arc::clone(&boom);
    let a = w.device_built("a", move |b| {
        let boom = Arc::clone(&armed);
        b.on_event(move |_| assert!(!boom.swap(false, Ordering::Relaxed), "a bug of the app"))
    });
    a.sync();
    boom.store(true, Ordering::Relaxed);
    let within = || a.client().sync_within(Duration::ZERO, None);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(within)).is_err());
    a.sql("INSERT INTO people (id) VALUES ('p')");
    assert_eq!(a.sync().push.committed_rows, 1);
}

/// A function of the app that panics inside the worker's sync: it is told, `status` knows, and the next one comes.
#[test]
fn a_panic_in_the_worker_is_told_like_a_failure() {
    let w = World::new();
    let mut a = w.device("a");
    a.close();
    let (events, ends) = channel();
    let (kept, statuses) = channel();
    let left = AtomicUsize::new(2);
    let path = a.path.clone();
    let client = Client::builder(&a.path)
        .server(w.url())
        .token(|_| Ok("ada".into()))
        .on_event(move |e| {
            if matches!(e, Event::Failed { .. }) {
                let _ = kept.send(read_status(&path).unwrap().last_error);
            }
            let _ = events.send(e.clone());
            // The sync itself, and then whoever is told of it.
            let again = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
            assert!(!again, "a bug of the app");
        })
        .open()
        .unwrap();
    client.start().unwrap();
    let failed = until(&ends, |e| matches!(e, Event::Failed { .. }));
    assert!(
        matches!(&failed, Event::Failed { class: ErrorClass::Local, message, retry_in_ms: Some(_) }
            if message.contains("panicked")),
        "{failed:?}"
    );
    assert!(statuses.recv().unwrap().is_some_and(|e| e.message.contains("panicked")));
    client.wake();
    until(&ends, |e| matches!(e, Event::Finished { .. }));
    client.stop();
    assert_eq!(client.status().unwrap().last_error, None);
}

/// A sync within a time, behind a sync of the worker that takes longer, waits no longer than it has.
#[test]
fn a_sync_within_a_time_waits_no_longer_for_its_turn() {
    let w = World::new();
    let mut a = w.device("a");
    a.close();
    let (begun, begins) = channel();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let client = Client::builder(&a.path)
        .server(w.url())
        .token(|_| Ok("ada".into()))
        .on_event(move |e| {
            if matches!(e, Event::Started) {
                let _ = begun.send(());
                let _ = released.lock().unwrap().recv();
            }
        })
        .open()
        .unwrap();
    client.start().unwrap();
    begins.recv().unwrap();
    let within = |time| {
        let (client, (done, end)) = (client.clone(), channel());
        std::thread::spawn(move || done.send(client.sync_within(time, None).unwrap()));
        end
    };
    for time in [Duration::ZERO, Duration::from_millis(30)] {
        let done = within(time).recv_timeout(Duration::from_secs(30)).expect("it does not wait for the worker");
        assert_eq!(done, SyncWithin { more: true, ..SyncWithin::default() });
    }
    let patient = within(Duration::from_secs(3600));
    drop(release);
    let done = patient.recv_timeout(Duration::from_secs(30)).expect("its turn comes");
    assert!(!done.more && done.report.rounds > 0);
    client.stop();
}
