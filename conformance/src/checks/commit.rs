//! Commits: their replies, the conflict rules row by row, what the schema refuses, and what a bundle contains.

use crate::calls::{check_members, shown_rows};
use crate::check::Check;
use crate::json::Json;
use crate::lab::{Checked, Device, Lab, Reply, job, together, want};
use crate::profile::{Column, Kind, OnDelete, Table};
use crate::rows::Change;

pub(super) fn checks() -> Vec<Check> {
    let mut all = plain();
    all.extend(allowed());
    all.extend(conflicts());
    all.extend(rejections());
    all.extend(effects());
    all
}

fn plain() -> Vec<Check> {
    vec![
        Check::must(
            "push.commit.reply",
            "a commit says what was committed",
            &["seed.commit.reply", "spec.1.sequence"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                for n in 1..=3 {
                    let c = d.push(n, &[t.insert(n, "a")])?;
                    want!(c.seq == n && c.row_count == 1, "bundle_seq counts 1, 2, 3", "{c:?}");
                }
                Ok(())
            },
        ),
        Check::must(
            "push.commit.incomplete",
            "a session that lacks rows is not committed",
            &["seed.commit.push_commit_invalid", "ref.3.5.complete", "spec.7.session_stays"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.create(1, 2)?;
                d.commit_reply(&push)?.refused(400, &["push_commit_invalid"])?;
                d.chunk(&push, 0, &[t.insert(1, "a")])?;
                d.commit_reply(&push)?.refused(400, &["push_commit_invalid"])?;
                d.chunk(&push, 1, &[t.insert(2, "b")])?;
                want!(d.commit(&push)?.row_count == 2, "the session takes the missing row", "another count");
                Ok(())
            },
        ),
        Check::must(
            "push.commit.duplicate_row",
            "a row twice in a bundle is refused, at the latest at its commit",
            &["ref.3.4.duplicate", "seed.commit.push_commit_invalid"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.create(1, 2)?;
                d.chunk(&push, 0, &[t.insert(1, "a")])?;
                let reply = d.upload(&push, 1, &[t.insert(1, "b")])?;
                if reply.status == 200 {
                    d.commit_reply(&push)?.refused(400, &["push_commit_invalid"])?;
                } else {
                    reply.refused(400, &["push_chunk_invalid"])?;
                }
                want!(d.state()?.is_empty(), "nothing of such a bundle gets in", "rows");
                Ok(())
            },
        ),
        Check::must(
            "push.commit.twice",
            "a session is committed once",
            &["spec.1.tuple", "seed.commit.push_session_not_found", "seed.create.already_committed"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.stage(1, &[t.insert(1, "a")])?;
                let c = d.commit(&push)?;
                d.commit_reply(&push)?.refused(404, &["push_session_not_found"])?;
                super::push::committed_already(&d.create_reply(1, 1)?, &c)?;
                want!(d.pull("")?.seqs() == [1], "there is one bundle", "others");
                Ok(())
            },
        ),
        Check::must(
            "push.commit.race",
            "a session that is committed twice at once is committed once",
            &["spec.1.tuple", "seed.commit.atomic"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.stage(1, &[t.insert(1, "a"), t.insert(2, "b")])?;
                let jobs = (0..3).map(|_| job(|| d.commit_reply(&push))).collect();
                let mut committed = 0;
                for reply in together(jobs) {
                    let reply = reply?;
                    if reply.status == 200 {
                        committed += 1;
                    } else {
                        reply.refused(404, &["push_session_not_found"])?;
                    }
                }
                want!(committed == 1, "one of several commits succeeds", "{committed}");
                want!(d.pull("")?.seqs() == [1], "there is one bundle", "others");
                d.audit()
            },
        ),
        Check::must(
            "push.commit.many_sources",
            "sources that commit at once get bundles without gap or overlap",
            &["spec.1.sequence", "seed.commit.atomic"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let devices: Vec<Device<'_>> = (0..4).map(|n| d.source(&format!("device-{n}"))).collect();
                let push = |n: i64, d: &Device<'_>| -> Checked<Vec<i64>> {
                    (1..=4).map(|i| d.push(i, &[t.insert(n * 10 + i, "a")]).map(|c| c.seq)).collect()
                };
                let jobs = devices.iter().enumerate().map(|(n, d)| job(move || push(n as i64, d))).collect();
                let mut seqs = Vec::new();
                for s in together(jobs) {
                    seqs.extend(s?);
                }
                seqs.sort_unstable();
                want!(seqs == (1..=16).collect::<Vec<_>>(), "sixteen commits are the bundles 1 to 16", "{seqs:?}");
                d.audit()
            },
        ),
        Check::must(
            "push.commit.one_row_race",
            "of two updates of one row version one wins",
            &["ref.3.6.change_stale", "seed.commit.atomic"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = d.push(1, &[t.insert(1, "a")])?.seq;
                let b = d.source("device-b");
                let (one, two) = (d.stage(2, &[t.update(1, v, "from a")])?, b.stage(1, &[t.update(1, v, "from b")])?);
                let replies = together(vec![job(|| d.commit_reply(&one)), job(|| b.commit_reply(&two))]);
                let mut won = 0;
                for reply in replies {
                    let reply = reply?;
                    if reply.status == 200 {
                        won += 1;
                    } else {
                        reply.refused(409, &["push_conflict"])?;
                    }
                }
                want!(won == 1, "one of two rivals wins", "{won}");
                d.audit()
            },
        ),
        Check::must(
            "push.commit.retired",
            "what a source staged before its retirement is not committed",
            &["seed.commit.source_retired", "ref.3.2.retired"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.stage(1, &[t.insert(1, "a")])?;
                super::snapshot::replace(&d, "device-new", "source_retired")?;
                let json = d.commit_reply(&push)?.refused(409, &["source_retired"])?;
                super::snapshot::names_replacement(&json, d.source_id(), "device-new")?;
                want!(d.pull("")?.stable == 0, "nothing of a retired source gets in", "a bundle");
                Ok(())
            },
        ),
        Check::may(
            "push.commit.request_hash",
            "a request hash is checked and given back",
            &["spec.6.request_hash"],
            |lab| {
                lab.need_exact()?;
                let (d, t) = (lab.ready()?, lab.plain()?);
                let rows = [t.insert(1, "a<&>\u{2028}"), t.insert(2, "b")];
                let hash = crate::hashing::request(&rows);
                let create = |hash: &str| -> Checked<String> {
                    let reply = d.exact().post(
                        "/sync/push-sessions",
                        format!("{{\"source_bundle_id\":1,\"planned_row_count\":2,\"request_hash\":\"{hash}\"}}"),
                    )?;
                    reply.need_text(&reply.ok()?, "push_id")
                };
                let push = create(&"0".repeat(64))?;
                d.chunk(&push, 0, &rows)?;
                let reply = d.commit_reply(&push)?;
                if reply.status == 200 {
                    return crate::lab::not_offered("another request_hash than that of the rows is committed");
                }
                reply.refused(400, &["push_commit_invalid"])?;
                let push = create(&hash)?;
                d.chunk(&push, 0, &rows)?;
                d.commit(&push)?;
                let json = d.create_reply(1, 2)?.ok()?;
                want!(
                    json.get("request_hash").and_then(Json::text) == Some(&hash),
                    "already_committed gives the request_hash back",
                    "{json}"
                );
                Ok(())
            },
        ),
    ]
}

