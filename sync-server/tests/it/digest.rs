//! `GET /sync/digest` over HTTP.

use sync_core::hash::RangeHasher;
use sync_core::protocol::digest::DigestRequest;
use sync_server::limits::Limits;

use crate::http::{World, user};

#[test]
fn asked_and_refused() {
    let world = World::with(Limits { max_digest_rows_per_minute: 100, ..Limits::default() });
    let phone = world.ready("ada", "phone");
    phone.push(1, &[user("u1", "Ada"), user("u2", "Bob")]);
    let session = phone.post("/sync/snapshot-sessions", "").json();
    assert_eq!(session["tables"], serde_json::json!([{"table": "users", "row_count": 2}]));
    let id = session["snapshot_id"].as_str().unwrap();
    let request = DigestRequest {
        snapshot_id: id.into(),
        table: "users".into(),
        columns: vec!["name".into()],
        after_row_ordinal: 0,
        until_row_ordinal: 2,
        max_ranges: Some(1),
    };
    let path = format!("/sync/digest?{}", request.query());
    for bad in [
        "/sync/digest".to_owned(),
        path.replace("table=users&", ""),
        path.replace("columns=%5b", "columns="),
        path.replace("until_row_ordinal=2", "until_row_ordinal=x"),
        path.replace("after_row_ordinal=0", "after_row_ordinal=-1"),
        path.replace("max_ranges=1", "max_ranges=0"),
        path.replace("users", "nothing"),
    ] {
        assert_eq!(phone.get(&bad).error(), "digest_invalid", "{bad}");
    }
    assert_eq!(phone.get(&path.replace(id, "1")).error(), "snapshot_session_not_found");
    let reply = phone.get(&path).json();
    let mut h = RangeHasher::default();
    h.row(r#"{"id":"u1"}"#, r#"{"name":"Ada"}"#);
    h.row(r#"{"id":"u2"}"#, r#"{"name":"Bob"}"#);
    assert_eq!(reply["ranges"][0]["digest"], h.finish().hex());
    assert_eq!(reply["ranges"][0]["last_key"], serde_json::json!({"id": "u2"}));
    let refused = phone.get(&path);
    assert_eq!(refused.error(), "rate_limited");
    assert_eq!(refused.header("retry-after"), Some("1"));
    world.environment.pass(1000);
    assert_eq!(phone.get(&path).status, 200);
}
