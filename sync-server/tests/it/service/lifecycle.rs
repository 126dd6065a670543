//! Connect, leases, sequences, sources; who may touch what.

use serde_json::json;
use sync_core::protocol::Code;
use sync_core::protocol::connect::Resolution;
use sync_core::protocol::snapshot::CreateSnapshotRequest;

use super::{NOTES, World, code, delete, insert, update};

#[test]
fn a_seed_under_a_lease() {
    let w = World::new(NOTES);
    let (a, b) = (w.device("ann", "a"), w.device("ann", "b"));
    assert_eq!(code(a.create(1, 1, None)), "scope_uninitialized");
    assert_eq!(code(a.create(1, 1, Some("x"))), "initialization_expired");
    assert_eq!(code(a.pull(0)), "scope_uninitialized");
    let first = a.connect(true).unwrap();
    assert_eq!(first.resolution, Resolution::InitializeLocal);
    assert_eq!(first.lease_expires_at.as_deref(), Some("2026-09-21T14:28:20Z"));
    let other = b.connect(true).unwrap();
    assert_eq!((other.resolution, other.retry_after_seconds), (Resolution::RetryLater, Some(2)));
    assert_eq!(other.initialization_id, None, "the lease is not the other device's to use");
    assert_eq!(other.scope_id, first.scope_id);
    let lease = first.initialization_id.as_deref();
    assert_eq!(code(a.create(1, 1, None)), "push_session_invalid");
    assert_eq!(code(b.create(1, 1, lease)), "initialization_stale");
    assert_eq!(code(b.create(1, 1, None)), "scope_initializing");
    assert_eq!(code(b.pull(0)), "scope_initializing");
    let push = a.create(1, 1, lease).unwrap().push_id.unwrap();
    w.pass(899_000);
    a.chunk(&push, 0, &[insert("notes", json!({"id": "n1"}))]).unwrap();
    w.pass(899_000);
    let done = a.commit(&push).unwrap();
    assert_eq!((done.bundle_seq, done.row_count), (1, 1), "every chunk renews the lease");
    assert_eq!(b.connect(true).unwrap().resolution, Resolution::RemoteAuthoritative);
    assert_eq!(code(a.create(2, 1, lease)), "push_session_invalid");
    // A lost reply to the seed commit: the tuple is found before the lease is looked at.
    let again = a.create(1, 1, lease).unwrap();
    assert_eq!(again.status, "already_committed");
    assert_eq!(again.committed.unwrap(), done);
    assert_eq!(code(a.commit(&push)), "push_session_not_found");
}

/// Of 12 devices that meet at a new account 11 must not wait for a quarter of an hour for a seed of a second.
#[test]
fn a_seeding_that_goes_on_is_asked_after_soon() {
    let w = World::new(NOTES);
    let (a, b) = (w.device("ann", "a"), w.device("ann", "b"));
    let lease = a.connect(true).unwrap().initialization_id.unwrap();
    let push = a.create(1, 2, Some(&lease)).unwrap().push_id.unwrap();
    let wait = |ms: i64| {
        w.pass(ms);
        let told = b.connect(true).unwrap();
        // A pull, a snapshot and a push of another device are told the same.
        let snapshot = b.service().create_snapshot(&b.caller, CreateSnapshotRequest::default());
        for e in [b.pull(0).unwrap_err(), snapshot.unwrap_err(), b.create(1, 1, None).unwrap_err()] {
            assert_eq!(e.code, Code::ScopeInitializing);
            assert_eq!(e.retry_after.map(u64::cast_signed), told.retry_after_seconds);
            let body: serde_json::Value = serde_json::from_str(&e.to_json()).unwrap();
            assert_eq!(body["retry_after_seconds"], json!(told.retry_after_seconds));
            assert_eq!(body["lease_expires_at"], json!(told.lease_expires_at));
        }
        told.retry_after_seconds.unwrap()
    };
    assert_eq!(wait(0), 2);
    assert_eq!(wait(600_000), 60, "nothing was heard of it for ten minutes");
    a.chunk(&push, 0, &[insert("notes", json!({"id": "n1"}))]).unwrap();
    assert_eq!(wait(0), 2, "a chunk came");
    assert_eq!(wait(899_000), 1, "never past the lease");
    assert_eq!(b.connect(true).unwrap().lease_expires_at.as_deref(), Some("2026-09-21T14:38:20Z"));
}

