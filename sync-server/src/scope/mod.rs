//! Scopes: one SQLite file a user, with one writer and a few readers each.

pub(crate) mod apply;
pub(crate) mod capture;
mod captured;
pub(crate) mod commit;
pub(crate) mod ddl;
mod direct;
mod dump;
pub(crate) mod fail;
pub(crate) mod lineage;
pub(crate) mod pages;
pub(crate) mod reject;
pub(crate) mod schema;
pub(crate) mod side;
pub(crate) mod snapshots;
pub(crate) mod staging;
pub(crate) mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use sync_core::sqlite::connection::{self, Settings, room_for};
use sync_core::sqlite::{quote, triggers};

use self::fail::{Fail, Outcome, damaged};
use self::schema::{Loaded, TableInfo};
use crate::limits::Limits;

/// Locks, also after a panic elsewhere: every use leaves its data whole between two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Page cache of an idle writer.
pub(crate) const WRITER_CACHE_KIB: i64 = 2048;

/// Idle readers that a scope keeps open.
const READERS: usize = 2;

/// An open scope.
pub(crate) struct Scope {
    /// Names the file and everything beside it that belongs to this scope.
    pub(crate) name: String,
    /// Opaque, stable for the life of the scope.
    pub(crate) scope_id: String,
    /// The schema that the file has.
    pub(crate) loaded: Arc<Loaded>,
    /// The file's numbers of the tables, by position in the schema.
    ids: Vec<i64>,
    /// Bytes of a row that may be sent, at most; 0 where requests alone limit that.
    max_row: u64,
    path: PathBuf,
    writer: Mutex<Writer>,
    readers: Mutex<Vec<Connection>>,
    damaged: AtomicBool,
    plain_seen: AtomicBool,
    used: AtomicU64,
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The one connection that writes.
pub(crate) struct Writer {
    pub(crate) conn: Connection,
    /// The ordinal of the staged row that is being applied, for the capture triggers.
    pub(crate) ordinal: Arc<AtomicI64>,
}

fn settings(foreign_keys: bool, cache_kib: i64) -> Settings {
    Settings { foreign_keys, triggers: false, durable: true, busy: Duration::from_secs(5), cache_kib }
}

impl Scope {
    /// Opens a scope's file, makes it where `create` says so, and brings its
    /// tables up to the schema.
    fn open(
        path: &Path,
        name: &str,
        user: &str,
        loaded: &Arc<Loaded>,
        max_row: u64,
        create: bool,
    ) -> Outcome<Option<Self>> {
        if !create && !path.exists() {
            return Ok(None);
        }
        let mut conn = connection::open(path, create, settings(true, WRITER_CACHE_KIB))?;
        conn.pragma_update(None, "journal_mode", "WAL")?;
        conn.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let exists: bool =
            tx.query_row("SELECT count(*) FROM sqlite_schema WHERE name = '_sync_scope'", [], |r| r.get(0))?;
        if !exists {
            let empty: bool = tx.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |r| r.get(0))?;
            if !(create && empty) {
                return if empty { Ok(None) } else { Err(Fail::Damaged("a file without a scope")) };
            }
            store::create(&tx, user)?;
        }
        let (format, owner, scope_id): (i64, String, String) =
            tx.query_row("SELECT format, user_id, scope_id FROM _sync_scope", [], |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?))
            })?;
        if owner != user || format != store::FORMAT {
            return Err(Fail::Damaged("a file of another user or format"));
        }
        store::make_lineage(&tx)?;
        let plain_seen = store::plain_seen(&tx)?;
        migrate(&tx, loaded, plain_seen)?;
        let ids = number(&tx, loaded)?;
        tx.commit()?;
        let ordinal = Arc::new(AtomicI64::new(0));
        let now = Arc::clone(&ordinal);
        conn.create_scalar_function("_sync_ordinal", 0, FunctionFlags::SQLITE_UTF8, move |_| {
            Ok(now.load(Ordering::Relaxed))
        })?;
        triggers::install_copies(&conn, &loaded.rules)?;
        capture::prepare(&conn, loaded)?;
        Ok(Some(Self {
            name: name.to_owned(),
            scope_id,
            loaded: Arc::clone(loaded),
            ids,
            max_row,
            path: path.to_owned(),
            writer: Mutex::new(Writer { conn, ordinal }),
            readers: Mutex::default(),
            damaged: AtomicBool::new(false),
            plain_seen: AtomicBool::new(plain_seen),
            used: AtomicU64::new(0),
        }))
    }

    /// The file's number of the table at a position in the schema.
    pub(crate) fn id(&self, position: usize) -> i64 {
        self.ids[position]
    }

    /// How long a row may get in its table, where so many bytes of it were sent.
    pub(crate) fn room_for(&self, sent: u64) -> u64 {
        room_for(sent.max(self.max_row))
    }

    /// The table with a number, where the schema has it.
    pub(crate) fn position(&self, id: i64) -> Outcome<usize> {
        self.ids.iter().position(|i| *i == id).ok_or(Fail::Damaged("an unknown table number"))
    }

    /// As [`Scope::position`], the table itself.
    pub(crate) fn table(&self, id: i64) -> Outcome<&TableInfo> {
        Ok(&self.loaded.tables[self.position(id)?])
    }

    fn note<T>(&self, result: Outcome<T>) -> Outcome<T> {
        if let Err(e) = &result
            && e.is_damage()
        {
            self.damaged.store(true, Ordering::Relaxed);
        }
        result
    }

    fn check(&self) -> Outcome<()> {
        if self.damaged.load(Ordering::Relaxed) { Err(damaged().into()) } else { Ok(()) }
    }

    /// Remembers that a client reads the plain view here.
    pub(crate) fn see_plain(&self) -> Outcome<()> {
        if !self.plain_seen.load(Ordering::Relaxed) {
            self.write(|conn| Ok(store::see_plain(conn)?))?;
            self.plain_seen.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Runs one write transaction; whatever fails is rolled back.
    pub(crate) fn write<T>(&self, f: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
        self.check()?;
        let mut w = self.writer()?;
        let result = (|| {
            let tx = w.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = f(&tx)?;
            tx.commit()?;
            Ok(value)
        })();
        self.note(result)
    }

    /// The writer, without a transaction: a panic may have left one.
    fn writer(&self) -> Outcome<MutexGuard<'_, Writer>> {
        let w = lock(&self.writer);
        if !w.conn.is_autocommit() {
            w.conn.execute_batch("ROLLBACK")?;
        }
        Ok(w)
    }

    /// Hands over the writer, which the caller leaves without a transaction.
    pub(crate) fn with_writer<T>(&self, f: impl FnOnce(&mut Writer) -> Outcome<T>) -> Outcome<T> {
        self.check()?;
        let mut w = self.writer()?;
        let result = f(&mut w);
        if !w.conn.is_autocommit() {
            w.conn.execute_batch("ROLLBACK")?;
        }
        self.note(result)
    }

    /// Runs one read transaction.
    pub(crate) fn read<T>(&self, f: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
        self.check()?;
        let pooled = lock(&self.readers).pop();
        let result = (|| {
            let conn = match pooled {
                Some(c) => c,
                None => {
                    let c = connection::open(&self.path, false, settings(false, 512))?;
                    c.pragma_update(None, "query_only", true)?;
                    c
                }
            };
            let tx = conn.unchecked_transaction()?;
            let value = f(&tx)?;
            drop(tx);
            let mut readers = lock(&self.readers);
            if readers.len() < READERS {
                readers.push(conn);
            }
            Ok(value)
        })();
        self.note(result)
    }
}