/// The rows of reference §3.6 that are let through.
fn allowed() -> Vec<Check> {
    vec![
        Check::must(
            "push.commit.insert",
            "INSERT of an unknown row",
            &["ref.3.6.insert_new", "spec.1.version"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let c = d.push(1, &[t.insert(1, "a")])?;
                one_row(&d, &c, "INSERT", t, 1, "a")
            },
        ),
        Check::must(
            "push.commit.update",
            "UPDATE with the row's version",
            &["ref.3.6.change_live", "spec.1.version"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = d.push(1, &[t.insert(1, "a"), t.insert(2, "other")])?.seq;
                let c = d.push(2, &[t.update(1, v, "b")])?;
                one_row(&d, &c, "UPDATE", t, 1, "b")?;
                let other = d.live(&t.insert(2, ""))?;
                want!(
                    other.as_ref().is_some_and(|r| r.version == v),
                    "an untouched row keeps its version",
                    "{other:?}"
                );
                let c = d.push(3, &[t.update(1, c.seq, "c")])?;
                one_row(&d, &c, "UPDATE", t, 1, "c")
            },
        ),
        Check::must(
            "push.commit.delete",
            "DELETE with the row's version",
            &["ref.3.6.change_live", "spec.4.delete"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = d.push(1, &[t.insert(1, "a"), t.insert(2, "b")])?.seq;
                let c = d.push(2, &[t.remove(1, v)])?;
                let rows = d.rows(&c)?;
                want!(
                    rows.len() == 1 && rows[0].op == "DELETE" && rows[0].key.same(&t.row_key(1)),
                    "the bundle holds the DELETE",
                    "{}",
                    shown_rows(&rows)
                );
                want!(d.live(&t.insert(1, ""))?.is_none(), "a deleted row is gone", "it lives");
                want!(d.live(&t.insert(2, ""))?.is_some(), "the other row lives", "it is gone");
                d.audit()
            },
        ),
        Check::must(
            "push.commit.resurrect",
            "INSERT over a tombstone with its version",
            &["ref.3.6.insert_deleted"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = d.push(1, &[t.insert(1, "a")])?.seq;
                let v = d.push(2, &[t.remove(1, v)])?.seq;
                let c = d.push(3, &[Change { base: v, ..t.insert(1, "again") }])?;
                one_row(&d, &c, "INSERT", t, 1, "again")?;
                d.push(4, &[t.update(1, c.seq, "on")])?;
                d.audit()
            },
        ),
        Check::must(
            "push.commit.known_version",
            "a row may be changed by another source that knows its version",
            &["ref.3.6.change_live"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = d.push(1, &[t.insert(1, "a")])?.seq;
                let c = d.source("device-b").push(1, &[t.update(1, v, "b")])?;
                want!(c.source == "device-b", "the bundle is of the source that pushed it", "{c:?}");
                d.push(2, &[t.update(1, c.seq, "c")])?;
                d.audit()
            },
        ),
        Check::must(
            "push.commit.mixed",
            "one bundle inserts, updates and deletes",
            &["ref.3.6.change_live", "seed.commit.atomic"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = d.push(1, &[t.insert(1, "a"), t.insert(2, "b"), t.insert(3, "c")])?.seq;
                let rows = d.rows(&d.push(2, &[t.update(1, v, "x"), t.remove(2, v), t.insert(4, "d")])?)?;
                let ops: Vec<&str> = rows.iter().map(|r| r.op.as_str()).collect();
                want!(
                    ops.len() == 3 && ["UPDATE", "DELETE", "INSERT"].iter().all(|o| ops.contains(o)),
                    "the bundle has the three ops",
                    "{}",
                    shown_rows(&rows)
                );
                d.audit()
            },
        ),
        Check::must(
            "push.commit.partial_update",
            "UPDATE sets only the members sent",
            &["spec.4.partial", "spec.4.complete"],
            |lab| {
                let (t, c) = lab.column("a further nullable text, integer or real column", optional)?;
                let d = lab.ready()?;
                let value = sample(c.kind);
                let v = d.push(1, &[t.insert(1, "a").with(&c.name, value.clone())])?.seq;
                let label = t.label().map_or("", |l| l.name.as_str());
                let keyed = Change {
                    payload: Some(Json::Object(vec![(label.to_owned(), Json::from("b"))])),
                    ..t.update(1, v, "")
                };
                let rows = d.rows(&d.push(2, &[keyed])?)?;
                let payload = rows[0].payload.clone().unwrap_or(Json::Null);
                want!(
                    payload.get(&c.name).is_some_and(|x| x.same(&value)),
                    "a column that was not sent keeps its value",
                    "{payload}"
                );
                want!(payload.get(label) == Some(&Json::from("b")), "a column that was sent is set", "{payload}");
                d.audit()
            },
        ),
        Check::must(
            "push.commit.partial_insert",
            "INSERT takes defaults for what is not sent",
            &["spec.4.partial", "ref.3.7.after_image", "spec.4.complete"],
            |lab| {
                let (t, c) = lab.column("a column with a default", |_, c| c.default.is_some())?;
                let d = lab.ready()?;
                let rows = d.rows(&d.push(1, &[t.insert(1, "a").without(&c.name)])?)?;
                let value = c.default.as_ref().map_or(Json::Null, crate::profile::json);
                let payload = rows[0].payload.clone().unwrap_or(Json::Null);
                want!(
                    payload.get(&c.name).is_some_and(|x| x.same(&value)),
                    "the default is in the committed row",
                    "{payload}"
                );
                d.audit()
            },
        ),
        Check::must(
            "push.commit.insert_null",
            "INSERT without a nullable column leaves NULL",
            &["spec.4.partial", "spec.4.null"],
            |lab| {
                let (t, c) = lab.column("a further nullable text, integer or real column", |t, c| {
                    optional(t, c) && c.default.is_none()
                })?;
                let d = lab.ready()?;
                let rows = d.rows(&d.push(1, &[t.insert(1, "a").without(&c.name)])?)?;
                let payload = rows[0].payload.clone().unwrap_or(Json::Null);
                want!(payload.get(&c.name) == Some(&Json::Null), "a column without a value is null", "{payload}");
                Ok(())
            },
        ),
    ]
}

