//! What was cut goes on where it stands: uploads, downloads, and a sync that may only take so long.

mod bundles;

use std::io::Read;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sync_client::context::{Environment, System};
use sync_client::transport::{Http, Method, Request, Response, Transport, TransportError};
use sync_client::{Client, Error};
use sync_server::limits::Limits;

use crate::world::{Device, World, converge, dump};

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    /// It arrives, its reply does not.
    ReplyLost,
    /// It does not arrive.
    Lost,
    /// There is no network.
    NoNetwork,
    /// The reply breaks off half-way.
    ReplyCut,
    /// It does not arrive, and somebody else answers.
    Answered(u16, &'static str),
}

/// Decides each request's fate by its text and its number.
type Judge = Box<dyn Fn(&Request<'_>, usize) -> Fate + Send + Sync>;

/// HTTP whose requests meet the fate that a test decides on, and that counts uploaded rows.
struct Fated {
    http: Http,
    judge: Mutex<Judge>,
    seen: AtomicUsize,
    sent: Mutex<Vec<String>>,
    uploaded: AtomicU64,
}

impl Fated {
    fn new(w: &World, judge: impl Fn(&Request<'_>, usize) -> Fate + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            http: Http::new(w.url()).unwrap(),
            judge: Mutex::new(Box::new(judge)),
            seen: AtomicUsize::new(0),
            sent: Mutex::default(),
            uploaded: AtomicU64::new(0),
        })
    }

    fn judge(&self, judge: impl Fn(&Request<'_>, usize) -> Fate + Send + Sync + 'static) {
        *self.judge.lock().unwrap() = Box::new(judge);
    }

    fn sent(&self, part: &str) -> usize {
        self.sent.lock().unwrap().iter().filter(|p| p.contains(part)).count()
    }
}

impl Transport for Fated {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let n = self.seen.fetch_add(1, Ordering::Relaxed);
        let fate = (self.judge.lock().unwrap())(request, n);
        if fate == Fate::NoNetwork {
            return Err(TransportError::Offline("no network".into()));
        }
        self.sent.lock().unwrap().push(format!("{:?} {}", request.method, request.path));
        if is_chunk(request) {
            let body = request.body.unwrap();
            let rows = body.windows(6).filter(|w| w == b"\"op\":\"").count();
            self.uploaded.fetch_add(rows as u64, Ordering::Relaxed);
        }
        if fate == Fate::Lost {
            return Err(TransportError::Broken("the request was lost".into()));
        }
        if let Fate::Answered(status, body) = fate {
            return Ok(Response { status, retry_after: None, body: Box::new(body.as_bytes()) });
        }
        let mut response = self.http.send(request)?;
        match fate {
            Fate::ReplyLost => Err(TransportError::Broken("the reply was lost".into())),
            Fate::ReplyCut => {
                let mut whole = Vec::new();
                response.body.read_to_end(&mut whole).unwrap();
                whole.truncate(whole.len() / 2);
                response.body = Box::new(std::io::Cursor::new(whole));
                Ok(response)
            }
            _ => Ok(response),
        }
    }
}

fn is_chunk(request: &Request<'_>) -> bool {
    request.method == Method::Post && request.path.ends_with("/chunks")
}

/// A server that takes chunks of ten rows and gives pages of ten.
fn small() -> Limits {
    Limits { max_rows_per_push_chunk: CHUNK, max_rows_per_snapshot_chunk: CHUNK, ..Limits::default() }
}

fn open(a: &Device, transport: &Arc<Fated>) -> Client {
    Client::builder(&a.path).token(|_| Ok("ada".into())).transport(Arc::clone(transport) as _).open().unwrap()
}

fn fill(a: &Device, rows: i64) {
    a.sql(&format!(
        "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
         INSERT INTO people (id, name) SELECT printf('p%06d', i), 'name ' || i FROM n"
    ));
}

const CHUNK: i64 = 10;
const ROWS: i64 = 95;

