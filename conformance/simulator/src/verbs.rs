//! What clients are told to do, and whether they may fail at it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sync_client::{Attach, Client, Conflict, Error, ErrorClass, Event, Policy, Repair, Resolution, Tie, VerifyReport};

use crate::device::{Device, lock, seen};
use crate::hooks::{ClientCrash, ClientEnv, Link};
use crate::plan::{Fault, Joins, Verb, VerbStep, Way, Wins};
use crate::world::{Violation, World};

impl World {
    /// The client's process starts, where it does not run.
    pub(crate) fn open(&self, d: &Arc<Device>) {
        if lock(&d.client).is_some() {
            return;
        }
        let user = lock(&d.user).clone();
        let builder = Client::builder(d.path())
            .server("http://simulated")
            .token(move |_| Ok(user.clone()))
            .all_tables()
            .policy(policy(d.setup.policy));
        let builder = match *lock(&d.joins) {
            None => builder,
            Some(Joins::Merge) => builder.attach(Attach::Merge),
            Some(Joins::TakeRemote) => builder.attach(Attach::TakeRemote),
            Some(Joins::Fail) => builder.attach(Attach::Fail),
            Some(Joins::Copy) => builder.attach(Attach::Copy),
        };
        let world = self.me.clone();
        let builder = builder.on_event(move |e| {
            if let Some(w) = world.upgrade() {
                w.covered("event", event_name(e));
            }
        });
        let builder = if d.setup.keep { builder.keep_edits_of("notes").keep_edits_of("tags") } else { builder };
        let opened = builder
            .transport(Arc::new(Link { world: self.me.clone(), device: d.index }))
            .environment(Arc::new(ClientEnv { world: self.me.clone(), device: d.index }))
            .open();
        match opened {
            Ok(c) => *lock(&d.client) = Some(c),
            Err(e) if d.room.load(Ordering::Relaxed) > 0 => self.tell(|| format!("    not opened: {e}")),
            Err(e) => self.fail(Violation::new("opens", format!("device {}: {e}", d.index))),
        }
    }

    pub(crate) fn verb(&self, v: &VerbStep) {
        let d = self.device(v.device);
        let room = v.faults.iter().find_map(|f| if let Fault::DiskFull(n) = f.what { Some(n) } else { None });
        if let Some(n) = room {
            *lock(&d.client) = None;
            d.room.store(1 + n % 12, Ordering::Relaxed);
            self.covered("fault", "disk_full");
        }
        self.open(&d);
        {
            let mut run = lock(&self.run);
            run.device = d.index;
            run.depth = 1;
            run.hooks = 0;
            run.rewritten = false;
            run.fired = room.is_some();
            run.armed.clone_from(&v.faults);
            run.armed.sort_by_key(|p| p.at);
        }
        self.covered("verb", &format!("{:?}", v.verb));
        let outcome = self.call(&d, v.verb);
        let fired = {
            let mut run = lock(&self.run);
            run.depth = 0;
            run.armed.clear();
            run.busy_until = None;
            *lock(&d.neighbour) = None;
            run.fired || !run.late.is_empty()
        };
        *lock(&self.server.armed) = None;
        if let Err(Some(Error::Failing { .. } | Error::Intermediary { .. })) = &outcome
            && !fired
        {
            let seen = lock(&d.app).as_ref().and_then(|c| seen(c).ok().flatten());
            let status = lock(&d.client).as_ref().and_then(|c| c.status().ok());
            if let (Some(seen), Some(status)) = (seen, status) {
                self.pulled_all_the_same(d.index, v.verb, seen.checkpoint, status.waiting_bundle.is_some());
            }
        }
        self.judge(&d, outcome, fired);
        self.outbox_moved(&d);
        if room.is_some() {
            d.room.store(0, Ordering::Relaxed);
            *lock(&d.client) = None;
            self.open(&d);
        }
        self.check_device(&d);
    }

    /// A sync that nothing is planned for, also inside another device's verb.
    pub(crate) fn plain_sync(&self, n: usize) {
        self.plain(n, Verb::Sync);
    }

    pub(crate) fn plain(&self, n: usize, verb: Verb) {
        let d = self.device(n);
        self.open(&d);
        let outcome = self.call(&d, verb);
        // Inside another device's verb, the server may be about to die.
        let faulty = lock(&self.run).depth > 0;
        self.judge(&d, outcome, faulty);
        self.outbox_moved(&d);
    }

