//! `init`, `clone`, `schema`, `detach`: making a file a synced one, and back.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::Connection;
use serde::Serialize;
use sync_client::{Client, Detach, Detached, Error, report::SyncReport, transport::Http};
use sync_core::{
    protocol::capabilities::SchemaReply,
    sqlite::{
        connection::{self, Settings},
        guest::{self, LeftOut},
        introspect::{Found, introspect, statements},
        others,
    },
};

use crate::{
    args, ask,
    file::{self, Opened},
    output::{Done, Failure, Output},
    progress::Progress,
    run,
    text::{counted, shell},
    token::{self, Source},
};

#[derive(Serialize)]
struct Refused {
    table: String,
    reason: String,
    fix: String,
}

#[derive(Serialize)]
struct Note {
    table: String,
    text: String,
}

/// What an introspection says, for JSON.
#[derive(Serialize)]
struct Findings {
    tables: Vec<String>,
    refused: Vec<Refused>,
    notes: Vec<Note>,
}

impl Findings {
    fn of(found: &Found) -> Self {
        let refused = found.refused.iter();
        let notes = found.notes.iter();
        Self {
            tables: found.schema.tables().iter().map(|table| table.sql_name.clone()).collect(),
            refused: refused
                .map(|r| Refused { table: r.table.clone(), reason: r.reason.clone(), fix: r.fix.clone() })
                .collect(),
            notes: notes.map(|n| Note { table: n.table.clone(), text: n.text.clone() }).collect(),
        }
    }

    /// Names the refused tables on stderr, and what to know of the others.
    fn tell(&self, out: Output) {
        for Refused { table, reason, fix } in &self.refused {
            out.note(format_args!("Table {table} cannot be synced: {reason}. {}.", sentence(fix)));
        }
        // The same of several tables is said once.
        let mut said: Vec<(&str, Vec<&str>)> = Vec::new();
        for Note { table, text } in &self.notes {
            match said.iter_mut().find(|(t, _)| t == text) {
                Some((_, tables)) => tables.push(table),
                None => said.push((text, vec![table])),
            }
        }
        for (text, tables) in said {
            let word = if tables.len() == 1 { "Table" } else { "Tables" };
            out.note(format_args!("{word} {}: {text}.", tables.join(", ")));
        }
    }
}

#[derive(Serialize)]
struct InitReport<'a> {
    file: &'a Path,
    server: &'a str,
    #[serde(flatten)]
    found: &'a Findings,
    token_file: Option<&'a Path>,
    /// Whether the server answered, where it was asked.
    online: Option<bool>,
    /// What it changed of a file that was synced before.
    changed: &'a [String],
}

pub(crate) fn init(args: &args::Init, out: Output) -> Result<Done, Failure> {
    file::must_exist(&args.file)?;
    // A URL that cannot work is refused before the file remembers it.
    Http::with_ca(&args.server, args.trust.ca.as_deref()).map_err(Error::from)?;
    let source = Source::find(args.token.given.as_deref(), &args.file);
    if let Some(given @ Source::Fixed(_)) = &source {
        given.check()?;
    }
    let before = sync_client::read_status(&args.file).ok();
    let old_token = Source::File(token::beside(&args.file)).read().ok();
    let (online, required) = ask::server(args, source.as_ref(), out)?;
    let mut builder = file::builder(&args.file, source, &args.rules).server(&args.server).remember_policies();
    if let Some(mode) = args.attach {
        builder = builder.attach(mode);
    }
    if let Some(ca) = &args.trust.ca {
        builder = builder.ca(ca);
    }
    let found = if args.which.all {
        let found = Findings::of(&sync_client::inspect(&args.file, None)?);
        found.tell(out);
        if found.tables.is_empty() {
            return Err(Failure::local(format!("{} has no table that can be synced.", args.file.display())));
        }
        builder = builder.all_tables();
        found
    } else {
        let found = sync_client::inspect(&args.file, Some(&args.which.tables))?;
        let tables: Vec<&str> = args.which.tables.iter().map(String::as_str).collect();
        builder = builder.tables(&tables);
        let found = Findings::of(&found);
        found.tell(Output { json: out.json || !found.refused.is_empty() });
        found
    };
    ask::lacking(&args.file, &required, out)?;
    same_tables(&args.file, &found.tables)?;
    file::known_tables(&args.rules, &found.tables)?;
    let client = builder.patience(Duration::from_secs(args.wait.seconds)).open()?;
    let token_file = args.token.given.as_deref().map(|token| token::keep(&args.file, token)).transpose()?;
    if online == Some(true) {
        ask::copy(&client, out).map_err(|question| {
            question.and(&format!("{} is set up for syncing; nothing was sent yet.", args.file.display()))
        })?;
    }
    drop(client);
    let changed = ask::changes(before.as_ref(), args, old_token.as_deref());
    let report = InitReport {
        file: &args.file,
        server: &args.server,
        found: &found,
        token_file: token_file.as_deref(),
        online,
        changed: &changed,
    };
    out.result(&report, || {
        let tables = counted(found.tables.len() as u64, "table");
        let mut text = ask::said(&args.file, &tables, before.as_ref(), &changed);
        if before.as_ref().is_none_or(|before| before.last_success.is_none()) {
            text.push_str(&format!("\nFirst sync: sync-client sync {}", shell(&args.file.to_string_lossy())));
        }
        if let Some(path) = &token_file {
            text.push_str(&format!("\nThe token is kept in {}, which only you can read.", path.display()));
        }
        text
    });
    Ok(Done::Clean)
}