/// One lost request or reply, whichever, is settled inside the call.
#[test]
fn one_lost_request_or_reply_is_settled_within_the_call() {
    let w = World::with(crate::world::SCHEMA, small());
    for fate in [Fate::ReplyLost, Fate::Lost, Fate::ReplyCut] {
        let mut requests = 0;
        for lose in 0.. {
            let name = format!("{fate:?}-{lose}");
            let mut a = w.device(&format!("a-{name}"));
            a.close();
            let transport = Fated::new(&w, move |_, n| if n == lose { fate } else { Fate::Passes });
            let user = name.clone();
            let client = Client::builder(&a.path)
                .token(move |_| Ok(user.clone()))
                .transport(Arc::clone(&transport) as _)
                .open()
                .unwrap();
            fill(&a, 25);
            client.sync().unwrap_or_else(|e| panic!("{name}: {e}"));
            let status = client.status().unwrap();
            assert_eq!((status.pending_rows, status.last_error), (0, None), "{name}");
            requests = requests.max(lose);
            if transport.seen.load(Ordering::Relaxed) <= lose {
                break;
            }
        }
        assert!(requests >= 7, "{requests}");
    }
}

/// The reply to the k-th chunk is lost, then the network: the next call sends at most one chunk more
/// than there are rows, also in another process.
#[test]
fn a_cut_upload_goes_on_where_it_stands() {
    let chunks = (ROWS + CHUNK - 1) / CHUNK;
    for restart in [false, true] {
        for k in 0..chunks {
            let w = World::with(crate::world::SCHEMA, small());
            let mut a = w.device("a");
            a.close();
            fill(&a, ROWS);
            let seen = AtomicUsize::new(0);
            let transport = Fated::new(&w, move |r, _| {
                let n = if is_chunk(r) { seen.fetch_add(1, Ordering::Relaxed) } else { seen.load(Ordering::Relaxed) };
                match i64::try_from(n).unwrap() {
                    n if n < k || (n == k && !is_chunk(r)) => Fate::Passes,
                    n if n == k => Fate::ReplyLost,
                    _ => Fate::NoNetwork,
                }
            });
            let mut client = open(&a, &transport);
            assert!(matches!(client.sync(), Err(Error::Offline { .. })));
            transport.judge(|_, _| Fate::Passes);
            if restart {
                drop(client);
                client = open(&a, &transport);
            }
            client.sync().unwrap();
            let uploaded = transport.uploaded.load(Ordering::Relaxed);
            assert!(uploaded <= (ROWS + CHUNK) as u64, "{uploaded} rows for {ROWS}, cut at {k}, restart: {restart}");
            let sessions =
                transport.sent("Post /sync/push-sessions") - transport.sent("/chunks") - transport.sent("/commit");
            // Before a second chunk is due there is nothing worth remembering.
            assert_eq!(sessions, if k == 0 { 2 } else { 1 }, "cut at {k}, restart: {restart}");
            drop(client);
            a.open();
            let b = w.device("b");
            converge(&[&a, &b]);
            assert_eq!(b.count("SELECT count(*) FROM people"), ROWS);
        }
    }
}

