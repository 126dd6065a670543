//! What must hold once everything is in step again.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::Outcome;
use crate::model::{Place, TABLES, is_whole, wire};
use crate::world::{USER, World};

type Rows = BTreeMap<Place, Value>;

/// The server's history, as its bundles name themselves.
pub(crate) struct History {
    pub(crate) bundles: i64,
    sources: BTreeMap<String, Vec<i64>>,
    /// How often each stamp was written.
    stamps: BTreeMap<i64, usize>,
}

/// Fails with everything that is wrong.
pub(crate) fn check(world: &mut World) -> Outcome<History> {
    let mut wrong = Vec::new();
    let mut files = Vec::new();
    for device in &world.devices {
        let status = world.status(device.name)?;
        if status.pending != 0 {
            wrong.push(format!("{}: {} rows pending", device.name, status.pending));
        }
        wrong.extend(damage(&device.conn, device.name)?);
        files.push((device.name, rows_of(&device.conn)?, status));
    }
    let names: Vec<String> = world.devices.iter().map(crate::world::Device::file).collect();
    for file in names {
        wrong.extend(read_inbox(world, &file)?);
    }
    let server = snapshot(world)?;
    for (name, rows, _) in &files {
        wrong.extend(differences(name, rows, &server));
    }
    for (place, row) in &server {
        if row["stamp"].as_i64().is_none_or(|stamp| !is_whole(stamp, row)) {
            wrong.push(format!("{} {} is not one write's row: {row}", place.0, place.1));
        }
    }
    let stamps = server.iter().filter_map(|(place, row)| Some((place.clone(), row["stamp"].as_i64()?))).collect();
    wrong.extend(world.model.judge(&stamps));

    let history = history(world)?;
    for (stamp, times) in history.stamps.iter().filter(|(_, times)| **times > 1) {
        wrong.push(format!("write {stamp} is in {times} bundles"));
    }
    for (source, ids) in &history.sources {
        if !ids.iter().copied().eq(1..=ids.len() as i64) {
            wrong.push(format!("source {source} has the bundles {ids:?}"));
        }
    }
    for (name, _, status) in &files {
        if status.checkpoint != history.bundles {
            wrong.push(format!("{name} is at {}, the server at {}", status.checkpoint, history.bundles));
        }
    }
    for (device, (name, _, status)) in world.devices.iter_mut().zip(&files) {
        let first = device.source.get_or_insert_with(|| status.source.clone());
        if *first != status.source {
            wrong.push(format!("{name} took another source, as if a copy of it were there"));
        }
        world.sources.insert(status.source.clone());
    }
    for source in history.sources.keys().filter(|source| !world.sources.contains(*source)) {
        wrong.push(format!("source {source} is nobody's"));
    }
    for entry in std::fs::read_dir(world.dir.path().join("data/scopes"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "db") {
            let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            wrong.extend(damage(&conn, "server")?);
        }
    }
    if wrong.is_empty() {
        return Ok(history);
    }
    let more = wrong.len().saturating_sub(20);
    wrong.truncate(20);
    Err(format!("{}\n({more} more)", wrong.join("\n")).into())
}

fn damage(conn: &Connection, name: &str) -> Outcome<Vec<String>> {
    let mut wrong = Vec::new();
    let said: String = conn.query_row("PRAGMA integrity_check", [], |r| r.get(0))?;
    if said != "ok" {
        wrong.push(format!("{name}: {said}"));
    }
    if conn.prepare("PRAGMA foreign_key_check")?.exists([])? {
        wrong.push(format!("{name}: a row refers to nothing"));
    }
    Ok(wrong)
}

fn rows_of(conn: &Connection) -> Outcome<Rows> {
    let mut rows = Rows::new();
    for table in TABLES {
        let mut statement = conn.prepare(&format!("SELECT * FROM main.{table}"))?;
        for row in statement.query_map([], wire)? {
            let row = row?;
            rows.insert((table, row["id"].as_str().unwrap_or_default().to_owned()), row);
        }
    }
    Ok(rows)
}

fn differences(name: &str, rows: &Rows, server: &Rows) -> Vec<String> {
    let places: BTreeSet<&Place> = rows.keys().chain(server.keys()).collect();
    let differ = places.into_iter().filter(|place| rows.get(*place) != server.get(*place));
    differ
        .map(|place| {
            let (here, there) = (rows.get(place), server.get(place));
            format!("{} {}: {name} has {here:?}, the server has {there:?}", place.0, place.1)
        })
        .collect()
}

