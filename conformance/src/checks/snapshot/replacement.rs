//! Source replacement.

use super::*;

pub(super) fn replacement() -> Vec<Check> {
    vec![
        Check::must(
            "replacement.rotates",
            "the old source is retired, the new one begins at 1",
            &[
                "seed.replacement.atomic",
                "seed.create.source_retired",
                "seed.replacement.source_retired",
                "ref.3.2.retired",
                "ref.3.2.unknown",
            ],
            |lab| {
                let (d, t) = (rows(lab, 2)?, lab.plain()?);
                let s = read_session(&replace_reply(&d, d.source_id(), "device-new", "history_pruned")?)?;
                want!(
                    s.row_count == 2 && d.snapshot_all(&s, 10)?.len() == 2,
                    "the session is a snapshot like any other",
                    "{s:?}"
                );
                let json = d.create_reply(2, 1)?.refused(409, &["source_retired"])?;
                names_replacement(&json, d.source_id(), "device-new")?;
                let new = d.source("device-new");
                new.create_reply(2, 1)?.refused(409, &["source_sequence_out_of_order"])?;
                let c = new.push(1, &[t.insert(10, "new")])?;
                want!(c.seq == 2 && c.source == "device-new", "the new source commits the next bundle", "{c:?}");
                new.push(2, &[t.insert(11, "new")])?;
                d.audit()
            },
        ),
        Check::must(
            "replacement.unknown_previous",
            "a source that never pushed can be replaced",
            &["seed.replacement.atomic"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                replace(&d, "device-new", "source_retired")?;
                d.create_reply(1, 1)?.refused(409, &["source_retired"])?;
                d.source("device-new").push(1, &[t.insert(1, "a")]).map(drop)
            },
        ),
        Check::must("replacement.reasons", "each of the four reasons is taken", &["seed.replacement.reasons"], |lab| {
            let d = lab.ready()?;
            for (n, reason) in REASONS.iter().enumerate() {
                let old = d.source(&format!("old-{n}"));
                replace(&old, &format!("new-{n}"), reason)?;
            }
            Ok(())
        }),
        Check::must(
            "replacement.reason_unknown",
            "another reason is refused",
            &["seed.replacement.reasons", "seed.snapshot.snapshot_session_invalid"],
            |lab| refused(lab, "device-a", "device-new", "because"),
        ),
        Check::must(
            "replacement.reason_empty",
            "an empty reason is refused",
            &["seed.replacement.reasons", "seed.snapshot.snapshot_session_invalid"],
            |lab| refused(lab, "device-a", "device-new", ""),
        ),
        Check::must(
            "replacement.other_previous",
            "only the caller's source can be replaced",
            &["seed.replacement.previous", "seed.snapshot.snapshot_session_invalid"],
            |lab| refused(lab, "device-b", "device-new", "source_retired"),
        ),
        Check::must(
            "replacement.no_previous",
            "a replacement names the previous source",
            &["seed.replacement.previous", "seed.snapshot.snapshot_session_invalid"],
            |lab| refused(lab, "", "device-new", "source_retired"),
        ),
        Check::must(
            "replacement.no_new",
            "a replacement names the new source",
            &["seed.replacement.atomic", "seed.snapshot.snapshot_session_invalid"],
            |lab| refused(lab, "device-a", "", "source_retired"),
        ),
        Check::must(
            "replacement.same",
            "a source does not replace itself",
            &["seed.replacement.atomic", "seed.snapshot.snapshot_session_invalid"],
            |lab| refused(lab, "device-a", "device-a", "source_retired"),
        ),
        Check::must(
            "replacement.unknown_member",
            "unknown members inside are refused",
            &["spec.3.unknown_members"],
            |lab| {
                let d = lab.ready()?;
                let body = r#"{"source_replacement":{"previous_source_id":"device-a","new_source_id":"device-new","reason":"source_retired","x":1}}"#;
                d.snapshot_reply(body)?.refused(400, INVALID)?;
                d.create(1, 1).map(drop)
            },
        ),
        Check::should(
            "replacement.grammar",
            "the new source keeps to the grammar of sources",
            &["spec.3.source"],
            "a device is left with a source id that no request may carry",
            |lab| {
                let d = lab.ready()?;
                replace_reply(&d, "device-a", "two words", "source_retired")?
                    .refused(400, &["snapshot_session_invalid", "invalid_request"])?;
                replace_reply(&d, "device-a", &"x".repeat(129), "source_retired")?
                    .refused(400, &["snapshot_session_invalid", "invalid_request"])?;
                d.create(1, 1).map(drop)
            },
        ),
        Check::must(
            "replacement.again",
            "the same replacement again is a new session of the same",
            &["ref.6.4.idempotent"],
            |lab| {
                let (d, t) = (rows(lab, 1)?, lab.plain()?);
                let a = replace(&d, "device-new", "source_retired")?;
                let b = replace(&d, "device-new", "history_pruned")?;
                want!(a.id != b.id, "a new session", "{}", b.id);
                let new = d.source("device-new");
                new.push(1, &[t.insert(10, "new")])?;
                replace(&d, "device-new", "source_retired")?;
                want!(new.push(2, &[t.insert(11, "new")])?.seq == 3, "the new source goes on", "another bundle");
                Ok(())
            },
        ),
        Check::must(
            "replacement.another",
            "another replacement of a retired source is refused",
            &["ref.6.4.other", "seed.replacement.source_retired"],
            |lab| {
                let d = lab.ready()?;
                replace(&d, "device-new", "source_retired")?;
                let json = replace_reply(&d, d.source_id(), "device-newer", "source_retired")?
                    .refused(409, &["source_retired"])?;
                names_replacement(&json, d.source_id(), "device-new")?;
                d.source("device-newer").create(1, 1).map(drop)
            },
        ),
        Check::must(
            "replacement.active",
            "an active source cannot be a replacement",
            &["ref.6.4.known", "seed.replacement.source_replacement_invalid"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                d.source("device-b").push(1, &[t.insert(1, "b")])?;
                known(&d, "device-b")?;
                want!(
                    d.push(1, &[t.insert(2, "a")])?.seq == 2,
                    "a refused replacement retires nobody",
                    "another bundle"
                );
                Ok(())
            },
        ),
        Check::must(
            "replacement.reserved",
            "a reserved source cannot replace another",
            &["ref.6.4.known", "seed.replacement.source_replacement_invalid"],
            |lab| {
                let d = lab.ready()?;
                replace(&d.source("device-b"), "device-new", "source_retired")?;
                known(&d, "device-new")
            },
        ),
        Check::must(
            "replacement.retired",
            "a retired source cannot replace another",
            &["ref.6.4.known", "seed.replacement.source_replacement_invalid"],
            |lab| {
                let d = lab.ready()?;
                replace(&d.source("device-b"), "device-new", "source_retired")?;
                known(&d, "device-b")
            },
        ),
        Check::must(
            "replacement.chain",
            "a replacement may be replaced",
            &["seed.replacement.atomic", "ref.3.2.retired"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                replace(&d, "device-2", "source_retired")?;
                let two = d.source("device-2");
                replace(&two, "device-3", "source_retired")?;
                two.create_reply(1, 1)?.refused(409, &["source_retired"])?;
                d.source("device-3").push(1, &[t.insert(1, "a")]).map(drop)
            },
        ),
        Check::must(
            "replacement.reads",
            "a retired source may connect, pull and hydrate",
            &["ref.6.4.reads", "ref.2.3.initialized"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let c = d.push(1, &[t.insert(1, "a")])?;
                replace(&d, "device-new", "source_retired")?;
                d.connect_as(true, "remote_authoritative")?;
                want!(d.pull("")?.seqs() == [1], "a retired source pulls", "other bundles");
                d.rows(&c)?;
                want!(d.state()?.len() == 1, "a retired source hydrates", "other rows");
                Ok(())
            },
        ),
        Check::should(
            "replacement.already_committed",
            "a retired source finds what it committed",
            &["seed.create.already_committed"],
            "a device that lost a reply pushes its rows twice",
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let c = d.push(1, &[t.insert(1, "a")])?;
                replace(&d, "device-new", "source_retired")?;
                crate::calls::committed_already(&d.create_reply(1, 1)?, &c)
            },
        ),
        Check::must(
            "replacement.race",
            "of two replacements at once one wins",
            &["seed.replacement.atomic", "ref.6.4.other"],
            |lab| {
                let d = lab.ready()?;
                let one = || replace_reply(&d, d.source_id(), "device-x", "source_retired");
                let two = || replace_reply(&d, d.source_id(), "device-y", "source_retired");
                let mut won = 0;
                for reply in lab.together(vec![job(one), job(two)]) {
                    let reply = reply?;
                    if reply.status == 200 {
                        won += 1;
                    } else {
                        reply.refused(409, &["source_retired"])?;
                    }
                }
                want!(won == 1, "one replacement of a source", "{won}");
                Ok(())
            },
        ),
        Check::must(
            "replacement.uninitialized",
            "a scope that nobody initialized replaces no source",
            &["seed.snapshot.scope_uninitialized", "seed.replacement.atomic"],
            |lab| {
                let (d, t) = (lab.user()?, lab.plain()?);
                replace_reply(&d, d.source_id(), "device-new", "source_retired")?
                    .refused(409, &["scope_uninitialized"])?;
                d.connect_as(false, "initialize_empty")?;
                d.push(1, &[t.insert(1, "a")]).map(drop)
            },
        ),
        Check::must(
            "replacement.isolated",
            "another user's source of the same name is not retired",
            &["spec.1.isolation", "ref.3.2.own"],
            |lab| {
                let (a, b, t) = (lab.ready()?, lab.ready()?, lab.plain()?);
                replace(&a, "device-new", "source_retired")?;
                b.push(1, &[t.insert(1, "b")])?;
                replace(&b, "device-new", "source_retired").map(drop)
            },
        ),
    ]
}

