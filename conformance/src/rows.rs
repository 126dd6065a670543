//! Rows to push, made for whatever tables the profile describes.

use crate::json::Json;
use crate::lab::{Checked, Lab, not_offered};
use crate::profile::{Column, Kind, Table};

/// One row of a push.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) key: Json,
    pub(crate) op: &'static str,
    pub(crate) base: i64,
    pub(crate) payload: Option<Json>,
}

impl Change {
    pub(crate) fn json(&self) -> String {
        let payload = self.payload.as_ref().map_or(String::new(), |p| format!(",\"payload\":{p}"));
        format!(
            "{{\"schema\":{},\"table\":{},\"key\":{},\"op\":\"{}\",\"base_row_version\":{}{payload}}}",
            Json::from(self.schema.as_str()),
            Json::from(self.table.as_str()),
            self.key,
            self.op,
            self.base,
        )
    }

    /// The same with a payload member set.
    pub(crate) fn with(mut self, column: &str, value: impl Into<Json>) -> Self {
        if let Some(Json::Object(members)) = &mut self.payload {
            members.retain(|(n, _)| n != column);
            members.push((column.to_owned(), value.into()));
        }
        self
    }

    /// The same without a payload member.
    pub(crate) fn without(mut self, column: &str) -> Self {
        if let Some(Json::Object(members)) = &mut self.payload {
            members.retain(|(n, _)| n != column);
        }
        self
    }

    /// The same without any payload.
    pub(crate) fn bare(mut self) -> Self {
        self.payload = None;
        self
    }
}

impl Table {
    /// The key of the row number `n`.
    pub(crate) fn row_key(&self, n: i64) -> Json {
        let value = |name: &String| match self.column(name).map_or(Kind::Text, |c| c.kind) {
            Kind::Uuid => uuid(n),
            Kind::Integer => n.to_string(),
            _ => format!("k{n}"),
        };
        Json::Object(self.key.iter().map(|k| (k.clone(), Json::from(value(k)))).collect())
    }

    /// A whole row: every column, `label` in the text column, everything else plain.
    pub(crate) fn full(&self, n: i64, label: &str) -> Json {
        let key = self.row_key(n);
        let label_column = self.label().map(|c| c.name.clone());
        let value = |c: &Column| {
            if let Some(k) = key.get(&c.name) {
                return match c.kind {
                    Kind::Integer => Json::from(n),
                    _ => k.clone(),
                };
            }
            if Some(&c.name) == label_column.as_ref() {
                return Json::from(label);
            }
            if c.references.is_some() || (!c.required && c.kind != Kind::Timestamp) {
                return Json::Null;
            }
            if c.unique { Json::from(format!("{label}-{n}")) } else { plain(c.kind) }
        };
        Json::Object(self.columns.iter().map(|c| (c.name.clone(), value(c))).collect())
    }

    fn change(&self, n: i64, op: &'static str, base: i64, payload: Option<Json>) -> Change {
        Change { schema: self.schema.clone(), table: self.name.clone(), key: self.row_key(n), op, base, payload }
    }

    pub(crate) fn insert(&self, n: i64, label: &str) -> Change {
        self.change(n, "INSERT", 0, Some(self.full(n, label)))
    }

    pub(crate) fn update(&self, n: i64, base: i64, label: &str) -> Change {
        self.change(n, "UPDATE", base, Some(self.full(n, label)))
    }

    pub(crate) fn remove(&self, n: i64, base: i64) -> Change {
        self.change(n, "DELETE", base, None)
    }

    /// The column that carries a row's label: text without rules.
    pub(crate) fn label(&self) -> Option<&Column> {
        self.columns.iter().find(|c| {
            c.kind == Kind::Text && !self.is_key(&c.name) && !c.unique && c.refuses.is_none() && c.references.is_none()
        })
    }

