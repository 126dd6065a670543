//! Opening a synced file, and stopping what runs on it when a signal comes.

use std::{
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sync_client::{
    Asker, Builder, Client, Error, Policy, read_status,
    report::Event,
    transport::{Http, Transport as _},
};

use crate::{
    args::{Patience, Rules},
    fault,
    output::Failure,
    token::Source,
};

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
pub(crate) fn builder(file: &Path, token: Option<Source>, rules: &Rules) -> Builder {
    let mut builder = Client::builder(file);
    if let Some(source) = token {
        builder = builder.token(source.answers());
    }
    // What cannot be understood was refused when the program started.
    if let Ok(Some(stopping)) = fault::asked() {
        builder = builder.environment(Arc::new(stopping));
    }
    for (table, policy) in &rules.policies {
        builder = match table {
            None => builder.policy(policy.clone()),
            Some(table) => builder.table_policy(table, policy.clone()),
        };
    }
    rules.keep.iter().fold(builder, |builder, table| builder.keep_edits_of(table))
}

/// A rule for a table that is not there would never act.
pub(crate) fn known_tables(rules: &Rules, tables: &[String]) -> Result<(), Failure> {
    let named = rules.policies.iter().filter_map(|(table, _)| table.as_ref()).chain(&rules.keep);
    match named.into_iter().find(|name| !tables.iter().any(|table| table.eq_ignore_ascii_case(name))) {
        None => Ok(()),
        Some(name) => Err(Failure::usage(format!(
            "There is a rule for {name}, which is not a synced table of this file. Those are: {}.",
            tables.join(", ")
        ))),
    }
}

/// Who is asked about conflicts, and how long an answer is waited for.
pub(crate) struct Ask {
    pub(crate) asker: Asker,
    pub(crate) within: Duration,
}

impl Ask {
    /// About every table: what holds for it otherwise decides where no answer comes.
    fn about(&self, tables: &[String], builder: Builder) -> Builder {
        let policy = || Policy::Ask(Arc::clone(&self.asker));
        let builder = builder.answer_within(self.within).policy(policy());
        tables.iter().fold(builder, |builder, table| builder.table_policy(table, policy()))
    }
}

/// A synced file, open, and the way to its server.
pub(crate) struct Opened {
    pub(crate) client: Client,
    http: Arc<Http>,
}

impl Opened {
    /// Opens a file that is synced already.
    pub(crate) fn new(
        file: &Path,
        token: Source,
        rules: &Rules,
        wait: &Patience,
        on_event: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Result<Self, Failure> {
        Self::asking(file, token, rules, wait, None, on_event)
    }

    /// The same, with somebody who is asked about conflicts.
    pub(crate) fn asking(
        file: &Path,
        token: Source,
        rules: &Rules,
        wait: &Patience,
        ask: Option<&Ask>,
        on_event: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Result<Self, Failure> {
        must_exist(file)?;
        let status = read_status(file)?;
        known_tables(rules, &status.tables)?;
        let http = Arc::new(Http::with_ca(&status.server, status.ca.as_deref().map(Path::new)).map_err(Error::from)?);
        let transport = Arc::<Http>::clone(&http);
        let mut builder = builder(file, Some(token), rules);
        if let Some(ask) = ask {
            builder = ask.about(&status.tables, builder);
        }
        let client =
            builder.transport(transport).on_event(on_event).patience(Duration::from_secs(wait.seconds)).open()?;
        Ok(Self { client, http })
    }

    /// Runs a verb that Ctrl-C and SIGTERM stop where it next speaks to the server.
    pub(crate) fn run<T>(&self, verb: impl FnOnce(&Client) -> Result<T, Error>) -> Result<T, Failure> {
        let http = Arc::clone(&self.http);
        on_signal(move || http.interrupt())?;
        Ok(verb(&self.client)?)
    }
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