    fn call(&self, d: &Arc<Device>, verb: Verb) -> Result<(), Option<Error>> {
        let Some(client) = lock(&d.client).clone() else { return Ok(()) };
        if verb == Verb::Import && !self.any_export_left() {
            return Ok(());
        }
        d.unseen.store(false, Ordering::Relaxed);
        if lock(&self.run).depth <= 1 {
            let mut run = lock(&self.run);
            (run.requests, run.cached) = (0, false);
        }
        let called = catch_unwind(AssertUnwindSafe(|| match verb {
            Verb::Sync => client.sync().map(drop),
            Verb::Push => client.push().map(drop),
            Verb::Pull => client.pull().map(drop),
            Verb::Rebuild => client.rebuild().map(drop),
            Verb::Attach => client.attach().map(|a| self.covered("attached", &format!("{a:?}"))),
            Verb::Brief => client.sync_within(Duration::from_millis(40), None).map(|w| self.within(w.more)),
            Verb::Frugal => client.sync_within(Duration::from_secs(3600), Some(4000)).map(|w| self.within(w.more)),
            Verb::Verify => client.verify(Repair::No).map(|r| self.compared(d, &r)),
            Verb::Repair => client.verify(Repair::FromServer).map(|r| self.compared(d, &r)),
            Verb::Import => self.import(d, &client),
        }));
        drop(client);
        match called {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(Some(e)),
            Err(p) if p.is::<ClientCrash>() => {
                let moment = lock(&self.ledger).now();
                let survived = d.come_back().expect("the file opens after a crash");
                if let Some(at) = survived.filter(|at| *at < moment) {
                    self.forgive(d, at);
                }
                self.tell(|| "    the client died".into());
                Err(None)
            }
            Err(p) => {
                let text = p
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| p.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                    .unwrap_or_default();
                self.fail(Violation::new("panic", text));
                Ok(())
            }
        }
    }

