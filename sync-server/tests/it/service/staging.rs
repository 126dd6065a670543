//! Chunks: what is accepted, in which order, and that a refused chunk leaves no trace.

use serde_json::{Value, json};
use sync_core::hash::RequestHasher;
use sync_core::protocol::push::CreatePushRequest;
use sync_core::protocol::{ApiError, Code, Op};
use sync_server::service::FaultPoint;

use super::{NOTES, World, code, delete, insert, member};

#[test]
fn chunks_follow_one_another() {
    let w = World::limited(NOTES, |l| l.max_rows_per_push_chunk = 2);
    let a = w.ready("a");
    let rows: Vec<Value> = (0..4).map(|i| insert("notes", json!({"id": format!("n{i}")}))).collect();
    let push = a.create(1, 3, None).unwrap().push_id.unwrap();
    assert_eq!(a.chunk(&push, 0, &rows[..2]).unwrap().next_expected_row_ordinal, 2);
    for start in [0, 1, 3] {
        let e = a.chunk(&push, start, &rows[2..3]).unwrap_err();
        assert_eq!((e.code, member(&e, "next_expected_row_ordinal")), (Code::PushChunkOutOfOrder, json!(2)));
    }
    let message = |r: Result<_, ApiError>| r.map(|_: sync_core::protocol::push::ChunkReply| ()).unwrap_err().message;
    assert_eq!(message(a.chunk(&push, 2, &rows[2..4])), "chunk exceeds planned_row_count");
    assert_eq!(message(a.chunk(&push, 2, &[])), "rows must not be empty");
    assert_eq!(message(a.chunk(&push, -1, &rows[..1])), "start_row_ordinal must be >= 0");
    assert_eq!(message(a.chunk(&push, 2, &rows[..3])), "rows length 3 exceeds max_rows_per_push_chunk 2");
    let e = a.commit(&push).unwrap_err();
    assert_eq!(
        (e.code, e.message.as_str()),
        (Code::PushCommitInvalid, "staged row count 2 does not match planned_row_count 3")
    );
    let late = format!(r#"{{"rows":[{}],"start_row_ordinal":2}}"#, rows[2]);
    w.service().upload_chunk(&a.caller, &push, &mut late.as_bytes()).unwrap();
    assert_eq!(a.commit(&push).unwrap().row_count, 3);
}

#[test]
fn every_bad_row_of_a_chunk_is_named() {
    let w = World::limited(
        "CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT); CREATE TABLE nums (id INTEGER PRIMARY KEY, doc BLOB);
         CREATE TABLE ids (id BLOB PRIMARY KEY)",
        |l| l.max_bytes_per_row = 100,
    );
    let a = w.ready("a");
    let push = a.create(1, 20, None).unwrap().push_id.unwrap();
    let with = |mut row: Value, name: &str, value: Value| {
        row[name] = value;
        row
    };
    let good = insert("notes", json!({"id": "n"}));
    let rows = vec![
        good.clone(),
        with(good.clone(), "table", json!("nowhere")),
        with(good.clone(), "schema", json!("other")),
        with(good.clone(), "op", json!("UPSERT")),
        with(good.clone(), "key", json!({})),
        with(good.clone(), "key", json!({"id": 5})),
        insert("nums", json!({"id": "007"})),
        with(insert("ids", json!({"id": "x"})), "key", json!({"id": "NOT-A-UUID"})),
        good,
        with(delete("notes", 1, "d"), "payload", json!({"id": "d"})),
        with(insert("notes", json!({"id": "p"})), "payload", Value::Null),
        with(insert("notes", json!({"id": "q"})), "payload", json!({"id": "other"})),
        insert("notes", json!({"id": "h", "_sync_scope_id": "x"})),
        insert("nums", json!({"id": 1, "doc": "%%%"})),
        insert("notes", json!({"id": "arr", "body": [1]})),
        insert("notes", json!({"id": "big", "body": "x".repeat(200)})),
        with(delete("notes", 1, "fine"), "payload", Value::Null),
    ];
    let e = a.chunk(&push, 0, &rows).unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::PushChunkInvalid, "table main.nowhere is not registered"));
    let list = member(&e, "rejections");
    let got: Vec<String> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|r| format!("{} {}: {}", r["row_ordinal"], r["kind"].as_str().unwrap(), r["message"].as_str().unwrap()))
        .collect();
    let expected = [
        "1 unknown_table: table main.nowhere is not registered",
        "2 unknown_table: table other.notes is not registered",
        "3 op: invalid op \"UPSERT\"",
        "4 key: row key for notes must include \"id\"",
        "5 key: row key notes.id must be a string",
        "6 key: row key nums.id must be a canonical decimal integer of 64 bits",
        "7 key: row key ids.id must use canonical dashed lowercase UUID text",
        "8 duplicate: duplicate target row in push request: main.notes n",
        "9 payload: DELETE for main.notes must not include payload",
        "10 payload: INSERT for main.notes requires payload",
        "11 key_mismatch: payload key notes.id must match request key",
        "12 hidden_column: payload for notes must not include hidden column \"_sync_scope_id\"",
        "13 base64: payload binary field nums.doc must be valid base64",
        "14 value: payload field notes.body must not be an array or an object",
        "15 too_large: payload for main.notes big exceeds max_bytes_per_row 100",
    ];
    assert_eq!(got, expected);
    assert_eq!(list[4]["key"], json!({"id": 5}), "as it was sent");
    assert_eq!(a.chunk(&push, 0, &rows[..1]).unwrap().next_expected_row_ordinal, 1, "the session is as before");
}

