//! What holds for pages of rows wherever they are served: of a committed bundle, of a snapshot.

use crate::calls::{Page, Row, shown_rows};
use crate::lab::{Checked, want};

/// Asks for a page by its query.
pub(super) type Ask<'a> = &'a dyn Fn(&str) -> Checked<Page>;

/// Pages of every size are the five rows of the whole, without gap or repetition. `before` is the ordinal before the first row's.
pub(super) fn every_size(ask: Ask<'_>, whole: &[Row], before: i64) -> Checked {
    let total = whole.len() as i64;
    want!(total == 5, "the rows that were pushed are there", "{}", shown_rows(whole));
    for size in 1..=total + 1 {
        let mut got: Vec<Row> = Vec::new();
        let mut query = format!("?max_rows={size}");
        loop {
            let p = ask(&query)?;
            let left = total - got.len() as i64;
            want!(
                p.rows.len() as i64 == size.min(left),
                "a page has max_rows rows, the last what is left",
                "{} of {size} with {left} left",
                p.rows.len()
            );
            got.extend(p.rows);
            let read = got.len() as i64;
            let expected = "next_row_ordinal is the ordinal of the last row";
            want!(p.next == before + read, expected, "{} after {read} rows", p.next);
            let expected = "has_more is true exactly while rows are left";
            want!(p.more == (read < total), expected, "{} after {read} of {total}", p.more);
            if !p.more {
                break;
            }
            query = format!("?max_rows={size}&after_row_ordinal={}", p.next);
        }
        let same = got.len() == whole.len() && got.iter().zip(whole).all(|(a, b)| a.same(b));
        let expected = "pages of any size are the same rows in the same order";
        want!(same, expected, "{} with pages of {size}", shown_rows(&got));
    }
    Ok(())
}

/// At the last ordinal and after it there is no row.
pub(super) fn after_last(ask: Ask<'_>, last: i64) -> Checked {
    for after in [last, last + 1, 1000] {
        let p = ask(&format!("?after_row_ordinal={after}"))?;
        let empty = p.rows.is_empty() && !p.more && p.next == after;
        want!(empty, "an empty page repeats after_row_ordinal", "{p:?}");
    }
    Ok(())
}

/// Asking for more than there is, or than is allowed, gives the two rows that there are.
pub(super) fn capped(ask: Ask<'_>, most: i64) -> Checked {
    for max in [most, most + 1, 2_000_000_000] {
        let p = ask(&format!("?max_rows={max}"))?;
        want!(p.rows.len() == 2, "max_rows over the cap is taken as the cap", "{} rows for {max}", p.rows.len());
    }
    Ok(())
}

/// Of one row more than the default, the first page has the default, the second the last row.
pub(super) fn default_size(ask: Ask<'_>, size: i64, before: i64) -> Checked {
    let p = ask("")?;
    let first = p.rows.len() as i64 == size && p.more && p.next == before + size;
    let expected = "the first page has the advertised number of rows";
    want!(first, expected, "{} rows, next {}", p.rows.len(), p.next);
    let p = ask(&format!("?after_row_ordinal={}", p.next))?;
    want!(p.rows.len() == 1 && !p.more, "the second page has the last row", "{} rows", p.rows.len());
    Ok(())
}

/// Empty and unknown parameters leave the two rows that there are.
pub(super) fn empty_parameters(ask: Ask<'_>) -> Checked {
    let p = ask("?after_row_ordinal=&max_rows=&other=1")?;
    want!(p.rows.len() == 2, "empty and unknown parameters are ignored", "{} rows", p.rows.len());
    Ok(())
}
