//! Verbs that somebody waits for: they come back when the server says so, as long as they are told to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sync_client::transport::{Http, Request, Response, Transport, TransportError};
use sync_client::{Attached, Client, Detach, Error, Event, Repair};

use tempfile::TempDir;

use crate::cli::{answering, file, names, run};
use crate::world::{Device, World, converge};

/// HTTP that does not wait, but notes for how long it would have, and that something may happen meanwhile.
struct Waiting {
    http: Http,
    pauses: Mutex<Vec<u64>>,
    meanwhile: Box<dyn Fn(usize) + Send + Sync>,
    /// So many requests from now on find no place; and which ones.
    full: AtomicUsize,
    of: &'static str,
}

impl Waiting {
    fn new(w: &World, of: &'static str, meanwhile: impl Fn(usize) + Send + Sync + 'static) -> Arc<Self> {
        let http = Http::new(w.url()).unwrap();
        Arc::new(Self { http, pauses: Mutex::default(), meanwhile: Box::new(meanwhile), full: 0.into(), of })
    }

    fn open(self: &Arc<Self>, d: &mut Device, patience: u64) -> Client {
        d.close();
        let events = Arc::clone(&d.events);
        Client::builder(&d.path)
            .token(|_| Ok("ada".into()))
            .transport(Arc::clone(self) as _)
            .on_event(move |e| events.lock().unwrap().push(e.clone()))
            .patience(Duration::from_secs(patience))
            .open()
            .unwrap()
    }

    /// The pauses since it was asked last, in whole seconds.
    fn pauses(&self) -> Vec<u64> {
        self.pauses.lock().unwrap().drain(..).map(|ms| ms / 1000).collect()
    }
}

impl Transport for Waiting {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let full = request.path.starts_with(self.of)
            && self.full.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if full {
            let body = r#"{"error":"rate_limited","message":"no place"}"#;
            return Ok(Response { status: 429, retry_after: Some(3), body: Box::new(body.as_bytes()) });
        }
        self.http.send(request)
    }

    fn pause(&self, time: Duration) -> Result<(), TransportError> {
        let n = {
            let mut pauses = self.pauses.lock().unwrap();
            pauses.push(u64::try_from(time.as_millis()).unwrap());
            pauses.len()
        };
        (self.meanwhile)(n);
        Ok(())
    }
}

fn told(d: &Device) -> Vec<String> {
    let mut events = d.events.lock().unwrap();
    events.drain(..).filter_map(|e| if let Event::Waiting { message, .. } = e { Some(message) } else { None }).collect()
}

#[test]
fn a_device_waits_for_another_one_that_fills_the_account() {
    let w = World::new();
    let (mut a, c) = (w.device("a"), w.device("c"));
    c.sql("INSERT INTO people (id) VALUES ('c')");
    assert_eq!(c.client().attach().unwrap(), Attached::Seeding);
    a.sql("INSERT INTO people (id) VALUES ('a')");
    let seeding = c.client().clone();
    let waiting = Waiting::new(&w, "", move |n| {
        if n == 2 {
            seeding.sync().unwrap();
        }
    });
    let client = waiting.open(&mut a, 30);
    assert_eq!(client.sync().unwrap().push.committed_rows, 1);
    assert_eq!(waiting.pauses(), [2, 2], "the server sees the seeding go on");
    let told = told(&a);
    assert!(told.len() == 2 && told[0].contains("filling this account"), "{told:?}");
    drop(client);
    a.open();
    converge(&[&a, &c]);
}

/// A seeding that does not end: the patience does.
#[test]
fn patience_ends() {
    let w = World::new();
    let (mut a, c) = (w.device("a"), w.device("c"));
    c.sql("INSERT INTO people (id) VALUES ('c')");
    assert_eq!(c.client().attach().unwrap(), Attached::Seeding);
    let waiting = Waiting::new(&w, "", |_| {});
    for (patience, least) in [(0, 0), (1, 0), (30, 10)] {
        let client = waiting.open(&mut a, patience);
        assert!(matches!(client.sync(), Err(Error::RetryLater { seconds: 2 })));
        let pauses = waiting.pauses();
        assert!(pauses.len() >= least && pauses.iter().sum::<u64>() <= patience, "{patience}: {pauses:?}");
        assert_eq!(client.attach().unwrap(), Attached::RetryLater);
        assert!(waiting.pauses().iter().sum::<u64>() <= patience);
    }
    // What is asked for is longer than the patience: it fails at once, and sends nothing more.
    let full = Waiting::new(&w, "/sync/", |_| {});
    let client = full.open(&mut a, 2);
    full.full.store(1, Ordering::SeqCst);
    assert!(matches!(client.sync(), Err(Error::Offline { retry_after: Some(3), .. })));
    assert_eq!(full.pauses(), [] as [u64; 0]);
}