/// The rows of reference §3.6 that conflict.
fn conflicts() -> Vec<Check> {
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

fn rejections() -> Vec<Check> {
    vec![
        Check::must(
            "push.rejected.foreign_key",
            "a row whose parent does not exist is not committed",
            &["spec.7.refused", "seed.commit.atomic"],
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &missing_parent(lab)?, &[])
            },
        ),
        Check::should(
            "push.rejected.foreign_key_named",
            "a missing parent is 422 with the row",
            &["spec.7.push_rejected"],
            "one bad row stops its device's sync for ever",
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &missing_parent(lab)?, &["foreign_key"])
            },
        ),
        Check::must(
            "push.rejected.unique",
            "a UNIQUE value that is taken is not committed",
            &["spec.7.refused", "seed.commit.atomic"],
            |lab| {
                let d = lab.ready()?;
                let bad = taken(&d)?;
                rejected(&d, &bad, &[])
            },
        ),
        Check::should(
            "push.rejected.unique_named",
            "a taken UNIQUE value is 422 with the row",
            &["spec.7.push_rejected"],
            "one bad row stops its device's sync for ever",
            |lab| {
                let d = lab.ready()?;
                let bad = taken(&d)?;
                rejected(&d, &bad, &["unique"])
            },
        ),
        Check::must(
            "push.rejected.not_null",
            "NULL in a NOT NULL column is not committed",
            &["spec.7.refused", "seed.commit.atomic"],
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &null(lab)?, &[])
            },
        ),
        Check::should(
            "push.rejected.not_null_named",
            "NULL in a NOT NULL column is 422 with the row",
            &["spec.7.push_rejected"],
            "one bad row stops its device's sync for ever",
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &null(lab)?, &["not_null"])
            },
        ),
        Check::must(
            "push.rejected.check",
            "a value that the schema refuses is not committed",
            &["spec.7.refused", "seed.commit.atomic"],
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &unchecked(lab)?, &[])
            },
        ),
        Check::should(
            "push.rejected.check_named",
            "a value that the schema refuses is 422 with the row",
            &["spec.7.push_rejected"],
            "one bad row stops its device's sync for ever",
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &unchecked(lab)?, &["check", "type", "rule"])
            },
        ),
        Check::must(
            "push.rejected.column",
            "a member without a column is not silently dropped",
            &["spec.4.unknown_column", "spec.7.refused"],
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &lab.plain()?.insert(1, "a").with("no_such_column", 1), &[])
            },
        ),
        Check::should(
            "push.rejected.column_named",
            "a member without a column is 422 with the row",
            &["spec.7.push_rejected"],
            "one bad row stops its device's sync for ever",
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &lab.plain()?.insert(1, "a").with("no_such_column", 1), &["unknown_column"])
            },
        ),
        Check::must(
            "push.rejected.delete_parent",
            "a parent whose children hold it is not deleted",
            &["spec.7.refused", "seed.commit.atomic"],
            |lab| {
                let link =
                    lab.link("foreign key that refuses deletes", |l| l.column.on_delete == Some(OnDelete::Refuse))?;
                let d = lab.ready()?;
                let v = d.push(1, &[link.parent.insert(1, "p"), link.child_of(2, 1, "c")])?.seq;
                let push = d.stage(2, &[link.parent.remove(1, v)])?;
                let reply = d.commit_reply(&push)?;
                want!(reply.status >= 400, "a parent with children stays", "{}", reply.came());
                want!(
                    d.live(&link.parent.insert(1, ""))?.is_some(),
                    "a refused delete changes nothing",
                    "the parent is gone"
                );
                d.audit()
            },
        ),
        Check::must(
            "push.rejected.nul",
            "text with U+0000 is stored whole or refused, never cut",
            &["spec.4.text", "spec.7.refused"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.create(1, 1)?;
                let reply = d.upload(&push, 0, &[t.insert(1, "a\u{0}b")])?;
                if reply.status != 200 {
                    return reply.refused(400, &["push_chunk_invalid"]).map(drop);
                }
                let reply = d.commit_reply(&push)?;
                let live = d.live(&t.insert(1, ""))?;
                if reply.status == 200 {
                    let whole =
                        live.as_ref().and_then(|r| r.payload.as_ref()).is_some_and(|p| p.same(&t.full(1, "a\u{0}b")));
                    want!(whole, "text with U+0000 comes back whole", "{live:?}");
                } else {
                    want!(live.is_none(), "a refused row is not there", "{live:?}");
                }
                Ok(())
            },
        ),
    ]
}

