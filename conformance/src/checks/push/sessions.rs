//! What becomes of sessions: deleted, replaced, expired, owned.

use super::*;

/// Every use of a session by its id: {chunk, commit, delete} × {unknown, malformed, foreign, other source, expired, done}.
pub(super) fn sessions() -> Vec<Check> {
    vec![
        Check::must(
            "push.chunk.unknown",
            "an unknown session takes no chunk",
            &["seed.chunk.push_session_not_found"],
            |lab| chunk_of(&lab.ready()?, UNKNOWN)?.refused(404, &["push_session_not_found"]).map(drop),
        ),
        Check::must(
            "push.commit.unknown",
            "an unknown session cannot be committed",
            &["seed.commit.push_session_not_found"],
            |lab| lab.ready()?.commit_reply(UNKNOWN)?.refused(404, &["push_session_not_found"]).map(drop),
        ),
        Check::must(
            "push.delete.unknown",
            "an unknown session cannot be deleted",
            &["seed.push_delete", "seed.chunk.push_session_not_found"],
            |lab| delete_of(&lab.ready()?, UNKNOWN)?.refused(404, &["push_session_not_found"]).map(drop),
        ),
        Check::must(
            "push.chunk.malformed_id",
            "a malformed push_id takes no chunk",
            &["spec.3.path_ids", "seed.chunk.push_session_not_found"],
            |lab| chunk_of(&lab.ready()?, MALFORMED)?.refused(404, &["push_session_not_found"]).map(drop),
        ),
        Check::must(
            "push.commit.malformed_id",
            "a malformed push_id cannot be committed",
            &["spec.3.path_ids", "seed.commit.push_session_not_found"],
            |lab| lab.ready()?.commit_reply(MALFORMED)?.refused(404, &["push_session_not_found"]).map(drop),
        ),
        Check::must("push.delete.malformed_id", "a malformed push_id cannot be deleted", &["spec.3.path_ids"], |lab| {
            delete_of(&lab.ready()?, MALFORMED)?.refused(404, &["push_session_not_found"]).map(drop)
        }),
        Check::must(
            "push.chunk.foreign",
            "another user's session takes no chunk",
            &["seed.chunk.push_session_forbidden", "spec.3.foreign", "spec.1.isolation"],
            |lab| {
                let (a, b) = (lab.ready()?, lab.ready()?);
                let push = a.create(1, 1)?;
                chunk_of(&b, &push)?.refused(403, &["push_session_forbidden"])?;
                chunk_of(&a, &push)?.ok().map(drop)
            },
        ),
        Check::must(
            "push.commit.foreign",
            "another user's session cannot be committed",
            &["seed.commit.push_session_forbidden", "spec.3.foreign", "spec.1.isolation"],
            |lab| {
                let (a, b, t) = (lab.ready()?, lab.ready()?, lab.plain()?);
                let push = a.stage(1, &[t.insert(1, "a")])?;
                b.commit_reply(&push)?.refused(403, &["push_session_forbidden"])?;
                want!(a.pull("")?.stable == 0 && b.pull("")?.stable == 0, "nothing was committed", "a bundle");
                a.commit(&push).map(drop)
            },
        ),
        Check::must(
            "push.delete.foreign",
            "another user's session cannot be deleted",
            &["spec.3.foreign", "spec.1.isolation"],
            |lab| {
                let (a, b, t) = (lab.ready()?, lab.ready()?, lab.plain()?);
                let push = a.stage(1, &[t.insert(1, "a")])?;
                delete_of(&b, &push)?.refused(403, &["push_session_forbidden"])?;
                a.commit(&push).map(drop)
            },
        ),
        Check::should(
            "push.chunk.other_source",
            "another source's session takes no chunk",
            &["spec.6.owner"],
            "a device can spoil the push of another",
            |lab| {
                let a = lab.ready()?;
                let push = a.create(1, 1)?;
                chunk_of(&a.source("device-b"), &push)?.refused(403, &["push_session_forbidden"]).map(drop)
            },
        ),
        Check::should(
            "push.commit.other_source",
            "another source's session cannot be committed",
            &["spec.6.owner"],
            "a device can commit what another is still thinking about",
            |lab| {
                let (a, t) = (lab.ready()?, lab.plain()?);
                let push = a.stage(1, &[t.insert(1, "a")])?;
                a.source("device-b").commit_reply(&push)?.refused(403, &["push_session_forbidden"]).map(drop)
            },
        ),
        Check::should(
            "push.delete.other_source",
            "another source's session cannot be deleted",
            &["spec.6.owner"],
            "a device can throw away the push of another",
            |lab| {
                let a = lab.ready()?;
                let push = a.create(1, 1)?;
                delete_of(&a.source("device-b"), &push)?.refused(403, &["push_session_forbidden"]).map(drop)
            },
        ),
        Check::must(
            "push.delete.gone",
            "a deleted session is gone",
            &["seed.push_delete", "seed.commit.push_session_not_found"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.stage(1, &[t.insert(1, "a")])?;
                delete_of(&d, &push)?.done()?;
                chunk_of(&d, &push)?.refused(404, &["push_session_not_found"])?;
                d.commit_reply(&push)?.refused(404, &["push_session_not_found"])?;
                delete_of(&d, &push)?.refused(404, &["push_session_not_found"])?;
                want!(d.state()?.is_empty(), "nothing of a deleted session gets in", "rows");
                Ok(())
            },
        ),
        Check::must("push.delete.committed", "a committed session is gone", &["seed.push_delete"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            let push = d.stage(1, &[t.insert(1, "a")])?;
            d.commit(&push)?;
            delete_of(&d, &push)?.refused(404, &["push_session_not_found"])?;
            chunk_of(&d, &push)?.refused(404, &["push_session_not_found"])?;
            want!(d.pull("")?.seqs() == [1], "the bundle stays", "another history");
            Ok(())
        }),
        Check::must(
            "push.expired",
            "an expired session takes no chunk and cannot be committed",
            &["seed.chunk.push_session_expired", "seed.commit.push_session_expired"],
            |lab| {
                let (d, t, ttl) = (lab.ready()?, lab.plain()?, lab.short("push_session_ttl_seconds")?);
                let push = d.create(1, 2)?;
                d.chunk(&push, 0, &[t.insert(1, "a")])?;
                lab.wait(ttl + crate::checks::MARGIN)?;
                // Swept sessions of a busy backend are unknown.
                for reply in [d.upload(&push, 1, &[t.insert(2, "b")])?, d.commit_reply(&push)?, delete_of(&d, &push)?] {
                    if reply.status == 404 {
                        reply.refused(404, &["push_session_not_found"])?
                    } else {
                        reply.refused(410, &["push_session_expired"])?
                    };
                }
                want!(d.state()?.is_empty(), "nothing of an expired session gets in", "rows");
                want!(d.push(1, &[t.insert(1, "a")])?.seq == 1, "the id was not consumed", "another bundle");
                Ok(())
            },
        )
        .slow(),
    ]
}
