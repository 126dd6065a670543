//! Streams whose devices are enrolled and whose records have numbers (Aexy Tracker): what is asked of the server before a
//! push, the configuration that it tells, and what that keeps out of the outbox.

use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::{Map, Value, json};
use sync_core::ingest::config::{Config, TAG};
use sync_core::ingest::contract::{Contract, Rejects, Role};

use super::http::{Remote, Reply, code};
use super::report::{Enrolled, IngestError, Stop};
use super::store::{self, Target};
use super::stream::Stream;
use crate::transport::Method;

/// Whether a contract's records are numbered by their producer.
pub(super) fn is_numbered(contract: &Contract) -> bool {
    contract.rejects == Rejects::PerRecord
}

/// The number of the next record.
pub(super) fn take_seq(conn: &Connection, stream: &str) -> Result<i64, IngestError> {
    let sql = "INSERT INTO main._sync_ingest_number (stream, last) VALUES (?, 1) \
               ON CONFLICT (stream) DO UPDATE SET last = last + 1 RETURNING last";
    Ok(conn.prepare_cached(sql)?.query_row([stream], |r| r.get(0))?)
}

/// Numbers up to this one are given.
pub(super) fn reached(conn: &Connection, stream: &str, seq: i64) -> Result<(), IngestError> {
    let sql = "INSERT INTO main._sync_ingest_number (stream, last) VALUES (?, ?) \
               ON CONFLICT (stream) DO UPDATE SET last = max(last, excluded.last)";
    conn.prepare_cached(sql)?.execute(params![stream, seq])?;
    Ok(())
}

/// The configuration that a server told last; `None` where none did.
pub(super) fn config(conn: &Connection, contract: &Contract) -> Result<Option<Config>, IngestError> {
    let sql = "SELECT config FROM main._sync_ingest_config WHERE stream = ?";
    let text: Option<String> = conn.prepare_cached(sql)?.query_row([&contract.stream], |r| r.get(0)).optional()?;
    let Some(enrol) = contract.enrol.as_ref() else { return Ok(None) };
    let set = text.and_then(|t| serde_json::from_str::<Map<String, Value>>(&t).ok());
    Ok(set.and_then(|set| Config::of(enrol, &set).ok()))
}

/// Whether the configuration keeps a record out: a pause, or an app that is never captured.
pub(super) fn is_left_out(config: &Config, record: &str) -> bool {
    let is = |name: &str| config.member(name);
    if is("paused") == Some(&Value::Bool(true)) {
        return true;
    }
    let Some(excluded) = is("excluded_bundle_ids").and_then(Value::as_array).filter(|e| !e.is_empty()) else {
        return false;
    };
    let value: Option<Value> = serde_json::from_str(record).ok();
    value.as_ref().and_then(|v| v.pointer("/active_app/bundle_id")).is_some_and(|id| excluded.contains(id))
}

/// Forgets records that every target of the stream has and that are so old that no server takes them any more: an outbox
/// that is written to each minute would grow for ever.
pub(super) fn forget_old(conn: &Connection, contract: &Contract, now_ms: i64) -> Result<(), IngestError> {
    for kind in &contract.kinds {
        let Some(append) = &kind.append else { continue };
        let at = format!("${}", append.time.to_string().replace('/', "."));
        let before = now_ms.div_euclid(1000).saturating_sub(i64::from(append.past_s));
        // A time that SQLite does not read is null, and stays.
        conn.execute(
            "DELETE FROM main._sync_ingest_record AS r WHERE stream = ?1 AND kind = ?2 AND fault IS NULL \
             AND unixepoch(json_extract(payload, ?3)) < ?4 AND NOT EXISTS (SELECT 1 FROM main._sync_ingest_target t \
             WHERE t.stream = ?1 AND NOT EXISTS (SELECT 1 FROM main._sync_ingest_sent s \
             WHERE s.target = t.id AND s.kind = r.kind AND s.id = r.id AND s.hash = r.hash))",
            params![contract.stream, kind.name, at, before],
        )?;
        conn.execute(
            "DELETE FROM main._sync_ingest_sent AS s WHERE kind = ?2 AND target IN \
             (SELECT id FROM main._sync_ingest_target WHERE stream = ?1) AND NOT EXISTS \
             (SELECT 1 FROM main._sync_ingest_record r WHERE r.stream = ?1 AND r.kind = s.kind AND r.id = s.id)",
            params![contract.stream, kind.name],
        )?;
    }
    Ok(())
}

impl Stream {
    /// Binds the file's device to a project at the server, and keeps the configuration that it tells. The device is made
    /// where the file has none; `device` takes another one, this once.
    ///
    /// # Errors
    /// Where the file cannot be used. Why the server did not do it is in the inner result.
    pub fn enrol(
        &self,
        remote: &Remote,
        project: &str,
        name: Option<&str>,
        device: Option<&str>,
    ) -> Result<Result<Enrolled, Stop>, IngestError> {
        let Some(path) = remote.endpoint().beside(&self.contract, Role::Enrol) else {
            return Err(IngestError::Endpoint("the endpoint does not end with the batch route".into()));
        };
        let device = match device {
            Some(device) => device.to_owned(),
            None => self.device()?,
        };
        let body =
            json!({ "device_id": device, "project_id": project, "name": name, "platform": std::env::consts::OS });
        let random = || self.env.random();
        let reply = match remote.patiently(Method::Post, &path, Some(body.to_string().as_bytes()), random) {
            Ok(reply) if reply.status == 201 => reply,
            Ok(reply) => return Ok(Err(refused(&reply))),
            Err(stop) => return Ok(Err(stop)),
        };
        let told: Option<Value> = serde_json::from_slice(&reply.body).ok();
        let config = told.as_ref().and_then(|t| t.get("config")).and_then(|c| self.read_config(c));
        let Some(config) = config else { return Ok(Err(Stop::Refused { status: 201, code: None })) };
        self.keep_config(&config)?;
        Ok(Ok(Enrolled { device_id: device, project_id: project.to_owned(), config: config.shown() }))
    }

