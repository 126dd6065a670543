//! Pages of a snapshot.

use super::*;
use crate::checks::paging;

pub(super) fn paging() -> Vec<Check> {
    vec![
        Check::must(
            "snapshot.pages",
            "pages of every size cover the snapshot without gap or repetition",
            &["seed.snapshot.page", "seed.snapshot.max_rows"],
            |lab| {
                let d = rows(lab, 5)?;
                let s = d.snapshot()?;
                paging::every_size(&|query| d.snapshot_page(&s, query), &d.snapshot_all(&s, 1000)?, 0)
            },
        ),
        Check::must("snapshot.after_last", "after the last row there is none", &["seed.snapshot.page"], |lab| {
            let d = rows(lab, 3)?;
            let s = d.snapshot()?;
            paging::after_last(&|query| d.snapshot_page(&s, query), 3)
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
            paging::capped(&|query| d.snapshot_page(&s, query), most)
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
                paging::default_size(&|query| d.snapshot_page(&s, query), size, 0)
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
                paging::empty_parameters(&|query| d.snapshot_page(&s, query))
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

fn bad_page(lab: &Lab<'_>, query: &str) -> Checked {
    let d = rows(lab, 1)?;
    let s = d.snapshot()?;
    d.snapshot_page_reply(&s.id, query)?.refused(400, &["snapshot_chunk_invalid"])?;
    want!(d.snapshot_all(&s, 10)?.len() == 1, "a refused page leaves the session", "other rows");
    Ok(())
}
