//! Several raw HTTP sources of one user, interleaved at random, and the model beside them.

use proptest::prelude::{Just, prop_oneof};
use proptest::strategy::Strategy;

use super::hold;
use super::model::{Change, Live, Model, Op};
use crate::calls::{Bundle, Row, Session, shown_rows};
use crate::json::Json;
use crate::lab::{Checked, Device, Lab, want};
use crate::profile::Table;
use crate::rows;

/// What a row of a push says of the row's version.
#[derive(Debug, Clone, Copy)]
enum Base {
    Right,
    Zero,
    Older,
    Newer,
}

#[derive(Debug, Clone)]
struct Edit {
    row: i64,
    op: Op,
    base: Base,
}

#[derive(Debug, Clone)]
enum Step {
    Push { source: usize, edits: Vec<Edit> },
    Stage { source: usize, edits: Vec<Edit> },
    CommitStaged { source: usize },
    DropStaged { source: usize },
    Again { source: usize },
    Gap { source: usize },
    Pull { source: usize, page: i64 },
    Replace { source: usize },
    OpenSnapshot,
    ReadSnapshot { page: i64 },
    Compare,
}

pub(super) fn check(lab: &Lab<'_>) -> Checked {
    let steps = proptest::collection::vec(step(), 1..24);
    hold(lab, CASES, &steps, |steps| {
        let mut world = World::new(lab)?;
        for step in steps {
            world.step(step)?;
        }
        world.compare()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let edit = (0..ROWS, prop_oneof![Just(Op::Insert), Just(Op::Update), Just(Op::Delete)], base());
    let edit = edit.prop_map(|(row, op, base)| Edit { row, op, base });
    let edits = proptest::collection::vec(edit, 1..5).boxed();
    let source = 0..SOURCES;
    prop_oneof![
        6 => (source.clone(), edits.clone()).prop_map(|(source, edits)| Step::Push { source, edits }),
        2 => (source.clone(), edits).prop_map(|(source, edits)| Step::Stage { source, edits }),
        2 => source.clone().prop_map(|source| Step::CommitStaged { source }),
        1 => source.clone().prop_map(|source| Step::DropStaged { source }),
        1 => source.clone().prop_map(|source| Step::Again { source }),
        1 => source.clone().prop_map(|source| Step::Gap { source }),
        3 => (source.clone(), 1..4_i64).prop_map(|(source, page)| Step::Pull { source, page }),
        1 => source.prop_map(|source| Step::Replace { source }),
        1 => Just(Step::OpenSnapshot),
        1 => (1..4_i64).prop_map(|page| Step::ReadSnapshot { page }),
        1 => Just(Step::Compare),
    ]
}

/// Mostly right: a history in which everything conflicts says little.
fn base() -> impl Strategy<Value = Base> {
    prop_oneof![8 => Just(Base::Right), 1 => Just(Base::Zero), 1 => Just(Base::Older), 1 => Just(Base::Newer)]
}

struct Source<'l> {
    device: Device<'l>,
    next: i64,
    checkpoint: i64,
    staged: Option<(String, Vec<Change>)>,
    generation: usize,
}

struct World<'l> {
    table: &'l Table,
    sources: Vec<Source<'l>>,
    model: Model,
    /// An open snapshot, and what lived when it was made.
    frozen: Option<(Session, Live)>,
    labels: usize,
}

impl<'l> World<'l> {
    fn new(lab: &'l Lab<'_>) -> Checked<Self> {
        let first = lab.ready()?;
        let source = |n: usize| Source {
            device: first.source(&format!("source-{n}")),
            next: 1,
            checkpoint: 0,
            staged: None,
            generation: 0,
        };
        let sources = (0..SOURCES).map(source).collect();
        Ok(Self { table: lab.plain()?, sources, model: Model::default(), frozen: None, labels: 0 })
    }

    fn step(&mut self, step: &Step) -> Checked {
        match step {
            Step::Push { source, edits } => {
                let changes = self.changes(edits);
                self.stage(*source, changes)?;
                self.commit(*source)
            }
            Step::Stage { source, edits } => {
                let changes = self.changes(edits);
                self.stage(*source, changes)
            }
            Step::CommitStaged { source } => self.commit(*source),
            Step::DropStaged { source } => self.drop_staged(*source),
            Step::Again { source } => self.again(*source),
            Step::Gap { source } => {
                let s = &self.sources[*source];
                s.device.create_reply(s.next + 1, 1)?.refused(409, &["source_sequence_out_of_order"]).map(drop)
            }
            Step::Pull { source, page } => self.pull(*source, *page),
            Step::Replace { source } => self.replace(*source),
            Step::OpenSnapshot => {
                let session = self.sources[0].device.snapshot()?;
                let latest = self.model.latest();
                want!(session.seq == latest, "a snapshot stands at the newest bundle", "{session:?}, not {latest}");
                self.frozen = Some((session, self.model.live()));
                Ok(())
            }
            Step::ReadSnapshot { page } => {
                let Some((session, live)) = &self.frozen else { return Ok(()) };
                let rows = self.sources[1].device.snapshot_all(session, *page)?;
                self.same_rows(&rows, live)
            }
            Step::Compare => self.compare(),
        }
    }

