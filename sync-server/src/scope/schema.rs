//! The app's schema as the server uses it: which tables are synced, how a scope's file is made, and
//! which rules the server insists on.

use std::collections::BTreeSet;

use rusqlite::Connection;
use sync_core::schema::{Schema, Table};
use sync_core::sqlite::introspect::{Known, MOST_COLUMNS, Refusal, introspect_known, statements};
use sync_core::sqlite::others;
use sync_core::sqlite::rows::RowSql;
use sync_core::sqlite::stubs::Stubs;
use sync_core::sqlite::triggers::{self, Trigger};

use super::ddl::{self, Objects};
use super::dump;
use crate::service::OpenError;

/// One synced table with everything that is made once.
#[derive(Debug)]
pub(crate) struct TableInfo {
    /// What is known of it.
    pub(crate) table: Table,
    /// Its statements.
    pub(crate) sql: RowSql,
    /// Columns in canonical member order.
    pub(crate) order: Vec<usize>,
    /// Its own UNIQUE values, or those that foreign keys refer to, by column position.
    pub(crate) referenced: Vec<usize>,
    /// Columns that a new row has to give a value.
    pub(crate) required: Vec<String>,
}

/// The schema, loaded.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The synced tables.
    pub(crate) schema: Schema,
    /// By position in the schema.
    pub(crate) tables: Vec<TableInfo>,
    /// What makes a scope's tables, in order.
    pub(crate) statements: Vec<String>,
    /// What makes the app's other objects, kept for new devices and never run here.
    pub(crate) app_objects: Vec<String>,
    /// What makes a scope's tables, for comparison.
    pub(crate) objects: Objects,
    /// Names of the tables, parents first.
    pub(crate) order: Vec<String>,
    /// Installed as TEMP triggers where pushes are committed.
    pub(crate) rules: Vec<Trigger>,
    /// Tables of the app that are left out of scopes, since they cannot be synced.
    pub(crate) left_out: Vec<Refusal>,
}

/// Loads the app's DDL and the server's rules. `keys` is what the rows of its tables are known by already.
pub(crate) fn load(schema_sql: &str, rules_sql: Option<&str>, keys: &Known) -> Result<Loaded, OpenError> {
    let (schema_sql, app_objects) = others::split(schema_sql);
    let app = Connection::open_in_memory()?;
    let stubs = Stubs::install(&app, [schema_sql])?;
    app.execute_batch(&dump::without_internal(schema_sql))
        .map_err(|e| OpenError::Schema(format!("schema.sql is not valid: {e}")))?;
    stubs.remove(&app)?;
    let found = introspect_known(&app, None, keys)?;
    let helpers = helpers(&app)?;
    if found.schema.tables().is_empty() {
        let tables = listed(&found.refused);
        return Err(OpenError::Schema(format!("schema.sql has no table that can be synced{tables}")));
    }
    // As devices do: one table that cannot be synced takes out itself and what refers to it, and no other. A table that
    // has rows of users already is not left out in silence: the recorded schema has it, and the ledger refuses.
    for r in &found.refused {
        // A name may have any character, and a warning is one line.
        let told = sentence(r).replace(['\n', '\r'], " ");
        if helpers.contains(&r.table.to_ascii_lowercase()) {
            tracing::info!("left out of scopes: {told}");
        } else {
            tracing::warn!("cannot be synced and is left out, the other tables are served: {told}");
        }
    }
    for n in &found.notes {
        tracing::debug!(table = %n.table, note = %n.text, "schema");
    }
    let statements = statements(&app, &found.schema)?;
    let mut scope = make(&statements).map_err(|e| {
        OpenError::Schema(format!("the synced tables of schema.sql cannot be made without the others: {e}"))
    })?;
    let schema = introspect_known(&scope, None, keys)?.schema;
    let objects = ddl::objects(&scope)?;
    let rules = match rules_sql {
        None => Vec::new(),
        Some(sql) => load_rules(&mut scope, sql, &found.refused)?,
    };
    let order = schema.parents_first().iter().map(|i| schema.tables()[*i].name.clone()).collect();
    let tables = (0..schema.tables().len()).map(|i| info(&scope, &schema, i)).collect::<Result<_, _>>()?;
    let left_out = found.refused;
    Ok(Loaded { schema, tables, statements, app_objects, objects, order, rules, left_out })
}

