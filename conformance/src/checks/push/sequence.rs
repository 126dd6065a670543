//! The sequence of a source, and tuples that are committed already.

use super::*;

pub(super) fn sequence() -> Vec<Check> {
    vec![
        Check::must(
            "push.sequence.first",
            "an unknown source starts at 1",
            &["ref.3.2.unknown", "seed.create.source_sequence_out_of_order"],
            |lab| {
                let d = lab.ready()?;
                d.create_reply(2, 1)?.refused(409, &["source_sequence_out_of_order"])?;
                d.create(1, 1).map(drop)
            },
        ),
        Check::must(
            "push.sequence.next",
            "a known source expects the next id",
            &["ref.3.2.next", "seed.create.source_sequence_out_of_order"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                d.push(1, &[t.insert(1, "a")])?;
                d.create_reply(3, 1)?.refused(409, &["source_sequence_out_of_order"])?;
                d.push(2, &[t.insert(2, "b")])?;
                d.create_reply(4, 1)?.refused(409, &["source_sequence_out_of_order"])?;
                d.create_reply(i64::MAX, 1)?.refused(409, &["source_sequence_out_of_order"]).map(drop)
            },
        ),
        Check::must(
            "push.sequence.own",
            "each source counts for itself",
            &["ref.3.2.own", "spec.1.sequence", "spec.1.tuple"],
            |lab| {
                let (a, t) = (lab.ready()?, lab.plain()?);
                let b = a.source("device-b");
                let seqs = [
                    a.push(1, &[t.insert(1, "a")])?,
                    b.push(1, &[t.insert(2, "b")])?,
                    b.push(2, &[t.insert(3, "c")])?,
                    a.push(2, &[t.insert(4, "d")])?,
                ]
                .map(|c| c.seq);
                want!(seqs == [1, 2, 3, 4], "bundle_seq counts over all sources without a gap", "{seqs:?}");
                a.audit()
            },
        ),
        Check::must(
            "push.sequence.not_consumed",
            "refused, deleted and conflicting pushes do not consume the id",
            &["ref.3.2.not_consumed", "seed.push_delete"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.create(1, 1)?;
                d.delete(&format!("/sync/push-sessions/{push}"))?.done()?;
                let push = d.stage(1, &[t.update(1, 3, "x")])?;
                d.commit_reply(&push)?.refused(409, &["push_conflict"])?;
                let push = d.create(1, 2)?;
                d.commit_reply(&push)?.refused(400, &["push_commit_invalid"])?;
                want!(d.push(1, &[t.insert(1, "a")])?.seq == 1, "no bundle_seq was lost", "another bundle");
                Ok(())
            },
        ),
        Check::must(
            "push.already_committed",
            "a committed tuple answers with its bundle",
            &["seed.create.already_committed", "spec.1.tuple"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let (one, two) = (d.push(1, &[t.insert(1, "a")])?, d.push(2, &[t.insert(2, "b"), t.insert(3, "c")])?);
                for _ in 0..2 {
                    committed_already(&d.create_reply(1, 1)?, &one)?;
                    committed_already(&d.create_reply(2, 2)?, &two)?;
                }
                // The number of rows is not part of the tuple.
                committed_already(&d.create_reply(2, 7)?, &two)?;
                want!(d.pull("")?.seqs() == [1, 2], "nothing was committed twice", "other bundles");
                Ok(())
            },
        ),
        Check::must(
            "push.already_committed.own",
            "another source's tuple is not already committed",
            &["spec.1.tuple", "ref.3.2.own"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                d.push(1, &[t.insert(1, "a")])?;
                d.source("device-b").create(1, 1)?;
                lab.ready()?.create(1, 1).map(drop)
            },
        ),
    ]
}
