//! One server, several devices, real files and real HTTP, in one process.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use sync_client::context::{FaultPoint, System};
use sync_client::{Builder, Client, Event, Policy};
use sync_server::auth::DevAuth;
use sync_server::limits::Limits;
use sync_server::service::{Environment, Service, ServiceConfig};
use sync_server::{Server, router};

pub(crate) const SCHEMA: &str = "
CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, name TEXT, email TEXT UNIQUE, age INTEGER, score REAL, photo BLOB);
CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, person TEXT REFERENCES people(id) ON DELETE CASCADE, body TEXT);
CREATE TABLE tags (note TEXT NOT NULL REFERENCES notes(id) ON DELETE CASCADE, tag TEXT NOT NULL, PRIMARY KEY (note, tag)) WITHOUT ROWID;
CREATE TABLE counters (id INTEGER PRIMARY KEY AUTOINCREMENT, label TEXT NOT NULL);
CREATE TABLE marks (id TEXT PRIMARY KEY NOT NULL, counter INTEGER NOT NULL REFERENCES counters(id), text TEXT);
CREATE INDEX notes_person ON notes(person);
";

/// The server's clock: real time plus what a test adds.
#[derive(Default)]
pub(crate) struct Clock(pub(crate) AtomicI64);

impl Environment for Clock {
    fn now_ms(&self) -> i64 {
        use sync_client::context::Environment as _;
        System.now_ms() + self.0.load(Ordering::Relaxed)
    }

