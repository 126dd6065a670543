//! Uploading the outbox in chunks (hop `push`; protocol §6). What was cut goes on where it stands: a
//! chunk whose reply is lost is sent again, and the session of a push with more than one chunk is
//! remembered in the file, so that a restart loses at most one chunk.

use std::collections::VecDeque;

use sync_core::canonical::{Escapes, push_integer, push_string};
use sync_core::key::Key;
use sync_core::protocol::push::RESTRICT;
use sync_core::protocol::{Code, Op};
use sync_core::record;
use sync_core::wire::{Form, push_key, push_partial_payload};

use crate::api::CallError;
use crate::context::FaultPoint;
use crate::engine::Engine;
use crate::error::Error;
use crate::push::Pushed;
use crate::report::Event;
use crate::store::{Meta, Outbox, OutboxRow};

/// How an upload ended.
pub(crate) enum Uploaded {
    /// Every row is there: commit.
    Whole,
    /// It cannot go on like this.
    Ended(Pushed),
    /// The session is not there any more; nothing is known of its fate. What was said.
    Gone(CallError),
}

impl Engine {
    /// Uploads every row that the session does not have. One that was begun before (`resumed`) is asked
    /// with a single row where it stands.
    pub(crate) fn upload(&self, outbox: &Outbox, push_id: &str, resumed: bool) -> Result<Uploaded, Error> {
        let most = match self.limits.max_rows_per_push_chunk {
            n if n > 0 => n,
            _ => FOREIGN_CHUNK_ROWS,
        };
        let mut chunk = Chunk {
            schema: self.wire_schema()?,
            body: String::with_capacity(CHUNK_BYTES + 64 * 1024),
            waiting: VecDeque::new(),
            read: 0,
            last: (0, Vec::new()),
        };
        let mut remembered = resumed;
        let mut fits = if resumed { 1 } else { most };
        // Lost replies and corrections of the place since the upload last got further than ever.
        let mut tries = 0;
        let (mut ordinal, mut furthest) = (0, 0);
        while ordinal < outbox.rows {
            let n = self.fill(&mut chunk, ordinal, fits)?;
            let sent = self.api.chunk(&outbox.source_id, push_id, chunk.body.as_bytes());
            let Err(error) = sent else {
                ordinal += n;
                if ordinal > furthest {
                    (tries, furthest) = (0, ordinal);
                }
                fits = fits.max(if ordinal == 1 { most } else { 0 });
                self.tell(&Event::Uploaded { rows: ordinal as u64, total: outbox.rows as u64 });
                if !remembered && ordinal < outbox.rows {
                    Meta::PushSession.set(&self.store.conn, push_id)?;
                    remembered = true;
                }
                self.env.fault(FaultPoint::Uploading);
                continue;
            };
            let code = error.code();
            match error {
                // Over a limit that this client did not know: fewer rows at once, down to the one that is too large.
                // One that is refused is found in the same way, where the reply does not name it.
                e if n > 1 && (too_large(&e) || code == Some(Code::PushChunkInvalid) && !self.names(&e)?) => {
                    fits = n / 2;
                    chunk.rewind(ordinal);
                }
                e if too_large(&e) => {
                    let message = match e.wordless() {
                        Some(_) => {
                            format!("this row is too large for what is on the way to the server: {}", e.sentence())
                        }
                        None => "this row is larger than what the server takes".into(),
                    };
                    return self
                        .set_apart(outbox, push_id, |e| e.hold_too_large(chunk.last.0, &chunk.last.1, &message));
                }
                CallError::Reply(r) if code == Some(Code::PushChunkOutOfOrder) && tries < TRIES => {
                    let stands = r.reply.next_expected_row_ordinal.filter(|n| (0..=outbox.rows).contains(n));
                    let Some(stands) = stands else { return Ok(Uploaded::Gone(CallError::Reply(r))) };
                    (ordinal, tries, fits) = (stands, tries + 1, most);
                    chunk.rewind(ordinal);
                }
                CallError::Other(Error::Offline { lost: true, .. }) if tries < TRIES => {
                    tries += 1;
                    chunk.rewind(ordinal);
                }
                CallError::Reply(r) if code == Some(Code::PushChunkInvalid) && self.names_one_of_ours(&r.reply)? => {
                    return self.set_apart(outbox, push_id, |e| e.hold_rejected(&r.reply));
                }
                e if code == Some(Code::PushChunkInvalid) => {
                    if let Some(end) = self.prove_uncommitted(outbox, Some(push_id))? {
                        return Ok(Uploaded::Ended(end));
                    }
                    return self.hold_refused(chunk.last.0, &chunk.last.1, &e.sentence()).map(Uploaded::Ended);
                }
                // The lease lapsed, or the bundle was committed by a server that died before it could say so:
                // only the tuple tells.
                e if matches!(code, Some(Code::InitializationExpired | Code::InitializationStale)) => {
                    Meta::InitializationId.clear(&self.store.conn)?;
                    return Ok(Uploaded::Gone(e));
                }
                e if matches!(
                    code,
                    Some(Code::PushSessionNotFound | Code::PushSessionExpired | Code::PushChunkOutOfOrder)
                ) || (resumed && code == Some(Code::PushSessionForbidden)) =>
                {
                    return Ok(Uploaded::Gone(e));
                }
                // The same where what is on the way has lost the server's words.
                e if matches!(e.wordless(), Some(404 | 409 | 410)) => {
                    if e.wordless() == Some(410) {
                        Meta::InitializationId.clear(&self.store.conn)?;
                    }
                    return Ok(Uploaded::Gone(e));
                }
                e if e.blames_rows() || matches!(e, CallError::Other(Error::Offline { lost: true, .. })) => {
                    return self.unnamed(outbox, push_id, e).map(Uploaded::Ended);
                }
                e => return Err(e.into()),
            }
        }
        Ok(Uploaded::Whole)
    }

