//! What the server insists on in some runs: triggers that change a pushed row, or another one, make one, take
//! one away, or refuse one. The model knows what each comes to; none depends on the order of a bundle's rows
//! but for parents before children.

use std::collections::BTreeSet;

use crate::model::{Id, Row, State, Val, tokens_of};

/// The triggers.
pub(crate) const RULES: &str = "
CREATE TRIGGER note_defaulted AFTER INSERT ON notes WHEN NEW.pinned IS NULL BEGIN
  UPDATE notes SET pinned = 0 WHERE id = NEW.id; END;
CREATE TRIGGER note_corrected AFTER UPDATE ON notes WHEN NEW.pinned IS NULL BEGIN
  UPDATE notes SET pinned = 0 WHERE id = NEW.id; END;
CREATE TRIGGER note_pinned AFTER INSERT ON tags BEGIN
  UPDATE notes SET pinned = 1 WHERE id = NEW.note AND pinned IS NOT 1; END;
CREATE TRIGGER tag_taken AFTER INSERT ON tags WHEN NEW.tag = 'tag 5' BEGIN
  DELETE FROM tags WHERE note = NEW.note AND tag = NEW.tag; END;
CREATE TRIGGER counter_seen AFTER INSERT ON counters BEGIN
  INSERT INTO settings VALUES ('last counter', NEW.id) ON CONFLICT (name) DO UPDATE SET value = excluded.value; END;
CREATE TRIGGER setting_taken AFTER DELETE ON counters BEGIN
  DELETE FROM settings WHERE name = 's5'; END;
CREATE TRIGGER person_refused BEFORE INSERT ON people WHEN typeof(NEW.age) = 'integer' AND NEW.age % 50 = 13 BEGIN
  SELECT RAISE(ABORT, 'nobody is of this age'); END;
CREATE TRIGGER person_aged BEFORE UPDATE ON people WHEN typeof(NEW.age) = 'integer' AND NEW.age % 50 = 13 BEGIN
  SELECT RAISE(ABORT, 'nobody is of this age'); END;
";

/// What the rules make of one row of a push: `op` on `id` was just applied to `state`. Returns what was done, and
/// the tokens that went.
///
/// # Errors
/// Where the row should have been refused.
pub(crate) fn after(
    op: &str,
    id: &Id,
    state: &mut State,
    changed: &mut BTreeSet<Id>,
) -> Result<(Option<&'static str>, Vec<u64>), String> {
    match (id.0, op) {
        ("notes", "INSERT" | "UPDATE") => Ok((set(state, id, "pinned", &[Val::Null], 0).then_some("own row"), vec![])),
        ("tags", "INSERT") => {
            let [note, tag] = id.1.as_slice() else { return Err(format!("key of tags: {:?}", id.1)) };
            let parent = ("notes", vec![note.clone()]);
            let pinned = set(state, &parent, "pinned", &[Val::Null, Val::Int(0)], 1);
            if pinned {
                changed.insert(parent);
            }
            if *tag == Val::Text("tag 5".into()) {
                return Ok((Some("own row taken"), take(state, id)));
            }
            Ok((pinned.then_some("another row"), vec![]))
        }
        ("counters", "INSERT") => {
            let name = Val::Text("last counter".into());
            let row: Row = [("name".into(), name.clone()), ("value".into(), id.1[0].clone())].into();
            let id = ("settings", vec![name]);
            state.insert(id.clone(), row);
            changed.insert(id);
            Ok((Some("another row made"), vec![]))
        }
        ("counters", "DELETE") => {
            let id = ("settings", vec![Val::Text("s5".into())]);
            let there = state.contains_key(&id);
            let tokens = take(state, &id);
            if there {
                changed.insert(id);
            }
            Ok((there.then_some("another row taken"), tokens))
        }
        ("people", "INSERT" | "UPDATE") => match state.get(id).and_then(|row| row.get("age")) {
            Some(Val::Int(age)) if age % 50 == 13 => Err(format!("{id:?} was not refused")),
            _ => Ok((None, vec![])),
        },
        _ => Ok((None, vec![])),
    }
}

/// Sets a column that has one of these values.
fn set(state: &mut State, id: &Id, column: &str, from: &[Val], to: i64) -> bool {
    let Some(row) = state.get_mut(id) else { return false };
    let is = row.get(column).cloned().unwrap_or(Val::Null);
    if from.contains(&is) {
        row.insert(column.into(), Val::Int(to));
    }
    from.contains(&is)
}

fn take(state: &mut State, id: &Id) -> Vec<u64> {
    state.remove(id).iter().flat_map(|row| row.values().flat_map(tokens_of)).collect()
}