/// A session that the server has forgotten, or that another push took the place of, is made again.
#[test]
fn a_half_uploaded_session_that_is_gone_is_made_again() {
    let mut w = World::with(crate::world::SCHEMA, small());
    let mut a = w.device("a");
    a.close();
    fill(&a, ROWS);
    let seen = AtomicUsize::new(0);
    let transport = Fated::new(&w, move |r, _| {
        let n = if is_chunk(r) { seen.fetch_add(1, Ordering::Relaxed) } else { 0 };
        if n < 4 { Fate::Passes } else { Fate::NoNetwork }
    });
    let client = open(&a, &transport);
    client.sync().unwrap_err();
    w.stop();
    for side in std::fs::read_dir(w.data()).unwrap() {
        let path = side.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|n| n.to_string_lossy().contains("push")) {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    w.start();
    transport.judge(|_, _| Fate::Passes);
    client.sync().unwrap();
    drop(client);
    a.open();
    let b = w.device("b");
    converge(&[&a, &b]);
    assert_eq!(b.count("SELECT count(*) FROM people"), ROWS);
}

/// A snapshot whose download is cut after any page is not begun again.
#[test]
fn a_cut_snapshot_goes_on_where_it_stands() {
    let w = World::with(crate::world::SCHEMA, small());
    let a = w.device("a");
    fill(&a, ROWS);
    a.sync();
    for fate in [Fate::NoNetwork, Fate::ReplyCut] {
        for k in 1..(ROWS / CHUNK) as usize {
            let mut b = w.device(&format!("b{k}{fate:?}"));
            b.close();
            let pages = AtomicUsize::new(0);
            let is_page = |r: &Request<'_>| r.method == Method::Get && r.path.contains("/snapshot-sessions/");
            let transport = Fated::new(&w, move |r, _| {
                if !is_page(r) {
                    return if pages.load(Ordering::Relaxed) > k { Fate::NoNetwork } else { Fate::Passes };
                }
                match pages.fetch_add(1, Ordering::Relaxed) {
                    n if n < k => Fate::Passes,
                    n if n == k => fate,
                    _ => Fate::NoNetwork,
                }
            });
            let client = open(&b, &transport);
            assert!(client.sync().is_err());
            transport.judge(|_, _| Fate::Passes);
            client.sync().unwrap();
            assert_eq!(transport.sent("Post /sync/snapshot-sessions"), 1, "cut at {k}");
            let pages = transport.sent("Get /sync/snapshot-sessions/");
            assert!(pages <= (ROWS / CHUNK) as usize + 2, "{pages} pages, cut at {k}");
            drop(client);
            assert_eq!(dump(&a.path), dump(&b.path));
        }
    }
}

/// A clock that goes on with every request.
struct Ticking(Arc<AtomicI64>);

impl Environment for Ticking {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000 + self.0.load(Ordering::Relaxed)
    }
    fn new_id(&self) -> String {
        System.new_id()
    }
    fn random(&self) -> u64 {
        System.random()
    }
}

/// A sync that may take three requests at a time gets there, never goes on past its time, and never
/// begins anything again.
#[test]
fn a_sync_within_a_time_ends_in_time_and_goes_on_later() {
    let w = World::with(crate::world::SCHEMA, small());
    let (mut a, mut b) = (w.device("a"), w.device("b"));
    fill(&a, ROWS);
    a.sync();
    b.close();
    a.sql("UPDATE people SET age = 1");
    a.sync();
    for d in [&mut b, &mut a] {
        d.close();
        let clock = Arc::new(AtomicI64::new(0));
        let ticks = Arc::clone(&clock);
        let transport = Fated::new(&w, move |r, _| {
            assert!(r.timeout.is_some_and(|t| t <= Duration::from_millis(300)), "the request is bounded");
            ticks.fetch_add(100, Ordering::Relaxed);
            Fate::Passes
        });
        d.sql("INSERT INTO counters (label) VALUES ('x')");
        d.sql(&format!(
            "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) \
             INSERT INTO notes (id, body) SELECT '{}' || i, 'text' FROM n",
            d.path.file_stem().unwrap().to_string_lossy()
        ));
        let client = Client::builder(&d.path)
            .token(|_| Ok("ada".into()))
            .transport(Arc::clone(&transport) as _)
            .environment(Arc::new(Ticking(Arc::clone(&clock))))
            .open()
            .unwrap();
        let mut calls = 0;
        loop {
            calls += 1;
            let begun = clock.load(Ordering::Relaxed);
            let done = client.sync_within(Duration::from_millis(300), None).unwrap();
            assert!(clock.load(Ordering::Relaxed) - begun <= 300);
            if !done.more {
                break;
            }
            assert!(calls < 40, "it never ends");
        }
        assert!(calls > 3, "{calls}");
        assert_eq!(client.status().unwrap().pending_rows, 0);
        // Once for the number that both devices had minted, once for good; a row a call asks where it stands.
        let uploaded = transport.uploaded.load(Ordering::Relaxed);
        assert!(uploaded <= (2 * (ROWS + CHUNK) + calls) as u64, "{uploaded}");
        drop(client);
        d.open();
    }
    converge(&[&a, &b]);
}

