//! `keys.db`: who may send. Of a secret only its SHA-256 is stored.
//!
//! It is one file for all users and apart from theirs, so that commands change it while the server runs; each request
//! asks it anew, so that what is revoked is so at once.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use sha2::{Digest as _, Sha256};
use sync_core::protocol::UserId;
use sync_core::sqlite::connection::{self, Settings};

use crate::scope::lock;
use crate::service::Environment;

/// The file's name in the data directory.
const FILE: &str = "keys.db";

/// Two uses that are not further apart are noted once.
const USE_NOTED_MS: i64 = 5 * 60 * 1000;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS credential (
    sha256 BLOB PRIMARY KEY, key_id TEXT NOT NULL, stream TEXT NOT NULL, user_id TEXT NOT NULL, kind TEXT NOT NULL,
    device TEXT, name TEXT, created_ms INTEGER NOT NULL, expires_ms INTEGER, revoked_ms INTEGER, last_used_ms INTEGER,
    -- Of a refresh token that was used: when, for which rotation, and what came of it.
    superseded_ms INTEGER, rotation BLOB, successor BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS credential_key ON credential (key_id);
CREATE TABLE IF NOT EXISTS device (
    stream TEXT NOT NULL, device TEXT NOT NULL, user_id TEXT NOT NULL, PRIMARY KEY (stream, device)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS login (
    code BLOB PRIMARY KEY, user_code TEXT UNIQUE, stream TEXT NOT NULL, user_id TEXT, expires_ms INTEGER NOT NULL,
    -- Of a device that polls.
    device TEXT, name TEXT,
    -- Of a browser: where it goes back to, and with what.
    redirect TEXT, state TEXT
) STRICT, WITHOUT ROWID;
-- How the tokens begin that users made themselves.
CREATE TABLE IF NOT EXISTS token_prefix (key_id TEXT PRIMARY KEY, prefix TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS server (id INTEGER PRIMARY KEY CHECK (id = 1), rotation_key BLOB NOT NULL) STRICT;
";

/// What kind of credential a secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Made by the operator.
    Key,
    /// Of a device login, for requests; lives for an hour.
    Access,
    /// Of a device login, for the next session.
    Refresh,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Access => "access",
            Self::Refresh => "refresh",
        }
    }
}

/// Whom a credential stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Actor {
    pub(crate) user: UserId,
    /// Empty where the credential is of no device.
    pub(crate) device: String,
}

/// Why the vault does not do what it is asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    /// SQLite's.
    #[error("the keys cannot be read or written: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The directory's.
    #[error("the keys cannot be read or written: {0}")]
    Io(#[from] std::io::Error),
    /// So many logins wait that no other one is begun.
    #[error("too many logins wait")]
    TooManyLogins,
    /// A device has one user per contract.
    #[error("this device belongs to another user")]
    DeviceTaken,
    /// Not what was written.
    #[error("the keys are damaged")]
    Damaged,
}

/// A new credential.
#[derive(Debug, Clone)]
pub(crate) struct NewKey<'a> {
    pub(crate) key_id: String,
    pub(crate) stream: &'a str,
    pub(crate) user: &'a str,
    pub(crate) kind: Kind,
    pub(crate) device: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
    pub(crate) expires_ms: Option<i64>,
}

/// A line of `keys list`: an operator's key, or a device's login with whatever tokens it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) key_id: String,
    pub(crate) user: String,
    pub(crate) stream: String,
    pub(crate) device: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) created_ms: i64,
    pub(crate) expires_ms: Option<i64>,
    pub(crate) revoked_ms: Option<i64>,
    pub(crate) last_used_ms: Option<i64>,
}

/// The open file.
pub(crate) struct Vault {
    conn: Mutex<Connection>,
    environment: Arc<dyn Environment>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").finish_non_exhaustive()
    }
}

/// What is stored of a secret.
pub(crate) fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

