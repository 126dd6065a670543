//! Which intents wait for which (cases C8, P7): the ties of the dirty rows, read from the file for
//! [`sync_core::engine::ties`] to decide.

use std::collections::BTreeMap;

use rusqlite::Connection;
use sync_core::engine::change::Known;
use sync_core::engine::ties::{Before, Facts, Shape, Ties, pack};
use sync_core::key::Key;
use sync_core::record;

use crate::error::Error;
use crate::inbox::key_json;
use crate::store::{Store, WAITS_FOR};

/// Rows that cannot be parted, by table and key.
type Group = Vec<(i64, Vec<u8>)>;

/// One dirty row on its way through [`Store::each_tie`].
struct Tied {
    position: usize,
    t: i64,
    k: Vec<u8>,
    held: Option<String>,
    /// Kept back by the search for a row that the server does not name.
    kept: bool,
    facts: Facts,
}

impl Store {
    /// Makes the intents wait that need what only a held one would give, and lets those go that waited for
    /// one that is held no more. Costs nothing where nothing is held.
    ///
    /// What waits for a row of which it is not known whether it is refused, is kept back with it: nobody
    /// has to look at it yet.
    pub(crate) fn settle_waiting(&self) -> Result<(), Error> {
        self.conn.prepare_cached("DELETE FROM main._sync_suspect WHERE g = ?")?.execute([IN_DOUBT])?;
        if !self.any_stuck()? {
            return Ok(());
        }
        let mut ties = Ties::default();
        let (mut hard, mut soft) = (Vec::new(), Vec::new());
        let mut names: BTreeMap<u32, (usize, Vec<u8>, bool)> = BTreeMap::new();
        let mut waited: BTreeMap<u32, (i64, Vec<u8>)> = BTreeMap::new();
        self.each_tie("true", |row| {
            let n = ties.add(&row.facts);
            match row.held.as_deref() {
                Some(WAITS_FOR) => {
                    waited.insert(n, (row.t, row.k));
                }
                None if !row.kept => {}
                held => {
                    let doubt = held.is_none();
                    // These may be no more than the consequence of another refusal.
                    let for_want = matches!(held, Some("foreign_key" | "unique"));
                    if for_want { &mut soft } else { &mut hard }.push(n);
                    names.insert(n, (row.position, row.k, doubt));
                }
            }
            Ok(())
        })?;
        let waiting = ties.waiting(&hard, &soft);
        let settled = |n: &u32| waiting.get(n).and_then(|root| names.get(root)).is_some_and(|(_, _, doubt)| !doubt);
        for (_, (t, k)) in waited.iter().filter(|(n, _)| !settled(n)) {
            self.conn
                .prepare_cached("UPDATE main._sync_dirty SET held = NULL, message = NULL WHERE t = ? AND k = ?")?
                .execute((t, k))?;
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let mut n = 0;
        let mut found = Vec::new();
        self.each_key("true", |t, k| {
            if let Some(root) = waiting.get(&n) {
                found.push((t, k, *root));
            }
            n += 1;
            Ok(())
        })?;
        for (t, k, root) in found {
            let Some((position, root, doubt)) = names.get(&root) else { continue };
            if *doubt {
                self.conn
                    .prepare_cached("INSERT OR REPLACE INTO main._sync_suspect (t, k, g, kept) VALUES (?, ?, ?, 1)")?
                    .execute((t, k, IN_DOUBT))?;
                continue;
            }
            let table = self.table(*position);
            let key = key_json(table, &Key::from_stored(root.clone()).unpack()?);
            self.hold(
                t,
                &k,
                WAITS_FOR,
                &format!("waits for {} {key}, which has to go first or along with it", table.name),
            )?;
        }
        Ok(())
    }

    /// Whether anything is held, or kept back by a search.
    fn any_stuck(&self) -> Result<bool, Error> {
        let sql = "SELECT 1 WHERE EXISTS (SELECT 1 FROM main._sync_dirty INDEXED BY _sync_dirty_held \
                   WHERE held IS NOT NULL) \
                   OR EXISTS (SELECT 1 FROM main._sync_suspect WHERE kept)";
        Ok(self.conn.prepare_cached(sql)?.exists([])?)
    }

    /// Divides what is pending into parts of at most `most` rows, in the order in which they can be pushed.
    /// Rows that cannot be parted and are more than that wait, and say so.
    pub(crate) fn make_parts(&self, most: i64) -> Result<(), Error> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
        let mut ties = Ties::default();
        self.each_tie("d.held IS NULL", |row| {
            ties.add(&row.facts);
            Ok(())
        })?;
        let parts = pack(ties.groups(most), most);
        let mut number = vec![0_i64; parts.iter().map(Vec::len).sum()];
        for (n, part) in parts.iter().enumerate() {
            // Zero and below: a group that is too large.
            let n = if part.len() > most { -(part.len() as i64) } else { n as i64 + 1 };
            part.iter().for_each(|row| number[*row as usize] = n);
        }
        let mut at = 0;
        let mut rows = Vec::new();
        self.each_key("d.held IS NULL", |t, k| {
            rows.push((t, k, number[at]));
            at += 1;
            if rows.len() >= 10_000 {
                self.put_parts(&mut rows, most)?;
            }
            Ok(())
        })?;
        self.put_parts(&mut rows, most)
    }

