//! What a commit answers where a row is not the one that its edit stands on.

use super::*;

/// The rows of reference §3.6 that conflict.
pub(super) fn conflicts() -> Vec<Check> {
    vec![
        Check::must(
            "push.commit.insert_unknown_base",
            "INSERT of an unknown row with a base conflicts",
            &["ref.3.6.insert_new_base", "seed.commit.conflict"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                conflict(&d, 1, &Change { base: 3, ..t.insert(1, "a") }, 0, false, None)
            },
        ),
        Check::must(
            "push.commit.insert_live_zero",
            "INSERT of a live row with base 0 conflicts",
            &["ref.3.6.insert_stale", "seed.commit.conflict"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = d.push(1, &[t.insert(1, "a")])?.seq;
                conflict(&d, 2, &t.insert(1, "b"), v, false, Some(&t.full(1, "a")))
            },
        ),
        Check::must(
            "push.commit.insert_live",
            "INSERT of a live row with its version conflicts",
            &["ref.3.6.insert_live", "seed.commit.conflict"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = d.push(1, &[t.insert(1, "a")])?.seq;
                conflict(&d, 2, &Change { base: v, ..t.insert(1, "b") }, v, false, Some(&t.full(1, "a")))
            },
        ),
        Check::must(
            "push.commit.insert_tombstone_zero",
            "INSERT over a tombstone with base 0 conflicts",
            &["ref.3.6.insert_stale", "seed.commit.conflict"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = deleted(&d, t)?;
                conflict(&d, 3, &t.insert(1, "b"), v, true, None)
            },
        ),
        Check::must(
            "push.commit.insert_tombstone_stale",
            "INSERT over a tombstone with an older version conflicts",
            &["ref.3.6.insert_stale", "seed.commit.conflict"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = deleted(&d, t)?;
                conflict(&d, 3, &Change { base: v - 1, ..t.insert(1, "b") }, v, true, None)
            },
        ),
        Check::must(
            "push.commit.update_unknown",
            "UPDATE of an unknown row conflicts",
            &["ref.3.6.change_unknown", "seed.commit.conflict"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                conflict(&d, 1, &t.update(1, 3, "a"), 0, false, None)
            },
        ),
        Check::must(
            "push.commit.update_unknown_zero",
            "UPDATE of an unknown row with base 0 conflicts",
            &["ref.3.6.change_unknown"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                conflict(&d, 1, &t.update(1, 0, "a"), 0, false, None)
            },
        ),
        Check::must(
            "push.commit.delete_unknown",
            "DELETE of an unknown row conflicts",
            &["ref.3.6.change_unknown", "seed.commit.conflict"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                conflict(&d, 1, &t.remove(1, 3), 0, false, None)
            },
        ),
        Check::must(
            "push.commit.update_deleted",
            "UPDATE of a deleted row conflicts, also with its version",
            &["ref.3.6.change_deleted", "seed.commit.conflict"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = deleted(&d, t)?;
                conflict(&d, 3, &t.update(1, v - 1, "b"), v, true, None)?;
                conflict(&d, 3, &t.update(1, v, "b"), v, true, None)
            },
        ),
        Check::must(
            "push.commit.delete_deleted",
            "DELETE of a deleted row conflicts, also with its version",
            &["ref.3.6.change_deleted", "seed.commit.conflict"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = deleted(&d, t)?;
                conflict(&d, 3, &t.remove(1, v - 1), v, true, None)?;
                conflict(&d, 3, &t.remove(1, v), v, true, None)
            },
        ),
        Check::must(
            "push.commit.stale_version",
            "UPDATE with an older version conflicts",
            &["ref.3.6.change_stale", "seed.commit.push_conflict", "seed.commit.conflict"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = updated(&d, t)?;
                conflict(&d, 3, &t.update(1, v - 1, "c"), v, false, Some(&t.full(1, "b")))
            },
        ),
        Check::must(
            "push.commit.newer_version",
            "UPDATE with a newer version conflicts",
            &["ref.3.6.change_stale", "seed.commit.conflict"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = updated(&d, t)?;
                conflict(&d, 3, &t.update(1, v + 1, "c"), v, false, Some(&t.full(1, "b")))?;
                conflict(&d, 3, &t.update(1, -1, "c"), v, false, Some(&t.full(1, "b")))
            },
        ),
        Check::must(
            "push.commit.delete_stale",
            "DELETE with an older version conflicts",
            &["ref.3.6.change_stale", "seed.commit.conflict"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = updated(&d, t)?;
                conflict(&d, 3, &t.remove(1, v - 1), v, false, Some(&t.full(1, "b")))
            },
        ),
        Check::must(
            "push.commit.delete_zero",
            "DELETE of a live row with base 0 conflicts",
            &["ref.3.6.change_stale"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = updated(&d, t)?;
                conflict(&d, 3, &t.remove(1, 0), v, false, Some(&t.full(1, "b")))
            },
        ),
        Check::must(
            "push.commit.conflict_atomic",
            "one conflicting row refuses the whole bundle",
            &["seed.commit.atomic", "seed.commit.push_conflict", "spec.7.session_stays"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = updated(&d, t)?;
                let push = d.stage(3, &[t.insert(5, "new"), t.update(1, v - 1, "stale"), t.insert(6, "new")])?;
                let before = d.state()?;
                for _ in 0..2 {
                    let json = d.commit_reply(&push)?.refused(409, &["push_conflict"])?;
                    let key = json.get("conflict").and_then(|c| c.get("key")).cloned().unwrap_or(Json::Null);
                    want!(key.same(&t.row_key(1)), "the conflict names the conflicting row", "{json}");
                }
                let after = d.state()?;
                let same = before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| a.same(b));
                want!(same, "nothing of a conflicting bundle gets in", "{}", shown_rows(&after));
                want!(d.pull("")?.stable == 2, "a conflict makes no bundle", "a bundle");
                d.push(3, &[t.insert(5, "new"), t.update(1, v, "fresh"), t.insert(6, "new")])?;
                d.audit()
            },
        ),
        Check::must(
            "push.commit.conflict_first",
            "the conflict is a conflicting row of the bundle",
            &["seed.commit.conflict"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                d.push(1, &[t.insert(1, "a"), t.insert(2, "b")])?;
                let push = d.stage(2, &[t.insert(3, "c"), t.insert(1, "x"), t.insert(2, "y")])?;
                let json = d.commit_reply(&push)?.refused(409, &["push_conflict"])?;
                let key = json.get("conflict").and_then(|c| c.get("key")).cloned().unwrap_or(Json::Null);
                want!(
                    key.same(&t.row_key(1)) || key.same(&t.row_key(2)),
                    "conflict is one of the conflicting rows",
                    "{json}"
                );
                Ok(())
            },
        ),
        Check::may("push.commit.conflicts", "push_conflict lists all conflicting rows", &["spec.7.conflicts"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            d.push(1, &[t.insert(1, "a"), t.insert(2, "b")])?;
            let push = d.stage(2, &[t.insert(1, "x"), t.insert(3, "c"), t.insert(2, "y")])?;
            let json = d.commit_reply(&push)?.refused(409, &["push_conflict"])?;
            let Some(list) = json.get("conflicts").and_then(Json::items) else {
                return crate::lab::not_offered("push_conflict has no conflicts");
            };
            let both = [1, 2].iter().all(|n| list.iter().any(|c| c.get("key").is_some_and(|k| k.same(&t.row_key(*n)))));
            want!(list.len() == 2 && both, "conflicts has the two conflicting rows", "{json}");
            want!(
                json.get("conflict").is_some_and(|c| list.iter().any(|l| l.same(c))),
                "conflict is one of conflicts",
                "{json}"
            );
            Ok(())
        }),
    ]
}

