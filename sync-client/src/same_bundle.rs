//! Servers that name neither their scopes nor their histories: whether the bundle at the checkpoint is the
//! one that this file applied (cases H2, H8). Another user's token, or a history that was rewritten and has
//! regrown, is noticed by it before a row is sent.

use sync_core::protocol::rows::read_page;

use crate::api::CallError;
use crate::engine::Engine;
use crate::error::Error;
use crate::pull::read_failed;
use crate::store::Meta;

/// A bundle as it is told from others.
pub(crate) fn identity(seq: i64, source_id: &str, source_bundle_id: i64, hash: &str) -> String {
    format!("{seq} {source_bundle_id} {hash} {source_id}")
}

impl Engine {
    /// Compares the checkpoint's bundle with the server's. One that the server does not have, or not any more,
    /// says nothing: that is for the pull.
    pub(crate) fn same_bundle(&self) -> Result<(), Error> {
        let conn = &self.store.conn;
        let checkpoint = Meta::Checkpoint.integer(conn)?;
        if self.api.is_ours() || checkpoint == 0 || Meta::Attached.integer(conn)? == 0 {
            return Ok(());
        }
        let prefix = format!("{checkpoint} ");
        let Some(known) = Meta::CheckpointBundle.get::<String>(conn)?.filter(|b| b.starts_with(&prefix)) else {
            return Ok(());
        };
        match self.bundle_of(checkpoint)? {
            Some(theirs) if theirs != known => Err(Error::WrongScope),
            _ => Ok(()),
        }
    }

    /// The server's bundle of this number, where it is needed and kept.
    pub(crate) fn bundle_of(&self, seq: i64) -> Result<Option<String>, Error> {
        if self.api.is_ours() || seq == 0 {
            return Ok(None);
        }
        let response = match self.api.committed_rows(&self.source_id()?, seq, None, 1) {
            Ok(r) => r,
            Err(CallError::Reply(r)) if matches!(r.status, 404 | 409 | 500) => {
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        let head = read_page(response.body, |_| Ok::<(), Error>(())).map_err(read_failed)?;
        Ok(head
            .bundle
            .map(|b| identity(b.bundle_seq, &b.source_id, b.source_bundle_id, &b.bundle_hash.unwrap_or_default())))
    }
}
