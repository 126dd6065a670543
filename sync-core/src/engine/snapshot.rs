//! Source replacement with a snapshot: one source is retired, another reserved (reference-server §6.4).

use super::admit::{Source, SourceState, Who, retired};
use crate::protocol::snapshot::SourceReplacement;
use crate::protocol::{ApiError, Code, SourceId};

/// What a valid replacement changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replacement {
    /// Retire the previous source and remember the new one and the reason.
    pub retire_previous: bool,
    /// Make the new source, reserved.
    pub reserve_new: bool,
}

/// Checks the request itself. Returns the new source's id.
///
/// # Errors
/// `snapshot_session_invalid`.
pub fn check_replacement(request: &SourceReplacement, caller: &str) -> Result<SourceId, ApiError> {
    let invalid = |text: &str| Err(ApiError::new(Code::SnapshotSessionInvalid, text));
    if request.previous_source_id.trim() != caller {
        return invalid("previous_source_id must match authenticated source_id");
    }
    let new = request.new_source_id.trim();
    if new.is_empty() {
        return invalid("new_source_id is required for source replacement");
    }
    if new == caller {
        return invalid("new_source_id must differ from previous_source_id");
    }
    if !SourceReplacement::REASONS.contains(&request.reason.trim()) {
        return invalid("source replacement reason is unsupported");
    }
    match SourceId::parse(new) {
        Some(id) => Ok(id),
        None => invalid("new_source_id must be 1 to 128 printable ASCII characters without spaces"),
    }
}

/// Decides on a replacement of `who.source` by `new`.
///
/// # Errors
/// `source_retired`, `source_replacement_invalid`.
pub fn replace(
    who: Who<'_>,
    new: &str,
    previous_record: Option<&Source>,
    new_record: Option<&Source>,
) -> Result<Replacement, ApiError> {
    let invalid = |text: String| Err(ApiError::new(Code::SourceReplacementInvalid, text));
    match (previous_record, new_record) {
        (Some(p), _) if p.state == SourceState::Retired && p.replaced_by.as_deref() != Some(new) => {
            Err(retired(who, p.replaced_by.as_deref()))
        }
        (Some(p), Some(n)) if p.state == SourceState::Retired && n.state == SourceState::Retired => {
            invalid(format!("replacement source {new} is not available for rotated rebuild"))
        }
        (Some(p), n) if p.state == SourceState::Retired => {
            Ok(Replacement { retire_previous: false, reserve_new: n.is_none() })
        }
        (_, Some(_)) => invalid(format!("replacement source {new} is already known for user {}", who.user)),
        (_, None) => Ok(Replacement { retire_previous: true, reserve_new: true }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SourceState::{Active, Reserved, Retired};

    const ME: Who<'static> = Who { user: "u", source: "old" };

    fn record(state: SourceState, by: &str) -> Source {
        Source { state, max_committed: 3, replaced_by: (!by.is_empty()).then(|| by.into()) }
    }

    /// Every row of reference-server §6.4.
    #[test]
    fn the_decision_table() {
        let fresh = Ok(Replacement { retire_previous: true, reserve_new: true });
        let again = Ok(Replacement { retire_previous: false, reserve_new: true });
        let same = Ok(Replacement { retire_previous: false, reserve_new: false });
        let known = Err(Code::SourceReplacementInvalid);
        for (previous, new, expected) in [
            (None, None, fresh),
            (Some(record(Active, "")), None, fresh),
            (Some(record(Reserved, "")), None, fresh),
            (None, Some(record(Active, "")), known),
            (Some(record(Active, "")), Some(record(Reserved, "")), known),
            (Some(record(Active, "")), Some(record(Retired, "")), known),
            (Some(record(Retired, "new")), None, again),
            (Some(record(Retired, "new")), Some(record(Reserved, "")), same),
            (Some(record(Retired, "new")), Some(record(Active, "")), same),
            (Some(record(Retired, "new")), Some(record(Retired, "x")), known),
            (Some(record(Retired, "other")), None, Err(Code::SourceRetired)),
            (Some(record(Retired, "other")), Some(record(Active, "")), Err(Code::SourceRetired)),
        ] {
            let got = replace(ME, "new", previous.as_ref(), new.as_ref()).map_err(|e| e.code);
            assert_eq!(got, expected, "{previous:?} {new:?}");
        }
    }

    #[test]
    fn the_request_itself() {
        let request = |previous: &str, new: &str, reason: &str| SourceReplacement {
            previous_source_id: previous.into(),
            new_source_id: new.into(),
            reason: reason.into(),
        };
        let check = |r: &SourceReplacement| check_replacement(r, "old").map_err(|e| e.message);
        assert_eq!(check(&request(" old ", " new ", " source_retired ")), Ok(SourceId::parse("new").unwrap()));
        for (r, text) in [
            (request("x", "", ""), "previous_source_id must match authenticated source_id"),
            (request("old", " ", ""), "new_source_id is required for source replacement"),
            (request("old", "old", ""), "new_source_id must differ from previous_source_id"),
            (request("old", "new", "because"), "source replacement reason is unsupported"),
        ] {
            assert_eq!(check(&r), Err(text.into()));
        }
        assert!(check(&request("old", "two words", "history_pruned")).is_err());
    }
}
