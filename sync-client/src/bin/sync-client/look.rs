//! `status`, `pending`: what waits. Neither waits for a sync that is running.

use std::{fmt::Write as _, path::Path};

use jiff::Timestamp;
use serde::Serialize;
use sync_client::report::Status;

use crate::{
    file,
    output::{Done, Failure, Output},
    text::{key, printable, rows, shell, table, thousands, when},
};

pub(crate) fn status(path: &Path, out: Output) -> Result<Done, Failure> {
    file::must_exist(path)?;
    let status = sync_client::read_status(path)?;
    out.result(&status, || sheet(path, &status, crate::text::now()));
    Ok(Done::Clean)
}

pub(crate) fn pending(path: &Path, out: Output) -> Result<Done, Failure> {
    #[derive(Serialize)]
    struct Report<T> {
        rows: T,
    }
    file::must_exist(path)?;
    let waiting = sync_client::read_pending(path)?;
    let now = crate::text::now();
    out.result(&Report { rows: &waiting }, || {
        if waiting.is_empty() {
            return "Nothing waits to be sent.".into();
        }
        let cells: Vec<Vec<String>> = waiting
            .iter()
            .map(|row| {
                let since = when(&row.since, now);
                vec![row.table.clone(), printable(&key(&row.key)), row.op.clone(), since, printable(&row.why)]
            })
            .collect();
        table(&["TABLE", "KEY", "CHANGE", "SINCE", "WAITS FOR"], &cells)
    });
    Ok(Done::Clean)
}

fn sheet(path: &Path, status: &Status, now: Timestamp) -> String {
    let file = shell(&path.to_string_lossy());
    let mut sheet = format!("{}  {}\n", path.display(), status.server);
    let mut say = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(sheet, "  {name:<13} {value}");
    };
    say("server", server(status).into());
    say("state", state(status).into());
    say("tables", thousands(status.tables.len() as u64));
    say("to send", to_send(status, now));
    for (name, count, command) in [
        ("refused", status.rejected_rows - status.local_rows, "rejected"),
        ("stay here", status.local_rows, "rejected"),
        ("given up", status.discarded_rows, "discarded"),
        ("conflicts", status.conflicts, "conflicts"),
    ] {
        if count > 0 {
            say(name, format!("{}: sync-client {command} {file}", rows(count)));
        }
    }
    if status.server_rounds {
        let what = "rounds integers beyond 2^53 in what it sends; `rebuild` and `verify` bring the exact ones";
        say("this server", what.into());
    }
    if status.server_respells {
        say("this server", "spells times in its own way: they come back as the same moment in another text".into());
    }
    for held in &status.held_back {
        say("held back", format!("table {}: {}", held.table, printable(&held.message)));
    }
    if status.set_aside_rows > 0 {
        let why = "that this file does not take for now";
        say("set aside", format!("{} of the server {why}: sync-client conflicts {file}", rows(status.set_aside_rows)));
    }
    if let Some(seq) = status.waiting_bundle {
        let what = "touches a row on the way, and waits until it is known whether that was committed";
        say("waits", format!("bundle {} {what}", thousands(seq.unsigned_abs())));
    }
    say("checkpoint", checkpoint(status));
    say("last success", status.last_success.as_ref().map_or_else(|| "never".into(), |at| when(at, now)));
    if let Some(error) = &status.last_error {
        say("last error", format!("{}: {}", when(&error.at, now), printable(&error.message)));
    }
    if let Some(seconds) = status.retry_after_seconds {
        say("try again", format!("in {seconds} s: another device fills this account for the first time"));
    }
    sheet.trim_end().to_owned()
}

fn server(status: &Status) -> &'static str {
    match status.online {
        Some(true) => "online when it was last asked",
        Some(false) => "offline when it was last asked",
        None => "not asked yet",
    }
}

fn state(status: &Status) -> &'static str {
    if !status.attached {
        "not synced yet"
    } else if status.last_error.is_some() {
        "the last sync failed"
    } else if status.pending_rows > 0 {
        "changes wait to be sent"
    } else if status.latest_known > status.checkpoint {
        "changes wait to be received"
    } else {
        "up to date"
    }
}

fn to_send(status: &Status, now: Timestamp) -> String {
    if status.pending_rows == 0 {
        return "nothing".into();
    }
    let mut text = rows(status.pending_rows);
    if status.pending_more {
        text.insert_str(0, "more than ");
    }
    if status.outbox_rows > 0 {
        let _ = write!(text, ", {} of them on the way ({})", thousands(status.outbox_rows), status.outbox);
    }
    if let Some(oldest) = &status.oldest_pending {
        let _ = write!(text, ", the oldest since {}", when(oldest, now));
    }
    text
}

fn checkpoint(status: &Status) -> String {
    let known = status.latest_known.max(status.checkpoint);
    format!("{} of {}", thousands(status.checkpoint.unsigned_abs()), thousands(known.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sheet_says_what_waits() {
        let status = Status {
            server: "https://host/api".into(),
            attached: true,
            tables: vec!["a".into(), "b".into()],
            pending_rows: 1234,
            outbox_rows: 1000,
            outbox: "sent".into(),
            oldest_pending: Some("2026-11-23T02:40:00Z".into()),
            rejected_rows: 1,
            checkpoint: 156,
            latest_known: 160,
            ..Status::default()
        };
        let now = "2026-11-23T02:45:00Z".parse().unwrap();
        let sheet = sheet(Path::new("my app.db"), &status, now);
        for part in [
            "my app.db  https://host/api",
            "server        not asked yet",
            "state         changes wait to be sent",
            "to send       1,234 rows, 1,000 of them on the way (sent), the oldest since 2026-11-23 02:40:00 UTC (5 min ago)",
            "refused       1 row: sync-client rejected 'my app.db'",
            "checkpoint    156 of 160",
            "last success  never",
        ] {
            assert!(sheet.contains(part), "no {part:?} in\n{sheet}");
        }
        assert!(!sheet.contains("given up") && !sheet.contains("last error"));
    }
}
