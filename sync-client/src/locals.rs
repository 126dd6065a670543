//! Rows of tables that are not synced and refer to synced ones: what the schema declares happens to them where a row
//! that they refer to goes or changes by a write of ours. Where nothing is declared, or a rule is against it, the remote
//! row is set aside for as long as they refer to it (`holding.rs`).

use std::collections::BTreeSet;

use rusqlite::params_from_iter;
use sync_core::engine::change::Known;
use sync_core::key::Key;
use sync_core::sqlite::locals::{Reference, Target, left};
use sync_core::sqlite::{quote, value};
use sync_core::value::Value;

use crate::along::GivenUp;
use crate::apply::is_constraint;
use crate::error::Error;
use crate::inbox::key_json;
use crate::mutant::{self, Mutant};
use crate::store::{Meta, Store};

/// What was noted of a row that went or changed: its stored key, where it is of a synced table, the values that others
/// refer to, as they were, and as they are.
struct Noted {
    k: Option<Vec<u8>>,
    old: Vec<Value>,
    new: Option<Vec<Value>>,
}

/// What is done at the end of a transaction, or only tried.
struct Settling<'s> {
    /// What the transaction gave up; none where it is only tried.
    given_up: Option<GivenUp>,
    stuck: Vec<Stuck<'s>>,
}

/// Rows of an unsynced table for which what is declared could not be done.
struct Stuck<'s> {
    target: &'s Target,
    k: Option<Vec<u8>>,
    child: &'s str,
    gone: bool,
    said: String,
}

impl Store {
    /// Forgets what was noted: at the begin of a transaction.
    pub(crate) fn forget_left(&self) -> Result<(), Error> {
        for n in 0..self.locals.targets.len() {
            self.conn.prepare_cached(&format!("DELETE FROM temp.{}", left(n)))?.execute([])?;
        }
        Ok(())
    }

    /// A row that was to be fetched does not come: what refers to it in unsynced tables is settled as if it went now.
    pub(crate) fn note_not_fetched(&self, position: usize, row: &[Value]) -> Result<(), Error> {
        let table = self.table(position);
        let of =
            |c: &String| table.column(&c.to_ascii_lowercase()).and_then(|i| row.get(i)).cloned().unwrap_or(Value::Null);
        for (n, target) in self.locals.targets.iter().enumerate().filter(|(_, t)| t.position == Some(position)) {
            let [key, old, _] = target.noted();
            let columns = [key, old].concat();
            let places = vec!["?"; columns.len()].join(", ");
            let sql = format!("INSERT INTO temp.{} ({}) VALUES ({places})", left(n), columns.join(", "));
            let values = target.key.iter().map(of).chain(target.columns.iter().map(of));
            self.conn.prepare_cached(&sql)?.execute(params_from_iter(values))?;
        }
        Ok(())
    }

    /// How much is noted so far, for [`Store::rule_against`].
    pub(crate) fn noted_so_far(&self) -> Result<Vec<i64>, Error> {
        let last = |n| format!("SELECT coalesce(max(rowid), 0) FROM temp.{}", left(n));
        let all = 0..self.locals.targets.len();
        all.map(|n| Ok(self.conn.prepare_cached(&last(n))?.query_row([], |r| r.get(0))?)).collect()
    }

    /// At the end of a transaction: rows of unsynced tables follow what happened to those that they refer to. What could
    /// not be done then, though it could when the row was written, is told.
    pub(crate) fn settle_left(&self, now: i64) -> Result<(), Error> {
        if mutant::on(Mutant::LocalsLeft) {
            return Ok(());
        }
        let given_up = Some(GivenUp { now, rows: None, tables: BTreeSet::new() });
        let mut settling = Settling { given_up, stuck: Vec::new() };
        self.settle_noted(&vec![0; self.locals.targets.len()], &mut settling)?;
        settling.stuck.iter().try_for_each(|stuck| stuck.tell(self, now))
    }

    /// The unsynced table with a rule against what has to be done for what was noted since, if there is one; in a
    /// savepoint of the caller, who takes it back.
    pub(crate) fn rule_against(&self, since: &[i64]) -> Result<Option<String>, Error> {
        let mut settling = Settling { given_up: None, stuck: Vec::new() };
        self.settle_noted(since, &mut settling)?;
        Ok(settling.stuck.first().map(|s| format!("{} (SQLite says: {})", s.child, s.said)))
    }