/// Twenty devices that sync at once: a server without a place for all of them.
#[test]
fn every_verb_comes_back_when_the_server_has_a_place() {
    let w = World::new();
    let b = w.device("b");
    b.sql("INSERT INTO people (id) VALUES ('b')");
    b.sync();
    b.sql("UPDATE people SET name = 'exported'");
    let export = w.dir.path().join("export.db");
    b.client().detach(Detach::Export(export.clone())).unwrap();
    let mut a = w.device("a");
    a.sync();
    let waiting = Waiting::new(&w, "/sync/", |_| {});
    let client = waiting.open(&mut a, 30);
    for (name, verb) in [
        ("push", Box::new(|c: &Client| c.push().map(drop)) as Box<dyn Fn(&Client) -> Result<(), Error>>),
        ("pull", Box::new(|c| c.pull().map(drop))),
        ("sync", Box::new(|c| c.sync().map(drop))),
        ("rebuild", Box::new(|c| c.rebuild().map(drop))),
        ("verify", Box::new(|c| c.verify(Repair::No).map(drop))),
        ("import", Box::new(move |c| c.import(&export).map(drop))),
    ] {
        a.sql(&format!("INSERT INTO people (id) VALUES ('{name}')"));
        waiting.full.store(2, Ordering::SeqCst);
        verb(&client).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(waiting.pauses(), [3, 3], "{name}");
    }
    let mut fresh = w.device("fresh");
    let client = waiting.open(&mut fresh, 30);
    waiting.full.store(2, Ordering::SeqCst);
    assert_eq!(client.attach().unwrap(), Attached::Merged);
    assert_eq!(waiting.pauses(), [3, 3], "attach");
}

/// What went before the wait is in the report, too.
#[test]
fn a_report_has_what_every_try_did() {
    let w = World::new();
    let (mut a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    b.sql("INSERT INTO people (id) VALUES ('b')");
    b.sync();
    let waiting = Waiting::new(&w, "/sync/pull", |_| {});
    let client = waiting.open(&mut a, 30);
    a.sql("INSERT INTO people (id) VALUES ('a')");
    waiting.full.store(1, Ordering::SeqCst);
    let report = client.sync().unwrap();
    assert_eq!((report.push.committed_rows, report.push.bundles, report.pull.applied_rows), (1, 1, 1));
    assert_eq!(waiting.pauses(), [3]);
}

/// What is asked without a file.
#[test]
fn a_question_without_a_file_comes_back_too() {
    let w = World::new();
    let waiting = Waiting::new(&w, "/sync/", |_| {});
    let told = AtomicUsize::new(0);
    let told_of = |e: &Event| {
        assert!(matches!(e, Event::Waiting { ms: Some(3000..=3500), .. }), "{e:?}");
        told.fetch_add(1, Ordering::SeqCst);
    };
    let token = || -> sync_client::TokenSource { Arc::new(|_| Ok("ada".into())) };
    let (schema, ask) = (
        || sync_client::fetch_schema(Arc::<Waiting>::clone(&waiting) as _, token(), "new").map(drop),
        || sync_client::ask_server(Arc::<Waiting>::clone(&waiting) as _, token(), "new").map(drop),
    );
    for question in [&schema as &dyn Fn() -> Result<(), Error>, &ask] {
        waiting.full.store(2, Ordering::SeqCst);
        sync_client::patiently(&*waiting, Duration::from_secs(30), told_of, question).unwrap();
        assert_eq!((waiting.pauses(), told.swap(0, Ordering::SeqCst)), (vec![3, 3], 2));
        waiting.full.store(1, Ordering::SeqCst);
        let outcome = sync_client::patiently(&*waiting, Duration::from_secs(2), told_of, question);
        assert!(matches!(outcome, Err(Error::Offline { retry_after: Some(3), .. })), "{outcome:?}");
        assert_eq!(waiting.pauses(), [] as [u64; 0]);
    }
}

#[test]
fn init_and_clone_wait_for_a_place() {
    let dir = TempDir::new().unwrap();
    let url = answering("429 Too Many Requests\r\nRetry-After: 1", r#"{"error":"rate_limited","message":"no place"}"#);
    file(&dir, "a.db", "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL)");
    let clone = ["clone", &url, "new.db", "--token", "ann", "--wait", "1"];
    let init = ["init", "a.db", "--server", &url, "--all", "--token", "ann", "--wait", "1"];
    for (args, code) in [(&clone[..], 3), (&init, 0)] {
        let ran = run(&dir, args).ends(code);
        assert!(ran.stderr.contains("no place"), "{}", ran.stderr);
    }
    assert_eq!(names(dir.path()).iter().filter(|n| n.starts_with("new")).count(), 0);
}
