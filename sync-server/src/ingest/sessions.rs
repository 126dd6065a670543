//! Device logins by code, and the sessions that come of them: an access token for an hour, and a refresh token that each
//! use replaces.

use hmac::{Hmac, KeyInit, Mac};
use rusqlite::{OptionalExtension as _, Transaction, params};
use sha2::Sha256;

use super::vault::{Kind, NewKey, Vault, VaultError, hash, insert};

/// Seconds that a login waits for its approval.
pub(crate) const LOGIN_SECONDS: i64 = 15 * 60;

/// Seconds between two polls that a device is asked to keep.
pub(crate) const POLL_SECONDS: i64 = 5;

/// Logins that wait at once, over all users.
const MOST_LOGINS: i64 = 10_000;

/// How long a device has to trade the code that its browser came back with.
const EXCHANGE_MS: i64 = 5 * 60 * 1000;

const ACCESS_MS: i64 = 60 * 60 * 1000;
const REFRESH_MS: i64 = 90 * 24 * 60 * 60 * 1000;

/// Tokens that expired are forgotten after so long.
const FORGET_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// A login that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// A secret of whoever began it.
    pub(crate) code: String,
    /// What a person is shown.
    pub(crate) user_code: String,
    /// Milliseconds since the epoch.
    pub(crate) expires_ms: i64,
}

/// What a device is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) device: String,
    pub(crate) access: String,
    pub(crate) access_expires_ms: i64,
    pub(crate) refresh: String,
    pub(crate) refresh_expires_ms: i64,
}

/// Where a login stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Poll {
    /// Nobody approved it yet.
    Pending,
    /// It was approved; this is told once.
    Approved(Session),
    /// It is unknown, too old, or was told already.
    Gone,
}

impl Vault {
    /// Begins a login of a device.
    pub(crate) fn begin_login(&self, stream: &str, device: &str, name: Option<&str>) -> Result<Login, VaultError> {
        self.begin(stream, [Some(device), name, None, None])
    }

    /// Begins a login in a browser, which goes back to `redirect` with `state`.
    pub(crate) fn begin_page(&self, stream: &str, redirect: &str, state: &str) -> Result<Login, VaultError> {
        self.begin(stream, [None, None, Some(redirect), Some(state)])
    }

    fn begin(&self, stream: &str, [device, name, redirect, state]: [Option<&str>; 4]) -> Result<Login, VaultError> {
        let now = self.now();
        let (code, user_code) = (hex(&self.random()), user_code(&self.random()));
        let login = Login { code, user_code, expires_ms: now + LOGIN_SECONDS * 1000 };
        self.write(|tx| {
            make_room(tx, now)?;
            tx.execute(
                "INSERT INTO login (code, user_code, stream, expires_ms, device, name, redirect, state) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                params![hash(&login.code), login.user_code, stream, login.expires_ms, device, name, redirect, state],
            )?;
            Ok(())
        })?;
        Ok(login)
    }