    /// Whether an error reply names a row that was sent.
    fn names(&self, e: &CallError) -> Result<bool, Error> {
        match e {
            CallError::Reply(r) => self.names_one_of_ours(&r.reply),
            CallError::Other(_) => Ok(false),
        }
    }

    /// Takes the outbox back, once it is proven that nothing of it committed, and holds rows of it.
    fn set_apart(
        &self,
        outbox: &Outbox,
        push_id: &str,
        hold: impl FnOnce(&Self) -> Result<Pushed, Error>,
    ) -> Result<Uploaded, Error> {
        match self.release_proven(outbox, Some(push_id))? {
            Some(end) => Ok(Uploaded::Ended(end)),
            None => hold(self).map(Uploaded::Ended),
        }
    }

    /// Makes the next chunk, of at most `limit` rows and, unless one row is more, [`CHUNK_BYTES`]; less where the call
    /// may only use less. Returns its rows.
    fn fill(&self, chunk: &mut Chunk, ordinal: i64, limit: i64) -> Result<i64, Error> {
        let bytes = self.api.budget().and_then(|b| b.bytes_left()).map_or(CHUNK_BYTES, |left| {
            usize::try_from(left).unwrap_or(CHUNK_BYTES).clamp(LEAST_CHUNK_BYTES, CHUNK_BYTES)
        });
        chunk.body.clear();
        chunk.body.push_str("{\"start_row_ordinal\":");
        push_integer(&mut chunk.body, ordinal);
        chunk.body.push_str(",\"rows\":[");
        let mut n = 0;
        while n < limit {
            if chunk.waiting.is_empty() {
                chunk.waiting.extend(self.store.outbox_rows(chunk.read, READ_ROWS)?);
                chunk.read += chunk.waiting.len() as i64;
            }
            let Some(row) = chunk.waiting.pop_front() else { break };
            let before = chunk.body.len();
            if n > 0 {
                chunk.body.push(',');
            }
            self.push_row(&mut chunk.body, &chunk.schema, &row)?;
            if n > 0 && chunk.body.len() + END.len() > bytes {
                chunk.body.truncate(before);
                chunk.waiting.push_front(row);
                break;
            }
            n += 1;
            chunk.last = (row.t, row.k);
        }
        if n == 0 {
            return Err(Error::Damaged("the outbox lacks rows".into()));
        }
        chunk.body.push_str(END);
        Ok(n)
    }

    fn push_row(&self, body: &mut String, schema_name: &str, row: &OutboxRow) -> Result<(), Error> {
        let position =
            self.store.position(row.t).ok_or_else(|| Error::Damaged("a table in the outbox is gone".into()))?;
        let table = self.store.table(position);
        body.push_str("{\"schema\":");
        push_string(body, schema_name, Escapes::Minimal);
        body.push_str(",\"table\":");
        push_string(body, &table.name, Escapes::Minimal);
        body.push_str(",\"key\":");
        push_key(body, table, &Key::from_stored(row.k.clone()).unpack()?, Form::Exact);
        body.push_str(",\"op\":\"");
        body.push_str(row.op.name());
        body.push_str("\",\"base_row_version\":");
        push_integer(body, row.base_version);
        if row.op == Op::Delete && !row.departure.may_act_on_others() && self.api.is_ours() {
            body.push_str(",\"");
            body.push_str(RESTRICT);
            body.push_str("\":true");
        }
        if let (Some(stored), false) = (&row.row, row.op == Op::Delete) {
            let mut record = record::decode(stored)?;
            record.resize(table.columns.len(), None);
            if row.op == Op::Update && !self.api.is_ours() {
                self.store.leave_out_roundings(row.ordinal, table, &mut record)?;
            }
            body.push_str(",\"payload\":");
            push_partial_payload(body, table, &self.store.managed[position].order, &record, self.form());
        }
        body.push('}');
        Ok(())
    }
}

/// Whether a chunk is over a limit, the server's or one on the way.
fn too_large(e: &CallError) -> bool {
    e.code() == Some(Code::PayloadTooLarge) || e.wordless() == Some(413)
}

/// The chunk that is being made.
struct Chunk {
    schema: String,
    body: String,
    /// Rows that were read from the outbox and are in no chunk yet.
    waiting: VecDeque<OutboxRow>,
    /// Rows read so far.
    read: i64,
    /// Table and key of the last row.
    last: (i64, Vec<u8>),
}

impl Chunk {
    /// The next row is this one.
    fn rewind(&mut self, ordinal: i64) {
        self.waiting.clear();
        self.read = ordinal;
    }
}

/// What ends a chunk.
const END: &str = "]}";
/// A chunk has at most this many bytes, so that a weak link loses little, and a proxy as it comes takes it.
const CHUNK_BYTES: usize = 1024 * 1024;
/// The same where a call has hardly any bytes left.
const LEAST_CHUNK_BYTES: usize = 16 * 1024;
/// Rows read from the outbox at once.
const READ_ROWS: i64 = 500;
/// Rows of a chunk where the server advertises no limit.
const FOREIGN_CHUNK_ROWS: i64 = 1000;
/// Sends of one chunk after the first.
const TRIES: u32 = 2;
