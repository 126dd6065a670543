//! One device under load: it edits rows as its user would, pushes, pulls, and now and then reads a snapshot.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::ledger::{Ledger, Tuple, label};
use super::meter::Meter;
use super::{Counts, Plan};
use crate::calls::{Bundle, Session, committed_already, read_committed, read_session};
use crate::json::Json;
use crate::lab::{Checked, Device, Reply, Stop, fail, want};
use crate::profile::Table;
use crate::property::model::{Change, Live, Model, Op, State};
use crate::random::Random;
use crate::rows;

/// One device.
pub(super) struct Worker<'l> {
    device: Device<'l>,
    /// Its place among its user's devices.
    number: usize,
    table: &'l Table,
    ledger: &'l Mutex<Ledger<'l>>,
    meter: &'l Meter,
    plan: &'l Plan,
    random: Random,
    /// The next source bundle id.
    next: i64,
    attempts: u64,
    joined: bool,
    checkpoint: i64,
    /// The rows as this device knows them, tombstones too.
    known: BTreeMap<i64, State>,
    /// A push whose fate is not known, with its number of rows.
    doubt: Option<(i64, i64)>,
    pub(super) counts: Counts,
}

impl<'l> Worker<'l> {
    pub(super) fn new(
        device: Device<'l>,
        number: usize,
        table: &'l Table,
        ledger: &'l Mutex<Ledger<'l>>,
        meter: &'l Meter,
        plan: &'l Plan,
        random: Random,
    ) -> Self {
        Self {
            device,
            number,
            table,
            ledger,
            meter,
            plan,
            random,
            next: 1,
            attempts: 0,
            joined: false,
            checkpoint: 0,
            known: BTreeMap::new(),
            doubt: None,
            counts: Counts::default(),
        }
    }

    /// Works until the load is over. Fails where the backend breaks the protocol, and is inconclusive
    /// where it does not answer.
    pub(super) fn work(&mut self) -> Checked {
        let mut silent = 0;
        while !self.meter.over() {
            let step = if self.joined { self.step() } else { self.connect() };
            match step {
                Ok(()) => silent = 0,
                Err(Stop::Inconclusive(_)) if self.meter.over() => {}
                Err(Stop::Inconclusive(why)) => {
                    silent += 1;
                    if silent >= PATIENCE {
                        return Err(Stop::Inconclusive(why));
                    }
                    let pause = Duration::from_millis(100 << silent);
                    std::thread::sleep(pause.min(self.device.lab.left()));
                }
                Err(stop) => return Err(stop),
            }
        }
        Ok(())
    }

    fn connect(&mut self) -> Checked {
        let c = self.device.connect(false)?;
        match c.resolution.as_str() {
            "initialize_empty" | "remote_authoritative" => {
                self.joined = true;
                Ok(())
            }
            // Another device of this user is just doing so.
            "retry_later" => Err(Stop::Inconclusive("the scope is still being initialized".to_owned())),
            _ => fail("a source without rows is not asked for them", c.body.to_string()),
        }
    }

    fn step(&mut self) -> Checked {
        self.settle_doubt()?;
        let mix = self.plan.mix;
        let choice = self.random.below(mix.push + mix.pull + mix.snapshot);
        if choice < mix.push {
            self.push()
        } else if choice < mix.push + mix.pull {
            self.pull(None)
        } else {
            self.snapshot()
        }
    }

    fn push(&mut self) -> Checked {
        let tuple = (self.number, self.next);
        let changes = self.edit(tuple);
        let rows = self.rows(&changes);
        self.ledger().push(tuple, changes.clone());
        let push = self.device.create(tuple.1, rows.len())?;
        self.device.fill(&push, &rows)?;
        self.ledger().sent(tuple);
        self.doubt = Some((tuple.1, rows.len() as i64));
        let reply = self.device.commit_reply(&push)?;
        let json = reply.json().ok();
        match (reply.status, json.as_ref().and_then(|j| j.get("error")).and_then(Json::text)) {
            (200, _) => {
                let c = read_committed(&reply, &reply.ok()?)?;
                let own = c.source == self.device.source_id() && c.source_bundle_id == tuple.1;
                want!(own, "a commit's reply has the tuple of its session", "{}", reply.came());
                self.device.lab.committed(self.device.user_id(), c.clone());
                self.ledger().committed(tuple, &c)?;
                self.committed(&changes, c.seq);
                if self.random.once_in(8) {
                    // As a device does whose reply was lost.
                    committed_already(&self.device.create_reply(tuple.1, rows.len() as i64)?, &c)?;
                }
                Ok(())
            }
            (409, Some("push_conflict")) => {
                self.conflict(&changes, &reply)?;
                self.refused(tuple)?;
                self.device.delete(&format!("/sync/push-sessions/{push}"))?.done()?;
                self.pull(None)
            }
            // It waited for too long to be committed.
            (404, Some("push_session_not_found")) | (410, Some("push_session_expired")) => Ok(()),
            _ => fail("a push that keeps to versions and schema is committed", reply.came()),
        }
    }