fn effects() -> Vec<Check> {
    vec![
        Check::must(
            "push.effects.cascade",
            "a bundle contains the rows that a delete takes along",
            &["ref.3.7.cascade"],
            |lab| {
                let link = lab.link("foreign key with ON DELETE CASCADE", |l| {
                    l.column.on_delete == Some(OnDelete::Cascade) && l.parent.name != l.child.name
                })?;
                let d = lab.ready()?;
                let v = d
                    .push(
                        1,
                        &[
                            link.parent.insert(1, "p"),
                            link.child_of(2, 1, "c"),
                            link.child_of(3, 1, "c"),
                            link.parent.insert(4, "q"),
                        ],
                    )?
                    .seq;
                let c = d.push(2, &[link.parent.remove(1, v)])?;
                let rows = d.rows(&c)?;
                let all = [link.parent.remove(1, 0), link.child.remove(2, 0), link.child.remove(3, 0)];
                let whole = rows.len() == 3
                    && all.iter().all(|c| rows.iter().any(|r| r.op == "DELETE" && r.is(&c.schema, &c.table, &c.key)));
                want!(whole, "the bundle deletes the parent and its children", "{}", shown_rows(&rows));
                conflict(&d, 3, &link.child.remove(2, v), c.seq, true, None)?;
                d.audit()
            },
        ),
        Check::must(
            "push.effects.set_null",
            "a bundle contains the rows whose reference became NULL",
            &["ref.3.7.cascade"],
            |lab| {
                let link = lab.link("foreign key with ON DELETE SET NULL", |l| {
                    l.column.on_delete == Some(OnDelete::SetNull) && l.parent.name != l.child.name
                })?;
                let d = lab.ready()?;
                let v = d.push(1, &[link.parent.insert(1, "p"), link.child_of(2, 1, "c")])?.seq;
                let rows = d.rows(&d.push(2, &[link.parent.remove(1, v)])?)?;
                let child = link.child.row_key(2);
                let found = rows.iter().find(|r| r.is(&link.child.schema, &link.child.name, &child));
                let null =
                    found.and_then(|r| r.payload.as_ref()).and_then(|p| p.get(&link.column.name)) == Some(&Json::Null);
                want!(
                    rows.len() == 2 && null,
                    "the bundle has the parent's DELETE and the child's UPDATE",
                    "{}",
                    shown_rows(&rows)
                );
                d.audit()
            },
        ),
        Check::must(
            "push.effects.deep_cascade",
            "a cascade through a table that refers to itself is whole",
            &["ref.3.7.cascade"],
            |lab| {
                let link = lab.link("foreign key to its own table with ON DELETE CASCADE", |l| {
                    l.column.on_delete == Some(OnDelete::Cascade) && l.parent.name == l.child.name
                })?;
                let d = lab.ready()?;
                let v = d
                    .push(
                        1,
                        &[
                            link.parent.insert(1, "root"),
                            link.child_of(2, 1, "child"),
                            link.child_of(3, 2, "grandchild"),
                        ],
                    )?
                    .seq;
                let rows = d.rows(&d.push(2, &[link.parent.remove(1, v)])?)?;
                want!(
                    rows.len() == 3 && rows.iter().all(|r| r.op == "DELETE"),
                    "the whole tree is deleted",
                    "{}",
                    shown_rows(&rows)
                );
                d.audit()
            },
        ),
        Check::must("push.effects.child_first", "a child may come before its parent", &["ref.3.5.order"], |lab| {
            let link = lab.link("foreign key", |l| l.parent.name != l.child.name)?;
            let d = lab.ready()?;
            let c = d.push(1, &[link.child_of(2, 1, "c"), link.parent.insert(1, "p")])?;
            want!(c.row_count == 2, "child and parent are committed", "{c:?}");
            d.audit()
        }),
        Check::must("push.effects.self_reference", "a row may refer to itself", &["ref.3.5.order"], |lab| {
            let link = lab.link("foreign key to its own table", |l| l.parent.name == l.child.name)?;
            let d = lab.ready()?;
            d.push(1, &[link.child_of(1, 1, "me")])?;
            d.audit()
        }),
        Check::must("push.effects.cycle", "rows may refer to each other", &["ref.3.5.order"], |lab| {
            let tables = &lab.subject.profile.tables;
            let pair = tables.iter().find_map(|a| {
                let to_b = a.columns.iter().find(|c| c.references.as_ref().is_some_and(|r| *r != a.name))?;
                let b = tables.iter().find(|b| Some(&b.name) == to_b.references.as_ref())?;
                let to_a = b.columns.iter().find(|c| c.references.as_ref() == Some(&a.name))?;
                Some((a, to_b, b, to_a))
            });
            let Some((a, to_b, b, to_a)) = pair else {
                return crate::lab::not_offered("the profile has no two tables that refer to each other");
            };
            let d = lab.ready()?;
            let key = |t: &Table, n| t.row_key(n).get(&t.key[0]).cloned().unwrap_or(Json::Null);
            d.push(1, &[a.insert(1, "a").with(&to_b.name, key(b, 2)), b.insert(2, "b").with(&to_a.name, key(a, 1))])?;
            d.audit()
        }),
        Check::should(
            "push.effects.order",
            "a bundle's rows are in upload order",
            &["ref.3.7.upload_order"],
            "clients that compare with what they sent stop",
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let order = [5, 1, 4, 2, 3];
                let rows: Vec<Change> = order.iter().map(|n| t.insert(*n, "a")).collect();
                let same = |c: &crate::calls::Committed| -> Checked {
                    let rows = d.rows(c)?;
                    want!(
                        rows.len() == 5 && rows.iter().zip(order).all(|(r, n)| r.key.same(&t.row_key(n))),
                        "rows are in upload order",
                        "{}",
                        shown_rows(&rows)
                    );
                    Ok(())
                };
                let c = d.push(1, &rows)?;
                same(&c)?;
                let c = d.push(2, &order.map(|n| t.update(n, c.seq, "b")))?;
                same(&c)?;
                same(&d.push(3, &order.map(|n| t.remove(n, c.seq)))?)
            },
        ),
        Check::must(
            "push.effects.random",
            "random bundles leave what a model leaves",
            &["seed.commit.atomic", "ref.3.6.insert_deleted", "ref.3.6.change_live", "spec.1.version"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let mut model: Vec<Option<(i64, bool)>> = vec![None; 12];
                let mut seed: u64 = 0x9e37_79b9;
                let mut random = |n: u64| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 33) % n
                };
                for id in 1..=15 {
                    let mut rows = Vec::new();
                    let mut next = model.clone();
                    for (n, row) in model.iter().enumerate() {
                        let key = n as i64;
                        match (row, random(3)) {
                            (_, 0) => {}
                            (Some((v, true)), 1) => {
                                rows.push(t.update(key, *v, &format!("{id}-{n}")));
                                next[n] = Some((id, true));
                            }
                            (Some((v, true)), _) => {
                                rows.push(t.remove(key, *v));
                                next[n] = Some((id, false));
                            }
                            (row, _) => {
                                let base = row.map_or(0, |(v, _)| v);
                                rows.push(Change { base, ..t.insert(key, &format!("{id}-{n}")) });
                                next[n] = Some((id, true));
                            }
                        }
                    }
                    if rows.is_empty() {
                        rows.push(t.insert(1000 + id, "filler"));
                    }
                    let c = d.push(id, &rows)?;
                    want!(
                        c.seq == id && c.row_count == rows.len() as i64,
                        "each bundle holds its rows",
                        "{c:?} for {} rows",
                        rows.len()
                    );
                    model = next;
                }
                let live = d.state()?;
                for (n, row) in model.iter().enumerate() {
                    let found = live.iter().find(|r| r.is(&t.schema, &t.name, &t.row_key(n as i64)));
                    let alive = row.filter(|(_, alive)| *alive);
                    want!(
                        found.map(|r| r.version) == alive.map(|(v, _)| v),
                        "each row lives with the version of its last change",
                        "row {n}: {found:?}, by the model {row:?}"
                    );
                }
                d.audit()
            },
        ),
    ]
}

