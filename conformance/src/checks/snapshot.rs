//! Snapshot sessions and source replacement.

use crate::calls::{Row, read_session, shown_rows};
use crate::check::Check;
use crate::json::Json;
use crate::lab::{Checked, Device, Lab, Reply, job, together, want};

const UNKNOWN: &str = "6df0d8dd-a84b-43b6-bbca-8de70432922a";
const INVALID: &[&str] = &["snapshot_session_invalid"];

pub(super) fn checks() -> Vec<Check> {
    let mut all = content();
    all.extend(paging());
    all.extend(sessions());
    all.extend(replacement());
    all
}

fn content() -> Vec<Check> {
    vec![
        Check::must("snapshot.empty", "an empty scope has an empty snapshot", &["seed.snapshot.reply"], |lab| {
            let d = lab.ready()?;
            let s = d.snapshot()?;
            want!(s.seq == 0 && s.row_count == 0, "bundle 0 and no rows", "{s:?}");
            let p = d.snapshot_page(&s, "")?;
            want!(p.rows.is_empty() && p.next == 0 && !p.more, "its page is empty", "{p:?}");
            Ok(())
        }),
        Check::must(
            "snapshot.live",
            "a snapshot holds the live rows with their versions",
            &["ref.6.2.live", "seed.snapshot.reply", "spec.1.version"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = d.push(1, &[t.insert(1, "a"), t.insert(2, "b"), t.insert(3, "c")])?.seq;
                d.push(2, &[t.update(2, v, "x"), t.remove(3, v)])?;
                let s = d.snapshot()?;
                want!(s.seq == 2 && s.row_count == 2, "bundle 2 and two rows", "{s:?}");
                let rows = d.snapshot_all(&s, 100)?;
                for (n, version, label) in [(1, 1, "a"), (2, 2, "x")] {
                    let found = rows.iter().find(|r| r.key.same(&t.row_key(n)));
                    let fits = found.is_some_and(|r| {
                        r.version == version && r.payload.as_ref().is_some_and(|p| p.same(&t.full(n, label)))
                    });
                    want!(fits, "each live row with its version and its whole payload", "{}", shown_rows(&rows));
                }
                Ok(())
            },
        ),
        Check::must("snapshot.tables", "a snapshot holds the rows of every table", &["ref.6.2.live"], |lab| {
            let link = lab.link("foreign key", |l| l.parent.name != l.child.name)?;
            let d = lab.ready()?;
            d.push(1, &[link.parent.insert(1, "p"), link.child_of(2, 1, "c")])?;
            let rows = d.state()?;
            let both = [&link.parent.name, &link.child.name].iter().all(|t| rows.iter().any(|r| r.table == **t));
            want!(rows.len() == 2 && both, "both tables' rows are there", "{}", shown_rows(&rows));
            Ok(())
        }),
        Check::must(
            "snapshot.frozen",
            "a snapshot does not change",
            &["seed.snapshot.frozen", "spec.9.frozen"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let v = d.push(1, &[t.insert(1, "a"), t.insert(2, "b"), t.insert(3, "c")])?.seq;
                let s = d.snapshot()?;
                let first = d.snapshot_page(&s, "?max_rows=1")?.rows;
                d.push(2, &[t.update(1, v, "x"), t.remove(2, v), t.insert(4, "d")])?;
                let rows = d.snapshot_all(&s, 2)?;
                let old = rows.iter().all(|r| r.version == v && (1..=3).any(|n| r.key.same(&t.row_key(n))));
                want!(
                    rows.len() == 3 && old && rows[0].same(&first[0]),
                    "the rows as they were",
                    "{}",
                    shown_rows(&rows)
                );
                want!(d.snapshot()?.seq == 2, "a new snapshot is of now", "of then");
                Ok(())
            },
        ),
        Check::must(
            "snapshot.concurrent",
            "a snapshot during commits is one moment",
            &["seed.snapshot.frozen", "spec.9.frozen", "seed.commit.atomic"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                d.push(1, &[t.insert(1, "0"), t.insert(2, "0"), t.insert(3, "0")])?;
                let b = d.source("device-b");
                let writer = || -> Checked {
                    let mut v = 1;
                    for id in 1..=12 {
                        let rows: Vec<_> = (1..=3).map(|n| t.update(n, v, &id.to_string())).collect();
                        v = b.push(id, &rows)?.seq;
                    }
                    Ok(())
                };
                let reader = || -> Checked {
                    for _ in 0..8 {
                        let s = d.snapshot()?;
                        let rows = d.snapshot_all(&s, 1)?;
                        want!(
                            rows.len() == 3 && rows.iter().all(|r| r.version == s.seq),
                            "all rows are of one bundle",
                            "{} at {}",
                            shown_rows(&rows),
                            s.seq
                        );
                    }
                    Ok(())
                };
                for r in together(vec![job(writer), job(reader)]) {
                    r?;
                }
                d.audit()
            },
        ),
        Check::should(
            "snapshot.order",
            "two snapshots of one state have the same order",
            &["ref.6.2.order"],
            "a broken download cannot be compared with a new one",
            |lab| {
                let d = rows(lab, 6)?;
                let (a, b) = (d.state()?, d.source("device-b").state()?);
                want!(
                    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.same(b)),
                    "the same rows in the same order",
                    "{}",
                    shown_rows(&b)
                );
                Ok(())
            },
        ),
        Check::must("snapshot.isolated", "a snapshot holds nobody else's rows", &["spec.1.isolation"], |lab| {
            let (a, b, t) = (rows(lab, 3)?, lab.ready()?, lab.plain()?);
            want!(b.state()?.is_empty(), "a user's snapshot is its own", "rows of another");
            b.push(1, &[t.insert(1, "of b")])?;
            want!(b.state()?.len() == 1 && a.state()?.len() == 3, "a user's snapshot is its own", "rows of another");
            Ok(())
        }),
    ]
}

