//! Rows that left their table otherwise than by a DELETE: the app gave them another key, or REPLACE evicted them, while
//! SQLite was not asked to look after foreign keys (its default). What refers to them follows where the schema says so.
//! Where rows still refer to one that is gone, its delete waits: the server would take those rows along.

use sync_core::engine::change::Known;
use sync_core::engine::departure::Departure;
use sync_core::key::Key;
use sync_core::record::{self, Record};
use sync_core::schema::ForeignKey;
use sync_core::value::Value;

use crate::apply::is_constraint;
use crate::changes::Changes;
use crate::error::Error;
use crate::inbox::{Entry, add_merged, key_json};
use crate::moving::{Followers, Moved, Mover};
use crate::mutant::{self, Mutant};
use crate::report::Event;
use crate::store::Store;

/// Why a delete is held back: rows of this file still refer to the row.
pub(crate) const STILL_REFERRED_TO: &str = "still_referred_to";

/// A row that went on under another key, or whose place another one took.
struct Departed {
    position: usize,
    k: Vec<u8>,
    base: Option<Record>,
    departure: Departure,
    heir: Option<Vec<u8>>,
}

impl Store {
    /// Before a freeze, in its transaction: what refers to rows that took another key follows where that is declared,
    /// and deletes that waited for rows which refer to them are looked at again.
    pub(crate) fn settle_departures(&self, now: i64) -> Result<Vec<Event>, Error> {
        let mut moved = Vec::new();
        for row in self.departed()? {
            if let Some(new) = self.successor(&row)? {
                self.follow(&row, &new, now, &mut moved)?;
            }
        }
        self.look_again_at_referred()?;
        self.tell_of_followers(moved, now)
    }

    fn departed(&self) -> Result<Vec<Departed>, Error> {
        if mutant::on(Mutant::KeyChangeCascades) {
            let plain = "UPDATE main._sync_dirty SET departure = 1, heir = NULL WHERE departure > 1";
            self.conn.execute(plain, [])?;
        }
        let sql = "SELECT t, k, base, departure, heir FROM main._sync_dirty INDEXED BY _sync_dirty_followed \
                   WHERE departure > 1 ORDER BY t, k";
        let mut s = self.conn.prepare_cached(sql)?;
        let mut rows = s.query([])?;
        let mut out = Vec::new();
        while let Some(r) = rows.next()? {
            let Some(position) = self.position(r.get(0)?) else { continue };
            let k: Vec<u8> = r.get(1)?;
            let key = Key::from_stored(k.clone()).unpack()?;
            if self.schema().references_to(position).next().is_none()
                || self.managed[position].sql.exists(&self.conn, &key)?
            {
                continue;
            }
            let base = r.get::<_, Option<Vec<u8>>>(2)?.map(|b| record::decode(&b)).transpose()?;
            out.push(Departed { position, k, base, departure: Departure::from_stored(r.get(3)?), heir: r.get(4)? });
        }
        Ok(out)
    }

    /// The row that a departed one has become, as it is now.
    fn successor(&self, row: &Departed) -> Result<Option<Vec<Value>>, Error> {
        let m = &self.managed[row.position];
        if row.departure == Departure::Evicted {
            return self.usurper(row);
        }
        let mut next = row.heir.clone();
        // A key may have changed more than once; never in a ring, since a row that is there ends it.
        for _ in 0..MOST_STEPS {
            let Some(k) = next else { return Ok(None) };
            let key = Key::from_stored(k.clone()).unpack()?;
            if let Some(live) = m.sql.read(&self.conn, &key)? {
                return Ok(live.ok());
            }
            next = self.heir(m.id, &k)?;
        }
        Ok(None)
    }

    /// The row that holds a UNIQUE value of one that it evicted; none where two do.
    fn usurper(&self, row: &Departed) -> Result<Option<Vec<Value>>, Error> {
        let Some(base) = &row.base else { return Ok(None) };
        let (m, table) = (&self.managed[row.position], self.table(row.position));
        let mut found: Option<Vec<Value>> = None;
        for u in &table.uniques {
            let values: Option<Vec<Value>> = u.columns.iter().map(|i| base.get(*i).cloned().flatten()).collect();
            let Some(values) = values.filter(|v| v.iter().all(|v| !v.is_null())) else { continue };
            for k in self.holders(row.position, u, &values)? {
                let key = Key::from_stored(k).unpack()?;
                let Some(Ok(live)) = m.sql.read(&self.conn, &key)? else { continue };
                if found.as_ref().is_some_and(|f| *f != live) {
                    return Ok(None);
                }
                found = Some(live);
            }
        }
        Ok(found)
    }

    /// Moves what refers to a departed row over to the one that it has become. What does not fit there stays, and the
    /// delete waits for it.
    fn follow(&self, row: &Departed, new: &[Value], now: i64, moved: &mut Vec<Moved>) -> Result<(), Error> {
        let table = self.table(row.position);
        let was = self.as_it_was(row.position, &Key::from_stored(row.k.clone()).unpack()?, row.base.as_ref());
        let changes: Vec<(usize, Value)> = (0..table.columns.len())
            .filter(|i| !was[*i].is_null() && was[*i] != new[*i])
            .map(|i| (i, new[i].clone()))
            .collect();
        let mut mover = Mover { store: self, now, followers: Followers::Declared, moved: Vec::new() };
        let mut steps = Vec::new();
        mover.find_followers(row.position, &was, &changes, &mut steps)?;
        for (child, key, changes) in steps {
            let at = mover.moved.len();
            if !self.if_it_fits(|| mover.move_row(child, key, changes))? {
                mover.moved.truncate(at);
            }
        }
        // Rows of unsynced tables follow as well.
        self.if_it_fits(|| self.move_locals(row.position, &was, new, true))?;
        moved.append(&mut mover.moved);
        Ok(())
    }

