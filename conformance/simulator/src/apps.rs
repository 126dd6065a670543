//! What apps and the persons before them do.

use std::sync::atomic::Ordering;

use sync_client::Error;

use crate::app::migration;
use crate::device::lock;
use crate::plan::{AppStep, Migration};
use crate::power::Log;
use crate::world::{Violation, World};

impl World {
    /// The app writes.
    pub(crate) fn app(&self, a: &AppStep) {
        let d = self.device(a.device);
        let Ok(before) = d.rows() else { return };
        let app = lock(&d.app);
        let Some(conn) = app.as_ref() else { return };
        let log = Log::of(conn).unwrap_or_default();
        if a.together && conn.execute_batch("BEGIN").is_err() {
            return;
        }
        for sql in &a.sql {
            let w = {
                let mut writes = lock(&self.writes);
                *writes += 1;
                *writes
            };
            let text = sql.text(w);
            let done = conn.execute_batch(&text);
            self.tell(|| format!("    {}: {text} {done:?}", d.index));
            self.covered("sql", &format!("{:?}", sql.0));
            if done.is_ok() {
                self.covered("sql done", &format!("{:?}", sql.0));
            }
        }
        if !conn.is_autocommit() {
            let end = if a.undone { "ROLLBACK" } else { "COMMIT" };
            if conn.execute_batch(end).is_err() {
                conn.execute_batch("ROLLBACK").unwrap_or(());
            }
        }
        let Ok(after) = crate::device::rows(conn) else { return };
        if before != after {
            let mut ledger = lock(&self.ledger);
            ledger.note(d.index, &before, &after);
            d.committed(conn, log, ledger.now()).expect("frames are counted");
        }
    }

    /// One of our triggers goes, as in an app's clean-up, and what the app writes then may go unseen.
    pub(crate) fn drop_trigger(&self, n: u8, a: &AppStep) {
        let d = self.device(a.device);
        if let Some(conn) = lock(&d.app).as_ref() {
            let sql = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '\\_sync\\_%' ESCAPE '\\' ORDER BY name";
            let mut s = conn.prepare(sql).expect("a statement");
            let names: Vec<String> = s.query_map([], |r| r.get(0)).expect("rows").flatten().collect();
            if let Some(name) = names.get(usize::from(n) % names.len().max(1)) {
                let log = Log::of(conn).unwrap_or_default();
                let done = conn.execute_batch(&format!("DROP TRIGGER {name}"));
                self.tell(|| format!("    {}: DROP TRIGGER {name} {done:?}", d.index));
                if done.is_ok() {
                    d.unseen.store(true, Ordering::Relaxed);
                    d.committed(conn, log, lock(&self.ledger).now()).expect("frames are counted");
                    self.covered("trigger", "dropped");
                }
            }
        }
        self.app(a);
    }

    /// The app changes its schema, with whatever runs beside it.
    pub(crate) fn migrate(&self, n: usize, kind: Migration) {
        let d = self.device(n);
        let Ok(before) = d.rows() else { return };
        let app = lock(&d.app);
        let Some(conn) = app.as_ref() else { return };
        let w = {
            let mut writes = lock(&self.writes);
            *writes += 1;
            *writes
        };
        let log = Log::of(conn).unwrap_or_default();
        let done = conn.execute_batch(&migration(kind, w).replace("{w}", &format!("<w{w}>")));
        self.tell(|| format!("    {}: {kind:?} {done:?}", d.index));
        if !conn.is_autocommit() {
            conn.execute_batch("ROLLBACK").unwrap_or(());
        }
        conn.pragma_update(None, "foreign_keys", d.setup.foreign_keys).expect("a pragma");
        if done.is_ok() {
            d.unseen.store(true, Ordering::Relaxed);
            self.covered("migration", &format!("{kind:?}"));
        }
        if let Ok(after) = crate::device::rows(conn)
            && done.is_ok()
        {
            let mut ledger = lock(&self.ledger);
            ledger.note(d.index, &before, &after);
            d.committed(conn, log, ledger.now()).expect("frames are counted");
        }
    }

    /// A person goes through what was refused.
    pub(crate) fn inbox(&self, n: usize, retry: bool) {
        let d = self.device(n);
        self.open(&d);
        let Some(c) = lock(&d.client).clone() else { return };
        let rows = match c.rejected() {
            Ok(rows) => rows,
            Err(e) => return self.fail(Violation::new("inbox", format!("device {n}: {e}"))),
        };
        for r in rows.iter().filter(|r| r.key != "{}").take(3) {
            let before = d.rows().unwrap_or_default();
            let done = if retry { c.retry(&r.table, &r.key) } else { c.drop_row(&r.table, &r.key) };
            // What is dropped in a file that was handed to another user goes with the inbox when that one signs in.
            if retry || lock(&d.joins).is_some() {
                lock(&self.ledger).put_back(&before, &d.rows().unwrap_or_default());
            }
            self.covered("inbox", if retry { "retried" } else { "dropped" });
            self.tell(|| format!("    {} {} {}: {done:?}", if retry { "retry" } else { "drop" }, r.table, r.key));
            match done {
                Ok(_) => {}
                // A row that does not fit cannot be put back.
                Err(Error::Argument(_)) if retry => {}
                // Nor given up where only the app can say what becomes of its own rows.
                Err(Error::Argument(why)) if why.contains("which is not synced, refer to it") => {}
                Err(e) => self.fail(Violation::new("inbox", format!("device {n}, {} {}: {e}", r.table, r.key))),
            }
        }
    }
}
