//! Files in which something changed that no trigger saw, against their server and against one another.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use sync_client::context::{Environment, FaultPoint, System};
use sync_client::transport::{Http, Request, Response, Transport, TransportError};
use sync_client::{Client, Kind, Policy, Remedy, Repair, Tie, VerifyReport, compare_files};
use sync_server::limits::Limits;

use crate::world::{Device, SCHEMA, World, converge, dump};

/// A write that no trigger sees.
fn unseen(path: &Path, sql: &str) {
    let conn = Connection::open(path).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    conn.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// `kind table key columns` of each difference.
fn named(r: &VerifyReport) -> Vec<String> {
    let one = |d: &sync_client::Difference| {
        let kind = match d.kind {
            Kind::Missing => "missing",
            Kind::Extra => "extra",
            Kind::Different => "different",
        };
        format!("{kind} {} {} {}", d.table, d.key, d.columns.join(",")).trim_end().to_owned()
    };
    r.differences.iter().map(one).collect()
}

fn verify(d: &Device, repair: Repair) -> VerifyReport {
    d.client().verify(repair).unwrap_or_else(|e| panic!("verify: {e}"))
}

/// Counts of differing, repaired and left-out rows.
fn counts(r: &VerifyReport) -> (u64, u64, u64) {
    (r.differing_rows, r.repaired_rows, r.left_out_rows)
}

const PEOPLE: &str = "INSERT INTO people (id, name, email, age, score, photo) VALUES
    ('a', 'Ann', 'ann@x', 30, 1.5, x'00ff'), ('b', 'Bob', NULL, 9007199254740993, NULL, NULL), ('c', 'Cy', 'cy@x', 1, 0.1, NULL);
    INSERT INTO notes VALUES ('n1', 'a', 'one'), ('n2', 'b', 'two'); INSERT INTO tags VALUES ('n1', 'x'), ('n1', 'y');
    INSERT INTO counters VALUES (5, 'five'), (70000, 'many');";

const DAMAGE: &str = "UPDATE people SET name = 'Eve', age = 31 WHERE id = 'a'; DELETE FROM tags WHERE tag = 'x';
    INSERT INTO counters VALUES (6, 'unseen');";

const DAMAGED: [&str; 3] = [
    r#"extra counters {"id":"6"}"#,
    r#"different people {"id":"a"} name,age"#,
    r#"missing tags {"note":"n1","tag":"x"}"#,
];

fn two(w: &World) -> (Device, Device) {
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql(PEOPLE);
    converge(&[&a, &b]);
    (a, b)
}

#[test]
fn files_in_step_have_no_difference() {
    let w = World::new();
    let (a, b) = two(&w);
    b.sql("UPDATE people SET name = 'Bobby' WHERE id = 'b'");
    b.sync();
    let r = verify(&a, Repair::No);
    assert_eq!((counts(&r), r.compared_rows, r.bundle_seq), ((0, 0, 0), 9, 2), "it pulls first");
    assert_eq!(dump(&a.path), dump(&b.path));
    assert_eq!(verify(&b, Repair::FromServer).compared_rows, 9);
    let empty = World::new();
    let d = empty.device("d");
    assert_eq!(verify(&d, Repair::No), VerifyReport::default());
}

#[test]
fn a_device_that_seeds_syncs_first() {
    let w = World::new();
    let a = w.device_with("a", Policy::ServerWins, |app| app.execute_batch(PEOPLE).unwrap());
    let e = a.client().verify(Repair::No).unwrap_err();
    assert!(e.to_string().contains("sync first"), "{e}");
    a.sync();
    assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
}

#[test]
fn unseen_writes_are_named_and_taken_back_from_the_server() {
    let w = World::new();
    let (a, b) = two(&w);
    a.sql("DROP TABLE _sync_repaired"); // A file of an older version.
    unseen(&a.path, DAMAGE);
    let before = dump(&a.path);
    let r = verify(&a, Repair::No);
    assert_eq!((counts(&r), named(&r)), ((3, 0, 0), DAMAGED.map(str::to_owned).to_vec()));
    assert!(r.differences.iter().all(|d| d.remedy == Remedy::None));
    assert_eq!((dump(&a.path), a.client().discarded().unwrap().len()), (before, 0));
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), r.unrepaired_rows()), ((3, 3, 0), 0));
    assert!(r.differences.iter().all(|d| d.remedy == Remedy::FromServer));
    assert_eq!(dump(&a.path), dump(&b.path));
    let kept = a.client().discarded().unwrap();
    let of = |table: &str| kept.iter().find(|e| e.table == table).unwrap();
    assert_eq!(kept.len(), 3);
    assert!(of("people").local_row.as_ref().unwrap().contains("Eve"));
    assert!(of("people").server_row.as_ref().unwrap().contains("Ann"));
    assert!(of("counters").local_row.as_ref().unwrap().contains("unseen"));
    assert_eq!((of("tags").op.as_str(), &of("tags").local_row), ("DELETE", &None));
    assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people WHERE id = 'a'"), "Ann");
    // And what was overwritten can be put back.
    assert!(a.client().retry_entry(of("people").id).unwrap());
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people WHERE id = 'a'"), "Eve");
}

