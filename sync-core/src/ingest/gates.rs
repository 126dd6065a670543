//! The gates between the bytes of a batch and its records: everything that needs no storage.

use serde_json::Value;

use super::contract::{Contract, Kind, Stamp, Version};
use super::exact::Json;
use super::outcome::{Known, Stamps};
use super::rollups;
use super::time::nanoseconds;
use super::validate::Violation;
use crate::json::from_slice;

/// Why a request is refused. Each contract's codes and statuses are in the one table of its dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Neither JSON nor well-formed compression; or too deep, or with a member twice.
    NotJson,
    /// No credential of this contract that is valid now.
    Unauthenticated,
    /// A version that is not served.
    BadVersion,
    /// Not what the schema says.
    Schema(Violation),
    /// More bytes than the limit.
    TooLarge,
    /// An encoding that is not taken.
    BadEncoding,
    /// The same batch id with another content.
    ReceiptMismatch,
    /// A request beside batches that does not say what it has to.
    BadRequest(&'static str),
    /// A device login that cannot go on; the code says why.
    Login(&'static str),
    /// The device belongs to another user.
    DeviceTaken,
    /// A request from where none may come.
    Forbidden,
    /// A path or resource that is not there.
    NotFound,
    /// Something that is there and not for this user; the text says what.
    Denied(&'static str),
    /// Something that is not there, or not this user's; the text says what.
    Missing(&'static str),
    /// A window is full.
    RateLimited {
        /// Until when, in whole seconds from now.
        seconds: u32,
    },
    /// Files are not taken by this server.
    NoStorage,
    /// A path that does not take this method.
    MethodNotAllowed,
    /// The storage is busy or full, or the server is stopping: the same request may come again.
    Unavailable,
    /// A fault of the server.
    Failed,
}

/// A record on its way into the storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its kind, by position in the contract.
    pub kind: usize,
    /// Its id, as it was sent.
    pub id: String,
    /// What is compared with the stored version.
    pub known: Known,
    /// Canonical JSON, stripped.
    pub payload: String,
    /// The day of the sums that it is part of.
    pub day: Option<String>,
}

/// A batch that passed the gates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its id.
    pub id: String,
    /// The device that it says it is from; information only, the credential decides.
    pub device: String,
    /// Its version, by position in the contract.
    pub version: usize,
    /// SHA-256 of its canonical form, as it was sent.
    pub digest: [u8; 32],
    /// Its records, in order.
    pub records: Vec<Record>,
}

/// The gates decode, version, schema and policy, for the decoded bytes of a batch.
///
/// # Errors
/// `NotJson`, `BadVersion`, `Schema`.
pub fn judge(contract: &Contract, bytes: &[u8]) -> Result<Batch, Refusal> {
    // The schema's view of the document is gone before the exact one is made: a small body may be a large tree.
    let version = {
        let value: Value = from_slice(bytes).map_err(|_| Refusal::NotJson)?;
        let named = value.pointer(&contract.version_at.to_string()).and_then(Value::as_str);
        let version = contract.versions.iter().position(|v| named.is_some_and(|n| v.takes(n)));
        let version = version.ok_or(Refusal::BadVersion)?;
        let check = contract.versions[version].schema.check(&value, 1);
        check.map_err(|mut found| Refusal::Schema(found.remove(0)))?;
        version
    };
    let json = Json::read(bytes).map_err(|_| Refusal::NotJson)?;
    refuse_later(&contract.versions[version], &json)?;
    let digest = json.digest();
    let id = contract.envelope.batch.as_ref().and_then(|p| p.text(&json)).unwrap_or_default().to_owned();
    let device = contract.envelope.device.text(&json).unwrap_or_default().to_owned();
    let mut records = Vec::new();
    for (kind, spec) in contract.kinds.iter().enumerate() {
        for (n, item) in json.member(&spec.name).map(Json::items).unwrap_or_default().iter().enumerate() {
            let place = || Refusal::Schema(Violation { path: format!("/{}/{n}{}", spec.name, spec.id) });
            let id = spec.id.text(item).ok_or_else(place)?.to_owned();
            records.push(record(contract, kind, spec, id, item, &json));
        }
    }
    Ok(Batch { id, device, version, digest, records })
}

/// Members of later versions would be lost without a word, so they are refused.
fn refuse_later(version: &Version, json: &Json) -> Result<(), Refusal> {
    match version.refuse.iter().find(|p| p.find(json).is_some_and(|v| !v.is_empty())) {
        Some(p) => Err(Refusal::Schema(Violation { path: p.to_string() })),
        None => Ok(()),
    }
}

fn record(contract: &Contract, kind: usize, spec: &Kind, id: String, item: &Json, batch: &Json) -> Record {
    let mut stored = item.clone();
    strip(spec, &mut stored);
    let day = contract.rollup.as_ref().filter(|r| r.from == spec.name).and_then(|r| rollups::day(r, &stored));
    let payload = stored.canonical();
    for p in &spec.hash_ignore {
        p.remove(&mut stored);
    }
    let stamps = spec.newer_by.iter().map(|stamp| {
        let text = match stamp {
            Stamp::Record(p) => p.text(item),
            Stamp::Batch(p) => p.text(batch),
        };
        text.and_then(nanoseconds)
    });
    let known = Known { hash: stored.digest(), stamps: Stamps(stamps.collect()) };
    Record { kind, id, known, payload, day }
}

/// Sets to null what is declared never to leave a producer and never to be stored. Says how many members had a value.
pub fn strip(kind: &Kind, record: &mut Json) -> usize {
    let kept = |record: &Json, at: Option<&super::pointer::Pointer>, is: Option<&str>| {
        at.is_some_and(|p| p.text(record).is_some() && p.text(record) == is)
    };
    let mut count = 0;
    for rule in &kind.strip {
        if !kept(record, rule.unless_at.as_ref(), rule.unless_is.as_deref()) {
            count += usize::from(rule.at.clear(record));
        }
    }
    count
}
