//! Pages of committed bundles.

use super::paging;
use crate::calls::{Committed, shown_rows};
use crate::check::Check;
use crate::lab::{Checked, Device, Lab, want};

const INVALID: &[&str] = &["committed_bundle_chunk_invalid"];

pub(super) fn checks() -> Vec<Check> {
    vec![
        Check::must(
            "rows.page",
            "a committed bundle has its head and its rows",
            &["seed.rows.reply", "seed.keys.strings"],
            |lab| {
                let (d, c) = bundle(lab, 3)?;
                let p = d.rows_page(&c, "")?;
                want!(
                    p.rows.len() == 3 && p.next == 2 && !p.more,
                    "three rows are one page, the last ordinal 2",
                    "{p:?}"
                );
                Ok(())
            },
        ),
        Check::must("rows.one", "a bundle of one row has ordinal 0", &["seed.rows.paging"], |lab| {
            let (d, c) = bundle(lab, 1)?;
            let p = d.rows_page(&c, "")?;
            want!(p.rows.len() == 1 && p.next == 0 && !p.more, "next_row_ordinal is 0 and there is no more", "{p:?}");
            Ok(())
        }),
        Check::must(
            "rows.pages",
            "pages of every size cover the bundle without gap or repetition",
            &["seed.rows.paging", "seed.rows.max_rows", "seed.rows.deterministic"],
            |lab| {
                let (d, c) = bundle(lab, 5)?;
                paging::every_size(&|query| d.rows_page(&c, query), &d.rows(&c)?, -1)
            },
        ),
        Check::must("rows.after_zero", "after_row_ordinal 0 begins at row 1", &["seed.rows.paging"], |lab| {
            let (d, c) = bundle(lab, 3)?;
            let (all, p) = (d.rows(&c)?, d.rows_page(&c, "?after_row_ordinal=0")?);
            want!(p.rows.len() == 2 && p.rows[0].same(&all[1]) && p.next == 2, "ordinals begin at 0", "{p:?}");
            Ok(())
        }),
        Check::must("rows.after_last", "after the last row there is none", &["seed.rows.paging"], |lab| {
            let (d, c) = bundle(lab, 3)?;
            paging::after_last(&|query| d.rows_page(&c, query), 2)
        }),
        Check::must(
            "rows.again",
            "a page is the same each time, also for another source",
            &["seed.rows.deterministic"],
            |lab| {
                let (d, c) = bundle(lab, 4)?;
                let a = d.rows(&c)?;
                for d in [d.clone(), d.source("device-b")] {
                    let b = d.rows(&c)?;
                    want!(
                        a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.same(b)),
                        "the rows of a bundle do not change",
                        "{}",
                        shown_rows(&b)
                    );
                }
                Ok(())
            },
        ),
        Check::must(
            "rows.later_changes",
            "a bundle keeps its rows when they change later",
            &["seed.rows.deterministic", "spec.5.stable"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let c = d.push(1, &[t.insert(1, "a"), t.insert(2, "b")])?;
                let before = d.rows(&c)?;
                d.push(2, &[t.update(1, c.seq, "x"), t.remove(2, c.seq)])?;
                let after = d.rows(&c)?;
                want!(
                    before.iter().zip(&after).all(|(a, b)| a.same(b)),
                    "history does not change",
                    "{}",
                    shown_rows(&after)
                );
                Ok(())
            },
        ),
        Check::must("rows.capped", "max_rows over the capability is capped", &["seed.rows.max_rows"], |lab| {
            let (d, c) = bundle(lab, 2)?;
            let most = lab.limit("max_rows_per_committed_bundle_chunk").unwrap_or(5000);
            paging::capped(&|query| d.rows_page(&c, query), most)
        }),
        Check::must(
            "rows.default_size",
            "without max_rows a page has the default number of rows",
            &["seed.rows.max_rows", "spec.10.enforced"],
            |lab| {
                let Some(size) = lab.limit("default_rows_per_committed_bundle_chunk").filter(|n| *n <= 2000) else {
                    return crate::lab::not_offered(
                        "default_rows_per_committed_bundle_chunk is not advertised, or over 2000",
                    );
                };
                let (d, c) = bundle(lab, size + 1)?;
                paging::default_size(&|query| d.rows_page(&c, query), size, -1)
            },
        )
        .slow(),
        Check::must("rows.empty_parameters", "an empty parameter is an absent one", &["seed.rows.max_rows"], |lab| {
            let (d, c) = bundle(lab, 2)?;
            paging::empty_parameters(&|query| d.rows_page(&c, query))
        }),
        Check::must("rows.unknown", "an unknown bundle is 404", &["seed.rows.reply"], |lab| {
            let (d, c) = bundle(lab, 1)?;
            d.rows_reply(c.seq + 1, "")?.refused(404, &["committed_bundle_not_found"])?;
            d.rows_reply(i64::MAX, "")?.refused(404, &["committed_bundle_not_found"]).map(drop)
        }),
        Check::should(
            "rows.unknown_user",
            "of a user of whom nobody has heard there are no rows, which is no fault",
            &["seed.rows.reply"],
            "a device that looks for its bundle takes a lost account for an outage, and waits for ever",
            |lab| {
                let reply = lab.user()?.rows_reply(1, "")?;
                let expected = "rows of an unknown user are refused as not found, or as not initialized";
                want!(matches!(reply.status, 404 | 409), expected, "{}", reply.came());
                reply.refused(reply.status, &["committed_bundle_not_found", "scope_uninitialized"]).map(drop)
            },
        ),
        Check::must("rows.isolated", "another user's bundle is not served", &["spec.1.isolation"], |lab| {
            let (d, c) = bundle(lab, 1)?;
            let other = lab.ready()?;
            other.rows_reply(c.seq, "")?.refused(404, &["committed_bundle_not_found"])?;
            let t = lab.plain()?;
            let own = other.push(1, &[t.insert(1, "own")])?;
            let rows = other.rows(&own)?;
            want!(
                rows.len() == 1 && rows[0].payload.as_ref().is_some_and(|p| p.same(&t.full(1, "own"))),
                "each user's bundle 1 is its own",
                "{}",
                shown_rows(&rows)
            );
            d.rows(&c).map(drop)
        }),
        Check::must(
            "rows.invalid.sequence",
            "a sequence that is no positive integer is refused",
            &["seed.rows.reply"],
            |lab| {
                let (d, _) = bundle(lab, 1)?;
                for seq in ["0", "-1", "x", "1.5", "9223372036854775808"] {
                    let reply = d.get(&format!("/sync/committed-bundles/{seq}/rows"))?;
                    if reply.status == 404 {
                        reply.refused(404, &["committed_bundle_not_found"])?
                    } else {
                        reply.refused(400, INVALID)?
                    };
                }
                Ok(())
            },
        ),
        Check::must(
            "rows.invalid.after_negative",
            "a negative after_row_ordinal is refused",
            &["seed.rows.paging"],
            |lab| invalid(lab, "?after_row_ordinal=-1"),
        ),
        Check::must(
            "rows.invalid.after_text",
            "after_row_ordinal that is no integer is refused",
            &["seed.rows.paging"],
            |lab| invalid(lab, "?after_row_ordinal=x"),
        ),
        Check::must("rows.invalid.max_zero", "max_rows 0 is refused", &["seed.rows.max_rows"], |lab| {
            invalid(lab, "?max_rows=0")
        }),
        Check::must("rows.invalid.max_negative", "a negative max_rows is refused", &["seed.rows.max_rows"], |lab| {
            invalid(lab, "?max_rows=-5")
        }),
        Check::must(
            "rows.invalid.max_text",
            "max_rows that is no integer is refused",
            &["seed.rows.max_rows"],
            |lab| invalid(lab, "?max_rows=ten"),
        ),
    ]
}

/// A device with one committed bundle of so many rows.
fn bundle<'l>(lab: &'l Lab<'_>, rows: i64) -> Checked<(Device<'l>, Committed)> {
    let (d, t) = (lab.ready()?, lab.plain()?);
    let changes: Vec<_> = (0..rows).map(|n| t.insert(n, &format!("row {n}"))).collect();
    let c = d.push(1, &changes)?;
    want!(c.row_count == rows, "a bundle has the rows that were pushed", "{c:?}");
    Ok((d, c))
}

fn invalid(lab: &Lab<'_>, query: &str) -> Checked {
    let (d, c) = bundle(lab, 1)?;
    d.rows_reply(c.seq, query)?.refused(400, INVALID).map(drop)
}