/// A synced file may be given another URL or token; other tables are a new beginning.
fn same_tables(file: &Path, wanted: &[String]) -> Result<(), Failure> {
    let synced = match sync_client::read_status(file) {
        Ok(status) => status.tables,
        Err(Error::NotInitialized) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let wanted: BTreeSet<String> = wanted.iter().map(|name| name.to_ascii_lowercase()).collect();
    if synced.iter().map(|name| name.to_ascii_lowercase()).collect::<BTreeSet<_>>() == wanted {
        return Ok(());
    }
    Err(Failure::local(format!(
        "{} is synced already, with these tables: {}. For others, sync what waits, detach, and init again; rows stay.",
        file.display(),
        synced.join(", ")
    )))
}

#[derive(Serialize)]
struct CloneReport<'a> {
    file: &'a Path,
    server: &'a str,
    tables: &'a [String],
    token_file: Option<&'a Path>,
    not_synced: &'a [Refused],
    left_out: &'a [NotMade],
    unfilled: &'a [String],
    report: &'a SyncReport,
}

/// What a clone lacks.
#[derive(Default)]
struct Made {
    left_out: Vec<NotMade>,
    /// Tables of the server that this file cannot sync.
    not_synced: Vec<Refused>,
    /// Tables of the app that nobody syncs.
    others: Vec<Refused>,
}

impl Made {
    /// `synced` are the names of the server's tables, `found` is what the file made of them.
    fn of(synced: &[String], left_out: Vec<LeftOut>, found: &Found) -> Self {
        let is = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        let of_the_server = |r: &Refused| synced.iter().any(|name| is(name, &r.table));
        let (mut not_synced, others): (Vec<_>, Vec<_>) =
            Findings::of(found).refused.into_iter().partition(of_the_server);
        // One that the server has since the file was made.
        let here = |name: &String| {
            found.schema.tables().iter().any(|t| is(&t.sql_name, name))
                || found.refused.iter().any(|r| is(&r.table, name))
        };
        not_synced.extend(synced.iter().filter(|name| !here(name)).map(|name| Refused {
            table: name.clone(),
            reason: "the server has it since this clone was begun".into(),
            fix: "clone into a new file to have it too".into(),
        }));
        let left_out = left_out.into_iter().map(|LeftOut { what, why }| NotMade { what, why }).collect();
        Self { left_out, not_synced, others }
    }

    /// Names on stderr what the file goes without.
    fn tell(&self, file: &Path, out: Output) {
        for Refused { table, reason, fix } in self.others.iter().chain(&self.not_synced) {
            out.note(format_args!("Table {table} cannot be synced: {reason}. {}.", sentence(fix)));
        }
        for Refused { table, .. } in &self.not_synced {
            out.note(format_args!("The server syncs {table}, and this file does not: its rows stay away."));
        }
        for NotMade { what, why } in &self.left_out {
            out.note(format_args!("Left out of {}: {what}: {why}.", file.display()));
        }
    }
}

