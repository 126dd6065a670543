//! A push: what is in doubt goes first, as it was; then what the target has not, in batches that are frozen one by one.

use std::collections::VecDeque;

use rusqlite::Connection;
use sync_core::ingest::batches::{self, Head};

use super::confirm;
use super::deliver::Next;
use super::fold::fold;
use super::numbered::{forget_old, is_numbered};
use super::report::{IngestError, Mode, Pushed, SentBatch, Stop};
use super::select::{self, Done};
use super::sink::Sink;
use super::store::{self, Frozen, Member, Target};
use super::stream::Stream;
use crate::context::FaultPoint;
use crate::lock::{OwnerLock, beside};
use crate::store::rfc3339;

/// How a push goes.
#[derive(Debug, Clone)]
pub struct How {
    /// What it takes.
    pub mode: Mode,
    /// Only counts what it would send: nothing is sent, written or noted.
    pub dry_run: bool,
    /// Compares the server's state afterwards ([`Stop::Differs`]); nothing is sent again.
    pub verify: bool,
    /// Another device than the file's, for this push.
    pub device: Option<String>,
}

/// The longest that a server can have a file wait, in milliseconds: a day.
const LONGEST_WAIT: i64 = 86_400_000;

/// Why a push goes no further.
pub(super) enum End {
    Stop(Stop),
    Error(IngestError),
}

impl From<Stop> for End {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl<T: Into<IngestError>> From<T> for End {
    fn from(error: T) -> Self {
        Self::Error(error.into())
    }
}

/// A push under way.
pub(super) struct Run<'r, 's> {
    pub(super) stream: &'r Stream,
    pub(super) sink: &'r mut Sink<'s>,
    pub(super) target: Target,
    pub(super) device: String,
    pushed: Pushed,
    done: Done,
}

/// A batch that is to be frozen: its id and time, and the records that were chosen for it.
struct Part {
    id: String,
    created_at: String,
    members: Vec<Member>,
}

impl Stream {
    /// Sends what a target has not, or all, as `how` says. Never two at once from a file.
    ///
    /// # Errors
    /// Where the file cannot be used. A push that began says in [`Pushed::stop`] why it ended early.
    pub fn push(&self, sink: &mut Sink<'_>, how: &How) -> Result<Pushed, IngestError> {
        let _owner = OwnerLock::take(&beside(self.path(), "-ingest")).map_err(|error| match error {
            crate::Error::Owned { by } => IngestError::Busy(by),
            other => IngestError::File(other.to_string()),
        })?;
        let (kind, name) = (sink.kind(), sink.target());
        let mut tx = self.begin()?;
        store::ensure(&tx)?;
        let numbered = is_numbered(&self.contract);
        if how.dry_run || !numbered {
            fold(&tx, &self.contract)?;
        }
        let target = store::target(&tx, &self.contract.stream, kind, &name)?;
        let mut pushed = Pushed {
            sink: kind,
            target: name,
            mode: how.mode,
            dry_run: how.dry_run,
            counts: select::count(&self.contract, []),
            batches: Vec::new(),
            rebuilt: false,
            quarantined: Vec::new(),
            invalid: Vec::new(),
            verified: false,
            stop: None,
        };
        if how.dry_run {
            let chosen = select::select(&tx, &self.contract, target.id, how.mode, &Done::new())?;
            pushed.counts = select::count(&self.contract, chosen.iter().map(|(m, _)| m.kind));
            return tell(&tx, self, target.id, pushed);
        }
        let device = store::device(&tx, &self.contract, || self.env.random())?;
        if numbered {
            tx.commit()?;
            if let Err(stop) = self.prepare_numbered(sink, &target, how.device.as_deref().unwrap_or(&device))? {
                self.note_failure(target.id, &stop)?;
                pushed.stop = Some(stop);
                return tell(self.conn(), self, target.id, pushed);
            }
            tx = self.begin()?;
        }
        let untold = select::invalid(&tx, &self.contract.stream, true)?;
        tx.execute(
            "UPDATE main._sync_ingest_record SET told = 1 WHERE stream = ? AND fault IS NOT NULL",
            [&self.contract.stream],
        )?;
        tx.commit()?;
        if !untold.is_empty() {
            pushed.stop = Some(Stop::Invalid(untold));
            return tell(self.conn(), self, target.id, pushed);
        }
        let device = how.device.clone().unwrap_or(device);
        let id = target.id;
        let mut run = Run { stream: self, sink, target, device, pushed, done: Done::new() };
        let end = run.go(how);
        let mut pushed = run.pushed;
        match end {
            Ok(()) if numbered => {
                let tx = self.begin()?;
                forget_old(&tx, &self.contract, self.env.now_ms())?;
                tx.commit()?;
            }
            Ok(()) => {}
            Err(End::Error(error)) => return Err(error),
            Err(End::Stop(stop)) => {
                self.note_failure(id, &stop)?;
                pushed.stop = Some(stop);
            }
        }
        tell(self.conn(), self, id, pushed)
    }

