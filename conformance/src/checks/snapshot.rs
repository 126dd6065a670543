//! Snapshot sessions and source replacement.

mod paging;
mod replacement;
mod sessions;

pub(crate) use self::replacement::{names_replacement, replace};
use crate::calls::{read_session, shown_rows};
use crate::check::Check;
use crate::json::Json;
use crate::lab::{Checked, Device, Lab, Reply, job, want};

const UNKNOWN: &str = "6df0d8dd-a84b-43b6-bbca-8de70432922a";
const INVALID: &[&str] = &["snapshot_session_invalid"];

pub(super) fn checks() -> Vec<Check> {
    let mut all = content();
    all.extend(paging::paging());
    all.extend(sessions::sessions());
    all.extend(replacement::replacement());
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
                for r in lab.together(vec![job(writer), job(reader)]) {
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

/// A device with so many live rows, of one bundle.
fn rows<'l>(lab: &'l Lab<'_>, n: i64) -> Checked<Device<'l>> {
    let (d, t) = (lab.ready()?, lab.plain()?);
    let changes: Vec<_> = (0..n).map(|n| t.insert(n, &format!("row {n}"))).collect();
    d.push(1, &changes)?;
    Ok(d)
}
