//! Sizes, encodings, methods, JSON that is none, and paths that are not this contract's.

use std::io::Write as _;

use serde_json::json;

use super::world::{BATCHES, World, batch, contains, counts, full, send, status};

const LIMIT: usize = 8 << 20;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    e.write_all(bytes).unwrap();
    e.finish().unwrap()
}

/// A batch of exactly so many bytes.
fn padded(id: &str, bytes: usize) -> String {
    let text = batch(id, "2026-06-08T12:00:00Z").to_string();
    let blanks = bytes - text.len();
    format!("{{{}{}", " ".repeat(blanks), &text[1..])
}

#[test]
fn st_24_a_body_has_at_most_eight_mebibytes() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    assert_eq!(device.post(BATCHES, &padded("batch_1", LIMIT)).status, 200);
    let over = padded("batch_2", LIMIT + 1);
    let far_over = padded("batch_2", 3 * LIMIT);
    let refused = json!({ "error": "sync_batch_too_large" });
    let reply = device.post(BATCHES, &over);
    assert_eq!((reply.status, reply.json()), (413, refused.clone()));
    assert_eq!(device.post(BATCHES, &far_over).status, 413);
    let small_on_the_wire = gzip(over.as_bytes());
    assert!(small_on_the_wire.len() < 100_000);
    let reply = device.header("content-encoding", "gzip").send("POST", BATCHES, &small_on_the_wire);
    assert_eq!((reply.status, reply.json()), (413, refused));
    assert_eq!(status(&device).0, "batch_1");
}

#[test]
fn gzip_is_taken_and_nothing_else() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let sent = gzip(full("batch_1").to_string().as_bytes());
    let zipped = device.header("content-encoding", "gzip");
    assert_eq!(counts(&zipped.send("POST", BATCHES, &sent), "accepted"), [1, 1, 1, 0, 1, 0]);
    assert_eq!(zipped.send("POST", BATCHES, &sent[..sent.len() - 9]).status, 400);
    assert_eq!(zipped.post(BATCHES, "{}").json(), json!({ "error": "invalid_json" }));
    for other in ["br", "zstd", "gzip, gzip", "deflate"] {
        assert_eq!(device.header("content-encoding", other).send("POST", BATCHES, &sent).status, 415, "{other}");
    }
    let reply = device.header("accept-encoding", "gzip").get("/api/sync/status");
    assert_eq!(reply.status, 200);
}

#[test]
fn methods_without_a_token() {
    let world = World::new();
    let nobody = world.client("nobody");
    for (path, takes) in [
        (BATCHES, "POST"),
        ("/api/sync/reset", "POST"),
        ("/api/devices/token", "POST"),
        ("/api/sync/status", "GET"),
        ("/api/dashboard", "GET"),
        ("/api/rollups/daily", "GET"),
    ] {
        let options = nobody.send("OPTIONS", path, b"");
        let allow = options.header("allow").unwrap();
        assert!(options.status == 204 && allow.contains(takes) && options.body.is_empty(), "{options:?}");
        assert_eq!(allow.contains("HEAD"), takes == "GET");
        let head = nobody.send("HEAD", path, b"");
        assert_eq!(head.status, if takes == "GET" { 200 } else { 405 }, "{path}");
        for wrong in ["PUT", "DELETE", "PATCH", if takes == "GET" { "POST" } else { "GET" }] {
            let reply = nobody.send(wrong, path, b"");
            assert_eq!((reply.status, reply.header("allow")), (405, Some(allow)), "{wrong} {path}");
        }
    }
}

#[test]
fn xc_08_json_that_is_refused() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let head = r#""schema_version":"sync_batch.v1","batch_id":"b","device_id":"d","created_at":"2026-06-01T00:00:00Z""#;
    let deep = |n: usize| format!("{{{head},\"x\":{}1{}}}", "[".repeat(n), "]".repeat(n));
    assert_eq!(device.post(BATCHES, &deep(63)).status, 200);
    for bad in [
        deep(64),
        deep(100_000),
        format!("{{{head},\"x\":1,\"x\":2}}"),
        format!("{{{head},\"x\":\"\\ud800\"}}"),
        format!("{{{head}}} x"),
        format!("{{{head}"),
        format!("{{{head},\"x\":1e-99999999999}}"),
        "\u{0}".to_owned(),
    ] {
        let reply = device.post(BATCHES, &bad);
        assert_eq!((reply.status, reply.json()), (400, json!({ "error": "invalid_json" })));
    }
    assert_eq!(device.send("POST", BATCHES, b"\xff\xfe").status, 400);
    let mut odd = full("batch with \u{0} in it");
    odd["sources"][0]["source_id"] = "src_\u{0}".into();
    odd["k".repeat(1 << 20)] = 1.into();
    assert_eq!(counts(&send(&device, &odd), "accepted"), [1, 1, 1, 0, 1, 0]);
    assert_eq!(counts(&send(&device, &odd), "duplicates"), [1, 1, 1, 0, 1, 0]);
    assert!(!contains(&world.everything(), "panicked"));
}