#[test]
fn unseen_writes_become_changes_of_the_file() {
    let w = World::new();
    let (a, b) = two(&w);
    unseen(&a.path, DAMAGE);
    let r = verify(&a, Repair::FromFile);
    assert_eq!(counts(&r), (3, 3, 0));
    assert!(r.differences.iter().all(|d| d.remedy == Remedy::FromFile));
    assert_eq!(a.client().pending().unwrap().len(), 3);
    assert_eq!(counts(&verify(&a, Repair::FromFile)), (0, 0, 3), "they wait to be pushed");
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name || age FROM people WHERE id = 'a'"), "Eve31");
    assert_eq!(b.count("SELECT count(*) FROM tags WHERE tag = 'x'"), 0);
    assert_eq!(b.text("SELECT label FROM counters WHERE id = 6"), "unseen");
    assert_eq!(a.client().discarded().unwrap().len() + a.client().rejected().unwrap().len(), 0);
    assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
}

/// Case S2's neighbour: the triggers are away while something is written, and back before anybody looks.
#[test]
fn writes_between_two_lives_of_the_triggers_are_found() {
    let w = World::new();
    let (mut a, b) = two(&w);
    a.close();
    let triggers: Vec<(String, String)> = a
        .app
        .prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '\\_sync\\_%' ESCAPE '\\'")
        .unwrap()
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    triggers.iter().for_each(|(name, _)| a.sql(&format!("DROP TRIGGER {name}")));
    a.sql(DAMAGE);
    triggers.iter().for_each(|(_, sql)| a.sql(sql));
    a.open();
    assert_eq!(a.sync().push.committed_rows, 0, "sync sees nothing");
    assert_eq!(named(&verify(&a, Repair::FromFile)), DAMAGED);
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people WHERE id = 'a'"), "Eve");
}

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

/// An app that writes between the comparison and its repair.
struct Writes(Mutex<Option<Connection>>);

impl Environment for Writes {
    fn now_ms(&self) -> i64 {
        System.now_ms()
    }

    fn new_id(&self) -> String {
        System.new_id()
    }

    fn random(&self) -> u64 {
        System.random()
    }

    fn fault(&self, point: FaultPoint) {
        if point == FaultPoint::Staged
            && let Some(app) = self.0.lock().unwrap().take()
        {
            app.execute_batch("UPDATE people SET name = 'later' WHERE id = 'a'").unwrap();
        }
    }
}

