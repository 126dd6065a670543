//! Keys whose state the server may not have, beside the intents: what the logs hold, and what is in flight.

use rusqlite::Connection;
use sync_core::sqlite::capture::log_name;
use sync_core::sqlite::quote;

use crate::error::Error;

/// Hands over a table's keys in the outbox and in its log, which has the key's columns at these positions. A
/// key may come more than once.
pub(super) fn each_in_flight(
    conn: &Connection,
    t: i64,
    key: &[usize],
    mut each: impl FnMut(Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    let key = key.iter().map(|i| format!("c{i}")).collect::<Vec<_>>().join(", ");
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
