//! Authentication for development: whoever says a name is that user.

use axum::http::HeaderMap;
use sync_core::protocol::UserId;

use super::{AuthError, Authenticate, bearer};

/// Takes any bearer token as the user id. Never for a server that others can reach.
#[derive(Debug, Clone, Copy, Default)]
pub struct DevAuth;

impl Authenticate for DevAuth {
    fn authenticate(&self, headers: &HeaderMap) -> Result<UserId, AuthError> {
        UserId::parse(bearer(headers)?).ok_or(AuthError::Missing)
    }
}
