//! An independent model of the server: what each commit makes of a user's rows, from nothing but the
//! requests and replies that pass by. It shares no decision with the engine: maps, versions, cascades.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value as Json;

use crate::rules;
use crate::wire::{read_key, read_row};

/// A value of SQLite. Reals by their bits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Val {
    Null,
    Int(i64),
    Real(u64),
    Text(String),
    Blob(Vec<u8>),
}

/// A table and a key.
pub(crate) type Id = (&'static str, Vec<Val>);
/// Columns by name.
pub(crate) type Row = BTreeMap<Arc<str>, Val>;
/// Every row of a user.
pub(crate) type State = BTreeMap<Id, Row>;

/// What the model knows of a table.
#[derive(Debug)]
pub(crate) struct TableDef {
    /// Its name.
    pub(crate) name: &'static str,
    /// The key's columns.
    pub(crate) key: &'static [&'static str],
    /// Columns that are declared REAL: integers become reals there.
    pub(crate) reals: &'static [&'static str],
    /// Columns that are declared BLOB: strings on the wire are base64 there, or UUIDs.
    pub(crate) blobs: &'static [&'static str],
    /// Column, parent table, whether a delete of the parent cascades, sets NULL, or is refused.
    pub(crate) parents: &'static [(&'static str, &'static str, OnDelete)],
}

/// What a deleted parent does to its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDelete {
    /// They go, too.
    Cascade,
    /// They refer to nothing.
    SetNull,
    /// It may not be.
    Refuse,
}

/// The tables of [`crate::app::SCHEMA`] and [`crate::app::ADDED`].
pub(crate) const TABLES: &[TableDef] = &[
    TableDef { name: "people", key: &["id"], reals: &["score"], blobs: &["photo"], parents: &[] },
    TableDef {
        name: "notes",
        key: &["id"],
        reals: &[],
        blobs: &[],
        parents: &[("person", "people", OnDelete::Cascade)],
    },
    TableDef {
        name: "tags",
        key: &["note", "tag"],
        reals: &[],
        blobs: &[],
        parents: &[("note", "notes", OnDelete::Cascade)],
    },
    TableDef {
        name: "counters",
        key: &["id"],
        reals: &[],
        blobs: &[],
        parents: &[("parent", "counters", OnDelete::SetNull)],
    },
    TableDef {
        name: "marks",
        key: &["id"],
        reals: &[],
        blobs: &["id"],
        parents: &[("counter", "counters", OnDelete::Refuse)],
    },
    TableDef { name: "settings", key: &["name"], reals: &[], blobs: &[], parents: &[] },
    TableDef { name: "rooms", key: &["id"], reals: &[], blobs: &[], parents: &[] },
    TableDef { name: "seats", key: &["id"], reals: &[], blobs: &[], parents: &[("room", "rooms", OnDelete::Cascade)] },
    TableDef { name: "codes", key: &["code"], reals: &[], blobs: &[], parents: &[] },
    TableDef { name: "left_shelf", key: &["id"], reals: &[], blobs: &[], parents: &[] },
    TableDef { name: "right_shelf", key: &["id"], reals: &[], blobs: &[], parents: &[] },
    TableDef { name: "boxes", key: &["id"], reals: &[], blobs: &[], parents: &[] },
    TableDef { name: "things", key: &["id"], reals: &[], blobs: &[], parents: &[("box", "boxes", OnDelete::Refuse)] },
    TableDef { name: "extras", key: &["id"], reals: &[], blobs: &[], parents: &[("note", "notes", OnDelete::SetNull)] },
];

/// The table of this name.
#[must_use]
pub(crate) fn table(name: &str) -> Option<&'static TableDef> {
    TABLES.iter().find(|t| t.name == name)
}

/// Something that the protocol does not allow, or that the model cannot follow.
pub(crate) type Wrong = String;

/// One row of a push.
#[derive(Debug, Clone)]
struct PushRow {
    id: Id,
    op: String,
    base: i64,
    payload: Option<Row>,
}

#[derive(Debug, Clone)]
struct Staged {
    source: String,
    source_bundle_id: i64,
    planned: i64,
    rows: Vec<PushRow>,
}

/// What a rewind needs: the newest bundle, versions, tuples and sessions then.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mark {
    latest: i64,
    versions: BTreeMap<Id, i64>,
    tuples: BTreeMap<(String, i64), i64>,
    staged: BTreeMap<String, Staged>,
}

