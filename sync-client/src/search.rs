//! The search for a refused row that the server does not name (case P6), kept in the file: a killed process
//! goes on where it was. [`sync_core::engine::bisect`] decides, this carries out.

use sync_core::engine::bisect::{Bisect, Failed, Take};
use sync_core::key::Key;

use crate::api::CallError;
use crate::engine::Engine;
use crate::error::Error;
use crate::inbox::key_json;
use crate::push::Pushed;
use crate::report::Event;
use crate::store::{Meta, Outbox, Store};

impl Store {
    /// Where the search stands.
    pub(crate) fn search(&self) -> Result<Bisect, Error> {
        let stored: Option<String> = Meta::Search.get(&self.conn)?;
        stored.map_or_else(
            || Ok(Bisect::default()),
            |s| serde_json::from_str(&s).map_err(|e| Error::Damaged(format!("search: {e}"))),
        )
    }

    /// Remembers where the search stands, or ends it.
    pub(crate) fn set_search(&self, search: &Bisect) -> Result<(), Error> {
        if search.is_idle() {
            if Meta::Search.get::<String>(&self.conn)?.is_some() {
                Meta::Search.clear(&self.conn)?;
                self.conn.execute_batch("DELETE FROM main._sync_suspect")?;
            }
            return Ok(());
        }
        let stored = serde_json::to_string(search).map_err(|e| Error::Damaged(format!("search: {e}")))?;
        Meta::Search.set(&self.conn, stored)
    }

    /// The rows that a choice of the search takes, as a condition on `_sync_dirty d`.
    pub(crate) fn taken_by(take: Take) -> String {
        let of = |what: &str| {
            format!("EXISTS (SELECT 1 FROM main._sync_suspect s WHERE s.t = d.t AND s.k = d.k AND {what})")
        };
        match take {
            Take::Rest => format!("NOT {}", of("s.kept")),
            Take::Range(low, high) => of(&format!("s.g >= {low} AND s.g < {high} AND NOT s.kept")),
            Take::Kept(group) => of(&format!("s.g = {group} AND s.kept")),
        }
    }

