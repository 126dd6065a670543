//! Making a file a synced one, and keeping its capture in step with its schema.

use std::collections::BTreeSet;

use rusqlite::Connection;
use sync_core::protocol::capabilities::TableSpec;
use sync_core::schema::{Schema, Table};
use sync_core::sqlite::capture::{create_log, log_columns, log_name, triggers};
use sync_core::sqlite::introspect::{Found, Known, introspect_known};
use sync_core::sqlite::locals::Locals;
use sync_core::sqlite::rows::RowSql;
use sync_core::sqlite::survey::{Survey, beside, survey};
use sync_core::sqlite::triggers::Trigger;
use sync_core::sqlite::{quote, triggers as app_triggers};

use super::fold::{Rows, fold};
use super::intact::{intact, remember};
use super::shape::{Shape, Stance};
use super::{Managed, Meta, Store, journal, migrate, names, strayed};
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::verify::REPAIRED;

/// Which tables are synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// Every table that can be.
    All,
    /// These, and it is an error if one cannot be.
    Named(Vec<String>),
}

impl Selection {
    fn names(&self) -> Option<&[String]> {
        match self {
            Self::All => None,
            Self::Named(n) => Some(n),
        }
    }

    pub(super) fn stored(&self) -> String {
        match self {
            Self::All => "*".into(),
            Self::Named(n) => serde_json::to_string(n).unwrap_or_default(),
        }
    }

    fn from_stored(s: &str) -> Result<Self, Error> {
        if s == "*" {
            return Ok(Self::All);
        }
        serde_json::from_str(s).map(Self::Named).map_err(|_| Error::Damaged("tables".into()))
    }
}

/// What is synced and what is not, without changing anything.
pub(crate) fn look(conn: &mut Connection, selection: &Selection) -> Result<Found, Error> {
    let known = known(conn)?;
    let found = survey(conn, selection.names(), &known)?.found;
    if matches!(selection, Selection::Named(_)) && !found.refused.is_empty() {
        return Err(Error::Schema(found.refused));
    }
    Ok(found)
}

/// The tables that this file syncs already.
pub(crate) fn known(conn: &Connection) -> rusqlite::Result<Known> {
    let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = '_sync_table'";
    if !conn.prepare(sql)?.exists([])? {
        return Ok(Known::new());
    }
    // A file of an older version has no shapes.
    let shapes = conn.prepare("SELECT 1 FROM pragma_table_info('_sync_table') WHERE name = 'shape'")?.exists([])?;
    let shape = if shapes { "shape" } else { "NULL" };
    let mut s = conn.prepare(&format!("SELECT name, {shape} FROM main._sync_table"))?;
    let rows = s.query_map([], |r| Ok((r.get(0)?, r.get::<_, Option<String>>(1)?)))?;
    let mut known: Known = rows
        .map(|r| r.map(|(name, shape)| (name, shape.map(|s| Shape::stored_key(&s)).unwrap_or_default())))
        .collect::<Result<_, _>>()?;
    let wanted: Option<String> = Meta::Keys.get(conn).unwrap_or_default();
    let wanted: Known = wanted.and_then(|w| serde_json::from_str(&w).ok()).unwrap_or_default();
    known.extend(wanted.into_iter().filter(|(name, _)| known.contains_key(name)).collect::<Vec<_>>());
    Ok(known)
}

/// The tables of a file, its rows known by what was chosen for them.
pub(crate) fn tables_of(conn: &Connection, only: Option<&[String]>) -> rusqlite::Result<Found> {
    introspect_known(conn, only, &known(conn)?)
}