/// Commits a bundle with one bad row between good ones; it must be refused, and nothing get in.
fn rejected(d: &Device<'_>, bad: &Change, kinds: &[&str]) -> Checked {
    let t = d.lab.plain()?;
    let id = d.pull("")?.stable + 1;
    let before = d.state()?;
    let push = d.create(id, 3)?;
    let uploaded = d.upload(&push, 0, &[t.insert(71, "good"), bad.clone(), t.insert(72, "good")])?;
    if uploaded.status == 400 && kinds.is_empty() {
        return uploaded.refused(400, &["push_chunk_invalid"]).map(drop);
    }
    uploaded.ok()?;
    let reply = d.commit_reply(&push)?;
    want!(reply.status >= 400, "a bundle with a row that the schema refuses is refused", "{}", reply.came());
    let after = d.state()?;
    let same = before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| a.same(b));
    want!(same, "nothing of a refused bundle gets in", "{}", shown_rows(&after));
    want!(d.pull("")?.stable == id - 1, "a refused bundle takes no bundle_seq", "it took one");
    if kinds.is_empty() {
        return d.push(id, &[t.insert(71, "good"), t.insert(72, "good")]).map(drop);
    }
    let json = reply.refused(422, &["push_rejected"])?;
    let list = json.get("rejections").and_then(Json::items).unwrap_or_default();
    let named = list.len() == 1
        && list[0].get("row_ordinal").and_then(Json::integer) == Some(1)
        && list[0].get("table").and_then(Json::text) == Some(&bad.table)
        && list[0].get("schema").and_then(Json::text) == Some(&bad.schema)
        && list[0].get("key").is_some_and(|k| k.same(&bad.key))
        && list[0].get("kind").and_then(Json::text).is_some_and(|k| kinds.contains(&k))
        && list[0].get("columns").and_then(Json::items).is_some_and(|c| c.iter().all(|c| c.text().is_some()))
        && list[0].get("message").and_then(Json::text).is_some_and(|m| !m.is_empty());
    want!(named, format!("rejections names row 1 alone, of the kind {}", kinds.join(" or ")), "{json}");
    // The session stays, so that the client can replace it.
    d.push(id, &[t.insert(71, "good"), t.insert(72, "good")]).map(drop)
}

