//! `rejected`, `discarded`, `conflicts`, `retry`, `drop`, `clear`: what needs a person.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;
use sync_client::{Error, Inbox, report::InboxRow};

use crate::{
    args, file,
    output::{Done, Failure, Output},
    text::{key, printable, shell, thousands, when},
};

pub(crate) fn list(args: &args::Pages, kind: &str, out: Output) -> Result<Done, Failure> {
    file::must_exist(&args.file)?;
    let limit = args.limit.unwrap_or(usize::MAX);
    let page = sync_client::read_inbox_page(&args.file, kind, args.after.as_deref(), limit)?;
    let now = crate::text::now();
    out.result(&page, || {
        if page.rows.is_empty() {
            return "Nothing here.".into();
        }
        let mut entries: Vec<String> = page.rows.iter().map(|row| entry(&args.file, row, now)).collect();
        if let Some(next) = &page.next {
            entries.push(format!("There are more: go on with --after {next}"));
        }
        entries.join("\n\n")
    });
    Ok(Done::Clean)
}

fn entry(path: &Path, row: &InboxRow, now: Timestamp) -> String {
    let name = printable(&key(&row.key));
    let id = if row.id > 0 { format!("  (entry {})", row.id) } else { String::new() };
    let mut lines = vec![
        format!("{} {name}  {}  {}{id}", row.table, row.op, when(&row.at, now)),
        format!("  {}: {}", row.reason, printable(&row.message)),
    ];
    for (whose, content) in [
        ("yours", &row.local_row),
        ("before", &row.base_row),
        ("server's", &row.server_row),
        ("merged", &row.merged_row),
    ] {
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
    change(args, out, Inbox::retry, Inbox::retry_entry, "is tried again with the next sync")
}

pub(crate) fn drop_row(args: &args::Row, out: Output) -> Result<Done, Failure> {
    let done = "is given up; `sync-client discarded` still shows it";
    change(args, out, Inbox::drop_row, Inbox::drop_entry, done)
}

pub(crate) fn clear(args: &args::Clear, out: Output) -> Result<Done, Failure> {
    #[derive(Serialize)]
    struct Report {
        cleared: u64,
    }
    let mut inbox = open(&args.file)?;
    let cleared = match (args.what.id, args.what.kind) {
        (Some(id), _) if !inbox.clear_entry(id)? => {
            return Err(Failure::local(format!("There is no entry {id}.")));
        }
        (Some(_), _) => 1,
        (None, Some(kind)) => inbox.clear_all(kind.name())?,
        (None, None) => 0,
    };
    let entries = if cleared == 1 { "1 entry".to_owned() } else { format!("{} entries", thousands(cleared)) };
    out.result(&Report { cleared }, || format!("{entries} forgotten."));
    Ok(Done::Clean)
}

fn change(
    args: &args::Row,
    out: Output,
    by_key: impl FnOnce(&mut Inbox, &str, &str) -> Result<bool, Error>,
    by_id: impl FnOnce(&mut Inbox, i64) -> Result<bool, Error>,
    done: &str,
) -> Result<Done, Failure> {
    #[derive(Serialize)]
    struct Report {
        changed: bool,
    }
    let mut inbox = open(&args.file)?;
    let (what, changed) = match (args.id, &args.table, &args.key) {
        (Some(id), ..) => (format!("Entry {id}"), by_id(&mut inbox, id)?),
        (None, Some(table), Some(key)) => (format!("{table} {key}"), by_key(&mut inbox, table, key)?),
        _ => return Err(Failure::local("Name a table and a key, or --id.")),
    };
    if !changed {
        return Err(Failure::local(format!(
            "{what}: nothing of it is refused. `sync-client rejected` shows what is; an entry of `sync-client discarded` \
             is named by its number: --id."
        )));
    }
    out.result(&Report { changed: true }, || format!("{what} {done}."));
    Ok(Done::Clean)
}

fn open(path: &Path) -> Result<Inbox, Failure> {
    file::must_exist(path)?;
    Ok(file::builder(path, None, &args::Rules::default()).inbox()?)
}