    fn committed(&mut self, changes: &[Change], seq: i64) {
        self.doubt = None;
        self.next += 1;
        self.counts.bundles_pushed += 1;
        self.counts.rows_pushed += changes.len() as u64;
        self.learn(changes, seq);
    }

    fn refused(&mut self, tuple: Tuple) -> Checked {
        self.doubt = None;
        self.ledger().withdraw(tuple)
    }

    fn learn(&mut self, changes: &[Change], seq: i64) {
        for c in changes {
            let label = (c.op != Op::Delete).then(|| c.label.clone());
            self.known.insert(c.row, State { version: seq, label });
        }
    }

    /// A conflict must be one: with the row that it shows, the change is refused.
    fn conflict(&mut self, changes: &[Change], reply: &Reply) -> Checked {
        self.counts.conflicts += 1;
        let json = reply.refused(409, &["push_conflict"])?;
        let c = reply.need(&json, "conflict")?;
        let key = reply.need(c, "key")?;
        let Some(change) = changes.iter().find(|c| self.table.row_key(c.row).same(key)) else {
            return fail("a conflict is about a row of the push", reply.came());
        };
        let version = reply.need_integer(c, "server_row_version")?;
        let deleted = reply.need_boolean(c, "server_row_deleted")?;
        let mut model = Model::default();
        if version > 0 {
            let label = (!deleted).then(String::new);
            model.rows.insert(change.row, State { version, label });
        }
        want!(model.conflicts(change), "what a conflict shows is a conflict", "{}", reply.came());
        self.ledger().claim(change.row, version, deleted);
        if deleted {
            self.known.insert(change.row, State { version, label: None });
        }
        Ok(())
    }

    /// Finds out whether the push was committed whose reply did not come.
    fn settle_doubt(&mut self) -> Checked {
        let Some((id, rows)) = self.doubt else { return Ok(()) };
        let tuple = (self.number, id);
        let reply = self.device.create_reply(id, rows)?;
        if reply.status == 409 {
            reply.refused(409, &["history_pruned"])?;
            self.doubt = None;
            self.next += 1;
            // It is there, and nobody can say where.
            self.counts.lost += 1;
            return Ok(());
        }
        let json = reply.ok()?;
        if reply.need_text(&json, "status")? == "staging" {
            return self.refused(tuple);
        }
        let c = read_committed(&reply, &json)?;
        self.ledger().committed(tuple, &c)?;
        self.doubt = None;
        self.next += 1;
        self.counts.bundles_pushed += 1;
        self.counts.rows_pushed += rows.unsigned_abs();
        Ok(())
    }

    /// Pulls everything up to `target`, or to what the first page freezes.
    fn pull(&mut self, mut target: Option<i64>) -> Checked {
        loop {
            let mut query = format!("?after_bundle_seq={}&max_bundles={PAGE}", self.checkpoint);
            if let Some(target) = target {
                query.push_str(&format!("&target_bundle_seq={target}"));
            }
            let reply = self.device.pull_reply(&query)?;
            let json = if reply.status == 409 { reply.json().ok() } else { None };
            if json.as_ref().and_then(|j| j.get("error")).and_then(Json::text) == Some("history_pruned") {
                self.counts.rebuilds += 1;
                return self.rebuild();
            }
            let page = self.device.read_pulled(&query, &reply)?;
            let stable = *target.get_or_insert(page.stable);
            let expected = "stable_bundle_seq is the target on every page";
            want!(page.stable == stable, expected, "{} not {stable}", page.stable);
            for b in &page.bundles {
                let expected = "bundles of a pull follow the checkpoint without a gap";
                want!(b.seq == self.checkpoint + 1, expected, "{} after {}", b.seq, self.checkpoint);
                self.apply(b)?;
            }
            if !page.more {
                let expected = "the last page of a pull reaches stable_bundle_seq";
                want!(self.checkpoint == stable, expected, "{}, not {stable}", self.checkpoint);
                return Ok(());
            }
            want!(!page.bundles.is_empty(), "a page after has_more has a bundle", "{}", reply.came());
        }
    }

    fn apply(&mut self, b: &Bundle) -> Checked {
        let changes = self.ledger().pulled(b)?;
        self.counts.bundles_pulled += 1;
        self.counts.rows_pulled += changes.len() as u64;
        self.learn(&changes, b.seq);
        self.checkpoint = b.seq;
        Ok(())
    }