    fn is_plain(&self) -> bool {
        self.key.len() == 1
            && self.column(&self.key[0]).is_some_and(|c| matches!(c.kind, Kind::Text | Kind::Uuid))
            && self.label().is_some()
            && !self.columns.iter().any(|c| c.required && (c.references.is_some() || c.kind == Kind::Other))
    }
}

/// A foreign key between two tables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link<'p> {
    pub(crate) parent: &'p Table,
    pub(crate) child: &'p Table,
    pub(crate) column: &'p Column,
}

impl Link<'_> {
    /// A child that refers to the parent number `parent`.
    pub(crate) fn child_of(&self, n: i64, parent: i64, label: &str) -> Change {
        let key = self.parent.row_key(parent);
        let value = key.members().and_then(|m| m.first()).map_or(Json::Null, |(_, v)| v.clone());
        self.child.insert(n, label).with(&self.column.name, self.value(value))
    }

    fn value(&self, key: Json) -> Json {
        match (self.column.kind, &key) {
            (Kind::Integer, Json::Text(digits)) => Json::Number(digits.clone()),
            _ => key,
        }
    }
}

impl<'s> Lab<'s> {
    /// The first table that a row can be put into without further ado.
    pub(crate) fn plain(&self) -> Checked<&'s Table> {
        self.table("a text or UUID key of one column and a text column", |_| true)
    }

    /// The first such table that has something more.
    pub(crate) fn table(&self, what: &str, fits: impl Fn(&Table) -> bool) -> Checked<&'s Table> {
        let found = self.subject.profile.tables.iter().find(|t| t.is_plain() && fits(t));
        found.map_or_else(|| not_offered(format!("the profile has no table with {what}")), Ok)
    }

    /// The first table at all that has something.
    pub(crate) fn any_table(&self, what: &str, fits: impl Fn(&Table) -> bool) -> Checked<&'s Table> {
        let found = self.subject.profile.tables.iter().find(|t| fits(t));
        found.map_or_else(|| not_offered(format!("the profile has no table with {what}")), Ok)
    }

    /// The first column of a kind, in a plain table.
    pub(crate) fn column(
        &self,
        what: &str,
        fits: impl Fn(&Table, &Column) -> bool,
    ) -> Checked<(&'s Table, &'s Column)> {
        for t in self.subject.profile.tables.iter().filter(|t| t.is_plain()) {
            if let Some(c) = t.columns.iter().find(|c| !t.is_key(&c.name) && fits(t, c)) {
                return Ok((t, c));
            }
        }
        not_offered(format!("the profile has no table with {what}"))
    }

    /// The first foreign key that fits.
    pub(crate) fn link(&self, what: &str, fits: impl Fn(&Link<'_>) -> bool) -> Checked<Link<'s>> {
        let tables = &self.subject.profile.tables;
        for child in tables {
            for column in &child.columns {
                let Some(parent) = column.references.as_ref().and_then(|r| tables.iter().find(|t| t.name == *r)) else {
                    continue;
                };
                let link = Link { parent, child, column };
                let others =
                    child.columns.iter().any(|c| c.name != column.name && c.required && c.references.is_some());
                if parent.is_plain() && !others && child.label().is_some() && fits(&link) {
                    return Ok(link);
                }
            }
        }
        not_offered(format!("the profile has no {what}"))
    }
}

/// The dashed UUID number `n`.
pub(crate) fn uuid(n: i64) -> String {
    format!("00000000-0000-4000-8000-{n:012x}")
}

fn plain(kind: Kind) -> Json {
    match kind {
        Kind::Text => Json::from("t"),
        Kind::Uuid => Json::from(uuid(1)),
        Kind::Integer => Json::from(7),
        Kind::Real => Json::Number("1.5".to_owned()),
        Kind::Blob => Json::from("AAEC"),
        Kind::Boolean => Json::Bool(true),
        Kind::Timestamp => Json::from("2026-03-24T18:02:00+00:00"),
        Kind::Other => Json::Null,
    }
}
