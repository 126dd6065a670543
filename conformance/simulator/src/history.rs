//! What befalls disks: the server's and the devices' backups, losses, copies, and files that are detached.

use std::sync::Arc;

use sync_client::{Detach, Error};

use crate::app::ADDED;
use crate::check::tokens_of_entry;
use crate::device::{Device, copy_file, lock, seen};
use crate::hooks::ServerEnv;
use crate::model::{Mark, State, UserModel};
use crate::plan::Leave;
use crate::world::{Violation, World};

impl World {
    pub(crate) fn forgive(&self, d: &Device, since: u64) {
        // What the server or another device has is not lost with this one.
        let mut committed = lock(&self.models)
            .get(lock(&d.user).as_str())
            .map(|m| crate::ledger::all_tokens(m.now()))
            .unwrap_or_default();
        for n in (0..self.devices()).filter(|n| *n != d.index) {
            committed.extend(self.device(n).rows().map(|rows| crate::ledger::all_tokens(&rows)).unwrap_or_default());
        }
        lock(&self.ledger).forgive(d.index, since, &committed);
    }

    pub(crate) fn start_server(&self) {
        self.server.start(Arc::new(ServerEnv(self.me.clone())));
    }

    pub(crate) fn restart_server(&self) {
        self.server.stop();
        self.start_server();
    }

    pub(crate) fn back_up(&self) {
        let marks = lock(&self.models).iter().map(|(user, m)| (user.clone(), m.mark())).collect();
        *lock(&self.backup) = Some((self.server.copy(), marks));
    }

    pub(crate) fn restore(&self) {
        let Some((dir, marks)) = lock(&self.backup).clone() else { return };
        self.covered("history", "restored");
        lock(&self.run).rewritten = true;
        lock(&self.ledger).server_went_back();
        self.server.stop();
        self.server.use_dir(dir);
        let copy = self.server.copy();
        self.server.use_dir(copy);
        for (user, m) in lock(&self.models).iter_mut() {
            m.rewind(marks.get(user).cloned().unwrap_or_default());
        }
        self.start_server();
    }

    pub(crate) fn wipe(&self) {
        self.covered("history", "wiped");
        lock(&self.run).rewritten = true;
        lock(&self.ledger).server_went_back();
        self.server.stop();
        let dir = self.server.fresh_dir();
        self.server.use_dir(dir);
        for m in lock(&self.models).values_mut() {
            m.rewind(Mark::default());
        }
        *lock(&self.backup) = None;
        self.start_server();
    }

    /// The server starts where its data are not, as on a volume that is not mounted. Once: what is under the volume
    /// would be the same another time.
    pub(crate) fn go_without_data(&self) {
        if std::mem::replace(&mut *lock(&self.was_away), true) {
            return;
        }
        let mut away = lock(&self.away);
        self.covered("history", "without data");
        lock(&self.run).rewritten = true;
        lock(&self.ledger).server_went_back();
        self.server.stop();
        *away = Some((self.server.dir(), lock(&self.models).clone()));
        let dir = self.server.fresh_dir();
        self.server.use_dir(dir);
        lock(&self.models).values_mut().for_each(UserModel::go_away);
        self.start_server();
    }

    /// What was written to the server meanwhile is gone with that place; the files have it.
    pub(crate) fn find_data_again(&self) {
        let Some((dir, mut known)) = lock(&self.away).take() else { return };
        self.covered("history", "data back");
        lock(&self.run).rewritten = true;
        lock(&self.ledger).server_went_back();
        self.server.stop();
        self.server.use_dir(dir);
        for (user, m) in lock(&self.models).iter_mut() {
            m.come_back(known.remove(user).unwrap_or_else(|| self.new_user()));
        }
        self.start_server();
    }

    /// A copy of the file, as it is, is moved over it, while the client has the old one open but does nothing: what it
    /// records in a file that is gone is gone, too.
    pub(crate) fn replace_file(&self, n: usize) {
        let d = self.device(n);
        if d.take_copy().expect("the file is copied") {
            self.covered("history", "file replaced");
        }
    }

