//! JSON Web Tokens with HS256 (RFC 7519): verified in constant time, for a limited time, by one secret.

use std::fmt;
use std::sync::Arc;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use sync_core::protocol::UserId;

use super::{AuthError, Authenticate, bearer};
use crate::service::Environment;

/// Takes the user id from `sub` of a token that this secret signed.
///
/// `alg` must be `HS256`, `exp` must be there and lie ahead, `nbf` must have come where it is there.
#[derive(Clone)]
pub struct JwtAuth {
    mac: Hmac<Sha256>,
    environment: Arc<dyn Environment>,
}

impl JwtAuth {
    /// Shortest secret that is taken, in bytes: as long as the signature.
    pub const MIN_SECRET_BYTES: usize = 32;

    /// # Errors
    /// Where the secret is too short.
    pub fn new(secret: &[u8], environment: Arc<dyn Environment>) -> Result<Self, SecretError> {
        if secret.len() < Self::MIN_SECRET_BYTES {
            return Err(SecretError { bytes: secret.len() });
        }
        let mac = Hmac::<Sha256>::new_from_slice(secret).expect("invariant: HMAC takes keys of any length");
        Ok(Self { mac, environment })
    }

    /// A token for a user that expires after so many seconds.
    #[must_use]
    pub fn issue(&self, user: &UserId, valid_seconds: i64) -> String {
        let now = self.now_seconds();
        let header = Header { alg: HS256.into(), typ: Some("JWT".into()), crit: None };
        let claims = Issued { sub: user.as_str(), iat: now, exp: now.saturating_add(valid_seconds) };
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.mac.clone().chain_update(&signed).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The user of a token.
    ///
    /// # Errors
    /// Where it is malformed, signed by another secret or in another way, expired, or not valid yet.
    pub fn verify(&self, token: &str) -> Result<UserId, AuthError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(AuthError::Invalid)?;
        let (header, claims) = signed.split_once('.').ok_or(AuthError::Invalid)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| AuthError::Invalid)?;
        // The signature comes first: nothing that it does not cover is parsed.
        self.mac.clone().chain_update(signed).verify_slice(&signature).map_err(|_| AuthError::Invalid)?;
        let header: Header = decode(header)?;
        if header.alg != HS256 || header.crit.is_some() {
            return Err(AuthError::Invalid);
        }
        let claims: Claims = decode(claims)?;
        let now = self.now_seconds() as f64;
        let expires = claims.exp.ok_or(AuthError::Invalid)?;
        if now >= expires {
            return Err(AuthError::Expired);
        }
        if claims.nbf.is_some_and(|from| now < from) {
            return Err(AuthError::Invalid);
        }
        UserId::parse(&claims.sub).ok_or(AuthError::Invalid)
    }

    fn now_seconds(&self) -> i64 {
        self.environment.now_ms().div_euclid(1000)
    }
}

impl Authenticate for JwtAuth {
    fn authenticate(&self, headers: &HeaderMap) -> Result<UserId, AuthError> {
        self.verify(bearer(headers)?)
    }
}

impl fmt::Debug for JwtAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtAuth").finish_non_exhaustive()
    }
}

/// A secret that is too short to sign tokens with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret has {bytes} bytes; at least {} are needed", JwtAuth::MIN_SECRET_BYTES)]
pub struct SecretError {
    bytes: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
    /// Extensions that must be understood; none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<Vec<String>>,
}

/// What a token of ours says. Times are seconds since the Unix epoch.
#[derive(Debug, Serialize)]
struct Issued<'a> {
    sub: &'a str,
    iat: i64,
    exp: i64,
}

/// What is read of a token, which somebody else may have issued: times may have a fraction.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    exp: Option<f64>,
    nbf: Option<f64>,
}

fn encode(part: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(part).expect("invariant: text and finite numbers always serialise"))
}

fn decode<T: for<'a> Deserialize<'a>>(part: &str) -> Result<T, AuthError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Invalid)?;
    sync_core::json::from_slice(&bytes).map_err(|_| AuthError::Invalid)
}

const HS256: &str = "HS256";
