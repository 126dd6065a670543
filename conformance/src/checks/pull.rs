//! Pulls: windows, pages, the frozen end.

mod refused;

use crate::calls::{Bundle, Committed, shown_rows};
use crate::check::Check;
use crate::lab::{Checked, Device, Lab, job, want};

pub(super) fn checks() -> Vec<Check> {
    let mut all = windows();
    all.extend(refused::refused());
    all.extend(additive());
    all
}

fn windows() -> Vec<Check> {
    vec![
        Check::must("pull.empty", "an empty scope stands at 0", &["seed.pull.reply"], |lab| {
            let p = lab.ready()?.pull("")?;
            want!(
                p.stable == 0 && p.bundles.is_empty() && !p.more,
                "stable_bundle_seq 0, no bundles, no more",
                "{p:?}"
            );
            Ok(())
        }),
        Check::must(
            "pull.whole",
            "a pull has every bundle whole",
            &["seed.pull.reply", "seed.pull.complete", "spec.1.version"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let a = d.push(1, &[t.insert(1, "a"), t.insert(2, "b")])?;
                let b = d.source("device-b").push(1, &[t.update(1, a.seq, "x"), t.remove(2, a.seq)])?;
                let p = d.pull("")?;
                want!(
                    p.seqs() == [1, 2] && p.stable == 2 && !p.more,
                    "both bundles, and no more",
                    "{:?}, stable {}",
                    p.seqs(),
                    p.stable
                );
                same(&d, &p.bundles[0], &a)?;
                same(&d, &p.bundles[1], &b)
            },
        ),
        Check::should(
            "pull.row_count",
            "a pulled bundle has row_count and bundle_hash",
            &["seed.pull.complete"],
            "devices cannot verify what they pull",
            |lab| {
                let d = history(lab, 1)?;
                let b = &d.pull("")?.bundles[0];
                want!(b.row_count.is_some() && b.hash.is_some(), "row_count and bundle_hash are there", "{b:?}");
                Ok(())
            },
        ),
        Check::must("pull.own", "a source's own bundles are pulled too", &["ref.5.own"], |lab| {
            let d = history(lab, 2)?;
            want!(d.pull("")?.bundles.iter().all(|b| b.source == d.source_id()), "own bundles are there", "others");
            want!(d.pull("")?.bundles.len() == 2, "own bundles are there", "none");
            Ok(())
        }),
        Check::must("pull.after", "a pull begins after its checkpoint", &["seed.pull.complete"], |lab| {
            let d = history(lab, 4)?;
            for after in 0..=4 {
                let p = d.pull(&format!("?after_bundle_seq={after}"))?;
                let expected: Vec<i64> = (after + 1..=4).collect();
                want!(
                    p.seqs() == expected && p.stable == 4 && !p.more,
                    "the bundles after the checkpoint, up to the newest",
                    "{:?} after {after}, stable {}",
                    p.seqs(),
                    p.stable
                );
            }
            Ok(())
        }),
        Check::must(
            "pull.pages",
            "pages of every size cover the window without gap or repetition",
            &["seed.pull.max_bundles", "seed.pull.freeze", "seed.pull.complete"],
            |lab| {
                let d = history(lab, 5)?;
                for size in 1..=6_i64 {
                    let mut after = 0;
                    loop {
                        let target = if after == 0 { String::new() } else { "&target_bundle_seq=5".to_owned() };
                        let p = d.pull(&format!("?after_bundle_seq={after}&max_bundles={size}{target}"))?;
                        let end = (after + size).min(5);
                        want!(
                            p.seqs() == (after + 1..=end).collect::<Vec<_>>(),
                            "a page has max_bundles bundles, the last what is left",
                            "{:?} after {after} by {size}",
                            p.seqs()
                        );
                        want!(
                            p.more == (end < 5),
                            "has_more is true exactly while bundles are left",
                            "{} at {end} of 5",
                            p.more
                        );
                        want!(p.stable == 5, "stable_bundle_seq is the same on every page", "{}", p.stable);
                        after = end;
                        if !p.more {
                            break;
                        }
                    }
                }
                Ok(())
            },
        ),
        Check::must("pull.frozen", "later commits do not enter a frozen pull", &["seed.pull.freeze"], |lab| {
            let (d, t) = (history(lab, 3)?, lab.plain()?);
            let p = d.pull("?max_bundles=1")?;
            want!(p.stable == 3 && p.more, "the first page freezes the end", "{p:?}");
            d.push(4, &[t.insert(40, "late")])?;
            let p = d.pull("?after_bundle_seq=1&target_bundle_seq=3")?;
            want!(
                p.seqs() == [2, 3] && p.stable == 3 && !p.more,
                "the target ends the pull",
                "{:?}, stable {}, more {}",
                p.seqs(),
                p.stable,
                p.more
            );
            let p = d.pull("?after_bundle_seq=3")?;
            want!(p.seqs() == [4] && p.stable == 4, "the next pull has the late bundle", "{:?}", p.seqs());
            Ok(())
        }),
        Check::must("pull.target", "a target in the middle ends the window there", &["seed.pull.freeze"], |lab| {
            let d = history(lab, 4)?;
            for (after, target) in [(0, 1), (0, 3), (1, 2), (2, 4), (0, 4)] {
                let p = d.pull(&format!("?after_bundle_seq={after}&target_bundle_seq={target}"))?;
                want!(
                    p.seqs() == (after + 1..=target).collect::<Vec<_>>() && p.stable == target && !p.more,
                    "the bundles from the checkpoint to the target",
                    "{:?} from {after} to {target}, stable {}",
                    p.seqs(),
                    p.stable
                );
            }
            Ok(())
        }),
        Check::must(
            "pull.target_reached",
            "a checkpoint at the target has nothing to come",
            &["seed.pull.freeze"],
            |lab| {
                let d = history(lab, 3)?;
                for (after, target) in [(2, 2), (3, 3), (3, 2)] {
                    let p = d.pull(&format!("?after_bundle_seq={after}&target_bundle_seq={target}"))?;
                    want!(
                        p.bundles.is_empty() && p.stable == target && !p.more,
                        "an empty page at the target",
                        "{p:?}"
                    );
                }
                Ok(())
            },
        ),
        Check::must(
            "pull.concurrent",
            "a pull during commits is a prefix of the history",
            &["seed.pull.freeze", "seed.pull.complete", "spec.1.sequence"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let writer = || -> Checked {
                    for id in 1..=12 {
                        d.push(id, &[t.insert(id, "a"), t.insert(100 + id, "b")])?;
                    }
                    Ok(())
                };
                let b = d.source("device-b");
                let reader = || -> Checked {
                    for _ in 0..12 {
                        let (stable, bundles) = b.pull_all(0, 3)?;
                        let seqs: Vec<i64> = bundles.iter().map(|b| b.seq).collect();
                        want!(
                            seqs == (1..=stable).collect::<Vec<_>>(),
                            "a pull has all bundles up to its end",
                            "{seqs:?} up to {stable}"
                        );
                        want!(bundles.iter().all(|b| b.rows.len() == 2), "a bundle is pulled whole", "a part of one");
                    }
                    Ok(())
                };
                for r in lab.together(vec![job(writer), job(reader)]) {
                    r?;
                }
                d.audit()
            },
        ),
        Check::must("pull.capped", "max_bundles over 5000 is capped", &["seed.pull.max_bundles"], |lab| {
            let d = history(lab, 2)?;
            for ask in ["5000", "5001", "1000000"] {
                want!(
                    d.pull(&format!("?max_bundles={ask}"))?.seqs() == [1, 2],
                    "max_bundles over the cap is taken as the cap",
                    "other bundles"
                );
            }
            Ok(())
        }),
        Check::must(
            "pull.empty_parameters",
            "empty and unknown parameters are ignored",
            &["seed.pull.max_bundles"],
            |lab| {
                let d = history(lab, 1)?;
                want!(
                    d.pull("?after_bundle_seq=&max_bundles=&target_bundle_seq=&other=1")?.seqs() == [1],
                    "an empty parameter is an absent one",
                    "other bundles"
                );
                Ok(())
            },
        ),
        Check::must("pull.isolated", "nobody else's bundles are pulled", &["spec.1.isolation"], |lab| {
            let (a, b, t) = (history(lab, 3)?, lab.ready()?, lab.plain()?);
            want!(b.pull("")?.bundles.is_empty(), "a user's history is its own", "bundles of another");
            b.push(1, &[t.insert(1, "of b")])?;
            let p = b.pull("")?;
            let own =
                p.seqs() == [1] && p.bundles[0].rows[0].payload.as_ref().is_some_and(|p| p.same(&t.full(1, "of b")));
            want!(own, "a user's history is its own", "{p:?}");
            want!(a.pull("")?.stable == 3, "another user's commits do not count", "another bundle");
            a.audit()
        }),
        Check::must(
            "pull.same_key",
            "two users may have the same key",
            &["spec.1.isolation", "seed.commit.conflict"],
            |lab| {
                let (a, b, t) = (lab.ready()?, lab.ready()?, lab.plain()?);
                a.push(1, &[t.insert(1, "of a")])?;
                a.push(2, &[t.insert(2, "of a, too")])?;
                // What the other user has is unknown here: no conflict but that of a missing row.
                let push = b.stage(1, &[t.update(2, 2, "of b")])?;
                let json = b.commit_reply(&push)?.refused(409, &["push_conflict"])?;
                let c = json.get("conflict").cloned().unwrap_or(crate::json::Json::Null);
                let blind = c.get("server_row") == Some(&crate::json::Json::Null)
                    && c.get("server_row_version").and_then(crate::json::Json::integer) == Some(0);
                want!(
                    blind && !json.to_string().contains("of a"),
                    "a conflict shows nothing of another user",
                    "{json}"
                );
                b.push(1, &[t.insert(1, "of b")])?;
                let live = a.live(&t.insert(1, ""))?;
                want!(
                    live.as_ref().and_then(|r| r.payload.as_ref()).is_some_and(|p| p.same(&t.full(1, "of a"))),
                    "each user has its own row",
                    "{live:?}"
                );
                a.audit()?;
                b.audit()
            },
        ),
    ]
}

