//! `watch`: keeps a file in sync until it is told to stop.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use sync_client::{
    Error,
    report::{Event, SyncReport},
};

use crate::{
    args, commands,
    conflicts::Waiting,
    file::{self, Ask, Opened},
    output::{self, Done, Failure, Output},
    run::moved,
    text::{key, printable},
    token::Source,
};

/// Why watching ends.
enum End {
    Signal,
    /// Standard input was closed, since whoever started this is gone, or it said stop.
    Closed,
    /// Nobody reads what it prints any more.
    Unread,
}

pub(crate) fn watch(args: &args::Watch, out: Output) -> Result<Done, Failure> {
    let (by_program, ask, args) = (args.stdin, args.ask, &args.work);
    let out = Output { json: out.json || by_program };
    file::must_exist(&args.file)?;
    let source = Source::require(args.token.given.as_deref(), &args.file)?;
    let (sender, ended) = mpsc::channel();
    let (unread, closed) = (sender.clone(), sender.clone());
    file::on_signal(move || {
        let _ = sender.send(End::Signal);
    })?;
    let speaker = Speaker::default();
    let waiting = ask.map(|seconds| (Arc::new(Waiting::new(args.file.clone())), Duration::from_secs(seconds)));
    let ask = waiting.as_ref().map(|(waiting, within)| {
        let waiting = Arc::clone(waiting);
        Ask { asker: Arc::new(move |question| waiting.ask(question)), within: *within }
    });
    let opened = Opened::asking(&args.file, source, &args.rules, &args.wait, ask.as_ref(), move |event| {
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
    if by_program {
        let (lines, read) = mpsc::channel();
        let (long, asked) = mpsc::channel();
        let unanswered = closed.clone();
        let (client, worker, path) = (opened.client.clone(), opened.client.clone(), args.file.clone());
        thread::spawn(move || {
            // It ends when nobody has the other end any more, also where that was killed.
            commands::lines(io::stdin().lock(), &lines);
            drop(lines);
            output::end_if_stuck();
        });
        thread::spawn(move || {
            let waiting = waiting.as_ref().map(|(waiting, _)| &**waiting);
            commands::read(&read, &client, waiting, &long);
            let _ = closed.send(End::Closed);
        });
        thread::spawn(move || {
            if !asked.iter().all(|asked| commands::carry_out(&worker, &path, asked)) {
                let _ = unanswered.send(End::Unread);
            }
        });
    }
    out.note(format_args!("Watching {}; Ctrl-C stops.", args.file.display()));
    // Both senders outlive this wait: one in the client, one in the handler.
    let end = ended.recv().unwrap_or(End::Signal);
    // What is to be stopped may hang in a write.
    thread::spawn(output::end_if_stuck);
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
        Some(format!("{}  {text}", crate::text::now().strftime("%H:%M:%S")))
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
}