    /// Does what is declared for what was noted since, and says what could not be done; where that is only tried, the first
    /// of it.
    fn settle_noted<'s>(&'s self, since: &[i64], settling: &mut Settling<'s>) -> Result<(), Error> {
        // What follows may be referred to itself.
        loop {
            let mut any = false;
            for (n, target) in self.locals.targets.iter().enumerate() {
                for noted in self.noted(n, target, since[n])? {
                    any = true;
                    self.settle_one(target, &noted, settling)?;
                    if settling.given_up.is_none() && !settling.stuck.is_empty() {
                        return Ok(());
                    }
                }
            }
            if !any {
                return Ok(());
            }
        }
    }

    fn noted(&self, n: usize, target: &Target, since: i64) -> Result<Vec<Noted>, Error> {
        let [key, old, new] = target.noted();
        let k = if key.is_empty() { "NULL".into() } else { format!("_sync_key({})", key.join(", ")) };
        let sql = format!(
            "SELECT DISTINCT {k}, {}, {} FROM temp.{} WHERE rowid > ?",
            old.join(", "),
            new.join(", "),
            left(n)
        );
        let mut s = self.conn.prepare_cached(&sql)?;
        let mut rows = s.query([since])?;
        let mut out = Vec::new();
        while let Some(r) = rows.next()? {
            let values = |from: usize| {
                (from..from + old.len()).map(|i| value(r.get_ref_unwrap(i), i)).collect::<Result<Vec<_>, _>>()
            };
            // Text that is not UTF-8 refers to nothing that we write.
            let (Ok(was), Ok(is)) = (values(1), values(1 + old.len())) else { continue };
            let gone = is.iter().all(Value::is_null);
            out.push(Noted { k: r.get(0)?, old: was, new: (!gone).then_some(is) });
        }
        drop(rows);
        self.conn.prepare_cached(&format!("DELETE FROM temp.{} WHERE rowid > ?", left(n)))?.execute([since])?;
        Ok(out)
    }

    fn settle_one<'s>(&'s self, target: &'s Target, noted: &Noted, settling: &mut Settling<'s>) -> Result<(), Error> {
        if noted.old.iter().any(Value::is_null)
            || self.has(target, &noted.old)?
            || settling.given_up.is_some() && self.comes_back(target, noted)?
        {
            return Ok(());
        }
        // A row that was taken out and put in again has other values now.
        let now = match (&noted.k, target.position) {
            (Some(k), Some(position)) => self.values_of(target, position, k)?,
            _ => noted.new.clone(),
        };
        for r in &target.references {
            self.conn.execute_batch("SAVEPOINT _sync_local")?;
            let action = if now.is_some() { &r.on_update } else { &r.on_delete };
            let told = match settling.given_up.as_mut().filter(|_| now.is_none()) {
                Some(given_up) => self.tell_along(target, noted.k.as_deref(), r, &noted.old, given_up),
                None => Ok(()),
            };
            let stuck = &mut settling.stuck;
            match told.and_then(|()| self.act(r, action, &noted.old, now.as_deref())) {
                Ok(()) => {
                    self.conn.execute_batch("RELEASE _sync_local")?;
                    // It had to leave all the same, as one whose parent this file does not take for now.
                    if ["NO ACTION", "RESTRICT"].contains(&action.as_str()) && self.refers(r, &noted.old)? {
                        stuck.push(Stuck::of(target, r, noted, now.is_none(), "nothing is declared"));
                    }
                }
                Err(e) => {
                    // A rule of the unsynced table does not take it: the rows stay as they are.
                    let said = match e {
                        Error::Sqlite(refused) if is_constraint(&refused) => Ok(words(&refused)),
                        e => Err(e),
                    };
                    let said = self.take_back("_sync_local", said)?;
                    stuck.push(Stuck::of(target, r, noted, now.is_none(), &said));
                }
            }
        }
        Ok(())
    }

    /// Does what a foreign key declares, to the rows that say the old values.
    fn act(&self, r: &Reference, action: &str, old: &[Value], new: Option<&[Value]>) -> Result<(), Error> {
        let (table, same) = (quote(&r.child), equal(&r.columns));
        let set = |values: &mut dyn Iterator<Item = String>| {
            let set: Vec<String> = r.columns.iter().zip(values).map(|(c, v)| format!("{} = {v}", quote(c))).collect();
            format!("UPDATE{} main.{table} SET {} WHERE {same}", r.or_abort, set.join(", "))
        };
        let sql = match (action, new) {
            ("CASCADE", None) => format!("DELETE FROM main.{table} WHERE {same}"),
            ("CASCADE", Some(_)) => set(&mut std::iter::repeat_n("?".into(), r.columns.len())),
            ("SET NULL", _) => set(&mut std::iter::repeat_n("NULL".into(), r.columns.len())),
            ("SET DEFAULT", _) => set(&mut r.defaults.iter().map(|d| format!("({d})"))),
            _ => return Ok(()),
        };
        let values = new.filter(|_| action == "CASCADE").unwrap_or_default();
        self.conn.prepare_cached(&sql)?.execute(params_from_iter(values.iter().chain(old)))?;
        // `RAISE(IGNORE)` leaves a row as it is, and says nothing.
        if new.is_none_or(|new| new != old) && self.refers(r, old)? {
            return Err(refused("a trigger of its own keeps its rows as they are"));
        }
        Ok(())
    }

    /// Whether a row that is not here now will be again within this sync: it has to be fetched.
    fn comes_back(&self, target: &Target, noted: &Noted) -> Result<bool, Error> {
        let (Some(k), Some(position)) = (&noted.k, target.position) else { return Ok(false) };
        let m = &self.managed[position];
        if m.sql.exists(&self.conn, &Key::from_stored(k.clone()).unpack()?)? {
            return Ok(false);
        }
        let fetched = Meta::Rebuild.get::<String>(&self.conn)?.is_some() || Meta::Withdrawn.integer(&self.conn)? != 0;
        Ok(fetched && self.known(m.id, k)? == Known::Live(0))
    }

    /// Whether a row with these values is there.
    fn has(&self, target: &Target, values: &[Value]) -> Result<bool, Error> {
        let sql = format!("SELECT 1 FROM main.{} WHERE {}", quote(&target.table), equal(&target.columns));
        Ok(self.conn.prepare_cached(&sql)?.exists(params_from_iter(values))?)
    }

    /// The values that a synced row has now.
    fn values_of(&self, target: &Target, position: usize, k: &[u8]) -> Result<Option<Vec<Value>>, Error> {
        let key = Key::from_stored(k.to_vec()).unpack()?;
        let row = self.managed[position].sql.read_bytes(&self.conn, &key)?;
        Ok(row.map(|row| self.referred_values(target, position, &row)))
    }

    pub(crate) fn referred_values(&self, target: &Target, position: usize, row: &[Value]) -> Vec<Value> {
        let table = self.table(position);
        let of = |c: &String| table.column(&c.to_ascii_lowercase()).and_then(|i| row.get(i)).cloned();
        target.columns.iter().map(|c| of(c).unwrap_or(Value::Null)).collect()
    }

    /// A row got other values: rows of unsynced tables that mean it say so too. All of them where the row is a local one
    /// that takes another number, or those whose foreign key says ON UPDATE CASCADE.
    pub(crate) fn move_locals(
        &self,
        position: usize,
        row: &[Value],
        new: &[Value],
        only_declared: bool,
    ) -> Result<(), Error> {
        for target in self.locals.of(position) {
            let (was, is) = (self.referred_values(target, position, row), self.referred_values(target, position, new));
            if was == is || was.iter().any(Value::is_null) {
                continue;
            }
            for r in target.references.iter().filter(|r| !only_declared || r.on_update == "CASCADE") {
                if r.generated && self.refers(r, &was)? {
                    return Err(refused("the column that refers is generated"));
                }
                if r.generated {
                    continue;
                }
                self.act(r, "CASCADE", &was, Some(&is))?;
            }
        }
        Ok(())
    }
}