    fn new_id(&self) -> String {
        use sync_client::context::Environment as _;
        System.new_id()
    }
}

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) clock: Arc<Clock>,
    pub(crate) limits: Limits,
    pub(crate) schema: String,
    pub(crate) rules: Option<String>,
    server: Option<Server>,
    url: String,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(SCHEMA, Limits::default())
    }

    pub(crate) fn with(schema: &str, limits: Limits) -> Self {
        Self::ruled(schema, limits, None)
    }

    /// The same with rules of the server.
    pub(crate) fn ruled(schema: &str, limits: Limits, rules: Option<&str>) -> Self {
        let mut world = Self {
            dir: tempfile::tempdir().expect("a directory"),
            clock: Arc::default(),
            limits,
            schema: schema.to_owned(),
            rules: rules.map(str::to_owned),
            server: None,
            url: String::new(),
        };
        world.start();
        world
    }

    /// Starts the server on its data directory, at the same address as before where there was one.
    pub(crate) fn start(&mut self) {
        let config = ServiceConfig {
            data_dir: self.data(),
            schema_sql: self.schema.clone(),
            rules_sql: self.rules.clone(),
            wire_schema: "main".into(),
            app_name: "test".into(),
            limits: self.limits.clone(),
        };
        let clock: Arc<dyn Environment> = Arc::clone(&self.clock) as _;
        let service = Service::open(config, clock).expect("the service opens");
        let addr = self.url.strip_prefix("http://").unwrap_or("127.0.0.1:0").to_owned();
        let server = Server::start(addr, router(service, DevAuth)).expect("the server starts");
        self.url = server.url();
        self.server = Some(server);
    }

    pub(crate) fn stop(&mut self) {
        if let Some(s) = self.server.take() {
            s.stop().expect("the server stops");
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A device with an empty file of the schema.
    pub(crate) fn device(&self, name: &str) -> Device {
        self.device_with(name, Policy::ServerWins, |_| {})
    }

    /// A device whose file is prepared before it is synced for the first time.
    pub(crate) fn device_with(&self, name: &str, policy: Policy, prepare: impl FnOnce(&Connection)) -> Device {
        let mut device = self.closed_device(name, prepare);
        device.policy = policy;
        device.open();
        device
    }

    /// A device whose client is set up by the test, each time that it is opened.
    pub(crate) fn device_built(&self, name: &str, setup: impl Fn(Builder) -> Builder + 'static) -> Device {
        let mut device = self.closed_device(name, |_| {});
        device.setup = Box::new(setup);
        device.open();
        device
    }

    /// A device whose file is there and was never opened by a client.
    pub(crate) fn closed_device(&self, name: &str, prepare: impl FnOnce(&Connection)) -> Device {
        let path = self.dir.path().join(format!("{name}.db"));
        let app = Connection::open(&path).expect("the app opens its file");
        app.execute_batch(&self.schema).expect("the schema");
        app.pragma_update(None, "foreign_keys", true).expect("foreign keys");
        prepare(&app);
        Device {
            path,
            app,
            client: None,
            events: Arc::default(),
            url: self.url.clone(),
            policy: Policy::ServerWins,
            setup: Box::new(|b| b),
            user: "ada".into(),
        }
    }
}

pub(crate) struct Device {
    pub(crate) path: PathBuf,
    pub(crate) app: Connection,
    client: Option<Client>,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
    url: String,
    policy: Policy,
    pub(crate) setup: Box<dyn Fn(Builder) -> Builder>,
    pub(crate) user: String,
}

impl Device {
    /// Goes to another server.
    pub(crate) fn serve_at(&mut self, url: &str) {
        url.clone_into(&mut self.url);
        self.open();
    }

    pub(crate) fn open(&mut self) {
        self.try_open().expect("the client opens");
    }

    pub(crate) fn try_open(&mut self) -> Result<(), sync_client::Error> {
        self.close();
        let events = Arc::clone(&self.events);
        let user = self.user.clone();
        let builder = Client::builder(&self.path)
            .server(&self.url)
            .token(move |_| Ok(user.clone()))
            .all_tables()
            .policy(self.policy.clone())
            .on_event(move |e| events.lock().expect("events").push(e.clone()));
        self.client = Some((self.setup)(builder).open()?);
        Ok(())
    }

    pub(crate) fn close(&mut self) {
        self.client = None;
    }

    /// The app opens its file anew.
    pub(crate) fn reconnect(&mut self) {
        self.app = Connection::open(&self.path).expect("the app opens its file");
    }

    pub(crate) fn client(&self) -> &Client {
        self.client.as_ref().expect("open")
    }

    pub(crate) fn sql(&self, sql: &str) {
        self.app.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    pub(crate) fn sync(&self) -> sync_client::SyncReport {
        self.client().sync().unwrap_or_else(|e| panic!("sync of {}: {e}", self.path.display()))
    }

    pub(crate) fn text(&self, sql: &str) -> String {
        self.app
            .query_row(sql, [], |r| r.get::<_, Option<String>>(0))
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
            .unwrap_or_else(|| "NULL".into())
    }

    pub(crate) fn count(&self, sql: &str) -> i64 {
        self.app.query_row(sql, [], |r| r.get(0)).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }
}

/// Every row of every app table, in order, as SQL literals.
pub(crate) fn dump(path: &Path) -> Vec<String> {
    let conn = Connection::open(path).expect("opens");
    let found = sync_core::sqlite::introspect::introspect(&conn, None).expect("introspects");
    let mut out = Vec::new();
    for t in found.schema.tables() {
        let quoted: Vec<String> =
            t.columns.iter().map(|c| format!("quote({})", sync_core::sqlite::quote(&c.sql_name))).collect();
        let key: Vec<String> = t.key.iter().map(|i| sync_core::sqlite::quote(&t.columns[*i].sql_name)).collect();
        let sql = format!(
            "SELECT {} FROM {} ORDER BY {}",
            quoted.join(" || ',' || "),
            sync_core::sqlite::quote(&t.sql_name),
            key.join(", ")
        );
        let mut s = conn.prepare(&sql).expect("prepares");
        let rows = s.query_map([], |r| r.get::<_, String>(0)).expect("reads");
        out.extend(rows.map(|r| format!("{}: {}", t.name, r.expect("a row"))));
    }
    out
}

/// Syncs all devices until none has anything to say, then compares their files.
pub(crate) fn converge(devices: &[&Device]) {
    for _ in 0..3 {
        for d in devices {
            d.sync();
        }
    }
    for d in &devices[1..] {
        assert_eq!(dump(&devices[0].path), dump(&d.path), "{} differs", d.path.display());
    }
    for d in devices {
        let s = d.client().status().expect("status");
        assert_eq!((s.pending_rows, s.outbox.as_str()), (0, "none"), "{s:?}");
    }
}

/// Copies a directory.
pub(crate) fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A write that no trigger sees.
pub(crate) fn unseen(path: &Path, sql: &str) {
    let conn = Connection::open(path).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    conn.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// Waits for what another thread does.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed().as_secs() < 30, "{what}");
        std::thread::yield_now();
    }
}

/// The real environment, but for what a test does at a fault point.
pub(crate) struct AtFault<F>(pub(crate) F);

impl<F: Fn(FaultPoint) + Send + Sync> sync_client::context::Environment for AtFault<F> {
    fn now_ms(&self) -> i64 {
        System.now_ms()
    }

    fn new_id(&self) -> String {
        System.new_id()
    }

    fn random(&self) -> u64 {
        System.random()
    }

    fn fault(&self, point: FaultPoint) {
        (self.0)(point);
    }
}

/// The real environment, but for a busy file, for which it does not wait.
pub(crate) struct Impatient;

impl sync_client::context::Environment for Impatient {
    fn now_ms(&self) -> i64 {
        System.now_ms()
    }

    fn new_id(&self) -> String {
        System.new_id()
    }

    fn random(&self) -> u64 {
        System.random()
    }

    fn opened(&self, conn: &Connection) {
        conn.busy_timeout(std::time::Duration::ZERO).unwrap();
    }
}
