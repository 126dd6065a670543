//! Pull and committed rows: windows, pages, pruning, divergence.

use serde_json::{Value, json};
use sync_core::protocol::Code;
use sync_core::protocol::pull::PullRequest;

use super::{Device, NOTES, World, code, insert, member};

fn fill(a: &Device<'_>, from: i64, to: i64) {
    for id in from..=to {
        a.push(id, &[insert("notes", json!({"id": format!("n{id}"), "body": "x"}))]).unwrap();
    }
}

fn seqs(page: &Value) -> Vec<i64> {
    page["bundles"].as_array().unwrap().iter().map(|b| b["bundle_seq"].as_i64().unwrap()).collect()
}

#[test]
fn windows_and_pages() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    assert_eq!(a.pull(0).unwrap(), json!({"stable_bundle_seq": 0, "bundles": [], "has_more": false}));
    fill(&a, 1, 5);
    let page = |after, max, target| {
        let request = PullRequest {
            after_bundle_seq: after,
            max_bundles: max,
            target_bundle_seq: target,
            ..PullRequest::default()
        };
        let p = a.pull_with(request).unwrap();
        (p["stable_bundle_seq"].as_i64().unwrap(), seqs(&p), p["has_more"].as_bool().unwrap())
    };
    assert_eq!(page(0, 2, 0), (5, vec![1, 2], true));
    fill(&a, 6, 6);
    assert_eq!(page(2, 2, 5), (5, vec![3, 4], true), "the window is frozen");
    assert_eq!(page(4, 2, 5), (5, vec![5], false));
    assert_eq!(page(5, 2, 5), (5, vec![], false));
    assert_eq!(page(5, 0, 0), (6, vec![6], false));
    assert_eq!(page(0, 9999, 0).1.len(), 6);
    let b = &a.pull(5).unwrap()["bundles"][0];
    assert_eq!((&b["row_count"], &b["source_id"], &b["source_bundle_id"]), (&json!(1), &json!("a"), &json!(6)));
    let e = a.pull(7).unwrap_err();
    assert_eq!((e.code, member(&e, "latest_bundle_seq")), (Code::CheckpointAhead, json!(6)));
}

#[test]
fn byte_limits_and_omitted_rows() {
    let w = World::limited(NOTES, |l| l.max_bytes_per_pull = 1);
    let a = w.ready("a");
    fill(&a, 1, 3);
    assert_eq!(seqs(&a.pull(0).unwrap()), [1], "at least one");
    assert_eq!(a.pull(0).unwrap()["has_more"], true);
    let w = World::new(NOTES);
    let a = w.ready("a");
    let rows: Vec<Value> = (0..3).map(|i| insert("notes", json!({"id": format!("n{i}")}))).collect();
    a.push(1, &rows).unwrap();
    a.push(2, &[insert("notes", json!({"id": "one"}))]).unwrap();
    let page = a.pull_with(PullRequest { max_inline_rows: Some(2), ..PullRequest::default() }).unwrap();
    assert_eq!((&page["bundles"][0]["rows"], &page["bundles"][0]["rows_omitted"]), (&json!([]), &json!(true)));
    assert_eq!((&page["bundles"][0]["row_count"], &page["bundles"][1]["rows_omitted"]), (&json!(3), &Value::Null));
}

#[test]
fn committed_rows_by_page() {
    let w = World::limited(NOTES, |l| l.max_rows_per_committed_bundle_chunk = 2);
    let a = w.ready("a");
    let rows: Vec<Value> = (0..5).map(|i| insert("notes", json!({"id": format!("n{i}")}))).collect();
    a.push(1, &rows).unwrap();
    let page = |after, max| {
        let p = a.rows(1, after, max).unwrap();
        (p["rows"].as_array().unwrap().len(), p["next_row_ordinal"].as_i64().unwrap(), p["has_more"].as_bool().unwrap())
    };
    assert_eq!(page(None, None), (2, 1, true));
    assert_eq!(page(Some(1), Some(100)), (2, 3, true));
    assert_eq!(page(Some(3), None), (1, 4, false));
    assert_eq!(page(Some(4), None), (0, 4, false));
    assert_eq!(page(Some(i64::MAX), Some(i64::MAX)), (0, i64::MAX, false));
    assert_eq!(page(None, Some(1)), (1, 0, true));
    assert_eq!(a.rows(1, Some(0), Some(1)).unwrap()["rows"][0]["key"]["id"], "n1");
    assert_eq!(code(a.rows(2, None, None)), "committed_bundle_not_found");
    for bad in [a.rows(0, None, None), a.rows(1, Some(-1), None), a.rows(1, None, Some(0))] {
        assert_eq!(code(bad), "committed_bundle_chunk_invalid");
    }
}