#[test]
fn a_row_that_the_app_writes_meanwhile_is_not_repaired() {
    let w = World::new();
    let (mut a, b) = two(&w);
    a.close();
    unseen(&a.path, DAMAGE);
    let app = Connection::open(&a.path).unwrap();
    let client = Client::builder(&a.path)
        .server(w.url())
        .token(|_| Ok("ada".into()))
        .environment(Arc::new(Writes(Mutex::new(Some(app)))))
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

#[test]
fn what_differs_again_is_reported_and_not_repaired_again() {
    let w = World::new();
    let (a, b) = two(&w);
    let rewrite = "UPDATE people SET name = 'again' WHERE id = 'c'";
    unseen(&a.path, rewrite);
    assert_eq!(counts(&verify(&a, Repair::FromServer)), (1, 1, 0));
    unseen(&a.path, rewrite);
    for repair in [Repair::No, Repair::FromServer, Repair::FromServer] {
        let r = verify(&a, repair);
        assert_eq!((counts(&r), r.differences[0].remedy), ((1, 0, 0), Remedy::Again));
    }
    assert_eq!(a.client().discarded().unwrap().len(), 1);
    // The other way is another decision.
    assert_eq!(counts(&verify(&a, Repair::FromFile)), (1, 1, 0));
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people WHERE id = 'c'"), "again");
    // Found equal, it is forgotten.
    assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
    unseen(&a.path, "UPDATE people SET name = 'once more' WHERE id = 'c'");
    assert_eq!(counts(&verify(&a, Repair::FromFile)), (1, 1, 0));
}

/// S1: a partial index through which `REPLACE` evicts a row that capture does not see.
#[test]
fn a_row_evicted_through_a_partial_index() {
    let w = World::with(
        "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, slot INTEGER, live INTEGER);
         CREATE UNIQUE INDEX one_live ON t(slot) WHERE live;",
        Limits::default(),
    );
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO t VALUES ('old', 1, 1)");
    converge(&[&a, &b]);
    a.sql("INSERT OR REPLACE INTO t VALUES ('new', 1, 1)");
    a.sync();
    assert_eq!(a.client().rejected().unwrap().len(), 1, "the server still has the other one");
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), named(&r)), ((1, 0, 1), vec![r#"missing t {"id":"old"}"#.to_owned()]));
    assert_eq!(r.differences[0].remedy, Remedy::Refused);
    assert_eq!(a.text("SELECT group_concat(id) FROM t"), "new", "nothing is touched where it does not fit");
    assert_eq!(counts(&verify(&a, Repair::FromFile)), (1, 1, 1));
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT group_concat(id) FROM t"), "new");
    assert_eq!(a.client().rejected().unwrap().len(), 0);
}

#[test]
fn unique_values_and_references_come_back_in_any_order() {
    let w = World::new();
    let (a, b) = two(&w);
    // A ring of UNIQUE values, a value taken by a row that nobody else has, children without parents.
    unseen(
        &a.path,
        "UPDATE people SET email = 'tmp' WHERE id = 'a'; UPDATE people SET email = 'ann@x' WHERE id = 'c';
         UPDATE people SET email = 'cy@x' WHERE id = 'a'; DELETE FROM notes WHERE id = 'n1';",
    );
    let r = verify(&a, Repair::FromServer);
    assert_eq!(counts(&r), (5, 5, 0), "the note's tags went along");
    assert_eq!(dump(&a.path), dump(&b.path));
    assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
    unseen(&a.path, "UPDATE people SET email = NULL WHERE id = 'a'");
    a.sql("INSERT INTO people (id, email) VALUES ('mine', 'ann@x')");
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), r.differences[0].remedy), ((1, 1, 1), Remedy::FromServer));
    let rejected = a.client().rejected().unwrap();
    assert!(rejected[0].local_row.as_ref().unwrap().contains("mine"), "the server's rows win the table");
    converge(&[&a, &b]);
}

/// A row that this file should have got and did not: pushing what it has would undo somebody's edit.
#[test]
fn a_stale_row_goes_by_the_policy() {
    for policy in [Policy::ServerWins, Policy::MergeColumns(Tie::Server)] {
        a_stale_row_goes_by(policy);
    }
}

