//! Snapshots: frozen, sorted, limited; and source replacement.

use serde_json::{Value, json};
use sync_core::protocol::snapshot::{CreateSnapshotRequest, SnapshotSession, SourceReplacement};
use sync_core::protocol::{ApiError, Code};

use super::{Device, NOTES, World, code, delete, insert, member, update};

fn create(d: &Device<'_>) -> Result<SnapshotSession, ApiError> {
    d.service().create_snapshot(&d.caller, CreateSnapshotRequest::default())
}

fn rotate(d: &Device<'_>, new: &str) -> Result<SnapshotSession, ApiError> {
    let replacement = SourceReplacement {
        previous_source_id: d.caller.source.to_string(),
        new_source_id: new.into(),
        reason: "history_pruned".into(),
    };
    d.service().create_snapshot(&d.caller, CreateSnapshotRequest { source_replacement: Some(replacement) })
}

fn keys(page: &Value) -> Vec<String> {
    let one = |r: &Value| {
        format!("{} {} {}", r["table"].as_str().unwrap(), r["key"]["id"].as_str().unwrap(), r["row_version"])
    };
    page["rows"].as_array().unwrap().iter().map(one).collect()
}

#[test]
fn frozen_and_in_order() {
    let mut w = World::new(NOTES);
    let id = {
        let a = w.ready("a");
        let rows = [
            insert("tags", json!({"id": "t1", "note": "n2"})),
            insert("notes", json!({"id": "n2"})),
            insert("notes", json!({"id": "n1", "body": "x"})),
            insert("notes", json!({"id": "n3"})),
        ];
        a.push(1, &rows).unwrap();
        let done =
            a.push(2, &[update("notes", 1, json!({"id": "n2", "body": "y"})), delete("notes", 1, "n3")]).unwrap();
        let s = create(&a).unwrap();
        assert_eq!((s.snapshot_bundle_seq, s.row_count, &s.history_hash), (2, 3, &done.history_hash));
        assert!(s.byte_count > 0);
        a.push(3, &[delete("notes", 1, "n1")]).unwrap();
        let first = a.page(&s.snapshot_id, 0, Some(2)).unwrap();
        assert_eq!(keys(&first), ["notes n1 1", "notes n2 2"]);
        assert_eq!((&first["next_row_ordinal"], &first["has_more"]), (&json!(2), &json!(true)));
        assert_eq!(first["rows"][0]["payload"], json!({"id": "n1", "body": "x", "n": 7}));
        let last = a.page(&s.snapshot_id, 2, None).unwrap();
        assert_eq!(keys(&last), ["tags t1 1"]);
        assert_eq!((&last["next_row_ordinal"], &last["has_more"]), (&json!(3), &json!(false)));
        assert_eq!(a.page(&s.snapshot_id, 3, None).unwrap()["next_row_ordinal"], 3);
        s.snapshot_id
    };
    w.restart();
    let a = w.device("ann", "other");
    assert_eq!(keys(&a.page(&id, 0, None).unwrap()).len(), 3, "it survives a restart");
    assert_eq!(code(w.device("bob", "a").page(&id, 0, None)), "snapshot_session_forbidden");
    for bad in [a.page(&id, -1, None), a.page(&id, 0, Some(0))] {
        assert_eq!(code(bad), "snapshot_chunk_invalid");
    }
    w.service().delete_snapshot(&a.caller, &id).unwrap();
    assert_eq!(code(a.page(&id, 0, None)), "snapshot_session_not_found");
    assert_eq!(code(a.page("nonsense", 0, None)), "snapshot_session_not_found");
    assert_eq!(std::fs::read_dir(w.dir.path().join("snapshots")).unwrap().count(), 0);
}

#[test]
fn each_page_extends_the_session() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    let s = create(&a).unwrap();
    assert_eq!((s.row_count, s.byte_count), (0, 0));
    for _ in 0..3 {
        w.pass(899_000);
        assert_eq!(a.page(&s.snapshot_id, 0, None).unwrap()["rows"], json!([]));
    }
    w.pass(900_001);
    assert_eq!(code(a.page(&s.snapshot_id, 0, None)), "snapshot_session_expired");
    create(&a).unwrap();
    assert_eq!(code(a.page(&s.snapshot_id, 0, None)), "snapshot_session_not_found");
}

#[test]
fn limits() {
    let w = World::limited(NOTES, |l| l.max_rows_per_snapshot_session = 1);
    let a = w.ready("a");
    a.push(1, &[insert("notes", json!({"id": "n1"})), insert("notes", json!({"id": "n2"}))]).unwrap();
    let e = rotate(&a, "b").unwrap_err();
    assert_eq!(e.code, Code::SnapshotSessionLimitExceeded);
    assert_eq!(
        (member(&e, "dimension"), member(&e, "actual"), member(&e, "limit")),
        (json!("row_count"), json!(2), json!(1))
    );
    assert_eq!(std::fs::read_dir(w.dir.path().join("snapshots")).unwrap().count(), 0, "nothing is left");
    assert_eq!(code(a.create(2, 1, None)), "ok", "the source was not retired");
    let w = World::limited(NOTES, |l| l.max_concurrent_snapshot_builds = 0);
    let e = create(&w.ready("a")).unwrap_err();
    assert_eq!((e.code, e.retry_after), (Code::SnapshotBuildCapacity, Some(1)));
}

#[test]
fn a_source_is_replaced() {
    let w = World::new(NOTES);
    let a = w.device("ann", "a");
    assert_eq!(code(create(&a)), "scope_uninitialized");
    a.connect(false).unwrap();
    let staged = a.stage(1, &[insert("notes", json!({"id": "n1"}))]);
    rotate(&a, "b").unwrap();
    rotate(&a, "b").unwrap();
    assert_eq!(code(rotate(&a, "c")), "source_retired");
    let e = a.commit(&staged).unwrap_err();
    assert_eq!((e.code, member(&e, "replaced_by_source_id")), (Code::SourceRetired, json!("b")));
    assert_eq!(code(a.create(1, 1, None)), "source_retired");
    assert_eq!(code(a.pull(0)), "ok", "a retired source may read");
    let b = w.device("ann", "b");
    b.push(1, &[insert("notes", json!({"id": "n1"}))]).unwrap();
    assert_eq!(code(rotate(&w.device("ann", "x"), "b")), "source_replacement_invalid");
    assert_eq!(code(rotate(&b, "b")), "snapshot_session_invalid");
}