    /// A bundle committed: who is proven to be refused is held, with what the server had said.
    pub(crate) fn search_committed(&self) -> Result<Vec<(usize, Vec<u8>)>, Error> {
        let mut search = self.search()?;
        if search.is_idle() {
            return Ok(Vec::new());
        }
        let mut refused = Vec::new();
        for group in search.committed(search.taken()) {
            let sql = "SELECT s.t, s.k, s.message FROM main._sync_suspect s JOIN main._sync_dirty d ON d.t = s.t AND d.k = s.k \
                       WHERE s.g = ? AND s.kept AND d.held IS NULL";
            let mut s = self.conn.prepare_cached(sql)?;
            let rows: Vec<(i64, Vec<u8>, Option<String>)> =
                s.query_map([group], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?.collect::<Result<_, _>>()?;
            let together = rows.len();
            for (t, k, said) in rows {
                let mut message = if together > 1 {
                    format!(
                        "the server refuses this row, or one of the {} that go with it, and does not say which",
                        together - 1
                    )
                } else {
                    "the server refuses this row and does not name it: alone it failed again and again, others were \
                     committed before and after"
                        .to_owned()
                };
                if let Some(said) = said {
                    message.push_str(&format!("; the last time: {said}"));
                }
                self.hold(t, &k, "refused", &message)?;
                self.note_refusal(t, &k)?;
                refused.extend(self.position(t).map(|p| (p, k)));
            }
            self.conn.prepare_cached("DELETE FROM main._sync_suspect WHERE g = ?")?.execute([group])?;
        }
        self.set_search(&search)?;
        Ok(refused)
    }

    /// A bundle failed and no row was named, with this sentence; its rows are intents again. True where another is worth
    /// sending now.
    fn search_failed(&self, sentence: &str) -> Result<Narrowed, Error> {
        let mut search = self.search()?;
        let take = if search.is_idle() { Take::Rest } else { search.taken() };
        let mut alone = match take {
            Take::Rest => false,
            Take::Range(low, middle) => middle - low == 1,
            Take::Kept(_) => true,
        };
        let Failed { keep, go_on } = if take == Take::Rest {
            let (groups, witnesses) = self.groups_of("temp._sync_failed", |n| search.wanted_witnesses(n))?;
            let first = search.next_group();
            for (n, group) in groups.iter().enumerate() {
                for (t, k) in group {
                    self.conn
                        .prepare_cached(
                            "INSERT OR REPLACE INTO main._sync_suspect (t, k, g, kept) VALUES (?, ?, ?, 0)",
                        )?
                        .execute((t, k, first + n as i64))?;
                }
            }
            alone = groups.len() == 1;
            search.rest_failed(groups.len() as i64, witnesses)
        } else {
            search.failed(take)
        };
        for group in keep {
            self.conn
                .prepare_cached("UPDATE main._sync_suspect SET kept = 1, message = ? WHERE g = ?")?
                .execute((alone.then_some(sentence), group))?;
        }
        self.set_search(&search)?;
        Ok(Narrowed { alone, go_on })
    }

    /// The rows of the failed bundle, which cannot be parted, are refused: they wait, with what the server said. What
    /// needs them waits too, from the next freeze on.
    fn hold_failed(&self, sentence: &str) -> Result<Vec<(usize, Vec<u8>)>, Error> {
        let mut s = self.conn.prepare_cached("SELECT t, k FROM temp._sync_failed")?;
        let rows: Vec<(i64, Vec<u8>)> = s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
        for (t, k) in &rows {
            self.hold(*t, k, "refused", sentence)?;
        }
        self.settle_waiting()?;
        for (t, k) in &rows {
            self.note_refusal(*t, k)?;
        }
        Ok(rows.into_iter().filter_map(|(t, k)| self.position(t).map(|p| (p, k))).collect())
    }
}

/// What a failure without a name came to.
struct Narrowed {
    /// What failed cannot be parted.
    alone: bool,
    /// Another bundle is worth sending now.
    go_on: bool,
}

impl Engine {
    /// The server failed to take this bundle and named no row. It may be an outage, it may be a row; where the bundle is
    /// one row, the reply may leave no doubt.
    pub(crate) fn unnamed(&self, outbox: &Outbox, push_id: &str, error: CallError) -> Result<Pushed, Error> {
        if let Some(end) = self.prove_uncommitted(outbox, Some(push_id))? {
            return Ok(end);
        }
        let sentence = error.sentence();
        let tx = self.store.begin()?;
        tx.execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS _sync_failed (t, k, PRIMARY KEY (t, k)); DELETE FROM temp._sync_failed; \
             INSERT INTO temp._sync_failed SELECT t, k FROM main._sync_out",
        )?;
        self.store.release_outbox()?;
        let Narrowed { alone, go_on } = self.store.search_failed(&sentence)?;
        let refused = if alone && error.proves_refusal() { self.store.hold_failed(&sentence)? } else { Vec::new() };
        tx.execute_batch("DELETE FROM temp._sync_failed")?;
        tx.commit()?;
        self.tell_refused(&refused)?;
        match refused.len() as u64 {
            0 if go_on => Ok(Pushed::Narrowed),
            0 => Err(error.into()),
            rows => Ok(Pushed::Rejected(rows)),
        }
    }

    /// Tells of rows that a search found.
    pub(crate) fn tell_refused(&self, refused: &[(usize, Vec<u8>)]) -> Result<(), Error> {
        for (position, k) in refused {
            let table = self.store.table(*position);
            self.tell(&Event::Inbox {
                kind: "rejected".into(),
                table: table.name.clone(),
                key: key_json(table, &Key::from_stored(k.clone()).unpack()?),
                message: "the server refuses this row and does not say why".into(),
            });
        }
        Ok(())
    }
}
