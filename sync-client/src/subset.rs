//! Which of the pending rows go now, where not all of them do: a part of a large set, or what the search for a refused
//! row takes.

use sync_core::engine::bisect::Take;
use sync_core::key::Key;
use sync_core::schema::Table;
use sync_core::value::Value;

use crate::error::Error;
use crate::orphans::{by_key, parent_key};
use crate::store::{Meta, Store};

/// Which of the pending rows are frozen.
pub(crate) struct Subset {
    part: Option<i64>,
    take: Option<Take>,
    /// Whether a row is pending that the server does not have, and that is not in it.
    later: String,
}

impl Subset {
    pub(crate) fn new(part: Option<i64>, take: Option<Take>) -> Self {
        let in_part = part.map(|n| {
            format!(" AND EXISTS (SELECT 1 FROM main._sync_part p WHERE p.n = {n} AND p.t = d.t AND p.k = d.k)")
        });
        let later = format!(
            "SELECT 1 FROM main._sync_dirty d WHERE d.t = ? AND d.k = ? AND d.held IS NULL AND NOT (true{}{}) \
             AND NOT EXISTS (SELECT 1 FROM main._sync_row r WHERE r.t = d.t AND r.k = d.k AND r.v >= 0)",
            in_part.unwrap_or_default(),
            taken(take)
        );
        Self { part, take, later }
    }

    pub(crate) const fn is_whole(&self) -> bool {
        self.part.is_none() && self.take.is_none()
    }

    /// The pending rows of one table, by key.
    pub(crate) fn sql(&self) -> String {
        let from = match self.part {
            Some(n) => {
                format!("main._sync_part p CROSS JOIN main._sync_dirty d ON p.n = {n} AND d.t = p.t AND d.k = p.k")
            }
            None => "main._sync_dirty d".into(),
        };
        format!(
            "SELECT d.k, d.since, d.base, r.v, d.departure, d.heir FROM {from} LEFT JOIN main._sync_row r ON r.t = d.t AND r.k = d.k \
             WHERE d.t = ? AND d.held IS NULL{} ORDER BY d.k",
            taken(self.take)
        )
    }
}

fn taken(take: Option<Take>) -> String {
    take.map(|t| format!(" AND {}", Store::taken_by(t))).unwrap_or_default()
}

impl Store {
    /// Whether a row refers by key to one that is pending, that the server does not have, and that is not among those
    /// that go with it: under that key it may find a row of somebody else. So it is where the other one is newer than
    /// the parts of the set, or got another number since they were made.
    pub(crate) fn goes_too_early(&self, subset: &Subset, table: &Table, row: &[Value]) -> Result<bool, Error> {
        if subset.is_whole() {
            return Ok(false);
        }
        for fk in &table.foreign_keys {
            let parent = self.schema().position(&fk.parent).filter(|p| by_key(fk, self.table(*p)));
            let Some((parent, key)) = parent.and_then(|p| Some((p, parent_key(fk, self.table(p), row)?))) else {
                continue;
            };
            // A reference to no row at all has a NULL, which no key has.
            let Ok(k) = Key::pack(&key) else { continue };
            let m = &self.managed[parent];
            if self.conn.prepare_cached(&subset.later)?.exists((m.id, k.as_bytes()))?
                && m.sql.exists(&self.conn, &key)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The set is parted anew, and a search knows nothing of these rows any more: they go after, or with, what they
    /// refer to.
    pub(crate) fn order_anew(&self, early: &[(i64, Vec<u8>)]) -> Result<(), Error> {
        self.conn.execute_batch("DELETE FROM main._sync_part")?;
        Meta::Part.clear(&self.conn)?;
        let mut known = self.conn.prepare_cached("DELETE FROM main._sync_suspect WHERE t = ? AND k = ?")?;
        for (t, k) in early {
            known.execute((t, k))?;
        }
        Ok(())
    }
}
