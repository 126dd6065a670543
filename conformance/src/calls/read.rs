//! Readers of replies: every member with its type and its promise.

use super::{Committed, Connected, RESOLUTIONS, Row, Session, shown_rows};
use crate::hashing;
use crate::json::Json;
use crate::lab::{Checked, Lab, Reply, fail, want};

pub(super) fn read_connected(reply: &Reply) -> Checked<Connected> {
    let json = reply.ok()?;
    let resolution = reply.need_text(&json, "resolution")?;
    want!(RESOLUTIONS.contains(&resolution.as_str()), "resolution is one of the four", "{}", reply.came());
    let has = |name: &str| json.get(name).is_some();
    let (local, later) = (resolution == "initialize_local", resolution == "retry_later");
    let id = if local { Some(reply.need_text(&json, "initialization_id")?) } else { None };
    want!(local || !has("initialization_id"), "only initialize_local has an initialization_id", "{}", reply.came());
    want!(id.as_ref().is_none_or(|i| !i.is_empty()), "initialization_id is not empty", "{}", reply.came());
    let lease = if local || later { Some(reply.need_future(&json, "lease_expires_at")?) } else { None };
    want!(local || later || !has("lease_expires_at"), "only a lease has lease_expires_at", "{}", reply.came());
    if has("retry_after_seconds") {
        let seconds = reply.need_integer(&json, "retry_after_seconds")?;
        want!(later && seconds >= 1, "retry_after_seconds is 1 or more, with retry_later", "{}", reply.came());
    }
    if has("scope_id") {
        want!(!reply.need_text(&json, "scope_id")?.is_empty(), "scope_id is not empty", "{}", reply.came());
    }
    Ok(Connected { resolution, id, lease, body: json })
}

pub(super) fn read_staging(reply: &Reply, rows: Option<usize>) -> Checked<String> {
    let json = reply.ok()?;
    let status = reply.need_text(&json, "status")?;
    want!(status == "staging", "a fresh push session has the status staging", "{}", reply.came());
    let planned = reply.need_integer(&json, "planned_row_count")?;
    want!(rows.is_none_or(|n| planned == n as i64), "planned_row_count is repeated", "{}", reply.came());
    // The reference leaves a zero out; `push.create.next_expected` says what that costs.
    let next = json.get("next_expected_row_ordinal").map_or(Some(0), Json::integer);
    want!(next == Some(0), "a fresh push session expects row 0", "{}", reply.came());
    let id = reply.need_text(&json, "push_id")?;
    want!(!id.is_empty() && !id.contains(['/', '?', '#', ' ']), "push_id can stand in a path", "{}", reply.came());
    Ok(id)
}

pub(crate) fn read_committed(reply: &Reply, json: &Json) -> Checked<Committed> {
    let c = Committed {
        seq: reply.need_integer(json, "bundle_seq")?,
        source: reply.need_text(json, "source_id")?,
        source_bundle_id: reply.need_integer(json, "source_bundle_id")?,
        row_count: reply.need_integer(json, "row_count")?,
        hash: reply.need_text(json, "bundle_hash")?,
        history: json.get("history_hash").and_then(Json::text).map(str::to_owned),
    };
    want!(
        c.seq > 0 && c.source_bundle_id > 0 && c.row_count > 0,
        "a committed bundle's numbers are 1 or more",
        "{}",
        reply.came()
    );
    want!(is_hash(&c.hash), "bundle_hash is 64 lowercase hex digits", "{}", reply.came());
    want!(
        json.get("history_hash").is_none() || c.history.as_deref().is_some_and(is_hash),
        "history_hash is 64 lowercase hex digits",
        "{}",
        reply.came()
    );
    Ok(c)
}

/// The reply to the creation of a committed tuple.
pub(crate) fn committed_already(reply: &Reply, c: &Committed) -> Checked {
    let json = reply.ok()?;
    let status = reply.need_text(&json, "status")?;
    want!(status == "already_committed", "a committed tuple has the status already_committed", "{}", reply.came());
    want!(json.get("push_id").is_none(), "already_committed has no push_id", "{}", reply.came());
    let found = read_committed(reply, &json)?;
    want!(found == *c, "already_committed repeats what the commit said", "{found:?}, the commit said {c:?}");
    Ok(())
}

pub(crate) fn read_session(reply: &Reply) -> Checked<Session> {
    let json = reply.ok()?;
    let s = Session {
        id: reply.need_text(&json, "snapshot_id")?,
        seq: reply.need_integer(&json, "snapshot_bundle_seq")?,
        row_count: reply.need_integer(&json, "row_count")?,
        byte_count: json.get("byte_count").and_then(Json::integer),
        expires: reply.need_future(&json, "expires_at")?,
        history: json.get("history_hash").and_then(Json::text).map(str::to_owned),
        tables: read_tables(reply, &json)?,
    };
    want!(
        json.get("history_hash").is_none() || s.history.as_deref().is_some_and(is_hash),
        "history_hash is 64 lowercase hex digits",
        "{}",
        reply.came()
    );
    want!(s.seq >= 0 && s.row_count >= 0, "a snapshot's numbers are 0 or more", "{}", reply.came());
    // The reference leaves a zero out.
    let bytes = s
        .byte_count
        .map_or_else(|| s.row_count == 0 && json.get("byte_count").is_none(), |b| (b > 0) == (s.row_count > 0));
    want!(bytes, "byte_count is positive exactly where there are rows", "{}", reply.came());
    want!(
        !s.id.is_empty() && !s.id.contains(['/', '?', '#', ' ']),
        "snapshot_id can stand in a path",
        "{}",
        reply.came()
    );
    Ok(s)
}

