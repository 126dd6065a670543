//! `stream`: the producer's side of ingest.

pub(crate) mod args;
mod credentials;
mod login;
mod push;

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use serde_json::value::RawValue;
use sync_client::{
    context::{Environment, System},
    ingest::{self, IngestError, Quarantined, Stream, StreamStatus, TargetStatus},
};
use sync_core::ingest::batches::SENT;

use crate::{
    fault,
    output::{Done, Failure, Output, line},
    text::{counted, printable},
};

pub(crate) fn run(command: &args::Stream, out: Output) -> Result<Done, Failure> {
    match command {
        args::Stream::Add(args) => add(args, out),
        args::Stream::Push(args) => push::push(args, out),
        args::Stream::Enrol(args) => push::enrol(args, out),
        args::Stream::Status(args) => status(args, out),
        args::Stream::Login(args) => login::login(args, out),
        args::Stream::Schema(args) => schema(args),
    }
}

impl From<IngestError> for Failure {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::UnknownStream(_) | IngestError::UnknownKind { .. } | IngestError::Endpoint(_) => {
                Self::usage(sentence(&error.to_string()))
            }
            IngestError::Sqlite(error) => sync_client::Error::Sqlite(error).into(),
            error => Self::local(sentence(&error.to_string())),
        }
    }
}

/// A message of the library as a sentence.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}", first.to_uppercase(), chars.as_str()))
}

/// The stream of a file, with the environment that crash tests ask for.
fn open(file: &Path, stream: &str) -> Result<Stream, Failure> {
    // What cannot be understood was refused when the program started.
    let env: Arc<dyn Environment> = match fault::asked() {
        Ok(Some(stopping)) => Arc::new(stopping),
        _ => Arc::new(System),
    };
    Ok(Stream::open_with(file, stream, env)?)
}

fn add(args: &args::Add, out: Output) -> Result<Done, Failure> {
    // Before the file is made.
    ingest::contract(&args.stream)?;
    let unread = |e: io::Error| Failure::local(format!("{} cannot be read: {e}.", args.input.display()));
    let mut text = Vec::new();
    if args.input.as_os_str() == "-" {
        io::stdin().read_to_end(&mut text).map_err(unread)?;
    } else {
        text = fs::read(&args.input).map_err(unread)?;
    }
    let records = split(&text).ok_or_else(|| Failure::local("The input is not JSON: nothing was added."))?;
    let added = open(&args.file, &args.stream)?.add(&args.kind, records.iter().map(|r| r.get()))?;
    for faulty in &added.invalid {
        out.note(format_args!(
            "sync-client: {} {} is against the schema at {}: it will not be sent until it is added corrected.",
            faulty.kind,
            printable(faulty.id.as_deref().unwrap_or_default()),
            printable(&faulty.reason)
        ));
    }
    out.result(&added, || {
        let waiting = format!("{} waiting to be sent.", counted(added.added as u64, "record"));
        match added.left_out {
            0 => waiting,
            n => format!("{waiting} {} left out, as the server's configuration says.", counted(n as u64, "record")),
        }
    });
    Ok(Done::Clean)
}

/// The records of an input, as they are written: an array's items, or the one value.
fn split(text: &[u8]) -> Option<Vec<Box<RawValue>>> {
    let start = text.iter().find(|b| !b.is_ascii_whitespace());
    if start == Some(&b'[') {
        serde_json::from_slice(text).ok()
    } else {
        serde_json::from_slice(text).ok().map(|one| vec![one])
    }
}

fn status(args: &args::Status, out: Output) -> Result<Done, Failure> {
    crate::file::must_exist(&args.file)?;
    let status = open(&args.file, &args.stream)?.status()?;
    out.result(&status, || shown(&status));
    let waits = !status.invalid.is_empty() || status.targets.iter().any(|t| !t.quarantined.is_empty());
    Ok(if waits { Done::SomethingWaits } else { Done::Clean })
}

fn shown(status: &StreamStatus) -> String {
    let total: u64 = status.records.values().sum();
    let mut lines = vec![format!("{}: {}.", status.stream, counted(total, "record"))];
    for f in &status.invalid {
        let id = printable(f.id.as_deref().unwrap_or("without an id"));
        lines.push(format!("Not to be sent: {} {id}: {}.", printable(&f.kind), printable(&f.reason)));
    }
    for t in &status.targets {
        lines.push(target(t));
        lines.extend(t.quarantined.iter().map(refused));
    }
    lines.join("\n")
}

fn target(t: &TargetStatus) -> String {
    let waiting: u64 = t.waiting.values().sum();
    let mut parts = vec![format!("{} waiting", counted(waiting, "record"))];
    match (&t.last_success_at, &t.last_batch_id) {
        (Some(at), Some(batch)) => parts.push(format!("last success {at} ({batch})")),
        (Some(at), None) => parts.push(format!("last success {at}")),
        _ => parts.push("never reached".into()),
    }
    if let Some(batch) = &t.in_flight {
        parts.push(format!("{batch} is in doubt and goes first"));
    }
    if t.failure_count > 0 {
        let why = t.last_error.as_deref().unwrap_or_default();
        parts.push(format!("{} since then: {}", counted(t.failure_count, "failure"), printable(why)));
    }
    if let Some(at) = &t.retry_after {
        parts.push(format!("not before {at}"));
    }
    format!("{} {}: {}.", t.sink, printable(&t.target), parts.join("; "))
}

/// A record that a target refused, as a line.
fn refused(q: &Quarantined) -> String {
    format!("  refused: {} {}: {}. Add it again to send it again.", q.kind, printable(&q.id), printable(&q.reason))
}

fn schema(args: &args::Schema) -> Result<Done, Failure> {
    let contract = args.name.split_once('.').and_then(|(stream, _)| ingest::contract(stream).ok());
    let contract = contract.filter(|c| c.name == args.name).ok_or_else(|| {
        Failure::usage(format!(
            "There is no contract {}: there are statsai.sync_batch and aexy.events_batch.",
            printable(&args.name)
        ))
    })?;
    line(contract.versions[SENT].schema.text().trim_end());
    Ok(Done::Clean)
}
