//! Digests by ranges: an addition by which a client finds the rows in which it differs.

use sync_core::protocol::digest::{DigestRequest, FEATURE};

use crate::calls::{Row, Session, share};
use crate::check::Check;
use crate::lab::{Checked, Device, Lab, not_offered, want};
use crate::profile::{Kind, Table};

const INVALID: &[&str] = &["digest_invalid"];

pub(super) fn checks() -> Vec<Check> {
    vec![
        Check::may(
            "digest.tables",
            "a snapshot session counts the rows of each table, in the order of the rows",
            &["add.digest.tables"],
            |lab| {
                offered(lab)?;
                let link = lab.link("foreign key", |l| l.parent.name != l.child.name)?;
                let d = lab.ready()?.exact();
                d.push(1, &[link.parent.insert(1, "p"), link.child_of(2, 1, "c"), link.parent.insert(3, "p")])?;
                let s = d.snapshot()?;
                let rows = d.snapshot_all(&s, 10)?;
                for t in [link.parent, link.child] {
                    let (before, last) = share(&s, &t.name)?;
                    let own = |(n, r): (usize, &Row)| (r.table == t.name) == (before..last).contains(&(n as i64));
                    let expected = "tables says which rows are whose";
                    want!(rows.iter().enumerate().all(own), expected, "{}: {before} to {last}", t.name);
                }
                Ok(())
            },
        ),
        Check::may(
            "digest.parts",
            "a range is cut into any number of parts, each with its digest",
            &["add.digest.parts", "add.digest.hash"],
            |lab| {
                let w = World::new(lab, 7)?;
                for parts in 1..=8 {
                    let got =
                        w.device.digest(&w.session, &w.rows, &DigestRequest { max_ranges: Some(parts), ..w.all() })?;
                    let many = got.len() as i64;
                    let most = lab.limit("max_ranges_per_digest").unwrap_or(i64::MAX);
                    want!(many == parts.min(7).min(most), "as many parts as were asked for", "{many} of {parts}");
                }
                let inner =
                    DigestRequest { after_row_ordinal: 2, until_row_ordinal: 5, max_ranges: Some(2), ..w.all() };
                w.device.digest(&w.session, &w.rows, &inner)?;
                w.device.digest(&w.session, &w.rows, &w.all()).map(drop)
            },
        ),
        Check::may("digest.columns", "only the named columns count", &["add.digest.hash"], |lab| {
            let w = World::new(lab, 3)?;
            let whole = w.digest(&w.all())?;
            for columns in
                [Vec::new(), w.table.key.clone(), w.table.columns.iter().skip(1).map(|c| c.name.clone()).collect()]
            {
                let some = w.digest(&DigestRequest { columns, ..w.all() })?;
                want!(some != whole, "other columns have another digest", "{some:?}");
            }
            let mut turned = w.all();
            turned.columns.reverse();
            want!(w.digest(&turned)? == whole, "the order of the columns does not matter", "another digest");
            Ok(())
        }),
        Check::may("digest.order", "rows are sorted by the bytes of their keys", &["add.digest.order"], |lab| {
            offered(lab)?;
            let t = lab.table("a text key", |t| t.column(&t.key[0]).is_some_and(|c| c.kind == Kind::Text))?;
            let d = lab.ready()?.exact();
            let keys = ["b", "B", "a", "10", "9", "é", "z", "中", "a b", "aa", "~"];
            let row = |k: &&str| {
                let c = t.insert(1, "a").with(&t.key[0], *k);
                let key = crate::json::Json::Object(vec![(t.key[0].clone(), (*k).into())]);
                crate::rows::Change { key, ..c }
            };
            d.push(1, &keys.iter().map(row).collect::<Vec<_>>())?;
            let rows = d.state()?;
            let text = |r: &Row| r.key.get(&t.key[0]).and_then(crate::json::Json::text).unwrap_or_default().to_owned();
            let found: Vec<String> = rows.iter().map(text).collect();
            let mut sorted = found.clone();
            sorted.sort();
            want!(found == sorted, "keys sort by their bytes", "{found:?}");
            Ok(())
        }),
        Check::may("digest.frozen", "a digest is of the frozen rows", &["add.digest.hash"], |lab| {
            let w = World::new(lab, 4)?;
            let before = w.digest(&w.all())?;
            w.device.push(2, &[w.table.update(1, 1, "later"), w.table.remove(2, 1), w.table.insert(9, "new")])?;
            want!(w.digest(&w.all())? == before, "the session does not change", "another digest");
            Ok(())
        }),
        Check::may("digest.refused", "what cannot be read is refused", &["add.digest.refused"], |lab| {
            let w = World::new(lab, 3)?;
            let no_column = vec!["no_such_column".to_owned()];
            for bad in [
                DigestRequest { table: "no_such_table".to_owned(), ..w.all() },
                DigestRequest { columns: no_column, ..w.all() },
                DigestRequest { until_row_ordinal: w.all().after_row_ordinal, ..w.all() },
                DigestRequest { until_row_ordinal: 4, ..w.all() },
                DigestRequest { after_row_ordinal: 2, until_row_ordinal: 1, ..w.all() },
            ] {
                w.device.digest_reply(&bad)?.refused(400, INVALID)?;
            }
            let good = w.all().query();
            for bad in [
                good.replace("&table=", "&other="),
                good.replace("&after_row_ordinal=0", "&after_row_ordinal=-1"),
                good.replace("&until_row_ordinal=3", "&until_row_ordinal=x"),
                format!("{good}&max_ranges=0"),
                good.replace("&columns=%5b", "&columns=%7b"),
            ] {
                debug_assert_ne!(bad, good);
                w.device.get(&format!("/sync/digest?{bad}"))?.refused(400, INVALID)?;
            }
            w.digest(&w.all()).map(drop)
        }),
        Check::may(
            "digest.sessions",
            "a digest keeps to the sessions as a page does",
            &["add.digest.sessions", "spec.1.isolation"],
            |lab| {
                let w = World::new(lab, 2)?;
                let other = lab.ready()?;
                other.digest_reply(&w.all())?.refused(403, &["snapshot_session_forbidden"])?;
                w.device.source("device-b").digest(&w.session, &w.rows, &w.all())?;
                w.device.delete(&format!("/sync/snapshot-sessions/{}", w.session.id))?.done()?;
                w.device.digest_reply(&w.all())?.refused(404, &["snapshot_session_not_found"])?;
                let made_up = DigestRequest { snapshot_id: "no-such-thing".to_owned(), ..w.all() };
                w.device.digest_reply(&made_up)?.refused(404, &["snapshot_session_not_found"]).map(drop)
            },
        ),
        Check::may(
            "digest.limits",
            "the advertised limits of a digest hold",
            &["add.digest.limits", "spec.10.enforced"],
            |lab| {
                offered(lab)?;
                let ranges = lab.limit("max_ranges_per_digest").filter(|n| *n <= 1000);
                let rows = lab.limit("max_rows_per_digest").filter(|n| *n <= 1000);
                if ranges.is_none() && rows.is_none() {
                    return not_offered("no limit of digests is advertised, or they are over 1000");
                }
                let w = World::new(lab, ranges.max(rows).unwrap_or(1) + 1)?;
                let all = w.all();
                let most = rows.unwrap_or(all.until_row_ordinal).min(all.until_row_ordinal);
                let fits = DigestRequest { until_row_ordinal: most, max_ranges: Some(i64::MAX), ..w.all() };
                let got = w.digest(&fits)?.len() as i64;
                let expected = "max_ranges over the cap is taken as the cap";
                want!(got == ranges.unwrap_or(most).min(most), expected, "{got} parts");
                if let Some(most) = rows {
                    let over = DigestRequest { until_row_ordinal: most + 1, ..w.all() };
                    w.device.digest_reply(&over)?.refused(400, INVALID)?;
                }
                Ok(())
            },
        )
        .slow(),
    ]
}