    /// Numbers what waits, once it is known how far the server is.
    fn prepare_numbered(
        &self,
        sink: &Sink<'_>,
        target: &Target,
        device: &str,
    ) -> Result<Result<(), Stop>, IngestError> {
        if let Sink::Http(remote) = sink {
            if let Some(stop) = waits(self, target) {
                return Ok(Err(stop));
            }
            if let Err(stop) = self.catch_up(remote, target, device)? {
                return Ok(Err(stop));
            }
        }
        let tx = self.begin()?;
        fold(&tx, &self.contract)?;
        tx.commit()?;
        Ok(Ok(()))
    }

    fn note_failure(&self, target: i64, stop: &Stop) -> Result<(), IngestError> {
        let retry_at = match stop {
            // Nobody failed.
            Stop::Interrupted | Stop::Waiting { .. } => return Ok(()),
            Stop::Later { seconds } => {
                let ms = i64::try_from(*seconds).map_or(LONGEST_WAIT, |s| s.saturating_mul(1000).min(LONGEST_WAIT));
                Some(self.env.now_ms().saturating_add(ms))
            }
            _ => None,
        };
        let tx = self.begin()?;
        confirm::failed(&tx, target, &stop.to_string(), retry_at)?;
        Ok(tx.commit()?)
    }
}

/// Whether the server asked to wait, and it is not the time yet.
fn waits(stream: &Stream, target: &Target) -> Option<Stop> {
    let left = target.retry_at.map_or(0, |at| at.saturating_sub(stream.env.now_ms()));
    // More than was ever noted: the clock was ahead then.
    (1..=LONGEST_WAIT).contains(&left).then(|| Stop::Waiting { seconds: left.unsigned_abs().div_ceil(1000) })
}

/// Adds what waits for a person.
fn tell(conn: &Connection, stream: &Stream, target: i64, mut pushed: Pushed) -> Result<Pushed, IngestError> {
    pushed.quarantined = select::quarantined(conn, target)?;
    pushed.invalid = select::invalid(conn, &stream.contract.stream, false)?;
    Ok(pushed)
}

impl Run<'_, '_> {
    fn go(&mut self, how: &How) -> Result<(), End> {
        let to_server = matches!(self.sink, Sink::Http(_));
        if let Some(stop) = waits(self.stream, &self.target) {
            return Err(stop.into());
        }
        let mut frozen = store::frozen(self.stream.conn(), &self.stream.kinds(), self.target.id)?;
        if !matches!(self.sink, Sink::File(_))
            && let Some(batch) = frozen.take()
        {
            let next = self.deliver(&batch)?;
            self.after(next, batch, &mut VecDeque::new())?;
        }
        let numbered = is_numbered(&self.stream.contract);
        if to_server && !numbered {
            self.heal()?;
        }
        let chosen = select::select(self.stream.conn(), &self.stream.contract, self.target.id, how.mode, &self.done)?;
        // A file has one batch: the one that was cut is written again if it is all, else it is part of the new one.
        if let Some(batch) = frozen.take_if(|b| chosen.iter().map(|(m, _)| m).eq(&b.members)) {
            self.deliver(&batch)?;
            return Ok(());
        }
        let cuts = if to_server || (numbered && matches!(self.sink, Sink::Stdout(_))) {
            batches::cut(&self.stream.contract, chosen.iter().map(|(m, bytes)| (m.kind, *bytes)))
        } else {
            vec![chosen.len()]
        };
        // Where a batch has no name, an empty one says nothing.
        if chosen.is_empty() && (numbered || !self.pushed.batches.is_empty()) {
            return self.verify(how);
        }
        let (whole, created_at) = self.number()?;
        let mut chosen = chosen.into_iter().map(|(m, _)| m);
        // Without records there is still a batch, so that the server knows of the sync.
        let cuts = if cuts.is_empty() { vec![0] } else { cuts };
        let mut queue: VecDeque<Part> = (1..)
            .zip(&cuts)
            .map(|(n, count)| Part {
                id: batches::part_id(&whole, n, cuts.len()),
                created_at: created_at.clone(),
                members: chosen.by_ref().take(*count).collect(),
            })
            .collect();
        self.drain(&mut queue)?;
        self.verify(how)
    }

    fn drain(&mut self, queue: &mut VecDeque<Part>) -> Result<(), End> {
        while let Some(part) = queue.pop_front() {
            let batch = self.freeze(part)?;
            let next = self.deliver(&batch)?;
            self.after(next, batch, queue)?;
        }
        Ok(())
    }

