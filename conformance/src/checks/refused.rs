//! Chunks that must be refused: each leaves its session usable and nothing behind.

mod keys;

use crate::check::Check;
use crate::json::Json;
use crate::lab::{Checked, Lab, want};
use crate::profile::{Kind, Table};
use crate::rows::Change;

const INVALID: &[&str] = &["push_chunk_invalid"];

pub(super) fn checks() -> Vec<Check> {
    let mut all = shape();
    all.extend(names());
    all.extend(keys::keys());
    all.extend(payloads());
    all
}

fn shape() -> Vec<Check> {
    vec![
        Check::must(
            "push.refused.no_rows",
            "a chunk without rows is refused",
            &["seed.chunk.push_chunk_invalid"],
            |lab| body(lab, r#"{"start_row_ordinal":0,"rows":[]}"#, INVALID),
        ),
        Check::must(
            "push.refused.missing_rows",
            "a chunk whose rows are missing is refused",
            &["seed.chunk.push_chunk_invalid"],
            |lab| body(lab, r#"{"start_row_ordinal":0}"#, INVALID),
        ),
        Check::must(
            "push.refused.negative_start",
            "a negative start is refused",
            &["seed.chunk.push_chunk_invalid"],
            |lab| {
                let row = lab.plain()?.insert(1, "a").json();
                body(lab, &format!("{{\"start_row_ordinal\":-1,\"rows\":[{row}]}}"), INVALID)
            },
        ),
        Check::must(
            "push.refused.malformed",
            "malformed JSON is refused",
            &["seed.chunk.push_chunk_invalid", "spec.3.malformed"],
            |lab| body(lab, "{\"start_row_ordinal\":0,\"rows\":[", UNREADABLE),
        ),
        Check::must(
            "push.refused.empty_body",
            "an empty body is refused",
            &["seed.chunk.push_chunk_invalid", "spec.3.malformed"],
            |lab| body(lab, "", UNREADABLE),
        ),
        Check::must(
            "push.refused.rows_object",
            "rows that are no array are refused",
            &["seed.chunk.push_chunk_invalid", "spec.3.malformed"],
            |lab| body(lab, r#"{"start_row_ordinal":0,"rows":{}}"#, UNREADABLE),
        ),
        Check::must(
            "push.refused.row_text",
            "a row that is no object is refused",
            &["seed.chunk.push_chunk_invalid", "spec.3.malformed"],
            |lab| body(lab, r#"{"start_row_ordinal":0,"rows":["row"]}"#, UNREADABLE),
        ),
        Check::must(
            "push.refused.start_text",
            "a start that is no integer is refused",
            &["seed.chunk.push_chunk_invalid", "spec.3.malformed"],
            |lab| {
                let row = lab.plain()?.insert(1, "a").json();
                body(lab, &format!("{{\"start_row_ordinal\":\"0\",\"rows\":[{row}]}}"), UNREADABLE)
            },
        ),
        Check::must(
            "push.refused.base_text",
            "a base version that is no integer is refused",
            &["seed.chunk.push_chunk_invalid", "spec.3.malformed"],
            |lab| {
                let row =
                    lab.plain()?.insert(1, "a").json().replace("\"base_row_version\":0", "\"base_row_version\":\"0\"");
                body(lab, &format!("{{\"start_row_ordinal\":0,\"rows\":[{row}]}}"), UNREADABLE)
            },
        ),
        Check::should(
            "push.refused.trailing",
            "a second document after the chunk is refused",
            &["spec.3.strict_json"],
            "a garbled upload is half stored",
            |lab| {
                let row = lab.plain()?.insert(1, "a").json();
                body(lab, &format!("{{\"start_row_ordinal\":0,\"rows\":[{row}]}} x"), UNREADABLE)
            },
        ),
        Check::should(
            "push.refused.duplicate_member",
            "duplicate members of a payload are refused",
            &["spec.3.strict_json"],
            "which of two values is stored is anybody's guess",
            |lab| {
                let t = lab.plain()?;
                let row = t.insert(1, "a").json();
                let label = t.label().map_or("", |c| c.name.as_str());
                let row = row.replacen("\"payload\":{", &format!("\"payload\":{{\"{label}\":\"b\","), 1);
                body(lab, &format!("{{\"start_row_ordinal\":0,\"rows\":[{row}]}}"), UNREADABLE)
            },
        ),
        Check::must(
            "push.refused.one_of_many",
            "one bad row refuses its whole chunk",
            &["seed.chunk.push_chunk_invalid", "ref.3.3.unchanged"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.create(1, 3)?;
                let bad = Change { table: "no_such_table".to_owned(), ..t.insert(2, "b") };
                d.upload(&push, 0, &[t.insert(1, "a"), bad, t.insert(3, "c")])?.refused(400, INVALID)?;
                d.chunk(&push, 0, &[t.insert(4, "d"), t.insert(5, "e"), t.insert(6, "f")])?;
                let rows = d.rows(&d.commit(&push)?)?;
                let expected = "nothing of a refused chunk is staged";
                want!(
                    rows.len() == 3 && rows.iter().all(|r| (4..=6).any(|n| r.key.same(&t.row_key(n)))),
                    expected,
                    "{}",
                    crate::calls::shown_rows(&rows)
                );
                Ok(())
            },
        ),
        Check::may(
            "push.refused.rejections",
            "push_chunk_invalid lists all bad rows",
            &["spec.7.chunk_rejections"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.create(1, 3)?;
                let bad = |n| Change { table: "no_such_table".to_owned(), ..t.insert(n, "b") };
                let json = d.upload(&push, 0, &[bad(1), t.insert(2, "a"), bad(3)])?.refused(400, INVALID)?;
                let Some(list) = json.get("rejections").and_then(Json::items) else {
                    return crate::lab::not_offered("push_chunk_invalid has no rejections");
                };
                let ordinals: Vec<_> =
                    list.iter().filter_map(|r| r.get("row_ordinal").and_then(Json::integer)).collect();
                want!(ordinals == [0, 2], "rejections name the rows 0 and 2", "{json}");
                let whole = list.iter().all(|r| {
                    ["schema", "table", "kind", "message"].iter().all(|m| r.get(m).and_then(Json::text).is_some())
                        && r.get("key").is_some()
                });
                want!(whole, "a rejection names its row, the kind and a message", "{json}");
                Ok(())
            },
        ),
    ]
}

fn names() -> Vec<Check> {
    vec![
        Check::must(
            "push.refused.table",
            "an unknown table is refused",
            &["ref.3.4.name", "seed.chunk.push_chunk_invalid"],
            |lab| row(lab, |t| Change { table: "no_such_table".to_owned(), ..t.insert(1, "a") }.json()),
        ),
        Check::must(
            "push.refused.schema",
            "an unknown schema is refused",
            &["ref.3.4.name", "seed.chunk.push_chunk_invalid"],
            |lab| row(lab, |t| Change { schema: "no_such_schema".to_owned(), ..t.insert(1, "a") }.json()),
        ),
        Check::must("push.refused.table_injection", "a table name that is SQL is refused", &["ref.3.4.name"], |lab| {
            row(lab, |t| Change { table: format!("{}; DROP TABLE {}", t.name, t.name), ..t.insert(1, "a") }.json())
        }),
        Check::must("push.refused.table_quoted", "a table name with a quote is refused", &["ref.3.4.name"], |lab| {
            row(lab, |t| Change { table: format!("{}\"", t.name), ..t.insert(1, "a") }.json())
        }),
        Check::must("push.refused.table_missing", "a row without a table is refused", &["ref.3.4.name"], |lab| {
            row(lab, |t| t.insert(1, "a").json().replacen(&format!("\"table\":\"{}\",", t.name), "", 1))
        }),
        Check::must(
            "push.refused.internal_table",
            "a table that is not synced is refused",
            &["ref.3.4.name", "spec.1.isolation"],
            |lab| row(lab, |t| Change { table: "sqlite_master".to_owned(), ..t.insert(1, "a") }.json()),
        ),
        Check::must("push.refused.op", "an unknown op is refused", &["ref.3.4.op"], |lab| {
            row(lab, |t| Change { op: "UPSERT", ..t.insert(1, "a") }.json())
        }),
        Check::must("push.refused.op_empty", "an empty op is refused", &["ref.3.4.op"], |lab| {
            row(lab, |t| Change { op: "", ..t.insert(1, "a") }.json())
        }),
        Check::must("push.refused.op_missing", "a row without an op is refused", &["ref.3.4.op"], |lab| {
            row(lab, |t| t.insert(1, "a").json().replacen("\"op\":\"INSERT\",", "", 1))
        }),
    ]
}

fn payloads() -> Vec<Check> {
    vec![
        Check::must("push.refused.insert_bare", "INSERT without a payload is refused", &["ref.3.4.payload"], |lab| {
            row(lab, |t| t.insert(1, "a").bare().json())
        }),
        Check::must("push.refused.update_bare", "UPDATE without a payload is refused", &["ref.3.4.payload"], |lab| {
            row(lab, |t| t.update(1, 1, "a").bare().json())
        }),
        Check::must(
            "push.refused.payload_null",
            "INSERT with a null payload is refused",
            &["ref.3.4.payload"],
            |lab| row(lab, |t| Change { payload: Some(Json::Null), ..t.insert(1, "a") }.json()),
        ),
        Check::must(
            "push.refused.payload_array",
            "a payload that is an array is refused",
            &["ref.3.4.payload"],
            |lab| row(lab, |t| Change { payload: Some(Json::Array(Vec::new())), ..t.insert(1, "a") }.json()),
        ),
        Check::must("push.refused.payload_text", "a payload that is text is refused", &["ref.3.4.payload"], |lab| {
            row(lab, |t| Change { payload: Some(Json::from("{}")), ..t.insert(1, "a") }.json())
        }),
        Check::must(
            "push.refused.delete_payload",
            "DELETE with a payload is refused",
            &["ref.3.4.payload", "spec.4.delete"],
            |lab| row(lab, |t| Change { payload: Some(t.full(1, "a")), ..t.remove(1, 1) }.json()),
        ),
        Check::must(
            "push.refused.hidden",
            "the hidden ownership column is refused",
            &["spec.4.hidden", "seed.hidden"],
            |lab| row(lab, |t| t.insert(1, "a").with("_sync_scope_id", "somebody").json()),
        ),
        Check::should(
            "push.refused.hidden_other",
            "any member that begins with _sync_ is refused",
            &["spec.4.hidden"],
            "a client can set what is not its own",
            |lab| row(lab, |t| t.insert(1, "a").with("_sync_version", 7).json()),
        ),
        Check::must(
            "push.refused.key_mismatch",
            "a payload with another key is refused",
            &["spec.4.key_match"],
            |lab| {
                row(lab, |t| {
                    t.insert(1, "a").with(&t.key[0], t.row_key(2).get(&t.key[0]).cloned().unwrap_or(Json::Null)).json()
                })
            },
        ),
        Check::must(
            "push.refused.key_mismatch_null",
            "a payload whose key is null is refused",
            &["spec.4.key_match"],
            |lab| row(lab, |t| t.insert(1, "a").with(&t.key[0], Json::Null).json()),
        ),
        Check::must(
            "push.refused.base64",
            "bytes that are no base64 are refused",
            &["ref.3.4.base64", "spec.4.blob"],
            |lab| blob(lab, &Json::from("not base64!")),
        ),
        Check::must(
            "push.refused.base64_padding",
            "base64 without its padding is refused",
            &["ref.3.4.base64", "spec.4.blob"],
            |lab| blob(lab, &Json::from("AAE")),
        ),
        Check::must(
            "push.refused.base64_url",
            "base64 of the URL alphabet is refused",
            &["ref.3.4.base64", "spec.4.blob"],
            |lab| blob(lab, &Json::from("_-__")),
        ),
        Check::must(
            "push.refused.blob_number",
            "a number as bytes is refused, or kept as it is",
            &["ref.3.4.base64", "spec.4.blob"],
            |lab| {
                let (t, c) = lab.column("a column of bytes", |_, c| c.kind == Kind::Blob)?;
                let d = lab.ready()?;
                let push = d.create(1, 1)?;
                let reply = d.upload(&push, 0, &[t.insert(1, "a").with(&c.name, 7)])?;
                if reply.status != 200 {
                    return reply.refused(400, INVALID).map(drop);
                }
                let rows = d.rows(&d.commit(&push)?)?;
                let kept = rows[0].payload.as_ref().and_then(|p| p.get(&c.name)).and_then(Json::integer) == Some(7);
                want!(kept, "a value that was taken comes back", "{}", rows[0].shown());
                Ok(())
            },
        ),
    ]
}

fn blob(lab: &Lab<'_>, value: &Json) -> Checked {
    let (t, c) = lab.column("a column of bytes", |_, c| c.kind == Kind::Blob)?;
    refused(lab, &t.insert(1, "a").with(&c.name, value.clone()).json(), INVALID)
}

fn row(lab: &Lab<'_>, make: impl Fn(&Table) -> String) -> Checked {
    refused(lab, &make(lab.plain()?), INVALID)
}

fn refused(lab: &Lab<'_>, row: &str, codes: &[&str]) -> Checked {
    body(lab, &format!("{{\"start_row_ordinal\":0,\"rows\":[{row}]}}"), codes)
}

/// A chunk that is refused, and then a good one in the same session.
fn body(lab: &Lab<'_>, body: &str, codes: &[&str]) -> Checked {
    let (d, t) = (lab.ready()?, lab.plain()?);
    let push = d.create(1, 1)?;
    d.post(&format!("/sync/push-sessions/{push}/chunks"), body)?.refused(400, codes)?;
    d.chunk(&push, 0, &[t.insert(9, "good")])?;
    let rows = d.rows(&d.commit(&push)?)?;
    let expected = "a refused chunk leaves its session usable and nothing behind";
    want!(rows.len() == 1 && rows[0].key.same(&t.row_key(9)), expected, "{}", crate::calls::shown_rows(&rows));
    Ok(())
}

const UNREADABLE: &[&str] = &["push_chunk_invalid", "invalid_request"];
