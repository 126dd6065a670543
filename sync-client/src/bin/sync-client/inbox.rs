//! `rejected`, `discarded`, `conflicts`, `retry`, `drop`: what needs a person.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;
use sync_client::{Client, Error, report::InboxRow};

use crate::{
    args, file,
    output::{Done, Failure, Output},
    text::{key, printable, shell, when},
    token::Source,
};

pub(crate) fn list(path: &Path, kind: &str, out: Output) -> Result<Done, Failure> {
    #[derive(Serialize)]
    struct Report<T> {
        rows: T,
    }
    file::must_exist(path)?;
    let found = sync_client::read_inbox(path, kind)?;
    let now = Timestamp::now();
    out.result(&Report { rows: &found }, || {
        if found.is_empty() {
            return "Nothing here.".into();
        }
        let entries: Vec<String> = found.iter().map(|row| entry(path, row, now)).collect();
        entries.join("\n\n")
    });
    Ok(Done::Clean)
}

fn entry(path: &Path, row: &InboxRow, now: Timestamp) -> String {
    let name = printable(&key(&row.key));
    let mut lines = vec![
        format!("{} {name}  {}  {}", row.table, row.op, when(&row.at, now)),
        format!("  {}: {}", row.reason, printable(&row.message)),
    ];
    for (whose, content) in [("yours", &row.local_row), ("before", &row.base_row), ("server's", &row.server_row)] {
        if let Some(content) = content {
            lines.push(format!("  {whose:<8}  {}", printable(content)));
        }
    }
    if row.kind == "rejected" {
        let (file, table, key) = (shell(&path.to_string_lossy()), shell(&row.table), shell(&key(&row.key)));
        lines.push(format!("  sync-client retry {file} {table} {key}   or drop instead of retry"));
    }
    lines.join("\n")
}

pub(crate) fn retry(args: &args::Row, out: Output) -> Result<Done, Failure> {
    change(args, out, Client::retry, "goes with the next sync")
}

pub(crate) fn drop_row(args: &args::Row, out: Output) -> Result<Done, Failure> {
    change(args, out, Client::drop_row, "is given up; `sync-client discarded` still shows it")
}

fn change(
    args: &args::Row,
    out: Output,
    verb: impl FnOnce(&Client, &str, &str) -> Result<bool, Error>,
    done: &str,
) -> Result<Done, Failure> {
    #[derive(Serialize)]
    struct Report {
        changed: bool,
    }
    file::must_exist(&args.file)?;
    let client = file::builder(&args.file, Source::find(None, &args.file), &args::Rules::default()).open()?;
    if !verb(&client, &args.table, &args.key)? {
        return Err(Failure::local(format!(
            "Nothing of {} {} waits for a person. `sync-client rejected` and `conflicts` show what does.",
            args.table, args.key
        )));
    }
    out.result(&Report { changed: true }, || format!("{} {} {done}.", args.table, args.key));
    Ok(Done::Clean)
}