/// Brings a scope's tables up to the schema, and guards them against writes from elsewhere.
///
/// Rows in history lack the columns that are added here. A client that insists on every column would
/// stop at them for good, so where one may be, history ends here (case H6): it reads a snapshot.
fn migrate(conn: &Connection, loaded: &Loaded, plain_seen: bool) -> Outcome<()> {
    let have = ddl::objects(conn)?;
    if have == loaded.objects {
        return Ok(());
    }
    let plan = ddl::additions(&have, &loaded.objects, &loaded.order)
        .map_err(|_| Fail::Damaged("tables that are not those of the schema"))?;
    for sql in &plan {
        conn.execute_batch(sql)?;
    }
    if plain_seen && plan.iter().any(|sql| sql.starts_with(ddl::ADD_COLUMN)) {
        store::prune(conn, store::state(conn)?.history.latest)?;
    }
    for t in loaded.schema.tables() {
        for verb in ["INSERT", "UPDATE", "DELETE"] {
            let name = quote(&format!("_sync_guard_{}_{verb}", t.name));
            let table = quote(&t.sql_name);
            conn.execute_batch(&format!(
                "CREATE TRIGGER IF NOT EXISTS main.{name} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, \
                 'this file belongs to sync-server; a change made here reaches no device: write through the server \
                 (sync-client clone, edit the copy, sync-client sync)'); END"
            ))?;
        }
    }
    Ok(())
}

