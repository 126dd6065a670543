//! Two devices and a server, over HTTP on loopback: what happens to a row at every hop, conflicts
//! included, and the proof that both files and the server hold the same rows in the end.
//!
//! ```sh
//! cargo run --release -p examples --bin quickstart
//! cargo run --release -p examples --bin quickstart -- --input my.db   # on a copy of a file of yours
//! ```

mod edited;
mod notebook;
mod report;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use examples::hops::{Hop, Recorder, in_order};
use examples::lab::{Lab, USER};
use examples::proof::Except;
use examples::show::{Colour, count, heading, line, paint, rows, say};
use examples::{Result, proof};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use sync_client::transport::Http;
use sync_client::{Client, fetch_schema};
use sync_core::schema::Schema;
use sync_core::sqlite::introspect::{introspect, statements};
use sync_core::sqlite::quote;

/// Two devices, a server, and the proof that they agree.
#[derive(Debug, Parser)]
struct Options {
    /// A SQLite file of yours; a copy of it is synced, the file itself is only read.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Notes in the demonstration's own file.
    #[arg(long, value_name = "N", default_value_t = 1500, value_parser = clap::value_parser!(u32).range(200..=1_000_000))]
    notes: u32,
    /// Remove a row of device B by hand before the proof, which must then fail.
    #[arg(long)]
    tamper: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "quickstart: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The two files and what connects them.
struct Scene {
    lab: Lab,
    recorder: Recorder,
    files: [PathBuf; 2],
    clients: [Client; 2],
    tables: Vec<String>,
}

fn run(options: &Options) -> Result<bool> {
    let dir = tempfile::tempdir()?;
    say(&paint(Colour::Bold, "Two devices, one server, and no network in between for a while."));
    let files = [dir.path().join("laptop.db"), dir.path().join("phone.db")];
    let scene = match &options.input {
        None => own_scene(files, options.notes)?,
        Some(input) => input_scene(files, input)?,
    };
    scene.recorder.begin();
    match &options.input {
        None => scene.edit_notebook()?,
        Some(_) => scene.edit_anything()?,
    }
    scene.sync()?;
    let in_order = scene.report(options.input.is_some())?;
    if options.tamper {
        let what = tamper(&scene.files[1], &scene.tables)?;
        say(&format!("\n{}", paint(Colour::Red, &format!("Tampering: {what} by hand, behind everybody's back."))));
    }
    let same = scene.prove(options.input.is_some())?;
    Ok(in_order? && same)
}

/// The notebook on A, the same app on B, and B filled from the server.
fn own_scene(files: [PathBuf; 2], notes: u32) -> Result<Scene> {
    let lab = Lab::start(notebook::SCHEMA)?;
    for file in &files {
        notebook::open(file)?.execute_batch(notebook::SCHEMA)?;
    }
    notebook::fill(&mut notebook::open(&files[0])?, notes)?;
    Scene::attach(lab, files)
}

/// A copy of the user's file on A; B made from what the server says its schema is.
fn input_scene(files: [PathBuf; 2], input: &Path) -> Result<Scene> {
    edited::copy(input, &files[0])?;
    let conn = Connection::open(&files[0])?;
    if conn.prepare("SELECT 1 FROM main.sqlite_schema WHERE name = '_sync_meta'")?.exists([])? {
        // The copy must not pass for the device that the file belongs to.
        sync_client::forget(&files[0])?;
    }
    let found = introspect(&conn, None)?;
    heading(&format!("{} (a copy)", input.display()));
    for t in found.schema.tables() {
        let n: i64 = conn.query_row(&format!("SELECT count(*) FROM main.{}", quote(&t.sql_name)), [], |r| r.get(0))?;
        line("synced", &format!("{} ({})", t.sql_name, rows(n.unsigned_abs())));
    }
    for r in &found.refused {
        line(&paint(Colour::Yellow, "not"), &format!("{}: {}", r.table, r.reason));
    }
    if found.schema.tables().is_empty() {
        return Err("no table of this file can be synced".into());
    }
    let lab = Lab::start(&format!("{};", statements(&conn, &found.schema)?.join(";\n")))?;
    let schema = fetch_schema(Arc::new(Http::new(&lab.url())?), Arc::new(|_| Ok(USER.to_owned())), "phone")?;
    let b = Connection::open(&files[1])?;
    for sql in &schema.statements {
        b.execute_batch(sql)?;
    }
    Scene::attach(lab, files)
}

impl Scene {
    /// A seeds the server, B joins.
    fn attach(lab: Lab, files: [PathBuf; 2]) -> Result<Self> {
        let recorder = Recorder::default();
        let a = recorder.observe(NAMES[0], &lab.url(), lab.device(&files[0]))?.open()?;
        let seeded = a.sync()?;
        let b = recorder.observe(NAMES[1], &lab.url(), lab.device(&files[1]))?.open()?;
        let joined = b.sync()?;
        let tables: Vec<String> = a.introspection().schema.tables().iter().map(|t| t.name.clone()).collect();
        heading("Before");
        line("server", &format!("{}, one SQLite file per user", lab.url()));
        line("A laptop", &format!("seeded it with {}", rows(seeded.push.committed_rows)));
        line("B phone", &format!("joined it and took {} from a snapshot", rows(joined.pull.applied_rows)));
        report::tables("tables", &proof::of_file(&files[1], &tables, &Except::new())?);
        Ok(Self { lab, recorder, files, clients: [a, b], tables })
    }