impl Vault {
    /// Opens the file of a data directory; both are made where they are missing.
    pub(crate) fn open(data: &Path, environment: Arc<dyn Environment>) -> Result<Self, VaultError> {
        std::fs::create_dir_all(data)?;
        let path = data.join(FILE);
        make_private(&path)?;
        let busy = Duration::from_secs(5);
        let settings = Settings { foreign_keys: false, triggers: false, durable: true, busy, cache_kib: 256 };
        let conn = connection::open(&path, true, settings)?;
        conn.pragma_update(None, "journal_mode", "WAL")?;
        let vault = Self { conn: Mutex::new(conn), environment };
        let key = vault.random();
        vault.write(|tx| {
            tx.execute_batch(TABLES)?;
            tx.execute_batch(super::projects::TABLES)?;
            tx.execute("INSERT OR IGNORE INTO server VALUES (1, ?)", [key.as_slice()])?;
            Ok(())
        })?;
        Ok(vault)
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now(&self) -> i64 {
        self.environment.now_ms()
    }

    /// 32 bytes that nobody can guess.
    pub(crate) fn random(&self) -> [u8; 32] {
        let ids = [self.environment.new_id(), self.environment.new_id()];
        Sha256::digest(ids.concat()).into()
    }

    /// A key of this server for one purpose.
    pub(crate) fn key(&self, purpose: &str) -> Result<[u8; 32], VaultError> {
        let own: Vec<u8> = self.read(|c| Ok(c.query_row("SELECT rotation_key FROM server", [], |r| r.get(0))?))?;
        let mac = Hmac::<Sha256>::new_from_slice(&own).expect("invariant: HMAC takes keys of any length");
        Ok(mac.chain_update(purpose).finalize().into_bytes().into())
    }

    /// An id that nobody has.
    pub(crate) fn new_id(&self) -> String {
        self.environment.new_id()
    }

    /// Looks something up.
    pub(crate) fn read<T>(&self, f: impl FnOnce(&Connection) -> Result<T, VaultError>) -> Result<T, VaultError> {
        f(&lock(&self.conn))
    }

    /// Makes a device a user's, if it is nobody else's.
    pub(crate) fn claim_device(&self, stream: &str, device: &str, user: &str) -> Result<(), VaultError> {
        self.write(|tx| claim(tx, stream, device, user))
    }

    /// The users who have a device of a contract.
    pub(crate) fn users_with_devices(&self, stream: &str) -> Result<Vec<UserId>, VaultError> {
        self.read(|conn| {
            let mut s = conn.prepare("SELECT DISTINCT user_id FROM device WHERE stream = ?")?;
            let users = s.query_map([stream], |r| r.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
            Ok(users.iter().filter_map(|u| UserId::parse(u)).collect())
        })
    }

    /// Runs one write transaction.
    pub(crate) fn write<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T, VaultError>) -> Result<T, VaultError> {
        let mut conn = lock(&self.conn);
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = f(&tx)?;
        tx.commit()?;
        Ok(value)
    }

    /// Whom a secret stands for, where it is valid now for requests of this contract.
    pub(crate) fn actor(&self, stream: &str, secret: &str) -> Result<Option<Actor>, VaultError> {
        let now = self.now();
        let conn = lock(&self.conn);
        let mut s = conn.prepare_cached(
            "SELECT user_id, device, last_used_ms FROM credential WHERE sha256 = ? AND stream = ? AND kind <> 'refresh' \
             AND revoked_ms IS NULL AND (expires_ms IS NULL OR expires_ms > ?)",
        )?;
        let hash = hash(secret);
        let found: Option<(String, Option<String>, Option<i64>)> =
            s.query_row(params![hash, stream, now], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).optional()?;
        let Some((user, device, used)) = found else { return Ok(None) };
        if used.is_none_or(|u| now - u > USE_NOTED_MS) {
            // Information only: a busy file does not turn the request away.
            if let Err(e) = conn.execute("UPDATE credential SET last_used_ms = ? WHERE sha256 = ?", params![now, hash])
            {
                tracing::debug!(cause = %e, "the use of a key was not noted");
            }
        }
        Ok(UserId::parse(&user).map(|user| Actor { user, device: device.unwrap_or_default() }))
    }

    /// Stores a credential, and claims its device.
    pub(crate) fn insert(&self, secret: &str, key: &NewKey<'_>) -> Result<(), VaultError> {
        let now = self.now();
        self.write(|tx| insert(tx, secret, key, now))
    }

    /// What there is, the oldest first.
    pub(crate) fn list(&self, user: Option<&str>) -> Result<Vec<Listed>, VaultError> {
        let conn = lock(&self.conn);
        let mut s = conn.prepare(
            "SELECT key_id, user_id, stream, device, name, min(created_ms), max(expires_ms), max(revoked_ms), \
             max(last_used_ms) FROM credential WHERE ?1 IS NULL OR user_id = ?1 GROUP BY key_id ORDER BY 6, 1",
        )?;
        let rows = s.query_map([user], |r| {
            Ok(Listed {
                key_id: r.get(0)?,
                user: r.get(1)?,
                stream: r.get(2)?,
                device: r.get(3)?,
                name: r.get(4)?,
                created_ms: r.get(5)?,
                expires_ms: r.get(6)?,
                revoked_ms: r.get(7)?,
                last_used_ms: r.get(8)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Revokes a key, or a login with all its tokens. False where there is none.
    pub(crate) fn revoke(&self, key_id: &str) -> Result<bool, VaultError> {
        let now = self.now();
        self.write(|tx| {
            let there = tx.prepare("SELECT 1 FROM credential WHERE key_id = ?")?.exists([key_id])?;
            tx.execute(
                "UPDATE credential SET revoked_ms = ? WHERE key_id = ? AND revoked_ms IS NULL",
                params![now, key_id],
            )?;
            Ok(there)
        })
    }
}

/// [`Vault::insert`] within a transaction.
pub(crate) fn insert(tx: &Transaction<'_>, secret: &str, key: &NewKey<'_>, now: i64) -> Result<(), VaultError> {
    if let Some(device) = key.device {
        claim(tx, key.stream, device, key.user)?;
    }
    tx.execute(
        "INSERT INTO credential (sha256, key_id, stream, user_id, kind, device, name, created_ms, expires_ms) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            hash(secret),
            key.key_id,
            key.stream,
            key.user,
            key.kind.name(),
            key.device,
            key.name,
            now,
            key.expires_ms
        ],
    )?;
    Ok(())
}

/// A device is one user's per contract, also after its keys were revoked: its data is still there.
fn claim(tx: &Transaction<'_>, stream: &str, device: &str, user: &str) -> Result<(), VaultError> {
    tx.execute("INSERT OR IGNORE INTO device VALUES (?, ?, ?)", params![stream, device, user])?;
    let owner: String =
        tx.query_row("SELECT user_id FROM device WHERE stream = ? AND device = ?", [stream, device], |r| r.get(0))?;
    if owner == user { Ok(()) } else { Err(VaultError::DeviceTaken) }
}

/// Makes the file so that only its owner can read it.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}
