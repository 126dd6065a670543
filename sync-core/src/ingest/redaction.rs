//! What a producer makes of a record before it leaves: members that stay at home become null, and what the record says of
//! itself is made true.

use super::contract::Kind;
use super::exact::Json;
use super::gates::strip;

/// Scrubs a record as its kind declares. Says how many members had a value that is gone.
pub fn scrub(kind: &Kind, record: &mut Json) -> usize {
    let gone = strip(kind, record);
    for mark in &kind.mark {
        if mark.when.find(record).is_some_and(|v| *v != Json::Null) {
            mark.at.set(record, Json::Bool(true));
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::contract::Contract;

    fn scrubbed(kind: &str, text: &str) -> (usize, String) {
        let contract = Contract::statsai();
        let mut record = Json::read(text.as_bytes()).unwrap();
        let gone = scrub(contract.kind(kind).unwrap(), &mut record);
        (gone, record.canonical())
    }

    #[test]
    fn local_evidence_becomes_null_and_identities_stay() {
        for (kind, before, gone, after) in [
            ("sources", r#"{"path_hash":"h","path_label":"/x"}"#, 1, r#"{"path_hash":"h","path_label":null}"#),
            ("sources", r#"{"path_hash":"h"}"#, 0, r#"{"path_hash":"h"}"#),
            (
                "accounts",
                r#"{"account_label":"l","email":"e","identity_source":"local_auth","plan_name":"p","provider_user_id":"u"}"#,
                2,
                r#"{"account_label":null,"email":"e","identity_source":"local_auth","plan_name":null,"provider_user_id":"u"}"#,
            ),
            (
                "accounts",
                r#"{"account_label":"l","identity_source":"user_configured"}"#,
                0,
                r#"{"account_label":"l","identity_source":"user_configured"}"#,
            ),
            ("subscriptions", r#"{"notes":"n","plan_name":"kept"}"#, 1, r#"{"notes":null,"plan_name":"kept"}"#),
        ] {
            assert_eq!(scrubbed(kind, before), (gone, after.to_owned()));
        }
        for kind in ["events", "summaries"] {
            let (gone, after) = scrubbed(
                kind,
                r#"{"parse_evidence":{"source_file_path_hash":"h","source_line_number":7,"source_record_id":"r"},
                    "source":{"source_path_hash":"h","source_record_id":"r"}}"#,
            );
            let expected = "{\"parse_evidence\":{\"source_file_path_hash\":\"h\",\"source_line_number\":null,\
                \"source_record_id\":null},\"source\":{\"source_path_hash\":\"h\",\"source_record_id\":null}}";
            assert_eq!((gone, after.as_str()), (3, expected));
        }
    }

    #[test]
    fn a_record_with_a_path_says_so() {
        for (path, says) in [("\"~/kept\"", "true"), ("null", "false")] {
            let record = format!(r#"{{"privacy":{{"contains_file_paths":false}},"project":{{"path_label":{path}}}}}"#);
            let (_, after) = scrubbed("events", &record);
            assert!(after.contains(&format!("\"contains_file_paths\":{says}")), "{after}");
            assert!(after.contains(path), "{after}");
        }
    }
}
