//! Requests of the real command line at `sync_batch.v1`, as it sent them.

use serde_json::Value;

use super::world::{World, counts, send, status};

fn recorded(name: &str) -> Value {
    let path = format!("{}/tests/statsai/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// In the order of a first sync, an incremental one, a verify and a reset.
#[test]
fn st_35_recorded_requests_of_version_1() {
    let world = World::new();
    let device = world.device("ada", "dev_0011223344556677").header("user-agent", "statsai/0.0.1");
    let names = ["first_sources", "first_accounts", "first_assignments", "first_subscriptions", "first_part_3_of_3"];
    for name in names {
        let request = recorded(name);
        assert_eq!((request["method"].as_str(), request["path"].as_str()), (Some("POST"), Some("/api/sync/batches")));
        let reply = send(&device, &request["body"]);
        // What it was told then is what it takes.
        let told = &request["answered"]["body"];
        assert_eq!(reply.json(), *told, "{name}");
    }
    let verified = recorded("status");
    let reply = device.get(verified["path"].as_str().unwrap()).json();
    for member in ["device", "mirrorCounts"] {
        for (name, value) in verified["answered"]["body"][member].as_object().unwrap() {
            assert_eq!(reply[member][name], *value, "{name}");
        }
    }
    let incremental = recorded("incremental");
    let reply = send(&device, &incremental["body"]);
    assert_eq!(counts(&reply, "accepted")[5], incremental["body"]["summaries"].as_array().unwrap().len() as u64);
    for name in ["split_part", "empty_batch"] {
        let request = recorded(name);
        assert_eq!(send(&device, &request["body"]).status, 200, "{name}");
        assert_eq!(status(&device).0, request["body"]["batch_id"]);
    }
    for name in names {
        let mut body = recorded(name)["body"].clone();
        body["batch_id"] = format!("again_{name}").into();
        assert_eq!(counts(&send(&device, &body), "accepted"), [0; 6], "{name}");
    }
    let reset = recorded("reset");
    let reply = device.post(reset["path"].as_str().unwrap(), &reset["body"].to_string());
    assert_eq!((reply.status, &reply.json()["ok"]), (200, &Value::Bool(true)));
    assert_eq!(status(&device), (Value::Null, [0; 4]));
}