/// Beside row sync, each path answers its own tokens only; what is not mounted is not there.
#[test]
fn xc_01_paths_and_tokens_of_one_contract_are_not_anothers() {
    let mut world = World::new();
    let statsai = world.key("ada", "dev_a", &[])["secret"].as_str().unwrap().to_owned();
    let args = ["keys", "create", "--data", "data", "--for", "sync", "--user", "ada"];
    let sync = world.printed(&args).trim().to_owned();
    assert!(sync.starts_with("sk_") && statsai.starts_with("statsai_"));
    assert_eq!(world.client(&sync).post(BATCHES, "{}").status, 401);
    for path in ["/sync/pull", "/sync/capabilities", "/v1/transcripts", "/api/v1/tracker/projects", "/v1/sync/batches"]
    {
        assert_eq!(world.client(&statsai).get(path).status, 404, "{path}");
    }
    // A slash at the end is another path.
    assert_eq!(world.client(&statsai).post("/api/sync/batches/", "{}").status, 404);
    std::fs::write(world.dir.path().join("schema.sql"), crate::http::SCHEMA).unwrap();
    std::fs::write(world.dir.path().join("secret"), "0123456789abcdef0123456789abcdef").unwrap();
    send(&world.client(&statsai), &full("batch_1"));
    world.start(&["--schema", "schema.sql", "--secret-file", "secret"], None);
    assert_eq!(world.client(&statsai).get("/sync/capabilities").error(), "authentication_failed");
    assert_eq!(world.client(&sync).get("/api/sync/status").status, 401);
    let phone = world.client(&sync);
    phone.post("/sync/connect", "{}");
    assert_eq!(phone.push(1, &[crate::http::user("u", "both in one file")]).status, 200);
    let token = world.printed(&["token", "--user", "ada", "--secret-file", "secret"]);
    assert_eq!(world.client(token.trim()).get("/sync/pull").json()["bundles"][0]["rows"][0]["payload"]["id"], "u");
    assert_eq!(status(&world.client(&statsai)).0, "batch_1");
    // Without the schema file the data keeps its tables, and the other way round.
    world.start(&[], None);
    assert_eq!(counts(&send(&world.client(&statsai), &full("batch_2")), "duplicates"), [1, 1, 1, 0, 1, 0]);
    world.start(&["--schema", "schema.sql", "--secret-file", "secret"], None);
    assert_eq!(world.client(&sync).get("/sync/pull").json()["bundles"].as_array().unwrap().len(), 1);
}

#[test]
fn st_40_batches_without_a_token_only_from_this_machine() {
    let world = World::with(&["--loopback-diagnostics"]);
    let path = "/v1/sync/batches";
    let nobody = world.client("x").header("authorization", "");
    let body = full("batch_1").to_string();
    assert_eq!(counts(&nobody.post(path, &body), "accepted"), [1, 1, 1, 0, 1, 0]);
    assert_eq!(nobody.header("x-forwarded-for", "10.0.0.1").post(path, &body).status, 404);
    assert_eq!(nobody.header("host", "example.org").post(path, &body).status, 404);
    assert_eq!(nobody.header("origin", "http://127.0.0.1").post(path, &body).status, 403);
    let mut snapshot = full("batch_2");
    snapshot["authoritative_snapshot"] = json!({ "snapshot_id": "s", "part_index": 0, "part_count": 1 });
    assert_eq!(nobody.post(path, &snapshot.to_string()).status, 400);
    let sums = world.printed(&["rollups", "--data", "data", "--user", "local", "--json"]);
    assert_eq!(sums.trim(), "{\"rollups\":[]}");
    let beyond =
        world.run(&["serve", "--data", "d", "--ingest", "statsai", "--loopback-diagnostics", "--listen", "0.0.0.0:0"]);
    assert_eq!(beyond.status.code(), Some(2));
}

#[test]
fn in_development_the_token_is_the_user() {
    let world = World::with(&["--dev"]);
    let ada = world.client("ada");
    send(&ada, &full("batch_1"));
    assert_eq!(status(&ada).1, [1, 1, 1, 0]);
    assert_eq!(status(&world.client("bob")).1, [0; 4]);
    let beyond = world.run(&["serve", "--data", "d", "--ingest", "statsai", "--dev", "--listen", "0.0.0.0:0"]);
    assert_eq!(beyond.status.code(), Some(2));
}

/// Eight mebibytes of the JSON that grows most, on few bytes of wire.
#[cfg(target_os = "linux")]
#[test]
fn a_batch_does_not_grow_the_process() {
    let world = World::new();
    let device = world.device("ada", "dev_a").header("content-encoding", "gzip");
    let head = batch("batch_1", "2026-06-08T12:00:00Z").to_string();
    let most = |filling: &str| {
        let n = (LIMIT - head.len() - 20) / filling.len();
        gzip(format!("{{\"x\":[{}0],{}", filling.repeat(n), &head[1..]).as_bytes())
    };
    for filling in ["[],", "0,", "{},", "\"\","] {
        assert_eq!(
            device.send("POST", BATCHES, &most(filling)).status,
            if filling == "[]," { 200 } else { 409 },
            "{filling}"
        );
    }
    assert!(world.peak_mib() < 512, "{} MiB", world.peak_mib());
}
