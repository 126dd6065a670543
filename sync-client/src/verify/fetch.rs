//! The rows of a snapshot that are compared by themselves.

use std::ops::Range;

use sync_core::protocol::rows::{WireRow, read_page};
use sync_core::protocol::snapshot::SnapshotSession;

use crate::engine::Engine;
use crate::error::Error;
use crate::pull::read_failed;
use crate::report::Event;
use crate::stage::{Intake, Stage};

impl Engine {
    /// Stages these rows of a snapshot, as its pages count them. Returns table and key of the last one, where
    /// that is a row of a table of this file.
    pub(super) fn fetch(
        &self,
        stage: &Stage,
        source: &str,
        session: &SnapshotSession,
        rows: Range<i64>,
    ) -> Result<Option<(usize, Vec<u8>)>, Error> {
        let most = match self.limits.max_rows_per_snapshot_chunk {
            n if n > 0 => n,
            _ => 1000,
        };
        let mut intake = Intake::new(&self.store, self.algorithm());
        let (mut after, mut last) = (rows.start, None);
        while after < rows.end {
            self.check_stopped()?;
            let ask = most.min(rows.end - after);
            let response = self.api.snapshot_page(source, &session.snapshot_id, after, ask).map_err(Error::from)?;
            let mut came = 0;
            let page = stage.step(|| {
                let page = read_page(response.body, |w: WireRow| {
                    came += 1;
                    last = None;
                    if let Some(row) = intake.snapshot_row(&w)? {
                        stage.put_snapshot_row(&row)?;
                        last = Some((row.position, row.k));
                    }
                    Ok(())
                });
                page.map_err(read_failed)
            })?;
            after += came;
            if came == 0
                || after > rows.end
                || page.next_row_ordinal != after
                || page.has_more != (after < session.row_count)
            {
                return Err(Error::Protocol("a snapshot page does not have the rows that it announces".into()));
            }
            let (so_far, total) = ((after - rows.start).unsigned_abs(), (rows.end - rows.start).unsigned_abs());
            self.tell(&Event::Downloaded { rows: so_far, total: Some(total) });
        }
        Ok(last)
    }
}
