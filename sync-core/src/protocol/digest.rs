//! `GET /sync/digest`: digests of a frozen snapshot by ranges of one table's keys, so that a client finds
//! the rows in which its file differs without reading all of them (additive; ARCHITECTURE.md, "Digests").

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::{Members, Scalar};

/// The feature's name in capabilities.
pub const FEATURE: &str = "range_digest";

/// The query. A range holds the rows `after_row_ordinal + 1 ..= until_row_ordinal` of the snapshot, as
/// its pages count them, and never leaves its table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DigestRequest {
    /// The frozen snapshot.
    pub snapshot_id: String,
    /// Wire table name.
    pub table: String,
    /// The columns that both ends have, in any order.
    pub columns: Vec<String>,
    /// Rows of the snapshot before the range.
    pub after_row_ordinal: i64,
    /// The last row of the range.
    pub until_row_ordinal: i64,
    /// In how many parts the range is cut, at most; `None` leaves it to the server.
    pub max_ranges: Option<i64>,
}

impl DigestRequest {
    /// The query string: columns are one JSON array of names, everything is percent-encoded.
    #[must_use]
    pub fn query(&self) -> String {
        let columns = serde_json::to_string(&self.columns).expect("invariant: names always serialise");
        let mut out = String::new();
        let mut add = |name: &str, value: &str| {
            if !out.is_empty() {
                out.push('&');
            }
            out.push_str(name);
            out.push('=');
            push_escaped(&mut out, value);
        };
        add("snapshot_id", &self.snapshot_id);
        add("table", &self.table);
        add("columns", &columns);
        add("after_row_ordinal", &self.after_row_ordinal.to_string());
        add("until_row_ordinal", &self.until_row_ordinal.to_string());
        if let Some(n) = self.max_ranges {
            add("max_ranges", &n.to_string());
        }
        out
    }
}

/// The reply: the parts of the range, in order and without a gap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestReply {
    /// As asked for.
    pub snapshot_id: String,
    /// The place in history at which the snapshot is frozen.
    pub snapshot_bundle_seq: i64,
    /// As asked for.
    pub table: String,
    /// Each begins after the one before it.
    pub ranges: Vec<DigestRange>,
}

/// One part of the range.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestRange {
    /// Its last row, as snapshot pages count.
    pub last_row_ordinal: i64,
    /// That row's key object: the range holds every key above the one before, up to this one.
    pub last_key: BTreeMap<String, String>,
    /// [`crate::hash::RangeHasher`] over its rows; 64 lowercase hex digits.
    pub digest: String,
}

impl DigestRange {
    /// The key object as it is read everywhere else.
    #[must_use]
    pub fn last_key_members(&self) -> Members {
        Members(self.last_key.iter().map(|(n, v)| (n.clone(), Scalar::Text(v.clone()))).collect())
    }
}

/// One table's share of a snapshot. Tables come in the order of their names, each whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotTable {
    /// Wire table name.
    pub table: String,
    /// Its rows.
    pub row_count: i64,
}

fn push_escaped(out: &mut String, value: &str) {
    for b in value.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push('%');
            crate::canonical::push_hex(out, b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_escape_whatever_a_name_holds() {
        let request = DigestRequest {
            snapshot_id: "s".into(),
            table: "my tab".into(),
            columns: vec!["a,b".into(), "é\"".into()],
            after_row_ordinal: 3,
            until_row_ordinal: 9,
            max_ranges: Some(2),
        };
        assert_eq!(
            request.query(),
            "snapshot_id=s&table=my%20tab&columns=%5b%22a%2cb%22%2c%22%c3%a9%5c%22%22%5d&after_row_ordinal=3\
             &until_row_ordinal=9&max_ranges=2"
        );
        assert!(!DigestRequest::default().query().contains("max_ranges"));
    }

    #[test]
    fn replies_read_back() {
        let reply = DigestReply {
            snapshot_id: "s".into(),
            snapshot_bundle_seq: 7,
            table: "t".into(),
            ranges: vec![DigestRange {
                last_row_ordinal: 2,
                last_key: [("id".to_owned(), "x".to_owned())].into(),
                digest: "00".into(),
            }],
        };
        let text = serde_json::to_string(&reply).unwrap();
        assert_eq!(crate::json::from_slice::<DigestReply>(text.as_bytes()).unwrap(), reply);
        assert_eq!(reply.ranges[0].last_key_members().get("id"), Some(&Scalar::Text("x".into())));
    }
}