    /// Where a login in a browser stands. Once it was approved, its code becomes another one, for the device.
    pub(crate) fn page(&self, stream: &str, code: &str) -> Result<Page, VaultError> {
        let (now, next) = (self.now(), hex(&self.random()));
        self.write(|tx| {
            let found: Option<(String, String, String, Option<String>)> = tx
                .query_row(
                    "SELECT redirect, state, user_code, user_id FROM login WHERE code = ? AND stream = ? AND expires_ms > ? \
                     AND redirect IS NOT NULL AND user_code IS NOT NULL",
                    params![hash(code), stream, now],
                    |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)),
                )
                .optional()?;
            let Some((redirect, state, user_code, user)) = found else { return Ok(Page::Gone) };
            if user.is_none() {
                return Ok(Page::Pending { user_code });
            }
            tx.execute(
                "UPDATE login SET code = ?, user_code = NULL, expires_ms = ? WHERE code = ?",
                params![hash(&next), now + EXCHANGE_MS, hash(code)],
            )?;
            Ok(Page::Approved { redirect, state, code: next })
        })
    }

    /// Where the sign-in of a person in a browser stands; once it was approved, that is told once.
    pub(crate) fn sign_in(&self, stream: &str, code: &str) -> Result<SignIn, VaultError> {
        let now = self.now();
        self.write(|tx| {
            let found: Option<(String, String, Option<String>)> = tx
                .query_row(
                    "SELECT redirect, user_code, user_id FROM login WHERE code = ? AND stream = ? AND expires_ms > ? \
                     AND redirect IS NOT NULL AND user_code IS NOT NULL",
                    params![hash(code), stream, now],
                    |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
                )
                .optional()?;
            let Some((redirect, user_code, user)) = found else { return Ok(SignIn::Gone) };
            let Some(user) = user else { return Ok(SignIn::Pending { user_code }) };
            tx.execute("DELETE FROM login WHERE code = ?", [hash(code)])?;
            Ok(SignIn::Approved { redirect, user })
        })
    }

    /// Trades the code that a browser came back with for a session of a device.
    pub(crate) fn exchange(
        &self,
        stream: &str,
        prefix: &str,
        (code, state): (&str, &str),
        (device, name): (&str, Option<&str>),
    ) -> Result<Poll, VaultError> {
        let now = self.now();
        let (tokens, key_id) = self.new_session(prefix);
        self.write(|tx| {
            let user: Option<String> = tx
                .query_row(
                    "SELECT user_id FROM login WHERE code = ? AND stream = ? AND expires_ms > ? AND state = ? \
                     AND user_code IS NULL",
                    params![hash(code), stream, now, state],
                    |r| r.get(0),
                )
                .optional()?;
            let Some(user) = user else { return Ok(Poll::Gone) };
            tx.execute("DELETE FROM login WHERE code = ?", [hash(code)])?;
            let key = Owner { key_id, stream, user, device: device.to_owned(), name: name.map(str::to_owned) };
            Ok(Poll::Approved(mint(tx, &key, tokens, now)?))
        })
    }

    /// Access token, refresh token, and the id of both.
    fn new_session(&self, prefix: &str) -> ((String, String), String) {
        let (access, refresh, id) = (hex(&self.random()), hex(&self.random()), hex(&self.random()));
        ((format!("{prefix}{access}"), format!("{prefix}r_{refresh}")), format!("key_{}", &id[..16]))
    }

    /// Lets a user in by the code that the device shows. False where no login waits under it.
    pub(crate) fn approve(&self, user_code: &str, user: &str) -> Result<bool, VaultError> {
        let now = self.now();
        let code = user_code.trim().to_ascii_uppercase();
        self.write(|tx| {
            let changed = tx.execute(
                "UPDATE login SET user_id = ? WHERE user_code = ? AND user_id IS NULL AND expires_ms > ?",
                params![user, code, now],
            )?;
            Ok(changed > 0)
        })
    }

    /// Where a login stands; the session where it was approved.
    pub(crate) fn poll(&self, stream: &str, prefix: &str, device_code: &str) -> Result<Poll, VaultError> {
        let now = self.now();
        let (tokens, key_id) = self.new_session(prefix);
        self.write(|tx| {
            let code = hash(device_code);
            let found: Option<(String, Option<String>, Option<String>)> = tx
                .query_row(
                    "SELECT device, name, user_id FROM login WHERE code = ? AND stream = ? AND expires_ms > ? \
                     AND device IS NOT NULL",
                    params![code, stream, now],
                    |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
                )
                .optional()?;
            let Some((device, name, user)) = found else { return Ok(Poll::Gone) };
            let Some(user) = user else { return Ok(Poll::Pending) };
            tx.execute("DELETE FROM login WHERE code = ?", [code])?;
            let key = Owner { key_id, stream, user, device, name };
            Ok(Poll::Approved(mint(tx, &key, tokens, now)?))
        })
    }

    /// Trades a refresh token for a new session; `None` where it is not valid.
    ///
    /// With a `rotation` the same request has the same answer for as long as the new refresh token was not used itself: a
    /// device that lost the reply asks again. Only hashes are stored, so both tokens are derived from the old one.
    pub(crate) fn refresh(
        &self,
        stream: &str,
        prefix: &str,
        old: &str,
        rotation: Option<&str>,
    ) -> Result<Option<Session>, VaultError> {
        let now = self.now();
        let random = (hex(&self.random()), hex(&self.random()));
        self.write(|tx| {
            let Some(found) = find(tx, stream, old, now)? else { return Ok(None) };
            let (access, refresh) = match rotation {
                None => random,
                Some(r) => (derive(tx, "access", old, r)?, derive(tx, "refresh", old, r)?),
            };
            let (access, refresh) = (format!("{prefix}{access}"), format!("{prefix}r_{refresh}"));
            let rotation = rotation.map(hash);
            if !found.superseded {
                let session = mint(tx, &found.owner, (access, refresh), now)?;
                tx.execute(
                    "UPDATE credential SET superseded_ms = ?, rotation = ?, successor = ? WHERE sha256 = ?",
                    params![now, rotation, hash(&session.refresh), hash(old)],
                )?;
                tx.execute("DELETE FROM credential WHERE kind <> 'key' AND expires_ms < ?", [now - FORGET_MS])?;
                return Ok(Some(session));
            }
            if rotation.is_none() || found.rotation != rotation.map(Vec::from) {
                return Ok(None);
            }
            let expires = |secret: &str| -> Result<Option<i64>, VaultError> {
                let sql = "SELECT expires_ms FROM credential WHERE sha256 = ? AND superseded_ms IS NULL AND revoked_ms IS NULL";
                Ok(tx.query_row(sql, [hash(secret)], |r| r.get(0)).optional()?)
            };
            let (Some(refresh_expires_ms), Some(access_expires_ms)) = (expires(&refresh)?, expires(&access)?) else {
                return Ok(None);
            };
            let device = found.owner.device;
            Ok(Some(Session { device, access, access_expires_ms, refresh, refresh_expires_ms }))
        })
    }
}

