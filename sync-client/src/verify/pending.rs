//! Keys whose state the server may not have, beside the intents: what the logs hold, and what is in flight.

use rusqlite::Connection;
use sync_core::schema::Table;
use sync_core::sqlite::capture::{log_columns, log_name};
use sync_core::sqlite::quote;

use crate::error::Error;

/// Hands over the table's keys in the outbox and in its log. One may come more than once.
pub(super) fn each_in_flight(
    conn: &Connection,
    t: i64,
    table: &Table,
    mut each: impl FnMut(Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    let names = log_columns(table.columns.len());
    let key = table.key.iter().map(|i| names[*i].as_str()).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT k FROM main._sync_out WHERE t = ?1 \
         UNION ALL SELECT _sync_key({key}) FROM main.{}",
        quote(&log_name(t))
    );
    let mut s = conn.prepare(&sql)?;
    let mut rows = s.query([t])?;
    while let Some(r) = rows.next()? {
        if let Some(k) = r.get::<_, Option<Vec<u8>>>(0)? {
            each(k)?;
        }
    }
    Ok(())
}