    fn put_parts(&self, rows: &mut Vec<(i64, Vec<u8>, i64)>, most: usize) -> Result<(), Error> {
        for (t, k, n) in rows.drain(..) {
            if n < 0 {
                let message = format!(
                    "this row belongs to {} rows that only make sense together, and the server takes {most} at once; \
                     change some of them, or raise the server's limit",
                    -n
                );
                self.hold(t, &k, "group_too_large", &message)?;
            } else {
                self.conn
                    .prepare_cached("INSERT OR REPLACE INTO main._sync_part (t, k, n) VALUES (?, ?, ?)")?
                    .execute((t, &k, n))?;
            }
        }
        Ok(())
    }

    /// The rows of a list in groups that cannot be parted, in the order in which they can be pushed, but for
    /// the witnesses that are wanted: they come last, and need none of the others. How many
    /// there are is returned too.
    /// `list` is a table with the columns `t` and `k`.
    pub(crate) fn groups_of(&self, list: &str, witnesses: impl Fn(i64) -> i64) -> Result<(Vec<Group>, i64), Error> {
        let filter = format!("EXISTS (SELECT 1 FROM {list} l WHERE l.t = d.t AND l.k = d.k)");
        let mut ties = Ties::default();
        let mut keys = Vec::new();
        self.each_tie(&filter, |row| {
            ties.add(&row.facts);
            keys.push(Some((row.t, row.k)));
            Ok(())
        })?;
        let mut groups = ties.groups(usize::MAX);
        let wanted = usize::try_from(witnesses(groups.len() as i64)).unwrap_or(0);
        let mut found = ties.independent(&groups, wanted);
        found.sort_unstable();
        let last: Vec<Vec<u32>> = found.iter().rev().map(|n| groups.remove(*n)).collect();
        groups.extend(last);
        let named = |group: Vec<u32>| group.into_iter().filter_map(|n| keys[n as usize].take()).collect();
        Ok((groups.into_iter().map(named).collect(), found.len() as i64))
    }

    /// Every dirty row that the condition lets through, parents first, by key.
    fn each_tie(&self, filter: &str, mut f: impl FnMut(Tied) -> Result<(), Error>) -> Result<(), Error> {
        let shape = Shape::new(self.schema());
        for position in self.schema().parents_first() {
            let m = &self.managed[*position];
            let mut s = self.conn.prepare_cached(&format!(
                "SELECT d.k, d.base, d.held, r.v, coalesce(s.kept, 0) FROM main._sync_dirty d \
                 LEFT JOIN main._sync_row r ON r.t = d.t AND r.k = d.k \
                 LEFT JOIN main._sync_suspect s ON s.t = d.t AND s.k = d.k WHERE d.t = ? AND {filter} ORDER BY d.k"
            ))?;
            let mut rows = s.query([m.id])?;
            while let Some(r) = rows.next()? {
                let k: Vec<u8> = r.get(0)?;
                let base = r.get::<_, Option<Vec<u8>>>(1)?.map(|b| record::decode(&b)).transpose()?;
                let key = Key::from_stored(k.clone()).unpack()?;
                let before = match (Known::from_stored(r.get(3)?), &base) {
                    (Known::Live(_), Some(base)) => Before::Row(base),
                    (Known::Live(_), None) => Before::Unknown,
                    (Known::Never | Known::Gone(_), _) => Before::Absent,
                };
                let facts = match m.sql.read(&self.conn, &key)? {
                    None => shape.facts(*position, &key, before, None),
                    Some(Ok(row)) => shape.facts(*position, &key, before, Some(&row)),
                    // Text that is not UTF-8: it is held for that.
                    Some(Err(_)) => Facts::default(),
                };
                f(Tied { position: *position, t: m.id, k, held: r.get(2)?, kept: r.get(4)?, facts })?;
            }
        }
        Ok(())
    }

    /// The keys of the same rows in the same order.
    fn each_key(&self, filter: &str, mut f: impl FnMut(i64, Vec<u8>) -> Result<(), Error>) -> Result<(), Error> {
        for position in self.schema().parents_first() {
            let t = self.managed[*position].id;
            let mut s = self.conn.prepare_cached(&format!(
                "SELECT d.k FROM main._sync_dirty d WHERE d.t = ? AND {filter} ORDER BY d.k"
            ))?;
            let mut rows = s.query([t])?;
            while let Some(r) = rows.next()? {
                f(t, r.get(0)?)?;
            }
        }
        Ok(())
    }
}

/// The group of rows that wait for one in doubt. No search numbers a group like this.
const IN_DOUBT: i64 = -1;

/// Whether a table has rows.
pub(crate) fn any(conn: &Connection, table: &str) -> Result<bool, Error> {
    Ok(conn.prepare_cached(&format!("SELECT 1 FROM main.{table} LIMIT 1"))?.exists([])?)
}