/// What a file lacks that an earlier run made: the same schema, made once more where nothing is kept.
fn lacking(schema: &SchemaReply, found: &Found) -> Result<Made, Failure> {
    let mut conn = Connection::open_in_memory().map_err(Error::from)?;
    connection::configure(&conn, MAKING).map_err(Error::from)?;
    let (synced, left_out) = make_tables(&mut conn, schema, &|e| Error::from(e).into())?;
    Ok(Made::of(&synced, left_out, found))
}

/// An object of the app that the clone does not have.
#[derive(Serialize)]
struct NotMade {
    what: String,
    why: String,
}

/// The file appears under its name only once it is a synced one with all its tables; filling it can
/// then be taken up again by any sync.
pub(crate) fn clone(args: &args::Clone, out: Output) -> Result<Done, Failure> {
    let file = &args.file;
    if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()) {
        return Err(Failure::local(format!("There is no directory {}.", dir.display())));
    }
    if file.exists() {
        if !half_made(file, &args.url) {
            return Err(Failure::local(format!(
                "{} exists already. Choose another name, or use `sync-client init` to sync it as it is.",
                file.display()
            )));
        }
        out.note(format_args!("{} was begun before; going on with it.", file.display()));
        // Left where the earlier run ended just after it gave the file its name.
        let _ = remove_database(&with_suffix(file, NEW));
    }
    let source = Source::require(args.token.given.as_deref(), file)?;
    let mut made = Made::default();
    let resumed = file.exists();
    let fetch_schema = || {
        let http = Arc::new(Http::with_ca(&args.url, args.trust.ca.as_deref()).map_err(Error::from)?);
        let id = uuid::Uuid::new_v4().to_string();
        let fetch = || {
            let http = Arc::<Http>::clone(&http);
            sync_client::fetch_schema(http, Arc::new(source.clone().answers()), &id)
        };
        ask::patiently(&http, &args.wait, out, fetch)
    };
    let token_file = if resumed {
        args.token.given.as_deref().map(|token| token::keep(file, token)).transpose()?
    } else {
        let schema = fetch_schema().map_err(Failure::of_clone)?;
        let kept = args.token.given.as_deref().map(|token| token::keep(file, token)).transpose()?;
        match make(args, &source, &schema) {
            Ok(all) => made = all,
            Err(failure) => {
                if kept.is_some() {
                    let _ = token::forget(file);
                }
                return Err(failure);
            }
        }
        made.tell(file, out);
        kept
    };
    let progress = Arc::new(Progress::new(out));
    let shown = Arc::clone(&progress);
    let opened = Opened::new(file, source.clone(), &args.rules, &args.wait, move |event| shown.show(event))?;
    let unfinished = |failure: Failure| {
        let again = format!("sync-client sync {}", shell(&file.to_string_lossy()));
        failure.and(&format!("{} is made but not yet filled: `{again}` goes on.", file.display()))
    };
    if resumed {
        // The run that made the file knew, and told nobody who is still there to hear.
        let schema = fetch_schema().map_err(|error| unfinished(error.into()))?;
        made = lacking(&schema, opened.client.introspection())?;
        made.tell(file, out);
    }
    let outcome = opened.run(Client::sync);
    progress.clear();
    let report = outcome.map_err(unfinished)?;
    let unfilled = fill(file)?;
    for index in &unfilled {
        out.note(format_args!("Full-text index {index} is empty here: only the app can fill it."));
    }
    let status = opened.client.status()?;
    let object = CloneReport {
        file,
        server: &args.url,
        tables: &status.tables,
        token_file: token_file.as_deref(),
        not_synced: &made.not_synced,
        left_out: &made.left_out,
        unfilled: &unfilled,
        report: &report,
    };
    out.result(&object, || {
        format!("{} has {}.\n{}", file.display(), counted(status.tables.len() as u64, "table"), run::moved(&report))
    });
    Ok(Done::with_rejected(status.rejected_rows + made.not_synced.len() as u64))
}

