//! Commits: their replies, the conflict rules row by row, what the schema refuses, and what a bundle contains.

mod conflicts;
mod effects;
mod rejections;

use crate::calls::{check_members, shown_rows};
use crate::check::Check;
use crate::json::Json;
use crate::lab::{Checked, Device, Lab, Reply, job, want};
use crate::profile::{Column, Kind, OnDelete, Table};
use crate::rows::Change;

pub(super) fn checks() -> Vec<Check> {
    let mut all = plain();
    all.extend(allowed());
    all.extend(conflicts::conflicts());
    all.extend(rejections::rejections());
    all.extend(effects::effects());
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
        Check::should(
            "push.commit.upper_case_member",
            "a payload member in upper case is refused, or is the column that it names",
            &["spec.4.unknown_column"],
            "a client that writes names otherwise erases what others wrote",
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let label = t.label().map_or("", |c| c.name.as_str());
                let v = d.push(1, &[t.insert(1, "kept")])?.seq;
                let push = d.create(2, 1)?;
                let row = t.update(1, v, "new").without(label).with(&label.to_ascii_uppercase(), "new");
                let reply = d.upload(&push, 0, &[row])?;
                let refused = reply.status != 200 || d.commit_reply(&push)?.status != 200;
                let live = d.live(&t.insert(1, ""))?.and_then(|r| r.payload);
                let found = live.as_ref().and_then(|p| p.get(label)).and_then(Json::text);
                let expected = if refused { "kept" } else { "new" };
                want!(found == Some(expected), "a member in upper case erases no column", "{found:?}, not {expected}");
                d.audit()
            },
        ),
        Check::should(
            "push.commit.delete_null",
            "null stands for the payload that a DELETE has not",
            &["spec.4.delete"],
            "clients whose encoders write null can delete nothing",
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = d.push(1, &[t.insert(1, "a"), t.insert(2, "b")])?.seq;
                let push = d.create(2, 1)?;
                d.upload(&push, 0, &[Change { payload: Some(Json::Null), ..t.remove(1, v) }])?.ok()?;
                d.commit(&push)?;
                want!(d.state()?.len() == 1, "the row is deleted", "it is there");
                d.audit()
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
                crate::calls::committed_already(&d.create_reply(1, 1)?, &c)?;
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
                for reply in lab.together(jobs) {
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
                for s in lab.together(jobs) {
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
                let replies = lab.together(vec![job(|| d.commit_reply(&one)), job(|| b.commit_reply(&two))]);
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
