//! Something on the way answers in the server's place: a proxy that takes less at once, a filter that refuses a text,
//! a page in place of every error. The rest goes both ways, and there is a way back from everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sync_client::report::ErrorClass;
use sync_client::transport::{Http, Method, Request, Response, Transport as _, TransportError};
use sync_client::{Client, Error};
use sync_server::limits::Limits;

use crate::relay::through;
use crate::world::{Device, SCHEMA, World, converge};

const PAGE: &str = "<html><head><title>Not here</title></head><body>by the proxy</body></html>";

fn page(status: u16) -> Response {
    Response { status, retry_after: None, body: Box::new(PAGE.as_bytes()) }
}

/// Error replies with the status that they had and another body.
fn without_words(http: &Http, r: &Request<'_>) -> Result<Response, TransportError> {
    let reply = http.send(r)?;
    Ok(if reply.status < 400 { reply } else { page(reply.status) })
}

fn has(r: &Request<'_>, text: &str) -> bool {
    String::from_utf8_lossy(r.body.unwrap_or_default()).contains(text)
}

/// Two devices with a few rows, and a row of b that a does not have yet.
fn two() -> (World, Device, Device) {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name) VALUES ('x', 'first'), ('y', 'first')");
    a.sync();
    b.sync();
    b.sql("INSERT INTO people (id) VALUES ('of b')");
    b.sync();
    (w, a, b)
}

fn has_row_of_b(a: &Device) {
    assert_eq!(a.count("SELECT count(*) FROM people WHERE id = 'of b'"), 1, "the row of b");
}

fn reopen(a: &mut Device, client: Client) {
    drop(client);
    a.open();
}

/// A proxy that takes so much at once: a row that is larger waits alone, and goes when it is smaller or gone.
#[test]
fn a_row_that_is_too_large_for_a_proxy_waits_alone() {
    let (w, mut a, b) = two();
    let client =
        through(
            &w,
            &mut a,
            |http, r| {
                if r.body.is_some_and(|b| b.len() > 40_000) { Ok(page(413)) } else { http.send(r) }
            },
        );
    a.sql("INSERT INTO people (id, photo) VALUES ('large', randomblob(50000)), ('larger', randomblob(60000))");
    a.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) \
         INSERT INTO people (id, name) SELECT 'p' || i, hex(randomblob(1000)) FROM n",
    );
    client.sync().unwrap();
    has_row_of_b(&a);
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM people WHERE id LIKE 'p%'"), 100);
    let waiting = client.rejected().unwrap();
    assert_eq!(waiting.len(), 2);
    assert!(waiting.iter().all(|r| r.reason == "too_large" && r.message.contains("on the way")), "{waiting:?}");
    a.sql("DELETE FROM people WHERE id = 'larger'; UPDATE people SET photo = NULL WHERE id = 'large'");
    client.sync().unwrap();
    assert_eq!(client.rejected().unwrap(), []);
    reopen(&mut a, client);
    converge(&[&a, &b]);
}

