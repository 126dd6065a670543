//! Request bodies: encodings, limits that hold while inflating, and every way to be malformed.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use sync_server::RouterOptions;
use sync_server::limits::Limits;

use crate::http::{World, chunk, parse, raw, user};

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    e.write_all(data).unwrap();
    e.finish().unwrap()
}

/// Makes the wire form of a body.
type Encode = fn(&[u8]) -> Vec<u8>;

fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).unwrap()
}

#[test]
fn chunks_travel_in_every_encoding() {
    let world = World::new();
    let client = world.ready("ada", "phone");
    let encodings: [(&str, Encode); 6] = [
        ("", <[u8]>::to_vec),
        ("identity", <[u8]>::to_vec),
        ("gzip", gzip),
        ("x-gzip", gzip),
        ("GZIP", gzip),
        ("zstd", zstd),
    ];
    let push_id = client.create(1, encodings.len());
    for (i, (encoding, encode)) in encodings.into_iter().enumerate() {
        let body = encode(chunk(i, &[user(&format!("u{i}"), encoding)]).as_bytes());
        let sender = client.header("content-encoding", encoding).header("content-type", "text/nonsense");
        let reply = sender.send("POST", &format!("/sync/push-sessions/{push_id}/chunks"), &body);
        assert_eq!(reply.json()["next_expected_row_ordinal"], i + 1, "{encoding}: {reply:?}");
    }
    assert_eq!(client.commit(&push_id).json()["row_count"], 6);
    let reply = client.header("content-encoding", "gzip").send("POST", "/sync/connect", &gzip(b"{}"));
    assert_eq!(reply.json()["resolution"], "remote_authoritative");
}

#[test]
fn other_encodings_are_refused() {
    let world = World::new();
    let client = world.ready("ada", "phone");
    let push_id = client.create(1, 1);
    for path in [
        "/sync/connect",
        "/sync/push-sessions",
        &format!("/sync/push-sessions/{push_id}/chunks"),
        "/sync/snapshot-sessions",
    ] {
        for encoding in ["br", "deflate", "gzip, gzip", "zstd,gzip", "compress", "nonsense"] {
            let reply = client.header("content-encoding", encoding).post(path, "{}");
            assert_eq!(reply.error(), "unsupported_encoding", "{path} {encoding}");
        }
    }
    assert_eq!(client.upload(&push_id, 0, &[user("u", "n")]).status, 200);
}