/// The file's own numbers of the tables, so that it can be read without anything beside it.
fn number(conn: &Connection, loaded: &Loaded) -> Outcome<Vec<i64>> {
    let mut ids = Vec::with_capacity(loaded.tables.len());
    for t in loaded.schema.tables() {
        let found: Option<i64> = conn
            .prepare_cached("SELECT id FROM _sync_table WHERE name = ?")?
            .query_row([&t.name], |r| r.get(0))
            .optional()?;
        ids.push(match found {
            Some(id) => id,
            None => {
                conn.execute("INSERT INTO _sync_table (name) VALUES (?)", [&t.name])?;
                conn.last_insert_rowid()
            }
        });
    }
    Ok(ids)
}

/// The open scopes, at most so many at once as nobody is using.
#[derive(Debug)]
pub(crate) struct Scopes {
    dir: PathBuf,
    loaded: Arc<Loaded>,
    max_row: u64,
    limit: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    scopes: BTreeMap<String, Arc<Scope>>,
    clock: u64,
}

impl Scopes {
    pub(crate) fn new(dir: PathBuf, loaded: Arc<Loaded>, limits: &Limits) -> Self {
        Self {
            dir,
            loaded,
            max_row: u64::try_from(limits.max_bytes_per_row).unwrap_or(0),
            limit: limits.open_scopes.max(1),
            open: Mutex::default(),
        }
    }

    /// The name of a user's file: a hash of the id, never its text.
    pub(crate) fn name(user: &str) -> String {
        blake3::hash(user.as_bytes()).to_hex().to_string()
    }

    /// A user's scope; made where `create` says so, else `None` where there is none.
    /// Says whether it was opened just now.
    pub(crate) fn get(&self, user: &str, create: bool) -> Outcome<(Option<Arc<Scope>>, bool)> {
        let name = Self::name(user);
        let mut open = lock(&self.open);
        open.clock += 1;
        let now = open.clock;
        if let Some(scope) = open.scopes.get(&name) {
            scope.used.store(now, Ordering::Relaxed);
            scope.check()?;
            return Ok((Some(Arc::clone(scope)), false));
        }
        let path = self.dir.join(format!("{name}.db"));
        let scope = Scope::open(&path, &name, user, &self.loaded, self.max_row, create)?;
        let Some(scope) = scope.map(Arc::new) else { return Ok((None, false)) };
        scope.used.store(now, Ordering::Relaxed);
        while open.scopes.len() >= self.limit {
            // Only what nobody holds: two writers of one file would wait for one another.
            let idle = open.scopes.iter().filter(|(_, s)| Arc::strong_count(s) == 1);
            let Some(oldest) = idle.min_by_key(|(_, s)| s.used.load(Ordering::Relaxed)).map(|(n, _)| n.clone()) else {
                break;
            };
            open.scopes.remove(&oldest);
        }
        open.scopes.insert(name, Arc::clone(&scope));
        Ok((Some(scope), true))
    }
}
