//! The backend under judgement: where it is, how users come to be, how fast it may be asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::json::Json;
use crate::profile::{Profile, Token};

/// A backend, ready to be asked.
#[derive(Debug)]
pub struct Subject {
    /// Without a slash at its end; may carry a path.
    pub base: String,
    /// What the suite was told.
    pub profile: Profile,
    /// What the backend says of itself.
    pub capabilities: Json,
    /// Of everything that is chosen at random.
    pub seed: u64,
    /// Longest wait for a lease or session to run out.
    pub patience: Duration,
    pub(crate) agent: ureq::Agent,
    run: String,
    users: Mutex<Vec<String>>,
    taken: AtomicUsize,
    pace: Arc<Pace>,
}

/// How fast requests may go out.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Requests per second; 0 for no bound.
    rate: u32,
    next: Mutex<Instant>,
    turns: AtomicUsize,
}

impl Pace {
    pub(crate) fn turn(&self, end: Instant) -> bool {
        self.turns.fetch_add(1, Ordering::Relaxed);
        if self.rate == 0 {
            return true;
        }
        let step = Duration::from_secs(1) / self.rate;
        let at = {
            let mut next = self.next.lock().expect("invariant: no panic while the clock is held");
            let at = (*next).max(Instant::now());
            if at > end {
                return false;
            }
            *next = at + step;
            at
        };
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        true
    }
}

/// A backend that cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// No token for a user.
    #[error("no token could be got: {0}")]
    Token(String),
    /// It does not answer, or not with capabilities.
    #[error("{0}")]
    Unreachable(String),
    /// It speaks the other revision that calls itself `v1`.
    #[error("this backend speaks the protocol's July revision ({0}); this suite judges the June revision")]
    July(&'static str),
}

impl Subject {
    /// Gets a token and asks for the capabilities.
    ///
    /// # Errors
    /// Where that fails, or the backend speaks another dialect.
    pub fn open(base: &str, profile: Profile, run: &str, patience: Duration) -> Result<Self, SubjectError> {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A load has a thread for each device.
            .max_idle_connections(MOST_CONNECTIONS)
            .max_idle_connections_per_host(MOST_CONNECTIONS)
            .max_idle_age(Duration::from_secs(3))
            .user_agent(concat!("sync-conformance/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(10)))
            .build()
            .new_agent();
        let pace =
            Pace { rate: profile.requests_per_second, next: Mutex::new(Instant::now()), turns: AtomicUsize::new(0) };
        let mut subject = Self {
            base: base.trim().trim_end_matches('/').to_owned(),
            profile,
            capabilities: Json::Null,
            seed: 0,
            patience,
            agent,
            run: run.to_owned(),
            users: Mutex::new(Vec::new()),
            taken: AtomicUsize::new(0),
            pace: Arc::new(pace),
        };
        subject.capabilities = subject.ask_capabilities()?;
        let limits = subject.capabilities.get("bundle_limits");
        for mark in ["max_bytes_per_snapshot_row", "max_concurrent_snapshot_chunk_requests"] {
            if limits.is_some_and(|l| l.get(mark).is_some()) {
                return Err(SubjectError::July(mark));
            }
        }
        Ok(subject)
    }

    fn ask_capabilities(&self) -> Result<Json, SubjectError> {
        let (_, token) = self.fresh_user("capabilities").map_err(SubjectError::Token)?;
        let url = format!("{}/sync/capabilities", self.base);
        let request = self
            .agent
            .get(&url)
            .config()
            .timeout_global(Some(Duration::from_secs(30)))
            .build()
            .header("Authorization", format!("Bearer {token}"))
            .header("Oversync-Source-ID", "conformance-probe");
        let mut reply = request.call().map_err(|e| SubjectError::Unreachable(format!("GET {url}: {e}")))?;
        let status = reply.status().as_u16();
        let body = reply.body_mut().read_to_vec().map_err(|e| SubjectError::Unreachable(format!("GET {url}: {e}")))?;
        let shown = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
        let wrong = |why: &str| SubjectError::Unreachable(format!("GET {url}: {why}: status {status}, {shown}"));
        let json = Json::parse(&body).map_err(|e| wrong(&e))?;
        if status != 200 || json.members().is_none() {
            return Err(wrong("no capabilities"));
        }
        Ok(json)
    }

    /// A user that nobody has used, and a token for it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn fresh_user(&self, purpose: &str) -> Result<(String, String), String> {
        let n = self.taken.fetch_add(1, Ordering::Relaxed);
        let user = format!("{}-{}-{n}-{purpose}", self.profile.user_prefix, self.run);
        let token = self.token(&user, n)?;
        self.users.lock().expect("invariant: no panic while the list is held").push(user.clone());
        Ok((user, token))
    }

    /// Every user that was made up so far.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        self.users.lock().expect("invariant: no panic while the list is held").clone()
    }