    /// Goes on after a batch that ended so.
    fn after(&mut self, next: Next, batch: Frozen, queue: &mut VecDeque<Part>) -> Result<(), End> {
        match next {
            Next::Taken => return Ok(()),
            Next::Halves => {
                let created_at = self.number()?.1;
                let mut first = batch.members;
                let second = first.split_off(first.len().div_ceil(2));
                let part = |n, members| Part {
                    id: batches::part_id(&batch.batch_id, n, 2),
                    created_at: created_at.clone(),
                    members,
                };
                queue.push_front(part(2, second));
                queue.push_front(part(1, first));
            }
            Next::Without(members) if members.is_empty() => return Ok(()),
            Next::Without(members) => {
                let (id, created_at) = self.number()?;
                queue.push_front(Part { id, created_at, members });
            }
        }
        self.drain(queue)
    }

    /// The id and the time of a new batch. The time is the id's: it never goes back in a file, so that a later version
    /// of a record is newer to the server too, whatever the clock does.
    fn number(&self) -> Result<(String, String), End> {
        let tx = self.stream.begin()?;
        let number = store::take_number(&tx, &self.stream.contract.stream, self.stream.env.now_ms())?;
        tx.commit()?;
        Ok((batches::batch_id(number), rfc3339(number)))
    }

    fn freeze(&self, part: Part) -> Result<Frozen, End> {
        let contract = &self.stream.contract;
        let tx = self.stream.begin()?;
        let loaded = select::load(&tx, contract, part.members)?;
        let head = Head { batch_id: &part.id, device_id: &self.device, created_at: &part.created_at };
        let records = loaded.iter().map(|(m, payload)| (m.kind, payload.as_str()));
        let body = batches::compose(contract, head, records).ok_or(IngestError::Damaged)?.into_bytes();
        let members = loaded.into_iter().map(|(m, _)| m).collect();
        let batch = Frozen { batch_id: part.id, body, members };
        store::freeze(&tx, &self.stream.kinds(), self.target.id, &batch)?;
        tx.commit()?;
        self.stream.env.fault(FaultPoint::Frozen);
        Ok(batch)
    }

    /// A batch counts as sent.
    pub(super) fn note(&mut self, batch: &Frozen) {
        let counts = select::count(&self.stream.contract, batch.members.iter().map(|m| m.kind));
        for (kind, n) in &counts {
            *self.pushed.counts.entry(kind.clone()).or_default() += n;
        }
        self.done.extend(batch.members.iter().map(|m| (m.kind, m.id.clone(), m.hash.clone())));
        self.target.last_batch = Some(batch.batch_id.clone());
        self.pushed.batches.push(SentBatch { batch_id: batch.batch_id.clone(), counts });
    }

    /// What the server has is compared with what it confirmed; where it differs, all is sent anew.
    fn heal(&mut self) -> Result<(), End> {
        if self.target.last_batch.is_none() {
            return Ok(());
        }
        let Some(_) = self.difference(false)? else { return Ok(()) };
        let tx = self.stream.begin()?;
        confirm::forget(&tx, self.target.id)?;
        tx.commit()?;
        self.target.last_batch = None;
        self.done.clear();
        self.pushed.rebuilt = true;
        Ok(())
    }

    fn verify(&mut self, how: &How) -> Result<(), End> {
        if !how.verify || !matches!(self.sink, Sink::Http(_)) {
            return Ok(());
        }
        if let Some(difference) = self.difference(true)? {
            return Err(Stop::Differs(difference).into());
        }
        self.pushed.verified = true;
        Ok(())
    }

    /// In what the server's state differs. Where records have numbers, [`Stream::catch_up`] looks at it before each push, and
    /// afterwards each confirmed number has to be there.
    fn behind(&self) -> Result<Option<String>, End> {
        let Some(there) = self.server_seq()? else { return Ok(Some("it does not tell it".to_owned())) };
        let here = select::highest_confirmed(self.stream.conn(), &self.stream.contract, self.target.id)?;
        Ok((there < here).then(|| format!("it has records up to {there}, and confirmed {here}")))
    }

    /// In what the server's state differs. A server that does not tell its state differs only where it is asked for it.
    fn difference(&self, asked: bool) -> Result<Option<String>, End> {
        if is_numbered(&self.stream.contract) {
            return self.behind();
        }
        let Some(state) = self.state(asked)? else { return Ok(asked.then(|| "it does not tell it".to_owned())) };
        let whole = |id: Option<&String>| id.map(|id| batches::whole_id(id).to_owned());
        if whole(state.last_batch.as_ref()) != whole(self.target.last_batch.as_ref()) {
            return Ok(Some("its last batch is another one".into()));
        }
        for (kind, there) in state.counts {
            if self.stream.contract.kind(&kind).is_some() {
                let here = select::confirmed(self.stream.conn(), self.target.id, &kind)?;
                if here != there {
                    return Ok(Some(format!("it has {there} {kind}, and confirmed {here}")));
                }
            }
        }
        Ok(None)
    }
}
