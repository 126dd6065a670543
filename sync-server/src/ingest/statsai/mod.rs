//! The paths that StatsAI's contract has beside its batches: status, reset, sums, and the login of a device.

pub(super) mod browser;
pub(super) mod loopback;

use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Map, Value, json};
use sync_core::ingest::contract::Role;
use sync_core::ingest::gates::Refusal;

use super::http::{api, authenticate, blocking, json as reply, small, vault};
use super::rollups::{View, view};
use super::sessions::{POLL_SECONDS, Poll, Session, hex};
use super::vault::{Actor, VaultError};
use super::{Ingest, store};

/// Of the text members of a login, in characters.
const MOST_TEXT: usize = 255;

/// Paths that a device calls with its token.
pub(super) async fn of_device(
    ingest: Arc<Ingest>,
    role: Role,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let actor = authenticate(&ingest, headers).await?;
    let sent = if role == Role::Reset { Some(small(&ingest, headers, body).await?) } else { None };
    let turn = ingest.turns.take(&actor.user).await;
    let shown = blocking(move || {
        let _turn = turn;
        let (contract, device) = (&ingest.contract, actor.device.as_str());
        let now = ingest.service.environment().now_ms();
        let look = |which: View| ingest.service.on_file(&actor.user, |f| f.read(|c| view(c, contract, which, now)));
        let found = match role {
            Role::Status => status(&ingest, &actor),
            Role::Reset => {
                confirmed(sent.as_ref())?;
                let done = ingest.service.on_file(&actor.user, |f| f.write(|c| store::reset(c, contract, device)));
                done.map(|()| json!({ "ok": true, "scope": SCOPE, "device_id": device }))
            }
            Role::RollupsDaily => look(View::Daily),
            Role::RollupsMonthly => look(View::Monthly),
            Role::Dashboard => look(View::Dashboard),
            _ => return Err(Refusal::NotFound),
        };
        found.map_err(|e| api(&e))
    })
    .await?;
    reply(headers, &shown)
}

/// What the command line compares with its own state before it sends. Tasks come with later versions of the contract: it is
/// told to leave them out.
fn status(ingest: &Ingest, actor: &Actor) -> Result<Value, sync_core::protocol::ApiError> {
    let (contract, device) = (&ingest.contract, actor.device.as_str());
    let fresh = hex(&ingest.vault.random());
    let (standing, key) = ingest.service.on_file(&actor.user, |f| {
        let key = f.write(|c| store::secret(c, "code_change_identity_key", &fresh))?;
        Ok((f.read(|c| store::standing(c, contract, device))?, key))
    })?;
    let counts: Map<String, Value> = standing.mirrored.into_iter().map(|(kind, n)| (kind, n.into())).collect();
    Ok(json!({
        "device": { "device_id": device, "last_sync_batch_id": standing.last_batch },
        "mirrorCounts": counts,
        "capabilities": { "hostedTasks": false, "codeChangeIdentityKey": key },
    }))
}

/// The only scope that a reset has.
const SCOPE: &str = "device_mirror";

fn confirmed(sent: Option<&Value>) -> Result<(), Refusal> {
    let member = |name: &str| sent.and_then(|s| s.get(name));
    let scope = member("scope");
    let ok = member("confirm").and_then(Value::as_str) == Some("reset_synced_data")
        && (scope.is_none() || scope.and_then(Value::as_str) == Some(SCOPE));
    if ok { Ok(()) } else { Err(Refusal::BadRequest("invalid_request")) }
}

/// Login by code or browser, and refresh.
pub(super) async fn login(
    ingest: Arc<Ingest>,
    role: Role,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let sent = small(&ingest, headers, body).await?;
    let shown = blocking(move || {
        let stream = ingest.contract.stream.as_str();
        let prefix = ingest.contract.auth.prefix.as_str();
        match role {
            Role::LoginStart => {
                let name = optional(&sent, "deviceName")?;
                let begun = ingest.vault.begin_login(stream, text(&sent, "deviceId")?, name).map_err(|e| vault(&e))?;
                let page = format!("{}{}", ingest.options.public_url, browser::PATH);
                Ok(json!({
                    "deviceCode": begun.code,
                    "userCode": begun.user_code,
                    "verificationUri": page,
                    "verificationUriComplete": format!("{page}?code={}", begun.user_code),
                    "expiresAt": begun.expires_ms.div_euclid(1000),
                    "interval": POLL_SECONDS,
                }))
            }
            Role::LoginPoll => polled(ingest.vault.poll(stream, prefix, text(&sent, "deviceCode")?)),
            Role::LoginExchange => {
                let code = (text(&sent, "code")?, text(&sent, "state")?);
                let device = (text(&sent, "deviceId")?, optional(&sent, "deviceName")?);
                polled(ingest.vault.exchange(stream, prefix, code, device))
            }
            _ => {
                let rotation = optional(&sent, "rotationId")?;
                let session = ingest.vault.refresh(stream, prefix, text(&sent, "refreshToken")?, rotation);
                session.map_err(|e| vault(&e))?.as_ref().map(shown).ok_or(Refusal::Unauthenticated)
            }
        }
    })
    .await?;
    reply(headers, &shown)
}

fn polled(poll: Result<Poll, VaultError>) -> Result<Value, Refusal> {
    match poll {
        Ok(Poll::Approved(session)) => Ok(shown(&session)),
        Ok(Poll::Pending) => Err(Refusal::Login("authorization_pending")),
        Ok(Poll::Gone) => Err(Refusal::Login("expired_token")),
        Err(e) => Err(vault(&e)),
    }
}

fn shown(session: &Session) -> Value {
    json!({
        "accessToken": session.access,
        "accessExpiresAt": session.access_expires_ms.div_euclid(1000),
        "refreshToken": session.refresh,
        "refreshExpiresAt": session.refresh_expires_ms.div_euclid(1000),
        "deviceId": session.device,
    })
}

fn text<'a>(sent: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    optional(sent, name)?.ok_or(Refusal::BadRequest("invalid_request"))
}

fn optional<'a>(sent: &'a Value, name: &str) -> Result<Option<&'a str>, Refusal> {
    match sent.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) if !s.is_empty() && s.chars().count() <= MOST_TEXT => Ok(Some(s)),
        Some(_) => Err(Refusal::BadRequest("invalid_request")),
    }
}
