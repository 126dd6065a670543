//! How StatsAI's replies are written: `sync_ack.v1`, and errors that its command line reads.
//!
//! The command line cuts an error to 200 characters before it parses it, and prints it: an error is short JSON with a text
//! `error`, and never has a value of the request.

use serde_json::{Map, Value, json};

use super::contract::Contract;
use super::gates::Refusal;
use super::outcome::Count;

/// Characters of an error body, at most.
pub const MOST_ERROR: usize = 200;

/// The acknowledgement of a batch; `counts` are in the order of the contract's kinds.
#[must_use]
pub fn ack(contract: &Contract, version: usize, batch: &str, counts: &[Count]) -> String {
    let of = |count: fn(&Count) -> u64| -> Map<String, Value> {
        contract.kinds.iter().zip(counts).map(|(k, c)| (k.name.clone(), count(c).into())).collect()
    };
    json!({
        "schema_version": contract.versions[version].ack,
        "batch_id": batch,
        "accepted": of(|c| c.accepted),
        "updated": of(|c| c.updated),
        "duplicates": of(|c| c.duplicates),
        // A batch is taken whole or not at all: the first command lines take a record that is named here as sent.
        "rejected": [],
    })
    .to_string()
}

/// Status and body of a refusal, and the seconds of `Retry-After`.
#[must_use]
pub fn refusal(refusal: &Refusal) -> (u16, String, Option<u32>) {
    let (status, code, after) = match refusal {
        Refusal::NotJson => (400, "invalid_json", None),
        Refusal::Unauthenticated => (401, "unauthorized", None),
        Refusal::BadVersion => (400, "unsupported_schema_version", None),
        Refusal::Schema(v) => {
            let body = json!({ "error": "invalid_batch", "path": v.path }).to_string();
            if body.chars().count() <= MOST_ERROR {
                return (400, body, None);
            }
            (400, "invalid_batch", None)
        }
        Refusal::TooLarge => (413, "sync_batch_too_large", None),
        Refusal::BadEncoding => (415, "unsupported_encoding", None),
        Refusal::ReceiptMismatch => (409, "batch_id_payload_conflict", None),
        Refusal::BadRequest(code) | Refusal::Login(code) => (400, *code, None),
        Refusal::DeviceTaken => (409, "invalid_device_id", None),
        Refusal::Forbidden | Refusal::Denied(_) => (403, "forbidden", None),
        Refusal::NotFound | Refusal::Missing(_) => (404, "not_found", None),
        Refusal::RateLimited { seconds } => (429, "rate_limited", Some(*seconds)),
        Refusal::MethodNotAllowed => (405, "method_not_allowed", None),
        Refusal::Unavailable | Refusal::NoStorage => (503, "storage_unavailable", Some(1)),
        Refusal::Failed => (500, "internal_error", None),
    };
    (status, json!({ "error": code }).to_string(), after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::gates::judge;
    use crate::ingest::validate::Violation;

    #[test]
    fn acks_have_all_counts_and_reject_nothing() {
        let contract = Contract::statsai();
        let mut counts = vec![Count::default(); contract.kinds.len()];
        counts[4] = Count { accepted: 2, updated: 1, duplicates: 3 };
        let ack: Value = serde_json::from_str(&ack(&contract, 0, "b", &counts)).unwrap();
        assert_eq!(ack["accepted"]["events"], 2);
        assert_eq!(ack["updated"]["events"], 1);
        assert_eq!(
            ack["duplicates"],
            json!({"sources": 0, "accounts": 0, "source_account_assignments": 0,
            "subscriptions": 0, "events": 3, "summaries": 0})
        );
        assert_eq!(ack["rejected"], json!([]));
    }

    #[test]
    fn errors_are_short() {
        let long = Refusal::Schema(Violation { path: format!("/{}", "x".repeat(300)) });
        assert_eq!(refusal(&long).1, r#"{"error":"invalid_batch"}"#);
        let short = Refusal::Schema(Violation { path: "/events/0/usage".into() });
        assert_eq!(refusal(&short).1, r#"{"error":"invalid_batch","path":"/events/0/usage"}"#);
    }

    #[test]
    fn a_batch_of_a_later_version_in_disguise_is_refused() {
        let contract = Contract::statsai();
        let batch = |more: &str| {
            let head = r#"{"schema_version":"sync_batch.v1","batch_id":"b","device_id":"d","created_at":"2026-06-01T00:00:00Z""#;
            judge(&contract, format!("{head}{more}}}").as_bytes())
        };
        assert!(batch("").is_ok());
        assert!(batch(r#","task_buckets":[],"something":{"new":1}"#).is_ok());
        let refused = batch(r#","task_buckets":[{}]"#).unwrap_err();
        assert_eq!(refused, Refusal::Schema(Violation { path: "/task_buckets".into() }));
        assert!(batch(r#","authoritative_snapshot":{"snapshot_id":"s"}"#).is_err());
        assert_eq!(judge(&contract, b"[]").unwrap_err(), Refusal::BadVersion);
        assert_eq!(judge(&contract, b"{").unwrap_err(), Refusal::NotJson);
    }
}
