//! A device login: a code that a person approves elsewhere, and tokens that are renewed with a refresh token.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::http::{Reply, code, exchange};
use super::report::Stop;
use crate::transport::{Method, Transport};

/// What a login was answered with. Never printed, but for the person's code and where to give it.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Started {
    /// The program's own code, for [`poll`].
    pub device_code: String,
    /// What the person gives.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// The same with the code in it.
    #[serde(default)]
    pub verification_uri_complete: Option<String>,
    /// Until when, in seconds since the Unix epoch.
    pub expires_at: i64,
    /// Seconds between two polls.
    pub interval: u64,
}

/// The tokens of a device.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// For requests.
    pub access_token: String,
    /// Until when it is good, in seconds since the Unix epoch.
    pub access_expires_at: i64,
    /// For another session, once.
    pub refresh_token: String,
    /// The device that it is for.
    #[serde(default)]
    pub device_id: Option<String>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("device_id", &self.device_id).finish_non_exhaustive()
    }
}

impl Session {
    /// Seconds before the end of an access token from which on it is renewed.
    const SOON: i64 = 300;

    /// Whether it has to be renewed before it is used.
    #[must_use]
    pub const fn is_stale(&self, now_s: i64) -> bool {
        self.access_expires_at - now_s <= Self::SOON
    }
}

/// How a login stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Poll {
    /// Nobody approved it yet.
    Pending,
    /// The same, and this asked too often.
    SlowDown,
    /// Approved.
    Done(Session),
}

/// Who asks for a login.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its name, for the person who approves.
    pub name: &'a str,
}

/// Begins a login at this path.
///
/// # Errors
/// Where the server cannot be reached or refuses; `Refused` with the code `invalid_device_id` where the device is
/// somebody else's.
pub fn start(transport: &dyn Transport, path: &str, device: Device<'_>) -> Result<Started, Stop> {
    let body = json!({
        "deviceId": device.id,
        "deviceName": device.name,
        "platform": std::env::consts::OS,
        "collectorVersion": env!("CARGO_PKG_VERSION"),
    });
    let reply = post(transport, path, &body)?;
    read(&reply)
}

/// Asks whether it was approved.
///
/// # Errors
/// As [`start`]; `Refused` with the codes `expired_token` and `access_denied`.
pub fn poll(transport: &dyn Transport, path: &str, device_code: &str) -> Result<Poll, Stop> {
    let reply = post(transport, path, &json!({ "deviceCode": device_code }))?;
    match code(&reply.body).as_deref() {
        Some("authorization_pending") => Ok(Poll::Pending),
        Some("slow_down") => Ok(Poll::SlowDown),
        _ => read(&reply).map(Poll::Done),
    }
}

/// Trades a refresh token for a new session. The same rotation (64 hexadecimal digits) yields the same session again, so
/// it has to be kept before this asks: a reply that is lost is asked for again.
///
/// # Errors
/// [`Stop::Login`] where the refresh token is no longer good: the session is over. Anything else leaves it as it was.
pub fn refresh(transport: &dyn Transport, path: &str, refresh_token: &str, rotation: &str) -> Result<Session, Stop> {
    let reply = post(transport, path, &json!({ "refreshToken": refresh_token, "rotationId": rotation }))?;
    if matches!(reply.status, 400 | 401) {
        return Err(Stop::Login("the login is over".into()));
    }
    read(&reply)
}

/// Trades a token that a person signed in with, which is short-lived, for one of its own that lasts a year.
///
/// # Errors
/// Where the server cannot be reached or refuses.
pub fn trade(transport: &dyn Transport, path: &str, signed: &str, name: &str) -> Result<String, Stop> {
    let body = json!({ "name": name, "expires_in_days": 365 }).to_string();
    let reply = exchange(transport, Method::Post, path, signed, Some(body.as_bytes()))?;
    match reply.status {
        401 => return Err(Stop::Login("the server refuses the token".into())),
        429 => return Err(Stop::Later { seconds: reply.retry_after.unwrap_or(60) }),
        500..=599 => {
            return Err(Stop::Unreachable(format!("the server is not up to it now (HTTP {})", reply.status)));
        }
        _ => {}
    }
    let made: serde_json::Value = read(&reply)?;
    let token = made.get("token").and_then(|t| t.as_str());
    token.map(str::to_owned).ok_or(Stop::Refused { status: reply.status, code: None })
}

fn post(transport: &dyn Transport, path: &str, body: &serde_json::Value) -> Result<Reply, Stop> {
    let reply = exchange(transport, Method::Post, path, "", Some(body.to_string().as_bytes()))?;
    match reply.status {
        429 => Err(Stop::Later { seconds: reply.retry_after.unwrap_or(60) }),
        500..=599 => Err(Stop::Unreachable(format!("the server is not up to it now (HTTP {})", reply.status))),
        _ => Ok(reply),
    }
}

fn read<T: serde::de::DeserializeOwned>(reply: &Reply) -> Result<T, Stop> {
    let refused = || Stop::Refused { status: reply.status, code: code(&reply.body) };
    if !(200..300).contains(&reply.status) {
        return Err(refused());
    }
    serde_json::from_slice(&reply.body).map_err(|_| refused())
}
