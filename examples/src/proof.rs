//! Proves that files and server hold the same rows. Nothing is taken from the code that synced them: a
//! file is read by a connection of its own, the server by plain HTTP.
//!
//! A digest is BLAKE3 over one line per row, `table ‖ key ‖ payload` in canonical JSON (the exact view:
//! integers, reals and blobs bit for bit), sorted by table and key.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use sync_core::json;
use sync_core::protocol::rows::read_page;
use sync_core::protocol::snapshot::SnapshotSession;
use sync_core::protocol::{HASH_HEADER, SOURCE_HEADER};
use sync_core::sqlite::introspect::introspect;
use sync_core::sqlite::quote;
use sync_core::sqlite::rows::{RowSql, read_values};
use sync_core::wire::{Form, key_can_travel, push_key, push_members, push_payload};

use crate::Result;
use crate::lab::USER;

/// The rows of one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digest {
    /// 64 hex digits over all rows.
    pub hash: String,
    /// Rows that it covers.
    pub rows: u64,
    /// By table, as on the wire; tables without rows are absent.
    pub tables: BTreeMap<String, u64>,
    /// Rows that no server can take: a key that is NULL, or text that is not UTF-8. Not covered.
    pub local_only: u64,
    /// Rows that were left out because the caller said so. Not covered.
    pub left_out: u64,
}

/// Rows to leave out, by table and key object, because a person has to decide about them first.
pub type Except = BTreeSet<(String, String)>;

/// The rows of some tables of a file, read by a fresh connection.
///
/// # Errors
/// SQLite's.
pub fn of_file(path: &Path, tables: &[String], except: &Except) -> Result<Digest> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.pragma_update(None, "query_only", true)?;
    conn.execute_batch("BEGIN")?;
    let mut lines = Lines { except, by_key: BTreeMap::new(), local_only: 0, left_out: 0 };
    for table in introspect(&conn, Some(tables))?.schema.tables() {
        let sql = RowSql::new(table);
        let order = table.canonical_order();
        let mut s = conn.prepare(&format!("SELECT {} FROM main.{}", sql.columns, quote(&table.sql_name)))?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            let values = match read_values(r, 0, table.columns.len()) {
                Ok(values) if key_can_travel(table, &sql.key_of(&values)) => values,
                _ => {
                    lines.local_only += 1;
                    continue;
                }
            };
            let (mut key, mut payload) = (String::new(), String::new());
            push_key(&mut key, table, &sql.key_of(&values), Form::Exact);
            push_payload(&mut payload, table, &order, &values, Form::Exact);
            lines.add(&table.name, key, &payload);
        }
    }
    Ok(lines.digest())
}

/// The rows of the server, read as a snapshot by plain HTTP.
///
/// # Errors
/// Where the server cannot be reached or refuses.
pub fn of_server(url: &str, except: &Except) -> Result<Digest> {
    let agent = ureq::Agent::new_with_defaults();
    let bearer = format!("Bearer {USER}");
    let create = agent.post(format!("{url}/sync/snapshot-sessions"));
    let create = create.header("Authorization", &bearer).header(SOURCE_HEADER, "proof").header(HASH_HEADER, "blake3");
    let mut text = Vec::new();
    create.send_empty()?.into_body().into_reader().read_to_end(&mut text)?;
    let session: SnapshotSession = json::from_slice(&text)?;
    let session_url = format!("{url}/sync/snapshot-sessions/{}", session.snapshot_id);

    let mut lines = Lines { except, by_key: BTreeMap::new(), local_only: 0, left_out: 0 };
    let mut after = 0;
    loop {
        let page = agent.get(format!("{session_url}?after_row_ordinal={after}&max_rows=1000"));
        let page = page.header("Authorization", &bearer).header(SOURCE_HEADER, "proof").header(HASH_HEADER, "blake3");
        let head = read_page(page.call()?.into_body().into_reader(), |row| {
            let (mut key, mut payload) = (String::new(), String::new());
            push_members(&mut key, &row.key, Form::Exact);
            push_members(&mut payload, row.payload.as_ref().ok_or("a snapshot row came without payload")?, Form::Exact);
            lines.add(&row.table, key, &payload);
            Ok::<_, String>(())
        })?;
        if !head.has_more {
            break;
        }
        if head.next_row_ordinal <= after {
            return Err("the snapshot makes no progress".into());
        }
        after = head.next_row_ordinal;
    }
    let end = agent.delete(&session_url).header("Authorization", &bearer).header(SOURCE_HEADER, "proof");
    end.call()?;
    Ok(lines.digest())
}

/// Checks every FTS5 index of a file against its content. Returns how many there are.
///
/// # Errors
/// With the name of an index that disagrees.
pub fn full_text_indexes(path: &Path) -> Result<u64> {
    let conn = Connection::open(path)?;
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%fts5%'";
    let names: Vec<String> = conn.prepare(sql)?.query_map([], |r| r.get(0))?.collect::<std::result::Result<_, _>>()?;
    for name in &names {
        let name = quote(name);
        // Rank 1 compares with the content table, too.
        conn.execute(&format!("INSERT INTO main.{name} ({name}, rank) VALUES ('integrity-check', 1)"), [])
            .map_err(|e| format!("the full-text index {name} disagrees with its table: {e}"))?;
    }
    Ok(names.len() as u64)
}

/// Lines by table and key, of which only hashes are kept.
struct Lines<'a> {
    except: &'a Except,
    by_key: BTreeMap<(String, String), Vec<blake3::Hash>>,
    local_only: u64,
    left_out: u64,
}

impl Lines<'_> {
    fn add(&mut self, table: &str, key: String, payload: &str) {
        let at = (table.to_owned(), key);
        if self.except.contains(&at) {
            self.left_out += 1;
            return;
        }
        let mut h = blake3::Hasher::new();
        for part in [table, &at.1, payload] {
            h.update(part.as_bytes()).update(b"\n");
        }
        self.by_key.entry(at).or_default().push(h.finalize());
    }

    fn digest(self) -> Digest {
        let mut out = Digest { local_only: self.local_only, left_out: self.left_out, ..Digest::default() };
        let mut all = blake3::Hasher::new();
        for ((table, _), hashes) in &self.by_key {
            for h in hashes {
                all.update(h.as_bytes());
                out.rows += 1;
                *out.tables.entry(table.clone()).or_default() += 1;
            }
        }
        out.hash = all.finalize().to_hex().to_string();
        out
    }
}
