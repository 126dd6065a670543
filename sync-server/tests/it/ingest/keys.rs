//! Keys as an operator makes, lists and revokes them, while the server runs.

use serde_json::Value;

use super::world::{World, contains, full, send, status};

#[test]
fn a_key_is_shown_once_listed_without_its_secret_and_revoked_at_once() {
    let world = World::new();
    let made = world.key("ada", "dev_a", &["--name", "laptop"]);
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("statsai_") && secret.len() >= "statsai_".len() + 32, "{made}");
    assert_eq!((&made["user"], &made["for"], &made["device"]), (&"ada".into(), &"statsai".into(), &"dev_a".into()));
    assert_eq!(made["expires_at"], Value::Null);
    let device = world.client(secret);
    assert_eq!(send(&device, &full("batch_1")).status, 200);
    let listed = world.printed(&["keys", "list", "--data", "data", "--json"]);
    let key = &serde_json::from_str::<Value>(&listed).unwrap()[0];
    assert_eq!((&key["key_id"], &key["name"]), (&made["key_id"], &"laptop".into()));
    assert!(key["created_at"].is_string() && key["last_used_at"].is_string() && key["revoked_at"].is_null(), "{key}");
    let text = world.printed(&["keys", "list", "--data", "data", "--user", "ada"]);
    assert!(text.contains("laptop") && text.contains("valid"), "{text}");
    assert_eq!(world.printed(&["keys", "list", "--data", "data", "--user", "bob"]), "");
    for shown in [&listed, &text] {
        assert!(!shown.contains(secret) && !shown.contains("sha256"));
    }
    assert!(!contains(&world.everything(), secret), "only its hash is stored");
    let id = made["key_id"].as_str().unwrap();
    world.printed(&["keys", "revoke", "--data", "data", id]);
    assert_eq!(send(&device, &full("batch_2")).status, 401);
    assert!(world.printed(&["keys", "list", "--data", "data"]).contains("revoked"));
    let unknown = world.run(&["keys", "revoke", "--data", "data", "key_none"]);
    assert_eq!(unknown.status.code(), Some(1));
    // The device and its data are still the user's.
    assert_eq!(status(&world.device("ada", "dev_a")).0, "batch_1");
}

#[test]
fn a_device_is_made_where_none_is_named_and_keys_expire() {
    let world = World::new();
    let args = ["keys", "create", "--data", "data", "--for", "statsai", "--user", "ada", "--json"];
    let made: Value = serde_json::from_str(&world.printed(&args)).unwrap();
    let device = made["device"].as_str().unwrap();
    assert!(device.len() == 20 && device.starts_with("dev_"), "{device}");
    let made: Value = serde_json::from_str(&world.printed(&[&args[..], &["--expires", "30"]].concat())).unwrap();
    let days = made["expires_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap() - jiff::Timestamp::now();
    let hours = days.total(jiff::Unit::Hour).unwrap();
    assert!((719.0..=720.0).contains(&hours), "{hours}");
    for wrong in ["0", "-1", "soon", "2001-01-01T00:00:00Z", "99999999999999"] {
        let refused = world.run(&[&args[..], &[&format!("--expires={wrong}")]].concat());
        assert_eq!(refused.status.code(), Some(2), "{wrong}");
    }
    for wrong in [&["--user", " "][..], &["--for", "nothing"], &["--for", "sync", "--device", "d"], &["--device", " "]]
    {
        let base = ["keys", "create", "--data", "data"];
        let rest: &[&str] = match wrong[0] {
            "--user" => &["--for", "statsai"],
            "--for" => &["--user", "ada"],
            _ => &["--for", "statsai", "--user", "ada"],
        };
        assert_eq!(world.run(&[&base[..], rest, wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(world.run(&["keys", "list", "--data", "nowhere"]).status.code(), Some(1));
}

#[cfg(unix)]
#[test]
fn nobody_else_reads_the_keys() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    world.device("ada", "dev_a");
    let mode = std::fs::metadata(world.dir.path().join("data/keys.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