#[test]
fn malformed_chunks_and_strange_sessions() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    let push = a.create(1, 2, None).unwrap().push_id.unwrap();
    let rows = [insert("notes", json!({"id": "n1"}))];
    let half = json!({"start_row_ordinal": 0, "rows": rows}).to_string();
    let cut = &half.as_bytes()[..half.len() - 2];
    assert_eq!(code(w.service().upload_chunk(&a.caller, &push, &mut &cut[..])), "push_chunk_invalid");
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other(ApiError::new(Code::PayloadTooLarge, "too large")))
        }
    }
    assert_eq!(code(w.service().upload_chunk(&a.caller, &push, &mut Broken)), "payload_too_large");
    assert_eq!(code(a.chunk("nonsense", 0, &rows)), "push_session_not_found");
    assert_eq!(code(a.chunk("nonsense", 0, &[insert("nowhere", json!({"id": "x"}))])), "push_chunk_invalid");
    a.chunk(&push, 0, &rows).unwrap();
    a.chunk(&push, 1, &rows).unwrap();
    let e = a.commit(&push).unwrap_err();
    assert_eq!(e.message, "duplicate target row in staged push session: main.notes n1");
    assert_eq!(e.code, Code::PushCommitInvalid);
    w.service().delete_push(&a.caller, &push).unwrap();
    assert_eq!(code(w.service().delete_push(&a.caller, &push)), "push_session_not_found");
    assert_eq!(std::fs::read_dir(w.dir.path().join("pushes")).unwrap().count(), 0, "its files are gone");
}

#[test]
fn sessions_expire() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    let push = a.stage(1, &[insert("notes", json!({"id": "n1"}))]);
    w.pass(900_001);
    assert_eq!(code(a.commit(&push)), "push_session_expired");
    assert_eq!(code(w.service().delete_push(&a.caller, &push)), "push_session_expired");
    w.device("bob", "b").connect(false).unwrap();
    w.device("bob", "b").create(1, 1, None).unwrap();
    assert_eq!(code(a.commit(&push)), "push_session_not_found", "swept by the next creation");
}

#[test]
fn the_request_hash_is_checked_and_kept() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    let mut h = RequestHasher::default();
    h.row("main", "notes", r#"{"id":"n1"}"#, Op::Insert, 0, Some(r#"{"body":"x"}"#));
    h.row("main", "notes", r#"{"id":"n2"}"#, Op::Insert, 0, Some(r#"{"body":"é","id":"n2","n":5}"#));
    let hash = h.finish().hex();
    let rows = [
        json!({"table": "notes", "key": {"id": "n1"}, "op": "INSERT", "payload": {"body": "x"}}),
        insert("notes", json!({"n": 5, "id": "n2", "body": "é"})),
    ];
    let create = |hash: &str| {
        let request = CreatePushRequest {
            source_bundle_id: 1,
            planned_row_count: 2,
            initialization_id: None,
            request_hash: Some(hash.into()),
            ..CreatePushRequest::default()
        };
        w.service().create_push(&a.caller, request)
    };
    assert_eq!(code(create("short")), "push_session_invalid");
    let push = create(&"0".repeat(64)).unwrap().push_id.unwrap();
    a.chunk(&push, 0, &rows).unwrap();
    assert_eq!(code(a.commit(&push)), "push_commit_invalid");
    let push = create(&hash).unwrap().push_id.unwrap();
    a.chunk(&push, 0, &rows).unwrap();
    assert_eq!(a.commit(&push).unwrap().request_hash.as_deref(), Some(hash.as_str()));
    assert_eq!(a.create(1, 2, None).unwrap().committed.unwrap().request_hash, Some(hash));
    // A column that the server lacks is named, also where the hash covers it.
    let row = insert("notes", json!({"id": "n", "colour": "red"}));
    let request = CreatePushRequest {
        source_bundle_id: 2,
        planned_row_count: 1,
        initialization_id: None,
        request_hash: Some("0".repeat(64)),
        ..CreatePushRequest::default()
    };
    let push = w.service().create_push(&a.caller, request).unwrap().push_id.unwrap();
    a.chunk(&push, 0, &[row]).unwrap();
    assert_eq!(code(a.commit(&push)), "push_rejected");
}

#[test]
fn a_restart_in_the_middle() {
    let mut w = World::new(NOTES);
    let rows: Vec<Value> = (0..3).map(|i| insert("notes", json!({"id": format!("n{i}")}))).collect();
    let push = {
        let a = w.ready("a");
        let push = a.create(1, 3, None).unwrap().push_id.unwrap();
        a.chunk(&push, 0, &rows[..2]).unwrap();
        push
    };
    w.restart();
    let a = w.device("ann", "a");
    let e = a.chunk(&push, 0, &rows[..2]).unwrap_err();
    assert_eq!(member(&e, "next_expected_row_ordinal"), json!(2), "what was accepted is still there");
    a.chunk(&push, 2, &rows[2..]).unwrap();
    assert_eq!(a.commit(&push).unwrap().row_count, 3);
    assert_eq!(code(a.commit(&push)), "push_session_not_found");
}

#[test]
fn a_bundle_over_the_limit() {
    let w = World::limited(NOTES, |l| l.max_rows_per_bundle = 2);
    let a = w.ready("a");
    assert_eq!(code(a.create(1, 3, None)), "bundle_too_large");
    assert_eq!(code(a.create(1, 2, None)), "ok");
}

#[test]
fn fault_points_are_passed() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    a.push(1, &[insert("notes", json!({"id": "n1"}))]).unwrap();
    let snapshot = sync_core::protocol::snapshot::CreateSnapshotRequest::default();
    w.service().create_snapshot(&a.caller, snapshot).unwrap();
    assert_eq!(*w.fake.faults.lock().unwrap(), FaultPoint::ALL);
}

