//! Keys for row sync: `sk_…`, beside the tokens that a secret signs.

use std::path::Path;
use std::sync::Arc;

use axum::http::HeaderMap;
use sync_core::protocol::UserId;

use super::IngestError;
use super::vault::Vault;
use crate::auth::{AuthError, Authenticate, bearer};
use crate::service::Environment;

/// The stream that row sync is, in `keys.db`.
pub(crate) const SYNC: &str = "sync";

/// How a key for row sync begins.
pub(crate) const PREFIX: &str = "sk_";

/// Takes keys that `sync-server keys create --for sync` made, and leaves every other token to another authentication.
#[derive(Debug)]
pub struct KeyAuth<A> {
    vault: Vault,
    other: A,
}

impl<A: Authenticate> KeyAuth<A> {
    /// Keys of a data directory, before `other`.
    ///
    /// # Errors
    /// Where the keys cannot be opened.
    pub fn new(data: &Path, environment: Arc<dyn Environment>, other: A) -> Result<Self, IngestError> {
        let vault = Vault::open(data, environment).map_err(|e| IngestError::Keys(e.to_string()))?;
        Ok(Self { vault, other })
    }
}

impl<A: Authenticate> Authenticate for KeyAuth<A> {
    /// One look-up in a small file: it waits for the disk at most.
    fn authenticate(&self, headers: &HeaderMap) -> Result<UserId, AuthError> {
        let secret = bearer(headers)?;
        if !secret.starts_with(PREFIX) {
            return self.other.authenticate(headers);
        }
        match self.vault.actor(SYNC, secret) {
            Ok(Some(actor)) => Ok(actor.user),
            Ok(None) => Err(AuthError::Invalid),
            Err(e) => {
                tracing::warn!(cause = %e, "the keys are not available");
                Err(AuthError::Unavailable)
            }
        }
    }
}