/// A row that was inserted and deleted; its tombstone's version.
fn deleted(d: &Device<'_>, t: &Table) -> Checked<i64> {
    let v = d.push(1, &[t.insert(1, "a")])?.seq;
    Ok(d.push(2, &[t.remove(1, v)])?.seq)
}

/// A row that was inserted and updated to "b"; its version.
fn updated(d: &Device<'_>, t: &Table) -> Checked<i64> {
    let v = d.push(1, &[t.insert(1, "a")])?.seq;
    Ok(d.push(2, &[t.update(1, v, "b")])?.seq)
}

/// A row that must conflict, with what the conflict must say.
pub(super) fn conflict(
    d: &Device<'_>,
    id: i64,
    row: &Change,
    version: i64,
    deleted: bool,
    server: Option<&Json>,
) -> Checked {
    let push = d.stage(id, std::slice::from_ref(row))?;
    let reply = d.commit_reply(&push)?;
    let json = reply.refused(409, &["push_conflict"])?;
    read_conflict(&reply, &json, row, version, deleted, server)?;
    want!(d.pull("")?.stable == id - 1, "a conflict makes no bundle", "a bundle");
    Ok(())
}

fn read_conflict(
    reply: &Reply,
    json: &Json,
    row: &Change,
    version: i64,
    deleted: bool,
    server: Option<&Json>,
) -> Checked {
    let c = reply.need(json, "conflict")?;
    let named = c.get("schema").and_then(Json::text) == Some(&row.schema)
        && c.get("table").and_then(Json::text) == Some(&row.table)
        && c.get("key").is_some_and(|k| k.same(&row.key))
        && c.get("op").and_then(Json::text) == Some(row.op);
    want!(named, "conflict names the row and its op", "{}", reply.came());
    let base = reply.need_integer(c, "base_row_version")?;
    want!(base == row.base, "base_row_version is what was sent", "{}", reply.came());
    let found = reply.need_integer(c, "server_row_version")?;
    want!(
        found == version,
        "server_row_version is the row's version, 0 for an unknown row",
        "{}, not {version}",
        reply.came()
    );
    let gone = reply.need_boolean(c, "server_row_deleted")?;
    want!(gone == deleted, "server_row_deleted is true for a tombstone alone", "{}", reply.came());
    let sent = reply.need(c, "server_row")?;
    match server {
        None => want!(*sent == Json::Null, "server_row is null where no row lives", "{}", reply.came()),
        Some(expected) => {
            check_members(sent, None, &reply.came())?;
            want!(sent.same(expected), "server_row is the whole row", "{}", reply.came());
        }
    }
    Ok(())
}