    /// Without a fault no verb may fail; with one, only by an error that says "later".
    fn judge(&self, d: &Device, outcome: Result<(), Option<Error>>, fired: bool) {
        let e = match outcome {
            Ok(()) => return self.covered("outcome", "ok"),
            Err(None) => return self.covered("outcome", "died"),
            Err(Some(e)) => e,
        };
        self.tell(|| format!("    error: {e}"));
        self.covered("outcome", &format!("{:?}", e.class()));
        let excused = match &e {
            Error::RetryLater { .. } => {
                *lock(&self.waits) = true;
                true
            }
            Error::Argument(why) => why.contains("none of these rows yet"),
            Error::Failing { .. } | Error::Intermediary { .. } => fired || self.way() != Way::Clear,
            // A filter may cut connections.
            Error::Offline { lost: true, .. } => fired || matches!(self.way(), Way::Filter(_)),
            Error::Offline { .. } | Error::Stopped | Error::OldReply { .. } | Error::NoProgress => fired,
            // Then a person says that both are to be kept.
            Error::BothHaveRows { .. } | Error::OtherAccount { .. } => {
                let fails = lock(&d.joins).replace(Joins::Merge) == Some(Joins::Fail);
                *lock(&d.client) = None;
                *lock(&self.waits) = true;
                fails
            }
            // A person says which it is.
            Error::LooksLikeCopy { .. } => {
                let answer = if d.index < 2 { Joins::Copy } else { Joins::Merge };
                self.covered("copy", if answer == Joins::Copy { "copy" } else { "merge" });
                let asked_twice = lock(&d.joins).replace(answer).is_some_and(|j| j != Joins::Fail);
                *lock(&d.client) = None;
                *lock(&self.waits) = true;
                !asked_twice
            }
            Error::Sqlite(s) => {
                use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull};
                fired && matches!(s.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked | DiskFull))
            }
            // A session that is gone: the next sync begins it anew.
            Error::Refused { .. } => fired && e.class() == ErrorClass::Offline,
            _ => false,
        };
        if !excused {
            self.fail(Violation::new("no verb fails without a cause", format!("device {}: {e}", d.index)));
        }
    }

    fn within(&self, more: bool) {
        self.covered("within", if more { "more" } else { "done" });
    }

    /// What the outbox was before a verb, and is after it.
    fn outbox_moved(&self, d: &Device) {
        let now = lock(&d.app).as_ref().and_then(|c| seen(c).ok().flatten());
        if let Some(scope) = now.as_ref().map(|s| s.scope.clone())
            && std::mem::replace(&mut *lock(&d.scope), scope.clone()) != scope
        {
            lock(&d.user).clone_into(&mut lock(&d.joined));
        }
        if let Some(now) = now.map(|s| s.outbox) {
            let before = std::mem::replace(&mut *lock(&d.outbox), now.clone());
            self.covered("outbox", &format!("{before} -> {now}"));
        }
    }

    /// Nothing damages a file in silence, so nothing may differ, whatever happens meanwhile.
    fn compared(&self, d: &Device, report: &VerifyReport) {
        self.covered("compared", if report.differing_rows == 0 { "equal" } else { "differs" });
        if report.differing_rows > 0 && !lock(&self.run).rewritten && !self.only_rounded(report) {
            let text = format!("device {}: {:?}", d.index, report.differences);
            self.fail(Violation::new("digests agree where rows do", text));
        }
    }

    /// Whether all that differs are numbers that came rounded.
    fn only_rounded(&self, report: &VerifyReport) -> bool {
        self.way() == Way::June && report.differences.iter().all(|d| d.columns == ["age"])
    }

    /// The same, but one row.
    pub(crate) fn only_rounded_but(&self, report: &VerifyReport, key: &str) -> bool {
        let others = report.differences.iter().filter(|d| !d.key.contains(&format!("\"{key}\"")));
        self.way() == Way::June
            && others.clone().count() as u64 + 1 == report.differing_rows
            && others.into_iter().all(|d| d.columns == ["age"])
    }

    /// Compares a device at rest with the server, by digests. What came rounded is exact after a repair.
    pub(crate) fn verify(&self, n: usize) {
        let d = self.device(n);
        self.open(&d);
        let Some(c) = lock(&d.client).clone() else { return };
        let mut found = c.verify(Repair::No);
        if found.as_ref().is_ok_and(|report| report.differing_rows > 0 && self.only_rounded(report)) {
            self.covered("verify", "sharpened");
            found = c.verify(Repair::FromServer).and_then(|_| c.verify(Repair::No));
        }
        match found {
            Ok(report) if report.differing_rows == 0 => self.covered("verify", "equal"),
            Ok(report) => {
                let text = format!("device {n}: {:?}", report.differences);
                self.fail(Violation::new("digests agree where rows do", text));
            }
            Err(Error::Failing { .. } | Error::Intermediary { .. }) if self.way() != Way::Clear => {}
            Err(e) => self.fail(Violation::new("digests agree where rows do", format!("device {n}: {e}"))),
        }
    }
}

fn policy(wins: Wins) -> Policy {
    match wins {
        Wins::Server => Policy::ServerWins,
        Wins::Client => Policy::ClientWins,
        Wins::Custom => Policy::Custom(Arc::new(merge)),
        Wins::Columns => Policy::MergeColumns(Tie::Server),
        Wins::OwnColumns => Policy::MergeColumns(Tie::Client),
    }
}

/// The app's own function: a column that changed here only stays, everything else is the server's.
fn merge(c: &Conflict) -> Resolution {
    let (Some(local), Some(base), Some(server)) = (&c.local, &c.base, &c.server) else {
        return Resolution::TakeServer;
    };
    let mut merged = server.clone();
    for (name, v) in local {
        if base.get(name).is_some_and(|b| b != v) && base.get(name) == server.get(name) {
            merged.insert(name.clone(), v.clone());
        }
    }
    Resolution::Merged(merged)
}

const fn event_name(e: &Event) -> &'static str {
    match e {
        Event::Started => "started",
        Event::Frozen { .. } => "frozen",
        Event::Uploaded { .. } => "uploaded",
        Event::Committed { .. } => "committed",
        Event::Downloaded { .. } => "downloaded",
        Event::Applied { .. } => "applied",
        Event::Changed { .. } => "changed",
        Event::Inbox { .. } => "inbox",
        Event::Rekeyed { .. } => "rekeyed",
        Event::Finished { .. } => "finished",
        _ => "other",
    }
}