/// A filter that refuses the text of one row, each in its way. Editing or deleting the row frees it.
#[test]
fn a_text_that_a_filter_refuses_holds_back_its_row_only() {
    let reset = || Err(TransportError::Broken("connection reset".into()));
    let json = r#"{"message":"Forbidden"}"#;
    for way in ["403", "406", "400", "502", "500", "200", "404", "409", "422", "bare", "json", "reset"] {
        let (w, mut a, b) = two();
        let client = through(&w, &mut a, move |http, r| match way {
            _ if !has(r, "UNION SELECT") => http.send(r),
            "reset" => reset(),
            "bare" => Ok(Response { status: 403, retry_after: None, body: Box::new(std::io::empty()) }),
            "json" => Ok(Response { status: 403, retry_after: None, body: Box::new(json.as_bytes()) }),
            status => Ok(page(status.parse().unwrap())),
        });
        // Alone, it is nobody's fault that can be proven.
        a.sql("INSERT INTO people (id, name) VALUES ('lesson', 'UNION SELECT')");
        let alone = client.sync().unwrap_err();
        assert_ne!(alone.class(), ErrorClass::Auth, "{way}: {alone}");
        has_row_of_b(&a);
        for n in 0..3 {
            a.sql(&format!("INSERT INTO people (id) VALUES ('n{n}'), ('m{n}')"));
            let _ = client.sync();
        }
        b.sync();
        assert_eq!(b.count("SELECT count(*) FROM people WHERE id LIKE 'n%' OR id LIKE 'm%'"), 6, "{way}");
        let rejected = client.rejected().unwrap();
        assert_eq!(rejected.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), [r#"{"id":"lesson"}"#], "{way}");
        if way.starts_with('4') {
            assert!(rejected[0].message.contains("Not here by the proxy"), "{way}: {rejected:?}");
        }
        a.sql(if way == "403" {
            "DELETE FROM people WHERE id = 'lesson'"
        } else {
            "UPDATE people SET name = 'harmless' WHERE id = 'lesson'"
        });
        client.sync().unwrap_or_else(|e| panic!("{way}: {e}"));
        assert_eq!(client.rejected().unwrap(), [], "{way}");
        reopen(&mut a, client);
        converge(&[&a, &b]);
    }
}

/// A page for every push, for a while: no row is to blame, and all of them go once it is gone.
#[test]
fn a_page_that_passes_refuses_no_row() {
    for status in [403, 404, 409, 410, 422] {
        for rows in [1, 12] {
            let (w, mut a, b) = two();
            let there = Arc::new(AtomicBool::new(true));
            let shut = Arc::clone(&there);
            let client = through(&w, &mut a, move |http, r| {
                let refused = shut.load(Ordering::Relaxed) && r.method == Method::Post && r.path.ends_with("/commit");
                if refused { Ok(page(status)) } else { http.send(r) }
            });
            for n in 0..rows {
                a.sql(&format!("INSERT INTO people (id) VALUES ('n{n}')"));
            }
            for _ in 0..3 {
                client.sync().unwrap_err();
            }
            has_row_of_b(&a);
            there.store(false, Ordering::Relaxed);
            let _ = client.sync();
            client.sync().unwrap();
            assert_eq!(client.rejected().unwrap(), [], "{status} {rows}");
            reopen(&mut a, client);
            converge(&[&a, &b]);
            assert_eq!(b.count("SELECT count(*) FROM people WHERE id LIKE 'n%'"), rows);
        }
    }
}

/// Conflicts and refusals whose words are lost: a pull tells of the one, a search finds the other.
#[test]
fn error_replies_without_words_are_asked_for_otherwise() {
    let (w, mut a, b) = two();
    let client = through(&w, &mut a, without_words);
    b.sql("UPDATE people SET name = 'of b' WHERE id = 'x'; DELETE FROM people WHERE id = 'y'");
    b.sync();
    a.sql("UPDATE people SET name = 'of a'; INSERT INTO people (id) VALUES ('other')");
    client.sync().unwrap();
    has_row_of_b(&a);
    assert_eq!(a.text("SELECT name FROM people WHERE id = 'x'"), "of b");
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM people WHERE id = 'other'"), 1);
    reopen(&mut a, client);
    converge(&[&a, &b]);
}

#[test]
fn a_refused_row_is_found_without_words() {
    let mut w = World::with(&SCHEMA.replace("age INTEGER", "age INTEGER CHECK (age < 100)"), Limits::default());
    w.schema = SCHEMA.to_owned();
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sync();
    let client = through(&w, &mut a, without_words);
    a.sql("INSERT INTO people (id, age) VALUES ('good', 1), ('bad', 200), ('fine', 2), ('well', 3)");
    client.sync().unwrap();
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM people"), 3);
    assert_eq!(client.rejected().unwrap().len(), 1);
    a.sql("UPDATE people SET age = 3 WHERE id = 'bad'");
    client.sync().unwrap();
    reopen(&mut a, client);
    converge(&[&a, &b]);
}

/// A wiped server, a pruned history with or without the own push, a copy of the file: what is answered in errors only is found without their words.
#[test]
fn what_only_errors_say_is_found_without_words() {
    for what in ["wiped", "pruned", "confirmed", "copied"] {
        let mut w = World::with(SCHEMA, Limits::default());
        let (mut a, mut b) = (w.device("a"), w.device("b"));
        a.sql("INSERT INTO people (id) VALUES ('x')");
        a.sync();
        b.sync();
        if what == "copied" {
            let mut copy = w.closed_device("copy", |_| {});
            a.close();
            std::fs::copy(&a.path, &copy.path).unwrap();
            copy.open();
            copy.sql("INSERT INTO people (id) VALUES ('of the copy')");
            copy.sync();
            a.open();
        }
        if what == "wiped" {
            w.stop();
            std::fs::remove_dir_all(w.data()).unwrap();
            w.start();
        }
        if what == "confirmed" {
            a.sql("INSERT INTO people (id) VALUES ('confirmed')");
            a.client().push().unwrap();
        }
        if matches!(what, "pruned" | "confirmed") {
            for n in 0..5 {
                b.sql(&format!("INSERT INTO people (id) VALUES ('of b {n}')"));
                b.sync();
            }
            w.stop();
            w.limits = Limits { retained_bundles: 1, ..Limits::default() };
            w.start();
            b.sql("INSERT INTO people (id) VALUES ('last')");
            b.sync();
        }
        a.sql("INSERT INTO people (id) VALUES ('of a')");
        let client = through(&w, &mut a, without_words);
        client.sync().unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(client.status().unwrap().pending_rows, 0, "{what}");
        reopen(&mut a, client);
        b.open();
        converge(&[&a, &b]);
        assert_eq!(b.count("SELECT count(*) FROM people WHERE id IN ('x', 'of a')"), 2, "{what}");
    }
}

/// The fate of a push cannot be asked: what touches none of its rows arrives, the rest waits, and `status` says so.
#[test]
fn only_what_touches_a_push_in_doubt_waits_for_it() {
    let (w, mut a, b) = two();
    let blocked = Arc::new(AtomicBool::new(true));
    let commits = Arc::new(AtomicUsize::new(0));
    let (closed, counted) = (Arc::clone(&blocked), Arc::clone(&commits));
    a.sql("UPDATE people SET name = 'of a' WHERE id = 'x'");
    let client = through(&w, &mut a, move |http, r| {
        if closed.load(Ordering::Relaxed) && r.path.ends_with("/commit") {
            counted.fetch_add(1, Ordering::Relaxed);
            return Err(TransportError::Broken("reset".into()));
        }
        let asks = r.path.contains("/push-sessions") && counted.load(Ordering::Relaxed) > 0;
        if closed.load(Ordering::Relaxed) && asks && r.method != Method::Get { Ok(page(403)) } else { http.send(r) }
    });
    client.sync().unwrap_err();
    has_row_of_b(&a);
    b.sql("INSERT INTO people (id) VALUES ('more')");
    b.sync();
    b.sql("UPDATE people SET name = 'of b' WHERE id = 'x'");
    b.sync();
    b.sql("INSERT INTO people (id) VALUES ('behind')");
    b.sync();
    for verb in [|c: &Client| c.sync().map(drop), |c: &Client| c.pull().map(drop)] {
        let e = verb(&client).unwrap_err();
        assert_eq!(e.class(), ErrorClass::Intermediary, "{e}");
        assert_eq!(a.count("SELECT count(*) FROM people WHERE id = 'more'"), 1);
        assert_eq!(a.count("SELECT count(*) FROM people WHERE id = 'behind'"), 0);
        assert_eq!(a.text("SELECT name FROM people WHERE id = 'x'"), "of a");
        let status = client.status().unwrap();
        assert!(status.waiting_bundle.is_some_and(|seq| seq == status.checkpoint + 1), "{status:?}");
    }
    blocked.store(false, Ordering::Relaxed);
    client.sync().unwrap();
    assert_eq!(client.status().unwrap().waiting_bundle, None);
    reopen(&mut a, client);
    converge(&[&a, &b]);
}

/// A login page, and a proxy without its server: neither the token nor the address is to blame.
#[test]
fn what_is_on_the_way_is_blamed_and_nothing_else() {
    let (w, mut a, b) = two();
    for (status, class) in
        [(200, ErrorClass::Intermediary), (401, ErrorClass::Intermediary), (502, ErrorClass::Offline)]
    {
        let client = through(&w, &mut a, move |_, _| Ok(page(status)));
        let e = client.sync().unwrap_err();
        assert_eq!(e.class(), class, "{e}");
        assert!(matches!(e, Error::Intermediary { known: true, .. }), "{e:?}");
        let said = format!(
            "something between this device and the server answers with status {status}: \"Not here by the proxy\""
        );
        assert_eq!(e.to_string(), said);
        assert_eq!(client.verify(sync_client::Repair::No).unwrap_err().to_string(), said);
        assert_eq!(client.rebuild().unwrap_err().to_string(), said);
        drop(client);
    }
    let mut fresh = w.device("fresh");
    let client = through(&w, &mut fresh, |_, _| Ok(page(404)));
    assert!(matches!(client.sync().unwrap_err(), Error::Intermediary { known: false, .. }));
    drop(client);
    a.open();
    fresh.open();
    converge(&[&a, &b, &fresh]);
}

/// The first device of an account, behind the same proxies.
#[test]
fn an_account_is_seeded_through_them() {
    let w = World::new();
    let mut a = w.closed_device("a", |app| {
        app.execute_batch(
            "INSERT INTO people (id, name) VALUES ('lesson', 'UNION SELECT'), ('n1', ''), ('n2', ''), ('n3', ''); \
             INSERT INTO people (id, photo) VALUES ('large', randomblob(50000))",
        )
        .unwrap();
    });
    a.open();
    let client = through(&w, &mut a, |http, r| {
        if has(r, "UNION SELECT") {
            Ok(page(403))
        } else if r.body.is_some_and(|b| b.len() > 40_000) {
            Ok(page(413))
        } else {
            without_words(http, r)
        }
    });
    client.sync().unwrap();
    let mut waiting: Vec<String> = client.rejected().unwrap().into_iter().map(|r| r.key).collect();
    waiting.sort();
    assert_eq!(waiting, [r#"{"id":"large"}"#, r#"{"id":"lesson"}"#]);
    let b = w.device("b");
    b.sync();
    assert_eq!(b.count("SELECT count(*) FROM people"), 3);
    reopen(&mut a, client);
    for id in ["large", "lesson"] {
        a.client().retry("people", id).unwrap();
    }
    converge(&[&a, &b]);
}

/// Others' rows arrive beside a push that is half uploaded, and it goes on where it stood.
#[test]
fn a_half_uploaded_push_stays_while_others_rows_come() {
    let limits = Limits { max_rows_per_push_chunk: 10, default_rows_per_push_chunk: 10, ..Limits::default() };
    let w = World::with(SCHEMA, limits);
    let (mut a, b) = (w.device("a"), w.device("b"));
    for d in [&a, &b] {
        d.sync();
    }
    a.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) \
         INSERT INTO people (id) SELECT 'p' || i FROM n",
    );
    let chunks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&chunks);
    let client = through(&w, &mut a, move |http, r| {
        let nth = if r.path.ends_with("/chunks") { counted.fetch_add(1, Ordering::Relaxed) } else { 0 };
        if nth == 2 { Ok(page(504)) } else { http.send(r) }
    });
    b.sql("INSERT INTO people (id) VALUES ('of b')");
    b.sync();
    client.sync().unwrap_err();
    has_row_of_b(&a);
    assert_eq!(client.status().unwrap().outbox, "frozen");
    client.sync().unwrap();
    assert!(chunks.load(Ordering::Relaxed) <= 8, "{chunks:?}: two before, one in vain, the rest, one to ask");
    assert_eq!(client.status().unwrap().pending_rows, 0);
    // What comes touches a row of it: then it is settled first.
    a.sql("UPDATE people SET name = 'of a'");
    chunks.store(0, Ordering::Relaxed);
    b.sync();
    b.sql("UPDATE people SET name = 'of b' WHERE id = 'p7'");
    b.sync();
    client.sync().unwrap_err();
    assert_eq!(a.text("SELECT name FROM people WHERE id = 'p7'"), "of b");
    client.sync().unwrap();
    reopen(&mut a, client);
    converge(&[&a, &b]);
}

