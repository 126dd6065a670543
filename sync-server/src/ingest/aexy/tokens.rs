//! A developer's own tokens: made for whoever signed in, listed without their secrets, revoked at once.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rusqlite::params;
use serde_json::{Value, json};
use sync_core::ingest::gates::Refusal;

use super::{at, instant, reply, text};
use crate::ingest::Ingest;
use crate::ingest::http::vault;
use crate::ingest::sessions::hex;
use crate::ingest::vault::{Actor, Kind, NewKey, Vault, VaultError, insert};

/// Days that a token is valid.
const MOST_DAYS: i64 = 365;
const DAYS: i64 = 90;

/// Characters of a token's name, and of its beginning that is shown.
const MOST_NAME: usize = 255;
const SHOWN: usize = 12;

const DAY_MS: i64 = 86_400_000;

/// A developer's token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ingest) struct Token {
    pub(in crate::ingest) id: String,
    name: Option<String>,
    prefix: String,
    created_ms: i64,
    expires_ms: Option<i64>,
    last_used_ms: Option<i64>,
}

impl Vault {
    /// Makes a token; its secret is known this once.
    pub(in crate::ingest) fn make_token(
        &self,
        (stream, prefix): (&str, &str),
        user: &str,
        name: Option<&str>,
        expires_ms: Option<i64>,
    ) -> Result<(String, Token), VaultError> {
        let secret = format!("{prefix}{}", &hex(&self.random())[..32]);
        let key_id = format!("key_{}", &hex(&self.random())[..16]);
        let now = self.now();
        let key = NewKey { key_id, stream, user, kind: Kind::Key, device: None, name, expires_ms };
        let shown = secret[..SHOWN].to_owned();
        self.write(|tx| {
            insert(tx, &secret, &key, now)?;
            tx.execute("INSERT INTO token_prefix VALUES (?, ?)", params![key.key_id, shown])?;
            Ok(())
        })?;
        let name = name.map(str::to_owned);
        let token = Token { id: key.key_id, name, prefix: shown, created_ms: now, expires_ms, last_used_ms: None };
        Ok((secret, token))
    }

    /// A user's tokens that were not revoked, the oldest first.
    fn tokens(&self, stream: &str, user: &str) -> Result<Vec<Token>, VaultError> {
        self.read(|conn| {
            let mut s = conn.prepare_cached(
                "SELECT c.key_id, c.name, t.prefix, c.created_ms, c.expires_ms, c.last_used_ms FROM credential c \
                 JOIN token_prefix t ON t.key_id = c.key_id WHERE c.stream = ? AND c.user_id = ? AND c.revoked_ms IS NULL \
                 ORDER BY c.created_ms, c.key_id",
            )?;
            let rows = s.query_map([stream, user], |r| {
                Ok(Token {
                    id: r.get(0)?,
                    name: r.get(1)?,
                    prefix: r.get(2)?,
                    created_ms: r.get(3)?,
                    expires_ms: r.get(4)?,
                    last_used_ms: r.get(5)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Revokes a user's token. False where there is none of this id that is valid.
    fn revoke_token(&self, stream: &str, user: &str, id: &str) -> Result<bool, VaultError> {
        let now = self.now();
        self.write(|tx| {
            let changed = tx.execute(
                "UPDATE credential SET revoked_ms = ? WHERE key_id = ? AND stream = ? AND user_id = ? AND revoked_ms IS NULL",
                params![now, id, stream, user],
            )?;
            Ok(changed > 0)
        })
    }
}

fn shown(token: &Token, now: i64) -> Value {
    json!({
        "id": token.id,
        "name": token.name,
        "token_prefix": token.prefix,
        "created_at": instant(token.created_ms),
        "expires_at": token.expires_ms.map(instant),
        "last_used_at": token.last_used_ms.map(instant),
        "is_active": token.expires_ms.is_none_or(|at| at > now),
    })
}

pub(super) fn create(ingest: &Ingest, actor: &Actor, sent: &Value) -> Result<Response, Refusal> {
    let name = text(sent, "name", MOST_NAME)?;
    let days = match sent.get("expires_in_days") {
        None | Some(Value::Null) => DAYS,
        Some(n) => n.as_i64().filter(|n| (1..=MOST_DAYS).contains(n)).ok_or_else(|| at("/expires_in_days"))?,
    };
    let contract = &ingest.contract;
    let now = ingest.vault.now();
    let of = (contract.stream.as_str(), contract.auth.prefix.as_str());
    let made = ingest.vault.make_token(of, actor.user.as_str(), Some(name), Some(now + days * DAY_MS));
    let (secret, token) = made.map_err(|e| vault(&e))?;
    let mut reply_with = shown(&token, now);
    reply_with["token"] = secret.into();
    Ok(reply(StatusCode::CREATED, &reply_with))
}

pub(super) fn list(ingest: &Ingest, actor: &Actor) -> Result<Response, Refusal> {
    let all = ingest.vault.tokens(&ingest.contract.stream, actor.user.as_str()).map_err(|e| vault(&e))?;
    let now = ingest.vault.now();
    let all: Vec<Value> = all.iter().map(|t| shown(t, now)).collect();
    Ok(reply(StatusCode::OK, &all.into()))
}

pub(super) fn revoke(ingest: &Ingest, actor: &Actor, id: &str) -> Result<Response, Refusal> {
    let done = ingest.vault.revoke_token(&ingest.contract.stream, actor.user.as_str(), id);
    match done.map_err(|e| vault(&e))? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(Refusal::Missing("Token not found")),
    }
}
