//! One frozen batch on its way to a target: what is sent, what the reply means, what is noted.

use sync_core::ingest::acks::{self, AckFault};
use sync_core::ingest::contract::Role;

use super::confirm;
use super::http::{Reply, code, pointer};
use super::numbered::{is_numbered, of_device, refused};
use super::push::{End, Run};
use super::report::Stop;
use super::sink::{self, Sink};
use super::store::{Frozen, Member, thaw};
use crate::context::FaultPoint;
use crate::transport::Method;

/// How a batch ended, where the push goes on.
pub(super) enum Next {
    /// The target has it.
    Taken,
    /// It is too large: each half goes by itself.
    Halves,
    /// A record of it is put aside: the others go under another id.
    Without(Vec<Member>),
}

impl Run<'_, '_> {
    /// Sends a batch that is frozen.
    pub(super) fn deliver(&mut self, batch: &Frozen) -> Result<Next, End> {
        self.stream.env.fault(FaultPoint::BeforeCommit);
        let reply = match self.sink {
            Sink::Stdout(out) => {
                let written = out.write_all(&batch.body).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
                written.map_err(|e| Stop::Sink(format!("the batch cannot be written: {e}")))?;
                None
            }
            Sink::File(path) => {
                let failed = |e| Stop::Sink(format!("{} cannot be written: {e}", path.display()));
                sink::write(path, &batch.body).map_err(failed)?;
                None
            }
            Sink::Http(remote) => {
                let random = || self.stream.env.random();
                Some(remote.patiently(Method::Post, remote.endpoint().path(), Some(&batch.body), random)?)
            }
        };
        self.stream.env.fault(FaultPoint::AfterCommit);
        match reply {
            None => self.taken(batch),
            Some(reply) => self.judge(batch, &reply),
        }
    }

    fn taken(&mut self, batch: &Frozen) -> Result<Next, End> {
        let tx = self.stream.begin()?;
        confirm::confirm(&tx, &self.stream.contract, self.target.id, batch, self.stream.env.now_ms())?;
        tx.commit()?;
        self.note(batch);
        Ok(Next::Taken)
    }

    fn judge(&mut self, batch: &Frozen, reply: &Reply) -> Result<Next, End> {
        let contract = &self.stream.contract;
        if is_numbered(contract) {
            return self.judge_each(batch, reply);
        }
        match reply.status {
            200..=299 => {
                let mut sent = vec![0; contract.kinds.len()];
                batch.members.iter().for_each(|m| sent[m.kind] += 1);
                match acks::check(contract, &batch.batch_id, &sent, &reply.body) {
                    Ok(()) => self.taken(batch),
                    Err(AckFault::NotTaken(list)) => {
                        let tx = self.stream.begin()?;
                        let aside = confirm::named(&tx, contract, self.target.id, batch, &list)?;
                        tx.commit()?;
                        if aside.is_empty() {
                            return Err(Stop::WrongAck(AckFault::NotTaken(list)).into());
                        }
                        let rest = batch.members.iter().enumerate().filter(|(n, _)| !aside.contains(n));
                        Ok(Next::Without(rest.map(|(_, m)| m.clone()).collect()))
                    }
                    Err(fault) => Err(Stop::WrongAck(fault).into()),
                }
            }
            413 if batch.members.len() > 1 => Ok(Next::Halves),
            413 if batch.members.len() == 1 => self.without(batch, 0, "it is too large for the server"),
            429 => Err(Stop::Later { seconds: reply.retry_after.unwrap_or(LATER) }.into()),
            status => {
                let code = code(&reply.body);
                if status == 400 && code.as_deref() == Some("unsupported_schema_version") {
                    self.give_up()?;
                    return Err(Stop::Update.into());
                }
                if let Some((position, rest)) = self.at_fault(batch, reply).filter(|_| matches!(status, 400 | 422)) {
                    let reason =
                        format!("{} at {}", code.unwrap_or_default(), if rest.is_empty() { "/" } else { &rest });
                    return self.without(batch, position, &reason);
                }
                self.give_up()?;
                Err(Stop::Refused { status, code }.into())
            }
        }
    }

    /// The same where each record is taken or rejected by itself.
    fn judge_each(&mut self, batch: &Frozen, reply: &Reply) -> Result<Next, End> {
        let contract = &self.stream.contract;
        match reply.status {
            200 => {
                let kind = contract.kinds.first().map_or("", |k| k.name.as_str());
                let ids: Vec<&str> = batch.members.iter().map(|m| m.id.as_str()).collect();
                let each = acks::check_each(kind, &ids, &reply.body).map_err(Stop::WrongAck)?;
                let tx = self.stream.begin()?;
                let now = self.stream.env.now_ms();
                let taken = confirm::confirm_each(&tx, contract, self.target.id, batch, &each.rejected, now)?;
                tx.commit()?;
                self.note(&taken);
                if let (Sink::Http(remote), Some(tag)) = (&*self.sink, &each.tag) {
                    self.stream.renew_config(remote, &self.device, tag)?;
                }
                Ok(Next::Taken)
            }
            413 if batch.members.len() > 1 => Ok(Next::Halves),
            413 if batch.members.len() == 1 => self.without(batch, 0, "it is too large for the server"),
            429 => Err(refused(reply).into()),
            201..=299 => Err(Stop::WrongAck(AckFault::Unreadable).into()),
            _ => {
                self.give_up()?;
                Err(refused(reply).into())
            }
        }
    }