fn a_stale_row_goes_by(policy: Policy) {
    let w = World::new();
    let (a, b) = (w.device_with("a", policy, |_| {}), w.device("b"));
    a.sql(PEOPLE);
    converge(&[&a, &b]);
    b.sql("UPDATE people SET name = 'newer' WHERE id = 'a'");
    converge(&[&a, &b]);
    unseen(
        &a.path,
        "UPDATE people SET name = 'Ann' WHERE id = 'a';
         UPDATE _sync_row SET v = 1 WHERE k = (SELECT k FROM _sync_row WHERE v = 2);
         DELETE FROM counters WHERE id = 5;
         DELETE FROM _sync_row WHERE t = (SELECT id FROM _sync_table WHERE name = 'counters');",
    );
    let r = verify(&a, Repair::FromFile);
    assert_eq!(counts(&r), (2, 2, 0));
    let remedies: Vec<Remedy> = r.differences.iter().map(|d| d.remedy).collect();
    assert_eq!(remedies, [Remedy::FromServer, Remedy::FromFile], "a row that was never here is no deletion");
    converge(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM people WHERE id = 'a'"), "newer");
    assert_eq!(b.count("SELECT count(*) FROM counters"), 2);
    assert!(a.client().discarded().unwrap()[0].local_row.as_ref().unwrap().contains("Ann"));
}

#[test]
fn text_that_is_not_utf8_is_named_and_left_alone() {
    let w = World::new();
    let (a, b) = two(&w);
    unseen(&a.path, "UPDATE notes SET body = CAST(x'ff' AS TEXT) WHERE id = 'n1'");
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), named(&r)), ((1, 0, 0), vec![r#"different notes {"id":"n1"} body"#.to_owned()]));
    assert_eq!(r.differences[0].remedy, Remedy::Refused);
    assert_eq!(counts(&verify(&a, Repair::FromFile)), (1, 1, 0));
    a.sync();
    assert_eq!(a.client().rejected().unwrap()[0].reason, "not_utf8");
    a.sql("UPDATE notes SET body = 'text' WHERE id = 'n1'");
    converge(&[&a, &b]);
}

fn many(w: &World) -> (Device, Device) {
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8000)
         INSERT INTO people (id, name, age) SELECT printf('p%05d', i), 'name ' || i, i FROM n;",
    );
    converge(&[&a, &b]);
    (a, b)
}

const FEW: &str = "UPDATE people SET age = -1 WHERE id IN ('p00001', 'p04000', 'p08000');
    INSERT INTO people (id) VALUES ('p04000a'), ('z'), ('a'); DELETE FROM people WHERE id = 'p06000'";

#[test]
fn a_few_differences_in_many_rows_cost_a_few_rows() {
    let w = World::new();
    let (a, b) = many(&w);
    let r = verify(&a, Repair::No);
    assert_eq!((counts(&r), r.compared_rows, r.downloaded_rows), ((0, 0, 0), 8000, 0));
    unseen(&a.path, FEW);
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), r.compared_rows), ((7, 7, 0), 8003));
    assert!(r.downloaded_rows <= 7 * 64, "{} rows", r.downloaded_rows);
    assert_eq!(dump(&a.path), dump(&b.path));
}

/// The real server, seen through something on the way.
struct Through<F>(Http, F);

impl<F> Transport for Through<F>
where
    F: Fn(&Http, &Request<'_>) -> Result<Response, TransportError> + Send + Sync,
{
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        (self.1)(&self.0, request)
    }
}

