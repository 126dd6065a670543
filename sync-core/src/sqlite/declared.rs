//! Foreign keys as a table declares them, whether it is synced or not.

use rusqlite::Connection;

/// A foreign key as the schema has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Declared {
    /// Lowercase.
    pub(crate) parent: String,
    /// As they are written.
    pub(crate) columns: Vec<String>,
    /// As they are written; none where the parent's key is meant.
    pub(crate) parent_columns: Vec<String>,
    pub(crate) on_delete: String,
    pub(crate) on_update: String,
}

/// Those of one table, in SQLite's order.
pub(crate) fn foreign_keys(conn: &Connection, table: &str) -> rusqlite::Result<Vec<Declared>> {
    let sql =
        "SELECT id, \"table\", \"from\", \"to\", on_delete, on_update FROM pragma_foreign_key_list(?) ORDER BY id, seq";
    let mut s = conn.prepare_cached(sql)?;
    let mut rows = s.query([table])?;
    let mut out: Vec<(i64, Declared)> = Vec::new();
    while let Some(r) = rows.next()? {
        let id: i64 = r.get(0)?;
        if out.last().is_none_or(|(last, _)| *last != id) {
            let parent: String = r.get(1)?;
            let key = Declared {
                parent: parent.to_ascii_lowercase(),
                columns: Vec::new(),
                parent_columns: Vec::new(),
                on_delete: r.get(4)?,
                on_update: r.get(5)?,
            };
            out.push((id, key));
        }
        if let Some((_, key)) = out.last_mut() {
            key.columns.push(r.get(2)?);
            key.parent_columns.extend(r.get::<_, Option<String>>(3)?);
        }
    }
    Ok(out.into_iter().map(|(_, key)| key).collect())
}
