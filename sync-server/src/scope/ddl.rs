//! How a schema may change: what only adds is carried out, anything else is shown and refused.
//!
//! Tables are compared by the text of their parts (columns and constraints), since introspection
//! does not see a changed CHECK.

use std::collections::BTreeMap;

use rusqlite::Connection;
use sync_core::sqlite::quote;

/// The tables and indexes of a file: their `CREATE` statements, by lowercase name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    tables: BTreeMap<String, (String, String)>,
    indexes: BTreeMap<String, String>,
}

/// Reads the objects of a file's main schema, but those of this program and of SQLite itself.
pub(crate) fn objects(conn: &Connection) -> rusqlite::Result<Objects> {
    let sql = "SELECT type, name, sql FROM main.sqlite_schema WHERE type IN ('table', 'index') AND sql IS NOT NULL \
               AND name NOT LIKE '\\_sync\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let mut s = conn.prepare(sql)?;
    let mut rows = s.query([])?;
    let mut out = Objects::default();
    while let Some(r) = rows.next()? {
        let (kind, name, sql): (String, String, String) = (r.get(0)?, r.get(1)?, r.get(2)?);
        if kind == "table" {
            out.tables.insert(name.to_ascii_lowercase(), (name, sql));
        } else {
            out.indexes.insert(name.to_ascii_lowercase(), sql);
        }
    }
    Ok(out)
}

/// How a statement of [`additions`] begins that adds a column to a table that was there.
pub(crate) const ADD_COLUMN: &str = "ALTER TABLE";

/// The statements that lead from one schema to another. `order` names the new tables, parents first.
///
/// # Errors
/// Every difference that is not an addition, one a line.
pub(crate) fn additions(from: &Objects, to: &Objects, order: &[String]) -> Result<Vec<String>, String> {
    let mut statements = Vec::new();
    let mut differences = Vec::new();
    for name in from.tables.keys().filter(|n| !to.tables.contains_key(*n)) {
        differences.push(format!("table {name} is gone"));
    }
    for name in order {
        let Some((sql_name, new)) = to.tables.get(name) else { continue };
        match from.tables.get(name) {
            None => statements.push(new.clone()),
            Some((_, old)) => match (parts(old), parts(new)) {
                (Some(old), Some(new)) => compare(name, sql_name, &old, &new, &mut statements, &mut differences),
                _ => differences.push(format!("table {name} cannot be compared")),
            },
        }
    }
    for (name, old) in &from.indexes {
        match to.indexes.get(name) {
            None => differences.push(format!("index {name} is gone")),
            Some(new) if normal(new) != normal(old) => {
                differences.push(format!("index {name}\n  was: {}\n  is:  {}", normal(old), normal(new)));
            }
            Some(_) => {}
        }
    }
    for (name, sql) in to.indexes.iter().filter(|(n, _)| !from.indexes.contains_key(*n)) {
        if may_not_fit(from, sql) {
            differences.push(format!(
                "index {name} is UNIQUE or over an expression, on a table that has rows already: some user's rows may not fit"
            ));
        }
        statements.push(sql.clone());
    }
    if differences.is_empty() { Ok(statements) } else { Err(differences.join("\n")) }
}

/// Whether an index on a table that was there before can fail on the rows of some user.
fn may_not_fit(from: &Objects, sql: &str) -> bool {
    let text = normal(sql).to_ascii_lowercase();
    let Some((head, tail)) = text.split_once(" on ") else { return true };
    let (table, columns) = tail.split_once('(').unwrap_or((tail, ""));
    let table = table.trim().trim_matches(['"', '`', '[', ']', '\'']);
    let harmless = !head.contains("unique") && !columns.contains('(');
    from.tables.contains_key(table) && !harmless
}

fn compare(
    name: &str,
    sql_name: &str,
    old: &Parts,
    new: &Parts,
    statements: &mut Vec<String>,
    differences: &mut Vec<String>,
) {
    if old.tail != new.tail {
        differences.push(format!("table {name}\n  was: {}\n  is:  {}", old.tail, new.tail));
    }
    for gone in old.items.iter().filter(|i| !new.items.contains(i)) {
        let is = new.items.iter().find(|i| first_word(i) == first_word(gone) && !old.items.contains(i));
        let is = is.map_or("(nothing)", String::as_str);
        differences.push(format!("table {name}\n  was: {gone}\n  is:  {is}"));
    }
    for added in new.items.iter().filter(|i| !old.items.contains(i)) {
        let word = first_word(added);
        if old.items.iter().any(|i| first_word(i) == word) {
            continue;
        }
        let fits_any_row = !normal(added).to_ascii_uppercase().contains("CHECK");
        if !fits_any_row
            || ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"].iter().any(|w| word.eq_ignore_ascii_case(w))
        {
            differences.push(format!("table {name}\n  was: (nothing)\n  is:  {added}"));
        } else {
            statements.push(format!("{ADD_COLUMN} main.{} ADD COLUMN {added}", quote(sql_name)));
        }
    }
}

struct Parts {
    items: Vec<String>,
    tail: String,
}