    /// Before anybody syncs, each file is a copy of the same one, and has changed a little since: a row that hardly anybody writes.
    pub(crate) fn make_twins(&self) {
        for n in 0..self.devices() {
            let d = self.device(n);
            let app = lock(&d.app);
            let conn = app.as_ref().expect("invariant: the app runs");
            let changed = if n == 0 {
                String::new()
            } else {
                format!("UPDATE counters SET label = '<w{n}>' WHERE id = 20 + {n};")
            };
            let sql = format!(
                "WITH RECURSIVE c(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c WHERE i < 30)
                 INSERT INTO counters (label) SELECT '<w0:' || i || '>' FROM c; {changed}"
            );
            conn.execute_batch(&sql).expect("rows");
            let rows = crate::device::rows(conn).expect("rows");
            lock(&self.ledger).note(n, &State::new(), &rows);
        }
        *lock(&self.writes) += 100;
        self.covered("history", "twins");
    }

    pub(crate) fn migrate_server(&self) {
        let mut migrated = lock(&self.migrated);
        if !std::mem::replace(&mut *migrated, true) {
            self.server.stop();
            self.server.set_schema(&format!("{}{ADDED}", self.schema));
            self.start_server();
        }
    }

    pub(crate) fn back_up_device(&self, n: usize) {
        let d = self.device(n);
        let to = d.next_path("backup");
        copy_file(&d.path(), &to).expect("a copy");
        *lock(&d.backup) = Some((to, lock(&self.ledger).now(), lock(&d.user).clone(), lock(&d.joined).clone()));
    }

    pub(crate) fn restore_device(&self, n: usize) {
        let d = self.device(n);
        let Some((from, moment, user, joined)) = lock(&d.backup).clone() else { return };
        self.covered("history", "device restored");
        let inbox = lock(&d.app).as_ref().and_then(|c| seen(c).expect("a file can be read")).unwrap_or_default().inbox;
        lock(&self.ledger).give_up(inbox.iter().flat_map(|entry| tokens_of_entry(entry)));
        d.close();
        *lock(&d.user) = user;
        *lock(&d.joined) = joined;
        let to = d.next_path("restored");
        copy_file(&from, &to).expect("a copy");
        d.use_file(to);
        d.open_app().expect("the app opens");
        self.forgive(&d, moment);
        self.take_imports_back(n, moment);
    }

    pub(crate) fn copy_device(&self, n: usize) {
        if self.devices() >= MOST_DEVICES {
            return;
        }
        self.covered("history", "device copied");
        let d = self.device(n);
        let to = d.next_path("twin");
        copy_file(&d.path(), &to).expect("a copy");
        let user = lock(&d.user).clone();
        let twin = Device::of_file(self.dir.path(), self.devices(), d.setup, &user, to);
        lock(&d.joined).clone_into(&mut lock(&twin.joined));
        *lock(&twin.joins) = *lock(&d.joins);
        twin.open_app().expect("the app opens");
        lock(&self.all).push(Arc::new(twin));
    }

    /// Whether it is detached now.
    pub(crate) fn detach(&self, n: usize, how: Leave) -> bool {
        let d = self.device(n);
        self.open(&d);
        let Some(c) = lock(&d.client).take() else { return false };
        let how = match how {
            Leave::Clean => Detach::WhenClean,
            Leave::Keep => Detach::KeepData,
            Leave::Discard => Detach::Discard,
            Leave::Export => Detach::Export(self.export_path()),
        };
        match c.detach(how.clone()) {
            Ok(_) => {
                let name = match how {
                    Detach::WhenClean => "detached when clean",
                    Detach::KeepData => "detached with data",
                    Detach::Discard => "detached and discarded",
                    Detach::Export(path) => {
                        self.exported(path);
                        "detached and exported"
                    }
                };
                self.covered("history", name);
                if *lock(&d.joined) != *lock(&d.user) {
                    self.forget_inbox(&d);
                }
                true
            }
            Err(Error::PendingWork(_)) if how == Detach::WhenClean => false,
            Err(e) => {
                self.fail(Violation::new("detach", format!("device {n}: {e}")));
                false
            }
        }
    }
}

/// Copies of copies come to an end.
const MOST_DEVICES: usize = 5;