/// One user's history as the model knows it.
#[derive(Debug, Clone)]
pub(crate) struct UserModel {
    /// The state after each bundle; the first is empty.
    states: Vec<Arc<State>>,
    /// Versions of rows and tombstones.
    versions: BTreeMap<Id, i64>,
    /// Which tuples committed, and as which bundle.
    tuples: BTreeMap<(String, i64), i64>,
    staged: BTreeMap<String, Staged>,
    /// Chunks whose replies the server's death swallowed.
    unheard: Vec<(String, Json)>,
    /// The server went back, or was without its data: it may have forgotten chunks.
    forgetful: bool,
    /// The server went back: what was deleted since may be there again.
    rewritten: bool,
    /// A commit whose reply the server's death swallowed.
    in_doubt: Option<String>,
    /// Whether the server has rules, and what they did lately.
    pub(crate) rules: bool,
    pub(crate) ruled: BTreeSet<&'static str>,
    /// States of histories that a restore or a loss ended.
    former: Vec<Vec<Arc<State>>>,
    /// Tokens that a cascade or a rule took on the server, and those in a column that whoever deleted the row may lack.
    pub(crate) cascaded: BTreeSet<u64>,
    /// Those that a room took along, though nobody deletes rooms.
    pub(crate) carried: BTreeSet<u64>,
    /// Those of them that the pushing device had in its file then: it has to tell of them.
    pub(crate) taken_from_pusher: BTreeSet<u64>,
}

impl Default for UserModel {
    /// A user of whom nobody has heard.
    fn default() -> Self {
        Self {
            states: vec![Arc::default()],
            versions: BTreeMap::new(),
            tuples: BTreeMap::new(),
            staged: BTreeMap::new(),
            unheard: Vec::new(),
            forgetful: false,
            rewritten: false,
            in_doubt: None,
            rules: false,
            ruled: BTreeSet::new(),
            former: Vec::new(),
            cascaded: BTreeSet::new(),
            carried: BTreeSet::new(),
            taken_from_pusher: BTreeSet::new(),
        }
    }
}

