//! `sync`, `watch`, `rebuild`: moving rows.

use std::{
    io::{self, IsTerminal as _},
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use jiff::Timestamp;
use serde::Serialize;
use sync_client::{
    Attach, Client, Error,
    report::{Event, HeldTable, PullReport, Status, SyncReport},
};

use crate::{
    args,
    file::{self, Opened},
    output::{self, Done, Failure, Output},
    progress::Progress,
    text::{counted, key, printable, rows, shell},
    token::Source,
};

#[derive(Serialize)]
struct Worked<'a, T> {
    report: &'a T,
    pending_rows: u64,
    rejected_rows: u64,
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
    let rejected = opened.client.status()?.rejected_rows;
    out.result(&report, || {
        if report.already {
            return "This export was imported before; nothing was done.".into();
        }
        let mut parts = vec![format!("{} imported; the next sync sends them", rows(report.rows))];
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
    Ok(Done::with_rejected(rejected))
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
    let Status { pending_rows, rejected_rows, set_aside_rows, ref held_back, .. } = status;
    out.result(&Worked { report: &report, pending_rows, rejected_rows, held_back, set_aside_rows }, || {
        let mut lines = text(&report);
        if pending_rows > 0 {
            lines.push_str(&format!("\n{} changed meanwhile; the next sync takes it.", rows(pending_rows)));
        }
        for held in held_back {
            lines.push_str(&format!("\nTable {} is held back: {}.", held.table, printable(&held.message)));
        }
        if rejected_rows > 0 {
            let command = format!("sync-client rejected {}", shell(&args.file.to_string_lossy()));
            lines.push_str(&format!("\nThe server refuses {}: `{command}` says why.", rows(rejected_rows)));
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
fn asked(question: &Error, out: Output) -> Option<Attach> {
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

/// Why watching ends.
enum End {
    Signal,
    /// Nobody reads what it prints any more.
    Unread,
}

pub(crate) fn watch(args: &args::Work, out: Output) -> Result<Done, Failure> {
    file::must_exist(&args.file)?;
    let source = Source::require(args.token.given.as_deref(), &args.file)?;
    let (sender, ended) = mpsc::channel();
    let unread = sender.clone();
    file::on_signal(move || {
        let _ = sender.send(End::Signal);
    })?;
    let speaker = Speaker::default();
    let opened = Opened::new(&args.file, source, &args.rules, &args.wait, move |event| {
        let line = match event {
            // The worker says the same again with the time of its next try.
            Event::Failed { retry_in_ms: None, .. } => None,
            event if out.json => Some(output::json(event)),
            event => speaker.spoken(event),
        };
        if line.is_some_and(|line| !output::line(&line)) {
            let _ = unread.send(End::Unread);
        }
    })?;
    if let Some(mode) = args.attach {
        opened.client.attach_as(mode)?;
    }
    // What only a person can say is asked before anything runs by itself.
    if !opened.client.status()?.attached
        && let Err(question @ Error::LooksLikeCopy { .. }) = opened.client.attach()
    {
        return Err(question.into());
    }
    opened.client.start()?;
    out.note(format_args!("Watching {}; Ctrl-C stops.", args.file.display()));
    // Both senders outlive this wait: one in the client, one in the handler.
    let end = ended.recv().unwrap_or(End::Signal);
    opened.client.stop();
    if matches!(end, End::Signal) {
        out.note("Stopped.");
    }
    Ok(Done::Clean)
}

/// Says what a person wants to know, once: an hour without a network is one line, not hundreds.
#[derive(Default)]
struct Speaker {
    trouble: Mutex<Option<String>>,
}

impl Speaker {
    /// One event as a line; most need none.
    fn spoken(&self, event: &Event) -> Option<String> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match event {
            Event::Finished { report } => {
                let over = trouble.take().is_some();
                if moved_something(report) {
                    moved(report)
                } else if over {
                    "Syncing again.".into()
                } else {
                    return None;
                }
            }
            Event::Inbox { kind, table, key: object, message } => {
                format!("{kind}: {table} {}: {}", printable(&key(object)), printable(message))
            }
            Event::HeldBack { table, message } => {
                format!("Table {table} is held back: {}.", printable(message))
            }
            Event::Rekeyed { table, old_key, new_key } => {
                format!("{table} {} is now {}: another device had taken its number.", key(old_key), key(new_key))
            }
            Event::Failed { message, .. } if trouble.as_ref() == Some(message) => return None,
            Event::Failed { message, .. } => {
                *trouble = Some(message.clone());
                format!("{}. Trying again, at growing intervals.", printable(message).trim_end_matches('.'))
            }
            _ => return None,
        };
        Some(format!("{}  {text}", Timestamp::now().strftime("%H:%M:%S")))
    }
}

const fn moved_something(report: &SyncReport) -> bool {
    let SyncReport { push, pull, .. } = report;
    push.committed_rows + push.rejected_rows + pull.applied_rows + pull.conflicts + pull.set_aside > 0
}

#[cfg(test)]
mod tests {
    use sync_client::report::ErrorClass;

    use super::*;

    #[test]
    fn trouble_is_said_once_and_its_end_too() {
        let speaker = Speaker::default();
        let failed = |message: &str| Event::Failed {
            class: ErrorClass::Offline,
            message: message.into(),
            retry_in_ms: Some(100),
        };
        let finished = Event::Finished { report: SyncReport::default() };
        assert_eq!(speaker.spoken(&finished), None);
        assert!(speaker.spoken(&failed("gone")).unwrap().ends_with("gone. Trying again, at growing intervals."));
        assert_eq!(speaker.spoken(&failed("gone")), None);
        assert!(speaker.spoken(&failed("worse")).is_some());
        assert!(speaker.spoken(&finished).unwrap().ends_with("Syncing again."));
        assert_eq!(speaker.spoken(&finished), None);
    }

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
