//! Whether an acknowledgement is the one of a batch. Nothing advances by one that is not.

use serde_json::Value;

use super::batches::SENT;
use super::contract::Contract;

/// A record that the server names as not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotTaken {
    /// Its kind, as named.
    pub kind: String,
    /// Its id, where it is named.
    pub id: Option<String>,
    /// The server's reason, cut short.
    pub reason: String,
}

/// Why a reply does not acknowledge a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AckFault {
    /// Not an acknowledgement at all.
    #[error("the reply is no acknowledgement")]
    Unreadable,
    /// Of another version.
    #[error("the acknowledgement is of another version")]
    Version,
    /// Of another batch.
    #[error("the acknowledgement is of another batch")]
    Batch,
    /// The counts of a kind are not what was sent.
    #[error("the acknowledgement does not account for all {0}")]
    Counts(String),
    /// It names records that were not taken, under a contract in which a batch is taken whole.
    #[error("the acknowledgement names records that were not taken")]
    NotTaken(Vec<NotTaken>),
}

/// Characters of a server's reason that are kept.
pub const MOST_REASON: usize = 200;

/// Checks a reply to a batch of so many records by kind (position).
///
/// # Errors
/// Where it does not say that this very batch was taken.
pub fn check(contract: &Contract, batch: &str, sent: &[u64], reply: &[u8]) -> Result<(), AckFault> {
    let ack: Value = serde_json::from_slice(reply).map_err(|_| AckFault::Unreadable)?;
    let version = ack.get("schema_version").and_then(Value::as_str).ok_or(AckFault::Unreadable)?;
    if version != contract.versions[SENT].ack {
        return Err(AckFault::Version);
    }
    if ack.get("batch_id").and_then(Value::as_str) != Some(batch) {
        return Err(AckFault::Batch);
    }
    let rejected = ack.get("rejected").and_then(Value::as_array).ok_or(AckFault::Unreadable)?;
    if !rejected.is_empty() {
        return Err(AckFault::NotTaken(rejected.iter().map(not_taken).collect()));
    }
    let (accepted, duplicates) = (ack.get("accepted"), ack.get("duplicates"));
    if !accepted.is_some_and(Value::is_object) || !duplicates.is_some_and(Value::is_object) {
        return Err(AckFault::Unreadable);
    }
    for (kind, sent) in contract.kinds.iter().zip(sent) {
        // A count that is left out is 0.
        let count = |of: Option<&Value>| match of.and_then(|counts| counts.get(&kind.name)) {
            None => Some(0),
            Some(count) => count.as_u64(),
        };
        let total = count(accepted).zip(count(duplicates)).and_then(|(a, d)| a.checked_add(d));
        if total != Some(*sent) {
            return Err(AckFault::Counts(kind.name.clone()));
        }
    }
    Ok(())
}

/// What a server said of a batch whose records are taken or rejected one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EachTaken {
    /// The records that it rejects, by position in the batch, each with its reason, cut short.
    pub rejected: Vec<(usize, String)>,
    /// The tag of the configuration that it has for the device.
    pub tag: Option<String>,
}

/// Checks a reply to a batch of these ids, where the reply names each record that was not taken.
///
/// # Errors
/// Where it does not account for each record of the batch.
pub fn check_each(kind: &str, ids: &[&str], reply: &[u8]) -> Result<EachTaken, AckFault> {
    let ack: Value = serde_json::from_slice(reply).map_err(|_| AckFault::Unreadable)?;
    let count = |name: &str| ack.get(name).and_then(Value::as_u64).ok_or(AckFault::Unreadable);
    let named = ack.get("rejected").and_then(Value::as_array).ok_or(AckFault::Unreadable)?;
    let taken = count("accepted")?.checked_add(count("duplicates")?);
    if taken.and_then(|n| n.checked_add(named.len() as u64)) != Some(ids.len() as u64) {
        return Err(AckFault::Counts(kind.to_owned()));
    }
    let mut rejected: Vec<(usize, String)> = Vec::with_capacity(named.len());
    for one in named {
        let text = |name: &str| one.get(name).and_then(Value::as_str);
        let position = text("event_id").and_then(|id| ids.iter().position(|i| *i == id)).ok_or(AckFault::Batch)?;
        if rejected.iter().any(|(p, _)| *p == position) {
            return Err(AckFault::Batch);
        }
        rejected.push((position, text("reason").unwrap_or_default().chars().take(MOST_REASON).collect()));
    }
    let tag = ack.get("config_etag").and_then(Value::as_str).map(str::to_owned);
    Ok(EachTaken { rejected, tag })
}

fn not_taken(named: &Value) -> NotTaken {
    let text = |name: &str| named.get(name).and_then(Value::as_str);
    NotTaken {
        kind: text("kind").unwrap_or_default().to_owned(),
        id: text("id").map(str::to_owned),
        reason: text("reason").unwrap_or_default().chars().take(MOST_REASON).collect(),
    }
}