impl UserModel {
    /// The newest bundle.
    #[must_use]
    pub(crate) const fn latest(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    /// Every row now.
    #[must_use]
    pub(crate) fn now(&self) -> &Arc<State> {
        self.states.last().expect("invariant: never empty")
    }

    /// The states that a device at this checkpoint may show: that of the history of today first.
    pub(crate) fn at(&self, checkpoint: i64) -> impl Iterator<Item = &Arc<State>> {
        std::iter::once(&self.states)
            .chain(self.former.iter().rev())
            .filter_map(move |h| h.get(usize::try_from(checkpoint).ok()?))
    }

    /// The server went back to this bundle.
    pub(crate) fn rewind(&mut self, to: Mark) {
        self.former.push(self.states.clone());
        self.states.truncate(usize::try_from(to.latest).unwrap_or_default() + 1);
        self.versions = to.versions;
        self.tuples = to.tuples;
        // Sessions that committed since are open again.
        self.staged.extend(to.staged);
        self.in_doubt = None;
        self.forgetful = true;
        self.rewritten = true;
    }

    /// The server has the data again of which it was without, and of which this was known.
    pub(crate) fn come_back(&mut self, known: Self) {
        let between = std::mem::replace(self, known);
        self.former.extend(between.former);
        self.former.push(between.states);
        self.cascaded.extend(between.cascaded);
        self.taken_from_pusher.extend(between.taken_from_pusher);
        self.rewritten |= between.rewritten;
        self.in_doubt = None;
        self.forgetful = true;
    }

    /// The server begins without any data, which it may find again.
    pub(crate) fn go_away(&mut self) {
        let rewritten = self.rewritten;
        self.rewind(Mark::default());
        self.rewritten = rewritten;
    }

    /// Whether the server went back at any time, or was without its data.
    pub(crate) const fn forgot(&self) -> bool {
        self.forgetful
    }

    /// Whether the server went back at any time.
    pub(crate) const fn was_rewritten(&self) -> bool {
        self.rewritten
    }

    /// What a rewind needs later.
    #[must_use]
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            latest: self.latest(),
            versions: self.versions.clone(),
            tuples: self.tuples.clone(),
            staged: self.staged.clone(),
        }
    }

    /// A session was made.
    ///
    /// # Errors
    /// Where a tuple that is history is staged again.
    pub(crate) fn created(&mut self, source: &str, request: &Json, reply: &Json) -> Result<(), Wrong> {
        let tuple = (source.to_owned(), request["source_bundle_id"].as_i64().unwrap_or_default());
        let known = self.tuples.get(&tuple).copied();
        if reply["status"] == "already_committed" {
            return if known == reply["bundle_seq"].as_i64() {
                Ok(())
            } else {
                Err(format!("{tuple:?} is answered as bundle {}, it is {known:?}", reply["bundle_seq"]))
            };
        }
        if let Some(seq) = known {
            return Err(format!("{tuple:?} is staged again, though it is bundle {seq}"));
        }
        let id = reply["push_id"].as_str().unwrap_or_default().to_owned();
        let planned = request["planned_row_count"].as_i64().unwrap_or_default();
        self.staged.insert(id, Staged { source: tuple.0, source_bundle_id: tuple.1, planned, rows: Vec::new() });
        Ok(())
    }

    /// A chunk was taken.
    ///
    /// # Errors
    /// Where its ordinals do not follow, or a row cannot be read.
    pub(crate) fn uploaded(&mut self, push_id: &str, body: &Json) -> Result<(), Wrong> {
        let start = body["start_row_ordinal"].as_i64().unwrap_or(-1);
        while self.staged.get(push_id).is_some_and(|s| (s.rows.len() as i64) < start)
            && let Some(unheard) = self.next_unheard(push_id)
        {
            self.uploaded(push_id, &unheard)?;
        }
        let staged = self.staged.get_mut(push_id).ok_or("a chunk of a session that nobody made")?;
        if self.forgetful {
            staged.rows.truncate(usize::try_from(start).unwrap_or_default());
        }
        if start != staged.rows.len() as i64 {
            return Err(format!("a chunk from {start} on was taken where {} was due", staged.rows.len()));
        }
        for row in body["rows"].as_array().ok_or("rows")? {
            let def = table(row["table"].as_str().unwrap_or_default()).ok_or("a table that nobody has")?;
            let id = (def.name, read_key(def, &row["key"])?);
            let payload = row.get("payload").filter(|p| !p.is_null()).map(|p| read_row(def, p)).transpose()?;
            staged.rows.push(PushRow {
                id,
                op: row["op"].as_str().unwrap_or_default().to_owned(),
                base: row["base_row_version"].as_i64().unwrap_or_default(),
                payload,
            });
        }
        Ok(())
    }

    /// The server died over a chunk: it may have it or not.
    pub(crate) fn unheard(&mut self, push_id: &str, body: Json) {
        self.unheard.push((push_id.to_owned(), body));
    }

    /// The unheard chunk that is due in this session.
    fn next_unheard(&mut self, push_id: &str) -> Option<Json> {
        let due = self.staged.get(push_id)?.rows.len() as i64;
        let at = self.unheard.iter().position(|(id, body)| id == push_id && body["start_row_ordinal"] == due)?;
        Some(self.unheard.remove(at).1)
    }

    /// A commit is sent: should the server die now, the model asks it later.
    pub(crate) fn committing(&mut self, push_id: &str) {
        self.in_doubt = Some(push_id.to_owned());
    }

    /// A commit was answered with an error: nothing happened.
    pub(crate) fn refused(&mut self) {
        self.in_doubt = None;
    }

    /// A commit was answered.
    ///
    /// # Errors
    /// Where the bundle could not be.
    pub(crate) fn committed(&mut self, push_id: &str, seq: i64, pushers: &BTreeSet<u64>) -> Result<(), Wrong> {
        self.in_doubt = None;
        let earlier = self.cascaded.clone();
        while self.staged.get(push_id).is_some_and(|s| (s.rows.len() as i64) < s.planned)
            && let Some(body) = self.next_unheard(push_id)
        {
            self.uploaded(push_id, &body)?;
        }
        let staged = self.staged.remove(push_id).ok_or("a session committed twice")?;
        if seq != self.latest() + 1 {
            return Err(format!("bundle {seq} came where {} was due", self.latest() + 1));
        }
        if staged.rows.len() as i64 != staged.planned {
            return Err(format!("bundle {seq} committed with {} of {} rows", staged.rows.len(), staged.planned));
        }
        if let Some(old) = self.tuples.insert((staged.source.clone(), staged.source_bundle_id), seq) {
            return Err(format!("{} {} committed as {old} and as {seq}", staged.source, staged.source_bundle_id));
        }
        let mut state = State::clone(self.now());
        let mut changed = BTreeSet::new();
        for row in staged.rows {
            self.check_version(&row, &state, seq)?;
            changed.insert(row.id.clone());
            let id = row.id.clone();
            match (row.op.as_str(), row.payload) {
                ("DELETE", _) => {
                    // An app that lacks a column deletes its value without ever having seen it.
                    let unseen = state.remove(&row.id).and_then(|mut r| r.remove("nick"));
                    self.cascaded.extend(unseen.iter().flat_map(tokens_of));
                    self.cascade(&mut state, &row.id, &mut changed);
                }
                (_, Some(payload)) => {
                    state.entry(row.id).or_default().extend(payload);
                }
                (op, None) => return Err(format!("{op} without a payload was committed")),
            }
            if self.rules {
                let (done, gone) = rules::after(&row.op, &id, &mut state, &mut changed)?;
                self.ruled.extend(done);
                self.cascaded.extend(gone);
            }
        }
        for (id, row) in &state {
            for (column, parent, _) in table(id.0).map_or(&[][..], |t| t.parents) {
                let value = row.get(*column).unwrap_or(&Val::Null);
                if *value != Val::Null && !state.contains_key(&(*parent, vec![value.clone()])) {
                    return Err(format!("bundle {seq} leaves {id:?} without its parent in {parent}"));
                }
            }
        }
        let taken: Vec<u64> = self.cascaded.difference(&earlier).filter(|t| pushers.contains(t)).copied().collect();
        for token in taken {
            self.cascaded.remove(&token);
            self.taken_from_pusher.insert(token);
        }
        // What came and went in one bundle was never there.
        let before = Arc::clone(self.now());
        for id in changed.into_iter().filter(|id| before.contains_key(id) || state.contains_key(id)) {
            self.versions.insert(id, seq);
        }
        self.states.push(Arc::new(state));
        Ok(())
    }

    /// After the server's death: which commit it was about to make, if any.
    #[must_use]
    pub(crate) fn doubt(&self) -> Option<(String, String, i64)> {
        let id = self.in_doubt.as_ref()?;
        let s = self.staged.get(id)?;
        Some((id.clone(), s.source.clone(), s.source_bundle_id))
    }

    /// A row may be committed only on the version that the server has.
    fn check_version(&self, row: &PushRow, state: &State, seq: i64) -> Result<(), Wrong> {
        let known = self.versions.get(&row.id).copied().unwrap_or(0);
        let live = state.contains_key(&row.id) || self.now().contains_key(&row.id);
        let fits = match row.op.as_str() {
            "INSERT" => row.base == known && !self.now().contains_key(&row.id),
            _ => row.base == known && live,
        };
        if fits {
            return Ok(());
        }
        Err(format!("bundle {seq}: {} of {:?} on version {} was committed over {known}", row.op, row.id, row.base))
    }

    fn cascade(&mut self, state: &mut State, gone: &Id, changed: &mut BTreeSet<Id>) {
        let [key] = gone.1.as_slice() else { return };
        for def in TABLES {
            for (column, _, action) in def.parents.iter().filter(|p| p.1 == gone.0) {
                let children: Vec<Id> = state
                    .iter()
                    .filter(|(id, row)| id.0 == def.name && row.get(*column) == Some(key))
                    .map(|(id, _)| id.clone())
                    .collect();
                for child in children {
                    match action {
                        OnDelete::Cascade => {
                            if let Some(row) = state.remove(&child) {
                                if gone.0 == "rooms" {
                                    self.carried.extend(row.values().flat_map(tokens_of));
                                }
                                self.cascaded.extend(row.values().flat_map(tokens_of));
                            }
                            changed.insert(child.clone());
                            self.cascade(state, &child, changed);
                        }
                        OnDelete::SetNull => {
                            if let Some(row) = state.get_mut(&child) {
                                row.insert((*column).into(), Val::Null);
                            }
                            changed.insert(child);
                        }
                        OnDelete::Refuse => {}
                    }
                }
            }
        }
    }
}

