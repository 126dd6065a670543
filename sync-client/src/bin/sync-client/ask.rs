//! What `init` asks before it says that it is done, and what it says that it changed.

use std::{path::Path, sync::Arc, time::Duration};

use sync_client::{
    Client, Error,
    report::{ErrorClass, RequiredColumn, Status},
    transport::Http,
};

use crate::{
    args,
    output::{Failure, Output},
    progress::Progress,
    run,
    token::Source,
};

/// Asks the server whether it is one, and whether it takes the token. `None` where it was not asked, false where it
/// cannot be reached now: then the first sync says the rest. What it refuses is a failure, before anything is changed.
pub(crate) fn server(args: &args::Init, source: Option<&Source>, out: Output) -> Result<Answer, Failure> {
    if args.offline {
        return Ok((None, Vec::new()));
    }
    let Some(source) = source else {
        out.note("The server was not asked, since there is no token yet: the first sync needs one.");
        return Ok((None, Vec::new()));
    };
    let http = Arc::new(Http::with_ca(&args.server, args.trust.ca.as_deref()).map_err(Error::from)?);
    let id = uuid::Uuid::new_v4().to_string();
    let ask = || sync_client::ask_server(Arc::<Http>::clone(&http) as _, Arc::new(source.clone().answers()), &id);
    match patiently(&http, &args.wait, out, ask) {
        Ok(required) => Ok((Some(true), required)),
        // A host that answers otherwise than a server does was reached.
        Err(error) if error.class() == ErrorClass::Offline && !matches!(error, Error::Offline { lost: true, .. }) => {
            out.note(format_args!("The server cannot be asked now ({error}); the first sync is for later."));
            Ok((Some(false), Vec::new()))
        }
        Err(error) => Err(Failure::from(error).and("Nothing was changed; with --offline the server is not asked.")),
    }
}

/// Asks a server without a file: again where it says when to come back, as long as the patience lasts.
pub(crate) fn patiently<T>(
    http: &Http,
    wait: &args::Patience,
    out: Output,
    ask: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let progress = Progress::new(out);
    let outcome = sync_client::patiently(http, Duration::from_secs(wait.seconds), |event| progress.show(event), ask);
    progress.clear();
    outcome
}

/// Where a file joins an account that it may be a copy of: a person at a terminal says it now, otherwise the question is
/// how the command ends.
pub(crate) fn copy(client: &Client, out: Output) -> Result<(), Failure> {
    match client.ask_before_attaching() {
        Ok(()) => Ok(()),
        Err(question @ Error::LooksLikeCopy { .. }) => {
            let Some(mode) = run::asked(&question, out) else { return Err(question.into()) };
            Ok(client.attach_as(mode)?)
        }
        Err(error) => {
            out.note(format_args!(
                "Whether this file is a copy of one in the account could not be asked now ({error}); the first sync does."
            ));
            Ok(())
        }
    }
}

/// Whether the server answered, where it was asked, and the columns that its new rows have to give a value.
type Answer = (Option<bool>, Vec<RequiredColumn>);

/// Says which of those columns this file does not have: its new rows would be refused.
pub(crate) fn lacking(file: &Path, required: &[RequiredColumn], out: Output) -> Result<(), Failure> {
    if required.is_empty() {
        return Ok(());
    }
    let found = sync_client::inspect(file, None)?;
    for RequiredColumn { table, column, line } in required {
        if found.schema.table(table).is_some_and(|t| t.column(column).is_none()) {
            out.note(format_args!(
                "Table {table}: on the server it has a column {column} that takes no NULL and has no default. This file \
                 does not have it, so its new rows will be refused, until the server's schema.sql says, also now: {line}"
            ));
        }
    }
    Ok(())
}

/// What another `init` changed, in words; nothing of a file that was not synced before.
pub(crate) fn changes(before: Option<&Status>, args: &args::Init, old_token: Option<&str>) -> Vec<String> {
    let Some(before) = before else { return Vec::new() };
    let mut changes = Vec::new();
    let server = args.server.trim_end_matches('/');
    if before.server != server {
        changes.push(format!("the server is {server}, it was {}", before.server));
    }
    match (args.token.given.as_deref(), old_token) {
        (Some(new), Some(old)) if new != old => changes.push("another token is kept".into()),
        (Some(_), None) => changes.push("the token is kept".into()),
        _ => {}
    }
    if !args.rules.policies.is_empty() || !args.rules.keep.is_empty() {
        changes.push("the policies are those that were given now".into());
    }
    if args.attach.is_some() && !before.attached {
        changes.push("how both sides' rows meet is what was given now".into());
    }
    changes
}

/// The first line of what `init` says.
pub(crate) fn said(file: &Path, tables: &str, before: Option<&Status>, changes: &[String]) -> String {
    let file = file.display();
    match (before, changes) {
        (None, _) => format!("{file} is synced now: {tables}."),
        (Some(_), []) => format!("{file} was synced already, with {tables}; nothing was changed."),
        (Some(_), changes) => format!("{file} was synced already, with {tables}. Changed: {}.", changes.join("; ")),
    }
}
