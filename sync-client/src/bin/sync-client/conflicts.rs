//! Conflicts that the program is asked about which reads our output: told as events, answered by `resolve`.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use sync_client::{Conflict, Question, Resolution, RowValues};
use sync_core::{
    canonical::{Escapes, push_string},
    json,
    schema::Table,
    sqlite::introspect::introspect,
    wire::{Form, decode_value, push_value},
};

use crate::output;

/// A conflict that waits, as it is told.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "conflict")]
pub(crate) struct Told {
    pub(crate) id: u64,
    pub(crate) table: String,
    pub(crate) key: Box<RawValue>,
    pub(crate) op: String,
    pub(crate) local: Option<Box<RawValue>>,
    pub(crate) base: Option<Box<RawValue>>,
    pub(crate) server: Option<Box<RawValue>>,
    pub(crate) seconds: u64,
}

/// Whose row is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Take {
    Local,
    Server,
}

/// The conflicts that wait.
pub(crate) struct Waiting {
    file: PathBuf,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    last: u64,
    open: BTreeMap<u64, Question>,
    /// Tables as they are in the file, for the form of their values.
    tables: BTreeMap<String, Table>,
}

impl Waiting {
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file, asked: Mutex::default() }
    }

    /// Tells of a conflict. Where it cannot be told, the file's policy decides.
    pub(crate) fn ask(&self, question: Question) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.open.retain(|_, q| q.is_open());
        let Some(table) = asked.table(&self.file, question.conflict()) else { return };
        let Some(told) = told(asked.last + 1, &table, &question) else { return };
        asked.last += 1;
        let id = asked.last;
        asked.open.insert(id, question);
        drop(asked);
        output::line(&output::json(&told));
    }

    /// Answers one, or says why it cannot be answered so.
    pub(crate) fn resolve(&self, id: u64, take: Option<Take>, row: Option<&Value>) -> Result<(), String> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(question) = asked.open.remove(&id).filter(Question::is_open) else { return Err(over(id)) };
        let resolution = match (take, row) {
            (Some(Take::Local), None) => Ok(Resolution::KeepLocal),
            (Some(Take::Server), None) => Ok(Resolution::TakeServer),
            (None, Some(row)) => asked.merged(question.conflict(), row).map(Resolution::Merged),
            _ => Err("Say whose row to take (local or server), or a row.".into()),
        };
        match resolution {
            Ok(resolution) => question.answer(resolution).then_some(()).ok_or_else(|| over(id)),
            Err(why) => {
                // It waits on.
                asked.open.insert(id, question);
                Err(why)
            }
        }
    }
}

pub(crate) fn over(id: u64) -> String {
    format!(
        "No conflict with the id {id} waits: it was answered, its time is over, or the sync that asked was stopped. Nothing \
         is lost: `discarded` and `conflicts` have what was settled, and what was not is asked about again."
    )
}

impl Asked {
    /// The table of a conflict, read again where it has other columns by now.
    fn table(&mut self, file: &PathBuf, conflict: &Conflict) -> Option<Table> {
        let rows = [&conflict.local, &conflict.base, &conflict.server];
        let fits =
            |t: &Table| rows.iter().copied().flatten().all(|row| row.keys().all(|name| t.column(name).is_some()));
        if !self.tables.get(&conflict.table).is_some_and(fits) {
            let conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE).ok()?;
            let found = introspect(&conn, None).ok()?;
            self.tables = found.schema.tables().iter().map(|t| (t.name.clone(), t.clone())).collect();
        }
        self.tables.get(&conflict.table).filter(|t| fits(t)).cloned()
    }

    /// The row that was answered.
    fn merged(&self, conflict: &Conflict, row: &Value) -> Result<RowValues, String> {
        let table = self.tables.get(&conflict.table).ok_or("Its table is not there any more.")?;
        let members = json::from_slice::<json::Members>(row.to_string().as_bytes())
            .map_err(|_| "The row is no object of columns.".to_owned())?;
        let key = json::from_slice::<json::Members>(conflict.key.as_bytes()).unwrap_or_default();
        let mut merged = RowValues::new();
        for (name, scalar) in &members.0 {
            let column = table.column(name).map(|i| &table.columns[i]);
            let column = column.ok_or_else(|| format!("Table {} has no column {name}.", table.name))?;
            let value = decode_value(table, column, scalar).map_err(|e| format!("This row does not fit: {e}."))?;
            let before = conflict.local.as_ref().or(conflict.server.as_ref()).and_then(|row| row.get(name));
            if key.get(name).is_some() && before != Some(&value) {
                return Err(format!("The key cannot be changed ({name})."));
            }
            merged.insert(name.clone(), value);
        }
        Ok(merged)
    }
}

fn told(id: u64, table: &Table, question: &Question) -> Option<Told> {
    let c = question.conflict();
    let row = |row: &Option<RowValues>| {
        row.as_ref().map(|row| raw(row_json(table, row)?)).map_or(Some(None), |r| r.map(Some))
    };
    Some(Told {
        id,
        table: c.table.clone(),
        key: raw(c.key.clone())?,
        op: c.op.clone(),
        local: row(&c.local)?,
        base: row(&c.base)?,
        server: row(&c.server)?,
        seconds: question.time().as_secs(),
    })
}

/// A row in the form of the inbox.
fn row_json(table: &Table, row: &RowValues) -> Option<String> {
    let mut out = String::from("{");
    for (name, value) in row {
        if out.len() > 1 {
            out.push(',');
        }
        push_string(&mut out, name, Escapes::Minimal);
        out.push(':');
        push_value(&mut out, &table.columns[table.column(name)?], value, Form::Exact);
    }
    out.push('}');
    Some(out)
}

pub(crate) fn raw(json: String) -> Option<Box<RawValue>> {
    RawValue::from_string(json).ok()
}