/// The kind and the place in its list that a pointer into a batch (`/events/3/usage`) leads to, and the rest of it.
#[must_use]
pub fn place<'a>(contract: &Contract, pointer: &'a str) -> Option<(usize, usize, &'a str)> {
    let (name, rest) = pointer.strip_prefix('/')?.split_once('/')?;
    let kind = contract.kinds.iter().position(|k| k.name == name)?;
    let digits = rest.find('/').unwrap_or(rest.len());
    Some((kind, rest[..digits].parse().ok()?, &rest[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_reply_accounts_for_each_record() {
        let check = |accepted: u64, duplicates: u64, rejected: Value| {
            let ack =
                json!({"accepted": accepted, "duplicates": duplicates, "rejected": rejected, "config_etag": "cfg_0"});
            check_each("events", &["a", "b", "c"], ack.to_string().as_bytes())
        };
        let named = |id: &str| json!([{ "event_id": id, "reason": "r" }]);
        let tag = Some("cfg_0".to_owned());
        assert_eq!(check(1, 2, json!([])), Ok(EachTaken { rejected: vec![], tag: tag.clone() }));
        assert_eq!(check(2, 0, named("b")), Ok(EachTaken { rejected: vec![(1, "r".into())], tag }));
        for (accepted, duplicates, rejected) in [(3, 0, named("b")), (2, 0, json!([])), (u64::MAX, 1, json!([]))] {
            assert_eq!(check(accepted, duplicates, rejected), Err(AckFault::Counts("events".into())));
        }
        assert_eq!(check(2, 0, named("x")), Err(AckFault::Batch));
        let twice = json!([{ "event_id": "a" }, { "event_id": "a" }]);
        assert_eq!(check(1, 0, twice), Err(AckFault::Batch));
        for other in [&b"{"[..], b"{}", b"<html>", br#"{"accepted":3,"duplicates":0}"#] {
            assert_eq!(check_each("events", &["a"], other), Err(AckFault::Unreadable));
        }
    }

    const SENT_COUNTS: [u64; 6] = [1, 0, 0, 0, 2, 0];

    fn good() -> Value {
        json!({"schema_version": "sync_ack.v1", "batch_id": "b", "rejected": [], "more": 1,
            "accepted": {"sources": 1, "accounts": 0, "source_account_assignments": 0, "subscriptions": 0, "events": 1, "summaries": 0},
            "duplicates": {"sources": 0, "events": 1}})
    }

    fn verdict(change: impl FnOnce(&mut Value)) -> Result<(), AckFault> {
        let mut ack = good();
        change(&mut ack);
        check(&Contract::statsai(), "b", &SENT_COUNTS, ack.to_string().as_bytes())
    }

    #[test]
    fn an_ack_has_to_fit_in_everything() {
        assert_eq!(verdict(|_| ()), Ok(()));
        assert_eq!(verdict(|a| a["schema_version"] = "sync_ack.v2".into()), Err(AckFault::Version));
        assert_eq!(verdict(|a| a["batch_id"] = "c".into()), Err(AckFault::Batch));
        assert_eq!(verdict(|a| a["batch_id"] = Value::Null), Err(AckFault::Batch));
        for (wrong, kind) in [(json!(0), "events"), (json!(2), "events"), (json!(-1), "events"), (json!("1"), "events")]
        {
            assert_eq!(verdict(|a| a["accepted"][kind] = wrong), Err(AckFault::Counts(kind.into())));
        }
        assert_eq!(verdict(|a| a["duplicates"]["summaries"] = 1.into()), Err(AckFault::Counts("summaries".into())));
        assert_eq!(verdict(|a| a["accepted"]["events"] = u64::MAX.into()), Err(AckFault::Counts("events".into())));
        for gone in ["rejected", "accepted", "duplicates", "schema_version"] {
            let verdict = verdict(|a| drop(a.as_object_mut().unwrap().remove(gone)));
            assert_eq!(verdict, Err(AckFault::Unreadable), "{gone}");
        }
        let named = NotTaken { kind: "events".into(), id: Some("e".into()), reason: "bad".into() };
        assert_eq!(
            verdict(|a| a["rejected"] = json!([{"kind": "events", "id": "e", "reason": "bad"}])),
            Err(AckFault::NotTaken(vec![named]))
        );
        for reply in [&b""[..], b"<html>", b"null", b"{}", b"\xff"] {
            assert_eq!(check(&Contract::statsai(), "b", &SENT_COUNTS, reply), Err(AckFault::Unreadable));
        }
    }

    #[test]
    fn pointers_lead_to_records() {
        let c = Contract::statsai();
        assert_eq!(place(&c, "/events/3/usage/input_tokens"), Some((4, 3, "/usage/input_tokens")));
        assert_eq!(place(&c, "/sources/0"), Some((0, 0, "")));
        for nowhere in ["", "/", "/events", "/events/", "/events/x/y", "/created_at", "/nothing/0"] {
            assert_eq!(place(&c, nowhere), None, "{nowhere}");
        }
    }
}
