//! Rings and long lines of UNIQUE values (S4): remote rows that wait for one another are taken out and put in again.

use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::record;

use crate::apply::{Applier, Written, fit};
use crate::aside::{UNIQUE_HELD, Why};
use crate::error::Error;
use crate::renamed::Before;
use crate::settle::over;
use crate::stage::StagedRow;

/// A row of a ring.
struct Link {
    r: StagedRow,
    before: Option<Before>,
    /// Rows of unsynced tables refer to it as it is, also through others, and nothing is declared for them.
    kept: bool,
}

impl Applier<'_> {
    /// What does not fit even then, only this file's schema refuses. It is set aside, and is not here any more, unless
    /// rows refer to it that must not refer to nothing: then it stays as it was, and what waits for its value waits on.
    pub(crate) fn put_in_again(&mut self, blocked: Vec<StagedRow>) -> Result<(), Error> {
        let store = self.store;
        let mut ring = Vec::with_capacity(blocked.len());
        for mut r in blocked {
            let key = Key::from_stored(r.k.clone()).unpack()?;
            let before = self.before(r.position, &r.k)?;
            let kept = store.kept_by_local(r.position, &key)?.is_some();
            let live = store.managed[r.position].sql.read(&store.conn, &key)?.and_then(Result::ok);
            if let (Some(row), Some(live)) = (&mut r.row, live) {
                // What it does not mention stays.
                *row = record::encode(&over(fit(record::decode(row)?, store.table(r.position)), Some(&live)));
            }
            ring.push(Link { r, before, kept });
        }
        let (gone, written) = loop {
            store.conn.execute_batch("SAVEPOINT _sync_ring")?;
            let (mut gone, mut written) = (Vec::new(), Vec::new());
            for Link { r, .. } in &ring {
                let key = Key::from_stored(r.k.clone()).unpack()?;
                gone.push(store.managed[r.position].sql.delete(&store.conn, &key)? > 0);
            }
            for Link { r, .. } in &ring {
                written.push(self.write(r, Known::Never)?);
            }
            if ring.iter().zip(&written).all(|(link, w)| !link.kept || matches!(w, Written::Yes)) {
                store.conn.execute_batch("RELEASE _sync_ring")?;
                break (gone, written);
            }
            store.take_back("_sync_ring", Ok(()))?;
            let mut others = Vec::new();
            for (link, w) in ring.into_iter().zip(written) {
                if !link.kept || self.unless_written(&link.r, w)? {
                    others.push(link);
                }
            }
            ring = others;
        };
        for (Link { r, .. }, gone) in ring.iter().zip(gone) {
            if gone {
                self.changed(r.position, &r.k, true);
            }
        }
        for (Link { r, .. }, w) in ring.iter().zip(written) {
            if self.unless_written(r, w)? {
                self.done(r)?;
            }
        }
        for Link { before, .. } in ring {
            self.written(before)?;
        }
        Ok(())
    }

    /// Sets a row aside that could not be written. Whether it was.
    fn unless_written(&mut self, r: &StagedRow, written: Written) -> Result<bool, Error> {
        match written {
            Written::Yes => return Ok(true),
            Written::Blocked => self.set_aside(r, Why::Unique, UNIQUE_HELD)?,
            Written::Refused(why) => self.set_aside(r, Why::Rule, &why)?,
            Written::Referred(table) => self.set_aside(r, Why::Local, &table)?,
        }
        Ok(false)
    }
}