/// `204`, and `staging` for the same tuple, prove to a client that nothing was committed.
#[test]
fn a_crash_after_the_commit_is_told_by_its_tuple() {
    let mut w = World::new(NOTES);
    let side = |w: &World| {
        let file = std::fs::read_dir(w.dir.path().join("pushes")).unwrap();
        let mut names: Vec<_> = file.map(|e| e.unwrap().path()).collect();
        names.sort();
        names
    };
    let push = w.ready("a").stage(1, &[insert("notes", json!({"id": "n1"}))]);
    let copies: Vec<_> = side(&w).into_iter().map(|p| (std::fs::read(&p).unwrap(), p)).collect();
    w.device("ann", "a").commit(&push).unwrap();
    assert!(side(&w).is_empty());
    // As if the process had been killed between the commit and the end of the session.
    for call in ["commit", "delete"] {
        w.service = None;
        for (bytes, path) in &copies {
            std::fs::write(path, bytes).unwrap();
        }
        w.restart();
        let a = w.device("ann", "a");
        let said = match call {
            "commit" => code(a.commit(&push)),
            _ => code(w.service().delete_push(&a.caller, &push)),
        };
        assert_eq!(said, "push_session_not_found", "{call}");
        assert!(side(&w).is_empty(), "{call}");
        assert_eq!(a.create(1, 1, None).unwrap().status, "already_committed");
    }
}

/// The same for the first bundle of all: its upload is no session whose lease lapsed.
#[test]
fn a_crash_after_the_seed_committed_leaves_no_session() {
    let mut w = World::new(NOTES);
    let push = {
        let a = w.device("ann", "a");
        let lease = a.connect(true).unwrap().initialization_id;
        let push = a.create(1, 1, lease.as_deref()).unwrap().push_id.unwrap();
        a.chunk(&push, 0, &[insert("notes", json!({"id": "n1"}))]).unwrap();
        push
    };
    let file = std::fs::read_dir(w.dir.path().join("pushes")).unwrap();
    let copies: Vec<_> = file.map(|e| e.unwrap().path()).map(|p| (std::fs::read(&p).unwrap(), p)).collect();
    w.device("ann", "a").commit(&push).unwrap();
    w.service = None;
    for (bytes, path) in &copies {
        std::fs::write(path, bytes).unwrap();
    }
    w.restart();
    let a = w.device("ann", "a");
    assert_eq!(code(a.chunk(&push, 0, &[insert("notes", json!({"id": "n1"}))])), "push_session_not_found");
    assert_eq!(code(a.commit(&push)), "push_session_not_found");
}

/// The file of a session could not be made whole, for want of room or whatever: the next chunk makes it.
#[test]
fn a_session_whose_file_was_begun_in_vain_goes_on() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    let row = [insert("notes", json!({"id": "n"}))];
    let push = a.create(1, 1, None).unwrap().push_id.unwrap();
    std::fs::write(w.dir.path().join("pushes").join(format!("{push}.db")), "").unwrap();
    assert_eq!(a.chunk(&push, 0, &row).unwrap().next_expected_row_ordinal, 1);
    assert_eq!(a.commit(&push).unwrap().row_count, 1);
}