/// Takes note of what the inbox has: whole rows, and deletes that were undone. Nothing that is written
/// here gives the server a reason to refuse a row, but that its parent went.
fn read_inbox(world: &mut World, file: &str) -> Outcome<Vec<String>> {
    let mut wrong = Vec::new();
    for kind in ["discarded", "rejected"] {
        let said: Value = serde_json::from_str(&world.client(&[kind, file, "--json"])?)?;
        for entry in said["rows"].as_array().into_iter().flatten() {
            if kind == "rejected" && entry["reason"] != "parent_deleted" {
                wrong.push(format!("{file}: {entry}"));
            }
            if let Some(row) = entry["local_row"].as_str() {
                let row: Value = serde_json::from_str(row)?;
                let stamp = row["stamp"].as_i64().ok_or("an inbox row lacks its stamp")?;
                if !is_whole(stamp, &row) {
                    return Err(format!("the inbox does not have the whole row: {row}").into());
                }
                world.model.set_aside.insert(stamp);
            } else if entry["op"] == "DELETE" {
                let key: Value = serde_json::from_str(entry["key"].as_str().unwrap_or_default())?;
                let table = TABLES.into_iter().find(|t| entry["table"] == *t).ok_or("an unknown table in the inbox")?;
                world.model.undone.insert((table, key["id"].as_str().unwrap_or_default().to_owned()));
            }
        }
    }
    Ok(wrong)
}

fn request(world: &World, method: &str, path: &str) -> Outcome<Value> {
    let url = format!("{}{path}", world.url());
    let authorization = format!("Bearer {USER}");
    let mut reply = match method {
        "POST" => ureq::post(&url)
            .header("Authorization", &authorization)
            .header("Oversync-Source-ID", "onlooker")
            .send_empty()?,
        "DELETE" => ureq::delete(&url)
            .header("Authorization", &authorization)
            .header("Oversync-Source-ID", "onlooker")
            .call()?,
        _ => ureq::get(&url).header("Authorization", &authorization).header("Oversync-Source-ID", "onlooker").call()?,
    };
    let text = reply.body_mut().with_config().limit(u64::MAX).read_to_string()?;
    Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
}

/// What a device that starts now would get.
fn snapshot(world: &World) -> Outcome<Rows> {
    let session = request(world, "POST", "/sync/snapshot-sessions")?;
    let path = format!("/sync/snapshot-sessions/{}", session["snapshot_id"].as_str().unwrap_or_default());
    let mut rows = Rows::new();
    let mut after = 0;
    loop {
        let page = request(world, "GET", &format!("{path}?after_row_ordinal={after}"))?;
        for row in page["rows"].as_array().into_iter().flatten() {
            let table = TABLES.into_iter().find(|t| row["table"] == *t).ok_or("a row of an unknown table")?;
            let id = row["key"]["id"].as_str().ok_or("a row without a key")?;
            if rows.insert((table, id.to_owned()), row["payload"].clone()).is_some() {
                return Err(format!("the snapshot has {table} {id} twice").into());
            }
        }
        after = page["next_row_ordinal"].as_i64().ok_or("a page lacks its end")?;
        if page["has_more"] != true {
            break;
        }
    }
    request(world, "DELETE", &path)?;
    Ok(rows)
}

/// The newest bundle.
pub(crate) fn latest(world: &World) -> Outcome<i64> {
    let page = request(world, "GET", "/sync/pull?after_bundle_seq=0&max_bundles=1")?;
    page["stable_bundle_seq"].as_i64().ok_or_else(|| "a pull without its end".into())
}

/// Every bundle that was ever committed.
pub(crate) fn history(world: &World) -> Outcome<History> {
    let mut history = History { bundles: 0, sources: BTreeMap::new(), stamps: BTreeMap::new() };
    loop {
        let page = request(world, "GET", &format!("/sync/pull?after_bundle_seq={}", history.bundles))?;
        for bundle in page["bundles"].as_array().into_iter().flatten() {
            history.bundles += 1;
            if bundle["bundle_seq"] != history.bundles {
                return Err(format!("bundle {} is where {} is due", bundle["bundle_seq"], history.bundles).into());
            }
            let source = bundle["source_id"].as_str().unwrap_or_default().to_owned();
            history.sources.entry(source).or_default().push(bundle["source_bundle_id"].as_i64().unwrap_or_default());
            for row in bundle["rows"].as_array().into_iter().flatten() {
                if let Some(stamp) = row["payload"]["stamp"].as_i64() {
                    *history.stamps.entry(stamp).or_default() += 1;
                }
            }
        }
        if page["has_more"] != true {
            return Ok(history);
        }
    }
}