const REASONS: [&str; 4] =
    ["history_pruned", "source_sequence_out_of_order", "source_sequence_changed", "source_retired"];

fn replace_reply(d: &Device<'_>, previous: &str, new: &str, reason: &str) -> Checked<Reply> {
    let body = format!(
        "{{\"source_replacement\":{{\"previous_source_id\":{},\"new_source_id\":{},\"reason\":{}}}}}",
        Json::from(previous),
        Json::from(new),
        Json::from(reason)
    );
    d.snapshot_reply(&body)
}

/// Replaces the device's source.
pub(crate) fn replace(d: &Device<'_>, new: &str, reason: &str) -> Checked<crate::calls::Session> {
    let session = read_session(&replace_reply(d, d.source_id(), new, reason)?)?;
    d.snapshot_page(&session, "?max_rows=1")?;
    Ok(session)
}

/// A replacement that is refused, after which both sources are as they were.
fn refused(lab: &Lab<'_>, previous: &str, new: &str, reason: &str) -> Checked {
    let d = lab.ready()?;
    replace_reply(&d, previous, new, reason)?.refused(400, INVALID)?;
    d.create(1, 1)?;
    d.source("device-new").create(1, 1).map(drop)
}

fn known(d: &Device<'_>, new: &str) -> Checked {
    let reply = replace_reply(d, d.source_id(), new, "source_retired")?;
    reply.refused(409, &["source_replacement_invalid"])?;
    d.create(1, 1).map(drop)
}

/// The members of `source_retired`.
pub(crate) fn names_replacement(json: &Json, source: &str, new: &str) -> Checked {
    let named = json.get("source_id").and_then(Json::text) == Some(source)
        && json.get("replaced_by_source_id").and_then(Json::text) == Some(new);
    want!(named, "source_retired names the source and its replacement", "{json}");
    Ok(())
}