fn missing_parent(lab: &Lab<'_>) -> Checked<Change> {
    Ok(lab.link("foreign key", |l| l.parent.name != l.child.name)?.child_of(1, 99, "orphan"))
}

fn taken(d: &Device<'_>) -> Checked<Change> {
    let (t, c) = d.lab.column("a UNIQUE column", |_, c| c.unique)?;
    d.push(1, &[t.insert(1, "a").with(&c.name, "taken")])?;
    Ok(t.insert(2, "b").with(&c.name, "taken"))
}

fn null(lab: &Lab<'_>) -> Checked<Change> {
    let (t, c) = lab.column("a NOT NULL column", |_, c| c.required && c.default.is_none())?;
    Ok(t.insert(1, "a").with(&c.name, Json::Null))
}

fn unchecked(lab: &Lab<'_>) -> Checked<Change> {
    let (t, c) = lab.column("a column with `refuses`", |_, c| c.refuses.is_some())?;
    Ok(t.insert(1, "a").with(&c.name, c.refuses.as_ref().map_or(Json::Null, crate::profile::json)))
}

fn optional(t: &Table, c: &Column) -> bool {
    t.label().is_some_and(|l| l.name != c.name)
        && matches!(c.kind, Kind::Text | Kind::Integer | Kind::Real)
        && !c.required
        && !c.unique
        && c.references.is_none()
}

