//! `sync`, `rebuild`, `import`: moving rows.

use std::{
    io::{self, IsTerminal as _},
    sync::Arc,
};

use serde::Serialize;
use sync_client::{
    Attach, Client, Error,
    report::{HeldTable, PullReport, Status, SyncReport},
};

use crate::{
    args,
    file::{self, Opened},
    output::{Done, Failure, Output},
    progress::Progress,
    text::{counted, printable, rows, shell},
    token::Source,
};

#[derive(Serialize)]
struct Worked<'a, T> {
    report: &'a T,
    pending_rows: u64,
    rejected_rows: u64,
    local_rows: u64,
    held_back: &'a [HeldTable],
    set_aside_rows: u64,
}

pub(crate) fn sync(args: &args::Work, out: Output) -> Result<Done, Failure> {
    work(args, out, Client::sync, moved)
}

pub(crate) fn rebuild(args: &args::Work, out: Output) -> Result<Done, Failure> {
    work(args, out, Client::rebuild, |report: &PullReport| {
        format!("Read everything anew: {} written.", rows(report.applied_rows))
    })
}

pub(crate) fn import(args: &args::Import, out: Output) -> Result<Done, Failure> {
    let file = &args.work.file;
    file::must_exist(file)?;
    let source = Source::require(args.work.token.given.as_deref(), file)?;
    let progress = Arc::new(Progress::new(out));
    let shown = Arc::clone(&progress);
    let opened = Opened::new(file, source, &args.work.rules, &args.work.wait, move |event| shown.show(event))?;
    let outcome = opened.run(|client| client.import(&args.export));
    progress.clear();
    let report = outcome.map_err(|failure| failure.when_offline("Nothing was imported; try again later."))?;
    let status = opened.client.status()?;
    out.result(&report, || {
        if report.already {
            return "This export was imported before; nothing was done.".into();
        }
        let mut parts = vec![match report.rows {
            0 => "no row imported".to_owned(),
            n => format!("{} imported; the next sync sends them", rows(n)),
        }];
        for (n, what) in [
            (report.committed_rows, "on the server already"),
            (report.conflicts, "met another change: see `conflicts`, `discarded` and `rejected`"),
            (report.refused_rows, "refused before: see `rejected`"),
        ] {
            if n > 0 {
                parts.push(format!("{} {what}", rows(n)));
            }
        }
        format!("{}.", parts.join("; "))
    });
    Ok(Done::with_rejected(status.rejected_rows - status.local_rows))
}

fn work<T: Serialize>(
    args: &args::Work,
    out: Output,
    verb: impl Fn(&Client) -> Result<T, Error>,
    text: impl FnOnce(&T) -> String,
) -> Result<Done, Failure> {
    file::must_exist(&args.file)?;
    let source = Source::require(args.token.given.as_deref(), &args.file)?;
    let progress = Arc::new(Progress::new(out));
    let shown = Arc::clone(&progress);
    let opened = Opened::new(&args.file, source, &args.rules, &args.wait, move |event| shown.show(event))?;
    if let Some(mode) = args.attach {
        opened.client.attach_as(mode)?;
    }
    let outcome = opened.run(|client| match verb(client) {
        Err(question @ Error::LooksLikeCopy { .. }) => {
            progress.clear();
            let Some(mode) = asked(&question, out) else { return Err(question) };
            client.attach_as(mode)?;
            verb(client)
        }
        other => other,
    });
    progress.clear();
    let report = outcome.map_err(|failure| failure.when_offline("Changes wait in the file until the next sync."))?;
    let status = opened.client.status()?;
    let Status { pending_rows, rejected_rows, local_rows, set_aside_rows, ref held_back, .. } = status;
    out.result(&Worked { report: &report, pending_rows, rejected_rows, local_rows, held_back, set_aside_rows }, || {
        let mut lines = text(&report);
        if pending_rows > 0 {
            lines.push_str(&format!("\n{} changed meanwhile; the next sync takes it.", rows(pending_rows)));
        }
        for held in held_back {
            lines.push_str(&format!("\nTable {} is held back: {}.", held.table, printable(&held.message)));
        }
        let command = format!("sync-client rejected {}", shell(&args.file.to_string_lossy()));
        if rejected_rows > local_rows {
            lines
                .push_str(&format!("\nThe server refuses {}: `{command}` says why.", rows(rejected_rows - local_rows)));
        }
        if local_rows > 0 {
            lines.push_str(&format!(
                "\nOnly this file has {} whose keys are NULL or not of their column's kind: `{command}` names them.",
                rows(local_rows)
            ));
        }
        if set_aside_rows > 0 {
            let command = format!("sync-client conflicts {}", shell(&args.file.to_string_lossy()));
            lines.push_str(&format!(
                "\nThis file does not take {} of the server: `{command}` says why.",
                rows(set_aside_rows)
            ));
        }
        lines
    });
    Ok(Done::with(&status))
}

/// Asks a person at a terminal how the file is to be attached.
pub(crate) fn asked(question: &Error, out: Output) -> Option<Attach> {
    if out.json || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    out.note(format_args!(
        "sync-client: {question}.\nIs it a copy? Type copy or merge; anything else leaves it for now:"
    ));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).ok()?;
    answer.trim().parse().ok().filter(|mode| matches!(mode, Attach::Copy | Attach::Merge))
}

/// What a sync moved, in one line or a few.
pub(crate) fn moved(report: &SyncReport) -> String {
    let SyncReport { push, pull, .. } = report;
    let mut parts = Vec::new();
    if push.committed_rows > 0 {
        parts.push(format!("sent {}", rows(push.committed_rows)));
    }
    if pull.applied_rows > 0 {
        parts.push(format!("received {}", rows(pull.applied_rows)));
    }
    if pull.conflicts > 0 {
        parts.push(format!("settled {}", counted(pull.conflicts, "conflict")));
    }
    if pull.set_aside > 0 {
        parts.push(format!("set {} aside that this file's schema refuses", rows(pull.set_aside)));
    }
    if parts.is_empty() {
        return "Up to date.".into();
    }
    let mut text = parts.join(", ");
    text[..1].make_ascii_uppercase();
    text.push('.');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moved_is_one_sentence() {
        let mut report = SyncReport::default();
        assert_eq!(moved(&report), "Up to date.");
        report.push.committed_rows = 1;
        report.pull.applied_rows = 2000;
        report.pull.conflicts = 1;
        assert_eq!(moved(&report), "Sent 1 row, received 2,000 rows, settled 1 conflict.");
    }
}
