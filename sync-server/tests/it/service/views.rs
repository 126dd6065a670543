//! Exact values, the two views of them, and both hashes, recomputed from what is served.

use serde_json::{Value, json};
use sync_core::hash::{Algorithm, BundleHasher, Digest, HashRow, history};
use sync_core::json::Members;
use sync_core::protocol::Op;
use sync_core::protocol::pull::PullRequest;
use sync_core::protocol::rows::{PullSink, WireRow, read_pull};
use sync_core::wire::{Form, push_members};

use super::{Device, World, text};

const VALUES: &str = "CREATE TABLE v (id BLOB PRIMARY KEY, i INTEGER, r REAL, t TEXT, b BLOB, x)";
const ID: &str = "11111111-1111-4111-8111-111111111111";

/// Recomputes every bundle hash of a page in the device's own algorithm.
#[derive(Default)]
struct Verify {
    algorithm: Option<Algorithm>,
    rows: Vec<WireRow>,
    hashes: Vec<(String, String, i64)>,
}

impl PullSink for Verify {
    type Error = ();

    fn row(&mut self, row: WireRow) -> Result<(), ()> {
        self.rows.push(row);
        Ok(())
    }

    fn bundle(&mut self, head: sync_core::protocol::pull::BundleHead) -> Result<(), ()> {
        // The head precedes or follows its rows; both orders end here.
        let algorithm = self.algorithm.unwrap();
        let mut h = BundleHasher::new(algorithm);
        let form = if algorithm == Algorithm::Blake3 { Form::Exact } else { Form::Reference };
        let canonical = |m: &Members| {
            let mut out = String::new();
            push_members(&mut out, m, form);
            out
        };
        for r in self.rows.drain(..) {
            h.row(HashRow {
                schema: &r.schema,
                table: &r.table,
                key: &canonical(&r.key),
                op: Op::parse(&r.op).unwrap(),
                row_version: r.version,
                payload: r.payload.as_ref().map(&canonical).as_deref(),
            });
        }
        self.hashes.push((head.bundle_hash.unwrap(), h.finish().hex(), head.bundle_seq));
        Ok(())
    }
}

fn verify(d: &Device<'_>) -> Vec<String> {
    let page = text(d.service().pull(&d.caller, PullRequest::default()).unwrap()).unwrap();
    let mut sink = Verify { algorithm: Some(d.caller.algorithm), ..Verify::default() };
    read_pull(page.as_bytes(), &mut sink).unwrap();
    for (said, computed, seq) in &sink.hashes {
        assert_eq!(said, computed, "bundle {seq} of {page}");
    }
    sink.hashes.into_iter().map(|(said, _, _)| said).collect()
}

fn rows() -> Vec<Value> {
    let row = |id: &str, payload: Value| {
        let mut payload = payload;
        payload["id"] = json!(id);
        json!({"table": "v", "key": {"id": id}, "op": "INSERT", "base_row_version": 0, "payload": payload})
    };
    vec![
        row(
            ID,
            json!({"i": i64::MAX, "r": 0.1, "t": "<a&b>\u{2028}\u{7}\"", "b": "AAEC/w==", "x": 9_007_199_254_740_993i64}),
        ),
        row(
            "22222222-2222-4222-8222-222222222222",
            json!({"i": "-9223372036854775808", "r": "Infinity", "t": {"$blob": "AAE="}, "b": {"$text": "tex<t"}, "x": {"$real": "-Infinity"}}),
        ),
        row("33333333-3333-4333-8333-333333333333", json!({"i": true, "r": 1, "t": "", "b": "", "x": null})),
    ]
}

