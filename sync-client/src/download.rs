//! Downloads of many pages: a snapshot, or the rows of one large bundle. One that is cut keeps what came
//! in the stage and goes on from there with the next call of the same process, while the server still has
//! it and the schema is the same.

use sync_core::hash::BundleHasher;
use sync_core::protocol::Code;
use sync_core::protocol::pull::BundleHead;
use sync_core::protocol::rows::{WireRow, read_page};
use sync_core::protocol::snapshot::SnapshotSession;

use crate::context::FaultPoint;
use crate::engine::Engine;
use crate::error::Error;
use crate::pull::read_failed;
use crate::report::Event;
use crate::stage::{Intake, Stage, StagedBundle};

/// A snapshot on its way.
pub(crate) struct Download {
    source: String,
    schema_version: i64,
    session: SnapshotSession,
    /// Rows that are staged.
    after: i64,
}

/// The rows of a large bundle on their way.
pub(crate) struct Fetch {
    seq: i64,
    hash: Option<String>,
    schema_version: i64,
    /// The last row that came, in the server's count.
    after: Option<i64>,
    /// Rows that came.
    taken: i64,
    /// Of them, rows that are staged.
    staged: i64,
    hasher: BundleHasher,
}

impl Fetch {
    /// Under which sequence its rows are staged.
    pub(crate) const fn rows_at(&self) -> i64 {
        -self.seq
    }
}

impl Engine {
    /// Downloads a snapshot into the stage. `None` where the server does not know the scope.
    pub(crate) fn download_snapshot(&self, stage: &mut Stage, source: &str) -> Result<Option<SnapshotSession>, Error> {
        let schema_version = self.store.schema_version();
        let kept = stage.snapshot.take().filter(|d| d.source == source && d.schema_version == schema_version);
        stage.bundle = None;
        let mut resumed = kept.is_some();
        let mut download = match kept {
            Some(d) => d,
            None => match self.begin_snapshot(stage, source)? {
                Some(d) => d,
                None => return Ok(None),
            },
        };
        loop {
            let Err(e) = self.snapshot_pages(stage, &mut download) else {
                self.api.delete_snapshot(source, &download.session.snapshot_id);
                return Ok(Some(download.session));
            };
            let gone = e.is_code(Code::SnapshotSessionNotFound)
                || e.is_code(Code::SnapshotSessionExpired)
                || e.is_wordless(&[404, 410]);
            if resumed && gone {
                resumed = false;
                match self.begin_snapshot(stage, source)? {
                    Some(d) => download = d,
                    None => return Ok(None),
                }
                continue;
            }
            if !gone && (e.is_no_answer() || matches!(e, Error::Stopped)) {
                stage.snapshot = Some(download);
            } else {
                self.api.delete_snapshot(source, &download.session.snapshot_id);
            }
            return Err(e);
        }
    }