/// How many rows each table has, where a session says it.
fn read_tables(reply: &Reply, json: &Json) -> Checked<Option<Vec<(String, i64)>>> {
    let Some(tables) = json.get("tables") else { return Ok(None) };
    let Some(items) = tables.items() else { return fail("tables is an array", reply.came()) };
    let mut found = Vec::new();
    for item in items {
        found.push((reply.need_text(item, "table")?, reply.need_integer(item, "row_count")?));
    }
    let sum: i64 = found.iter().map(|(_, rows)| rows).sum();
    let whole = sum == reply.need_integer(json, "row_count")? && found.iter().all(|(_, rows)| *rows >= 0);
    want!(whole, "the rows of all tables are row_count", "{}", reply.came());
    Ok(Some(found))
}

/// The rows of a page or bundle; with a bundle's sequence, committed rows.
pub(super) fn read_rows(lab: &Lab<'_>, reply: &Reply, json: &Json, seq: Option<i64>) -> Checked<Vec<Row>> {
    let Some(items) = reply.need(json, "rows")?.items() else {
        return fail("rows is an array", reply.came());
    };
    items.iter().map(|item| read_row(lab, reply, item, seq)).collect()
}

fn read_row(lab: &Lab<'_>, reply: &Reply, item: &Json, seq: Option<i64>) -> Checked<Row> {
    let row = Row {
        schema: reply.need_text(item, "schema")?,
        table: reply.need_text(item, "table")?,
        key: reply.need(item, "key")?.clone(),
        op: if seq.is_some() { reply.need_text(item, "op")? } else { String::new() },
        version: reply.need_integer(item, "row_version")?,
        payload: item.get("payload").cloned(),
    };
    if let Some(seq) = seq {
        want!(row.version == seq, "row_version of a bundle's row is its bundle_seq", "{}", row.shown());
        want!(
            ["INSERT", "UPDATE", "DELETE"].contains(&row.op.as_str()),
            "op is INSERT, UPDATE or DELETE",
            "{}",
            row.shown()
        );
    } else {
        want!(item.get("op").is_none(), "a snapshot row has no op", "{}", reply.came());
    }
    let Some(key) = row.key.members().filter(|k| !k.is_empty()) else {
        return fail("key is an object with a member per key column", row.shown());
    };
    want!(key.iter().all(|(_, v)| v.text().is_some()), "every value of a key is a string", "{}", row.shown());
    let table = lab.subject.profile.tables.iter().find(|t| t.schema == row.schema && t.name == row.table);
    if let Some(t) = table {
        let whole = key.len() == t.key.len() && t.key.iter().all(|k| row.key.get(k).is_some());
        want!(whole, "key has exactly the key columns", "{}", row.shown());
    } else if !lab.subject.profile.tables.is_empty() {
        return fail("rows are of tables that the profile names", row.shown());
    }
    check_payload(&row, table)?;
    Ok(row)
}

fn check_payload(row: &Row, table: Option<&crate::profile::Table>) -> Checked {
    if row.op == "DELETE" {
        want!(row.payload.is_none(), "a DELETE has no payload", "{}", row.shown());
        return Ok(());
    }
    let Some(payload) = row.payload.as_ref().filter(|p| p.members().is_some()) else {
        return fail("a row that is not deleted has a payload object", row.shown());
    };
    check_members(payload, table, &row.shown())?;
    for (name, value) in row.key.members().unwrap_or_default() {
        let same = payload.get(name).is_some_and(|v| match v {
            Json::Number(digits) => value.text() == Some(digits),
            v => v == value,
        });
        want!(same, "a payload repeats its key", "{}", row.shown());
    }
    Ok(())
}

/// A payload or server row: every column of its table, nothing hidden, nothing else.
pub(crate) fn check_members(payload: &Json, table: Option<&crate::profile::Table>, shown: &str) -> Checked {
    let members = payload.members().unwrap_or_default();
    let hidden = members.iter().any(|(n, _)| n.starts_with("_sync_"));
    want!(!hidden, "members that begin with _sync_ are never sent", "{shown}");
    if let Some(t) = table {
        let whole = members.len() == t.columns.len() && t.columns.iter().all(|c| payload.get(&c.name).is_some());
        want!(whole, "a payload has every column of its table and nothing else", "{shown}");
    }
    Ok(())
}

pub(crate) fn check_hash(rows: &[Row], hash: &str, exact: bool) -> Checked {
    let computed = hashing::bundle(rows, exact).hex();
    let name = if exact { "blake3" } else { "sha256" };
    let expected = format!("bundle_hash is the {name} hash of the rows as they are sent");
    want!(computed == hash, expected, "{hash}, computed {computed} over {}", shown_rows(rows));
    Ok(())
}

pub(super) fn is_hash(s: &str) -> bool {
    s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
