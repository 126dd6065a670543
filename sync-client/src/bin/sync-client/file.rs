//! Opening a synced file, and stopping what runs on it when a signal comes.

use std::{
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sync_client::{Builder, Client, Policy, TokenRequest, report::Event};

use crate::{args::Wins, output::Failure, token::Source};

/// Refuses a path that is no file, before anything makes one.
pub(crate) fn must_exist(file: &Path) -> Result<(), Failure> {
    if file.is_file() {
        return Ok(());
    }
    let what = if file.exists() { "is not a file" } else { "does not exist" };
    Err(Failure::local(format!(
        "{} {what}. To make a new file from a server's tables use `sync-client clone`.",
        file.display()
    )))
}

/// A client of a file, with what every command sets.
pub(crate) fn builder(file: &Path, token: Option<Source>, policy: Option<Wins>) -> Builder {
    let mut builder = Client::builder(file);
    if let Some(source) = token {
        builder = builder.token(move |request: TokenRequest| source.read(request.renew));
    }
    match policy {
        None => builder,
        Some(Wins::ServerWins) => builder.policy(Policy::ServerWins),
        Some(Wins::ClientWins) => builder.policy(Policy::ClientWins),
    }
}

/// A client of a file that is synced already.
pub(crate) fn open(
    file: &Path,
    token: Source,
    policy: Option<Wins>,
    on_event: impl Fn(&Event) + Send + Sync + 'static,
) -> Result<Client, Failure> {
    must_exist(file)?;
    Ok(builder(file, Some(token), policy).on_event(on_event).open()?)
}

/// Calls `stop` on the first Ctrl-C, SIGTERM or SIGHUP; a second one ends the process at once, which
/// loses nothing either.
pub(crate) fn on_signal(stop: impl Fn() + Send + Sync + 'static) -> Result<(), Failure> {
    let stopping = Arc::new(AtomicBool::new(false));
    ctrlc::set_handler(move || {
        if stopping.swap(true, Ordering::SeqCst) {
            process::exit(130);
        }
        stop();
    })
    .map_err(|error| Failure::local(format!("Signals cannot be handled: {error}.")))
}