    fn edit_notebook(&self) -> Result<()> {
        heading("Offline, in plain SQL (and the rows that each edit adds to the next push)");
        for (i, edits) in [notebook::ON_A, notebook::ON_B].into_iter().enumerate() {
            let conn = notebook::open(&self.files[i])?;
            let mut pending = 0;
            for e in edits {
                notebook::apply(&conn, e)?;
                let now = self.clients[i].status()?.pending_rows;
                say(&format!("  {}  {:<48} {:>5}", NAMES[i], e.what, format!("+{}", count(now - pending))));
                pending = now;
            }
            self.noted(i, edits.len() as u64)?;
        }
        Ok(())
    }

    fn edit_anything(&self) -> Result<()> {
        heading("Offline, without knowing what the tables mean");
        let schema: &Schema = &self.clients[0].introspection().schema;
        for (i, file) in self.files.iter().enumerate() {
            let e = edited::edit(file, schema, NAMES[i], i == 0)?;
            say(&format!(
                "  {}  updates {}, duplicates {}, deletes {}; the schema refuses {}",
                NAMES[i], e.updated, e.duplicated, e.deleted, e.refused
            ));
            self.noted(i, e.updated + e.duplicated + e.deleted)?;
        }
        Ok(())
    }

    fn noted(&self, device: usize, statements: u64) -> Result<()> {
        self.recorder.note(NAMES[device], Hop::AppSql, format!("{statements} edits on the app's own connection"));
        let pending = self.clients[device].status()?.pending_rows;
        self.recorder.note(NAMES[device], Hop::Capture, format!("triggers noted {}", rows(pending)));
        Ok(())
    }

    /// A goes online and keeps listening; B syncs; A hears of it and pulls by itself.
    fn sync(&self) -> Result<()> {
        let [a, b] = &self.clients;
        a.start()?;
        self.recorder.wait_listening(NAMES[0])?;
        b.sync()?;
        let newest = b.status()?.checkpoint;
        if a.status()?.checkpoint < newest {
            self.recorder.wait_checkpoint(NAMES[0], newest)?;
        }
        a.stop();
        self.recorder.end();
        // What settling on A may have left to say.
        while a.sync()?.push.committed_rows + b.sync()?.push.committed_rows > 0 {}
        Ok(())
    }