fn sample(kind: Kind) -> Json {
    match kind {
        Kind::Integer => Json::from(41),
        Kind::Real => Json::Number("2.5".to_owned()),
        _ => Json::from("kept"),
    }
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

/// A bundle of one row, which lives afterwards.
fn one_row(d: &Device<'_>, c: &crate::calls::Committed, op: &str, t: &Table, n: i64, label: &str) -> Checked {
    let rows = d.rows(c)?;
    let expected = format!("the bundle holds the {op} with the whole row");
    let fits = rows.len() == 1
        && rows[0].op == op
        && rows[0].is(&t.schema, &t.name, &t.row_key(n))
        && rows[0].payload.as_ref().is_some_and(|p| p.same(&t.full(n, label)));
    want!(fits, expected, "{}", shown_rows(&rows));
    let live = d.live(&t.insert(n, ""))?;
    let there = live
        .as_ref()
        .is_some_and(|r| r.version == c.seq && r.payload.as_ref().is_some_and(|p| p.same(&t.full(n, label))));
    want!(there, "the row lives with the bundle's version", "{live:?}");
    Ok(())
}

/// A row that must conflict, with what the conflict must say.
fn conflict(d: &Device<'_>, id: i64, row: &Change, version: i64, deleted: bool, server: Option<&Json>) -> Checked {
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
