//! What an app does to its file: seeded SQL over the profile's tables.

use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode};

use super::broken;
use super::file::{count, nth_key, quote};
use crate::lab::Checked;
use crate::profile::{Column, Kind, Table};
use crate::random::Random;

/// Which rows a workload is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edits {
    /// Any table; unique values are this device's own.
    Own,
    /// Any table, also rows and unique values of other devices.
    Shared,
    /// Parents and children: more deletes, and only tables with foreign keys or referred to.
    Links,
}

/// One app.
pub(super) struct Workload<'l> {
    tables: Vec<&'l Table>,
    device: String,
    edits: Edits,
    random: Random,
    made: u64,
}

impl<'l> Workload<'l> {
    pub(super) fn new(tables: Vec<&'l Table>, device: &str, edits: Edits, random: Random) -> Self {
        Self { tables, device: device.to_owned(), edits, random, made: 0 }
    }

    /// So many statements, now and then several in one transaction. What the schema refuses is not done.
    pub(super) fn edit(&mut self, app: &Connection, statements: usize) -> Checked {
        app.execute_batch("PRAGMA foreign_keys = ON").map_err(|e| broken(&e))?;
        let mut left = statements;
        while left > 0 {
            let group = (1 + self.random.below(4) as usize).min(left);
            app.execute_batch("BEGIN IMMEDIATE").map_err(|e| broken(&e))?;
            for _ in 0..group {
                match self.one(app) {
                    Ok(()) => {}
                    Err(e) if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {}
                    Err(e) => return Err(broken(&e)),
                }
            }
            app.execute_batch("COMMIT").map_err(|e| broken(&e))?;
            left -= group;
        }
        Ok(())
    }

    fn one(&mut self, app: &Connection) -> rusqlite::Result<()> {
        let candidates: Vec<&'l Table> = self.tables.iter().copied().filter(|t| self.wanted(t)).collect();
        let t = candidates[self.random.below(candidates.len() as u64) as usize];
        let rows = count(t, app)?;
        let deletes = if self.edits == Edits::Links { 4 } else { 2 };
        match self.random.below(10) {
            _ if rows == 0 => self.insert(t, app),
            n if n < deletes => self.delete(t, rows, app),
            n if n < deletes + 3 => self.update(t, rows, app),
            9 if rows > 3 && self.edits != Edits::Links => self.update_many(t, app),
            _ => self.insert(t, app),
        }
    }

    fn wanted(&self, t: &Table) -> bool {
        let refers = |t: &Table| t.columns.iter().any(|c| c.references.is_some());
        let referred = |t: &Table| {
            self.tables.iter().any(|o| o.columns.iter().any(|c| c.references.as_deref() == Some(t.name.as_str())))
        };
        self.edits != Edits::Links || refers(t) || referred(t)
    }

    fn insert(&mut self, t: &'l Table, app: &Connection) -> rusqlite::Result<()> {
        let mut values = Vec::new();
        for c in &t.columns {
            let value = if t.is_key(&c.name) && c.references.is_none() { self.key(c) } else { self.value(c, app)? };
            if value == Value::Null && c.required {
                // There is no parent yet.
                let parent = c.references.as_ref().and_then(|r| self.tables.iter().find(|t| t.name == *r)).copied();
                return parent.filter(|p| p.name != t.name).map_or(Ok(()), |p| self.insert(p, app));
            }
            values.push(value);
        }
        let names: Vec<String> = t.columns.iter().map(|c| quote(&c.name)).collect();
        let marks = vec!["?"; names.len()].join(", ");
        let sql = format!("INSERT INTO {} ({}) VALUES ({marks})", quote(&t.name), names.join(", "));
        app.execute(&sql, rusqlite::params_from_iter(values)).map(drop)
    }

    fn update(&mut self, t: &'l Table, rows: u64, app: &Connection) -> rusqlite::Result<()> {
        let columns: Vec<&Column> = t.columns.iter().filter(|c| !t.is_key(&c.name) && c.kind != Kind::Other).collect();
        let n = self.random.below(rows);
        let Some(key) = nth_key(t, app, n)? else { return Ok(()) };
        if columns.is_empty() {
            return Ok(());
        }
        let c = columns[self.random.below(columns.len() as u64) as usize];
        let value = self.value(c, app)?;
        if value == Value::Null && c.required {
            return Ok(());
        }
        let sql = format!("UPDATE {} SET {} = ? WHERE {}", quote(&t.name), quote(&c.name), matches(t));
        app.execute(&sql, rusqlite::params_from_iter(std::iter::once(value).chain(key))).map(drop)
    }

