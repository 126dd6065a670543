//! Who a device belongs to, and work that leaves one device in a file and arrives on another; and files
//! that are damaged, which `verify` finds.

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use sync_client::{Client, Error, ErrorClass, Repair};

use crate::app::tokens;
use crate::check::tokens_of_entry;
use crate::device::{Device, lock, seen};
use crate::model::Val;
use crate::plan::{Joins, Leave, Verb, Way};
use crate::power::Log;
use crate::world::{Violation, World};

/// Pending work in a file of its own.
#[derive(Debug, Clone)]
pub(crate) struct Exported {
    path: PathBuf,
    /// By which device, at which moment of the ledger.
    imported: Option<(usize, u64)>,
}

/// A user's name.
pub(crate) const fn user_name(n: u8) -> &'static str {
    if n == 0 { "ada" } else { "bob" }
}

impl World {
    /// Another user signs in.
    pub(crate) fn switch_user(&self, n: usize, to: u8, how: Leave, joins: Joins) {
        let d = self.device(n);
        if *lock(&d.user) == user_name(to) || !self.detach(n, how) {
            return;
        }
        self.covered("history", "user switched");
        self.forget_inbox(&d);
        user_name(to).clone_into(&mut lock(&d.user));
        *lock(&d.joins) = Some(joins);
    }

    /// What was told to a user goes when the file joins another's account. What was exported is not lost by that.
    pub(crate) fn forget_inbox(&self, d: &Device) {
        let inbox = lock(&d.app).as_ref().and_then(|c| seen(c).expect("a file can be read")).unwrap_or_default().inbox;
        let told = inbox.iter().filter(|e| !is_exported(e)).flat_map(|e| tokens_of_entry(e));
        lock(&self.ledger).forget(told);
    }

    pub(crate) fn export_path(&self) -> PathBuf {
        self.dir.path().join(format!("export-{}.db", lock(&self.exports).len()))
    }

    pub(crate) fn exported(&self, path: PathBuf) {
        lock(&self.exports).push(Exported { path, imported: None });
    }

    /// Every export that nobody took up yet and that this device can.
    pub(crate) fn import(&self, d: &Device, client: &Client) -> Result<(), Error> {
        let exports = lock(&self.exports).clone();
        for (i, export) in exports.iter().enumerate().filter(|(_, e)| e.imported.is_none()) {
            match client.import(&export.path) {
                Ok(done) => {
                    self.covered("import", if done.already { "again" } else { "taken up" });
                    let moment = lock(&self.ledger).now();
                    lock(&self.exports)[i].imported = Some((d.index, moment));
                }
                // It is of another account, or has columns that this file lacks.
                Err(Error::Argument(why)) => {
                    self.tell(|| format!("    not imported: {why}"));
                    self.covered("import", "refused");
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// A device went back to this moment: what it had imported since is in the export still.
    pub(crate) fn take_imports_back(&self, n: usize, moment: u64) {
        for e in lock(&self.exports).iter_mut() {
            if e.imported.is_some_and(|(device, at)| device == n && at > moment) {
                e.imported = None;
            }
        }
    }

    /// At the end every export is taken up by some device, where any can.
    pub(crate) fn import_rest(&self, d: &Arc<Device>) {
        if self.any_export_left() {
            self.plain(d.index, Verb::Import);
        }
    }

    pub(crate) fn any_export_left(&self) -> bool {
        lock(&self.exports).iter().any(|e| e.imported.is_none())
    }

    /// The tokens in the exports that nobody could take up.
    pub(crate) fn tokens_left_in_exports(&self) -> Vec<u64> {
        let left: Vec<_> = lock(&self.exports).iter().filter(|e| e.imported.is_none()).cloned().collect();
        let bytes = left.iter().map(|e| std::fs::read(&e.path).unwrap_or_default());
        bytes.flat_map(|b| tokens(&String::from_utf8_lossy(&b)).collect::<Vec<_>>()).collect()
    }

    /// A text of a row changes behind everybody's back, and `verify` repairs it.
    pub(crate) fn damage(&self, n: usize, from_file: bool) {
        self.plain_sync(n);
        let d = self.device(n);
        let (Some(client), Ok(rows)) = (lock(&d.client).clone(), d.rows()) else { return };
        let (damaged, before) = {
            let app = lock(&d.app);
            let Some(conn) = app.as_ref() else { return };
            let Ok(Some(seen)) = seen(conn) else { return };
            let free = |id: &&crate::model::Id| id.0 == "people" && !seen.in_motion(id);
            let Some((_, key)) = rows.keys().find(free) else { return };
            let [Val::Text(key)] = key.as_slice() else { return };
            if !seen.settled || seen.outbox != "none" || seen.checkpoint == 0 {
                return;
            }
            let name: Option<String> =
                conn.query_row("SELECT name FROM people WHERE id = ?", [key], |r| r.get(0)).expect("a row");
            let before = Log::of(conn).unwrap_or_default();
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).expect("a setting");
            let done = conn.execute("UPDATE people SET name = coalesce(name, '') || '!' WHERE id = ?", [key]);
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).expect("a setting");
            d.committed(conn, before, lock(&self.ledger).now()).expect("frames are counted");
            self.tell(|| format!("    {n}: damaged {key}: {done:?}"));
            if done.is_err() {
                return;
            }
            (key.clone(), name)
        };
        let repair = if from_file { Repair::FromFile } else { Repair::FromServer };
        match client.verify(repair) {
            // Another device seeds the account: it is as if nothing had happened.
            Err(e)
                if matches!(e, Error::RetryLater { .. })
                    || e.class() == ErrorClass::Failing && self.way() != Way::Clear =>
            {
                let app = lock(&d.app);
                let Some(conn) = app.as_ref() else { return };
                conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).expect("a setting");
                conn.execute("UPDATE people SET name = ? WHERE id = ?", (&before, &damaged)).expect("a write");
                conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).expect("a setting");
                return;
            }
            Ok(r) if r.differing_rows == 1 || self.only_rounded_but(&r, &damaged) => {
                self.covered("damage", if from_file { "pushed" } else { "mended" })
            }
            other => {
                let text = format!("device {n}: people {damaged} was damaged: {other:?}");
                self.fail(Violation::new("what differs is found", text));
            }
        }
        // Found equal, it is forgotten that this was repaired; the same damage is another one then.
        self.plain_sync(n);
        self.verify(n);
        self.check_device(&d);
    }
}

/// Whether this inbox entry says that a row was exported.
pub(crate) fn is_exported(entry: &str) -> bool {
    entry.contains(" exported: ")
}
