//! What both ends know of the synced tables: columns, keys, foreign keys, and an order for writing.

use std::collections::{BTreeMap, BTreeSet};

/// A column's type affinity, as SQLite derives it from the declared type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Numbers that fit become INTEGER.
    Integer,
    /// Numbers become TEXT.
    Text,
    /// Values are kept as they are.
    Blob,
    /// Numbers become REAL.
    Real,
    /// Text that looks like a number becomes one.
    Numeric,
}

impl Affinity {
    /// The affinity of a declared type, by SQLite's own rules.
    ///
    /// ```
    /// use sync_core::schema::Affinity;
    /// assert_eq!(Affinity::of("VARCHAR(36)"), Affinity::Text);
    /// assert_eq!(Affinity::of("UUID"), Affinity::Numeric);
    /// ```
    #[must_use]
    pub fn of(declared: &str) -> Self {
        let d = declared.to_ascii_uppercase();
        let has = |words: &[&str]| words.iter().any(|w| d.contains(w));
        if has(&["INT"]) {
            Self::Integer
        } else if has(&["CHAR", "CLOB", "TEXT"]) {
            Self::Text
        } else if d.is_empty() || d == "ANY" || has(&["BLOB"]) {
            Self::Blob
        } else if has(&["REAL", "FLOA", "DOUB"]) {
            Self::Real
        } else {
            Self::Numeric
        }
    }

    /// The SQL of a value that says nothing, for a DEFAULT.
    #[must_use]
    pub const fn nothing(self) -> &'static str {
        match self {
            Self::Integer | Self::Numeric => "0",
            Self::Real => "0.0",
            Self::Text => "''",
            Self::Blob => "x''",
        }
    }

    /// The same in a table that is STRICT or not: only in a STRICT one ANY keeps values as they are.
    #[must_use]
    pub fn in_table(declared: &str, strict: bool) -> Self {
        if !strict && declared.eq_ignore_ascii_case("ANY") { Self::Numeric } else { Self::of(declared) }
    }
}

/// One column that travels: an ordinary, non-generated column of a synced table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Lowercase, as on the wire.
    pub name: String,
    /// As the app wrote it, for SQL.
    pub sql_name: String,
    /// The declared type, verbatim.
    pub declared: String,
    /// From the declared type.
    pub affinity: Affinity,
    /// The declared type says BLOB, so strings on the wire are base64 (protocol §4).
    pub blob: bool,
    /// A BLOB column of a key or a foreign key: 16 bytes travel as dashed UUID text.
    pub uuid: bool,
    /// Declared NOT NULL.
    pub not_null: bool,
}

impl Column {
    /// The line that declares it as NOT NULL with a DEFAULT, so that rows may be written without it.
    #[must_use]
    pub fn line_with_default(&self) -> String {
        line_with_default(&self.sql_name, &self.declared)
    }
}

/// The line that declares a column as NOT NULL with a DEFAULT that says nothing.
#[must_use]
pub fn line_with_default(name: &str, declared: &str) -> String {
    let blank = if declared.is_empty() { "" } else { " " };
    format!("{}{blank}{declared} NOT NULL DEFAULT {}", word(name), Affinity::of(declared).nothing())
}

/// A name as it may stand in SQL: quoted where it has to be.
fn word(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// `columns` of this table refer to `parent_columns` of `parent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    /// Positions in [`Table::columns`].
    pub columns: Vec<usize>,
    /// Wire name of the parent table.
    pub parent: String,
    /// Wire names of the parent's columns, resolved: never empty.
    pub parent_columns: Vec<String>,
    /// `CASCADE`, `SET NULL`, `SET DEFAULT`, `RESTRICT` or `NO ACTION`.
    pub on_delete: String,
    /// As `on_delete`.
    pub on_update: String,
}

/// A UNIQUE constraint or index over plain columns, other than the primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    /// The index's name.
    pub name: String,
    /// Positions in [`Table::columns`].
    pub columns: Vec<usize>,
    /// The index's collation of each column.
    pub collations: Vec<String>,
}

/// One synced table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Lowercase, as on the wire.
    pub name: String,
    /// As the app wrote it, for SQL.
    pub sql_name: String,
    /// In the table's order, without generated ones.
    pub columns: Vec<Column>,
    /// Positions of the key's columns, in key order.
    pub key: Vec<usize>,
    /// Whether the key is the PRIMARY KEY; else it is a UNIQUE constraint's of a table that has none.
    pub primary_key: bool,
    /// To synced tables only: the set of synced tables is closed under foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
    /// Checked by the client when a remote row meets a local one.
    pub uniques: Vec<Unique>,
    /// Declared WITHOUT ROWID.
    pub without_rowid: bool,
    /// Declared STRICT.
    pub strict: bool,
    /// The `CREATE TABLE` statement.
    pub sql: String,
}

impl Table {
    /// The position of a column by its wire name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    /// Whether the key is one column of INTEGER affinity, which devices may mint twice. A number that is only UNIQUE means
    /// something to the app: it is not minted, and never given anew.
    #[must_use]
    pub fn integer_key(&self) -> bool {
        self.primary_key && matches!(self.key.as_slice(), [k] if self.columns[*k].affinity == Affinity::Integer)
    }

