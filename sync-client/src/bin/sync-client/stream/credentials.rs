//! What is kept for a stream in the user's configuration directory: one file that only its owner can read.
//!
//! A synced or pushed FILE never has it, so that it can be copied.

use std::{
    env,
    fs::{self, File},
    path::PathBuf,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sync_client::{
    TokenRequest,
    ingest::{
        Endpoint, Stop, Tokens,
        session::{self, Session},
    },
    transport::Transport,
};
use sync_core::ingest::contract::{Contract, Role};

use super::push::now_s;
use crate::{
    output::Failure,
    token::{bare, can_be_sent, read_private, write_private},
};

/// What is kept.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Stored {
    /// A token that was given.
    #[serde(default)]
    pub(super) secret: Option<String>,
    /// A device login.
    #[serde(default)]
    pub(super) session: Option<Session>,
    /// The batch route that it is for.
    #[serde(default)]
    pub(super) endpoint: Option<String>,
    /// The device that logged in.
    #[serde(default)]
    pub(super) device_id: Option<String>,
    /// The rotation of a renewal whose answer is not here yet.
    #[serde(default)]
    pub(super) rotation: Option<String>,
}

/// The file of a stream.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) path: PathBuf,
}

impl Store {
    pub(super) fn of(stream: &str) -> Result<Self, Failure> {
        let dir = directory()
            .ok_or_else(|| Failure::local("There is no configuration directory: set HOME or XDG_CONFIG_HOME."))?;
        Ok(Self { path: dir.join("sync-client").join(format!("{stream}.json")) })
    }

    /// What is kept; `None` where nothing is.
    pub(super) fn read(&self) -> Result<Option<Stored>, Failure> {
        if !self.path.exists() {
            return Ok(None);
        }
        let text = read_private(&self.path).map_err(Failure::local)?;
        let stored = serde_json::from_str(&text).map_err(|_| {
            Failure::local(format!("{} is not what `stream login` writes: log in again.", self.path.display()))
        });
        stored.map(Some)
    }

    pub(super) fn write(&self, stored: &Stored) -> Result<(), Failure> {
        let failed = |e| Failure::local(format!("The login cannot be kept in {}: {e}.", self.path.display()));
        if let Some(dir) = self.path.parent() {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true);
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(dir).map_err(failed)?;
        }
        let text = serde_json::to_string(stored).expect("invariant: plain members");
        write_private(&self.path, &text).map_err(failed)
    }

    /// One process at a time renews a login: a refresh token is good once.
    fn lock(&self) -> Result<File, Failure> {
        let path = self.path.with_extension("lock");
        let locked = File::options().write(true).create(true).truncate(false).open(&path).and_then(|f| {
            f.lock()?;
            Ok(f)
        });
        locked.map_err(|e| Failure::local(format!("{} cannot be locked: {e}.", path.display())))
    }

    /// Where tokens come from: the command line, the environment, or this file.
    pub(super) fn tokens(
        &self,
        given: Option<&str>,
        contract: &Contract,
        endpoint: &Endpoint,
        transport: Arc<dyn Transport>,
    ) -> Result<Tokens, Failure> {
        let variable = &contract.auth.environment;
        let fixed = given.map(str::to_owned).or_else(|| env::var(variable).ok());
        if let Some(token) = fixed.as_deref().map(bare).filter(|t| !t.is_empty()) {
            let which = || format!("the token given with --auth-token or {variable}");
            let token = can_be_sent(token, which).map_err(Failure::usage)?;
            let refused = format!("the server refuses {}", which());
            return Ok(Arc::new(
                move |asked: TokenRequest| {
                    if asked.renew { Err(Stop::Login(refused.clone())) } else { Ok(token.clone()) }
                },
            ));
        }
        let stored = self.read()?.filter(|s| s.secret.is_some() || s.session.is_some()).ok_or_else(|| {
            Failure::usage(format!(
                "There is no token: `sync-client stream login {}`, set {variable}, or give --auth-token.",
                contract.stream
            ))
        })?;
        if let Some(url) = &stored.endpoint
            && Endpoint::parse(url).map_err(Failure::from)?.base() != endpoint.base()
        {
            return Err(Failure::usage(format!(
                "The login is for {url}, and its token goes nowhere else: log in with this endpoint, or give --auth-token."
            )));
        }
        let store = self.clone();
        let path = endpoint.beside(contract, Role::LoginRefresh);
        Ok(Arc::new(move |asked: TokenRequest| store.current(asked.renew, transport.as_ref(), path.as_deref())))
    }

    /// The kept token, renewed where it is about to end or was refused.
    fn current(&self, refused: bool, transport: &dyn Transport, path: Option<&str>) -> Result<String, Stop> {
        let over = |why: &str| Stop::Login(format!("{why} ({})", self.path.display()));
        let failed = |f: Failure| Stop::Sink(f.message().to_owned());
        let before = self.read().map_err(failed)?.unwrap_or_default();
        if let Some(secret) = before.secret {
            return if refused { Err(over("the server refuses the token that is kept")) } else { Ok(secret) };
        }
        let fresh = |s: &Session| !s.is_stale(now_s());
        if let Some(session) = before.session.as_ref().filter(|s| fresh(s) && !refused) {
            return Ok(session.access_token.clone());
        }
        let _lock = self.lock().map_err(failed)?;
        let mut stored = self.read().map_err(failed)?.unwrap_or_default();
        let Some(session) = stored.session.clone() else { return Err(over("the login is over")) };
        // Another process may have renewed it meanwhile.
        if fresh(&session) && before.session.as_ref() != Some(&session) {
            return Ok(session.access_token);
        }
        let path = path.ok_or_else(|| over("the endpoint has no place to renew the login at"))?;
        // Kept before it is asked for: a reply that is lost is asked for again, and is the same.
        let rotation = stored.rotation.clone().unwrap_or_else(rotation);
        stored.rotation = Some(rotation.clone());
        self.write(&stored).map_err(failed)?;
        match session::refresh(transport, path, &session.refresh_token, &rotation) {
            Ok(renewed) => {
                let token = renewed.access_token.clone();
                stored.session = Some(renewed);
                stored.rotation = None;
                self.write(&stored).map_err(failed)?;
                Ok(token)
            }
            Err(Stop::Login(why)) => {
                stored.session = None;
                stored.rotation = None;
                self.write(&stored).map_err(failed)?;
                Err(over(&why))
            }
            Err(other) => Err(other),
        }
    }
}

/// For what asks for no token.
pub(super) fn none() -> Tokens {
    Arc::new(|_| Err(Stop::Login("there is no token".into())))
}

/// 32 random bytes, as 64 hexadecimal digits.
fn rotation() -> String {
    use sync_client::context::{Environment as _, System};
    (0..4).map(|_| format!("{:016x}", System.random())).collect()
}

/// The user's configuration directory.
fn directory() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    if let Some(dir) = set("XDG_CONFIG_HOME") {
        return Some(dir);
    }
    if cfg!(windows) {
        return set("APPDATA");
    }
    let home = set("HOME")?;
    Some(home.join(if cfg!(target_os = "macos") { "Library/Application Support" } else { ".config" }))
}