    /// Reads a snapshot and compares it with what history made of the rows.
    fn snapshot(&mut self) -> Checked {
        let session = read_session(&self.device.snapshot_reply("{}")?)?;
        let live = self.read(&session)?;
        if self.checkpoint < session.seq {
            self.pull(Some(session.seq))?;
        }
        // History may have been pruned meanwhile, and the device be further than this snapshot.
        if self.checkpoint == session.seq {
            let own = self.live();
            want!(own == live, "a snapshot is what history made of the rows", "{}", difference(&own, &live));
        }
        Ok(())
    }

    /// Takes a snapshot in place of history that is gone.
    fn rebuild(&mut self) -> Checked {
        let session = read_session(&self.device.snapshot_reply("{}")?)?;
        let live = self.read(&session)?;
        self.known.retain(|n, s| s.label.is_none() || live.contains_key(n));
        for (n, (version, label)) in live {
            self.known.insert(n, State { version, label: Some(label) });
        }
        self.checkpoint = session.seq;
        Ok(())
    }

    fn read(&self, session: &Session) -> Checked<Live> {
        let behind = "a snapshot stands at the newest bundle";
        want!(session.seq >= self.checkpoint, behind, "{}, known is {}", session.seq, self.checkpoint);
        let mut live = Live::new();
        for row in self.device.snapshot_all(session, SNAPSHOT_PAGE)? {
            let (n, label) = self.ledger().snapshot_row(&row)?;
            let twice = live.insert(n, (row.version, label)).is_some();
            want!(!twice, "a snapshot has each row once", "{}", row.shown());
        }
        self.device.delete(&format!("/sync/snapshot-sessions/{}", session.id))?.done()?;
        Ok(live)
    }

    /// After the load: what is in doubt is found out, and everything is pulled.
    pub(super) fn settle(&mut self) -> Checked {
        if !self.joined {
            self.connect()?;
        }
        self.settle_doubt()?;
        self.pull(None)
    }

    pub(super) fn checkpoint(&self) -> i64 {
        self.checkpoint
    }

    /// The rows that live, as this device knows them.
    pub(super) fn live(&self) -> Live {
        self.known.iter().filter_map(|(n, s)| Some((*n, (s.version, s.label.clone()?)))).collect()
    }

    /// The rows that live, as a snapshot has them, and where it stands.
    pub(super) fn served(&self) -> Checked<(i64, Live)> {
        let session = read_session(&self.device.snapshot_reply("{}")?)?;
        Ok((session.seq, self.read(&session)?))
    }

    /// Edits of rows, each once. Mostly rows that no other device of the user edits.
    fn edit(&mut self, tuple: Tuple) -> Vec<Change> {
        self.attempts += 1;
        let devices = self.plan.devices as u64;
        let mut changes: Vec<Change> = Vec::new();
        let wanted = self.plan.rows;
        for n in 0..wanted as u64 {
            let own = !self.random.once_in(SHARED);
            let whose = if own { self.number as u64 } else { self.random.below(devices) };
            // A new stretch for each, so that no row comes twice.
            let place = n * SPREAD + self.random.below(SPREAD);
            let row = (place * devices + whose) as i64;
            let state = self.known.get(&row);
            let live = state.is_some_and(|s| s.label.is_some());
            let op = match (live, self.random.once_in(6)) {
                (false, _) => Op::Insert,
                (true, true) => Op::Delete,
                (true, false) => Op::Update,
            };
            let base = state.map_or(0, |s| s.version);
            changes.push(Change { row, op, base, label: label(tuple, self.attempts, changes.len()) });
        }
        changes
    }

    fn rows(&self, changes: &[Change]) -> Vec<rows::Change> {
        let ledger = self.ledger();
        let row = |c: &Change| {
            let text = ledger.text(&c.label);
            match c.op {
                Op::Insert => rows::Change { base: c.base, ..self.table.insert(c.row, &text) },
                Op::Update => self.table.update(c.row, c.base, &text),
                Op::Delete => self.table.remove(c.row, c.base),
            }
        };
        changes.iter().map(row).collect()
    }

    fn ledger(&self) -> std::sync::MutexGuard<'l, Ledger<'l>> {
        self.ledger.lock().expect("invariant: no panic while the ledger is held")
    }
}

/// The first rows in which two states differ.
pub(super) fn difference(a: &Live, b: &Live) -> String {
    let keys: std::collections::BTreeSet<&i64> = a.keys().chain(b.keys()).filter(|n| a.get(n) != b.get(n)).collect();
    let shown = keys.iter().take(3).map(|n| format!("row {n}: {:?} and {:?}", a.get(n), b.get(n)));
    format!("{} rows differ; {}", keys.len(), shown.collect::<Vec<_>>().join("; "))
}

/// Steps without an answer after which a device gives up.
const PATIENCE: u32 = 5;
const PAGE: i64 = 100;
const SNAPSHOT_PAGE: i64 = 1000;
/// One edit in so many is of any device's rows.
const SHARED: u64 = 10;
/// Rows that an edit chooses from.
const SPREAD: u64 = 8;
