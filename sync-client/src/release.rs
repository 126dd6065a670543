//! When a refused row is tried again by itself (case C9): a row comes that it refers to, or its table and those
//! that it refers to change. Never more than once for one change, and less and less often where that does not help.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::OptionalExtension as _;
use sync_core::key::Key;
use sync_core::protocol::Op;
use sync_core::schema::ForeignKey;
use sync_core::sqlite::quote;
use sync_core::value::Value;

use crate::departed::STILL_REFERRED_TO;
use crate::error::Error;
use crate::held_back::HELD_BACK;
use crate::orphans::parent_key;
use crate::rekey::NUMBER_STAYS;
use crate::store::{Store, WAITS_FOR};
use crate::ties;

/// What held rows wait for, while rows come in.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    held: Vec<(i64, Vec<u8>)>,
    /// Rows that lift a refusal when they come.
    rows: BTreeMap<(i64, Vec<u8>), Vec<usize>>,
    /// Tables whose change may lift one.
    tables: BTreeMap<i64, Vec<usize>>,
    came: BTreeSet<usize>,
    changed: BTreeSet<i64>,
    /// Rows refused for a UNIQUE value, by table, and tables in which this device may have freed one.
    unique: BTreeMap<i64, Vec<usize>>,
    freed: BTreeSet<i64>,
}

impl Watch {
    /// What is waited for; nothing where no row is held that another row could help.
    pub(crate) fn new(store: &Store) -> Result<Option<Self>, Error> {
        let mut out = Self::default();
        for (position, m) in store.managed.iter().enumerate() {
            let mut s = store
                .conn
                .prepare_cached("SELECT k, held FROM main._sync_dirty INDEXED BY _sync_dirty_held WHERE t = ? AND held IS NOT NULL ORDER BY k")?;
            let mut rows = s.query([m.id])?;
            while let Some(r) = rows.next()? {
                let reason: String = r.get(1)?;
                if !can_pass(&reason) {
                    continue;
                }
                let n = out.held.len();
                let k: Vec<u8> = r.get(0)?;
                out.watch(store, position, &k, &reason, n)?;
                out.held.push((m.id, k));
            }
        }
        Ok(if out.held.is_empty() { None } else { Some(out) })
    }

    fn watch(&mut self, store: &Store, position: usize, k: &[u8], reason: &str, n: usize) -> Result<(), Error> {
        let (table, m) = (store.table(position), &store.managed[position]);
        let key = Key::from_stored(k.to_vec()).unpack()?;
        let live = m.sql.read(&store.conn, &key)?.and_then(Result::ok);
        let mut parents_known = live.is_some();
        for fk in &table.foreign_keys {
            let Some(parent) = store.schema().position(&fk.parent) else { continue };
            let Some(row) = &live else { continue };
            let t = store.managed[parent].id;
            match parent_of(store, fk, parent, row)? {
                Parent::None => {}
                Parent::Row(k) => self.rows.entry((t, k)).or_default().push(n),
                Parent::Unknown => parents_known = false,
            }
            if !by_reference(reason) {
                self.tables.entry(t).or_default().push(n);
            }
        }
        if reason == "unique" {
            self.unique.entry(m.id).or_default().push(n);
        }
        if !by_reference(reason) {
            self.tables.entry(m.id).or_default().push(n);
        } else if !parents_known {
            // A DELETE that something refers to, or a parent that this file cannot name.
            let children = store.schema().references_to(position).map(|(c, _)| c);
            let parents = table.foreign_keys.iter().filter_map(|f| store.schema().position(&f.parent));
            for other in children.chain(parents) {
                self.tables.entry(store.managed[other].id).or_default().push(n);
            }
        }
        Ok(())
    }

    /// A row came, or, with `own`, what this device did to one is confirmed. That lifts only what refers to it (the
    /// others had been tried along with it), and, where it was no INSERT, what may have wanted its UNIQUE value.
    pub(crate) fn touch(&mut self, t: i64, k: &[u8], own: Option<Op>) {
        if let Some(held) = self.rows.get(&(t, k.to_vec())) {
            self.came.extend(held);
        }
        match own {
            None => {
                self.changed.insert(t);
            }
            Some(Op::Insert) => {}
            Some(Op::Update | Op::Delete) => {
                self.freed.insert(t);
            }
        }
    }

