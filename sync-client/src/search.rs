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
            let sql = "SELECT s.t, s.k FROM main._sync_suspect s JOIN main._sync_dirty d ON d.t = s.t AND d.k = s.k \
                       WHERE s.g = ? AND s.kept AND d.held IS NULL";
            let mut s = self.conn.prepare_cached(sql)?;
            let rows: Vec<(i64, Vec<u8>)> =
                s.query_map([group], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
            let together = rows.len();
            for (t, k) in rows {
                let message = if together > 1 {
                    format!(
                        "the server refuses this row, or one of the {} that go with it; it does not say why",
                        together - 1
                    )
                } else {
                    "the server refuses this row and does not say why: alone it failed again and again, others were \
                     committed before and after"
                        .to_owned()
                };
                self.hold(t, &k, "refused", &message)?;
                self.note_refusal(t, &k)?;
                refused.extend(self.position(t).map(|p| (p, k)));
            }
            self.conn.prepare_cached("DELETE FROM main._sync_suspect WHERE g = ?")?.execute([group])?;
        }
        self.set_search(&search)?;
        Ok(refused)
    }

    /// A bundle failed and no row was named; its rows are intents again. True where another is worth sending now.
    fn search_failed(&self) -> Result<bool, Error> {
        let mut search = self.search()?;
        let take = if search.is_idle() { Take::Rest } else { search.taken() };
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
            search.rest_failed(groups.len() as i64, witnesses)
        } else {
            search.failed(take)
        };
        for group in keep {
            self.conn.prepare_cached("UPDATE main._sync_suspect SET kept = 1 WHERE g = ?")?.execute([group])?;
        }
        self.set_search(&search)?;
        Ok(go_on)
    }
}

impl Engine {
    /// The server failed to take this bundle and named no row. It may be an outage, it may be a row.
    pub(crate) fn unnamed(&self, outbox: &Outbox, push_id: &str, error: CallError) -> Result<Pushed, Error> {
        if let Some(end) = self.prove_uncommitted(outbox, Some(push_id))? {
            return Ok(end);
        }
        let tx = self.store.begin()?;
        tx.execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS _sync_failed (t, k, PRIMARY KEY (t, k)); DELETE FROM temp._sync_failed; \
             INSERT INTO temp._sync_failed SELECT t, k FROM main._sync_out",
        )?;
        self.store.release_outbox()?;
        let go_on = self.store.search_failed()?;
        tx.execute_batch("DELETE FROM temp._sync_failed")?;
        tx.commit()?;
        if go_on { Ok(Pushed::Narrowed) } else { Err(error.into()) }
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