/// Splits `CREATE TABLE … (a, b, …) tail` at its outermost commas.
fn parts(sql: &str) -> Option<Parts> {
    let normal = normal(sql);
    let mut items = Vec::new();
    let mut depth = 0usize;
    let mut from = 0;
    let mut scan = Scan::default();
    for (at, c) in normal.char_indices() {
        if scan.quoted(c) {
            continue;
        }
        match c {
            '(' => {
                depth += 1;
                if depth == 1 {
                    from = at + 1;
                }
            }
            ')' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    items.push(normal[from..at].trim().to_owned());
                    return Some(Parts { items, tail: normal[at + 1..].trim().to_ascii_uppercase() });
                }
            }
            ',' if depth == 1 => {
                items.push(normal[from..at].trim().to_owned());
                from = at + 1;
            }
            _ => {}
        }
    }
    None
}

/// Tracks whether a scan stands inside quotes.
#[derive(Default)]
struct Scan {
    end: Option<char>,
}

impl Scan {
    fn quoted(&mut self, c: char) -> bool {
        match self.end {
            Some(e) => {
                if c == e {
                    self.end = None;
                }
                true
            }
            None => {
                self.end = match c {
                    '\'' | '"' | '`' => Some(c),
                    '[' => Some(']'),
                    _ => None,
                };
                self.end.is_some()
            }
        }
    }
}

/// The text without comments, with each run of white space outside quotes as one blank.
pub(crate) fn normal(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut scan = Scan::default();
    let mut rest = sql.chars().peekable();
    while let Some(c) = rest.next() {
        if scan.quoted(c) {
            out.push(c);
        } else if c == '-' && rest.peek() == Some(&'-') {
            while rest.next_if(|c| *c != '\n').is_some() {}
        } else if c == '/' && rest.peek() == Some(&'*') {
            let mut before = ' ';
            rest.next();
            for c in rest.by_ref() {
                if before == '*' && c == '/' {
                    break;
                }
                before = c;
            }
        } else if c.is_ascii_whitespace() {
            if !out.ends_with([' ', '(', ',']) {
                out.push(' ');
            }
        } else {
            if matches!(c, ',' | ')' | '(') && out.ends_with(' ') {
                out.pop();
            }
            out.push(c);
        }
    }
    out.trim().to_owned()
}

fn first_word(item: &str) -> String {
    let mut scan = Scan::default();
    let end = item.char_indices().find(|(_, c)| !scan.quoted(*c) && (c.is_whitespace() || *c == '('));
    let word = &item[..end.map_or(item.len(), |(at, _)| at)];
    word.trim_matches(['"', '`', '[', ']', '\'']).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(old: &str, new: &str) -> Result<Vec<String>, String> {
        let make = |sql: &str| {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch(sql).unwrap();
            conn
        };
        let (a, b) = (make(old), make(new));
        let target = objects(&b).unwrap();
        let order: Vec<String> = target.tables.keys().cloned().collect();
        let plan = additions(&objects(&a).unwrap(), &target, &order)?;
        for sql in &plan {
            a.execute_batch(sql).unwrap();
        }
        let again = additions(&objects(&a).unwrap(), &target, &order);
        assert_eq!(again, Ok(vec![]), "the plan leads to the new schema");
        Ok(plan)
    }

    #[test]
    fn additions_are_carried_out() {
        let old = "CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT CHECK (v <> ',)'));";
        assert_eq!(plan(old, old), Ok(vec![]));
        let spaced =
            "CREATE TABLE \"t\" ( -- the table\n id  TEXT PRIMARY KEY,\n v TEXT CHECK ( v <> ',)' ) /* c */ );";
        assert_eq!(plan(old, spaced), Ok(vec![]));
        let new = "CREATE TABLE t (id TEXT PRIMARY KEY, w INTEGER NOT NULL DEFAULT (1+(2)), v TEXT CHECK (v <> ',)'));
                   CREATE TABLE u (id TEXT PRIMARY KEY); CREATE INDEX by_v ON t(v);";
        let plan = plan(old, new).unwrap();
        assert_eq!(plan.len(), 3);
        assert_eq!(plan[0], "ALTER TABLE main.\"t\" ADD COLUMN w INTEGER NOT NULL DEFAULT(1+(2))");
    }

    #[test]
    fn everything_else_is_shown() {
        let old = "CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT); CREATE TABLE u (id TEXT PRIMARY KEY) WITHOUT ROWID;
                   CREATE INDEX i ON t(v);";
        for (new, shown) in [
            ("CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT); CREATE INDEX i ON t(v);", "table u is gone"),
            (
                "CREATE TABLE t (id TEXT PRIMARY KEY, v INT); CREATE TABLE u (id TEXT PRIMARY KEY) WITHOUT ROWID; CREATE INDEX i ON t(v);",
                "was: v TEXT",
            ),
            (
                "CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT, UNIQUE (v)); CREATE TABLE u (id TEXT PRIMARY KEY) WITHOUT ROWID; CREATE INDEX i ON t(v);",
                "is:  UNIQUE(v)",
            ),
            (
                "CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT); CREATE TABLE u (id TEXT PRIMARY KEY); CREATE INDEX i ON t(v);",
                "was: WITHOUT ROWID",
            ),
            (
                "CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT); CREATE TABLE u (id TEXT PRIMARY KEY) WITHOUT ROWID; CREATE INDEX i ON t(v, id);",
                "index i",
            ),
        ] {
            let text = plan(old, new).unwrap_err();
            assert!(text.contains(shown), "{text}");
        }
    }
}
