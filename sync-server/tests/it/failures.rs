//! Every line of the failure tables (seed; protocol §3 to §9), provoked over HTTP.

use std::collections::BTreeSet;

use sync_server::auth::DevAuth;
use sync_server::limits::Limits;
use sync_server::{Server, router};

use crate::http::{Client, Reply, TestEnvironment, World, open, row, user};

/// Endpoint, code, and how it comes about.
type Line = (&'static str, &'static str, fn() -> Reply);

const MINUTES: i64 = 60 * 1000;
const LEASE: i64 = 15 * MINUTES + 1;

/// A device that holds the lease, and the lease's id.
fn seeding(world: &World, source: &str) -> (Client, String) {
    let client = world.client("ada", source);
    let reply = client.post("/sync/connect", r#"{"has_local_pending_rows":true}"#).json();
    (client, reply["initialization_id"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned())
}

fn create_with(client: &Client, source_bundle_id: i64, initialization_id: &str) -> Reply {
    client.post(
        "/sync/push-sessions",
        &format!(
            r#"{{"source_bundle_id":{source_bundle_id},"planned_row_count":1,"initialization_id":"{initialization_id}"}}"#
        ),
    )
}

fn create_plain(client: &Client, source_bundle_id: i64) -> Reply {
    client.post("/sync/push-sessions", &format!(r#"{{"source_bundle_id":{source_bundle_id},"planned_row_count":1}}"#))
}

/// A seed push that is staged: the device, its session, and its lease.
fn seed_session(world: &World) -> (Client, String, String) {
    let (client, id) = seeding(world, "phone");
    let reply = create_with(&client, 1, &id).json();
    (client, reply["push_id"].as_str().unwrap().to_owned(), id)
}

fn upload_one(client: &Client, push_id: &str) -> Reply {
    client.upload(push_id, 0, &[user("u1", "n")])
}

fn replacement(previous: &str, new: &str) -> String {
    format!(
        r#"{{"source_replacement":{{"previous_source_id":"{previous}","new_source_id":"{new}","reason":"history_pruned"}}}}"#
    )
}

fn few_retained() -> World {
    World::with(Limits { retained_bundles: 1, ..Limits::default() })
}

/// Three bundles, of which one is kept.
fn pruned() -> (World, Client) {
    let world = few_retained();
    let phone = world.ready("ada", "phone");
    for i in 1..=3 {
        assert_eq!(phone.push(i, &[user(&format!("u{i}"), "n")]).status, 200);
    }
    (world, phone)
}

fn retired(world: &World) -> Client {
    let phone = world.ready("ada", "phone");
    assert_eq!(phone.post("/sync/snapshot-sessions", &replacement("phone", "phone-2")).status, 200);
    phone
}

/// A push is staged, then the operator restores the scope's file to one that lacks the source's last
/// bundle. No client alone gets here: its sequence moves by committing the one session that it may have.
fn restored_under_a_staged_push() -> Reply {
    let dir = tempfile::TempDir::new().unwrap();
    let environment = TestEnvironment::new();
    let serve = || {
        let service = open(dir.path(), Limits::default(), &environment);
        let server = Server::start("127.0.0.1:0", router(service, DevAuth)).unwrap();
        (Client::new(server.url(), "ada", "phone"), server)
    };
    let scopes = || {
        let files = std::fs::read_dir(dir.path().join("scopes")).unwrap();
        files.map(|f| f.unwrap().path()).collect::<Vec<_>>()
    };
    let (phone, server) = serve();
    phone.post("/sync/connect", "{}");
    assert_eq!(phone.push(1, &[user("u1", "n")]).status, 200);
    server.stop().unwrap();
    let backup: Vec<_> = scopes().into_iter().map(|f| (std::fs::read(&f).unwrap(), f)).collect();
    let (phone, server) = serve();
    assert_eq!(phone.push(2, &[user("u2", "n")]).status, 200);
    let push_id = phone.create(3, 1);
    assert_eq!(phone.upload(&push_id, 0, &[user("u3", "n")]).status, 200);
    server.stop().unwrap();
    for file in scopes() {
        std::fs::remove_file(file).unwrap();
    }
    for (bytes, file) in backup {
        std::fs::write(file, bytes).unwrap();
    }
    let (phone, server) = serve();
    let reply = phone.commit(&push_id);
    let pulled = phone.get("/sync/pull").json();
    assert_eq!(pulled["bundles"].as_array().map(Vec::len), Some(1), "nothing of it was stored: {pulled}");
    server.stop().unwrap();
    reply
}

const LINES: &[Line] = &[
    ("connect", "connect_invalid", || World::new().client("ada", "phone").post("/sync/connect", "[]")),
    ("create", "push_session_invalid", || create_plain(&World::new().ready("ada", "phone"), 0)),
    ("create", "history_pruned", || create_plain(&pruned().1, 1)),
    ("create", "source_sequence_out_of_order", || create_plain(&World::new().ready("ada", "phone"), 2)),
    ("create", "source_retired", || create_plain(&retired(&World::new()), 1)),
    ("create", "scope_uninitialized", || create_plain(&World::new().client("ada", "phone"), 1)),
    ("create", "scope_initializing", || {
        let world = World::new();
        seeding(&world, "phone");
        create_plain(&world.client("ada", "tablet"), 1)
    }),
    ("create", "push_session_invalid", || {
        let world = World::new();
        create_plain(&seeding(&world, "phone").0, 1)
    }),
    ("create", "initialization_stale", || {
        let world = World::new();
        let (_, id) = seeding(&world, "phone");
        create_with(&world.client("ada", "tablet"), 1, &id)
    }),
    ("create", "initialization_expired", || {
        let world = World::new();
        let (phone, id) = seeding(&world, "phone");
        world.environment.pass(LEASE);
        create_with(&phone, 1, &id)
    }),
    ("create", "bundle_too_large", || {
        let world = World::with(Limits { max_rows_per_bundle: 10, ..Limits::default() });
        world.ready("ada", "phone").post("/sync/push-sessions", r#"{"source_bundle_id":1,"planned_row_count":11}"#)
    }),
    ("chunk", "push_chunk_invalid", || {
        let world = World::new();
        let phone = world.ready("ada", "phone");
        let push_id = phone.create(1, 1);
        phone.upload(&push_id, 0, &[row("unheard_of", "u", "INSERT", 0, r#"{"id":"u"}"#)])
    }),
    ("chunk", "push_session_forbidden", || {
        let world = World::new();
        let push_id = world.ready("ada", "phone").create(1, 1);
        upload_one(&world.ready("bob", "phone"), &push_id)
    }),
    ("chunk", "push_session_forbidden", || {
        let world = World::new();
        let push_id = world.ready("ada", "phone").create(1, 1);
        upload_one(&world.client("ada", "tablet"), &push_id)
    }),
    ("chunk", "push_session_not_found", || {
        upload_one(&World::new().ready("ada", "phone"), "00000000-0000-4000-8000-0000000000ff")
    }),
    ("chunk", "push_chunk_out_of_order", || {
        let world = World::new();
        let phone = world.ready("ada", "phone");
        let push_id = phone.create(1, 2);
        let reply = phone.upload(&push_id, 1, &[user("u1", "n")]);
        assert_eq!(reply.json()["next_expected_row_ordinal"], 0, "{reply:?}");
        reply
    }),
    ("chunk", "initialization_stale", || {
        let world = World::new();
        let (phone, push_id, _) = seed_session(&world);
        phone.post("/sync/connect", r#"{"has_local_pending_rows":false}"#);
        upload_one(&phone, &push_id)
    }),
    ("chunk", "push_session_expired", || {
        let world = World::new();
        let phone = world.ready("ada", "phone");
        let push_id = phone.create(1, 1);
        world.environment.pass(LEASE);
        upload_one(&phone, &push_id)
    }),
    ("chunk", "initialization_expired", || {
        let world = World::with(Limits { push_session_ttl_ms: 60 * MINUTES, ..Limits::default() });
        let (phone, push_id, _) = seed_session(&world);
        world.environment.pass(LEASE);
        upload_one(&phone, &push_id)
    }),
    ("commit", "source_sequence_changed", restored_under_a_staged_push),
    ("commit", "push_commit_invalid", || {
        let world = World::new();
        let phone = world.ready("ada", "phone");
        let push_id = phone.create(1, 2);
        upload_one(&phone, &push_id);
        phone.commit(&push_id)
    }),
    ("commit", "push_session_forbidden", || {
        let world = World::new();
        let push_id = world.ready("ada", "phone").create(1, 1);
        world.ready("bob", "phone").commit(&push_id)
    }),
    ("commit", "push_session_not_found", || {
        World::new().ready("ada", "phone").commit("00000000-0000-4000-8000-0000000000ff")
    }),
    ("commit", "push_conflict", || {
        let world = World::new();
        let phone = world.ready("ada", "phone");
        phone.push(1, &[user("u1", "n")]);
        let reply = phone.push(2, &[row("users", "u1", "UPDATE", 7, r#"{"id":"u1","name":"m","score":null}"#)]);
        let conflict = &reply.json()["conflict"];
        assert_eq!(
            (conflict["server_row_version"].as_i64(), conflict["base_row_version"].as_i64()),
            (Some(1), Some(7))
        );
        assert_eq!(conflict["server_row"]["name"], "n");
        reply
    }),
    ("commit", "push_rejected", || {
        let world = World::new();
        let phone = world.ready("ada", "phone");
        let post = r#"{"id":"p","author":"nobody","title":"t","stars":-1}"#;
        let reply = phone.push(1, &[row("posts", "p", "INSERT", 0, post)]);
        assert_eq!(reply.json()["rejections"][0]["table"], "posts", "{reply:?}");
        reply
    }),
    ("commit", "source_retired", || {
        let world = World::new();
        let phone = world.ready("ada", "phone");
        let push_id = phone.create(1, 1);
        upload_one(&phone, &push_id);
        assert_eq!(phone.post("/sync/snapshot-sessions", &replacement("phone", "phone-2")).status, 200);
        let reply = phone.commit(&push_id);
        assert_eq!(reply.json()["source_id"], "phone");
        assert_eq!(reply.json()["replaced_by_source_id"], "phone-2");
        reply
    }),
    ("commit", "initialization_stale", || {
        let world = World::new();
        let (phone, push_id, _) = seed_session(&world);
        upload_one(&phone, &push_id);
        phone.post("/sync/connect", r#"{"has_local_pending_rows":false}"#);
        phone.commit(&push_id)
    }),
    ("commit", "push_session_expired", || {
        let world = World::new();
        let phone = world.ready("ada", "phone");
        let push_id = phone.create(1, 1);
        upload_one(&phone, &push_id);
        world.environment.pass(LEASE);
        phone.commit(&push_id)
    }),
    ("commit", "initialization_expired", || {
        let world = World::with(Limits { push_session_ttl_ms: 60 * MINUTES, ..Limits::default() });
        let (phone, push_id, _) = seed_session(&world);
        upload_one(&phone, &push_id);
        world.environment.pass(LEASE);
        phone.commit(&push_id)
    }),
    ("delete push", "push_session_forbidden", || {
        let world = World::new();
        let push_id = world.ready("ada", "phone").create(1, 1);
        world.ready("bob", "phone").delete(&format!("/sync/push-sessions/{push_id}"))
    }),
    ("delete push", "push_session_not_found", || {
        World::new().ready("ada", "phone").delete("/sync/push-sessions/00000000-0000-4000-8000-0000000000ff")
    }),
    ("delete push", "push_session_expired", || {
        let world = World::new();
        let phone = world.ready("ada", "phone");
        let push_id = phone.create(1, 1);
        world.environment.pass(LEASE);
        phone.delete(&format!("/sync/push-sessions/{push_id}"))
    }),
    ("committed rows", "committed_bundle_chunk_invalid", || {
        World::new().ready("ada", "phone").get("/sync/committed-bundles/0/rows")
    }),
    ("committed rows", "committed_bundle_not_found", || {
        World::new().ready("ada", "phone").get("/sync/committed-bundles/1/rows")
    }),
    ("committed rows", "history_pruned", || pruned().1.get("/sync/committed-bundles/1/rows")),
    ("pull", "pull_invalid", || World::new().ready("ada", "phone").get("/sync/pull?max_bundles=0")),
    ("pull", "history_pruned", || pruned().1.get("/sync/pull?after_bundle_seq=1")),
    ("pull", "history_pruned", || pruned().1.get("/sync/pull")),
    ("pull", "scope_uninitialized", || World::new().client("ada", "phone").get("/sync/pull")),
    ("pull", "scope_initializing", || {
        let world = World::new();
        seeding(&world, "phone").0.get("/sync/pull")
    }),
    ("pull", "checkpoint_ahead", || {
        let reply = World::new().ready("ada", "phone").get("/sync/pull?after_bundle_seq=5");
        assert_eq!(reply.json()["latest_bundle_seq"], 0);
        reply
    }),
    ("pull", "history_diverged", || {
        let world = World::new();
        let phone = world.ready("ada", "phone");
        phone.push(1, &[user("u1", "n")]);
        phone.get(&format!("/sync/pull?after_bundle_seq=1&after_history_hash={}", "0".repeat(64)))
    }),
    ("snapshot", "snapshot_session_invalid", || {
        World::new().ready("ada", "phone").post("/sync/snapshot-sessions", &replacement("tablet", "phone-2"))
    }),
    ("snapshot", "source_replacement_invalid", || {
        let world = World::new();
        world.ready("ada", "tablet").push(1, &[user("u1", "n")]);
        world.client("ada", "phone").post("/sync/snapshot-sessions", &replacement("phone", "tablet"))
    }),
    ("snapshot", "source_retired", || {
        retired(&World::new()).post("/sync/snapshot-sessions", &replacement("phone", "phone-3"))
    }),
    ("snapshot", "scope_uninitialized", || World::new().client("ada", "phone").post("/sync/snapshot-sessions", "")),
    ("snapshot", "scope_initializing", || {
        let world = World::new();
        seeding(&world, "phone").0.post("/sync/snapshot-sessions", "")
    }),
    ("snapshot", "snapshot_session_limit_exceeded", || {
        let world = World::with(Limits { max_rows_per_snapshot_session: 1, ..Limits::default() });
        let phone = world.ready("ada", "phone");
        phone.push(1, &[user("u1", "n"), user("u2", "n")]);
        let reply = phone.post("/sync/snapshot-sessions", "");
        assert_eq!(reply.json()["limit"], 1, "{reply:?}");
        reply
    }),
    ("snapshot", "snapshot_build_capacity", || {
        let world = World::with(Limits { max_concurrent_snapshot_builds: 0, ..Limits::default() });
        world.ready("ada", "phone").post("/sync/snapshot-sessions", "")
    }),
    ("snapshot page", "snapshot_chunk_invalid", || {
        let world = World::new();
        let phone = world.ready("ada", "phone");
        phone.get(&format!("{}?max_rows=0", snapshot(&phone)))
    }),
    ("snapshot page", "snapshot_session_not_found", || {
        World::new().ready("ada", "phone").get("/sync/snapshot-sessions/x")
    }),
    ("snapshot page", "snapshot_session_forbidden", || {
        let world = World::new();
        let path = snapshot(&world.ready("ada", "phone"));
        world.ready("bob", "phone").get(&path)
    }),
    ("snapshot page", "snapshot_session_expired", || {
        let world = World::new();
        let phone = world.ready("ada", "phone");
        let path = snapshot(&phone);
        world.environment.pass(LEASE);
        phone.get(&path)
    }),
    ("delete snapshot", "snapshot_session_not_found", || {
        World::new().ready("ada", "phone").delete("/sync/snapshot-sessions/x")
    }),
    ("delete snapshot", "snapshot_session_forbidden", || {
        let world = World::new();
        let path = snapshot(&world.ready("ada", "phone"));
        world.ready("bob", "phone").delete(&path)
    }),
];

fn snapshot(client: &Client) -> String {
    let reply = client.post("/sync/snapshot-sessions", "").json();
    format!("/sync/snapshot-sessions/{}", reply["snapshot_id"].as_str().unwrap_or_else(|| panic!("{reply}")))
}

#[test]
fn every_line_of_the_failure_tables_comes_about() {
    let mut wrong = Vec::new();
    for (endpoint, code, provoke) in LINES {
        let reply = provoke();
        let got = if reply.status >= 400 { reply.error() } else { format!("{reply:?}") };
        if got != *code {
            wrong.push(format!("{endpoint}: {code}, got {reply:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The seed's own table, so that no line is forgotten.
#[test]
fn no_line_of_the_seed_is_missing() {
    let seed = [
        ("connect", "connect_invalid"),
        (
            "create",
            "push_session_invalid history_pruned source_sequence_out_of_order source_retired scope_uninitialized scope_initializing initialization_stale initialization_expired",
        ),
        (
            "chunk",
            "push_chunk_invalid push_session_forbidden push_session_not_found push_chunk_out_of_order initialization_stale push_session_expired initialization_expired",
        ),
        (
            "commit",
            "push_commit_invalid push_session_forbidden push_session_not_found push_conflict source_sequence_changed source_retired initialization_stale push_session_expired initialization_expired",
        ),
        ("pull", "pull_invalid history_pruned scope_uninitialized scope_initializing"),
        (
            "snapshot",
            "snapshot_session_invalid source_replacement_invalid source_retired scope_uninitialized scope_initializing",
        ),
    ];
    let provoked: BTreeSet<_> = LINES.iter().map(|(endpoint, code, _)| (*endpoint, *code)).collect();
    for (endpoint, codes) in seed {
        for code in codes.split(' ') {
            assert!(provoked.contains(&(endpoint, code)), "{endpoint} {code}");
        }
    }
}