    fn token(&self, user: &str, n: usize) -> Result<String, String> {
        match &self.profile.token {
            Token::User => Ok(user.to_owned()),
            Token::Jwt { secret, secret_env, claims } => {
                let secret = match (secret, secret_env) {
                    (Some(s), _) => s.clone(),
                    (None, Some(name)) => std::env::var(name).map_err(|_| format!("{name} is not set"))?,
                    (None, None) => return Err("the profile's jwt has neither secret nor secret_env".to_owned()),
                };
                let mut more = String::new();
                for (name, value) in claims {
                    more.push_str(&format!(",{}:{}", Json::from(name.as_str()), crate::profile::json(value)));
                }
                Ok(sign(user, secret.as_bytes(), &more))
            }
            Token::SignIn { url, body, member } => {
                let url = if url.contains("://") { url.clone() } else { format!("{}{url}", self.base) };
                let quoted = Json::from(user).to_string();
                let body = body.replace("{user}", quoted.trim_matches('"'));
                let mut reply = self
                    .agent
                    .post(url.replace("{user}", user))
                    .config()
                    .timeout_global(Some(Duration::from_secs(30)))
                    .build()
                    .header("Content-Type", "application/json")
                    .send(body)
                    .map_err(|e| format!("POST {url}: {e}"))?;
                let text = reply.body_mut().read_to_vec().map_err(|e| format!("POST {url}: {e}"))?;
                let json = Json::parse(&text).map_err(|e| format!("POST {url}: {e}"))?;
                let token = json.get(member).and_then(Json::text);
                token.map(str::to_owned).ok_or_else(|| format!("POST {url}: the reply has no {member}"))
            }
            Token::Command { command } => {
                let words: Vec<String> = command.iter().map(|w| w.replace("{user}", user)).collect();
                let (program, arguments) = words.split_first().ok_or("the profile's command is empty")?;
                let out = std::process::Command::new(program).args(arguments).output();
                let out = out.map_err(|e| format!("{program}: {e}"))?;
                if !out.status.success() {
                    return Err(format!("{program}: {}", String::from_utf8_lossy(&out.stderr).trim()));
                }
                Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
            }
            Token::List { tokens } => {
                tokens.get(n).cloned().ok_or_else(|| format!("the profile's {} tokens are used up", tokens.len()))
            }
        }
    }

    /// Waits for a turn, so that no more requests go out than the profile allows. False, at once, where
    /// there is none before `end`.
    pub(crate) fn turn(&self, end: Instant) -> bool {
        self.pace.turn(end)
    }

    /// The same for what outlives a borrow.
    #[cfg(feature = "replica")]
    pub(crate) fn pace(&self) -> Arc<Pace> {
        Arc::clone(&self.pace)
    }

    /// Requests that waited for their turn so far; what has to meet does not.
    #[must_use]
    pub fn turns(&self) -> usize {
        self.pace.turns.load(Ordering::Relaxed)
    }

    /// A limit of the capabilities; absent and 0 are no limit.
    #[must_use]
    pub fn limit(&self, name: &str) -> Option<i64> {
        self.capabilities.get("bundle_limits")?.get(name)?.integer().filter(|n| *n > 0)
    }

    /// Whether the capabilities list a feature.
    #[must_use]
    pub fn feature(&self, name: &str) -> bool {
        self.capabilities.get("features").and_then(|f| f.get(name)).and_then(Json::boolean) == Some(true)
    }

    /// Whether the capabilities offer the exact view and its hash.
    #[must_use]
    pub fn exact(&self) -> bool {
        let algorithms = self.capabilities.get("bundle_hash_algorithms").and_then(Json::items).unwrap_or_default();
        algorithms.iter().any(|a| a.text() == Some("blake3"))
    }
}

/// A token of an hour, signed with HS256.
pub(crate) fn sign(user: &str, secret: &[u8], more: &str) -> String {
    let now = jiff::Timestamp::now().as_second();
    let claims = format!("{{\"sub\":{},\"iat\":{now},\"nbf\":{now},\"exp\":{}{more}}}", Json::from(user), now + 3600);
    let signed =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#), URL_SAFE_NO_PAD.encode(claims));
    let mac = Hmac::<Sha256>::new_from_slice(secret).expect("invariant: HMAC takes keys of any length");
    let signature = mac.chain_update(&signed).finalize().into_bytes();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Kept open at most.
const MOST_CONNECTIONS: usize = 1000;