/// Bytes are counted as they go over the network, and a limit of them holds within a page.
#[test]
fn a_sync_within_bytes_goes_on_later() {
    let w = World::new();
    let a = w.device("a");
    a.sql(
        "INSERT INTO people (id, photo) WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) \
           SELECT 'p' || i, randomblob(1000) FROM n",
    );
    let (mut calls, mut bytes) = (0, 0);
    loop {
        calls += 1;
        let done = a.client().sync_within(Duration::from_secs(60), Some(50_000)).unwrap();
        assert!(done.bytes > 0 && done.bytes < 50_000 + 40_000, "{}", done.bytes);
        bytes += done.bytes;
        if !done.more {
            break;
        }
        assert!(calls < 100, "it never ends");
    }
    assert!(calls >= 6 && (400_000..900_000).contains(&bytes), "{calls} calls, {bytes} bytes");
    let b = w.device("b");
    converge(&[&a, &b]);
}

/// The server takes fewer rows at once since: a push in doubt, or one that waits to be confirmed, is asked about all
/// the same, also where the server looks at the limit first, and what did not commit goes in parts.
#[test]
fn a_lowered_limit_stops_no_push_in_doubt() {
    let too_large = r#"{"error":"bundle_too_large","message":"planned_row_count exceeds max_rows_per_bundle"}"#;
    for limit_first in [true, false] {
        for (fate, waits) in
            [(Fate::Lost, false), (Fate::ReplyLost, false), (Fate::ReplyLost, true), (Fate::Passes, true)]
        {
            let case = format!("{fate:?}, waits: {waits}, limit first: {limit_first}");
            let mut w = World::new();
            let (mut a, b) = (w.device("a"), w.device("b"));
            fill(&a, 3);
            a.sync();
            a.close();
            let seen = AtomicUsize::new(0);
            let transport = Fated::new(&w, move |r, _| {
                let commit = r.path.ends_with("/commit");
                match seen.fetch_add(usize::from(commit), Ordering::Relaxed) {
                    0 if commit => fate,
                    0 => Fate::Passes,
                    _ => Fate::NoNetwork,
                }
            });
            let mut client = open(&a, &transport);
            a.sql("INSERT INTO counters (label) VALUES ('once'), ('twice'), ('thrice'); DELETE FROM people");
            assert_eq!(client.push().is_ok(), fate == Fate::Passes, "{case}");
            a.sql("UPDATE counters SET label = 'edited' WHERE id = 1");
            drop(client);
            w.stop();
            w.limits.max_rows_per_bundle = 2;
            w.start();
            if waits {
                b.sql("INSERT INTO people (id) VALUES ('of b')");
                b.sync();
            }
            transport.judge(move |r, _| {
                let rows = r.body.and_then(|body| std::str::from_utf8(body).ok()).unwrap_or_default();
                let over = rows.contains("\"planned_row_count\":6");
                if limit_first && over { Fate::Answered(413, too_large) } else { Fate::Passes }
            });
            client = open(&a, &transport);
            client.sync().unwrap_or_else(|e| panic!("{case}: {e}"));
            drop(client);
            a.open();
            converge(&[&a, &b]);
            let labels = "SELECT group_concat(label) FROM (SELECT label FROM counters ORDER BY id)";
            assert_eq!(b.text(labels), "edited,twice,thrice", "{case}");
            assert_eq!(b.count("SELECT count(*) FROM people"), i64::from(waits), "{case}");
            assert!(a.client().rejected().unwrap().is_empty() && a.client().conflicts().unwrap().is_empty(), "{case}");
        }
    }
}
