//! What one device has is not another's: users, devices, status and reset.

use serde_json::{Value, json};

use super::world::{World, counts, daily, full, send, status, subscription, summaries, summary};

const ID: &str = "sum_0d4c270a8ff871feaf9b8293cd0abef8";

#[test]
fn st_16_users_do_not_see_each_other() {
    let world = World::new();
    let (ada, bob) = (world.device("ada", "dev_a"), world.device("bob", "dev_b"));
    send(&ada, &full("batch_1"));
    let before = status(&ada);
    assert_eq!(counts(&send(&bob, &full("batch_1")), "accepted"), [1, 1, 1, 0, 1, 0]);
    assert_eq!(status(&ada), before);
}

#[test]
fn st_17_ids_are_a_devices_or_a_users() {
    let world = World::new();
    let (a, b) = (world.device("ada", "dev_a"), world.device("ada", "dev_b"));
    let sent =
        |id: &str, n| summaries(id, "2026-06-08T12:00:00Z", &[summary(ID, "2026-06-08", n, "2026-06-08T11:00:00Z")]);
    assert_eq!(counts(&send(&a, &sent("batch_1", 1550)), "accepted")[5], 1);
    assert_eq!(counts(&send(&b, &sent("batch_1", 700)), "accepted")[5], 1);
    assert_eq!(daily(&a), [("2026-06-08".to_owned(), 2250)]);
    assert_eq!(daily(&b), daily(&a));
    for (device, member) in [(&a, "accepted"), (&b, "duplicates")] {
        let account = send(device, &full("batch_2"));
        assert_eq!(counts(&account, member)[1], 1);
        assert_eq!(counts(&account, "accepted")[0], 1, "a source is the device's own");
        assert_eq!(counts(&send(device, &subscription("batch_3")), member)[3], 1);
        assert_eq!(status(device).1, [1, 1, 1, 1]);
    }
}

#[test]
fn st_25_status_is_of_the_last_applied_batch() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    assert_eq!(status(&device), (Value::Null, [0; 4]));
    send(&device, &full("batch_1710000000000"));
    assert_eq!(status(&device), (json!("batch_1710000000000"), [1, 1, 1, 0]));
    send(&device, &super::world::batch("batch_2", "2026-06-10T00:00:00Z"));
    assert_eq!(status(&device), (json!("batch_2"), [1, 1, 1, 0]));
    send(&device, &full("batch_1710000000000"));
    assert_eq!(status(&device), (json!("batch_2"), [1, 1, 1, 0]), "a replay does not move it");
    let whole = device.get("/api/sync/status").json();
    assert_eq!(device.get("/api/sync/status?view=preflight").json(), whole);
    let key =
        |d: &crate::http::Client| d.get("/api/sync/status").json()["capabilities"]["codeChangeIdentityKey"].clone();
    let own = key(&device);
    assert!(own.as_str().is_some_and(|k| k.len() == 64 && k.bytes().all(|b| b.is_ascii_hexdigit())), "{own}");
    assert_eq!(key(&world.device("ada", "dev_b")), own);
    assert_ne!(key(&world.device("bob", "dev_c")), own);
}

#[test]
fn st_26_a_reset_forgets_this_device_and_nothing_else() {
    let world = World::new();
    let (a, b) = (world.device("ada", "dev_a"), world.device("ada", "dev_b"));
    for device in [&a, &b] {
        let mut sent = full("batch_1");
        sent["summaries"] = json!([summary(ID, "2026-06-08", 10, "2026-06-08T11:00:00Z")]);
        send(device, &sent);
    }
    send(&a, &subscription("batch_2"));
    let before = (status(&a), status(&b));
    for wrong in [
        "{\"confirm\":\"yes\"}",
        "{\"confirm\":\"reset_synced_data\",\"scope\":\"all\"}",
        "{\"confirm\":\"reset_synced_data\",\"scope\":null}",
        "{}",
        "[]",
    ] {
        let reply = a.post("/api/sync/reset", wrong);
        assert_eq!((reply.status, reply.json()), (400, json!({ "error": "invalid_request" })), "{wrong}");
    }
    assert_eq!((status(&a), status(&b)), before);
    assert_eq!(daily(&a), [("2026-06-08".to_owned(), 20)]);
    for right in
        ["{\"confirm\":\"reset_synced_data\"}", "{\"confirm\":\"reset_synced_data\",\"scope\":\"device_mirror\"}"]
    {
        let reply = a.post("/api/sync/reset", right);
        assert_eq!(reply.json(), json!({ "ok": true, "scope": "device_mirror", "device_id": "dev_a" }));
    }
    assert_eq!(status(&a), (Value::Null, [0; 4]));
    assert_eq!(status(&b), before.1);
    assert_eq!(daily(&a), [("2026-06-08".to_owned(), 10)]);
    let again = send(&a, &full("batch_1"));
    assert_eq!(counts(&again, "accepted"), [1, 0, 1, 0, 1, 0], "the other device has the account");
    assert_eq!(counts(&again, "duplicates"), [0, 1, 0, 0, 0, 0]);
    assert_eq!(counts(&send(&a, &subscription("batch_2")), "accepted")[3], 1, "nobody else had the subscription");
}

/// What the command line of another user's machine is told that has the same device id.
#[test]
fn a_device_is_one_users() {
    let world = World::new();
    world.device("ada", "dev_a");
    let args = ["keys", "create", "--data", "data", "--for", "statsai", "--device", "dev_a", "--user"];
    let refused = world.run(&[&args[..], &["bob"]].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("another user"));
    assert!(world.run(&[&args[..], &["ada"]].concat()).status.success(), "a second key of the same device");
}
