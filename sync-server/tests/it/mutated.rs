//! Whatever is sent, the answer is one of the table, the server stands, and nothing is stored.

use std::io::Write;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use sync_server::limits::Limits;

use crate::http::{Client, World, chunk, raw, row, user};

/// A request that is well-formed HTTP, whatever else it is.
#[derive(Debug, Clone)]
struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Request {
    fn wire(&self) -> Vec<u8> {
        let mark = if self.query.is_empty() { "" } else { "?" };
        let mut wire =
            format!("{} {}{mark}{} HTTP/1.1\r\nHost: x\r\n", self.method, self.path, self.query).into_bytes();
        for (name, value) in &self.headers {
            write!(wire, "{name}: ").unwrap();
            wire.extend_from_slice(value);
            wire.extend_from_slice(b"\r\n");
        }
        write!(wire, "Connection: close\r\nContent-Length: {}\r\n\r\n", self.body.len()).unwrap();
        wire.extend_from_slice(&self.body);
        wire
    }
}

#[derive(Debug, Clone)]
enum Mutation {
    FlipByte(Index, u8),
    Truncate(Index),
    Insert(Index, Vec<u8>),
    Repeat(Index, Index),
    ReplaceInBody(&'static str, &'static str),
    Body(&'static str),
    Compress(bool, Option<Index>),
    Header(&'static str, Vec<u8>),
    NoHeader(&'static str),
    Query(&'static str, String),
    Segment(Index, String),
    Method(&'static str),
}

impl Mutation {
    fn apply(self, r: &mut Request) {
        match self {
            Self::FlipByte(at, by) if !r.body.is_empty() => {
                let at = at.index(r.body.len());
                r.body[at] ^= by;
            }
            Self::Truncate(at) if !r.body.is_empty() => r.body.truncate(at.index(r.body.len())),
            Self::Insert(at, bytes) => {
                let at = at.index(r.body.len() + 1);
                r.body.splice(at..at, bytes);
            }
            Self::Repeat(a, b) if !r.body.is_empty() => {
                let (a, b) = (a.index(r.body.len()), b.index(r.body.len()));
                let piece = r.body[a.min(b)..a.max(b)].to_vec();
                r.body.splice(a..a, piece);
            }
            Self::ReplaceInBody(from, to) => {
                let text = String::from_utf8_lossy(&r.body).replacen(from, to, 1);
                r.body = text.into_bytes();
            }
            Self::Body(text) => r.body = text.into(),
            Self::Compress(gzip, cut) => {
                let (name, mut wire) = if gzip {
                    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                    e.write_all(&r.body).unwrap();
                    ("gzip", e.finish().unwrap())
                } else {
                    ("zstd", zstd::encode_all(&r.body[..], 1).unwrap())
                };
                if let Some(cut) = cut {
                    wire.truncate(cut.index(wire.len()));
                }
                r.body = wire;
                Self::Header("Content-Encoding", name.into()).apply(r);
            }
            Self::Header(name, value) => {
                r.headers.retain(|(n, _)| n != name);
                r.headers.push((name.to_owned(), value));
            }
            Self::NoHeader(name) => r.headers.retain(|(n, _)| n != name),
            Self::Query(name, value) => {
                let mark = if r.query.is_empty() { "" } else { "&" };
                r.query = format!("{name}={value}{mark}{}", r.query);
            }
            Self::Segment(at, text) => {
                let mut segments: Vec<_> = r.path.split('/').map(str::to_owned).collect();
                let at = at.index(segments.len() - 1) + 1;
                segments[at] = text;
                r.path = segments.join("/");
            }
            Self::Method(m) => r.method = m.to_owned(),
            _ => {}
        }
    }
}

const HEADERS: &[&str] = &[
    "Authorization",
    "Oversync-Source-ID",
    "Content-Encoding",
    "Accept-Encoding",
    "Oversync-Bundle-Hash",
    "Content-Type",
];
const QUERIES: &[&str] = &[
    "after_bundle_seq",
    "max_bundles",
    "target_bundle_seq",
    "after_row_ordinal",
    "max_rows",
    "max_inline_rows",
    "after_history_hash",
    "snapshot_id",
    "table",
    "columns",
    "until_row_ordinal",
    "max_ranges",
];
const TOKENS: &[(&str, &str)] = &[
    ("1", "-1"),
    ("0", "9223372036854775807"),
    ("1", "1e999"),
    ("1", "\"1\""),
    ("0", "-9223372036854775808"),
    ("1", "null"),
    ("\"id\"", "\"_sync_scope_id\""),
    ("\"id\"", "\"ID\""),
    ("users", "sqlite_master"),
    ("users", "_sync_rows"),
    ("users", "posts"),
    ("main", "temp"),
    ("INSERT", "DELETE"),
    ("INSERT", "UPDATE"),
    ("INSERT", "DROP TABLE"),
    ("{", "[{"),
    ("}", "},"),
    ("payload", "key"),
    ("\"n\"", "{\"$blob\":\"AA==\"}"),
    ("\"n\"", "{\"$blob\":7}"),
    ("\"n\"", "\"\\u0000\""),
    ("\"n\"", "[[[[]]]]"),
    ("1.5", "\"Infinity\""),
    ("rows", "row"),
    ("phone", "\u{1F4F1}"),
    ("history_pruned", "boredom"),
];
const BODIES: &[&str] = &[
    "",
    "null",
    "[]",
    "{}",
    "{\"rows\":null}",
    "{\"a\":1,\"a\":1}",
    "0",
    "\"\"",
    "{\"start_row_ordinal\":0,\"rows\":[{\"key\":{}}]}",
];

fn escaped() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9.~-]{0,12}",
        "-?[0-9]{1,22}",
        proptest::collection::vec(any::<u8>(), 0..8).prop_map(|b| b.iter().map(|b| format!("%{b:02x}")).collect()),
        Just("00000000-0000-4000-8000-00000000ffff".to_owned()),
        Just("%".to_owned()),
    ]
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let value = proptest::collection::vec(prop_oneof![0x20u8..0x7f, 0x80u8..=0xff], 0..200);
    let token = prop_oneof![
        value,
        select(
            &["Bearer ada", "Bearer", "Basic ada", "phone", "gzip", "zstd", "br", "blake3", "*;q=0.5", "gzip;q=x"][..]
        )
        .prop_map(|s| s.as_bytes().to_vec())
    ];
    prop_oneof![
        (any::<Index>(), 1u8..).prop_map(|(i, b)| Mutation::FlipByte(i, b)),
        any::<Index>().prop_map(Mutation::Truncate),
        (any::<Index>(), proptest::collection::vec(any::<u8>(), 1..20)).prop_map(|(i, b)| Mutation::Insert(i, b)),
        any::<(Index, Index)>().prop_map(|(a, b)| Mutation::Repeat(a, b)),
        select(TOKENS).prop_map(|(a, b)| Mutation::ReplaceInBody(a, b)),
        select(BODIES).prop_map(Mutation::Body),
        any::<(bool, Option<Index>)>().prop_map(|(g, c)| Mutation::Compress(g, c)),
        (select(HEADERS), token).prop_map(|(n, v)| Mutation::Header(n, v)),
        select(HEADERS).prop_map(Mutation::NoHeader),
        (select(QUERIES), escaped()).prop_map(|(n, v)| Mutation::Query(n, v)),
        (any::<Index>(), escaped()).prop_map(|(i, s)| Mutation::Segment(i, s)),
        select(&["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEADS"][..]).prop_map(Mutation::Method),
    ]
}

/// One valid request per endpoint, none of which can change rows.
fn templates(push_id: &str, snapshot_id: &str) -> Vec<Request> {
    let row_of_post = row("posts", "p1", "INSERT", 0, r#"{"id":"p1","author":"u1","title":"n","stars":1}"#);
    let rows = chunk(0, &[user("u9", "n"), row_of_post]);
    let digest = format!(
        "snapshot_id={snapshot_id}&table=users&columns=%5b%22id%22%5d&after_row_ordinal=0&until_row_ordinal=2&max_ranges=1"
    );
    let endpoints = [
        ("POST", "/sync/connect".to_owned(), "", r#"{"has_local_pending_rows":false}"#.to_owned()),
        ("POST", "/sync/push-sessions".to_owned(), "", r#"{"source_bundle_id":1,"planned_row_count":1000}"#.to_owned()),
        ("POST", format!("/sync/push-sessions/{push_id}/chunks"), "", rows),
        ("POST", format!("/sync/push-sessions/{push_id}/commit"), "", String::new()),
        ("DELETE", "/sync/push-sessions/00000000-0000-4000-8000-00000000ffff".to_owned(), "", String::new()),
        ("GET", "/sync/committed-bundles/1/rows".to_owned(), "after_row_ordinal=0&max_rows=1", String::new()),
        ("GET", "/sync/pull".to_owned(), "after_bundle_seq=0&max_bundles=1&target_bundle_seq=1", String::new()),
        (
            "POST",
            "/sync/snapshot-sessions".to_owned(),
            "",
            r#"{"source_replacement":{"previous_source_id":"phone","new_source_id":"phone-1","reason":"history_pruned"}}"#
                .to_owned(),
        ),
        ("GET", format!("/sync/snapshot-sessions/{snapshot_id}"), "after_row_ordinal=0&max_rows=1", String::new()),
        ("DELETE", "/sync/snapshot-sessions/00000000-0000-4000-8000-00000000ffff".to_owned(), "", String::new()),
        ("GET", "/sync/digest".to_owned(), digest.as_str(), String::new()),
        ("GET", "/sync/capabilities".to_owned(), "", String::new()),
        ("GET", "/sync/schema".to_owned(), "", String::new()),
        ("GET", "/status".to_owned(), "", String::new()),
        ("GET", "/health".to_owned(), "", String::new()),
        ("GET", "/sync/watch".to_owned(), "after_bundle_seq=0", String::new()),
    ];
    let request = |(method, path, query, body): (&str, String, &str, String)| {
        // Only a scope that nobody initialized can be asked for a watch without waiting for ever.
        let user = if path == "/sync/watch" { "nobody" } else { "ada" };
        let headers = vec![
            ("Authorization".to_owned(), format!("Bearer {user}").into_bytes()),
            ("Oversync-Source-ID".to_owned(), b"phone".to_vec()),
        ];
        Request { method: method.to_owned(), path, query: query.to_owned(), headers, body: body.into_bytes() }
    };
    endpoints.into_iter().map(request).collect()
}

/// Everything that a new device would get.
fn contents(client: &Client) -> (serde_json::Value, serde_json::Value) {
    let session = client.post("/sync/snapshot-sessions", "").json();
    let page = client.get(&format!("/sync/snapshot-sessions/{}", session["snapshot_id"].as_str().unwrap())).json();
    (page["rows"].clone(), client.get("/sync/pull").json())
}

#[test]
fn mutated_requests_are_answered_and_store_nothing() {
    let world = World::with(Limits { max_bytes_per_request: 4096, ..Limits::default() });
    let tablet = world.ready("ada", "tablet");
    tablet.push(1, &[user("u1", "n"), user("u2", "m")]);
    let phone = world.client("ada", "phone");
    let push_id = phone.create(1, 1000);
    let snapshot_id = tablet.post("/sync/snapshot-sessions", "").json()["snapshot_id"].as_str().unwrap().to_owned();
    let before = contents(&tablet);

    let templates = templates(&push_id, &snapshot_id);
    let strategy = (select(templates), proptest::collection::vec(mutation(), 1..4));
    let mut runner = TestRunner::new(Config {
        cases: Config::default().cases.max(600),
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&strategy, |(mut request, mutations)| {
            let watches = request.path == "/sync/watch";
            for m in mutations {
                m.apply(&mut request);
            }
            // A watch by a user who has a scope never ends.
            if request.path.starts_with("/sync/watch") && !watches
                || watches && request.headers.iter().any(|(n, v)| n == "Authorization" && v == b"Bearer ada")
            {
                return Ok(());
            }
            let reply = raw(world.addr, &request.wire());
            match reply.status {
                200 => drop(serde_json::from_slice::<serde_json::Value>(&reply.body).is_ok()),
                204 => prop_assert!(reply.body.is_empty()),
                _ => {
                    reply.error();
                    prop_assert!(reply.status < 500, "{reply:?}");
                }
            }
            Ok(())
        })
        .unwrap();

    assert_eq!(contents(&tablet), before);
    assert_eq!(tablet.get("/status").json()["panics"], 0);
}