/// Where a login in a browser stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    /// Nobody approved it yet.
    Pending { user_code: String },
    /// It was approved: the browser goes back.
    Approved { redirect: String, state: String, code: String },
    /// As [`Poll::Gone`].
    Gone,
}

/// Where a person's sign-in stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SignIn {
    /// Nobody approved it yet.
    Pending { user_code: String },
    /// It was approved for this user: the browser goes back.
    Approved { redirect: String, user: String },
    /// As [`Poll::Gone`].
    Gone,
}

/// Anybody may begin a login, so that there is a bound.
fn make_room(tx: &Transaction<'_>, now: i64) -> Result<(), VaultError> {
    tx.execute("DELETE FROM login WHERE expires_ms <= ?", [now])?;
    let waiting: i64 = tx.query_row("SELECT count(*) FROM login", [], |r| r.get(0))?;
    if waiting < MOST_LOGINS { Ok(()) } else { Err(VaultError::TooManyLogins) }
}

/// Whom a session is for.
struct Owner<'a> {
    key_id: String,
    stream: &'a str,
    user: String,
    device: String,
    name: Option<String>,
}

fn mint(tx: &Transaction<'_>, owner: &Owner<'_>, tokens: (String, String), now: i64) -> Result<Session, VaultError> {
    let (access, refresh) = tokens;
    let (access_expires_ms, refresh_expires_ms) = (now + ACCESS_MS, now + REFRESH_MS);
    for (secret, kind, expires) in
        [(&access, Kind::Access, access_expires_ms), (&refresh, Kind::Refresh, refresh_expires_ms)]
    {
        let key = NewKey {
            key_id: owner.key_id.clone(),
            stream: owner.stream,
            user: &owner.user,
            kind,
            device: Some(&owner.device),
            name: owner.name.as_deref(),
            expires_ms: Some(expires),
        };
        insert(tx, secret, &key, now)?;
    }
    Ok(Session { device: owner.device.clone(), access, access_expires_ms, refresh, refresh_expires_ms })
}

/// A refresh token that was valid once.
struct Found<'a> {
    owner: Owner<'a>,
    superseded: bool,
    rotation: Option<Vec<u8>>,
}

fn find<'a>(tx: &Transaction<'_>, stream: &'a str, old: &str, now: i64) -> Result<Option<Found<'a>>, VaultError> {
    let sql = "SELECT key_id, user_id, device, name, superseded_ms IS NOT NULL, rotation FROM credential WHERE sha256 = ? \
               AND stream = ? AND kind = 'refresh' AND revoked_ms IS NULL AND expires_ms > ?";
    let found = tx.query_row(sql, params![hash(old), stream, now], |r| {
        let owner = Owner { key_id: r.get(0)?, stream, user: r.get(1)?, device: r.get(2)?, name: r.get(3)? };
        Ok(Found { owner, superseded: r.get(4)?, rotation: r.get(5)? })
    });
    Ok(found.optional()?)
}

fn derive(tx: &Transaction<'_>, what: &str, old: &str, rotation: &str) -> Result<String, VaultError> {
    let key: Vec<u8> = tx.query_row("SELECT rotation_key FROM server", [], |r| r.get(0))?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("invariant: HMAC takes keys of any length");
    for part in [what, old, rotation] {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    Ok(hex(&mac.finalize().into_bytes()))
}

/// Lowercase hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    bytes.iter().for_each(|b| sync_core::canonical::push_hex(&mut out, *b));
    out
}

/// Eight letters that are hard to confuse and make no words, with a dash in the middle.
fn user_code(random: &[u8; 32]) -> String {
    const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
    let letter = |pair: &[u8]| char::from(LETTERS[usize::from(u16::from_be_bytes([pair[0], pair[1]])) % LETTERS.len()]);
    let letters: Vec<char> = random.chunks(2).take(8).map(letter).collect();
    let (first, second) = letters.split_at(4);
    format!("{}-{}", String::from_iter(first), String::from_iter(second))
}
