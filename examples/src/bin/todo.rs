//! The smallest real app: a to-do list in one SQLite file that works offline and syncs when asked to.
//!
//! ```sh
//! cargo run -p examples --bin todo        # a demonstration: two lists and a server in one process
//! cargo run -p examples --bin todo -- add "water the plants"
//! cargo run -p examples --bin todo -- sync http://127.0.0.1:8787 --token ada
//! ```

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use examples::Result;
use examples::lab::Lab;
use rusqlite::Connection;
use sync_client::Client;

/// What the app stores; the server gets the same file (`todo schema > schema.sql`).
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
    Sync {
        url: String,
        #[arg(long)]
        token: String,
    },
    /// Print the schema, for the server.
    Schema,
}

fn main() -> Result<()> {
    let options = Options::parse();
    match options.command {
        None => demo(),
        Some(Command::Add { text }) => add(&open(&options.file)?, &text),
        Some(Command::Done { id }) => done(&open(&options.file)?, &id),
        Some(Command::List) => list(&open(&options.file)?),
        Some(Command::Sync { url, token }) => open(&options.file).and_then(|_| sync(&options.file, &url, &token)),
        Some(Command::Schema) => Ok(println!("{SCHEMA}")),
    }
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
    let mut s = conn.prepare("SELECT substr(id, 1, 6), text, done FROM todo ORDER BY done, text")?;
    let mut rows = s.query([])?;
    while let Some(r) = rows.next()? {
        let (id, text, done): (String, String, bool) = (r.get(0)?, r.get(1)?, r.get(2)?);
        println!("{id} [{}] {text}", if done { 'x' } else { ' ' });
    }
    Ok(())
}

/// All there is to syncing: open, sync, say what happened.
fn sync(file: &Path, url: &str, token: &str) -> Result<()> {
    let token = token.to_owned();
    let client = Client::builder(file).server(url).token(move |_| Ok(token.clone())).all_tables().open()?;
    let report = client.sync()?;
    println!("{}: {} out, {} in", file.display(), report.push.committed_rows, report.pull.applied_rows);
    Ok(())
}

fn demo() -> Result<()> {
    let lab = Lab::start(SCHEMA)?;
    let dir = tempfile::tempdir()?;
    std::env::set_current_dir(dir.path())?;
    let (laptop, phone) = (Path::new("laptop.db"), Path::new("phone.db"));
    add(&open(laptop)?, "water the plants")?;
    add(&open(phone)?, "buy bread")?;
    for file in [laptop, phone, laptop] {
        sync(file, &lab.url(), "ada")?;
    }
    open(laptop)?.execute("UPDATE todo SET done = 1 WHERE text = 'buy bread'", [])?;
    sync(laptop, &lab.url(), "ada")?;
    sync(phone, &lab.url(), "ada")?;
    list(&open(phone)?)
}