impl Store {
    /// Whether the file is a synced one.
    pub(crate) fn installed(&self) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = '_sync_meta'";
        Ok(self.conn.prepare(sql)?.exists([])?)
    }

    /// Whether our tables in the file are of this version.
    pub(crate) fn is_current(&self) -> Result<bool, Error> {
        Ok(migrate::readable(&self.conn)? == migrate::FORMAT)
    }

    /// Makes the file a synced one: our tables, a source id, and every present row as an intent.
    pub(crate) fn install(
        &mut self,
        server: &str,
        selection: &Selection,
        source_id: &str,
        now: i64,
    ) -> Result<(), Error> {
        let found = look(&mut self.conn, selection)?;
        if found.schema.tables().is_empty() {
            return Err(if found.refused.is_empty() {
                Error::Argument("this file has no tables yet; create them first, then sync them".into())
            } else {
                Error::Schema(found.refused)
            });
        }
        names::free(&self.conn)?;
        let was = self.turn_wal_on()?;
        let installed = self.refresh_after(now, |conn| {
            migrate::create(conn)?;
            conn.execute_batch(REPAIRED)?;
            journal::remember(conn, &was)?;
            Meta::Server.set(conn, server)?;
            Meta::WireSchema.set(conn, "main")?;
            Meta::SourceId.set(conn, source_id)?;
            Meta::NextSourceBundleId.set(conn, 1)?;
            Meta::Tables.set(conn, selection.stored())
        });
        if installed.is_err()
            && let Err(e) = journal::set(&self.conn, &was)
        {
            tracing::debug!("the file keeps its write-ahead log: {e}");
        }
        installed
    }

    /// Takes over what the server knows the rows of a table without PRIMARY KEY by, where that is another UNIQUE of this
    /// file's table than was chosen here. Only before the file is attached: later its rows are known to others.
    pub(crate) fn adopt_keys(&mut self, told: &[TableSpec], now: i64) -> Result<(), Error> {
        let out = self.conn.prepare("SELECT 1 FROM main._sync_out")?.exists([])?;
        if out || Stance::of(&self.conn)? != Stance::Fresh {
            return Ok(());
        }
        let mut wanted = Known::new();
        for spec in told.iter().filter(|s| !s.sync_key_columns.is_empty()) {
            let Some(table) = self.schema().table(&spec.table).filter(|t| !t.primary_key) else { continue };
            let there: BTreeSet<&str> = spec.sync_key_columns.iter().map(String::as_str).collect();
            let columns =
                |of: &[usize]| -> BTreeSet<&str> { of.iter().map(|i| table.columns[*i].name.as_str()).collect() };
            if columns(&table.key) != there && table.uniques.iter().any(|u| columns(&u.columns) == there) {
                wanted.insert(table.name.clone(), spec.sync_key_columns.clone());
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let stored = serde_json::to_string(&wanted).map_err(|e| Error::Damaged(e.to_string()))?;
        if Meta::Keys.get::<String>(&self.conn)?.as_ref() == Some(&stored) {
            return Ok(());
        }
        self.refresh_after(now, |conn| Meta::Keys.set(conn, stored))
    }

    /// Changes which tables are synced; [`Store::refresh`] does the rest.
    pub(crate) fn select(&self, selection: &Selection) -> Result<(), Error> {
        let stored = selection.stored();
        if Meta::Tables.get::<String>(&self.conn)?.as_ref() != Some(&stored) {
            Meta::Tables.set(&self.conn, stored)?;
        }
        Ok(())
    }

    /// Reads the schema again where it changed, and repairs the capture: tables that are new, columns
    /// that were added, triggers that a migration dropped.
    pub(crate) fn refresh(&mut self, now: i64) -> Result<(), Error> {
        if self.read_schema_version()? == self.schema_version {
            return Ok(());
        }
        self.refresh_after(now, |_| Ok(()))
    }

    /// The same after a write that stands only where this succeeds: both are one transaction. A file that cannot be
    /// captured as it is stays what it was, whatever comes between.
    pub(super) fn refresh_after(
        &mut self,
        now: i64,
        first: impl FnOnce(&Connection) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // The app may migrate at any moment: what is read here is read under the write lock.
        self.conn.execute_batch("BEGIN IMMEDIATE")?;
        let outcome = first(&self.conn)
            .and_then(|()| self.refresh_locked(now, None))
            .and_then(|copies| self.wake_rows(now).map(|()| copies));
        let copies = self.end(outcome)?;
        let copied = app_triggers::install_copies(&self.conn, &copies).and_then(|()| self.locals.install(&self.conn));
        if copied.is_err() {
            self.schema_version = -1;
        }
        Ok(copied?)
    }

    /// Begins the last write of ours before a file is detached: also where [`Store::refresh`] refuses what the app
    /// did to its schema, and where the file woke up only half, as it could by an earlier version. [`Store::end`]
    /// ends it.
    pub(crate) fn begin_leaving(&mut self, now: i64) -> Result<(), Error> {
        self.conn.execute_batch("BEGIN IMMEDIATE")?;
        let missing = migrate::missing(&self.conn)?;
        for (_, sql) in &missing {
            self.conn.execute_batch(sql)?;
        }
        if self.read_schema_version()? != self.schema_version {
            let copies = self.refresh_locked(now, Some(Stance::Leaving))?;
            self.wake_rows(now)?;
            app_triggers::install_copies(&self.conn, &copies)?;
            self.locals.install(&self.conn)?;
        }
        self.forget_left()?;
        // What was in them is not known: every row is compared when the file is synced again.
        if !missing.is_empty() {
            self.forget_history(None, now)?;
        }
        Ok(())
    }

    /// The names of what is missing of our tables.
    pub(crate) fn missing(&self) -> Result<Vec<String>, Error> {
        Ok(migrate::missing(&self.conn)?.into_iter().map(|(name, _)| name).collect())
    }

    /// Whether anything of ours is in the file, as where only a part of a synced one was restored.
    pub(crate) fn anything_of_ours(&self) -> Result<bool, Error> {
        Ok(self.installed()? || !names::triggers(&self.conn)?.is_empty())
    }

    /// Ends a write in which the schema may have been read: where it failed, nothing is kept of that either. A commit
    /// that has to wait for a reader fails too, and would leave the transaction open.
    pub(crate) fn end<T>(&mut self, outcome: Result<T, Error>) -> Result<T, Error> {
        let outcome = outcome.and_then(|done| {
            self.conn.execute_batch("COMMIT")?;
            Ok(done)
        });
        if outcome.is_err() {
            self.schema_version = -1;
            if !self.conn.is_autocommit()
                && let Err(e) = self.conn.execute_batch("ROLLBACK")
            {
                tracing::warn!("a write that failed could not be undone at once: {e}");
            }
        }
        outcome
    }

    fn refresh_locked(&mut self, now: i64, stance: Option<Stance>) -> Result<Vec<Trigger>, Error> {
        migrate::migrate(&self.conn)?;
        let stance = stance.map_or_else(|| Stance::of(&self.conn), Ok)?;
        let stored: String = Meta::Tables.get(&self.conn)?.ok_or_else(|| Error::Damaged("tables".into()))?;
        let selection = Selection::from_stored(&stored)?;
        let leaving = stance == Stance::Leaving;
        let known = known(&self.conn)?;
        let Survey { mut found, triggers: app, mut copies, mut locals } =
            survey(&mut self.conn, selection.names(), &known)?;
        if leaving {
            // Whatever its triggers are, a table that is synced leaves as one, with those that can run.
            found = introspect_known(&self.conn, selection.names(), &known)?;
            found.schema = without_other_keys(&self.conn, found.schema)?;
            copies = app_triggers::runnable(&self.conn, app_triggers::plan(&found.schema, &app).copy)?;
            locals = Locals::read(&self.conn, &found.schema)?;
            let beside = beside(&found.schema, &locals, &app, &copies);
            copies.extend(app_triggers::runnable(&self.conn, beside)?);
            locals.mark_filled(&copies);
        } else {
            refuse(&self.conn, &found, &selection)?;
        }
        let conn = &self.conn;
        strayed::bring_back(conn, now)?;
        // A file that was detached is compared when it wakes up; what the app changes after that is for a rebuild.
        let woken = Meta::Resume.integer(conn)? != 0 && Meta::KeptColumns.get::<String>(conn)?.is_none();
        let attached = woken || Meta::Attached.integer(conn)? != 0;
        let captures = names::triggers(conn)?;
        let refusing = app_triggers::end_more(conn, &copies)?;
        if refusing {
            locals.refuse();
        }
        let mut managed = Vec::new();
        for table in found.schema.tables() {
            let early =
                app.iter().any(|t| t.table.eq_ignore_ascii_case(&table.sql_name) || t.writes.contains(&table.name));
            let (id, seen) = capture(conn, table, &captures, early, stance, now)?;
            let sql = if refusing { RowSql::refusing(table) } else { RowSql::new(table) };
            let m = Managed { id, sql, order: table.canonical_order() };
            if seen == Seen::Partly && !mutant::on(Mutant::TriggersUncompared) {
                suspect_all(conn, &m, table, now)?;
            }
            if attached && seen != Seen::Whole {
                Meta::Rebuild.set(conn, "the tables of this file changed")?;
            }
            managed.push(m);
        }
        // C14: what this schema refused, it may take now.
        let version = self.read_schema_version()?;
        if attached && Meta::SetAside.integer(conn)? != 0 && Meta::SchemaSeen.integer(conn)? != version {
            Meta::Rebuild.set(conn, "rows that the schema refused may fit now")?;
        }
        Meta::SchemaSeen.set(conn, version)?;
        self.by_id = managed.iter().enumerate().map(|(position, m)| (m.id, position)).collect();
        self.managed = managed;
        self.found = found;
        self.held_back = self.offered.unlike(&self.found.schema);
        self.locals = locals;
        self.end_capture(now)?;
        // Whoever leaves says what becomes of them.
        if !leaving {
            self.forget_gone(stance != Stance::Fresh, Some(now))?;
        }
        self.schema_version = self.read_schema_version()?;
        Ok(copies)
    }

    /// Removes everything of ours from the file. The rows stay. What a newer version has made is not known here.
    pub(crate) fn uninstall(&self) -> Result<(), Error> {
        let tx = self.begin_unchecked()?;
        if let Err(newer @ Error::NewerFormat(_)) = migrate::readable(&tx) {
            return Err(newer);
        }
        let (triggers, tables) = (names::triggers(&tx)?, names::tables(&tx)?);
        names::drop_all(&tx, &triggers)?;
        for name in tables {
            tx.execute_batch(&format!("DROP TABLE main.{}", quote(&name)))?;
        }
        Ok(tx.commit()?)
    }
}

/// The tables that are detached row by row: one with another key than its rows are known by is not.
fn without_other_keys(conn: &Connection, schema: Schema) -> Result<Schema, Error> {
    let mut tables = Vec::new();
    for table in schema.tables() {
        if Shape::read(conn, &table.name)?.is_none_or(|(_, shape)| !shape.has_another_key(table)) {
            tables.push(table.clone());
        }
    }
    let names: BTreeSet<String> = tables.iter().map(|t| t.name.clone()).collect();
    for table in &mut tables {
        table.foreign_keys.retain(|f| names.contains(&f.parent));
    }
    Ok(Schema::new(tables))
}

/// A table that cannot be synced is an error where it was named, or was synced before; one that the app dropped is not.
fn refuse(conn: &Connection, found: &Found, selection: &Selection) -> Result<(), Error> {
    let exists = "SELECT 1 FROM main.sqlite_schema WHERE name = ? COLLATE NOCASE";
    let synced = "SELECT 1 FROM main._sync_table WHERE name = lower(?)";
    let mut refused = Vec::new();
    for r in &found.refused {
        let there = conn.prepare_cached(exists)?.exists([&r.table])?;
        if there && (selection.names().is_some() || conn.prepare_cached(synced)?.exists([&r.table])?) {
            refused.push(r.clone());
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(Error::Schema(refused)) }
}

/// Whether capture saw every write of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Every one.
    Whole,
    /// Every one, and the table has got columns whose values on the server are not here yet.
    Grown,
    /// Writes may have gone unseen: the table is new here, or a trigger of ours was gone, or another than we wrote.
    Partly,
}

/// Makes sure of a table's number, log and triggers.
fn capture(
    conn: &Connection,
    table: &Table,
    captures: &[names::Capture],
    early: bool,
    stance: Stance,
    now: i64,
) -> Result<(i64, Seen), Error> {
    let (id, shape) = match Shape::read(conn, &table.name)? {
        Some(found) => found,
        None => Shape::add(conn, table)?,
    };
    shape.admit(conn, id, table, stance)?;
    let wanted = triggers(id, table, early);
    let present: Vec<&names::Capture> = captures.iter().filter(|t| t.id == id).collect();
    let there = |(name, sql): &(String, String)| present.iter().any(|t| t.name == *name && t.sql == *sql);
    let log = quote(&log_name(id));
    let logs = conn
        .prepare_cached("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?")?
        .exists([log_name(id)])?;
    let touched = !(present.is_empty() || wanted.iter().all(there) || intact(conn, id, &present)?);
    if touched {
        tracing::warn!("triggers of ours on {} were dropped or changed: it is compared with the server", table.name);
    }
    let mut seen = if present.is_empty() || touched || !logs { Seen::Partly } else { Seen::Whole };
    let (unmoved, another_key) = (shape.has_columns_of(table), shape.has_another_key(table));
    if wanted.len() == present.len() && wanted.iter().all(there) && logs && unmoved && !another_key {
        remember(conn, id, &wanted)?;
        shape.keep(conn, id, table, stance)?;
        return Ok((id, Seen::Whole));
    }
    let old = &shape.columns;
    conn.execute_batch(&create_log(id, old.len()))?;
    if !unmoved {
        shape.reorder(conn, id, table)?;
        if !absorb_old(conn, id, table, old, !early && !touched, now)? {
            seen = Seen::Partly;
        }
        if table.columns.len() > old.len() {
            conn.execute(
                "UPDATE main._sync_table SET grown_from = coalesce(grown_from, ?) WHERE id = ?",
                (old.len() as i64, id),
            )?;
            if seen == Seen::Whole {
                seen = Seen::Grown;
            }
        }
        conn.execute_batch(&format!("DROP TABLE main.{log}"))?;
        conn.execute_batch(&create_log(id, table.columns.len()))?;
    }
    // A trigger that the app made since, or one of ours that was gone, may have hidden what the rows were.
    if (early || touched) && old.len() == table.columns.len() {
        absorb_old(conn, id, table, old, false, now)?;
        conn.execute_batch(&format!("DELETE FROM main.{log}"))?;
    }
    names::drop_all(conn, present.iter().copied())?;
    for (name, sql) in &wanted {
        // Also one that is called so and captures nothing: somebody put it in the place of ours.
        conn.execute_batch(&format!("DROP TRIGGER IF EXISTS main.{}", quote(name)))?;
        conn.execute_batch(sql)?;
    }
    remember(conn, id, &wanted)?;
    if another_key {
        // Nobody else knows these rows yet, and under the old key nobody will.
        conn.execute("DELETE FROM main._sync_dirty WHERE t = ?", [id])?;
        conn.execute_batch(&format!("DELETE FROM main.{log}"))?;
        seen = Seen::Partly;
    }
    shape.keep(conn, id, table, stance)?;
    Ok((id, seen))
}

/// Folds a log that was written under other columns. Its bases are only kept where columns were
/// added at the end; otherwise the row is pushed whole. False where the key's columns are not there any more.
/// Without `trust` no base is kept.
fn absorb_old(conn: &Connection, id: i64, table: &Table, old: &[String], trust: bool, now: i64) -> Result<bool, Error> {
    let names = log_columns(old.len());
    let at = |i: usize| {
        let name = &table.columns[i].sql_name;
        let renamed = (old.len() == table.columns.len()).then_some(i);
        old.iter().position(|o| o.eq_ignore_ascii_case(name)).or(renamed).map(|i| names[i].as_str())
    };
    let Some(key) = table.key.iter().map(|i| at(*i)).collect::<Option<Vec<_>>>() else { return Ok(false) };
    let appended = trust
        && table.columns.len() >= old.len()
        && table.columns.iter().zip(old).all(|(c, o)| c.sql_name.eq_ignore_ascii_case(o));
    let live = RowSql::new(table);
    fold(conn, &Rows { id, key: &key, columns: old.len(), live: appended.then_some(&live) }, now)?;
    super::dirty::notice(conn)?;
    Ok(true)
}

/// Makes every row of a table an intent, and every row that the server was known to have.
pub(super) fn suspect_all(conn: &Connection, m: &Managed, table: &Table, now: i64) -> Result<(), Error> {
    conn.execute(
        &format!(
            "INSERT OR IGNORE INTO main._sync_dirty (t, k, since) SELECT ?, _sync_key({}), ? FROM main.{}",
            m.sql.key,
            quote(&table.sql_name)
        ),
        (m.id, now),
    )?;
    let keys: Vec<String> = table.key.iter().map(|i| quote(&table.columns[*i].sql_name)).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    super::dirty::note_unnameable(conn, &table.name, &format!("main.{}", quote(&table.sql_name)), &keys, now)?;
    conn.execute(
        "INSERT OR IGNORE INTO main._sync_dirty (t, k, since) SELECT t, k, ? FROM main._sync_row WHERE t = ? AND v > 0",
        (now, m.id),
    )?;
    // What is on its way may have gone unseen, too.
    conn.execute(
        "INSERT OR IGNORE INTO main._sync_dirty (t, k, since) SELECT t, k, ? FROM main._sync_out WHERE t = ?",
        (now, m.id),
    )?;
    super::dirty::notice(conn)
}