    /// The rows of a push: each row once, with the base that was asked for.
    fn changes(&mut self, edits: &[Edit]) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        for e in edits {
            if changes.iter().any(|c| c.row == e.row) {
                continue;
            }
            let version = self.model.rows.get(&e.row).map_or(0, |r| r.version);
            let base = match e.base {
                Base::Right => version,
                Base::Zero => 0,
                Base::Older => version - 1,
                Base::Newer => version + 1,
            };
            self.labels += 1;
            // Mostly what makes sense for the row: otherwise hardly anything is ever committed.
            let live = self.model.rows.get(&e.row).is_some_and(|r| r.label.is_some());
            let op = match (e.op, e.base, live) {
                (Op::Insert, Base::Right, true) => Op::Update,
                (Op::Update | Op::Delete, Base::Right, false) => Op::Insert,
                (op, ..) => op,
            };
            changes.push(Change { row: e.row, op, base, label: format!("<label {}>", self.labels) });
        }
        changes
    }

    fn rows(&self, changes: &[Change]) -> Vec<rows::Change> {
        let row = |c: &Change| match c.op {
            Op::Insert => rows::Change { base: c.base, ..self.table.insert(c.row, &c.label) },
            Op::Update => self.table.update(c.row, c.base, &c.label),
            Op::Delete => self.table.remove(c.row, c.base),
        };
        changes.iter().map(row).collect()
    }

    fn stage(&mut self, source: usize, changes: Vec<Change>) -> Checked {
        let rows = self.rows(&changes);
        let s = &mut self.sources[source];
        let old = s.staged.take();
        let push = s.device.stage(s.next, &rows)?;
        if let Some((old, _)) = old {
            // The same tuple: the older session is gone.
            s.device.commit_reply(&old)?.refused(404, &["push_session_not_found"])?;
        }
        s.staged = Some((push, changes));
        Ok(())
    }

    fn commit(&mut self, source: usize) -> Checked {
        let Some((push, changes)) = self.sources[source].staged.clone() else { return Ok(()) };
        let s = &self.sources[source];
        let before = self.model.clone();
        if !self.model.commit(s.device.source_id(), s.next, &changes) {
            // Refused, and still staged: a row that conflicts now conflicts for ever.
            let json = s.device.commit_reply(&push)?.refused(409, &["push_conflict"])?;
            return self.conflict(&before, &changes, &json);
        }
        let c = s.device.commit(&push)?;
        let latest = self.model.latest();
        let fits = c.seq == latest && c.row_count == changes.len() as i64 && c.source_bundle_id == s.next;
        want!(fits, "a commit is the next bundle, with the rows that were pushed", "{c:?}, the model says {latest}");
        let rows = s.device.rows(&c)?;
        self.same_bundle(latest, &rows)?;
        let s = &mut self.sources[source];
        s.staged = None;
        s.next += 1;
        Ok(())
    }

    fn conflict(&self, model: &Model, changes: &[Change], json: &Json) -> Checked {
        let c = json.get("conflict").cloned().unwrap_or(Json::Null);
        let key = c.get("key").cloned().unwrap_or(Json::Null);
        let found = changes.iter().find(|c| key.same(&self.table.row_key(c.row)));
        let Some(change) = found.filter(|c| model.conflicts(c)) else {
            return crate::lab::fail("the conflict is one of the conflicting rows", json.to_string());
        };
        let state = model.rows.get(&change.row);
        let label = state.and_then(|s| s.label.as_ref());
        let row = c.get("server_row").cloned().unwrap_or(Json::Null);
        let right = c.get("server_row_version").and_then(Json::integer) == Some(state.map_or(0, |s| s.version))
            && c.get("server_row_deleted").and_then(Json::boolean) == Some(state.is_some() && label.is_none())
            && label.map_or(row == Json::Null, |l| row.same(&self.table.full(change.row, l)))
            && c.get("op").and_then(Json::text) == Some(change.op.name())
            && c.get("base_row_version").and_then(Json::integer) == Some(change.base);
        want!(right, "the conflict says what the server has", "{json}, the model has {state:?}");
        Ok(())
    }

    fn drop_staged(&mut self, source: usize) -> Checked {
        let Some((push, _)) = self.sources[source].staged.take() else { return Ok(()) };
        let device = &self.sources[source].device;
        device.delete(&format!("/sync/push-sessions/{push}"))?.done()?;
        device.commit_reply(&push)?.refused(404, &["push_session_not_found"]).map(drop)
    }

    /// The tuple that was committed last is found again.
    fn again(&self, source: usize) -> Checked {
        let s = &self.sources[source];
        let committed = self.model.bundles.iter().rposition(|b| b.source == s.device.source_id());
        let Some(at) = committed else { return Ok(()) };
        let id = self.model.bundles[at].id;
        let reply = s.device.create_reply(id, 1)?;
        let json = reply.ok()?;
        let same = reply.need_text(&json, "status")? == "already_committed"
            && reply.need_integer(&json, "bundle_seq")? == at as i64 + 1
            && reply.need_integer(&json, "row_count")? == self.model.bundles[at].changes.len() as i64;
        want!(same, "a committed tuple is already_committed as its bundle", "{}", reply.came());
        Ok(())
    }

    fn pull(&mut self, source: usize, page: i64) -> Checked {
        let s = &self.sources[source];
        let (stable, bundles) = s.device.pull_all(s.checkpoint, page)?;
        let latest = self.model.latest();
        want!(stable == latest, "a pull reaches the newest bundle", "{stable}, the model says {latest}");
        want!(bundles.len() as i64 == latest - s.checkpoint, "a pull has every bundle", "{}", bundles.len());
        for b in &bundles {
            self.same_head(b)?;
            self.same_bundle(b.seq, &b.rows)?;
        }
        self.sources[source].checkpoint = stable;
        Ok(())
    }

    /// Retires a source; its successor begins at 1.
    fn replace(&mut self, source: usize) -> Checked {
        let s = &mut self.sources[source];
        s.generation += 1;
        let new = format!("source-{source}-{}", s.generation);
        crate::checks::replace(&s.device, &new, "source_sequence_changed")?;
        if let Some((push, _)) = s.staged.take() {
            s.device.commit_reply(&push)?.refused(409, &["source_retired"])?;
        }
        s.device.create_reply(s.next, 1)?.refused(409, &["source_retired"])?;
        s.device = s.device.source(&new);
        s.next = 1;
        Ok(())
    }

    fn compare(&self) -> Checked {
        let device = &self.sources[0].device;
        self.same_rows(&device.state()?, &self.model.live())?;
        device.audit()
    }

    fn same_head(&self, b: &Bundle) -> Checked {
        let model = &self.model.bundles[b.seq as usize - 1];
        let same = b.source == model.source && b.source_bundle_id == model.id;
        want!(
            same,
            "a pulled bundle is of its source and its id",
            "{b:?}, the model has {} {}",
            model.source,
            model.id
        );
        Ok(())
    }

    fn same_bundle(&self, seq: i64, rows: &[Row]) -> Checked {
        let model = &self.model.bundles[seq as usize - 1];
        let same = rows.len() == model.changes.len()
            && model.changes.iter().all(|c| {
                let key = self.table.row_key(c.row);
                rows.iter().any(|r| {
                    let payload = match &r.payload {
                        Some(p) => c.op != Op::Delete && p.same(&self.table.full(c.row, &c.label)),
                        None => c.op == Op::Delete,
                    };
                    r.is(&self.table.schema, &self.table.name, &key) && r.op == c.op.name() && payload
                })
            });
        want!(same, "a bundle has the rows that were pushed", "{}, pushed {:?}", shown_rows(rows), model.changes);
        Ok(())
    }

    fn same_rows(&self, rows: &[Row], live: &Live) -> Checked {
        let same = rows.len() == live.len()
            && live.iter().all(|(n, (version, label))| {
                let key = self.table.row_key(*n);
                rows.iter().any(|r| {
                    r.is(&self.table.schema, &self.table.name, &key)
                        && r.version == *version
                        && r.payload.as_ref().is_some_and(|p| p.same(&self.table.full(*n, label)))
                })
            });
        want!(same, "a snapshot holds the rows that live", "{}, the model has {live:?}", shown_rows(rows));
        Ok(())
    }
}

const CASES: u32 = 24;
const SOURCES: usize = 3;
const ROWS: i64 = 6;
