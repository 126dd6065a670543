//! What a server is asked without a file, and how long anybody waits for a place on it.

use std::sync::Arc;
use std::time::Duration;

use sync_core::engine::patience::wait_ms;
use sync_core::protocol::capabilities::SchemaReply;
use sync_core::schema::line_with_default;

use crate::api::{Api, TokenSource};
use crate::context::{Environment as _, System};
use crate::error::Error;
use crate::report::{Event, RequiredColumn};
use crate::transport::Transport;

/// Asks a server for its schema: what a new device makes its file from.
///
/// # Errors
/// The network's and the server's.
pub fn fetch_schema(transport: Arc<dyn Transport>, token: TokenSource, source_id: &str) -> Result<SchemaReply, Error> {
    Api::new(transport, token).schema(source_id).map_err(Error::from)
}

/// Asks a server whether it is one that a file can be synced with, and whether it takes the token. Returns the columns
/// that its new rows have to give a value, as far as it tells.
///
/// # Errors
/// The network's and the server's; [`Error::Protocol`] where something else answers.
pub fn ask_server(
    transport: Arc<dyn Transport>,
    token: TokenSource,
    source_id: &str,
) -> Result<Vec<RequiredColumn>, Error> {
    let capabilities = Api::new(transport, token).capabilities(source_id).map_err(Error::from)?;
    if !capabilities.has("connect_lifecycle") {
        return Err(Error::Protocol("it does not offer the connect lifecycle".into()));
    }
    let mut required = Vec::new();
    for spec in &capabilities.registered_table_specs {
        for (column, declared) in spec.columns.iter().zip(&spec.column_types) {
            if spec.required_columns.contains(column) {
                let line = line_with_default(column, declared);
                required.push(RequiredColumn { table: spec.table.clone(), column: column.clone(), line });
            }
        }
    }
    Ok(required)
}

/// Asks again where the server says when to come back (it has no place now, or another device fills the account), as long
/// as the patience lasts; `told` hears of each wait ([`Event::Waiting`]). The verbs of a [`crate::Client`] do so by
/// themselves ([`crate::Builder::patience`]); this is for [`fetch_schema`] and [`ask_server`].
///
/// # Errors
/// Those of `ask`; [`Error::Stopped`] where the transport was interrupted.
pub fn patiently<T>(
    transport: &dyn Transport,
    patience: Duration,
    told: impl Fn(&Event),
    ask: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let wait = |event: Event, time: Duration| {
        told(&event);
        Ok(transport.pause(time)?)
    };
    until_there_is_a_place(patience, || System.random(), wait, ask)
}

pub(crate) fn until_there_is_a_place<T>(
    patience: Duration,
    random: impl Fn() -> u64,
    wait: impl Fn(Event, Duration) -> Result<(), Error>,
    mut ask: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let mut left_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    loop {
        let outcome = ask();
        let Err(error) = &outcome else { return outcome };
        let wait_ms = error.later().and_then(|later| wait_ms(later, left_ms, random()));
        let Some(ms) = wait_ms else { return outcome };
        left_ms -= ms;
        wait(Event::Waiting { message: error.to_string(), ms: Some(ms) }, Duration::from_millis(ms))?;
    }
}
