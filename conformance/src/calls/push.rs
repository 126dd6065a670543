//! Connecting and pushing.

use super::read::{read_connected, read_staging};
use super::{Committed, Connected, read_committed};
use crate::json::Json;
use crate::lab::{Checked, Device, Reply, want};
use crate::rows::Change;

impl Device<'_> {
    pub(crate) fn connect(&self, pending: bool) -> Checked<Connected> {
        let reply = self.post("/sync/connect", format!("{{\"has_local_pending_rows\":{pending}}}"))?;
        read_connected(&reply)
    }

    pub(crate) fn connect_as(&self, pending: bool, resolution: &str) -> Checked<Connected> {
        let c = self.connect(pending)?;
        want!(c.resolution == resolution, format!("connect resolves as {resolution}"), "{}", c.body);
        Ok(c)
    }

    pub(crate) fn create_reply(&self, id: i64, rows: i64) -> Checked<Reply> {
        self.post("/sync/push-sessions", format!("{{\"source_bundle_id\":{id},\"planned_row_count\":{rows}}}"))
    }

    pub(crate) fn create_seed_reply(&self, id: i64, rows: i64, initialization: &str) -> Checked<Reply> {
        let body = format!(
            "{{\"source_bundle_id\":{id},\"planned_row_count\":{rows},\"initialization_id\":{}}}",
            Json::from(initialization)
        );
        self.post("/sync/push-sessions", body)
    }

    /// A session that takes chunks.
    pub(crate) fn create(&self, id: i64, rows: usize) -> Checked<String> {
        read_staging(&self.create_reply(id, rows as i64)?, Some(rows))
    }

    pub(crate) fn create_seed(&self, id: i64, rows: usize, initialization: &str) -> Checked<String> {
        read_staging(&self.create_seed_reply(id, rows as i64, initialization)?, Some(rows))
    }

    pub(crate) fn upload(&self, push: &str, start: i64, rows: &[Change]) -> Checked<Reply> {
        let rows: Vec<String> = rows.iter().map(Change::json).collect();
        self.upload_text(push, start, &rows)
    }

    pub(crate) fn upload_text(&self, push: &str, start: i64, rows: &[String]) -> Checked<Reply> {
        let body = format!("{{\"start_row_ordinal\":{start},\"rows\":[{}]}}", rows.join(","));
        self.post(&format!("/sync/push-sessions/{push}/chunks"), body)
    }

    pub(crate) fn chunk(&self, push: &str, start: usize, rows: &[Change]) -> Checked {
        let reply = self.upload(push, start as i64, rows)?;
        let json = reply.ok()?;
        let (id, next) = (reply.need_text(&json, "push_id")?, reply.need_integer(&json, "next_expected_row_ordinal")?);
        want!(id == push, "a chunk's reply repeats push_id", "{}", reply.came());
        let expected = "next_expected_row_ordinal is the start and the number of rows together";
        want!(next == (start + rows.len()) as i64, expected, "{}", reply.came());
        Ok(())
    }

    pub(crate) fn commit_reply(&self, push: &str) -> Checked<Reply> {
        self.post(&format!("/sync/push-sessions/{push}/commit"), "")
    }

    pub(crate) fn commit(&self, push: &str) -> Checked<Committed> {
        let reply = self.commit_reply(push)?;
        let c = read_committed(&reply, &reply.ok()?)?;
        want!(c.source == self.source_id(), "a bundle is of the source that pushed it", "{}", reply.came());
        self.lab.committed(self.user_id(), c.clone());
        Ok(c)
    }

    /// Pushes rows from beginning to end, in as many chunks as the backend wants.
    pub(crate) fn push(&self, id: i64, rows: &[Change]) -> Checked<Committed> {
        let push = self.create(id, rows.len())?;
        self.fill(&push, rows)?;
        let c = self.commit(&push)?;
        let expected = "a commit's reply has the tuple of its session";
        want!(c.source == self.source_id() && c.source_bundle_id == id, expected, "{c:?}");
        Ok(c)
    }

    pub(crate) fn fill(&self, push: &str, rows: &[Change]) -> Checked {
        let size = self.lab.limit("max_rows_per_push_chunk").map_or(500, |n| n.min(500)) as usize;
        for (n, rows) in rows.chunks(size).enumerate() {
            self.chunk(push, n * size, rows)?;
        }
        Ok(())
    }

    /// Stages rows without committing them.
    pub(crate) fn stage(&self, id: i64, rows: &[Change]) -> Checked<String> {
        let push = self.create(id, rows.len())?;
        self.fill(&push, rows)?;
        Ok(push)
    }
}