#[test]
fn pruning() {
    let w = World::limited(NOTES, |l| l.retained_bundles = 2);
    let a = w.ready("a");
    fill(&a, 1, 5);
    assert_eq!(code(a.pull(0)), "history_pruned");
    let e = a.pull(2).unwrap_err();
    assert_eq!(e.message, "requested checkpoint 2 is older than retained history floor 3 for user ann");
    assert_eq!(seqs(&a.pull(3).unwrap()), [4, 5], "at the floor nothing is missing");
    assert_eq!(code(a.rows(3, None, None)), "history_pruned");
    assert_eq!(code(a.rows(4, None, None)), "ok");
    assert_eq!(code(a.create(3, 1, None)), "history_pruned");
    assert_eq!(a.create(4, 1, None).unwrap().status, "already_committed");
    // Row versions and tombstones outlive the log.
    assert_eq!(code(a.push(6, &[insert("notes", json!({"id": "n1"}))])), "push_conflict");
    let s = w.service().status().unwrap();
    assert_eq!((s.retained_bundle_floor_max, s.retained_bundle_window_max, s.history_pruned_error_count), (3, 2, 2));
}

#[test]
fn a_rewritten_history_is_noticed() {
    let w = World::limited(NOTES, |l| l.retained_bundles = 3);
    let a = w.ready("a");
    fill(&a, 1, 3);
    let hash = |n: usize| a.pull(0).unwrap()["bundles"][n - 1]["history_hash"].as_str().unwrap().to_owned();
    let hashes = [hash(1), hash(2), hash(3)];
    let ask = |after: i64, hash: &str| {
        let request =
            PullRequest { after_bundle_seq: after, after_history_hash: Some(hash.into()), ..PullRequest::default() };
        code(a.pull_with(request))
    };
    for n in 1..=3 {
        assert_eq!(ask(n, &hashes[n as usize - 1]), "ok");
        assert_eq!(ask(n, &"ab".repeat(32)), "history_diverged");
    }
    assert_eq!(ask(0, &"00".repeat(32)), "ok");
    assert_eq!(ask(0, &hashes[0]), "history_diverged");
    assert_eq!(ask(1, "nonsense"), "pull_invalid");
    fill(&a, 4, 4);
    assert_eq!(ask(1, &hashes[0]), "ok", "at the floor the next bundle proves it");
    assert_eq!(ask(1, &hashes[1]), "history_diverged");
    // Below the floor nothing is served, but what is remembered says whether the caller is of this history.
    fill(&a, 5, 6);
    assert_eq!(ask(2, &hashes[0]), "history_diverged");
    let shared = |after: i64, hash: Option<&String>| {
        let after_history_hash = hash.cloned();
        let request = PullRequest { after_bundle_seq: after, after_history_hash, ..PullRequest::default() };
        let e = a.pull_with(request).unwrap_err();
        assert_eq!(e.code.as_str(), "history_pruned");
        e.to_json().contains("\"history_shared\":true")
    };
    assert!(shared(2, Some(&hashes[1])));
    assert!(shared(0, Some(&"00".repeat(32))));
    assert!(!shared(2, None));
}

#[test]
fn large_replies_come_in_pieces() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    let rows: Vec<Value> =
        (0..2000).map(|i| insert("notes", json!({"id": format!("n{i:05}"), "body": "y".repeat(200)}))).collect();
    a.push(1, &rows).unwrap();
    let body = w.service().pull(&a.caller, PullRequest::default()).unwrap();
    let pieces: Vec<usize> = body.map(|p| p.unwrap().len()).collect();
    assert!(pieces.len() > 5 && pieces.iter().all(|p| *p < 70_000), "{pieces:?}");
    assert_eq!(a.pull(0).unwrap()["bundles"][0]["rows"].as_array().unwrap().len(), 2000);
}