fn additive() -> Vec<Check> {
    vec![
        Check::may("pull.inline", "max_inline_rows leaves the rows of larger bundles out", &["spec.8.inline"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            let a = d.push(1, &[t.insert(1, "a")])?;
            let b = d.push(2, &[t.insert(2, "b"), t.insert(3, "c"), t.insert(4, "d")])?;
            let p = d.pull("?max_inline_rows=2")?;
            if p.bundles.iter().all(|b| !b.omitted) {
                return crate::lab::not_offered("max_inline_rows is ignored");
            }
            want!(!p.bundles[0].omitted && p.bundles[0].rows.len() == 1, "a small bundle comes with its rows", "{p:?}");
            want!(
                p.bundles[1].omitted && p.bundles[1].rows.is_empty() && p.bundles[1].row_count == Some(3),
                "a larger one comes without, and says how many",
                "{p:?}"
            );
            want!(p.bundles[1].hash.as_ref() == Some(&b.hash), "its hash is that of its rows", "{p:?}");
            d.rows(&b)?;
            same(&d, &p.bundles[0], &a)
        }),
        Check::may(
            "pull.diverged",
            "the hash of another history is refused",
            &["spec.8.diverged", "spec.5.history"],
            |lab| {
                let d = history(lab, 2)?;
                let p = d.pull("")?;
                let Some(hash) = p.bundles[0].history.clone() else {
                    return crate::lab::not_offered("pulled bundles have no history_hash");
                };
                want!(
                    d.pull(&format!("?after_bundle_seq=1&after_history_hash={hash}"))?.seqs() == [2],
                    "the right hash is served",
                    "other bundles"
                );
                let wrong = "0".repeat(64);
                d.pull_reply(&format!("?after_bundle_seq=1&after_history_hash={wrong}"))?
                    .refused(409, &["history_diverged"])
                    .map(drop)
            },
        ),
        Check::may("pull.bytes", "a page ends at the soft byte limit with whole bundles", &["spec.8.bytes"], |lab| {
            let Some(most) = lab.limit("max_bytes_per_pull").filter(|n| *n <= 16 << 20) else {
                return crate::lab::not_offered("max_bytes_per_pull is not advertised, or over 16 MiB");
            };
            let (d, t) = (lab.ready()?, lab.plain()?);
            let text = "x".repeat(usize::try_from(most).unwrap_or(0) * 2 / 3);
            for id in 1..=3 {
                d.push(id, &[t.insert(id, &text)])?;
            }
            let p = d.pull("")?;
            want!(
                !p.bundles.is_empty() && p.bundles.len() < 3 && p.more && p.stable == 3,
                "a page ends at the byte limit, with at least one bundle",
                "{:?} of 3",
                p.seqs()
            );
            let (_, all) = d.pull_all(0, 1000)?;
            want!(all.len() == 3, "the pages together have every bundle", "{}", all.len());
            Ok(())
        })
        .slow(),
    ]
}

/// A pulled bundle is the one that was committed.
fn same(d: &Device<'_>, b: &Bundle, c: &Committed) -> Checked {
    let head = b.seq == c.seq && b.source == c.source && b.source_bundle_id == c.source_bundle_id;
    want!(
        head && b.hash.as_ref().is_none_or(|h| *h == c.hash),
        "a pulled bundle has the head that its commit said",
        "{b:?}, not {c:?}"
    );
    let rows = d.rows(c)?;
    let same = rows.len() == b.rows.len() && rows.iter().zip(&b.rows).all(|(a, b)| a.same(b));
    want!(same, "a pulled bundle has the rows of the committed bundle", "{}", shown_rows(&b.rows));
    Ok(())
}

/// A device whose history has so many bundles.
pub(super) fn history<'l>(lab: &'l Lab<'_>, bundles: i64) -> Checked<Device<'l>> {
    let (d, t) = (lab.ready()?, lab.plain()?);
    for id in 1..=bundles {
        d.push(id, &[t.insert(id, "a")])?;
    }
    Ok(d)
}
