//! A server of the June dialect: none of our additions, numbers of bundles go through doubles, and what its schema
//! refuses is a 500 without a name. It is our server, whose replies are taken apart.

use serde_json::{Value as Json, json};
use sync_core::wire::DOUBLE_HOLDS;
use sync_dialect::{bundles_of, plain, round, rows_of};

use crate::model::Val;
use crate::server::{Endpoint, Reply};

/// What such a server answers in place of this. With `names` it says what it refuses.
pub(crate) fn answer(endpoint: Endpoint, reply: Reply, names: bool) -> Reply {
    let Ok(mut body) = serde_json::from_slice::<Json>(&reply.body) else { return reply };
    let mut status = reply.status;
    if endpoint == Endpoint::Commit && status == 422 && !names {
        status = 500;
        body = json!({"error": "push_session_commit_failed", "message": "failed"});
    }
    plain(&mut body);
    bundles_of(&mut body).for_each(|bundle| rows_of(bundle).for_each(round));
    if endpoint == Endpoint::CommittedRows {
        rows_of(&mut body).for_each(round);
    }
    Reply { status, body: body.to_string().into_bytes(), ..reply }
}

/// Whether both are the same once they went through doubles.
pub(crate) fn same_rounded(a: &Val, b: &Val) -> bool {
    let double = |v: &Val| match v {
        Val::Int(i) if i.unsigned_abs() >= DOUBLE_HOLDS => Some(*i as f64),
        Val::Real(bits) => Some(f64::from_bits(*bits)),
        _ => None,
    };
    a == b || double(a).is_some_and(|a| double(b) == Some(a))
}

/// The key of an uploaded row that says again what a double left of a number, as if an app had written that. A row that
/// the app gives another key has no better one: of that nobody here knows more.
pub(crate) fn sent_back(chunk: &Json) -> Option<String> {
    let is_rounding = |v: &Json| v.to_string().trim_matches('"') == DOUBLE_HOLDS.to_string();
    let updates = chunk["rows"].as_array()?.iter().filter(|row| row["op"] == "UPDATE");
    let mut rounded = updates.filter(|row| row["payload"].as_object().is_some_and(|p| p.values().any(is_rounding)));
    Some(rounded.next()?["key"].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rounding_that_is_sent_back_is_seen() {
        let chunk =
            |op, n: &str| json!({"rows": [{"key": {"id": "p1"}, "op": op, "payload": {"age": n, "name": "n"}}]});
        assert_eq!(sent_back(&chunk("UPDATE", "9007199254740992")).as_deref(), Some(r#"{"id":"p1"}"#));
        assert_eq!(sent_back(&chunk("UPDATE", "9007199254740993")), None);
        assert_eq!(sent_back(&chunk("INSERT", "9007199254740992")), None, "nobody here knows the exact one");
    }

    #[test]
    fn only_what_a_double_cannot_hold_is_the_same() {
        let exact = Val::Int(9_007_199_254_740_993);
        assert!(same_rounded(&exact, &Val::Int(9_007_199_254_740_992)));
        assert!(same_rounded(&Val::Int(i64::MIN), &Val::Real((i64::MIN as f64).to_bits())));
        assert!(!same_rounded(&Val::Int(1), &Val::Int(2)) && !same_rounded(&exact, &Val::Null));
    }
}