    /// Lets go what may pass now.
    pub(crate) fn release(mut self, store: &Store) -> Result<(), Error> {
        self.came.extend(self.freed.iter().filter_map(|t| self.unique.get(t)).flatten());
        for n in &self.came {
            let (t, k) = &self.held[*n];
            store.let_go(*t, k)?;
        }
        let near: BTreeSet<usize> = self.changed.iter().filter_map(|t| self.tables.get(t)).flatten().copied().collect();
        for n in near.difference(&self.came) {
            let (t, k) = &self.held[*n];
            // A try after one change, after two more, four, eight, … but at least every 64.
            let due: bool = store
                .conn
                .prepare_cached(
                    "INSERT INTO main._sync_refusal (t, k, tries, touches) VALUES (?, ?, 1, 1) \
                     ON CONFLICT (t, k) DO UPDATE SET touches = touches + 1 \
                     RETURNING touches >= (1 << min(tries - 1, 6))",
                )?
                .query_row((t, k), |r| r.get(0))?;
            if due {
                store.let_go(*t, k)?;
            }
        }
        store.conn.execute_batch(
            "DELETE FROM main._sync_refusal WHERE NOT EXISTS \
             (SELECT 1 FROM main._sync_dirty d WHERE d.t = _sync_refusal.t AND d.k = _sync_refusal.k)",
        )?;
        Ok(())
    }
}

/// Whether rows that refer to others are what a row waits for.
fn by_reference(reason: &str) -> bool {
    reason == "foreign_key" || reason == STILL_REFERRED_TO
}

/// Whether anything but an edit of the row, or another schema at the server, could help.
fn can_pass(reason: &str) -> bool {
    !LOCAL.contains(&reason) && !BY_SCHEMA.contains(&reason) && reason != WAITS_FOR
}

/// Reasons that only an edit of this file can lift.
const LOCAL: [&str; 3] = ["key_form", "not_utf8", NUMBER_STAYS];
/// Reasons that an edit lifts, or another schema or limit at the server.
const BY_SCHEMA: [&str; 8] =
    ["check", "not_null", "type", "unknown_column", "unknown_table", HELD_BACK, "too_large", "group_too_large"];

/// The row that a foreign key names.
enum Parent {
    /// NULL refers to nothing.
    None,
    /// The row with this stored key, there or not.
    Row(Vec<u8>),
    /// It is not there, and its key does not follow from the reference.
    Unknown,
}

fn parent_of(store: &Store, fk: &ForeignKey, parent: usize, row: &[Value]) -> Result<Parent, Error> {
    let values: Vec<&Value> = fk.columns.iter().filter_map(|i| row.get(*i)).collect();
    if values.iter().any(|v| v.is_null()) {
        return Ok(Parent::None);
    }
    let table = store.table(parent);
    if let Some(key) = parent_key(fk, table, row) {
        return Ok(Key::pack(&key).map_or(Parent::Unknown, |k| Parent::Row(k.as_bytes().to_vec())));
    }
    let same: Vec<String> = fk.parent_columns.iter().map(|c| format!("{} = ?", quote(c))).collect();
    let sql = format!(
        "SELECT _sync_key({}) FROM main.{} WHERE {}",
        store.managed[parent].sql.key,
        quote(&table.sql_name),
        same.join(" AND ")
    );
    let found: Option<Option<Vec<u8>>> =
        store.conn.prepare_cached(&sql)?.query_row(rusqlite::params_from_iter(values), |r| r.get(0)).optional()?;
    Ok(found.flatten().map_or(Parent::Unknown, Parent::Row))
}

impl Store {
    /// Remembers that a try was in vain.
    pub(crate) fn note_refusal(&self, t: i64, k: &[u8]) -> Result<(), Error> {
        self.conn
            .prepare_cached(
                "INSERT INTO main._sync_refusal (t, k, tries, touches) VALUES (?, ?, 1, 0) \
                 ON CONFLICT (t, k) DO UPDATE SET tries = tries + 1, touches = 0",
            )?
            .execute((t, k))?;
        Ok(())
    }

    /// The server's tables or limits are others: whatever they may have to do with is tried again.
    pub(crate) fn try_all_again(&self) -> Result<(), Error> {
        let local: Vec<String> = LOCAL.iter().map(|r| format!("'{r}'")).collect();
        self.conn.execute_batch(&format!(
            "UPDATE main._sync_dirty SET held = NULL, message = NULL WHERE held NOT IN ({}); \
             DELETE FROM main._sync_refusal",
            local.join(", ")
        ))?;
        Ok(())
    }

    /// Forgets what was found of rows of a table that the app edited since: nothing of it need be true any more.
    pub(crate) fn forget_trials(&self, t: i64, key: &str, log: &str) -> Result<(), Error> {
        for table in ["_sync_suspect", "_sync_refusal"] {
            if ties::any(&self.conn, table)? {
                let sql =
                    format!("DELETE FROM main.{table} WHERE t = ? AND k IN (SELECT _sync_key({key}) FROM main.{log})");
                self.conn.prepare_cached(&sql)?.execute([t])?;
            }
        }
        Ok(())
    }
}
