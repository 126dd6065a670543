//! A server of StatsAI's contract in the test's hands: it keeps what it is sent, and answers as it is told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Cursor;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use sync_client::transport::{Method, Request, Response, Transport, TransportError};
use sync_core::ingest::contract::Contract;
use sync_core::ingest::gates::judge;
use sync_core::ingest::outcome::{Count, Known, fate};
use sync_core::ingest::statsai::{ack, refusal};

pub(crate) const URL: &str = "http://127.0.0.1:9/api/sync/batches";

/// What becomes of the next batch.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// It is not looked at; this is the answer, with `Retry-After`.
    Instead(u16, String, Option<u64>),
    /// It is taken, and the acknowledgement has these members in place of its own.
    Ack(Value),
    /// It does not arrive.
    Lost,
    /// It is taken, and the answer does not arrive.
    Unheard,
    /// It is taken, and half of the answer arrives.
    Cut,
}

#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Each batch as it came, also those that were not taken.
    pub(crate) batches: Vec<Value>,
    /// Bytes of the batches that were taken, by id.
    pub(crate) receipts: BTreeMap<String, Vec<u8>>,
    /// In how many batches each version of a record was taken, by kind, id and hash.
    pub(crate) versions: BTreeMap<(usize, String, [u8; 32]), BTreeSet<String>>,
    pub(crate) records: BTreeMap<(usize, String), (Known, Value)>,
    pub(crate) last: Option<String>,
    pub(crate) tokens: Vec<String>,
    /// Requests for the status.
    pub(crate) asked: usize,
    /// How long was waited between tries, in milliseconds.
    pub(crate) waits: Vec<u128>,
    pub(crate) answers: VecDeque<Answer>,
    /// Most summaries that a batch may have.
    pub(crate) most_summaries: Option<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Peer(Mutex<Kept>);

impl Peer {
    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }

    /// What becomes of the next batches.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.kept().answers.extend(answers);
    }

    /// The ids of a kind in the last batch that came.
    pub(crate) fn last_ids(&self, kind: &str, id: &str) -> Vec<String> {
        let kept = self.kept();
        let list = kept.batches.last().and_then(|b| b[kind].as_array().cloned()).unwrap_or_default();
        list.iter().map(|r| r[id].as_str().unwrap().to_owned()).collect()
    }

    /// One of its records.
    pub(crate) fn kept_one(&self) -> (Known, Value) {
        self.kept().records.values().next().unwrap().clone()
    }

    /// The ids of all batches that came.
    pub(crate) fn batch_ids(&self) -> Vec<String> {
        self.kept().batches.iter().map(|b| b["batch_id"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn handle(&self, path: &str, token: &str, body: Option<&[u8]>) -> (u16, String, Option<u64>) {
        let mut kept = self.kept();
        kept.tokens.push(token.to_owned());
        match (path, body) {
            ("/api/sync/status", None) => {
                kept.asked += 1;
                (200, kept.state().to_string(), None)
            }
            ("/api/sync/batches", Some(body)) => kept.batch(body),
            _ => (404, r#"{"error":"not_found"}"#.into(), None),
        }
    }
}

impl Kept {
    fn state(&self) -> Value {
        let contract = Contract::statsai();
        let count = |k: usize| self.records.keys().filter(|(kind, _)| *kind == k).count();
        let counts: BTreeMap<&str, usize> =
            contract.kinds.iter().enumerate().take(4).map(|(k, spec)| (spec.name.as_str(), count(k))).collect();
        json!({"device": {"last_sync_batch_id": self.last}, "mirrorCounts": counts})
    }

    pub(crate) fn batch(&mut self, body: &[u8]) -> (u16, String, Option<u64>) {
        let contract = Contract::statsai();
        self.batches.push(serde_json::from_slice(body).unwrap());
        let batch = match judge(&contract, body) {
            Ok(batch) => batch,
            Err(refused) => {
                let (status, body, after) = refusal(&refused);
                return (status, body, after.map(u64::from));
            }
        };
        let many = batch.records.iter().filter(|r| r.kind == 5).count();
        if self.most_summaries.is_some_and(|most| many > most) {
            return (413, r#"{"error":"sync_batch_too_large"}"#.into(), None);
        }
        let mut counts = vec![Count::default(); contract.kinds.len()];
        let again = self.receipts.get(&batch.id).cloned();
        if again.as_ref().is_some_and(|bytes| bytes != body) {
            return (409, r#"{"error":"batch_id_payload_conflict"}"#.into(), None);
        }
        for r in batch.records {
            let key = (r.kind, r.id.clone());
            counts[r.kind].add(fate(self.records.get(&key).map(|(known, _)| known), &r.known));
            if again.is_none() {
                let version = (r.kind, r.id.clone(), r.known.hash);
                self.versions.entry(version).or_default().insert(batch.id.clone());
                self.records.insert(key, (r.known, serde_json::from_str(&r.payload).unwrap()));
            }
        }
        if again.is_none() {
            self.last = Some(batch.id.clone());
            self.receipts.insert(batch.id.clone(), body.to_vec());
        }
        (200, ack(&contract, batch.version, &batch.id, &counts), None)
    }
}

impl Transport for Peer {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let answer = if request.method == Method::Post { self.kept().answers.pop_front() } else { None };
        let lost = || TransportError::Broken("cut".into());
        let mut reply = match &answer {
            Some(Answer::Lost) => return Err(lost()),
            Some(Answer::Instead(status, body, retry_after)) => {
                let mut kept = self.kept();
                kept.tokens.push(request.token.to_owned());
                kept.batches.push(serde_json::from_slice(request.body.unwrap()).unwrap());
                (*status, body.clone(), *retry_after)
            }
            _ => self.handle(request.path, request.token, request.body),
        };
        match answer {
            Some(Answer::Unheard) => return Err(lost()),
            Some(Answer::Ack(members)) => {
                let mut ack: Value = serde_json::from_str(&reply.1).unwrap();
                for (name, value) in members.as_object().unwrap() {
                    ack[name] = value.clone();
                }
                reply.1 = ack.to_string();
            }
            Some(Answer::Cut) => {
                let half = reply.1.as_bytes()[..reply.1.len() / 2].to_vec();
                let broken = Broken(Cursor::new(half));
                return Ok(Response { status: reply.0, retry_after: None, body: Box::new(broken) });
            }
            _ => {}
        }
        Ok(Response { status: reply.0, retry_after: reply.2, body: Box::new(Cursor::new(reply.1.into_bytes())) })
    }

    fn pause(&self, time: Duration) -> Result<(), TransportError> {
        self.kept().waits.push(time.as_millis());
        Ok(())
    }
}

/// A body that breaks half-way.
struct Broken(Cursor<Vec<u8>>);

impl std::io::Read for Broken {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buf)? {
            0 => Err(std::io::Error::other(TransportError::Broken("cut".into()))),
            n => Ok(n),
        }
    }
}
