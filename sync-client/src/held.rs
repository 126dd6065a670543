//! Rows that the server refused, or that cannot be sent, are held: they stay in their tables and wait.

use sync_core::key::Key;
use sync_core::protocol::error::{ErrorReply, RejectionReply};
use sync_core::value::Value;

use crate::engine::Engine;
use crate::error::Error;
use crate::push::Pushed;
use crate::report::Event;
use crate::store::WAITS_FOR;

impl Engine {
    /// The row of a rejection, where this file has its table.
    fn rejected_row(&self, r: &RejectionReply) -> Option<(usize, Vec<Value>, Key)> {
        let position = self.store.schema().position(&r.table)?;
        let key = sync_core::wire::decode_key(self.store.table(position), &r.key).ok()?;
        let k = Key::pack(&key).ok()?;
        Some((position, key, k))
    }

    /// Whether a refusal names a row that was sent.
    pub(crate) fn names_one_of_ours(&self, reply: &ErrorReply) -> Result<bool, Error> {
        let mut sent = self.store.conn.prepare_cached("SELECT 1 FROM main._sync_out WHERE t = ? AND k = ?")?;
        for r in &reply.rejections {
            if let Some((position, _, k)) = self.rejected_row(r)
                && sent.exists((self.store.managed[position].id, k.as_bytes()))?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Holds refused rows back with the server's reason. What needs them waits too, from the next freeze on.
    pub(crate) fn hold_rejected(&self, reply: &ErrorReply) -> Result<Pushed, Error> {
        let tx = self.store.begin()?;
        let mut refused = Vec::new();
        for r in &reply.rejections {
            let Some((position, key, k)) = self.rejected_row(r) else { continue };
            let kind = if r.kind.is_empty() { "refused" } else { &r.kind };
            self.store.hold(self.store.managed[position].id, k.as_bytes(), kind, &r.message)?;
            refused.push((position, key, k, &r.message));
        }
        self.store.settle_waiting()?;
        let (mut held, mut told) = (0, Vec::new());
        for (position, key, k, message) in refused {
            let (table, t) = (self.store.table(position), self.store.managed[position].id);
            let reason = self.store.dirty(t, k.as_bytes())?.and_then(|d| d.held);
            if reason.is_none_or(|r| r == WAITS_FOR) {
                continue;
            }
            self.store.note_refusal(t, k.as_bytes())?;
            held += 1;
            told.push(Event::Inbox {
                kind: "rejected".into(),
                table: table.name.clone(),
                key: crate::inbox::key_json(table, &key),
                message: message.clone(),
            });
        }
        tx.commit()?;
        told.iter().for_each(|e| self.tell(e));
        Ok(Pushed::Rejected(held))
    }
}

impl Engine {
    /// A row that no chunk can carry waits, and the rest goes on.
    pub(crate) fn hold_too_large(&self, t: i64, k: &[u8], message: &str) -> Result<Pushed, Error> {
        let tx = self.store.begin()?;
        self.store.hold(t, k, "too_large", message)?;
        tx.commit()?;
        Ok(Pushed::Rejected(1))
    }

    /// The one row of the outbox is refused, and it is certain that nothing of it committed. It waits, with what the
    /// server said; what needs it waits too, from the next freeze on.
    pub(crate) fn hold_refused(&self, t: i64, k: &[u8], sentence: &str) -> Result<Pushed, Error> {
        let tx = self.store.begin()?;
        self.store.release_outbox()?;
        self.store.hold(t, k, "refused", sentence)?;
        self.store.settle_waiting()?;
        self.store.note_refusal(t, k)?;
        tx.commit()?;
        if let Some(position) = self.store.position(t) {
            let table = self.store.table(position);
            self.tell(&Event::Inbox {
                kind: "rejected".into(),
                table: table.name.clone(),
                key: crate::inbox::key_json(table, &Key::from_stored(k.to_vec()).unpack()?),
                message: sentence.to_owned(),
            });
        }
        Ok(Pushed::Rejected(1))
    }
}