/// Whether an earlier clone from the same server made this file and never got to its end.
fn half_made(file: &Path, url: &str) -> bool {
    sync_client::read_status(file).is_ok_and(|status| {
        status.last_success.is_none() && status.server.trim_end_matches('/') == url.trim().trim_end_matches('/')
    })
}

/// Makes the file under another name, with tables and capture, then gives it its name.
fn make(args: &args::Clone, source: &Source, schema: &SchemaReply) -> Result<Made, Failure> {
    let fresh = with_suffix(&args.file, NEW);
    let result = remove_database(&fresh)
        .map_err(|error| Failure::local(format!("{} cannot be removed: {error}.", fresh.display())))
        .and_then(|()| create_tables(&fresh, schema))
        .and_then(|(synced, left_out)| {
            let mut builder = file::builder(&fresh, Some(source.clone()), &args.rules).remember_policies();
            if let Some(ca) = &args.trust.ca {
                builder = builder.ca(ca);
            }
            let client = builder.server(&args.url).all_tables().open()?;
            let tables = client.introspection().schema.tables().iter().map(|t| t.sql_name.clone());
            file::known_tables(&args.rules, &tables.collect::<Vec<_>>())?;
            let made = Made::of(&synced, left_out, client.introspection());
            drop(client);
            give_name(&fresh, &args.file)
                .map_err(|error| Failure::local(format!("{} cannot be made: {error}.", args.file.display())))?;
            Ok(made)
        });
    // What is left of the other name, whichever way it went.
    let _ = remove_database(&fresh);
    result
}

/// What a file is called until it has its tables.
const NEW: &str = "-sync-new";

/// How a connection is set that makes tables.
const MAKING: Settings =
    Settings { foreign_keys: false, triggers: false, durable: true, busy: Duration::from_secs(5), cache_kib: 2048 };

/// Makes them; the names of the server's tables, and what was not made beside them.
fn create_tables(path: &Path, schema: &SchemaReply) -> Result<(Vec<String>, Vec<LeftOut>), Failure> {
    let failed = |error: rusqlite::Error| Failure::local(format!("{} cannot be made: {error}.", path.display()));
    let mut conn = connection::open(path, true, MAKING).map_err(failed)?;
    let made = make_tables(&mut conn, schema, &failed)?;
    conn.close().map_err(|(_, error)| failed(error))?;
    Ok(made)
}

fn make_tables(
    conn: &mut Connection,
    schema: &SchemaReply,
    failed: &impl Fn(rusqlite::Error) -> Failure,
) -> Result<(Vec<String>, Vec<LeftOut>), Failure> {
    if schema.statements.is_empty() {
        return Err(Failure::local("The server syncs no tables. Start it with a schema first."));
    }
    conn.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    // A server may make tables and indexes here, and what an app has beside them: no ATTACH, no PRAGMA of another kind.
    guest::make_synced(conn, &schema.statements).map_err(|LeftOut { what, why }| {
        Failure::local(format!("The server's schema cannot be made here: {what}: {why}. Nothing was made."))
    })?;
    let synced = introspect(conn, None).map_err(failed)?.schema;
    let left_out = guest::make_others(conn, &schema.app_objects, &synced).map_err(failed)?;
    conn.execute_batch("COMMIT").map_err(failed)?;
    Ok((synced.tables().iter().map(|table| table.sql_name.clone()).collect(), left_out))
}

/// Fills the full-text indexes of a file that has its rows; names those that only the app can fill.
fn fill(path: &Path) -> Result<Vec<String>, Failure> {
    let settings =
        Settings { foreign_keys: false, triggers: false, durable: true, busy: Duration::from_secs(5), cache_kib: 2048 };
    let mut conn = connection::open(path, false, settings).map_err(Error::from)?;
    Ok(guest::fill(&mut conn).map_err(Error::from)?)
}

/// Never replaces a file that came to be meanwhile, where the file system has hard links.
fn give_name(fresh: &Path, file: &Path) -> io::Result<()> {
    if with_suffix(fresh, "-wal").exists() {
        return Err(io::Error::other("its log was not folded in; is another program reading it?"));
    }
    match fs::hard_link(fresh, file) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists || file.exists() => Err(error),
        Err(_) => fs::rename(fresh, file),
    }
}

