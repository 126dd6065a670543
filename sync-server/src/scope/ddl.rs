//! How a schema may change: what only adds is carried out, anything else is shown and refused.
//!
//! Tables are compared by the text of their parts (columns and constraints), since introspection
//! does not see a changed CHECK.

use std::collections::BTreeMap;

use rusqlite::Connection;
use sync_core::schema::Affinity;
use sync_core::sqlite::quote;

/// The tables and indexes of a file: their `CREATE` statements, by lowercase name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    tables: BTreeMap<String, (String, String)>,
    indexes: BTreeMap<String, String>,
}

impl Objects {
    /// Whether it has a table of this name.
    pub(crate) fn has_table(&self, name: &str) -> bool {
        self.tables.contains_key(&name.to_ascii_lowercase())
    }
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
    // A NOT NULL column may be given a DEFAULT, also later: no row changes by that.
    let mut text = old.text.clone();
    let mut given = Vec::new();
    for was in old.items.iter().filter(|i| !new.items.contains(i)) {
        if let Some(is) = new.items.iter().find(|is| is_not_null(was) && without_default(is).as_ref() == Some(was)) {
            text = text.replacen(&format!("{}{was}", old.before(was)), &format!("{}{is}", old.before(was)), 1);
            given.push((was, is));
        }
    }
    if !given.is_empty() {
        statements.push(set_sql(sql_name, &text));
    }
    for gone in old.items.iter().filter(|i| !new.items.contains(i) && !given.iter().any(|(was, _)| was == i)) {
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
        } else if is_not_null(added) && default_of(added).is_none() {
            differences.push(format!(
                "table {name}\n  was: (nothing)\n  is:  {added}\n  rows that are there have no value for it; write: {}",
                default_line(added)
            ));
        } else {
            statements.push(format!("{ADD_COLUMN} main.{} ADD COLUMN {added}", quote(sql_name)));
        }
    }
}

struct Parts {
    items: Vec<String>,
    tail: String,
    /// The statement that they are of, as [`normal`] writes it.
    text: String,
}

impl Parts {
    /// What stands before an item there.
    fn before(&self, item: &str) -> &'static str {
        if self.items.first().is_some_and(|first| first == item) { "(" } else { "," }
    }
}

/// Whether a column takes no NULL, by its own words.
fn is_not_null(item: &str) -> bool {
    item.to_ascii_uppercase().contains(" NOT NULL")
}

/// Where the DEFAULT of a column stands in its words.
fn default_of(item: &str) -> Option<std::ops::Range<usize>> {
    let mut scan = Scan::default();
    let mut from = None;
    for (at, c) in item.char_indices() {
        let word = item.get(at..at + 8).is_some_and(|w| w.eq_ignore_ascii_case(" DEFAULT"));
        if !scan.quoted(c) && word && item[at + 8..].starts_with([' ', '(', '\'', '"', '+', '-']) {
            from = Some(at);
            break;
        }
    }
    let from = from?;
    let value = from + 8 + item[from + 8..].len() - item[from + 8..].trim_start().len();
    let (mut scan, mut depth) = (Scan::default(), 0usize);
    for (at, c) in item[value..].char_indices() {
        let inside = scan.quoted(c);
        match c {
            '(' if !inside => depth += 1,
            ')' if !inside => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(from..value + at + 1);
                }
            }
            ' ' if !inside && depth == 0 => return Some(from..value + at),
            _ => {}
        }
    }
    Some(from..item.len())
}

/// A column's words but for its DEFAULT, where it has one.
fn without_default(item: &str) -> Option<String> {
    let at = default_of(item)?;
    Some(normal(&format!("{} {}", &item[..at.start], &item[at.end..])))
}

/// The column's line with a DEFAULT that says nothing.
fn default_line(item: &str) -> String {
    let declared = item.split_once(' ').map_or("", |(_, rest)| rest);
    let end = declared.to_ascii_uppercase().find("NOT NULL").unwrap_or(declared.len());
    format!("{item} DEFAULT {}", Affinity::of(declared[..end].trim()).nothing())
}

/// Writes another text of a table whose rows stay as they are, as SQLite's documentation allows for a DEFAULT; a table
/// that comes and goes has every connection read it.
fn set_sql(table: &str, sql: &str) -> String {
    let literal = |s: &str| format!("'{}'", s.replace('\'', "''"));
    format!(
        "PRAGMA main.writable_schema = ON; \
         UPDATE main.sqlite_schema SET sql = {} WHERE type = 'table' AND name = {} COLLATE NOCASE; \
         PRAGMA main.writable_schema = RESET; \
         CREATE TABLE main._sync_given (x); DROP TABLE main._sync_given;",
        literal(sql),
        literal(table)
    )
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
                    let tail = normal[at + 1..].trim().to_ascii_uppercase();
                    return Some(Parts { items, tail, text: normal });
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

    /// As ORMs add and remove them.
    #[test]
    fn not_null_columns_get_a_default_also_later() {
        let old =
            "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, a TEXT NOT NULL, b INTEGER NOT NULL CHECK (b > 0), c TEXT);";
        for new in [
            old.replace("a TEXT NOT NULL", "a TEXT NOT NULL DEFAULT 'it''s (new)'"),
            old.replace("a TEXT NOT NULL", "a TEXT DEFAULT '' NOT NULL"),
            old.replace("b INTEGER NOT NULL", "b INTEGER NOT NULL DEFAULT (1 + 2)"),
            old.replace("b INTEGER NOT NULL", "b INTEGER NOT NULL DEFAULT -1")
                .replace("a TEXT NOT NULL", "a TEXT NOT NULL DEFAULT x''"),
            old.replace("c TEXT", "more INTEGER NOT NULL DEFAULT 7, c TEXT")
                .replace("a TEXT NOT NULL", "a TEXT NOT NULL DEFAULT ''"),
        ] {
            plan(old, &new).unwrap_or_else(|e| panic!("{new}: {e}"));
        }
        for (new, shown) in [
            (old.replace("c TEXT", "c TEXT, qty INTEGER NOT NULL"), "write: qty INTEGER NOT NULL DEFAULT 0"),
            (old.replace("c TEXT", "c TEXT, note VARCHAR(9) NOT NULL"), "write: note VARCHAR(9) NOT NULL DEFAULT ''"),
            (old.replace("c TEXT", "c TEXT, x BLOB NOT NULL"), "write: x BLOB NOT NULL DEFAULT x''"),
            (old.replace("a TEXT NOT NULL", "a TEXT DEFAULT ''"), "was: a TEXT NOT NULL"),
            (old.replace("a TEXT NOT NULL", "a INT NOT NULL DEFAULT 0"), "was: a TEXT NOT NULL"),
            (old.replace("c TEXT", "c TEXT DEFAULT 'x'"), "was: c TEXT"),
        ] {
            let text = plan(old, &new).unwrap_err();
            assert!(text.contains(shown), "{text}");
        }
        // Taken away again it would refuse rows that were taken.
        let given = old.replace("a TEXT NOT NULL", "a TEXT NOT NULL DEFAULT ''");
        assert!(plan(&given, old).is_err());
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