    /// The configuration that a server told last.
    ///
    /// # Errors
    /// SQLite's.
    pub fn config(&self) -> Result<Option<Value>, IngestError> {
        let tx = self.begin()?;
        store::ensure(&tx)?;
        Ok(config(&tx, &self.contract)?.map(|c| c.shown()))
    }

    fn device(&self) -> Result<String, IngestError> {
        let tx = self.begin()?;
        store::ensure(&tx)?;
        let device = store::device(&tx, &self.contract, || self.env.random())?;
        tx.commit()?;
        Ok(device)
    }

    /// What is told with its tag, as what differs from the defaults; members that are not known here are left aside.
    fn read_config(&self, told: &Value) -> Option<Config> {
        let enrol = self.contract.enrol.as_ref()?;
        let known = Config::of(enrol, &Map::new()).ok()?;
        let members = told.as_object()?;
        let set = members.iter().filter(|(name, _)| known.member(name).is_some());
        Config::of(enrol, &set.map(|(n, v)| (n.clone(), v.clone())).collect())
            .ok()
            .filter(|_| members.contains_key(TAG))
    }

    fn keep_config(&self, config: &Config) -> Result<(), IngestError> {
        let Some(enrol) = &self.contract.enrol else { return Ok(()) };
        let set = Value::Object(config.set(enrol)).to_string();
        let tx = self.begin()?;
        store::ensure(&tx)?;
        tx.execute(
            "INSERT OR REPLACE INTO main._sync_ingest_config (stream, config) VALUES (?, ?)",
            params![self.contract.stream, set],
        )?;
        Ok(tx.commit()?)
    }

    /// Asks for the configuration, where a reply named another than is kept. It can wait: what goes wrong is left to the
    /// next push.
    pub(super) fn renew_config(&self, remote: &Remote, device: &str, tag: &str) -> Result<(), IngestError> {
        let tx = self.begin()?;
        let known = config(&tx, &self.contract)?;
        drop(tx);
        if known.is_some_and(|c| c.tag() == tag) {
            return Ok(());
        }
        let Some(path) = remote.endpoint().beside(&self.contract, Role::Heartbeat) else { return Ok(()) };
        let path = of_device(&path, device);
        let Ok(reply) = remote.once(Method::Post, &path, Some(b"")) else { return Ok(()) };
        let told: Option<Value> = serde_json::from_slice(&reply.body).ok().filter(|_| reply.status == 200);
        match told.and_then(|t| self.read_config(&t)) {
            Some(config) => self.keep_config(&config),
            None => Ok(()),
        }
    }

    /// What the server has of the device, before anything is numbered: numbers go on from there, also in a file that was
    /// put back from an older copy, and what it confirmed and has no more goes again.
    pub(super) fn catch_up(
        &self,
        remote: &Remote,
        target: &Target,
        device: &str,
    ) -> Result<Result<(), Stop>, IngestError> {
        let Some(path) = remote.endpoint().beside(&self.contract, Role::Status) else { return Ok(Ok(())) };
        let path = of_device(&path, device);
        let reply = match remote.patiently(Method::Get, &path, None, || self.env.random()) {
            Ok(reply) if reply.status == 200 => reply,
            Ok(reply) => return Ok(Err(refused(&reply))),
            Err(stop) => return Ok(Err(stop)),
        };
        let told: Option<Value> = serde_json::from_slice(&reply.body).ok();
        let Some(there) = told.and_then(|t| t.get("server_seq")?.as_i64()) else {
            return Ok(Err(Stop::Refused { status: 200, code: None }));
        };
        let tx = self.begin()?;
        reached(&tx, &self.contract.stream, there)?;
        let Some(append) = self.contract.kinds.iter().find_map(|k| k.append.as_ref()) else { return Ok(Ok(())) };
        let at = format!("${}", append.seq.to_string().replace('/', "."));
        tx.execute(
            "DELETE FROM main._sync_ingest_sent WHERE target = ?1 AND EXISTS (SELECT 1 FROM main._sync_ingest_record r \
             WHERE r.stream = ?2 AND r.kind = _sync_ingest_sent.kind AND r.id = _sync_ingest_sent.id \
             AND json_extract(r.payload, ?3) > ?4)",
            params![target.id, self.contract.stream, at, there],
        )?;
        tx.commit()?;
        Ok(Ok(()))
    }
}

/// Why a server of such a contract does not do something.
pub(super) fn refused(reply: &Reply) -> Stop {
    match reply.status {
        404 => Stop::Enrol,
        409 => Stop::Update,
        429 => Stop::Later { seconds: reply.retry_after.unwrap_or(60) },
        status => Stop::Refused { status, code: code(&reply.body) },
    }
}

pub(super) fn of_device(path: &str, device: &str) -> String {
    let mut query = String::new();
    for b in device.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            query.push(char::from(b));
        } else {
            query.push_str(&format!("%{b:02X}"));
        }
    }
    format!("{path}?device_id={query}")
}