/// The tokens in a value.
pub(crate) fn tokens_of(v: &Val) -> Vec<u64> {
    match v {
        Val::Text(s) => crate::app::tokens(s).collect(),
        Val::Blob(b) => std::str::from_utf8(b).map(|s| crate::app::tokens(s).collect()).unwrap_or_default(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn push(m: &mut UserModel, n: i64, rows: Json) -> Result<(), Wrong> {
        let count = rows.as_array().unwrap().len();
        let id = format!("push {n}");
        m.created("s", &json!({"source_bundle_id": n, "planned_row_count": count}), &json!({"push_id": id}))?;
        m.uploaded(&id, &json!({"start_row_ordinal": 0, "rows": rows}))?;
        m.committed(&id, n, &BTreeSet::new())
    }

    fn row(table: &str, key: &str, op: &str, base: i64, payload: Json) -> Json {
        json!({"table": table, "key": {"id": key}, "op": op, "base_row_version": base, "payload": payload})
    }

    #[test]
    fn deletes_cascade_and_stale_versions_are_noticed() {
        let mut m = UserModel::default();
        push(&mut m, 1, json!([row("people", "p", "INSERT", 0, json!({"id": "p", "name": "<w1>"}))])).unwrap();
        push(
            &mut m,
            2,
            json!([row("notes", "n", "INSERT", 0, json!({"id": "n", "person": "p", "body": "<w2>"})), {
                "table": "tags", "key": {"note": "n", "tag": "t"}, "op": "INSERT", "base_row_version": 0,
                "payload": {"note": "n", "tag": "t", "mark": null}
            }]),
        )
        .unwrap();
        assert!(push(&mut m.clone(), 3, json!([row("people", "p", "UPDATE", 2, json!({"name": "x"}))])).is_err());
        assert!(push(&mut m.clone(), 3, json!([row("people", "p", "INSERT", 1, json!({"name": "x"}))])).is_err());
        assert!(push(&mut m.clone(), 3, json!([row("notes", "m", "INSERT", 0, json!({"person": "q"}))])).is_err());
        assert!(push(&mut m.clone(), 2, json!([])).is_err());
        push(&mut m, 3, json!([row("people", "p", "DELETE", 1, Json::Null)])).unwrap();
        assert!(m.now().is_empty());
        assert_eq!(m.cascaded, crate::app::tokens("<w2>").collect());
        assert_eq!(m.at(2).next().unwrap().len(), 3);
    }

    /// The server may have taken every chunk over which it died.
    #[test]
    fn chunks_that_nobody_heard_of_are_found_once_what_follows_them_is_taken() {
        let mut m = UserModel::default();
        let chunk = |start: i64| {
            let key = format!("p{start}");
            let rows = [row("people", &key, "INSERT", 0, json!({"id": key}))];
            json!({"start_row_ordinal": start, "rows": rows})
        };
        m.created("s", &json!({"source_bundle_id": 1, "planned_row_count": 4}), &json!({"push_id": "p"})).unwrap();
        m.unheard("p", chunk(0));
        m.unheard("another", chunk(0));
        m.unheard("p", chunk(1));
        m.uploaded("p", &chunk(2)).unwrap();
        assert!(m.clone().uploaded("p", &chunk(1)).is_err());
        m.unheard("p", chunk(3));
        m.committed("p", 1, &BTreeSet::new()).unwrap();
        assert_eq!(m.now().len(), 4);
    }

    #[test]
    fn rules_do_what_they_say() {
        let mut m = UserModel { rules: true, ..UserModel::default() };
        let counter = |op: &str, base| {
            let payload = if op == "DELETE" { Json::Null } else { json!({"id": 7, "label": "l"}) };
            row("counters", "7", op, base, payload)
        };
        let tag = |tag: &str| {
            let key = json!({"note": "n", "tag": tag});
            json!({"table": "tags", "key": key, "op": "INSERT", "base_row_version": 0, "payload": key})
        };
        let setting = json!({"table": "settings", "key": {"name": "s5"}, "op": "INSERT", "base_row_version": 0,
            "payload": {"name": "s5", "value": "<w1>"}});
        let note = row("notes", "n", "INSERT", 0, json!({"id": "n", "pinned": null}));
        push(&mut m, 1, json!([note, tag("tag 4"), tag("tag 5"), counter("INSERT", 0), setting])).unwrap();
        let value = |m: &UserModel, table: &'static str, key: &str, column: &str| {
            m.now().get(&(table, vec![Val::Text(key.into())])).and_then(|row| row.get(column).cloned())
        };
        assert_eq!(value(&m, "notes", "n", "pinned"), Some(Val::Int(1)));
        assert_eq!(value(&m, "settings", "last counter", "value"), Some(Val::Int(7)));
        assert_eq!(m.now().keys().filter(|id| id.0 == "tags").count(), 1);
        push(&mut m, 2, json!([counter("DELETE", 1)])).unwrap();
        assert_eq!(value(&m, "settings", "s5", "value"), None);
        assert_eq!(m.cascaded, crate::app::tokens("<w1>").collect());
        assert!(push(&mut m, 3, json!([row("people", "p", "INSERT", 0, json!({"id": "p", "age": 63}))])).is_err());
    }
}