    /// Does something in a savepoint; false, and nothing is kept, where a rule of the schema is against it.
    fn if_it_fits(&self, write: impl FnOnce() -> Result<(), Error>) -> Result<bool, Error> {
        self.conn.execute_batch("SAVEPOINT _sync_follow")?;
        match write() {
            Ok(()) => {
                self.conn.execute_batch("RELEASE _sync_follow")?;
                Ok(true)
            }
            Err(e) => {
                let refused = matches!(&e, Error::Sqlite(e) if is_constraint(e));
                self.take_back("_sync_follow", if refused { Ok(false) } else { Err(e) })
            }
        }
    }

    /// A row as this file knew it; columns of which nothing is known are NULL.
    fn as_it_was(&self, position: usize, key: &[Value], base: Option<&Record>) -> Vec<Value> {
        let table = self.table(position);
        let mut row = vec![Value::Null; table.columns.len()];
        if let Some(base) = base {
            row.iter_mut().zip(base).for_each(|(v, b)| v.clone_from(b.as_ref().unwrap_or(&Value::Null)));
        }
        table.key.iter().zip(key).for_each(|(i, v)| row[*i].clone_from(v));
        row
    }

    /// Which rows of this file still refer to one that is gone, as a sentence; none where the server may delete it.
    pub(crate) fn still_referred_to(
        &self,
        position: usize,
        key: &[Value],
        base: Option<&Record>,
    ) -> Result<Option<String>, Error> {
        let (table, was) = (self.table(position), self.as_it_was(position, key, base));
        let mut named = Vec::new();
        for (child, fk) in self.schema().references_to(position) {
            if !acts_at_once(fk) && self.is_referred(fk, position, &was)? {
                // Another row has these values now: once all is written, nothing is broken.
                continue;
            }
            let (count, first) = self.some_children(child, fk, table, &was)?;
            if count > 0 {
                let child = self.table(child);
                let keys: Vec<String> = first.iter().map(|k| key_json(child, k)).collect();
                let more = if count > first.len() as i64 { " and more" } else { "" };
                named.push(format!("{count} of {} ({}{more})", child.name, keys.join(", ")));
            }
        }
        Ok((!named.is_empty()).then(|| {
            format!(
                "this row has left its table, but rows still refer to it: {}; the server would take them along. It is \
                 deleted there once they are changed or deleted",
                named.join(", ")
            )
        }))
    }

    /// Deletes that wait for rows which refer to them go on where none is left; the others name those of today.
    fn look_again_at_referred(&self) -> Result<(), Error> {
        let sql = "SELECT t, k, base, message FROM main._sync_dirty INDEXED BY _sync_dirty_held \
                   WHERE held IS NOT NULL AND held = ? ORDER BY t, k";
        let mut s = self.conn.prepare_cached(sql)?;
        let mut rows = s.query([STILL_REFERRED_TO])?;
        let mut held = Vec::new();
        while let Some(r) = rows.next()? {
            let (t, k): (i64, Vec<u8>) = (r.get(0)?, r.get(1)?);
            let base = r.get::<_, Option<Vec<u8>>>(2)?.map(|b| record::decode(&b)).transpose()?;
            held.push((t, k, base, r.get::<_, Option<String>>(3)?));
        }
        drop(rows);
        for (t, k, base, message) in held {
            let Some(position) = self.position(t) else { continue };
            let key = Key::from_stored(k.clone()).unpack()?;
            let waits = matches!(self.known(t, &k)?, Known::Live(_));
            match self.still_referred_to(position, &key, base.as_ref())?.filter(|_| waits) {
                Some(now) if message.as_ref() == Some(&now) => {}
                Some(now) => self.hold(t, &k, STILL_REFERRED_TO, &now)?,
                None => {
                    self.let_go(t, &k)?;
                    self.let_waiting_go()?;
                }
            }
        }
        Ok(())
    }

    /// Records the rows that followed, each as it was and as it is, and tells the app of them.
    fn tell_of_followers(&self, moved: Vec<Moved>, now: i64) -> Result<Vec<Event>, Error> {
        let mut changes = Changes::default();
        changes.begin("");
        let mut events = Vec::new();
        for m in moved {
            let (table, sql) = (self.table(m.position), &self.managed[m.position].sql);
            if m.new_key != m.old_key {
                changes.note(m.position, Key::pack(&m.old_key)?.as_bytes(), true);
            }
            changes.note(m.position, Key::pack(&m.new_key)?.as_bytes(), false);
            let message = "the row that this one refers to got another key in this file: the reference follows, as the \
                           schema says (ON UPDATE CASCADE)";
            Entry {
                kind: "conflict",
                at: now,
                table,
                key: &m.old_key,
                op: "UPDATE",
                reason: "changed",
                message,
                local: m.row.as_deref(),
                base: None,
                server: None,
            }
            .store(&self.conn)?;
            if let Some(Ok(row)) = sql.read(&self.conn, &m.new_key)? {
                add_merged(&self.conn, table, &row)?;
            }
            events.push(Event::Inbox {
                kind: "conflict".into(),
                table: table.name.clone(),
                key: key_json(table, &m.old_key),
                message: message.into(),
            });
        }
        events.extend(changes.events(self)?);
        Ok(events)
    }
}

/// Whether the server acts on, or refuses for, what refers to a row as soon as that is deleted.
fn acts_at_once(fk: &ForeignKey) -> bool {
    fk.on_delete != "NO ACTION"
}

/// More changes of one key than these are not followed.
const MOST_STEPS: usize = 1000;