    /// Prints what happened. Inside: whether the hops came in their order.
    fn report(&self, any_file: bool) -> Result<Result<bool>> {
        let seen = self.recorder.seen();
        report::hops(&seen);
        for (name, client) in NAMES.iter().zip(&self.clients) {
            report::discarded(name, &client.discarded()?)?;
            report::rejected(name, &client.rejected()?);
        }
        let committed = |d: &str| seen.iter().any(|s| s.device == d && s.hop == Hop::Commit);
        let ways = if any_file { expected_of_any(committed) } else { expected() };
        Ok(ways.iter().try_for_each(|way| in_order(&seen, way)).map(|()| true))
    }

    fn prove(&self, any_file: bool) -> Result<bool> {
        // In a file of unknown tables there may be rows that the schema itself keeps from the server.
        let mut except = Except::new();
        for client in self.clients.iter().filter(|_| any_file) {
            except.extend(client.rejected()?.into_iter().map(|r| (r.table, r.key)));
        }
        let a = proof::of_file(&self.files[0], &self.tables, &except)?;
        let b = proof::of_file(&self.files[1], &self.tables, &except)?;
        let server = proof::of_server(&self.lab.url(), &except)?;
        let mut same = report::proof(&[("A laptop", &a), ("B phone", &b), ("server", &server)]);
        let mut indexes = 0;
        for (name, file) in NAMES.iter().zip(&self.files) {
            match proof::full_text_indexes(file) {
                Ok(n) => indexes += n,
                Err(e) => {
                    same = false;
                    line("FTS5", &paint(Colour::Red, &format!("on {name}: {e}")));
                }
            }
        }
        if same && indexes > 0 {
            line("FTS5", &format!("full-text indexes that agree with their tables: {indexes} of {indexes}"));
        }
        let verdict = if same {
            paint(Colour::Green, "Both devices and the server hold the same rows.")
        } else {
            paint(Colour::Red, "They differ.")
        };
        say(&verdict);
        Ok(same)
    }
}

type Way = Vec<(&'static str, Hop)>;

fn push_of(device: &'static str) -> Way {
    [Hop::AppSql, Hop::Capture, Hop::Freeze, Hop::Push, Hop::Commit].map(|hop| (device, hop)).to_vec()
}

fn pull_of(device: &'static str) -> Way {
    [Hop::Pull, Hop::Apply].map(|hop| (device, hop)).to_vec()
}

/// The way of A's rows to B, and of B's to A. A listening device may hear of a commit before the one that
/// asked for it.
fn expected() -> [Way; 2] {
    let [a, b] = NAMES;
    let there = [push_of(a), pull_of(b), vec![(b, Hop::Settle), (b, Hop::Freeze), (b, Hop::Push)]].concat();
    [[there.clone(), vec![(a, Hop::Watch)], pull_of(a)].concat(), [there, vec![(b, Hop::Commit)]].concat()]
}

/// In a file of unknown tables there may be nothing to edit, and what B edits may all be discarded.
fn expected_of_any(committed: impl Fn(&str) -> bool) -> [Way; 2] {
    let [a, b] = NAMES;
    let there = if committed(a) { [push_of(a), pull_of(b)].concat() } else { Way::new() };
    [there, if committed(b) { push_of(b) } else { Way::new() }]
}

/// Removes one row as no app would: without triggers and foreign keys.
fn tamper(file: &Path, tables: &[String]) -> Result<String> {
    let conn = Connection::open(file)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    for t in tables {
        let name = quote(t);
        let Some(key) = introspect(&conn, Some(std::slice::from_ref(t)))?
            .schema
            .tables()
            .first()
            .map(|t| t.key.iter().map(|i| quote(&t.columns[*i].sql_name)).collect::<Vec<_>>().join(", "))
        else {
            continue;
        };
        let sql = format!("DELETE FROM main.{name} WHERE ({key}) IN (SELECT {key} FROM main.{name} LIMIT 1)");
        if conn.execute(&sql, [])? > 0 {
            return Ok(format!("a row of {t} on B is gone"));
        }
    }
    Err("there is no row to tamper with".into())
}

const NAMES: [&str; 2] = ["A", "B"];