    fn begin_snapshot(&self, stage: &Stage, source: &str) -> Result<Option<Download>, Error> {
        // First: where there is no room, the server keeps no session for it.
        stage.clear()?;
        let session = match self.api.create_snapshot(source) {
            Ok(s) => s,
            // Without words it may be that, too: connecting tells.
            Err(e) if e.code() == Some(Code::ScopeUninitialized) || e.wordless() == Some(409) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let total = Some(session.row_count.unsigned_abs());
        self.tell(&Event::Downloaded { rows: 0, total });
        Ok(Some(Download { source: source.to_owned(), schema_version: self.store.schema_version(), session, after: 0 }))
    }

    fn snapshot_pages(&self, stage: &Stage, d: &mut Download) -> Result<(), Error> {
        let most = match self.limits.max_rows_per_snapshot_chunk {
            n if n > 0 => n,
            _ => 1000,
        };
        let most = if self.small_pages() { most.min(SMALL_PAGE_ROWS) } else { most };
        let total = d.session.row_count;
        let mut intake = Intake::new(&self.store, self.algorithm());
        loop {
            let response =
                self.api.snapshot_page(&d.source, &d.session.snapshot_id, d.after, most).map_err(Error::from)?;
            let mut rows = 0;
            let page = stage.step(|| {
                let page = read_page(response.body, |w: WireRow| {
                    rows += 1;
                    match intake.snapshot_row(&w)? {
                        Some(row) => stage.put_snapshot_row(&row),
                        None => Ok(()),
                    }
                });
                page.map_err(read_failed)
            })?;
            if page.next_row_ordinal != d.after + rows {
                return Err(Error::Protocol("a snapshot page does not have the rows that it announces".into()));
            }
            d.after = page.next_row_ordinal;
            self.tell(&Event::Downloaded { rows: d.after.unsigned_abs(), total: Some(total.unsigned_abs()) });
            self.env.fault(FaultPoint::Downloading);
            if !page.has_more {
                break;
            }
            if rows == 0 {
                return Err(Error::Protocol("a snapshot page made no progress".into()));
            }
        }
        if d.after != total {
            return Err(Error::Protocol(format!("the snapshot has {} rows where {total} were announced", d.after)));
        }
        Ok(())
    }

    /// Downloads the rows of a bundle that came without them, and verifies its hash.
    pub(crate) fn fetch_rows(&self, stage: &mut Stage, b: &StagedBundle) -> Result<(), Error> {
        let source = self.source_id()?;
        let schema_version = self.store.schema_version();
        let mut fetch = match stage.bundle.take() {
            Some(f) if f.seq == b.seq && f.hash == b.hash && f.schema_version == schema_version => f,
            _ => {
                stage.forget_rows(b.rows_at())?;
                let hasher = BundleHasher::new(self.algorithm());
                let hash = b.hash.clone();
                Fetch { seq: b.seq, hash, schema_version, after: None, taken: 0, staged: 0, hasher }
            }
        };
        let fetched = self.bundle_pages(stage, b, &source, &mut fetch);
        if fetched.as_ref().is_err_and(|e| e.is_no_answer() || matches!(e, Error::Stopped)) {
            stage.bundle = Some(fetch);
            return fetched;
        }
        fetched?;
        let head = BundleHead {
            bundle_seq: b.seq,
            row_count: Some(b.rows),
            bundle_hash: b.hash.clone(),
            ..BundleHead::default()
        };
        Intake::resume(&self.store, self.algorithm(), fetch.hasher).finish(&head)?;
        Ok(())
    }

    /// Rows that are asked for at once.
    pub(crate) fn most_rows(&self) -> i64 {
        if self.small_pages() { SMALL_PAGE_ROWS } else { PAGE_ROWS }
    }

    fn bundle_pages(&self, stage: &Stage, b: &StagedBundle, source: &str, f: &mut Fetch) -> Result<(), Error> {
        let most = self.most_rows();
        loop {
            let response = self.api.committed_rows(source, b.seq, f.after, most).map_err(Error::from)?;
            // What a page brings counts once it is whole.
            let mut intake = Intake::resume(&self.store, self.algorithm(), f.hasher.clone());
            let (mut taken, mut staged) = (f.taken, f.staged);
            let page = stage.step(|| {
                let page = read_page(response.body, |w| {
                    if let Some(row) = intake.row(&w)? {
                        stage.put_row(b.rows_at(), staged, &row)?;
                        staged += 1;
                    }
                    taken += 1;
                    Ok(())
                });
                page.map_err(read_failed)
            })?;
            let further = taken > f.taken && f.after.is_none_or(|after| page.next_row_ordinal > after);
            if page.has_more && !further || taken > b.rows {
                return Err(Error::Protocol("a page of rows made no progress".into()));
            }
            f.after = Some(page.next_row_ordinal);
            (f.taken, f.staged, f.hasher) = (taken, staged, intake.hasher());
            self.tell(&Event::Downloaded { rows: taken.unsigned_abs(), total: Some(b.rows.unsigned_abs()) });
            self.env.fault(FaultPoint::Downloading);
            if !page.has_more {
                return Ok(());
            }
        }
    }

    /// Whether the call may only use so many bytes: then it asks for less at once.
    pub(crate) fn small_pages(&self) -> bool {
        self.api.budget().is_some_and(|b| b.bytes_left().is_some())
    }
}

/// Rows of a page of a bundle.
const PAGE_ROWS: i64 = 5000;
/// Rows of a page where a call may only use so many bytes.
const SMALL_PAGE_ROWS: i64 = 200;

#[cfg(test)]
mod tests;
