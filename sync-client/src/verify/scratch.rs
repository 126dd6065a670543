//! What a comparison keeps meanwhile, in the scratch database beside the file: ranges to compare row by row,
//! keys that are left out, keys that differ. All of it may be lost at any time.

use rusqlite::{Connection, OptionalExtension as _};
use sync_core::record;

use super::merge::Side;
use super::report::Kind;
use crate::error::Error;
use crate::stage::Stage;

/// The tables of a comparison.
pub(super) struct Scratch<'a> {
    pub(super) stage: &'a Stage,
}

/// Keys above `lower`, up to `upper`, of one table.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) position: usize,
    pub(super) lower: Option<Vec<u8>>,
    pub(super) upper: Option<Vec<u8>>,
}

/// A key that differs.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) position: usize,
    pub(super) k: Vec<u8>,
    pub(super) kind: Kind,
}

impl<'a> Scratch<'a> {
    /// Begins with nothing.
    pub(super) fn new(stage: &'a Stage) -> Result<Self, Error> {
        stage.clear()?;
        stage.conn.execute_batch(&format!("{FORGET}{MAKE}"))?;
        Ok(Self { stage })
    }

    /// Gives the disk back.
    pub(super) fn end(self) -> Result<(), Error> {
        self.stage.conn.execute_batch(FORGET)?;
        self.stage.clear()
    }

    const fn conn(&self) -> &'a Connection {
        &self.stage.conn
    }

    pub(super) fn put_reach(&self, r: &Reach) -> Result<(), Error> {
        self.conn().prepare_cached("INSERT INTO verify_reach (t, lower, upper) VALUES (?, ?, ?)")?.execute((
            r.position as i64,
            &r.lower,
            &r.upper,
        ))?;
        Ok(())
    }

    pub(super) fn each_reach(&self, mut each: impl FnMut(Reach) -> Result<(), Error>) -> Result<(), Error> {
        let mut s = self.conn().prepare("SELECT t, lower, upper FROM verify_reach ORDER BY t, lower")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            each(Reach { position: r.get::<_, i64>(0)? as usize, lower: r.get(1)?, upper: r.get(2)? })?;
        }
        Ok(())
    }

    /// Calls `with` with the staged rows of the server in a range, by key.
    pub(super) fn server_rows<T>(
        &self,
        reach: &Reach,
        with: impl FnOnce(&mut dyn FnMut() -> Result<Option<Side>, Error>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // No key is below the first or above the second of these blobs.
        let mut s = self.conn().prepare_cached(
            "SELECT k, v, row FROM snapshot \
             WHERE t = ?1 AND k > coalesce(?2, x'') AND k <= coalesce(?3, x'ff') ORDER BY k",
        )?;
        let mut rows = s.query((reach.position as i64, &reach.lower, &reach.upper))?;
        with(&mut || {
            let Some(r) = rows.next()? else { return Ok(None) };
            let row = record::decode(r.get_ref(2)?.as_blob().map_err(|_| Error::Damaged("stage".into()))?)?;
            Ok(Some(Side { k: r.get(0)?, version: r.get(1)?, row: Ok(row) }))
        })
    }

    pub(super) fn leave_out(&self, position: usize, k: &[u8]) -> Result<(), Error> {
        self.conn()
            .prepare_cached("INSERT OR IGNORE INTO verify_out (t, k) VALUES (?, ?)")?
            .execute((position as i64, k))?;
        Ok(())
    }

    pub(super) fn is_left_out(&self, position: usize, k: &[u8]) -> Result<bool, Error> {
        Ok(self
            .conn()
            .prepare_cached("SELECT 1 FROM verify_out WHERE t = ? AND k = ?")?
            .exists((position as i64, k))?)
    }

    /// Notes a key that differs; `None` for one that is left out.
    pub(super) fn put_found(&self, position: usize, k: &[u8], kind: Option<Kind>) -> Result<(), Error> {
        self.conn()
            .prepare_cached("INSERT OR REPLACE INTO verify_found (t, k, kind, tried) VALUES (?, ?, ?, 0)")?
            .execute((position as i64, k, kind.map_or(0, stored)))?;
        Ok(())
    }

    /// Whether a key differs, left out or not.
    pub(super) fn is_found(&self, position: usize, k: &[u8]) -> Result<bool, Error> {
        Ok(self
            .conn()
            .prepare_cached("SELECT 1 FROM verify_found WHERE t = ? AND k = ?")?
            .exists((position as i64, k))?)
    }

    /// Notes how a repair was tried.
    pub(super) fn set_tried(&self, f: &Found, way: i64) -> Result<(), Error> {
        self.conn().prepare_cached("UPDATE verify_found SET tried = ? WHERE t = ? AND k = ?")?.execute((
            way,
            f.position as i64,
            &f.k,
        ))?;
        Ok(())
    }

    /// How a repair of this key was tried, where it differs.
    pub(super) fn tried(&self, position: usize, k: &[u8]) -> Result<Option<i64>, Error> {
        Ok(self
            .conn()
            .prepare_cached("SELECT tried FROM verify_found WHERE t = ? AND k = ? AND kind <> 0")?
            .query_row((position as i64, k), |r| r.get(0))
            .optional()?)
    }

    /// Hands over the keys that differ and are not left out, by table and key, with how a repair was tried.
    pub(super) fn each_found(&self, mut each: impl FnMut(Found, i64) -> Result<(), Error>) -> Result<(), Error> {
        // In pages: what is handed over is changed meanwhile.
        let mut after: (i64, Vec<u8>) = (-1, Vec::new());
        loop {
            let mut s = self.conn().prepare_cached(
                "SELECT t, k, kind, tried FROM verify_found WHERE (t, k) > (?, ?) AND kind <> 0 ORDER BY t, k LIMIT 500",
            )?;
            let page: Vec<(i64, Vec<u8>, i64, i64)> = s
                .query_map((after.0, &after.1), |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?
                .collect::<Result<_, _>>()?;
            let Some((t, k, ..)) = page.last() else { return Ok(()) };
            after = (*t, k.clone());
            for (t, k, kind, tried) in page {
                let kind = match kind {
                    1 => Kind::Missing,
                    2 => Kind::Extra,
                    _ => Kind::Different,
                };
                each(Found { position: t as usize, k, kind }, tried)?;
            }
        }
    }

    /// The server's row of a key: its version and stored form.
    pub(super) fn server_row(&self, f: &Found) -> Result<Option<(i64, Vec<u8>)>, Error> {
        Ok(self
            .conn()
            .prepare_cached("SELECT v, row FROM snapshot WHERE t = ? AND k = ?")?
            .query_row((f.position as i64, &f.k), |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()?)
    }
}

const fn stored(kind: Kind) -> i64 {
    match kind {
        Kind::Missing => 1,
        Kind::Extra => 2,
        Kind::Different => 3,
    }
}

const FORGET: &str =
    "DROP TABLE IF EXISTS verify_reach; DROP TABLE IF EXISTS verify_out; DROP TABLE IF EXISTS verify_found;";

const MAKE: &str = "
CREATE TABLE verify_reach (t INTEGER, lower BLOB, upper BLOB);
CREATE TABLE verify_out (t INTEGER, k BLOB, PRIMARY KEY (t, k)) WITHOUT ROWID;
CREATE TABLE verify_found (t INTEGER, k BLOB, kind INTEGER, tried INTEGER, PRIMARY KEY (t, k)) WITHOUT ROWID;";
