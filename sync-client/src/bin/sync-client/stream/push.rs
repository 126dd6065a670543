//! `stream push`.

use std::{io, sync::Arc};

use serde::Serialize;
use sync_client::{
    Error,
    context::{Environment as _, System},
    ingest::{self, Endpoint, How, Mode, Pushed, Remote, Sink, Stop},
    transport::{Http, Transport},
};
use sync_core::ingest::contract::Contract;

use super::{
    args::{Enrol, Push, To},
    credentials, open, refused, sentence,
};
use crate::{
    file::on_signal,
    output::{self, Done, Failure, Output},
    text::{counted, printable},
};

#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    pushed: &'a Pushed,
    error: Option<&'a Failure>,
}

pub(super) fn push(args: &Push, out: Output) -> Result<Done, Failure> {
    let contract = ingest::contract(&args.stream)?;
    let how = How {
        mode: if args.since_last { Mode::SinceLast } else { Mode::Full },
        dry_run: args.dry_run,
        verify: args.verify,
        device: args.device.clone(),
    };
    let pushed = match args.sink {
        To::Stdout => open(&args.file, &args.stream)?.push(&mut Sink::Stdout(&mut io::stdout()), &how)?,
        To::File => {
            let path = args.output.clone().ok_or_else(|| Failure::usage("--sink file needs --output."))?;
            open(&args.file, &args.stream)?.push(&mut Sink::File(path), &how)?
        }
        To::Http => {
            let remote = remote(&contract, args.endpoint.as_deref(), args.auth_token.as_deref(), args.dry_run)?;
            open(&args.file, &args.stream)?.push(&mut Sink::Http(&remote), &how)?
        }
    };
    Ok(told(&pushed, args.sink, out))
}

/// The server of a batch route, or of the one that the login is for, and the tokens for it.
fn remote(contract: &Contract, url: Option<&str>, token: Option<&str>, dry_run: bool) -> Result<Remote, Failure> {
    let store = credentials::Store::of(&contract.stream)?;
    let endpoint = match url {
        Some(url) => Endpoint::parse(url)?,
        None => {
            let kept = store.read()?.and_then(|stored| stored.endpoint);
            let none = || Failure::usage("A server needs --endpoint, the full URL of the batch route.");
            Endpoint::parse(&kept.ok_or_else(none)?)?
        }
    };
    let http = Arc::new(Http::new(endpoint.base()).map_err(Error::from)?);
    let stopping = Arc::clone(&http);
    on_signal(move || stopping.interrupt())?;
    let transport: Arc<dyn Transport> = http;
    let tokens =
        if dry_run { credentials::none() } else { store.tokens(token, contract, &endpoint, Arc::clone(&transport))? };
    Ok(Remote::new(endpoint, transport, tokens))
}

/// `stream enrol`
pub(super) fn enrol(args: &Enrol, out: Output) -> Result<Done, Failure> {
    let contract = ingest::contract(&args.stream)?;
    if contract.enrol.is_none() {
        return Err(Failure::usage(format!("The devices of {} are not enrolled.", contract.stream)));
    }
    let remote = remote(&contract, args.endpoint.as_deref(), args.auth_token.as_deref(), false)?;
    let stream = open(&args.file, &args.stream)?;
    let done = stream.enrol(&remote, &args.project, args.name.as_deref(), args.device.as_deref())?;
    // Of an enrolment it is the project that the server does not know.
    let enrolled = done.map_err(|stop| match stop {
        Stop::Enrol => failure(&Stop::Refused { status: 404, code: None }),
        stop => failure(&stop),
    })?;
    out.result(&enrolled, || {
        format!(
            "Device {} is enrolled into project {}.",
            printable(&enrolled.device_id),
            printable(&enrolled.project_id)
        )
    });
    Ok(Done::Clean)
}

/// Prints what became of it, and says how the program ends: what waits for a person comes before a refusal, and that before
/// what passes by itself.
fn told(pushed: &Pushed, sink: To, out: Output) -> Done {
    let failure = pushed.stop.as_ref().map(failure);
    let waits = !pushed.quarantined.is_empty() || !pushed.invalid.is_empty();
    let text = || {
        let total: u64 = pushed.counts.values().sum();
        let kinds: Vec<String> =
            pushed.counts.iter().filter(|(_, n)| **n > 0).map(|(kind, n)| format!("{kind} {n}")).collect();
        let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
        let mode = if pushed.mode == Mode::Full { "full" } else { "since last" };
        let verb = if pushed.dry_run { "Would send" } else { "Sent" };
        let batches = pushed.batches.len() as u64;
        let inside =
            if pushed.dry_run { String::new() } else { format!(" in {}", plural(batches, "batch", "batches")) };
        let records = counted(total, "record");
        let mut lines =
            vec![format!("{verb} {records}{kinds}{inside} to {} {}, {mode}.", pushed.sink, printable(&pushed.target))];
        if pushed.rebuilt {
            lines.push("Its state was another one than was known here: everything was sent anew.".into());
        }
        if pushed.verified {
            lines.push("It has what it confirmed.".into());
        }
        lines.extend(pushed.quarantined.iter().map(refused));
        lines.extend(pushed.invalid.iter().map(|f| {
            let id = printable(f.id.as_deref().unwrap_or("without an id"));
            format!("  not sent: {} {id}: {}. Add it corrected.", printable(&f.kind), printable(&f.reason))
        }));
        lines.join("\n")
    };
    if sink == To::Stdout && !pushed.dry_run {
        // Standard output has the batches, for another program.
        out.note(text());
    } else {
        out.result(&Told { pushed, error: failure.as_ref() }, text);
    }
    if let Some(failure) = &failure {
        failure.say();
    }
    match failure.map(|f| f.exit()) {
        _ if pushed.dry_run => Done::Clean,
        _ if waits => Done::SomethingWaits,
        Some(code) => Done::Ended(code),
        None => Done::Clean,
    }
}

fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A stop as exit code, class and sentence.
pub(super) fn failure(stop: &Stop) -> Failure {
    let (exit, class) = match stop {
        Stop::Invalid(_) => (output::SOMETHING_WAITS, "local"),
        Stop::Update => (output::SOMETHING_WAITS, "protocol"),
        Stop::Enrol => (output::SOMETHING_WAITS, "refused"),
        Stop::Later { .. } | Stop::Waiting { .. } => (output::OFFLINE, "failing"),
        Stop::Unreachable(_) => (output::OFFLINE, "offline"),
        Stop::Login(_) => (output::REFUSED, "auth"),
        Stop::Refused { .. } | Stop::Differs(_) => (output::REFUSED, "refused"),
        Stop::WrongAck(_) => (output::REFUSED, "protocol"),
        Stop::Interrupted => (output::OTHER, "stopped"),
        _ => (output::OTHER, "local"),
    };
    Failure::ended(exit, class, format!("{}.", sentence(&stop.to_string())))
}

/// Seconds since the Unix epoch.
pub(super) fn now_s() -> i64 {
    System.now_ms() / 1000
}