#[test]
fn values_are_exact_and_the_plain_view_never_nests() {
    let w = World::new(VALUES);
    let a = w.ready("a");
    a.push(1, &rows()).unwrap();
    let exact = a.rows(1, None, None).unwrap()["rows"].clone();
    assert_eq!(
        exact[0]["payload"],
        json!({"id": ID, "i": i64::MAX, "r": 0.1, "t": "<a&b>\u{2028}\u{7}\"", "b": "AAEC/w==", "x": 9_007_199_254_740_993i64})
    );
    assert_eq!(exact[0]["key"], json!({"id": ID}));
    let second = &exact[1]["payload"];
    assert_eq!(second["i"], i64::MIN);
    assert_eq!((&second["r"], &second["x"]), (&json!("Infinity"), &json!({"$real": "-Infinity"})));
    assert_eq!((&second["t"], &second["b"]), (&json!({"$blob": "AAE="}), &json!({"$text": "tex<t"})));
    assert_eq!(exact[2]["payload"]["r"], json!(1.0));
    assert_eq!(exact[2]["payload"]["i"], json!(1));
    let plain = a.clone().plain().rows(1, None, None).unwrap()["rows"].clone();
    assert_eq!(plain[0], exact[0]);
    let second = &plain[1]["payload"];
    assert_eq!((&second["r"], &second["x"]), (&json!("Infinity"), &json!("-Infinity")));
    assert_eq!((&second["t"], &second["b"]), (&json!("AAE="), &json!("dGV4PHQ=")));
    // Snapshots say the same.
    for d in [a.clone(), a.clone().plain()] {
        let s = w.service().create_snapshot(&d.caller, Default::default()).unwrap();
        let page = d.page(&s.snapshot_id, 0, None).unwrap();
        let from_log = d.rows(1, None, None).unwrap();
        for n in 0..3 {
            assert_eq!(page["rows"][n]["payload"], from_log["rows"][n]["payload"]);
        }
    }
}

#[test]
fn both_hashes_hold_whoever_commits() {
    let w = World::new(VALUES);
    let a = w.ready("a");
    let p = w.ready("p").plain();
    let first = a.push(1, &rows()).unwrap();
    let changed = json!({"table": "v", "key": {"id": ID}, "op": "UPDATE", "base_row_version": 1, "payload": {"t": "é", "r": 1e21}});
    let second = p.push(1, &[changed]).unwrap();
    let gone = json!({"table": "v", "key": {"id": ID}, "op": "DELETE", "base_row_version": 2});
    let third = a.push(2, &[gone]).unwrap();
    let blake = verify(&a);
    let sha = verify(&p);
    assert_eq!(sha, verify(&p), "remembered");
    assert_eq!((&first.bundle_hash, &second.bundle_hash, &third.bundle_hash), (&blake[0], &sha[1], &blake[2]));
    let mut h = Digest::default();
    for (n, b) in blake.iter().enumerate() {
        h = history(h, Digest::from_hex(b).unwrap(), n as i64 + 1);
    }
    assert_eq!(third.history_hash, Some(h.hex()));
    assert_eq!(a.pull(0).unwrap()["bundles"][2]["history_hash"], json!(h.hex()));
    let again = p.create(1, 1, None).unwrap().committed.unwrap();
    assert_eq!(again, second);
}

/// Both ways of committing make the same bundle.
#[test]
fn direct_and_captured_commits_agree() {
    let direct = World::new(VALUES);
    let rules = "CREATE TRIGGER idle AFTER INSERT ON v WHEN 0 BEGIN SELECT 1; END;";
    let captured = World::with(VALUES, |c| c.rules_sql = Some(rules.into()));
    let bundles = [&direct, &captured].map(|w| {
        let a = w.ready("a");
        let first = a.push(1, &rows()).unwrap();
        let rows = [
            json!({"table": "v", "key": {"id": ID}, "op": "UPDATE", "base_row_version": 1,
                   "payload": {"i": 1, "r": 2.5, "t": "x", "b": null, "x": "y"}}),
            json!({"table": "v", "key": {"id": "33333333-3333-4333-8333-333333333333"}, "op": "DELETE", "base_row_version": 1}),
        ];
        (first, a.push(2, &rows).unwrap())
    });
    assert_eq!(bundles[0], bundles[1]);
}
