//! Whether a row of a push conflicts with what the scope has (reference-server §3.6).

use crate::protocol::Op;

/// What a scope remembers of a row: the last bundle that touched it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowState {
    /// The row's version.
    pub version: i64,
    /// Whether that bundle deleted it.
    pub deleted: bool,
}

/// Why a row conflicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// What follows `insert conflict on s.t k: `.
    pub reason: String,
    /// The scope's version; 0 where it knows no such row.
    pub server_version: i64,
    /// Whether that is a tombstone.
    pub server_deleted: bool,
}

impl Conflict {
    /// The whole message. `key` is the key's value as text.
    #[must_use]
    pub fn message(&self, op: Op, schema: &str, table: &str, key: &str) -> String {
        format!("{} conflict on {schema}.{table} {key}: {}", op.name().to_ascii_lowercase(), self.reason)
    }
}

/// Checks one row. Versions are compared for equality: a base above the scope's version conflicts too.
///
/// # Errors
/// The conflict.
pub fn check(op: Op, state: Option<RowState>, base: i64) -> Result<(), Conflict> {
    let reason = match (op, state) {
        (Op::Insert, None) if base == 0 => return Ok(()),
        (Op::Insert, None) => format!("expected missing row at version 0, got {base}"),
        (Op::Insert, Some(s)) if s.version != base => format!("expected base_row_version {}, got {base}", s.version),
        (Op::Insert, Some(s)) if s.deleted => return Ok(()),
        (Op::Insert, Some(s)) => format!("row already exists at version {}", s.version),
        (Op::Update | Op::Delete, None | Some(RowState { deleted: true, .. })) => "row does not exist".to_owned(),
        (Op::Update | Op::Delete, Some(s)) if s.version == base => return Ok(()),
        (Op::Update | Op::Delete, Some(s)) => format!("expected version {}, got {base}", s.version),
    };
    Err(Conflict {
        reason,
        server_version: state.map_or(0, |s| s.version),
        server_deleted: state.is_some_and(|s| s.deleted),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row of reference-server §3.6, with its exact text.
    #[test]
    fn the_decision_table() {
        let live = Some(RowState { version: 7, deleted: false });
        let dead = Some(RowState { version: 7, deleted: true });
        let ok = "";
        for (op, state, base, expected) in [
            (Op::Insert, None, 0, ok),
            (Op::Insert, None, 3, "insert conflict on s.t k: expected missing row at version 0, got 3"),
            (Op::Insert, dead, 7, ok),
            (Op::Insert, dead, 0, "insert conflict on s.t k: expected base_row_version 7, got 0"),
            (Op::Insert, dead, 8, "insert conflict on s.t k: expected base_row_version 7, got 8"),
            (Op::Insert, live, 0, "insert conflict on s.t k: expected base_row_version 7, got 0"),
            (Op::Insert, live, 7, "insert conflict on s.t k: row already exists at version 7"),
            (Op::Update, None, 0, "update conflict on s.t k: row does not exist"),
            (Op::Delete, None, 7, "delete conflict on s.t k: row does not exist"),
            (Op::Update, dead, 7, "update conflict on s.t k: row does not exist"),
            (Op::Delete, dead, 7, "delete conflict on s.t k: row does not exist"),
            (Op::Update, live, 7, ok),
            (Op::Delete, live, 7, ok),
            (Op::Update, live, 3, "update conflict on s.t k: expected version 7, got 3"),
            (Op::Delete, live, 9, "delete conflict on s.t k: expected version 7, got 9"),
        ] {
            match check(op, state, base) {
                Ok(()) => assert_eq!(expected, ok, "{op:?} {state:?} {base}"),
                Err(c) => {
                    assert_eq!(c.message(op, "s", "t", "k"), expected);
                    assert_eq!(c.server_version, state.map_or(0, |s| s.version));
                    assert_eq!(c.server_deleted, state.is_some_and(|s| s.deleted));
                }
            }
        }
    }
}