fn offered(lab: &Lab<'_>) -> Checked {
    if lab.subject.feature(FEATURE) {
        return lab.need_exact();
    }
    not_offered(format!("features do not list {FEATURE}"))
}

/// A snapshot of so many rows of one table, as the exact view has them.
struct World<'l> {
    device: Device<'l>,
    table: &'l Table,
    session: Session,
    rows: Vec<Row>,
}

impl<'l> World<'l> {
    fn new(lab: &'l Lab<'_>, rows: i64) -> Checked<Self> {
        offered(lab)?;
        let (device, table) = (lab.ready()?.exact(), lab.plain()?);
        let changes: Vec<_> = (1..=rows).map(|n| table.insert(n, &format!("<row {n}>"))).collect();
        device.push(1, &changes)?;
        let session = device.snapshot()?;
        let rows = device.snapshot_all(&session, 1000)?;
        Ok(Self { device, table, session, rows })
    }

    /// Every row and column, in as many parts as the backend likes.
    fn all(&self) -> DigestRequest {
        DigestRequest {
            snapshot_id: self.session.id.clone(),
            table: self.table.name.clone(),
            columns: self.table.columns.iter().map(|c| c.name.clone()).collect(),
            after_row_ordinal: 0,
            until_row_ordinal: self.rows.len() as i64,
            max_ranges: None,
        }
    }

    fn digest(&self, request: &DigestRequest) -> Checked<Vec<crate::calls::Part>> {
        self.device.digest(&self.session, &self.rows, request)
    }
}
