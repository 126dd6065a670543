//! Digests of a frozen snapshot: by range, over the named columns, limited.

use serde_json::json;
use sync_core::hash::RangeHasher;
use sync_core::protocol::digest::{DigestReply, DigestRequest, FEATURE, SnapshotTable};
use sync_core::protocol::snapshot::{CreateSnapshotRequest, SnapshotSession};
use sync_core::protocol::{ApiError, Code};

use super::{Device, NOTES, World, code, delete, insert, update};

fn freeze(d: &Device<'_>) -> SnapshotSession {
    d.service().create_snapshot(&d.caller, CreateSnapshotRequest::default()).unwrap()
}

fn request(id: &str, table: &str, columns: &[&str], after: i64, until: i64, parts: i64) -> DigestRequest {
    DigestRequest {
        snapshot_id: id.into(),
        table: table.into(),
        columns: columns.iter().map(|c| (*c).to_owned()).collect(),
        after_row_ordinal: after,
        until_row_ordinal: until,
        max_ranges: Some(parts),
    }
}

fn ask(d: &Device<'_>, r: &DigestRequest) -> Result<DigestReply, ApiError> {
    d.service().digest(&d.caller, r)
}

fn digest(rows: &[(&str, &str)]) -> String {
    let mut h = RangeHasher::default();
    rows.iter().for_each(|(k, p)| h.row(k, p));
    h.finish().hex()
}

fn seeded(w: &World) -> Device<'_> {
    let a = w.ready("a");
    let rows = [
        insert("tags", json!({"id": "t1", "note": "n2"})),
        insert("notes", json!({"id": "n2", "body": "é<b>"})),
        insert("notes", json!({"id": "n1", "body": null, "n": 9_007_199_254_740_993_i64})),
        insert("notes", json!({"id": "n3"})),
    ];
    a.push(1, &rows).unwrap();
    a
}

const ALL: &[&str] = &["id", "n", "body"];

#[test]
fn parts_of_a_frozen_table() {
    let mut w = World::new(NOTES);
    let (id, first) = {
        let a = seeded(&w);
        let s = freeze(&a);
        let share = |table: &str, row_count| SnapshotTable { table: table.into(), row_count };
        assert_eq!(s.tables, [share("notes", 3), share("tags", 1)]);
        a.push(2, &[update("notes", 1, json!({"id": "n2", "body": "later"})), delete("notes", 1, "n1")]).unwrap();
        let reply = ask(&a, &request(&s.snapshot_id, "notes", ALL, 0, 3, 2)).unwrap();
        assert_eq!((reply.snapshot_bundle_seq, reply.table.as_str(), reply.ranges.len()), (1, "notes", 2));
        let n1 = (r#"{"id":"n1"}"#, r#"{"body":null,"id":"n1","n":9007199254740993}"#);
        let n2 = (r#"{"id":"n2"}"#, r#"{"body":"é<b>","id":"n2","n":7}"#);
        let n3 = (r#"{"id":"n3"}"#, r#"{"body":null,"id":"n3","n":7}"#);
        let at = |i: usize| (reply.ranges[i].last_row_ordinal, reply.ranges[i].last_key["id"].as_str());
        assert_eq!((at(0), at(1)), ((1, "n1"), (3, "n3")));
        assert_eq!(reply.ranges[0].digest, digest(&[n1]));
        assert_eq!(reply.ranges[1].digest, digest(&[n2, n3]));
        let some = ask(&a, &request(&s.snapshot_id, "notes", &["body"], 1, 2, 9)).unwrap();
        assert_eq!(some.ranges.len(), 1);
        assert_eq!(some.ranges[0].digest, digest(&[(n2.0, r#"{"body":"é<b>"}"#)]));
        let none = ask(&a, &request(&s.snapshot_id, "tags", &[], 3, 4, 1)).unwrap();
        assert_eq!(none.ranges[0].digest, digest(&[(r#"{"id":"t1"}"#, "{}")]));
        let plain = ask(&a.clone().plain(), &request(&s.snapshot_id, "notes", ALL, 0, 3, 2)).unwrap();
        assert_eq!(plain, reply, "whatever view the caller reads rows in");
        (s.snapshot_id, reply)
    };
    w.restart();
    let again = ask(&w.device("ann", "other"), &request(&id, "notes", ALL, 0, 3, 2)).unwrap();
    assert_eq!(again, first, "it survives a restart");
}

#[test]
fn what_is_refused() {
    let w = World::limited(NOTES, |l| l.max_rows_per_digest = 2);
    let a = seeded(&w);
    let s = freeze(&a);
    let id = s.snapshot_id.as_str();
    for (table, columns, after, until) in [
        ("other", ALL, 0, 1),
        ("notes", &["id", "nothing"][..], 0, 1),
        ("notes", ALL, 0, 0),
        ("notes", ALL, 2, 1),
        ("notes", ALL, 2, 4),
        ("notes", ALL, 0, 3),
        ("tags", ALL, 3, 4),
        ("tags", &["id"][..], 2, 4),
    ] {
        let got = code(ask(&a, &request(id, table, columns, after, until, 4)));
        assert_eq!(got, "digest_invalid", "{table} {columns:?} {after} {until}");
    }
    let fine = request(id, "notes", ALL, 0, 2, 4);
    assert_eq!(code(ask(&w.device("bob", "b"), &fine)), "snapshot_session_forbidden");
    assert_eq!(code(ask(&a, &request("none", "notes", ALL, 0, 2, 4))), "snapshot_session_not_found");
    for _ in 0..2 {
        w.pass(899_000);
        assert_eq!(code(ask(&a, &fine)), "ok", "a digest extends the session, as a page does");
    }
    w.pass(900_001);
    assert_eq!(code(ask(&a, &fine)), "snapshot_session_expired");
}

#[test]
fn every_limit_is_advertised_and_kept() {
    let w = World::limited(NOTES, |l| {
        (l.max_ranges_per_digest, l.max_digest_rows_per_minute, l.max_rows_per_digest) = (2, 150, 1000);
    });
    let a = seeded(&w);
    let c = w.service().capabilities(&a.caller).unwrap();
    let l = &c.bundle_limits;
    assert!(c.has(FEATURE));
    assert_eq!((l.max_ranges_per_digest, l.max_digest_rows_per_minute, l.max_rows_per_digest), (2, 150, 1000));
    let s = freeze(&a);
    let r = request(&s.snapshot_id, "notes", ALL, 0, 3, 100);
    assert_eq!(ask(&a, &r).unwrap().ranges.len(), 2, "capped");
    let without = DigestRequest { max_ranges: None, ..r.clone() };
    assert_eq!(ask(&a, &without).unwrap().ranges.len(), 2);
    // Each cost 100 rows.
    let e = ask(&a, &r).unwrap_err();
    assert_eq!((e.code, e.retry_after), (Code::RateLimited, Some(21)));
    let b = w.device("bob", "b");
    b.connect(false).unwrap();
    b.push(1, &[insert("notes", json!({"id": "n1"}))]).unwrap();
    let other = freeze(&b);
    assert_eq!(code(ask(&b, &request(&other.snapshot_id, "notes", ALL, 0, 1, 1))), "ok", "each user has a budget");
    w.pass(21_000);
    assert_eq!(code(ask(&a, &r)), "ok");
    let w = World::limited(NOTES, |l| l.max_digest_rows_per_minute = 0);
    let a = seeded(&w);
    let s = freeze(&a);
    for _ in 0..50 {
        ask(&a, &request(&s.snapshot_id, "notes", ALL, 0, 3, 1)).unwrap();
    }
}