impl<'s> Stuck<'s> {
    fn of(target: &'s Target, r: &'s Reference, noted: &Noted, gone: bool, said: &str) -> Self {
        Self { target, k: noted.k.clone(), child: &r.child, gone, said: said.to_owned() }
    }

    fn tell(&self, store: &Store, now: i64) -> Result<(), Error> {
        // Of a row of an unsynced table, which has no name elsewhere, the table is all that can be said.
        let (mut table, mut key) = (self.target.table.clone(), "{}".to_owned());
        if let (Some(position), Some(k)) = (self.target.position, &self.k) {
            table.clone_from(&store.table(position).name);
            key = key_json(store.table(position), &Key::from_stored(k.clone()).unpack()?);
        }
        let message = format!(
            "rows of {}, which is not synced, refer to this row as it was before a sync {} it, and what the schema declares \
             for them could not be done ({}): change or delete them",
            self.child,
            if self.gone { "deleted" } else { "changed" },
            self.said
        );
        store.conn.prepare_cached(STUCK)?.execute((now, table, key, message))?;
        Ok(())
    }
}

const STUCK: &str = "INSERT INTO main._sync_inbox (kind, at, tbl, key, op, reason, message) \
     VALUES ('conflict', ?, ?, ?, 'UPDATE', 'left_behind', ?)";

/// What SQLite says of a refusal.
fn words(e: &rusqlite::Error) -> String {
    match e {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        other => other.to_string(),
    }
}

/// A refusal of ours, as if a rule of the table were against it.
fn refused(words: &str) -> Error {
    use rusqlite::ffi::{Error, SQLITE_CONSTRAINT};
    rusqlite::Error::SqliteFailure(Error::new(SQLITE_CONSTRAINT), Some(words.to_owned())).into()
}

/// `a = ? AND b = ?`
pub(crate) fn equal(columns: &[String]) -> String {
    columns.iter().map(|c| format!("{} = ?", quote(c))).collect::<Vec<_>>().join(" AND ")
}
