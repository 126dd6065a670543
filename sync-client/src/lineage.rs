//! Which part of the server's history is this file's (cases H1, H2; protocol §8).

use sync_core::hash::Digest;
use sync_core::protocol::Code;
use sync_core::protocol::pull::PullRequest;

use crate::api::CallError;
use crate::engine::Engine;
use crate::error::Error;
use crate::store::Meta;

/// What the server says of a bundle and the hash of the history up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lineage {
    /// Its history is the same up to there.
    Same,
    /// It has another one.
    Other,
    /// It cannot tell: it remembers nothing of what it pruned, or knows no such hashes.
    Unknown,
}

impl Engine {
    /// Asks the server. A reply that says nothing of the history is an error.
    pub(crate) fn lineage_at(&self, source: &str, seq: i64, hash: Option<String>) -> Result<Lineage, Error> {
        if !self.api.is_ours() {
            return Ok(Lineage::Unknown);
        }
        let known = hash.is_some();
        let request = PullRequest {
            after_bundle_seq: seq,
            max_bundles: 1,
            after_history_hash: hash,
            max_inline_rows: Some(0),
            ..PullRequest::default()
        };
        let Err(error) = self.api.pull(source, &request) else {
            return Ok(if known { Lineage::Same } else { Lineage::Unknown });
        };
        match (error.code(), &error) {
            (Some(Code::CheckpointAhead | Code::HistoryDiverged), _) => Ok(Lineage::Other),
            (Some(Code::HistoryPruned), CallError::Reply(r)) if r.reply.history_shared => Ok(Lineage::Same),
            (Some(Code::HistoryPruned), _) => Ok(Lineage::Unknown),
            // What it says is lost on the way.
            _ if error.wordless() == Some(409) => Ok(Lineage::Unknown),
            _ => Err(error.into()),
        }
    }

    /// The server's history is not the one that this file knows: a rebuild finds where both part. Where the server
    /// cannot be asked for it, what both share ends at `shared`.
    pub(crate) fn rewritten(&self, shared: i64) -> Result<(), Error> {
        let tx = self.store.begin_unchecked()?;
        Meta::Fork.set(&tx, shared)?;
        Meta::Rebuild.set(&tx, "the server's history was rewritten")?;
        Ok(tx.commit()?)
    }

    /// H1: where the history of a snapshot parts from this file's; `None` where it does not. A rebuild must not take
    /// for deleted what a restored server never had. It is asked for once the snapshot was made: what was found
    /// before may be of a history that is gone as well.
    pub(crate) fn fork(&self, source: &str, snapshot_bundle_seq: i64) -> Result<Option<i64>, Error> {
        let conn = &self.store.conn;
        let checkpoint = Meta::Checkpoint.integer(conn)?;
        if checkpoint == 0 {
            return Ok(None);
        }
        let told = Meta::Fork.get::<i64>(conn)?;
        Ok(match self.lineage_at(source, checkpoint, Meta::HistoryHash.get(conn)?)? {
            Lineage::Same => None,
            Lineage::Other => Some(self.find_fork(source, "_sync_history")?),
            Lineage::Unknown => told.or_else(|| (snapshot_bundle_seq < checkpoint).then_some(snapshot_bundle_seq)),
        })
    }

    /// H1, H2: the highest bundle whose history hash the server confirms, among those that this file
    /// remembers; 0 where there is none. One that cannot be compared is not taken as shared.
    pub(crate) fn find_fork(&self, source: &str, of: &str) -> Result<i64, Error> {
        let mut s = self.store.conn.prepare(&format!("SELECT seq, hash FROM main.{of} ORDER BY seq"))?;
        let known: Vec<(i64, Vec<u8>)> = s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
        let (mut shared, mut low, mut high) = (0, 0, known.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            let (seq, hash) = &known[middle];
            match self.lineage_at(source, *seq, Digest::from_bytes(hash).map(|d| d.hex()))? {
                Lineage::Same => (shared, low) = (*seq, middle + 1),
                Lineage::Other => high = middle,
                Lineage::Unknown => low = middle + 1,
            }
        }
        Ok(shared)
    }
}