    /// Positions of all columns in the order of their wire names, the canonical member order.
    #[must_use]
    pub fn canonical_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.columns.len()).collect();
        order.sort_by(|a, b| self.columns[*a].name.as_bytes().cmp(self.columns[*b].name.as_bytes()));
        order
    }

    /// Positions of the key's columns in the order of their wire names.
    #[must_use]
    pub fn canonical_key_order(&self) -> Vec<usize> {
        let mut order = self.key.clone();
        order.sort_by(|a, b| self.columns[*a].name.as_bytes().cmp(self.columns[*b].name.as_bytes()));
        order
    }
}

/// All synced tables, sorted by wire name, with an order in which parents precede children.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schema {
    tables: Vec<Table>,
    order: Vec<usize>,
}

impl Schema {
    /// Sorts the tables and derives the foreign-key order.
    #[must_use]
    pub fn new(mut tables: Vec<Table>) -> Self {
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        let order = parents_first(&tables);
        Self { tables, order }
    }

    /// Every table, sorted by wire name. A table's position here is its number in one run.
    #[must_use]
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Positions in [`Schema::tables`], parents before children. Members of a cycle follow one
    /// another by name: no order satisfies them, so foreign keys are checked at the end.
    #[must_use]
    pub fn parents_first(&self) -> &[usize] {
        &self.order
    }

    /// A table's position by its wire name.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.tables.binary_search_by(|t| t.name.as_str().cmp(name)).ok()
    }

    /// A table by its wire name.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.position(name).map(|i| &self.tables[i])
    }

    /// Foreign keys that refer to the table at `parent`: child position and the foreign key.
    pub fn references_to(&self, parent: usize) -> impl Iterator<Item = (usize, &ForeignKey)> {
        let name = self.tables[parent].name.as_str();
        self.tables
            .iter()
            .enumerate()
            .flat_map(move |(i, t)| t.foreign_keys.iter().filter(move |f| f.parent == name).map(move |f| (i, f)))
    }
}

/// Kahn's algorithm by name; where only cycles are left, the first table by name goes next.
fn parents_first(tables: &[Table]) -> Vec<usize> {
    let index: BTreeMap<&str, usize> = tables.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    let mut waits: Vec<BTreeSet<usize>> = tables
        .iter()
        .enumerate()
        .map(|(i, t)| {
            t.foreign_keys.iter().filter_map(|f| index.get(f.parent.as_str()).copied()).filter(|p| *p != i).collect()
        })
        .collect();
    let mut left: BTreeSet<usize> = (0..tables.len()).collect();
    let mut order = Vec::with_capacity(tables.len());
    while let Some(next) = left.iter().copied().find(|i| waits[*i].is_empty()).or_else(|| left.first().copied()) {
        left.remove(&next);
        order.push(next);
        for w in &mut waits {
            w.remove(&next);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, parents: &[&str]) -> Table {
        Table {
            name: name.into(),
            sql_name: name.into(),
            columns: vec![],
            key: vec![],
            foreign_keys: parents
                .iter()
                .map(|p| ForeignKey {
                    columns: vec![0],
                    parent: (*p).into(),
                    parent_columns: vec!["id".into()],
                    on_delete: "NO ACTION".into(),
                    on_update: "NO ACTION".into(),
                })
                .collect(),
            uniques: vec![],
            primary_key: true,
            without_rowid: false,
            strict: false,
            sql: String::new(),
        }
    }

    fn order(tables: Vec<Table>) -> Vec<String> {
        let schema = Schema::new(tables);
        schema.parents_first().iter().map(|i| schema.tables()[*i].name.clone()).collect()
    }

    #[test]
    fn parents_precede_children() {
        assert_eq!(order(vec![table("a", &["b"]), table("b", &["c"]), table("c", &[])]), ["c", "b", "a"]);
        assert_eq!(order(vec![table("z", &[]), table("m", &["z"]), table("a", &[])]), ["a", "z", "m"]);
    }

    #[test]
    fn self_references_and_cycles_do_not_block() {
        assert_eq!(order(vec![table("tree", &["tree"]), table("leaf", &["tree"])]), ["tree", "leaf"]);
        assert_eq!(order(vec![table("a", &["b"]), table("b", &["a"]), table("c", &["a"])]), ["a", "b", "c"]);
    }

    #[test]
    fn affinities_follow_sqlite() {
        for (declared, expected) in [
            ("INTEGER", Affinity::Integer),
            ("bigint unsigned", Affinity::Integer),
            ("FLOATING POINT", Affinity::Integer),
            ("CHARACTER(20)", Affinity::Text),
            ("CLOB", Affinity::Text),
            ("", Affinity::Blob),
            ("ANY", Affinity::Blob),
            ("blob", Affinity::Blob),
            ("DOUBLE PRECISION", Affinity::Real),
            ("DECIMAL(10,5)", Affinity::Numeric),
            ("BOOLEAN", Affinity::Numeric),
            ("DATETIME", Affinity::Numeric),
        ] {
            assert_eq!(Affinity::of(declared), expected, "{declared}");
        }
    }
}
