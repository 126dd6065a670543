//! Reading snapshots, and comparing them with history.

use super::read::read_rows;
use super::{Page, Row, Session, read_session, shown_rows};
use crate::lab::{Checked, Device, Reply, want};
use crate::rows::Change;

impl Device<'_> {
    pub(crate) fn snapshot_reply(&self, body: &str) -> Checked<Reply> {
        self.post("/sync/snapshot-sessions", body)
    }

    pub(crate) fn snapshot(&self) -> Checked<Session> {
        read_session(&self.snapshot_reply("{}")?)
    }

    pub(crate) fn snapshot_page_reply(&self, id: &str, query: &str) -> Checked<Reply> {
        self.get(&format!("/sync/snapshot-sessions/{id}{query}"))
    }

    pub(crate) fn snapshot_page(&self, s: &Session, query: &str) -> Checked<Page> {
        let reply = self.snapshot_page_reply(&s.id, query)?;
        let json = reply.ok()?;
        let expected = "a snapshot page repeats its session's id and bundle";
        let same = reply.need_text(&json, "snapshot_id")? == s.id
            && reply.need_integer(&json, "snapshot_bundle_seq")? == s.seq;
        want!(same, expected, "{}", reply.came());
        let rows = read_rows(self.lab, &reply, &json, None)?;
        for row in &rows {
            let expected = "a snapshot row's version is a bundle of the snapshot";
            want!((1..=s.seq).contains(&row.version), expected, "{}", row.shown());
        }
        let (next, more) = (reply.need_integer(&json, "next_row_ordinal")?, reply.need_boolean(&json, "has_more")?);
        let expected = "has_more of a snapshot page is true exactly while rows are left";
        want!(more == (next < s.row_count && !rows.is_empty()), expected, "{}", reply.came());
        Ok(Page { rows, next, more })
    }

    /// All rows of a session, in pages of so many.
    pub(crate) fn snapshot_all(&self, s: &Session, page: i64) -> Checked<Vec<Row>> {
        let mut rows = Vec::new();
        loop {
            let p = self.snapshot_page(s, &format!("?after_row_ordinal={}&max_rows={page}", rows.len()))?;
            want!(!p.more || !p.rows.is_empty(), "a snapshot page with has_more has rows", "an empty page");
            rows.extend(p.rows);
            let expected = "next_row_ordinal of a snapshot page is the number of rows so far";
            want!(p.next == rows.len() as i64, expected, "{} after {} rows", p.next, rows.len());
            if !p.more {
                break;
            }
        }
        let expected = "a snapshot has row_count rows";
        want!(rows.len() as i64 == s.row_count, expected, "{} rows, row_count {}", rows.len(), s.row_count);
        Ok(rows)
    }

    /// The rows that live now.
    pub(crate) fn state(&self) -> Checked<Vec<Row>> {
        let s = self.snapshot()?;
        self.snapshot_all(&s, 1000)
    }

    /// The row that a snapshot has under this key.
    pub(crate) fn live(&self, c: &Change) -> Checked<Option<Row>> {
        Ok(self.state()?.into_iter().find(|r| r.is(&c.schema, &c.table, &c.key)))
    }

    /// History and snapshot tell the same story: replayed bundles give the live rows.
    pub(crate) fn audit(&self) -> Checked {
        let (stable, bundles) = self.pull_all(0, 1000)?;
        let mut rows: Vec<Row> = Vec::new();
        for bundle in bundles {
            for row in bundle.rows {
                rows.retain(|r| !r.is(&row.schema, &row.table, &row.key));
                if row.op != "DELETE" {
                    rows.push(row);
                }
            }
        }
        let session = self.snapshot()?;
        want!(session.seq == stable, "a snapshot stands at the newest bundle", "{} not {stable}", session.seq);
        let live = self.snapshot_all(&session, 1000)?;
        let expected = "a snapshot holds what the pulled history leaves alive";
        want!(live.len() == rows.len(), expected, "{}; by history {}", shown_rows(&live), shown_rows(&rows));
        for row in &live {
            let found = rows.iter().find(|r| r.is(&row.schema, &row.table, &row.key));
            let same = found.is_some_and(|r| {
                r.version == row.version && matches!((&r.payload, &row.payload), (Some(a), Some(b)) if a.same(b))
            });
            want!(
                same,
                expected,
                "{}; by history {}",
                row.shown(),
                found.map_or_else(|| "nothing".to_owned(), Row::shown)
            );
        }
        Ok(())
    }
}