#[test]
fn a_body_over_the_limit_is_refused_and_stores_nothing() {
    let limit = 200_000;
    let world = World::with(Limits { max_bytes_per_request: limit, ..Limits::default() });
    let client = world.ready("ada", "phone");
    assert_eq!(client.get("/sync/capabilities").json()["bundle_limits"]["max_bytes_per_request"], limit);
    let push_id = client.create(1, 3000);
    let path = format!("/sync/push-sessions/{push_id}/chunks");
    let rows: Vec<_> = (0..3000).map(|i| user(&format!("u{i}"), "n")).collect();
    let body = chunk(0, &rows);
    assert!(body.len() as u64 > limit && (gzip(body.as_bytes()).len() as u64) < limit);
    for (encoding, wire) in
        [("", body.clone().into_bytes()), ("gzip", gzip(body.as_bytes())), ("zstd", zstd(body.as_bytes()))]
    {
        let reply = client.header("content-encoding", encoding).send("POST", &path, &wire);
        assert_eq!(reply.error(), "payload_too_large", "{encoding}");
        assert_eq!(reply.json()["limit_bytes"], limit, "{encoding}");
    }
    // Without an announced length, the limit counts what comes.
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada\r\nOversync-Source-ID: phone\r\n\
         Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for piece in body.as_bytes().chunks(30_000) {
        write!(request, "{:x}\r\n", piece.len()).unwrap();
        request.extend_from_slice(piece);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(raw(world.addr, &request).error(), "payload_too_large");
    // Trailing blanks count, too.
    let padded = format!("{}{}", chunk(0, &rows[..1]), " ".repeat(200_000));
    assert_eq!(client.post(&path, &padded).error(), "payload_too_large");
    // The session stands where it stood.
    let reply = client.upload(&push_id, 0, &rows[..1000]);
    assert_eq!(reply.json()["next_expected_row_ordinal"], 1000, "{reply:?}");
}

#[test]
fn small_requests_have_a_small_limit() {
    let world = World::new();
    let client = world.ready("ada", "phone");
    let huge = format!("{{\"x\":\"{}\"}}", "y".repeat(1 << 20));
    for path in ["/sync/connect", "/sync/push-sessions", "/sync/snapshot-sessions"] {
        for (encoding, wire) in
            [("", huge.clone().into_bytes()), ("gzip", gzip(huge.as_bytes())), ("zstd", zstd(huge.as_bytes()))]
        {
            let reply = client.header("content-encoding", encoding).send("POST", path, &wire);
            assert_eq!(reply.error(), "payload_too_large", "{path} {encoding}");
            assert_eq!(reply.json()["limit_bytes"], 1 << 20);
        }
    }
}

#[test]
fn bombs_cost_neither_memory_nor_seconds() {
    let world = World::with(Limits { max_bytes_per_request: 1 << 20, ..Limits::default() });
    let client = world.ready("ada", "phone");
    let push_id = client.create(1, 1);
    let mut bomb = br#"{"start_row_ordinal":0,"rows":["#.to_vec();
    bomb.resize(200 << 20, b' ');
    let begun = std::time::Instant::now();
    for (encoding, wire) in [("gzip", gzip(&bomb)), ("zstd", zstd(&bomb))] {
        assert!(wire.len() < 2 << 20, "{}", wire.len());
        for path in ["/sync/connect", &format!("/sync/push-sessions/{push_id}/chunks")] {
            let asked = std::time::Instant::now();
            let reply = client.header("content-encoding", encoding).send("POST", path, &wire);
            assert_eq!(reply.error(), "payload_too_large", "{encoding} {path}");
            assert!(asked.elapsed() < Duration::from_secs(5), "{encoding} {path}");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn malformed_json_is_refused_with_the_endpoints_code() {
    let world = World::new();
    let client = world.ready("ada", "phone");
    let push_id = client.create(1, 1);
    let chunks = format!("/sync/push-sessions/{push_id}/chunks");
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(65), "]".repeat(65));
    for (path, code, own) in [
        (
            "/sync/connect",
            "connect_invalid",
            &[r#"{"has_local_pending_rows":"yes"}"#, r#"{"has_local_pending_rows":1}"#][..],
        ),
        (
            "/sync/push-sessions",
            "push_session_invalid",
            &[
                r#"{"source_bundle_id":"1","planned_row_count":1}"#,
                r#"{"source_bundle_id":1.0,"planned_row_count":1}"#,
                r#"{"source_bundle_id":1e2,"planned_row_count":1}"#,
                r#"{"source_bundle_id":9223372036854775808,"planned_row_count":1}"#,
                r#"{"source_bundle_id":0,"planned_row_count":1}"#,
                r#"{"source_bundle_id":2,"planned_row_count":0}"#,
                r#"{"source_bundle_id":2}"#,
                "null",
            ],
        ),
        (
            &chunks,
            "push_chunk_invalid",
            &[
                r#"{"start_row_ordinal":0,"rows":{}}"#,
                r#"{"start_row_ordinal":0,"rows":[1]}"#,
                r#"{"start_row_ordinal":0,"rows":[]}"#,
                r#"{"start_row_ordinal":-1,"rows":[]}"#,
                r#"{"start_row_ordinal":"0","rows":[]}"#,
                r#"{"start_row_ordinal":0}"#,
            ],
        ),
        (
            "/sync/snapshot-sessions",
            "snapshot_session_invalid",
            &[r#"{"unknown":1}"#, r#"{"source_replacement":{"unknown":1}}"#, r#"{"source_replacement":7}"#],
        ),
    ] {
        let common = [
            "{",
            "[]",
            "7",
            "\"x\"",
            "{} {}",
            "{}x",
            "{\"a\":1,}",
            "{\"a\":1,\"a\":2}",
            "{\"a\":{\"b\":1,\"b\":1}}",
            "{'a':1}",
            "\u{feff}{}",
            "nul",
            "{\"a\":\"\\ud800\"}",
            deep.as_str(),
        ];
        for body in common.iter().chain(own) {
            let reply = client.post(path, body);
            assert_eq!(reply.error(), code, "{path} {body}");
        }
        assert_eq!(client.send("POST", path, b"{\"a\":\"\xff\"}").error(), code, "{path}, not UTF-8");
        if path != "/sync/snapshot-sessions" {
            assert_eq!(client.post(path, "").error(), code, "{path}, empty");
            assert_eq!(client.post(path, " \n").error(), code, "{path}, blank");
        }
        for encoding in ["gzip", "zstd"] {
            let reply = client.header("content-encoding", encoding).post(path, "{\"a\":1}");
            assert_eq!(reply.error(), code, "{path} is not {encoding}");
        }
    }
    for body in ["", " ", "null", "{}", r#"{"source_replacement":null}"#] {
        assert_eq!(client.post("/sync/snapshot-sessions", body).status, 200, "{body:?}");
    }
    for body in ["null", "{}", r#"{"has_local_pending_rows":null,"unknown":{"x":[1]}}"#] {
        assert_eq!(client.post("/sync/connect", body).status, 200, "{body:?}");
    }
    assert_eq!(client.upload(&push_id, 0, &[user("u", "n")]).status, 200);
}

#[test]
fn queries_are_checked() {
    let world = World::new();
    let client = world.ready("ada", "phone");
    client.push(1, &[user("u", "n")]);
    let session = client.post("/sync/snapshot-sessions", "").json();
    let snapshot = format!("/sync/snapshot-sessions/{}", session["snapshot_id"].as_str().unwrap());
    let integers = ["x", "1.0", "1e2", "%201", "1%20", "0x1", "9223372036854775808", "--1", "%ff", "%2"];
    for (path, names, code) in [
        (
            "/sync/pull",
            &["after_bundle_seq", "max_bundles", "target_bundle_seq", "max_inline_rows"][..],
            "pull_invalid",
        ),
        ("/sync/committed-bundles/1/rows", &["after_row_ordinal", "max_rows"], "committed_bundle_chunk_invalid"),
        (snapshot.as_str(), &["after_row_ordinal", "max_rows"], "snapshot_chunk_invalid"),
        ("/sync/watch", &["after_bundle_seq"], "invalid_request"),
    ] {
        for name in names {
            for value in integers.iter().chain(&["-1"]) {
                assert_eq!(client.get(&format!("{path}?{name}={value}")).error(), code, "{path} {name}={value}");
            }
            if path != "/sync/watch" {
                assert_eq!(client.get(&format!("{path}?{name}=&unknown=x")).status, 200, "{path} {name} empty");
            }
        }
        for name in names.iter().filter(|n| matches!(**n, "max_bundles" | "max_rows")) {
            assert_eq!(client.get(&format!("{path}?{name}=0")).error(), code, "{path} {name}=0");
            assert_eq!(client.get(&format!("{path}?{name}=%2B1&{name}=x")).status, 200, "the first counts");
            assert_eq!(client.get(&format!("{path}?{name}=9223372036854775807")).status, 200, "capped");
        }
    }
    for hash in ["x", &"A".repeat(64), &"a".repeat(63)] {
        assert_eq!(client.get(&format!("/sync/pull?after_history_hash={hash}")).error(), "pull_invalid");
    }
    for seq in ["x", "0", "-1", "1.0", "9223372036854775808", "%31x"] {
        let reply = client.get(&format!("/sync/committed-bundles/{seq}/rows"));
        assert_eq!(reply.error(), "committed_bundle_chunk_invalid", "{seq}");
    }
}

#[test]
fn malformed_ids_are_not_found() {
    let world = World::new();
    let client = world.ready("ada", "phone");
    for id in ["x", "%ff", "00000000-0000-4000-8000-00000000000g", "..%2f", "00000000000040008000000000000001", "%00"] {
        let push = format!("/sync/push-sessions/{id}");
        assert_eq!(client.upload(id, 0, &[user("u", "n")]).error(), "push_session_not_found", "{id}");
        assert_eq!(client.commit(id).error(), "push_session_not_found", "{id}");
        assert_eq!(client.delete(&push).error(), "push_session_not_found", "{id}");
        let snapshot = format!("/sync/snapshot-sessions/{id}");
        assert_eq!(client.get(&snapshot).error(), "snapshot_session_not_found", "{id}");
        assert_eq!(client.delete(&snapshot).error(), "snapshot_session_not_found", "{id}");
    }
}

#[test]
fn a_large_chunk_is_streamed() {
    let world = World::new();
    let client = world.ready("ada", "phone");
    let name = "x".repeat(1000);
    let rows: Vec<_> = (0..5000).map(|i| user(&format!("u{i}"), &name)).collect();
    let push_id = client.create(1, rows.len());
    let body = zstd(chunk(0, &rows).as_bytes());
    let path = format!("/sync/push-sessions/{push_id}/chunks");
    assert_eq!(client.header("content-encoding", "zstd").send("POST", &path, &body).status, 200);
    assert_eq!(client.commit(&push_id).json()["row_count"], 5000);
    let page = client.get("/sync/pull").json();
    assert_eq!(page["bundles"][0]["rows"].as_array().unwrap().len(), 5000);
    assert_eq!(page["bundles"][0]["rows"][4999]["payload"]["name"], name.as_str());
}

#[test]
fn a_body_that_stands_still_or_breaks_off_stores_nothing() {
    let options = RouterOptions { idle_body: Duration::from_secs(1), ..RouterOptions::default() };
    let world = World::with_options(Limits::default(), options);
    let client = world.ready("ada", "phone");
    let push_id = client.create(1, 2);
    let body = chunk(0, &[user("u1", "n"), user("u2", "n")]);
    let head = format!(
        "POST /sync/push-sessions/{push_id}/chunks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada\r\n\
         Oversync-Source-ID: phone\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let half = &body.as_bytes()[..body.len() / 2];

    let mut stream = TcpStream::connect(world.addr).unwrap();
    stream.write_all(&[head.as_bytes(), half].concat()).unwrap();
    let mut reply = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut reply).unwrap();
    assert_eq!(parse(&reply).error(), "invalid_request");

    let mut stream = TcpStream::connect(world.addr).unwrap();
    stream.write_all(&[head.as_bytes(), half].concat()).unwrap();
    drop(stream);

    assert_eq!(client.upload(&push_id, 0, &[user("u1", "n"), user("u2", "n")]).status, 200);
    assert_eq!(client.commit(&push_id).status, 200);
}

#[test]
fn a_refusal_is_read_although_the_body_is_large() {
    let world = World::new();
    let client = world.ready("ada", "phone");
    let body = "x".repeat(3 << 20);
    let nobody = client.header("authorization", "");
    for _ in 0..5 {
        assert_eq!(nobody.post("/sync/connect", &body).error(), "authentication_failed");
        assert_eq!(client.post("/sync/nothing", &body).error(), "not_found");
        assert_eq!(client.post("/sync/pull", &body).error(), "method_not_allowed");
    }
}
