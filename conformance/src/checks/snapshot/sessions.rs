//! Snapshot sessions: their creation, their end, their limits.

use super::*;

pub(super) fn sessions() -> Vec<Check> {
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
                lab.wait(ttl + crate::checks::MARGIN)?;
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