#[test]
fn a_lapsed_lease() {
    let w = World::new(NOTES);
    let (a, b) = (w.device("ann", "a"), w.device("ann", "b"));
    let lease = a.connect(true).unwrap().initialization_id.unwrap();
    assert_eq!(a.connect(true).unwrap().initialization_id.as_deref(), Some(lease.as_str()), "renewed, the same id");
    let push = a.create(1, 1, Some(&lease)).unwrap().push_id.unwrap();
    let rows = [insert("notes", json!({"id": "n1"}))];
    w.pass(900_000);
    assert_eq!(code(a.chunk(&push, 0, &rows)), "initialization_expired");
    let theirs = b.connect(true).unwrap();
    assert_eq!(theirs.resolution, Resolution::InitializeLocal);
    assert_eq!(code(a.chunk(&push, 0, &rows)), "initialization_stale");
    b.connect(false).unwrap();
    assert_eq!(code(a.chunk(&push, 0, &rows)), "initialization_stale");
}

#[test]
fn sequences_and_retries() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    assert_eq!(code(a.create(2, 1, None)), "source_sequence_out_of_order");
    let first = a.push(1, &[insert("notes", json!({"id": "n1", "body": "x"}))]).unwrap();
    let retry = a.create(1, 5, None).unwrap();
    assert_eq!(retry.committed.unwrap(), first);
    // Two sessions for one tuple: the newer replaces the older.
    let old = a.stage(2, &[insert("notes", json!({"id": "n2"}))]);
    let new = a.stage(2, &[insert("notes", json!({"id": "n3"}))]);
    assert_eq!(code(a.commit(&old)), "push_session_not_found");
    assert_eq!(a.commit(&new).unwrap().bundle_seq, 2);
    // A conflicting push does not consume its id.
    assert_eq!(code(a.push(3, &[insert("notes", json!({"id": "n1"}))])), "push_conflict");
    assert_eq!(a.push(3, &[delete("notes", 1, "n1")]).unwrap().bundle_seq, 3);
}

#[test]
fn users_and_sources_are_apart() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    let bob = w.device("bob", "a");
    let other = w.device("ann", "b");
    let push = a.stage(1, &[insert("notes", json!({"id": "n1", "body": "secret"}))]);
    let rows = [insert("notes", json!({"id": "n2"}))];
    for d in [&bob, &other] {
        assert_eq!(code(d.chunk(&push, 1, &rows)), "push_session_forbidden");
        assert_eq!(code(d.commit(&push)), "push_session_forbidden");
        assert_eq!(code(w.service().delete_push(&d.caller, &push)), "push_session_forbidden");
    }
    a.commit(&push).unwrap();
    bob.connect(false).unwrap();
    assert_ne!(bob.connect(false).unwrap().scope_id, a.connect(false).unwrap().scope_id);
    assert_eq!(bob.pull(0).unwrap()["bundles"], json!([]));
    assert_eq!(code(bob.rows(1, None, None)), "committed_bundle_not_found");
    assert_eq!(bob.push(1, &[insert("notes", json!({"id": "n1", "body": "mine"}))]).unwrap().bundle_seq, 1);
    let names: Vec<String> = std::fs::read_dir(w.dir.path().join("scopes"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().all(|n| !n.contains("ann") && !n.contains("bob")), "{names:?}");
}

#[test]
fn a_file_of_another_user_is_refused() {
    let mut w = World::new(NOTES);
    w.ready("a").push(1, &[insert("notes", json!({"id": "n1"}))]).unwrap();
    w.device("bob", "a").connect(false).unwrap();
    w.service = None;
    let path = |user: &str| w.dir.path().join("scopes").join(format!("{}.db", blake3::hash(user.as_bytes()).to_hex()));
    std::fs::remove_file(path("bob")).unwrap();
    std::fs::rename(path("ann"), path("bob")).unwrap();
    w.restart();
    assert_eq!(code(w.device("bob", "a").pull(0)), "scope_damaged");
    assert_eq!(code(w.device("carl", "a").connect(false)), "ok");
}