    fn update_many(&mut self, t: &'l Table, app: &Connection) -> rusqlite::Result<()> {
        let Some(label) = t.label() else { return Ok(()) };
        let sql = format!("UPDATE {} SET {} = ?", quote(&t.name), quote(&label.name));
        let text = self.text();
        app.execute(&sql, [text]).map(drop)
    }

    fn delete(&mut self, t: &'l Table, rows: u64, app: &Connection) -> rusqlite::Result<()> {
        let n = self.random.below(rows);
        let Some(key) = nth_key(t, app, n)? else { return Ok(()) };
        let sql = format!("DELETE FROM {} WHERE {}", quote(&t.name), matches(t));
        app.execute(&sql, rusqlite::params_from_iter(key)).map(drop)
    }

    /// A key that no other device makes.
    fn key(&mut self, c: &Column) -> Value {
        self.made += 1;
        let device = self.device.bytes().next().map_or(0, u64::from);
        match c.kind {
            Kind::Uuid => {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&device.to_be_bytes());
                bytes[8..].copy_from_slice(&self.made.to_be_bytes());
                (bytes[6], bytes[8]) = (bytes[6] | 0x40, bytes[8] | 0x80);
                Value::Blob(bytes.to_vec())
            }
            Kind::Integer => Value::Integer((device * 1_000_000 + self.made) as i64),
            _ => Value::Text(format!("{}-{}", self.device, self.made)),
        }
    }

    fn value(&mut self, c: &Column, app: &Connection) -> rusqlite::Result<Value> {
        if let Some(parent) = c.references.as_ref().and_then(|r| self.tables.iter().find(|t| t.name == *r)).copied() {
            let rows = count(parent, app)?;
            if rows == 0 || (!c.required && self.random.once_in(4)) {
                return Ok(Value::Null);
            }
            let n = self.random.below(rows);
            return Ok(nth_key(parent, app, n)?.and_then(|k| k.into_iter().next()).unwrap_or(Value::Null));
        }
        if c.kind == Kind::Other || (!c.required && self.random.once_in(5)) {
            return Ok(Value::Null);
        }
        Ok(match c.kind {
            Kind::Text if c.unique => {
                self.made += 1;
                let shared = self.edits != Edits::Own && self.random.once_in(4);
                Value::Text(if shared {
                    format!("shared-{}", self.random.below(3))
                } else {
                    format!("{}u{}", self.device, self.made)
                })
            }
            Kind::Text | Kind::Other => Value::Text(self.text()),
            Kind::Uuid => Value::Blob(self.random.next().to_be_bytes().repeat(2)),
            // No sign: a CHECK may refuse negative numbers.
            Kind::Integer => Value::Integer((self.random.next() >> self.random.below(63).max(12)) as i64),
            Kind::Real => Value::Real(self.random.below(1_000_000) as f64 / 1024.0 + 0.1),
            Kind::Blob => {
                let n = self.random.below(40) as usize;
                Value::Blob((0..n).map(|_| self.random.next().to_be_bytes()[0]).collect())
            }
            Kind::Boolean => Value::Integer(i64::from(self.random.once_in(2))),
            Kind::Timestamp => Value::Text(format!("2026-03-24T18:02:{:02}+00:00", self.random.below(60))),
        })
    }

    fn text(&mut self) -> String {
        self.made += 1;
        let odd = ODD[self.random.below(ODD.len() as u64) as usize];
        format!("{odd} {}{}", self.device, self.made)
    }
}

/// Text that encoders disagree about.
const ODD: [&str; 6] = ["plain", "it's \"quoted\"", "<é & 中>", "line\nbreak\ttab", "\u{2028}😀", "{\"json\":[1]}"];

fn matches(t: &Table) -> String {
    let parts: Vec<String> = t.key.iter().map(|k| format!("{} = ?", quote(k))).collect();
    parts.join(" AND ")
}