impl Loaded {
    /// No tables at all.
    #[cfg(feature = "ingest")]
    pub(crate) fn none() -> Self {
        Self {
            schema: Schema::new(Vec::new()),
            tables: Vec::new(),
            statements: Vec::new(),
            app_objects: Vec::new(),
            objects: Objects::default(),
            order: Vec::new(),
            rules: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Names the synced tables as they are written: another order of columns is another name.
    pub(crate) fn stamp(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for sql in &self.statements {
            hasher.update(sql.as_bytes());
            hasher.update(&[0]);
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// A table that cannot be synced, why, and what to do.
pub(crate) fn sentence(r: &Refusal) -> String {
    format!("table {}: {}; {}", r.table, r.reason, r.fix)
}

/// As [`sentence`], one a line below what they explain.
fn listed(refused: &[Refusal]) -> String {
    let lines: Vec<String> = refused.iter().map(|r| format!("\n{}", sentence(r))).collect();
    if lines.is_empty() { String::new() } else { format!(":{}", lines.concat()) }
}

/// A database in memory from statements.
pub(crate) fn make(statements: &[String]) -> rusqlite::Result<Connection> {
    let conn = Connection::open_in_memory()?;
    for sql in statements {
        conn.execute_batch(sql)?;
    }
    Ok(conn)
}

fn info(scope: &Connection, schema: &Schema, i: usize) -> rusqlite::Result<TableInfo> {
    let table = schema.tables()[i].clone();
    let referenced: BTreeSet<usize> =
        schema.references_to(i).flat_map(|(_, f)| f.parent_columns.iter()).filter_map(|c| table.column(c)).collect();
    let sql =
        "SELECT lower(name) FROM pragma_table_info(?, 'main') WHERE \"notnull\" AND dflt_value IS NULL AND pk = 0";
    let required = scope.prepare(sql)?.query_map([&table.sql_name], |r| r.get(0))?.collect::<Result<_, _>>()?;
    Ok(TableInfo {
        // Rules say nothing of conflicts themselves, and a table that declares REPLACE would lose rows unseen.
        sql: RowSql::refusing(&table),
        order: table.canonical_order(),
        referenced: referenced.into_iter().collect(),
        required,
        table,
    })
}

/// Lowercase names of tables that an app keeps beside its data: virtual ones, those without a key, and those that are
/// too wide to be synced by anybody.
fn helpers(conn: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let sql = "SELECT l.name FROM pragma_table_list l WHERE l.schema = 'main' AND (l.type <> 'table' OR NOT EXISTS \
               (SELECT 1 FROM pragma_table_xinfo(l.name) x WHERE x.pk > 0) OR \
               (SELECT count(*) FROM pragma_table_xinfo(l.name) x WHERE x.hidden = 0) > ?)";
    let mut s = conn.prepare(sql)?;
    let rows = s.query_map([MOST_COLUMNS as i64], |r| r.get::<_, String>(0).map(|n| n.to_ascii_lowercase()))?;
    rows.collect()
}

fn load_rules(scope: &mut Connection, sql: &str, left_out: &[Refusal]) -> Result<Vec<Trigger>, OpenError> {
    let count = "SELECT count(*) FROM main.sqlite_schema WHERE type <> 'trigger'";
    let before: i64 = scope.query_row(count, [], |r| r.get(0))?;
    scope.execute_batch(sql).map_err(|e| {
        // The table may stand in schema.sql all the same.
        let missing = e.to_string().contains("no such table") && !left_out.is_empty();
        let tables = if missing { format!("\ntables that were left out{}", listed(left_out)) } else { String::new() };
        OpenError::Rules(format!("rules.sql is not valid: {e}{tables}"))
    })?;
    let after: i64 = scope.query_row(count, [], |r| r.get(0))?;
    if before != after {
        return Err(OpenError::Rules("rules.sql may hold CREATE TRIGGER statements only".into()));
    }
    let names: Vec<String> = scope
        .prepare("SELECT name FROM main.sqlite_schema WHERE type = 'trigger'")?
        .query_map([], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    if let Some(name) = names.iter().find(|n| n.to_ascii_lowercase().starts_with("_sync_")) {
        return Err(OpenError::Rules(format!("trigger {name} of rules.sql: names that begin with _sync_ are taken")));
    }
    let rules = triggers::read(scope)?;
    for rule in &rules {
        if let Some(words) = triggers::cannot_run(scope, rule)? {
            return Err(OpenError::Rules(format!("trigger {} of rules.sql cannot run in a scope: {words}", rule.name)));
        }
        let text = ddl::normal(&rule.sql).to_ascii_uppercase();
        for clause in ["OR IGNORE", "OR REPLACE", "OR FAIL", "OR ROLLBACK", "RAISE(ROLLBACK"] {
            if text.contains(clause) {
                return Err(OpenError::Rules(format!(
                    "trigger {} of rules.sql says {clause}: SQLite gives the clause of the outer statement to it, or \
                     evicts rows unseen; say ON CONFLICT DO NOTHING, WHERE NOT EXISTS or RAISE(ABORT, ...)",
                    rule.name
                )));
            }
        }
    }
    Ok(rules)
}