#[test]
fn a_damaged_file_is_set_aside_alone() {
    let mut w = World::new(NOTES);
    w.ready("a").push(1, &[insert("notes", json!({"id": "n1"}))]).unwrap();
    w.service = None;
    let path = w.dir.path().join("scopes").join(format!("{}.db", blake3::hash(b"ann").to_hex()));
    std::fs::write(&path, vec![7u8; 8192]).unwrap();
    w.restart();
    assert_eq!(code(w.device("ann", "a").pull(0)), "scope_damaged");
    assert_eq!(code(w.device("ann", "a").connect(false)), "scope_damaged");
    assert_eq!(code(w.device("bob", "a").connect(false)), "ok");
}

#[test]
fn only_one_process_at_a_time() {
    let w = World::new(NOTES);
    let again = sync_server::service::Service::open(w.config.clone(), std::sync::Arc::<super::Fake>::clone(&w.fake));
    assert!(matches!(again, Err(sync_server::service::OpenError::InUse(_))));
    assert_eq!(w.ready("a").connect(true).unwrap().resolution, Resolution::RemoteAuthoritative);
}

#[test]
fn closing() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    let watch = w.service().watch(&a.caller, 0).unwrap();
    assert_eq!(w.service().status().unwrap().lifecycle, "running");
    let body = w.service().pull(&a.caller, sync_core::protocol::pull::PullRequest::default()).unwrap();
    w.service().close();
    assert!(watch.newest.has_changed().is_err(), "streams end");
    assert_eq!(code(a.pull(0)), "service_unavailable");
    assert_eq!(code(super::text(body)), "service_unavailable", "a reply under way is cut");
    let status = w.service().status().unwrap();
    assert_eq!((status.status, status.lifecycle, status.inflight_operations), ("unhealthy", "closed", 0));
}

#[test]
fn watchers_hear_of_the_newest() {
    let w = World::new(NOTES);
    let a = w.ready("a");
    a.push(1, &[insert("notes", json!({"id": "n1"}))]).unwrap();
    let mut watch = w.service().watch(&a.caller, 0).unwrap();
    assert_eq!(watch.first.unwrap().bundle_seq, 1);
    assert!(w.service().watch(&a.caller, 1).unwrap().first.is_none());
    a.push(2, &[update("notes", 1, json!({"id": "n1", "n": 2}))]).unwrap();
    a.push(3, &[update("notes", 2, json!({"id": "n1", "n": 3}))]).unwrap();
    let newest = watch.newest.borrow_and_update().clone();
    assert_eq!((newest.bundle_seq, newest.source_bundle_id, newest.source_id.as_deref()), (3, Some(3), Some("a")));
    assert_eq!(w.service().watch(&w.device("bob", "b").caller, 0).unwrap_err().code, Code::ScopeUninitialized);
}

#[test]
fn capabilities_and_status() {
    let w = World::new(NOTES);
    let a = w.device("ann", "a");
    let before = w.service().capabilities(&a.caller).unwrap();
    assert!(before.scope_id.is_some(), "a client tells accounts apart before anybody wrote to them");
    assert_eq!(before.registered_tables, ["main.notes", "main.tags"]);
    assert_eq!(before.registered_table_specs[0].columns, ["id", "body", "n"]);
    assert_eq!(before.features.len(), 21);
    assert!(!before.has("server_checkpoint_tracking") && before.has("bundle_change_watch"));
    let scope = a.connect(false).unwrap().scope_id;
    assert_eq!(before.scope_id, scope);
    assert_eq!(w.service().capabilities(&a.caller).unwrap().scope_id, scope);
    a.push(1, &[insert("notes", json!({"id": "n1"}))]).unwrap();
    a.create(1, 1, None).unwrap();
    let s = w.service().status().unwrap();
    assert_eq!((s.latest_bundle_seq_max, s.committed_bundle_count, s.accepted_push_replay_count), (1, 1, 1));
    assert!(s.committed_bundle_bytes > 0 && s.healthy());
    assert_eq!(w.service().schema(&a.caller).unwrap().statements.len(), 2);
}