/// Something else answers with JSON and 200: it is not the server, and once that was heard the URL is not to blame.
#[test]
fn json_of_something_else_is_not_the_servers() {
    use std::io::{Read as _, Write as _};
    let (dir, server) = (tempfile::TempDir::new().unwrap(), crate::support::serve(crate::cli::DDL));
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in other.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{\"status\":\"ok\"}",
            );
        }
    });
    let run = |args: &[&str]| crate::cli::run(&dir, args);
    crate::cli::file(&dir, "a.db", crate::cli::DDL);
    let init =
        |url: &str, more: &[&str]| run(&[&["init", "a.db", "--all", "--token", "ann", "--server", url], more].concat());
    let ran = init(&url, &[]).ends(4);
    assert!(ran.stderr.contains("Is this the URL of a sync server?"), "{}", ran.stderr);
    let ran = run(&["clone", &url, "b.db", "--token", "ann"]).ends(4);
    assert!(
        ran.stderr.contains("URL of a sync server? Nothing was made.") && !ran.stderr.contains("init"),
        "{}",
        ran.stderr
    );
    init(&server.url(), &[]).ends(0);

    // The same at the URL of a server that was heard, for each call of a sync.
    let (w, mut a, _) = two();
    for part in ["/sync/capabilities", "/sync/pull", "/sync/push-sessions", "/chunks", "/commit"] {
        let begins = AtomicBool::new(true);
        let client = through(&w, &mut a, move |http, r| {
            let is_it = r.method != Method::Delete && r.path.split('?').next().unwrap().ends_with(part);
            if is_it && begins.swap(false, Ordering::SeqCst) {
                return Ok(Response { status: 200, retry_after: None, body: Box::new(&br#"{"status":"ok"}"#[..]) });
            }
            http.send(r)
        });
        a.sql("INSERT INTO people (id) VALUES (hex(randomblob(8)))");
        match client.sync() {
            Err(Error::Intermediary { status: 200, known: true, words, .. }) => {
                assert!(words.contains("ok"), "{words}")
            }
            other => panic!("{part}: {other:?}"),
        }
        client.sync().unwrap();
        assert_eq!(client.rejected().unwrap(), [], "{part}");
        reopen(&mut a, client);
    }
}
