//! Who asks: the trait that a host implements, and the `Caller` that every handler takes.
//!
//! The order is fixed: authentication, then the source header, then the request itself.

mod dev;
mod jwt;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use sync_core::hash::Algorithm;
use sync_core::protocol::{ApiError, Code, HASH_HEADER, SOURCE_HEADER, SourceId, UserId};

pub use dev::DevAuth;
pub use jwt::{JwtAuth, SecretError};

use crate::app::App;
use crate::error::Failure;
use crate::service::Caller;

/// Tells the user of a request from its headers.
///
/// It is called on a thread that drives connections, so it must not wait for anything.
/// A host that authenticates in a layer of its own puts the result into the request's extensions
/// and implements [`Authenticate::identify`].
pub trait Authenticate: Send + Sync + 'static {
    /// The user of a request.
    ///
    /// # Errors
    /// Where the request carries nothing that proves a user.
    fn authenticate(&self, headers: &HeaderMap) -> Result<UserId, AuthError>;

    /// User and, where the host knows it better than the header, source. The default takes the
    /// user from [`Authenticate::authenticate`] and leaves the source to `Oversync-Source-ID`.
    ///
    /// # Errors
    /// As [`Authenticate::authenticate`].
    fn identify(&self, parts: &Parts) -> Result<Identity, AuthError> {
        Ok(Identity { user: self.authenticate(&parts.headers)?, source: None })
    }
}

/// What authentication yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// The source; `None` takes it from `Oversync-Source-ID`.
    pub source: Option<SourceId>,
}

/// Why a request has no user. The texts say nothing about the token's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No `Authorization: Bearer` header.
    #[error("the Authorization header with a bearer token is missing")]
    Missing,
    /// The token is malformed, forged, or for something else.
    #[error("the bearer token is not valid")]
    Invalid,
    /// The token was valid once.
    #[error("the bearer token has expired")]
    Expired,
    /// This user asks too often.
    #[error("too many requests")]
    RateLimited {
        /// Whole seconds to wait.
        retry_after_seconds: u64,
    },
    /// Whoever decides cannot be reached at the moment.
    #[error("authentication is not available at the moment")]
    Unavailable,
}

impl From<AuthError> for ApiError {
    fn from(e: AuthError) -> Self {
        let message = e.to_string();
        match e {
            AuthError::Missing | AuthError::Invalid | AuthError::Expired => {
                Self::new(Code::AuthenticationFailed, message)
            }
            AuthError::RateLimited { retry_after_seconds } => {
                Self::new(Code::RateLimited, message).after(retry_after_seconds)
            }
            AuthError::Unavailable => Self::new(Code::ServiceUnavailable, message),
        }
    }
}

/// The token of `Authorization: Bearer <token>`.
///
/// # Errors
/// Missing where there is none; invalid where there are several.
pub fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(AuthError::Missing)?;
    if values.next().is_some() {
        return Err(AuthError::Invalid);
    }
    let value = value.to_str().map_err(|_| AuthError::Invalid)?;
    let (scheme, token) = value.trim().split_once(' ').ok_or(AuthError::Missing)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(AuthError::Missing);
    }
    Ok(token)
}

/// An authenticated caller, as a handler's argument.
#[derive(Debug)]
pub(crate) struct Authenticated(pub(crate) Caller);

impl FromRequestParts<App> for Authenticated {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let Identity { user, source } = app.identify(parts)?;
        let source = match source {
            Some(source) => source,
            None => source_of(&parts.headers)?,
        };
        let exact = parts.headers.get(HASH_HEADER).is_some_and(|v| v.as_bytes().trim_ascii() == b"blake3");
        let algorithm = if exact { Algorithm::Blake3 } else { Algorithm::Sha256 };
        Ok(Self(Caller { user, source, algorithm }))
    }
}

fn source_of(headers: &HeaderMap) -> Result<SourceId, Failure> {
    let value = headers.get(SOURCE_HEADER).map(|v| v.as_bytes().trim_ascii()).unwrap_or_default();
    if value.is_empty() {
        return Err(Failure::new(Code::InvalidRequest, format!("{SOURCE_HEADER} header is required")));
    }
    std::str::from_utf8(value).ok().and_then(SourceId::parse).ok_or_else(|| {
        Failure::new(Code::InvalidRequest, format!("{SOURCE_HEADER} must be 1 to 128 characters, each from ! to ~"))
    })
}