fn paging() -> Vec<Check> {
    vec![
        Check::must(
            "snapshot.pages",
            "pages of every size cover the snapshot without gap or repetition",
            &["seed.snapshot.page", "seed.snapshot.max_rows"],
            |lab| {
                let d = rows(lab, 5)?;
                let s = d.snapshot()?;
                let whole = d.snapshot_all(&s, 1000)?;
                for size in 1..=6_i64 {
                    let mut got: Vec<Row> = Vec::new();
                    loop {
                        let p = d.snapshot_page(&s, &format!("?after_row_ordinal={}&max_rows={size}", got.len()))?;
                        let left = 5 - got.len() as i64;
                        want!(
                            p.rows.len() as i64 == size.min(left),
                            "a page has max_rows rows, the last what is left",
                            "{} of {size} with {left} left",
                            p.rows.len()
                        );
                        got.extend(p.rows);
                        want!(
                            p.next == got.len() as i64,
                            "next_row_ordinal is the number of rows so far",
                            "{} after {}",
                            p.next,
                            got.len()
                        );
                        want!(
                            p.more == (got.len() < 5),
                            "has_more is true exactly while rows are left",
                            "{} after {} of 5",
                            p.more,
                            got.len()
                        );
                        if !p.more {
                            break;
                        }
                    }
                    want!(
                        got.iter().zip(&whole).all(|(a, b)| a.same(b)),
                        "pages of any size are the same rows in the same order",
                        "{} by {size}",
                        shown_rows(&got)
                    );
                }
                Ok(())
            },
        ),
        Check::must("snapshot.after_last", "after the last row there is none", &["seed.snapshot.page"], |lab| {
            let d = rows(lab, 3)?;
            let s = d.snapshot()?;
            for after in [3, 4, 1000] {
                let p = d.snapshot_page(&s, &format!("?after_row_ordinal={after}"))?;
                want!(
                    p.rows.is_empty() && !p.more && p.next == after,
                    "an empty page repeats after_row_ordinal",
                    "{p:?}"
                );
            }
            Ok(())
        }),
        Check::must("snapshot.again", "a page is the same each time", &["seed.snapshot.page"], |lab| {
            let d = rows(lab, 4)?;
            let s = d.snapshot()?;
            let (a, b) = (
                d.snapshot_page(&s, "?after_row_ordinal=1&max_rows=2")?,
                d.snapshot_page(&s, "?after_row_ordinal=1&max_rows=2")?,
            );
            want!(
                a.rows.len() == 2 && a.next == b.next && a.rows.iter().zip(&b.rows).all(|(a, b)| a.same(b)),
                "the same page",
                "{b:?}"
            );
            want!(
                d.source("device-b").snapshot_all(&s, 1000)?.len() == 4,
                "another source of the user may read",
                "other rows"
            );
            Ok(())
        }),
        Check::must("snapshot.capped", "max_rows over the capability is capped", &["seed.snapshot.max_rows"], |lab| {
            let d = rows(lab, 2)?;
            let s = d.snapshot()?;
            let most = lab.limit("max_rows_per_snapshot_chunk").unwrap_or(5000);
            for ask in [most, most + 1, 2_000_000_000] {
                want!(
                    d.snapshot_page(&s, &format!("?max_rows={ask}"))?.rows.len() == 2,
                    "max_rows over the cap is taken as the cap",
                    "another number of rows"
                );
            }
            Ok(())
        }),
        Check::must(
            "snapshot.default_size",
            "without max_rows a page has the default number of rows",
            &["seed.snapshot.max_rows", "spec.10.enforced"],
            |lab| {
                let Some(size) = lab.limit("default_rows_per_snapshot_chunk").filter(|n| *n <= 2000) else {
                    return crate::lab::not_offered("default_rows_per_snapshot_chunk is not advertised, or over 2000");
                };
                let d = rows(lab, size + 1)?;
                let s = d.snapshot()?;
                let p = d.snapshot_page(&s, "")?;
                want!(
                    p.rows.len() as i64 == size && p.more && p.next == size,
                    "the first page has the advertised number of rows",
                    "{} rows, next {}",
                    p.rows.len(),
                    p.next
                );
                want!(
                    d.snapshot_page(&s, &format!("?after_row_ordinal={size}"))?.rows.len() == 1,
                    "the second page has the last row",
                    "another number"
                );
                Ok(())
            },
        )
        .slow(),
        Check::must(
            "snapshot.empty_parameters",
            "empty and unknown parameters are ignored",
            &["seed.snapshot.max_rows"],
            |lab| {
                let d = rows(lab, 2)?;
                let s = d.snapshot()?;
                want!(
                    d.snapshot_page(&s, "?after_row_ordinal=&max_rows=&other=1")?.rows.len() == 2,
                    "an empty parameter is an absent one",
                    "another number of rows"
                );
                Ok(())
            },
        ),
        Check::must(
            "snapshot.invalid.after_negative",
            "a negative after_row_ordinal is refused",
            &["seed.snapshot.page"],
            |lab| bad_page(lab, "?after_row_ordinal=-1"),
        ),
        Check::must(
            "snapshot.invalid.after_text",
            "after_row_ordinal that is no integer is refused",
            &["seed.snapshot.page"],
            |lab| bad_page(lab, "?after_row_ordinal=x"),
        ),
        Check::must("snapshot.invalid.max_zero", "max_rows 0 is refused", &["seed.snapshot.max_rows"], |lab| {
            bad_page(lab, "?max_rows=0")
        }),
        Check::must(
            "snapshot.invalid.max_negative",
            "a negative max_rows is refused",
            &["seed.snapshot.max_rows"],
            |lab| bad_page(lab, "?max_rows=-1"),
        ),
        Check::must(
            "snapshot.invalid.max_text",
            "max_rows that is no integer is refused",
            &["seed.snapshot.max_rows"],
            |lab| bad_page(lab, "?max_rows=1e3"),
        ),
    ]
}

