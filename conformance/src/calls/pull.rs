//! Reading committed bundles: one by its rows, and all by pulling.

use super::read::read_rows;
use super::{Bundle, Committed, Page, Pulled, Row, check_hash, read_committed};
use crate::json::Json;
use crate::lab::{Checked, Device, Reply, fail, want};

impl Device<'_> {
    pub(crate) fn rows_reply(&self, seq: i64, query: &str) -> Checked<Reply> {
        self.get(&format!("/sync/committed-bundles/{seq}/rows{query}"))
    }

    /// A page of a committed bundle, compared with what the commit said.
    pub(crate) fn rows_page(&self, c: &Committed, query: &str) -> Checked<Page> {
        let reply = self.rows_reply(c.seq, query)?;
        let json = reply.ok()?;
        let head = read_committed(&reply, &json)?;
        let expected = "a page of a committed bundle repeats what its commit said";
        let same = head.seq == c.seq
            && head.source == c.source
            && head.source_bundle_id == c.source_bundle_id
            && head.row_count == c.row_count
            && (head.hash == c.hash || self.is_exact());
        want!(same, expected, "{}; the commit said {c:?}", reply.came());
        let rows = read_rows(self.lab, &reply, &json, Some(c.seq))?;
        let (next, more) = (reply.need_integer(&json, "next_row_ordinal")?, reply.need_boolean(&json, "has_more")?);
        Ok(Page { rows, next, more })
    }

    /// All rows of a bundle, whose count and hash are those of the commit.
    pub(crate) fn rows(&self, c: &Committed) -> Checked<Vec<Row>> {
        let mut rows = Vec::new();
        let mut query = String::new();
        loop {
            let page = self.rows_page(c, &query)?;
            rows.extend(page.rows);
            let expected = "next_row_ordinal of a committed bundle's page is the ordinal of its last row";
            want!(page.next == rows.len() as i64 - 1, expected, "{} after {} rows", page.next, rows.len());
            if !page.more {
                break;
            }
            query = format!("?after_row_ordinal={}", page.next);
        }
        let expected = "a committed bundle has row_count rows";
        want!(rows.len() as i64 == c.row_count, expected, "{} rows, row_count {}", rows.len(), c.row_count);
        if !self.is_exact() {
            check_hash(&rows, &c.hash, false)?;
        }
        Ok(rows)
    }

    pub(crate) fn pull_reply(&self, query: &str) -> Checked<Reply> {
        self.get(&format!("/sync/pull{query}"))
    }

    /// One page of a pull.
    pub(crate) fn pull(&self, query: &str) -> Checked<Pulled> {
        self.read_pulled(query, &self.pull_reply(query)?)
    }

    /// The reply to a pull with that query.
    pub(crate) fn read_pulled(&self, query: &str, reply: &Reply) -> Checked<Pulled> {
        let json = reply.ok()?;
        let stable = reply.need_integer(&json, "stable_bundle_seq")?;
        let more = reply.need_boolean(&json, "has_more")?;
        let Some(items) = reply.need(&json, "bundles")?.items() else {
            return fail("bundles is an array", reply.came());
        };
        let mut bundles: Vec<Bundle> = Vec::new();
        for item in items {
            let seq = reply.need_integer(item, "bundle_seq")?;
            let expected = "bundles of a pull come in order and without a gap";
            want!(bundles.last().is_none_or(|b| b.seq + 1 == seq), expected, "{}", reply.came());
            let omitted = item.get("rows_omitted").and_then(Json::boolean) == Some(true);
            let b = Bundle {
                seq,
                source: reply.need_text(item, "source_id")?,
                source_bundle_id: reply.need_integer(item, "source_bundle_id")?,
                rows: read_rows(self.lab, reply, item, Some(seq))?,
                row_count: item.get("row_count").and_then(Json::integer),
                hash: item.get("bundle_hash").and_then(Json::text).map(str::to_owned),
                history: item.get("history_hash").and_then(Json::text).map(str::to_owned),
                omitted,
            };
            for (name, there) in [("row_count", b.row_count.is_some()), ("bundle_hash", b.hash.is_some())] {
                want!(
                    item.get(name).is_none() != there,
                    format!("{name} of a bundle has its type"),
                    "{}",
                    reply.came()
                );
            }
            want!(!b.source.is_empty(), "a bundle has its source", "{}", reply.came());
            want!(b.source_bundle_id > 0, "source_bundle_id is 1 or more", "{}", reply.came());
            if !omitted {
                want!(!b.rows.is_empty(), "a bundle of a pull has rows", "{}", reply.came());
                let expected = "row_count of a bundle is the number of its rows";
                want!(b.row_count.is_none_or(|n| n == b.rows.len() as i64), expected, "{}", reply.came());
                if let Some(hash) = &b.hash {
                    check_hash(&b.rows, hash, self.is_exact())?;
                }
            }
            if let Some(c) = self.lab.commit_of(self.user_id(), seq) {
                let same = b.source == c.source && b.source_bundle_id == c.source_bundle_id;
                let count = b.row_count.is_none_or(|n| n == c.row_count);
                want!(
                    same && count,
                    "a pulled bundle has the head that its commit said",
                    "{}, not {c:?}",
                    reply.came()
                );
            }
            bundles.push(b);
        }
        let asked = |name: &str| query.split(['?', '&']).find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
        let after = asked("after_bundle_seq").and_then(|n| n.parse().ok()).unwrap_or(0);
        let last = bundles.last().map_or(after, |b| b.seq);
        let expected = "has_more is true exactly while the window has more bundles";
        want!(more == (last < stable), expected, "{}", reply.came());
        Ok(Pulled { stable, bundles, more })
    }

    /// Everything after a checkpoint, page by page, up to the end that the first page froze.
    pub(crate) fn pull_all(&self, after: i64, page: i64) -> Checked<(i64, Vec<Bundle>)> {
        let first = self.pull(&format!("?after_bundle_seq={after}&max_bundles={page}"))?;
        let (stable, mut more, mut bundles) = (first.stable, first.more, first.bundles);
        while more {
            let last = bundles.last().map_or(after, |b| b.seq);
            let next = self.pull(&format!("?after_bundle_seq={last}&max_bundles={page}&target_bundle_seq={stable}"))?;
            want!(
                next.stable == stable,
                "stable_bundle_seq is the target on every page",
                "{} not {stable}",
                next.stable
            );
            let Some(b) = next.bundles.first() else {
                return fail("a page after has_more has a bundle", "an empty page".to_owned());
            };
            want!(b.seq == last + 1, "pages of a pull follow each other without a gap", "{} after {last}", b.seq);
            more = next.more;
            bundles.extend(next.bundles);
        }
        let last = bundles.last().map_or(after, |b| b.seq);
        want!(last == stable, "the last page of a pull reaches stable_bundle_seq", "{last}, not {stable}");
        Ok((stable, bundles))
    }
}