    /// How far the server says that it is; `None` where it does not tell.
    pub(super) fn server_seq(&self) -> Result<Option<i64>, End> {
        let Sink::Http(remote) = &*self.sink else { return Ok(None) };
        let Some(path) = remote.endpoint().beside(&self.stream.contract, Role::Status) else { return Ok(None) };
        let path = of_device(&path, &self.device);
        let reply = remote.patiently(Method::Get, &path, None, || self.stream.env.random())?;
        let told: Option<serde_json::Value> = serde_json::from_slice(&reply.body).ok().filter(|_| reply.status == 200);
        Ok(told.and_then(|t| t.get("server_seq")?.as_i64()))
    }

    /// The record that a refusal points to, by position in the batch, and the member of it.
    fn at_fault(&self, batch: &Frozen, reply: &Reply) -> Option<(usize, String)> {
        let pointer = pointer(&reply.body)?;
        let (kind, nth, rest) = acks::place(&self.stream.contract, &pointer)?;
        let mut of_kind = batch.members.iter().enumerate().filter(|(_, m)| m.kind == kind);
        // The server's words go to a terminal and into the file.
        let plain = rest.len() <= acks::MOST_REASON && rest.bytes().all(|b| b.is_ascii_graphic());
        of_kind.nth(nth).map(|(position, _)| (position, if plain { rest.to_owned() } else { String::new() }))
    }

    fn without(&self, batch: &Frozen, position: usize, reason: &str) -> Result<Next, End> {
        let tx = self.stream.begin()?;
        confirm::put_aside(&tx, &self.stream.contract, self.target.id, &batch.members[position], reason)?;
        tx.commit()?;
        let rest = batch.members.iter().enumerate().filter(|(n, _)| *n != position);
        Ok(Next::Without(rest.map(|(_, m)| m.clone()).collect()))
    }

    /// The server refused the batch for good, so it did not take it: its records go in another one.
    fn give_up(&self) -> Result<(), End> {
        let tx = self.stream.begin()?;
        thaw(&tx, self.target.id)?;
        tx.commit()?;
        Ok(())
    }

    /// What the server says that it has; `None` where it does not tell.
    pub(super) fn state(&self, patient: bool) -> Result<Option<State>, End> {
        let Sink::Http(remote) = &*self.sink else { return Ok(None) };
        let Some(path) = remote.endpoint().beside(&self.stream.contract, Role::Status) else { return Ok(None) };
        let reply = if patient {
            remote.patiently(Method::Get, &path, None, || self.stream.env.random())
        } else {
            remote.once(Method::Get, &path, None)
        };
        match reply {
            Ok(reply) if reply.status == 200 => Ok(State::read(&reply.body)),
            Ok(_) => Ok(None),
            // The batch itself finds out whether the server can be reached.
            Err(Stop::Unreachable(_)) if !patient => Ok(None),
            Err(stop) => Err(stop.into()),
        }
    }
}

/// Seconds to wait where the server does not say how long.
const LATER: u64 = 60;

/// What a server says that it has of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) last_batch: Option<String>,
    /// Records by kind, as far as it counts them.
    pub(super) counts: Vec<(String, u64)>,
}

impl State {
    fn read(body: &[u8]) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_slice(body).ok()?;
        let last = value.pointer("/device/last_sync_batch_id")?;
        let counts = value.get("mirrorCounts").and_then(|c| c.as_object()).into_iter().flatten();
        Some(Self {
            last_batch: last.as_str().map(str::to_owned),
            counts: counts.filter_map(|(kind, n)| Some((kind.clone(), n.as_u64()?))).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_its_state() {
        let state = State::read(br#"{"device":{"last_sync_batch_id":"b"},"mirrorCounts":{"sources":2,"odd":null}}"#);
        assert_eq!(state, Some(State { last_batch: Some("b".into()), counts: vec![("sources".into(), 2)] }));
        let fresh = State::read(br#"{"device":{"last_sync_batch_id":null}}"#).unwrap();
        assert_eq!((fresh.last_batch, fresh.counts.len()), (None, 0));
        for other in [&b"{}"[..], b"[]", b"<html>", br#"{"schema_version":"sync_ack.v1"}"#] {
            assert_eq!(State::read(other), None);
        }
    }
}
