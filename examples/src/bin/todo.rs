//! The smallest real app: a to-do list in one SQLite file that works offline and syncs when asked to.
//!
//! ```sh
//! cargo run -p examples --bin todo        # a demonstration: two lists and a server in one process
//! cargo run -p examples --bin todo -- add "water the plants"
//! cargo run -p examples --bin todo -- sync http://127.0.0.1:8787 ada
//! ```

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use examples::Result;
use examples::lab::Lab;
use rusqlite::Connection;
use sync_client::Client;

/// What the app stores. The server needs the same: `todo schema > schema.sql`.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS todo (
    id   TEXT PRIMARY KEY NOT NULL DEFAULT (lower(hex(randomblob(8)))),
    text TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0
);";

/// A to-do list.
#[derive(Parser)]
struct Options {
    /// The list.
    #[arg(long, value_name = "FILE", default_value = "todo.db")]
    file: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Add something.
    Add { text: String },
    /// Tick something off, by the beginning of its id.
    Done { id: String },
    /// Show the list.
    List,
    /// Exchange changes with a server.
    Sync { url: String, token: String },
    /// Print the schema, for the server.
    Schema,
}

fn main() -> Result<()> {
    let Options { file, command } = Options::parse();
    let Some(command) = command else { return demo() };
    let conn = open(&file)?;
    match command {
        Command::Add { text } => add(&conn, &text)?,
        Command::Done { id } => done(&conn, &id)?,
        Command::List => list(&conn)?,
        Command::Sync { url, token } => sync(&file, &url, &token)?,
        Command::Schema => println!("{SCHEMA}"),
    }
    Ok(())
}

fn open(file: &Path) -> Result<Connection> {
    let conn = Connection::open(file)?;
    conn.execute_batch(SCHEMA)?;
    Ok(conn)
}

fn add(conn: &Connection, text: &str) -> Result<()> {
    conn.execute("INSERT INTO todo (text) VALUES (?)", [text])?;
    Ok(())
}

fn done(conn: &Connection, id: &str) -> Result<()> {
    match conn.execute("UPDATE todo SET done = 1 WHERE substr(id, 1, length(?1)) = ?1", [id])? {
        0 => Err(format!("nothing on the list begins with {id}").into()),
        _ => Ok(()),
    }
}

fn list(conn: &Connection) -> Result<()> {
    let mut s = conn.prepare("SELECT substr(id, 1, 6), iif(done, 'x', ' '), text FROM todo ORDER BY done, text")?;
    let mut rows = s.query([])?;
    while let Some(r) = rows.next()? {
        println!("{} [{}] {}", r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get::<_, String>(2)?);
    }
    Ok(())
}

/// All there is to syncing: open, sync, say what happened.
fn sync(file: &Path, url: &str, token: &str) -> Result<()> {
    let token = token.to_owned();
    let client = Client::builder(file).server(url).token(move |_| Ok(token.clone())).all_tables().open()?;
    let report = client.sync()?;
    println!("{} out, {} in", report.push.committed_rows, report.pull.applied_rows);
    Ok(())
}

fn demo() -> Result<()> {
    let (lab, dir) = (Lab::start(SCHEMA)?, tempfile::tempdir()?);
    let (laptop, phone) = (dir.path().join("laptop.db"), dir.path().join("phone.db"));
    add(&open(&laptop)?, "water the plants")?;
    add(&open(&phone)?, "buy bread")?;
    for file in [&laptop, &phone, &laptop] {
        sync(file, &lab.url(), "ada")?;
    }
    open(&laptop)?.execute("UPDATE todo SET done = 1 WHERE text = 'buy bread'", [])?;
    sync(&laptop, &lab.url(), "ada")?;
    sync(&phone, &lab.url(), "ada")?;
    list(&open(&phone)?)
}
