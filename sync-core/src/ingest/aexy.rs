//! How Aexy Tracker's replies are written: counts with the rejected by name, and errors as `{"detail": "…"}`.

use serde_json::{Value, json};

use super::config::Config;
use super::gates::Refusal;
use super::records::Tally;

/// The reply to a batch. `server_seq` is the highest number that the server has of the device.
#[must_use]
pub fn ack(tally: &Tally, server_seq: i64, config: &Config) -> String {
    let rejected: Vec<Value> = tally.rejected.iter().map(|r| json!({ "event_id": r.id, "reason": r.reason })).collect();
    json!({
        "accepted": tally.accepted,
        "duplicates": tally.duplicates,
        "rejected": rejected,
        "server_seq": server_seq,
        "next_poll_after_s": config.member("sample_interval_s"),
        "config_etag": config.tag(),
    })
    .to_string()
}

/// Status and body of a refusal, and the seconds of `Retry-After`.
#[must_use]
pub fn refusal(refusal: &Refusal) -> (u16, String, Option<u32>) {
    let (status, detail, after) = match refusal {
        Refusal::NotJson => (422, "The body is not JSON", None),
        Refusal::Unauthenticated => (401, "Not authenticated", None),
        Refusal::BadVersion => (409, "Unsupported schema_version", None),
        Refusal::Schema(v) => {
            let detail = format!("Invalid request at {}", if v.path.is_empty() { "/" } else { &v.path });
            return (422, json!({ "detail": detail }).to_string(), None);
        }
        Refusal::TooLarge => (413, "The body is too large", None),
        Refusal::BadEncoding => (415, "Unsupported Content-Encoding", None),
        Refusal::ReceiptMismatch => (409, "Conflict", None),
        Refusal::BadRequest(detail) => (400, *detail, None),
        Refusal::Login(_) => (400, "The sign-in cannot go on", None),
        Refusal::DeviceTaken => (403, "Device belongs to another developer", None),
        Refusal::Forbidden => (403, "Forbidden", None),
        Refusal::NotFound => (404, "Not found", None),
        Refusal::Denied(detail) => (403, *detail, None),
        Refusal::Missing(detail) => (404, *detail, None),
        Refusal::RateLimited { seconds } => (429, "Too many requests", Some(*seconds)),
        Refusal::NoStorage => (503, "Evidence storage is not configured", None),
        Refusal::MethodNotAllowed => (405, "Method not allowed", None),
        Refusal::Unavailable => (503, "The storage is not available now", Some(1)),
        Refusal::Failed => (500, "Internal error", None),
    };
    (status, json!({ "detail": detail }).to_string(), after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::contract::Contract;
    use crate::ingest::records::Rejected;
    use crate::ingest::validate::Violation;

    #[test]
    fn replies() {
        let contract = Contract::aexy();
        let config = Config::of(contract.enrol.as_ref().unwrap(), &serde_json::Map::new()).unwrap();
        let rejected = vec![Rejected { id: "e".into(), reason: "ts_out_of_range".into() }];
        let ack: Value =
            serde_json::from_str(&ack(&Tally { accepted: 2, duplicates: 1, rejected }, 7, &config)).unwrap();
        assert_eq!(
            ack,
            json!({"accepted": 2, "duplicates": 1, "rejected": [{"event_id": "e", "reason": "ts_out_of_range"}],
                "server_seq": 7, "next_poll_after_s": 60, "config_etag": "cfg_0"})
        );
        let version = (409, r#"{"detail":"Unsupported schema_version"}"#.to_owned(), None);
        assert_eq!(refusal(&Refusal::BadVersion), version);
        assert_eq!(refusal(&Refusal::RateLimited { seconds: 9 }).2, Some(9));
        let at = refusal(&Refusal::Schema(Violation { path: "/sent_at".into() }));
        assert_eq!(at, (422, r#"{"detail":"Invalid request at /sent_at"}"#.to_owned(), None));
    }
}