fn sessions() -> Vec<Check> {
    vec![
        Check::must("snapshot.body.absent", "the body may be absent", &["seed.snapshot.body"], |lab| {
            read_session(&lab.ready()?.snapshot_reply("")?).map(drop)
        }),
        Check::must("snapshot.body.empty", "the body may be empty", &["seed.snapshot.body"], |lab| {
            read_session(&lab.ready()?.snapshot_reply("{}")?).map(drop)
        }),
        Check::must("snapshot.body.null", "source_replacement may be null", &["seed.snapshot.body"], |lab| {
            read_session(&lab.ready()?.snapshot_reply(r#"{"source_replacement":null}"#)?).map(drop)
        }),
        Check::must(
            "snapshot.body.unknown",
            "unknown members are refused",
            &["spec.3.unknown_members", "seed.snapshot.snapshot_session_invalid"],
            |lab| lab.ready()?.snapshot_reply(r#"{"future":1}"#)?.refused(400, INVALID).map(drop),
        ),
        Check::must(
            "snapshot.body.malformed",
            "malformed JSON is refused",
            &["seed.snapshot.snapshot_session_invalid", "spec.3.malformed"],
            |lab| lab.ready()?.snapshot_reply("{\"source_replacement\":")?.refused(400, INVALID).map(drop),
        ),
        Check::must(
            "snapshot.body.array",
            "an array is refused",
            &["seed.snapshot.snapshot_session_invalid", "spec.3.malformed"],
            |lab| lab.ready()?.snapshot_reply("[]")?.refused(400, INVALID).map(drop),
        ),
        Check::must(
            "snapshot.body.text",
            "a source_replacement that is text is refused",
            &["seed.snapshot.snapshot_session_invalid", "spec.3.malformed"],
            |lab| {
                lab.ready()?.snapshot_reply(r#"{"source_replacement":"device-new"}"#)?.refused(400, INVALID).map(drop)
            },
        ),
        Check::must(
            "snapshot.body.trailing",
            "what follows the document is refused",
            &["seed.snapshot.snapshot_session_invalid", "spec.3.malformed"],
            |lab| lab.ready()?.snapshot_reply("{} x")?.refused(400, INVALID).map(drop),
        ),
        Check::must(
            "snapshot.uninitialized",
            "a scope that nobody initialized has no snapshot",
            &["seed.snapshot.scope_uninitialized"],
            |lab| lab.user()?.snapshot_reply("{}")?.refused(409, &["scope_uninitialized"]).map(drop),
        ),
        Check::must(
            "snapshot.initializing",
            "a scope that is being seeded has no snapshot",
            &["seed.snapshot.scope_initializing"],
            |lab| {
                let d = lab.user()?;
                d.connect_as(true, "initialize_local")?;
                d.source("device-b").snapshot_reply("{}")?.refused(409, &["scope_initializing"]).map(drop)
            },
        ),
        Check::must("snapshot.unknown", "an unknown session is 404", &["seed.snapshot.page"], |lab| {
            let d = lab.ready()?;
            d.snapshot_page_reply(UNKNOWN, "")?.refused(404, &["snapshot_session_not_found"])?;
            d.delete(&format!("/sync/snapshot-sessions/{UNKNOWN}"))?
                .refused(404, &["snapshot_session_not_found"])
                .map(drop)
        }),
        Check::should(
            "snapshot.malformed_id",
            "a malformed snapshot_id is 404",
            &["spec.3.path_ids"],
            "a typing error is reported as a failing server",
            |lab| {
                let d = lab.ready()?;
                d.snapshot_page_reply("no-such-thing", "")?.refused(404, &["snapshot_session_not_found"])?;
                d.delete("/sync/snapshot-sessions/no-such-thing")?
                    .refused(404, &["snapshot_session_not_found"])
                    .map(drop)
            },
        ),
        Check::must(
            "snapshot.foreign",
            "another user's session is forbidden",
            &["spec.3.foreign", "spec.1.isolation"],
            |lab| {
                let (a, b) = (rows(lab, 2)?, lab.ready()?);
                let s = a.snapshot()?;
                b.snapshot_page_reply(&s.id, "")?.refused(403, &["snapshot_session_forbidden"])?;
                b.delete(&format!("/sync/snapshot-sessions/{}", s.id))?
                    .refused(403, &["snapshot_session_forbidden"])?;
                want!(a.snapshot_all(&s, 10)?.len() == 2, "the session stays", "other rows");
                Ok(())
            },
        ),
        Check::must("snapshot.delete", "a deleted session is gone, others stay", &["seed.snapshot.delete"], |lab| {
            let d = rows(lab, 2)?;
            let (a, b) = (d.snapshot()?, d.snapshot()?);
            want!(a.id != b.id, "each session has an id of its own", "{} twice", a.id);
            let path = format!("/sync/snapshot-sessions/{}", a.id);
            d.delete(&path)?.done()?;
            d.snapshot_page_reply(&a.id, "")?.refused(404, &["snapshot_session_not_found"])?;
            d.delete(&path)?.refused(404, &["snapshot_session_not_found"])?;
            want!(d.snapshot_all(&b, 10)?.len() == 2, "another session stays", "other rows");
            Ok(())
        }),
        Check::must(
            "snapshot.expired",
            "an expired session is refused",
            &["spec.9.expired", "spec.10.enforced"],
            |lab| {
                let (d, ttl) = (rows(lab, 2)?, lab.short("snapshot_session_ttl_seconds")?);
                let s = d.snapshot()?;
                lab.wait(ttl + super::MARGIN)?;
                let reply = d.snapshot_page_reply(&s.id, "")?;
                // Swept sessions of a busy backend are unknown.
                if reply.status == 404 {
                    reply.refused(404, &["snapshot_session_not_found"])
                } else {
                    reply.refused(410, &["snapshot_session_expired"])
                }
                .map(drop)
            },
        )
        .slow(),
        Check::should(
            "snapshot.extended",
            "reading a page extends its session",
            &["spec.9.extends"],
            "a device on a slow link starts again for ever",
            |lab| {
                let (d, ttl) = (rows(lab, 3)?, lab.short("snapshot_session_ttl_seconds")?);
                let s = d.snapshot()?;
                for after in 0..3 {
                    lab.wait(ttl * 6 / 10)?;
                    d.snapshot_page(&s, &format!("?after_row_ordinal={after}&max_rows=1"))?;
                }
                Ok(())
            },
        )
        .slow(),
        Check::must(
            "snapshot.expires_at",
            "expires_at is as far ahead as the TTL says",
            &["seed.snapshot.reply"],
            |lab| {
                let Some(ttl) = lab.limit("snapshot_session_ttl_seconds") else {
                    return crate::lab::not_offered("snapshot_session_ttl_seconds is not advertised");
                };
                let s = lab.ready()?.snapshot()?;
                let ahead = s.expires.as_second() - jiff::Timestamp::now().as_second();
                want!(
                    (ahead - ttl).abs() <= 60,
                    "expires_at is now and the TTL, give or take a minute",
                    "{ahead} s, TTL {ttl} s"
                );
                Ok(())
            },
        ),
        Check::should(
            "snapshot.too_large",
            "a snapshot over the advertised limit is refused by name",
            &["spec.9.limits", "spec.10.enforced"],
            "a device with much data asks for ever",
            |lab| {
                let Some(most) = lab.limit("max_rows_per_snapshot_session").filter(|n| *n <= 10_000) else {
                    return crate::lab::not_offered("max_rows_per_snapshot_session is not advertised, or over 10000");
                };
                let d = rows(lab, most)?;
                d.snapshot()?;
                let t = lab.plain()?;
                d.push(2, &[t.insert(most + 1, "one too many")])?;
                d.snapshot_reply("{}")?.refused(409, &["snapshot_session_limit_exceeded"]).map(drop)
            },
        )
        .slow(),
        Check::may("snapshot.history", "a snapshot has the history hash of its bundle", &["spec.5.history"], |lab| {
            let d = rows(lab, 1)?;
            let Some(hash) = d.snapshot()?.history else {
                return crate::lab::not_offered("snapshot sessions have no history_hash");
            };
            let last = d.pull("")?.bundles.last().and_then(|b| b.history.clone());
            want!(
                last.as_ref() == Some(&hash),
                "history_hash is that of snapshot_bundle_seq",
                "{hash}, the bundle has {last:?}"
            );
            Ok(())
        }),
    ]
}

fn replacement() -> Vec<Check> {
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
                super::push::committed_already(&d.create_reply(1, 1)?, &c)
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
                for reply in together(vec![job(one), job(two)]) {
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

/// A device with so many live rows, of one bundle.
fn rows<'l>(lab: &'l Lab<'_>, n: i64) -> Checked<Device<'l>> {
    let (d, t) = (lab.ready()?, lab.plain()?);
    let changes: Vec<_> = (0..n).map(|n| t.insert(n, &format!("row {n}"))).collect();
    d.push(1, &changes)?;
    Ok(d)
}

fn bad_page(lab: &Lab<'_>, query: &str) -> Checked {
    let d = rows(lab, 1)?;
    let s = d.snapshot()?;
    d.snapshot_page_reply(&s.id, query)?.refused(400, &["snapshot_chunk_invalid"])?;
    want!(d.snapshot_all(&s, 10)?.len() == 1, "a refused page leaves the session", "other rows");
    Ok(())
}

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
pub(super) fn names_replacement(json: &Json, source: &str, new: &str) -> Checked {
    let named = json.get("source_id").and_then(Json::text) == Some(source)
        && json.get("replaced_by_source_id").and_then(Json::text) == Some(new);
    want!(named, "source_retired names the source and its replacement", "{json}");
    Ok(())
}