/// Removes a database that only this program knows of, with what lies beside it.
fn remove_database(path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name() else { return Ok(()) };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (found, name) = (entry.file_name(), name.to_string_lossy());
        let found = found.to_string_lossy();
        if found.strip_prefix(&*name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
            let path = entry.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

#[derive(Serialize)]
struct SchemaReport {
    #[serde(flatten)]
    found: Findings,
    statements: Vec<String>,
    app_objects: Vec<String>,
}

pub(crate) fn schema(args: &args::Schema, out: Output) -> Result<Done, Failure> {
    file::must_exist(&args.file)?;
    let found = sync_client::inspect(&args.file, args.tables.as_deref())?;
    let settings = Settings {
        foreign_keys: false,
        triggers: false,
        durable: false,
        busy: Duration::from_secs(5),
        cache_kib: 2048,
    };
    let conn = connection::open(&args.file, false, settings).map_err(Error::from)?;
    let statements = statements(&conn, &found.schema).map_err(Error::from)?;
    let app_objects = others::statements(&conn, &found.schema).map_err(Error::from)?;
    let report = SchemaReport { found: Findings::of(&found), statements, app_objects };
    report.found.tell(out);
    if report.statements.is_empty() {
        return Err(Failure::local(format!("{} has no table that can be synced.", args.file.display())));
    }
    if args.tables.is_some() && !report.found.refused.is_empty() {
        let names: Vec<&str> = report.found.refused.iter().map(|refused| refused.table.as_str()).collect();
        return Err(Failure::local(format!("These tables cannot be synced: {}.", names.join(", "))));
    }
    out.result(&report, || {
        let line = |sql: &String| format!("{};", sql.trim_end());
        let mut lines: Vec<String> = report.statements.iter().map(line).collect();
        if !report.app_objects.is_empty() {
            lines.push(format!("\n{}", others::MARK));
            lines.extend(report.app_objects.iter().map(line));
        }
        lines.join("\n")
    });
    Ok(Done::Clean)
}

pub(crate) fn detach(args: &args::Detach, out: Output) -> Result<Done, Failure> {
    #[derive(Serialize)]
    struct Report {
        detached: bool,
        #[serde(flatten)]
        rows: Detached,
    }
    file::must_exist(&args.file)?;
    let pending = &args.pending;
    let rows = if pending.forget {
        sync_client::forget(&args.file)?;
        Detached::default()
    } else {
        let how = if pending.keep {
            Detach::KeepData
        } else if pending.discard {
            Detach::Discard
        } else if let Some(export) = &pending.export {
            Detach::Export(export.clone())
        } else {
            Detach::WhenClean
        };
        file::builder(&args.file, None, &args::Rules::default()).detach(&how)?
    };
    token::forget(&args.file).map_err(|error| {
        Failure::local(format!("The file is detached, but its token file cannot be removed: {error}."))
    })?;
    out.result(&Report { detached: true, rows }, || {
        let mut text = format!("{} is an ordinary file again. Its rows stayed.", args.file.display());
        if rows.kept_rows > 0 {
            text.push_str(&format!(
                "\n{} not sent yet{}: `sync-client init` with the same account goes on from here.",
                counted(rows.kept_rows, "change"),
                if pending.discard || pending.export.is_some() { STAYED } else { "" }
            ));
        }
        if rows.discarded_rows > 0 {
            text.push_str(&format!(
                "\n{} undone: sync-client discarded {}",
                counted(rows.discarded_rows, "change"),
                shell(&args.file.to_string_lossy())
            ));
        }
        if let Some(export) = pending.export.as_ref().filter(|_| rows.exported_rows > 0) {
            text.push_str(&format!(
                "\n{} moved into {}: `sync-client import` takes them up on another device.",
                counted(rows.exported_rows, "change"),
                export.display()
            ));
        }
        text
    });
    Ok(Done::Clean)
}

/// Why a change is neither undone nor moved into an export.
const STAYED: &str = " stayed, since rows of tables that are not synced refer to the row (`sync-client conflicts`)";

/// A fragment with a capital first letter.
fn sentence(fragment: &str) -> String {
    let mut letters = fragment.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
