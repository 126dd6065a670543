//! What the server says of its tables and limits: what this file has beyond that is held back, visibly, until the
//! server has it too (protocol §10).

use std::collections::{BTreeMap, BTreeSet};

use sync_core::engine::alike::{self, Unlike};
use sync_core::protocol::capabilities::{Capabilities, TableSpec};
use sync_core::schema::{Schema, Table};

use crate::engine::Engine;
use crate::error::Error;
use crate::store::Meta;

/// The server's tables and columns, where it tells of them.
#[derive(Debug, Default)]
pub(crate) struct Offered {
    tables: BTreeSet<String>,
    columns: BTreeMap<String, BTreeSet<String>>,
    specs: Vec<TableSpec>,
}

impl Offered {
    fn of(c: &Capabilities) -> Self {
        let name = |r: &String| r.split_once('.').map_or(r.as_str(), |(_, n)| n).to_owned();
        let specs = c.registered_table_specs.iter().filter(|s| !s.columns.is_empty());
        Self {
            tables: c.registered_tables.iter().map(name).collect(),
            columns: specs.map(|s| (s.table.clone(), s.columns.iter().cloned().collect())).collect(),
            specs: c.registered_table_specs.clone(),
        }
    }

    /// Whether the server is known to lack a table.
    pub(crate) fn lacks(&self, table: &Table) -> bool {
        !self.tables.is_empty() && !self.tables.contains(&table.name)
    }

    /// The tables of a file that are others there, by position: their rows do not travel.
    pub(crate) fn unlike(&self, schema: &Schema) -> BTreeMap<usize, Unlike> {
        alike::unlike(schema, &self.specs)
    }

    /// Positions of the columns that the server is known to lack.
    pub(crate) fn lacking(&self, table: &Table) -> Vec<usize> {
        let Some(there) = self.columns.get(&table.name) else { return Vec::new() };
        (0..table.columns.len()).filter(|i| !there.contains(&table.columns[*i].name)).collect()
    }
}

impl Engine {
    /// Takes note of the server's tables. Where they, or its limits, are others than the last time, rows that were
    /// refused may pass now.
    pub(crate) fn learn_tables(&mut self, c: &Capabilities) -> Result<(), Error> {
        self.store.adopt_keys(&c.registered_table_specs, self.env.now_ms())?;
        self.store.offered = Offered::of(c);
        self.store.held_back = self.store.offered.unlike(self.store.schema());
        let said = (c.schema_version, &c.registered_tables, &c.registered_table_specs, &c.bundle_limits);
        let said = serde_json::to_string(&said).map_err(|e| Error::Protocol(e.to_string()))?;
        if Meta::ServerTables.get::<String>(&self.store.conn)?.as_ref() != Some(&said) {
            let tx = self.store.begin_unchecked()?;
            self.store.try_all_again()?;
            Meta::ServerTables.set(&tx, said)?;
            tx.commit()?;
        }
        self.note_held_back()
    }
}
