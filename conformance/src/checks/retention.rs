//! What is left when history is no longer kept. Needs `retained_bundles` in the profile.

use std::time::{Duration, Instant};

use crate::check::Check;
use crate::lab::{Checked, Device, Lab, Stop, want};
use crate::rows::Change;

pub(super) fn checks() -> Vec<Check> {
    vec![
        Check::must(
            "retention.pull",
            "a checkpoint older than the kept history is refused",
            &["seed.pull.history_pruned"],
            |lab| {
                let (d, floor) = pruned(lab)?;
                want!(floor > 1, "more than one bundle is gone", "floor {floor}");
                d.pull_reply(&format!("?after_bundle_seq={}", floor - 1))?.refused(409, &["history_pruned"])?;
                let p = d.pull(&format!("?after_bundle_seq={}", floor + 1))?;
                want!(
                    p.bundles.first().is_some_and(|b| b.seq == floor + 2),
                    "kept history is served",
                    "{:?}",
                    p.seqs()
                );
                d.pull_reply(&format!("?after_bundle_seq={}&target_bundle_seq={}", floor - 1, floor + 1))?
                    .refused(409, &["history_pruned"])
                    .map(drop)
            },
        )
        .slow(),
        Check::should(
            "retention.zero",
            "a checkpoint of 0 is refused, too",
            &["spec.8.floor"],
            "a new device silently lacks the oldest rows",
            |lab| {
                let (d, _) = pruned(lab)?;
                d.pull_reply("")?.refused(409, &["history_pruned"])?;
                d.pull_reply("?after_bundle_seq=0")?.refused(409, &["history_pruned"]).map(drop)
            },
        )
        .slow(),
        Check::should(
            "retention.at_floor",
            "a checkpoint at the floor is served, or refused",
            &["spec.8.floor"],
            "devices rebuild without need",
            |lab| {
                let (d, floor) = pruned(lab)?;
                let reply = d.pull_reply(&format!("?after_bundle_seq={floor}"))?;
                if reply.status == 409 {
                    return reply.refused(409, &["history_pruned"]).map(drop);
                }
                want!(
                    d.pull(&format!("?after_bundle_seq={floor}"))?.bundles.first().is_some_and(|b| b.seq == floor + 1),
                    "the bundle after the floor comes",
                    "another"
                );
                Ok(())
            },
        )
        .slow(),
        Check::must(
            "retention.rows",
            "rows of a bundle that is not kept are refused",
            &["seed.pull.history_pruned", "seed.rows.reply"],
            |lab| {
                let (d, floor) = pruned(lab)?;
                d.rows_reply(floor, "")?.refused(409, &["history_pruned"])?;
                d.rows_reply(1, "")?.refused(409, &["history_pruned"])?;
                d.rows_reply(floor + 1, "")?.ok().map(drop)
            },
        )
        .slow(),
        Check::must(
            "retention.tuple",
            "a tuple older than the kept history is never taken again",
            &["seed.create.history_pruned", "ref.9.kept", "spec.1.tuple"],
            |lab| {
                let (d, floor) = pruned(lab)?;
                d.create_reply(1, 1)?.refused(409, &["history_pruned"])?;
                d.create_reply(floor, 1)?.refused(409, &["history_pruned"])?;
                let reply = d.create_reply(floor + 1, 1)?;
                let json = reply.ok()?;
                want!(reply.need_text(&json, "status")? == "already_committed", "a kept tuple is found", "{json}");
                Ok(())
            },
        )
        .slow(),
        Check::must(
            "retention.state",
            "the state and what may be pushed are as before",
            &["ref.9.kept", "ref.6.2.live"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let keep = kept(lab)?;
                let v = d.push(1, &[t.insert(1, "old"), t.insert(2, "gone"), t.insert(3, "held")])?.seq;
                let gone = d.push(2, &[t.remove(2, v)])?.seq;
                let (s, begun) = (d.snapshot()?, Instant::now());
                for id in 3..keep + 6 {
                    d.push(id, &[t.insert(100 + id, "filler")])?;
                }
                let open = d.snapshot_all(&s, 10).map_err(|e| unless_outlived(lab, begun, e))?;
                want!(open.len() == 2, "an open snapshot stays readable", "other rows");
                let live = d.state()?;
                let old = live.iter().find(|r| r.key.same(&t.row_key(1)));
                want!(old.is_some_and(|r| r.version == v), "old rows live with their version", "{old:?}");
                let next = keep + 6;
                let push = d.stage(next, &[t.insert(2, "again")])?;
                let json = d.commit_reply(&push)?.refused(409, &["push_conflict"])?;
                let deleted =
                    json.get("conflict").and_then(|c| c.get("server_row_deleted")).and_then(crate::json::Json::boolean);
                want!(deleted == Some(true), "tombstones are remembered", "{json}");
                d.push(next, &[Change { base: gone, ..t.insert(2, "again") }, t.update(1, v, "new")]).map(drop)
            },
        )
        .slow(),
    ]
}

/// What came of reading a snapshot, unless the pushes before it took longer than a session lives.
fn unless_outlived(lab: &Lab<'_>, begun: Instant, stop: Stop) -> Stop {
    let ttl = lab.limit("snapshot_session_ttl_seconds").and_then(|s| u64::try_from(s).ok());
    match stop {
        Stop::Fail { .. } if ttl.is_some_and(|s| begun.elapsed() >= Duration::from_secs(s)) => {
            Stop::Inconclusive("the pushes of this check took longer than a snapshot session lives".to_owned())
        }
        stop => stop,
    }
}

fn kept(lab: &Lab<'_>) -> Checked<i64> {
    match lab.subject.profile.retained_bundles {
        Some(n) if n <= 500 => Ok(n),
        _ => Err(Stop::Inconclusive("the profile names no retained_bundles of 500 or less".to_owned())),
    }
}

/// A device whose oldest bundles are no longer kept, and the highest of them.
fn pruned<'l>(lab: &'l Lab<'_>) -> Checked<(Device<'l>, i64)> {
    let (keep, d, t) = (kept(lab)?, lab.ready()?, lab.plain()?);
    let last = keep + 4;
    for id in 1..=last {
        d.push(id, &[t.insert(id, "a")])?;
    }
    Ok((d, last - keep))
}
