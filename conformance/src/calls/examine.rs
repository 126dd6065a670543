//! What holds for every reply of an endpoint.

use super::read::{read_connected, read_rows, read_staging};
use super::{check_members, read_committed, read_session};
use crate::json::Json;
use crate::lab::{Checked, Device, Lab, Reply, fail, want};

/// What holds for every reply by its endpoint, whatever the check is about.
pub(crate) fn examine(d: &Device<'_>, method: &str, path: &str, body: &[u8], reply: &Reply) -> Checked {
    let json_body = reply.header("content-type").is_some_and(|m| m.starts_with("application/json"));
    if !json_body || reply.header("content-encoding").is_some() || !matches!(reply.status, 200 | 400..) {
        return Ok(());
    }
    let path = path.split('?').next().unwrap_or(path);
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let json = reply.json()?;
    if reply.status != 200 {
        return examine_error(d.lab, reply, &json);
    }
    match (method, parts.as_slice()) {
        ("POST", ["sync", "connect"]) => read_connected(reply).map(drop),
        ("POST", ["sync", "push-sessions"]) => {
            let asked = Json::parse(body).unwrap_or(Json::Null);
            if reply.need_text(&json, "status")? == "already_committed" {
                let c = read_committed(reply, &json)?;
                let same = c.source == d.source_id()
                    && asked.get("source_bundle_id").and_then(Json::integer).is_none_or(|id| id == c.source_bundle_id);
                want!(same, "already_committed is about the tuple that was asked for", "{}", reply.came());
                return Ok(());
            }
            let rows = asked.get("planned_row_count").and_then(Json::integer);
            read_staging(reply, rows.and_then(|n| usize::try_from(n).ok())).map(drop)
        }
        ("POST", ["sync", "push-sessions", id, "chunks"]) => {
            want!(reply.need_text(&json, "push_id")? == **id, "a chunk's reply repeats push_id", "{}", reply.came());
            reply.need_integer(&json, "next_expected_row_ordinal").map(drop)
        }
        ("POST", ["sync", "push-sessions", _, "commit"]) => read_committed(reply, &json).map(drop),
        ("GET", ["sync", "committed-bundles", seq, "rows"]) => {
            let c = read_committed(reply, &json)?;
            want!(**seq == c.seq.to_string(), "a page of a committed bundle repeats its sequence", "{}", reply.came());
            let rows = read_rows(d.lab, reply, &json, Some(c.seq))?;
            let (next, more) = (reply.need_integer(&json, "next_row_ordinal")?, reply.need_boolean(&json, "has_more")?);
            let left = next + 1 < c.row_count && !rows.is_empty();
            want!(more == left, "has_more is true exactly while rows are left", "{}", reply.came());
            Ok(())
        }
        ("POST", ["sync", "snapshot-sessions"]) => read_session(reply).map(drop),
        ("GET", ["sync", "snapshot-sessions", id]) => {
            let same = reply.need_text(&json, "snapshot_id")? == **id;
            want!(same, "a snapshot page repeats its session's id", "{}", reply.came());
            read_rows(d.lab, reply, &json, None).map(drop)
        }
        _ => Ok(()),
    }
}

/// The members of an error, and of what it lists.
fn examine_error(lab: &Lab<'_>, reply: &Reply, json: &Json) -> Checked {
    let code = reply.need_text(json, "error")?;
    want!(
        !reply.need_text(json, "message")?.is_empty() && !code.is_empty(),
        "an error body has a code and a message",
        "{}",
        reply.came()
    );
    // Clients act by the code. Paths that nothing serves may be answered by somebody before the backend.
    if !matches!(reply.status, 401 | 404 | 405 | 429 | 500..) {
        let known = sync_core::protocol::Code::parse(&code).is_some_and(|c| c.status() == reply.status);
        want!(known, "an error has a code of the protocol, with that code's status", "{}", reply.came());
    }
    let list = |name: &str| json.get(name).and_then(Json::items).unwrap_or_default();
    for c in json.get("conflict").into_iter().chain(list("conflicts")) {
        let texts = ["schema", "table", "op"].iter().all(|m| c.get(m).and_then(Json::text).is_some());
        let numbers =
            ["base_row_version", "server_row_version"].iter().all(|m| c.get(m).and_then(Json::integer).is_some());
        let key = c
            .get("key")
            .and_then(Json::members)
            .is_some_and(|k| !k.is_empty() && k.iter().all(|(_, v)| v.text().is_some()));
        let deleted = c.get("server_row_deleted").and_then(Json::boolean).is_some();
        want!(texts && numbers && key && deleted, "a conflict has its eight members", "{}", reply.came());
        let Some(row) = c.get("server_row") else { return fail("a conflict has its eight members", reply.came()) };
        want!(*row == Json::Null || row.members().is_some(), "server_row is an object or null", "{}", reply.came());
        if *row != Json::Null {
            let name = c.get("table").and_then(Json::text);
            let table = lab.subject.profile.tables.iter().find(|t| Some(t.name.as_str()) == name);
            check_members(row, table, &reply.came())?;
        }
    }
    if json.get("conflicts").is_some() {
        let first = json.get("conflict").is_some_and(|c| list("conflicts").iter().any(|l| l.same(c)));
        want!(first, "conflict is one of conflicts", "{}", reply.came());
    }
    want!(
        json.get("rejections").is_none() || !list("rejections").is_empty(),
        "rejections is a list of rows",
        "{}",
        reply.came()
    );
    for r in list("rejections") {
        let texts = ["schema", "table", "kind", "message"].iter().all(|m| r.get(m).and_then(Json::text).is_some());
        let columns = r.get("columns").and_then(Json::items).is_some_and(|c| c.iter().all(|c| c.text().is_some()));
        // A chunk may be refused for the very key; a commit has read it.
        let read = |k: &Json| k.members().is_some_and(|k| !k.is_empty() && k.iter().all(|(_, v)| v.text().is_some()));
        let key = r.get("key").is_some_and(|k| code != "push_rejected" || read(k));
        let whole = texts && columns && key && r.get("row_ordinal").and_then(Json::integer).is_some();
        want!(whole, "a rejection has its seven members", "{}", reply.came());
    }
    for name in ["next_expected_row_ordinal", "latest_bundle_seq", "limit_bytes"] {
        want!(
            json.get(name).is_none_or(|n| n.integer().is_some()),
            format!("{name} is an integer"),
            "{}",
            reply.came()
        );
    }
    Ok(())
}