/// A client of a closed device's file whose requests go through a function.
fn through<F>(w: &World, d: &mut Device, f: F) -> Client
where
    F: Fn(&Http, &Request<'_>) -> Result<Response, TransportError> + Send + Sync + 'static,
{
    d.close();
    Client::builder(&d.path)
        .server(w.url())
        .token(|_| Ok("ada".into()))
        .transport(Arc::new(Through(Http::new(w.url()).unwrap(), f)))
        .open()
        .unwrap()
}

/// A reply with something in its text replaced.
fn replaced(mut response: Response, replace: impl Fn(String) -> String) -> Response {
    let mut text = String::new();
    response.body.read_to_string(&mut text).unwrap();
    response.body = Box::new(std::io::Cursor::new(replace(text).into_bytes()));
    response
}

#[test]
fn servers_that_withhold_digests_are_read_row_by_row() {
    type Case = (&'static str, Limits, Vec<(&'static str, &'static str)>, bool, usize);
    let cases: [Case; 5] = [
        ("an older server", Limits::default(), vec![(r#""range_digest":true"#, r#""range_digest":false"#)], false, 0),
        ("a proxy that does not know the path", Limits::default(), vec![], true, 1),
        ("a spent budget", Limits { max_digest_rows_per_minute: 1, ..Limits::default() }, vec![], false, 3),
        ("small requests", Limits { max_rows_per_digest: 1000, ..Limits::default() }, vec![], false, 8),
        ("somebody else's server", Limits::default(), vec![(r#","blake3""#, "")], false, 3),
    ];
    for (what, limits, replace, no_digest, at_least) in cases {
        let w = World::with(SCHEMA, limits);
        let (mut a, b) = many(&w);
        unseen(&a.path, FEW);
        let digests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&digests);
        let client = through(&w, &mut a, move |http, request| {
            let is_digest = request.path.starts_with("/sync/digest");
            counted.fetch_add(usize::from(is_digest), Ordering::Relaxed);
            if is_digest && no_digest {
                return Ok(Response { status: 404, retry_after: None, body: Box::new(std::io::empty()) });
            }
            let response = http.send(request)?;
            if request.path != "/sync/capabilities" {
                return Ok(response);
            }
            Ok(replaced(response, |text| {
                replace.iter().fold(text, |text, (from, to)| {
                    assert!(text.contains(from), "{from}");
                    text.replace(from, to)
                })
            }))
        });
        let r = client.verify(Repair::FromServer).unwrap();
        assert_eq!((counts(&r), r.compared_rows), ((7, 7, 0), 8003), "{what}");
        let asked = digests.load(Ordering::Relaxed);
        assert!(asked >= at_least && (at_least > 0 || asked == 0), "{what}: {asked} digests");
        assert_eq!(dump(&a.path), dump(&b.path), "{what}");
    }
}

#[test]
fn the_reply_to_any_request_may_be_lost() {
    let w = World::new();
    let (mut a, b) = two(&w);
    let mut lost = 0;
    loop {
        unseen(&a.path, DAMAGE);
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let client = through(&w, &mut a, move |http, request| {
            let response = http.send(request)?;
            if counted.fetch_add(1, Ordering::Relaxed) == lost {
                return Err(TransportError::Broken("on purpose".into()));
            }
            Ok(response)
        });
        let r = client.verify(Repair::FromServer).unwrap_or_else(|e| panic!("reply {lost}: {e}"));
        assert_eq!(counts(&r), (3, 3, 0), "reply {lost}");
        assert_eq!(dump(&a.path), dump(&b.path));
        assert_eq!(counts(&client.verify(Repair::No).unwrap()), (0, 0, 0));
        if sent.load(Ordering::Relaxed) <= lost {
            break;
        }
        lost += 1;
    }
    assert!(lost > 5, "{lost} requests");
}

/// A server that was restored between the pull and the snapshot has other rows at the same bundle.
#[test]
fn nothing_is_repaired_where_the_history_is_another() {
    let w = World::new();
    let (mut a, _b) = two(&w);
    unseen(&a.path, DAMAGE);
    let before = dump(&a.path);
    let client = through(&w, &mut a, |http, request| {
        let response = http.send(request)?;
        if request.path != "/sync/snapshot-sessions" {
            return Ok(response);
        }
        let zeros = format!(r#""history_hash":"{}""#, "0".repeat(64));
        Ok(replaced(response, |text| {
            let at = text.find(r#""history_hash":""#).expect("a history hash");
            text.replace(&text[at..at + zeros.len()], &zeros)
        }))
    });
    for repair in [Repair::FromServer, Repair::FromFile] {
        let e = client.verify(repair).unwrap_err();
        assert!(e.to_string().contains("history changed"), "{e}");
    }
    assert_eq!((dump(&a.path), client.pending().unwrap().len()), (before, 0));
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

#[test]
fn rows_that_this_schema_refuses_are_left_out() {
    let strict = SCHEMA.replace("label TEXT NOT NULL", "label TEXT NOT NULL CHECK (length(label) < 5)");
    let mut w = World::new();
    let b = w.device("b");
    w.schema = strict;
    let a = w.device("a");
    b.sql("INSERT INTO counters VALUES (1, 'ok'), (2, 'far too long'), (3, 'ok')");
    b.sync();
    assert_eq!(a.sync().pull.set_aside, 1);
    let entries = a.client().conflicts().unwrap().len();
    assert_eq!(counts(&verify(&a, Repair::FromServer)), (0, 0, 1));
    assert_eq!(a.client().conflicts().unwrap().len(), entries);
    // Once it fits it is a row like any other.
    b.sql("UPDATE counters SET label = 'fits' WHERE id = 2");
    b.sync();
    assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
    unseen(&a.path, "DELETE FROM counters WHERE id = 2");
    assert_eq!(counts(&verify(&a, Repair::FromServer)), (1, 1, 0));
    assert_eq!(a.text("SELECT label FROM counters WHERE id = 2"), "fits");
}

/// What refers to a row that only this file has goes to the inbox with it, and says so.
#[test]
fn a_change_under_a_row_that_the_server_lacks_is_kept() {
    let w = World::new();
    let (a, b) = two(&w);
    unseen(&a.path, "INSERT INTO people (id, name) VALUES ('ghost', 'nobody')");
    a.sql("INSERT INTO notes VALUES ('mine', 'ghost', 'written')");
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), r.differences[0].remedy), ((1, 1, 1), Remedy::FromServer));
    let rejected = a.client().rejected().unwrap();
    assert_eq!((rejected.len(), rejected[0].reason.as_str()), (1, "parent_deleted"));
    assert!(rejected[0].local_row.as_ref().unwrap().contains("written"));
    assert!(a.client().discarded().unwrap()[0].local_row.as_ref().unwrap().contains("nobody"));
    converge(&[&a, &b]);
}

/// Whatever is done to a file unseen, the comparison names exactly that, and both repairs end in step.
#[test]
fn any_unseen_damage_is_found_exactly() {
    let w = World::new();
    let (a, b) = two(&w);
    let mut state = 7u64;
    let mut random = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for round in 0..6 {
        a.sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
             INSERT INTO people (id, name, score) SELECT '{round}-' || i, 'x', i * 0.1 FROM n;
             INSERT INTO counters (label) SELECT 'c' FROM people WHERE id LIKE '{round}-%';"
        ));
        converge(&[&a, &b]);
        let seen = dump(&b.path);
        for _ in 0..random(30) {
            let (r, key) = (random(round + 1), random(220));
            unseen(
                &a.path,
                &match random(5) {
                    0 => format!("DELETE FROM people WHERE id = '{r}-{key}'"),
                    1 => format!("UPDATE people SET score = score + 0.1 WHERE id = '{r}-{key}'"),
                    2 => format!("INSERT OR IGNORE INTO people (id) VALUES ('{r}-{key}')"),
                    3 => format!("UPDATE counters SET label = 'd' WHERE id % 211 = {key}"),
                    _ => format!("DELETE FROM counters WHERE id % 211 = {key}"),
                },
            );
        }
        let now = dump(&a.path);
        let (old, new): (BTreeSet<_>, BTreeSet<_>) = (seen.iter().collect(), now.iter().collect());
        let key_of = |line: &str| line.split(',').next().unwrap().to_owned();
        let differing: BTreeSet<String> = old.symmetric_difference(&new).map(|l| key_of(l)).collect();
        let repair = if round % 2 == 0 { Repair::FromServer } else { Repair::FromFile };
        let r = verify(&a, repair);
        assert_eq!(r.differing_rows, differing.len() as u64, "round {round}: {:?}", named(&r));
        assert_eq!(r.unrepaired_rows(), 0, "round {round}: {:?}", r.differences);
        assert_eq!(dump(&a.path), if repair == Repair::FromFile { now } else { seen });
        converge(&[&a, &b]);
        assert_eq!(counts(&verify(&a, Repair::No)), (0, 0, 0));
    }
}

#[test]
fn columns_that_one_end_lacks_are_not_compared() {
    let mut w = World::with("CREATE TABLE t (id UUID PRIMARY KEY NOT NULL, title TEXT, due TEXT);", Limits::default());
    let b = w.device("b");
    w.schema =
        "CREATE TABLE t (id UUID PRIMARY KEY NOT NULL, title TEXT); CREATE TABLE own (id TEXT PRIMARY KEY NOT NULL);"
            .into();
    let a = w.device("a");
    b.sql("INSERT INTO t VALUES (12, 'number', 'monday'), ('x', 'text', NULL), ('12a', 'text', NULL)");
    b.sync();
    a.sql("INSERT INTO own VALUES ('mine')");
    a.client().pull().unwrap();
    let r = verify(&a, Repair::No);
    assert_eq!((counts(&r), r.compared_rows, r.skipped_tables), ((0, 0, 0), 3, vec!["own".to_owned()]));
    unseen(&a.path, "UPDATE t SET title = 'unseen' WHERE id = 'x'");
    let r = verify(&a, Repair::FromServer);
    assert_eq!((counts(&r), named(&r)), ((1, 1, 0), vec![r#"different t {"id":"x"} title"#.to_owned()]));
    assert_eq!(a.text("SELECT title FROM t WHERE id = 'x'"), "text");
}

#[test]
fn two_files_offline() {
    let mut w = World::new();
    let (a, b) = two(&w);
    w.stop();
    let compare = || compare_files(&a.path, &b.path).unwrap();
    assert!(compare().is_same() && compare().compared_rows == 9);
    a.sql("UPDATE people SET name = 'pending' WHERE id = 'a'");
    b.sql("DELETE FROM counters WHERE id = 5");
    let r = compare();
    assert_eq!((r.differing_rows, r.left_out_rows), (0, 2));
    unseen(
        &b.path,
        "DELETE FROM tags WHERE tag = 'x'; UPDATE notes SET body = 'b' WHERE id = 'n2'; INSERT INTO counters VALUES (9, '')",
    );
    let r = compare();
    let named: Vec<_> = r.differences.iter().map(|d| (d.kind, d.table.as_str())).collect();
    assert_eq!(named, [(Kind::Missing, "counters"), (Kind::Different, "notes"), (Kind::Extra, "tags")]);
    assert_eq!((r.differences[1].columns.as_slice(), r.left_out_rows), (["body".to_owned()].as_slice(), 2));
    // A file that is not synced, with other tables and another order of columns.
    let plain = w.dir.path().join("plain.db");
    let conn = Connection::open(&plain).unwrap();
    conn.execute_batch(
        "CREATE TABLE notes (body TEXT, more TEXT, id TEXT PRIMARY KEY NOT NULL); CREATE TABLE mine (id TEXT PRIMARY KEY NOT NULL);
         CREATE TABLE tags (id TEXT PRIMARY KEY NOT NULL);
         INSERT INTO notes VALUES ('one', 'x', 'n1'), ('two', 'y', 'n2')",
    )
    .unwrap();
    let r = compare_files(&a.path, &plain).unwrap();
    assert_eq!((r.differing_rows, r.compared_rows, r.is_same()), (0, 2, false));
    assert_eq!(
        (r.only_in_first, r.only_in_second),
        (vec!["counters".into(), "marks".into(), "people".into()], vec!["mine".to_owned()])
    );
    assert_eq!(r.other_keys, ["tags"]);
    assert!(compare_files(&a.path, Path::new("/nowhere/x.db")).is_err());
}

/// The app may have rebuilt a table since its changes were logged.
#[test]
fn a_pending_change_is_known_by_the_columns_of_its_day() {
    let w = World::new();
    let (mut a, b) = two(&w);
    a.close();
    a.sql(
        "UPDATE notes SET body = 'pending' WHERE id = 'n1'; PRAGMA foreign_keys = OFF;
         CREATE TABLE n (person TEXT REFERENCES people(id) ON DELETE CASCADE, body TEXT, id TEXT PRIMARY KEY NOT NULL);
         INSERT INTO n SELECT person, body, id FROM notes; DROP TABLE notes; ALTER TABLE n RENAME TO notes;",
    );
    let r = compare_files(&a.path, &b.path).unwrap();
    assert_eq!((r.differing_rows, r.left_out_rows), (0, 1));
}

/// A file that is behind has not lost anything.
#[test]
fn two_files_at_different_bundles() {
    let w = World::new();
    let (a, b) = two(&w);
    b.sql("UPDATE people SET name = 'newer' WHERE id = 'b'; DELETE FROM tags WHERE tag = 'y'; INSERT INTO counters VALUES (100, 'new')");
    b.sync();
    let r = compare_files(&a.path, &b.path).unwrap();
    assert_eq!((r.differing_rows, r.left_out_rows), (0, 3));
}
