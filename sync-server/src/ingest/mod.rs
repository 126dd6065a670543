//! Ingest: records that devices send by a declared contract, kept in the user's file beside the synced tables.
//!
//! | hop of a batch | home |
//! |---|---|
//! | path, method, credential, size | `http` |
//! | who a secret stands for | `vault` |
//! | JSON, version, schema, what is stripped | `sync_core::ingest::gates` |
//! | receipt, records, owners, last batch: one transaction | `store` |
//! | sums of the days and months that it touched, in the same transaction | `rollups` |
//! | the reply, and the paths that only this contract has | `statsai`, `sync_core::ingest::statsai` |
//!
//! Where records are taken one by one (Aexy Tracker), from the version on:
//!
//! | hop of a batch | home |
//! |---|---|
//! | the device is this user's, and its project takes records | `append`, `projects` |
//! | the windows have room | `windows` |
//! | each record by itself | `sync_core::ingest::records` |
//! | records, highest number, what is to be done later: one transaction | `append` |
//! | what was queued, once its minute is over | `enrich` |
//! | the reply, and the paths that only this contract has | `aexy`, `sync_core::ingest::aexy` |

mod aexy;
mod append;
pub mod commands;
mod enrich;
mod http;
pub(crate) mod keys;
mod projects;
pub mod projects_commands;
pub(crate) mod rollups;
mod sessions;
mod statsai;
mod store;
pub(crate) mod vault;
mod windows;

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use axum::Router;
use sync_core::ingest::contract::Contract;
use sync_core::protocol::UserId;
use sync_core::protocol::capabilities::IngestStream;
use tokio::sync::Semaphore;

use self::vault::Vault;
use crate::auth::JwtAuth;
use crate::service::Service;
use crate::turns::Turns;

pub use self::enrich::{Enrich, Run};
pub use self::keys::KeyAuth;
pub use self::windows::{Ask, InMemory, Limiter, LimiterDown};

/// How contracts are served.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// The address that devices reach the server by, without a slash at its end.
    pub public_url: String,
    /// Take any bearer token as the user id. Only where nobody else can reach the server.
    pub dev: bool,
    /// Serve StatsAI's `/v1/sync/batches`, which takes no token. Only where nobody else can reach the server.
    pub loopback_diagnostics: bool,
    /// How long a request body may stand still before it is given up.
    pub idle_body: Duration,
    /// Takes signed tokens as a developer's, on Aexy's paths. Without it only the server's own tokens are.
    pub developer: Option<JwtAuth>,
    /// Counts requests against a contract's windows.
    pub limiter: Arc<dyn Limiter>,
    /// The directory of files that belong to records; without it none are taken.
    pub evidence: Option<PathBuf>,
    /// What the host does of records that were taken, beside the spans that are computed of them.
    pub enrich: Option<Arc<dyn Enrich>>,
}

impl IngestOptions {
    /// With everything else by default.
    #[must_use]
    pub fn new(public_url: impl Into<String>) -> Self {
        Self {
            public_url: public_url.into(),
            dev: false,
            loopback_diagnostics: false,
            idle_body: Duration::from_secs(30),
            developer: None,
            limiter: Arc::new(InMemory::default()),
            evidence: None,
            enrich: None,
        }
    }
}

/// Batches of one user at once.
const BATCHES_PER_USER: usize = 2;

/// Batches that are taken apart at once, over all users: the JSON of one may be many times its bytes.
const BATCHES: usize = 4;

/// Large batches that are read from the network at once.
const UPLOADS: usize = 16;

/// What the handlers of a contract share.
pub(crate) struct Ingest {
    pub(crate) service: Service,
    pub(crate) vault: Vault,
    pub(crate) contract: Contract,
    pub(crate) options: IngestOptions,
    turns: Turns,
    batches: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    queued: mpsc::Sender<UserId>,
    /// Signs the addresses that files are put to.
    signing_key: [u8; 32],
}

/// Why contracts cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The keys in the data directory.
    #[error("{0}")]
    Keys(String),
    /// The thread that does what is queued.
    #[error("no thread can be started: {0}")]
    Thread(String),
}

/// How a contract is told of in `/sync/capabilities`.
#[must_use]
pub fn told(contract: &Contract) -> IngestStream {
    IngestStream {
        name: contract.name.clone(),
        versions: contract
            .versions
            .iter()
            .map(|v| v.prefix.as_ref().map_or_else(|| v.is.clone(), |p| format!("{p}x")))
            .collect(),
        max_bytes_per_batch: contract.limits.wire_bytes,
    }
}

impl Ingest {
    /// Something of this user's waits to be done.
    fn queued(&self, user: &UserId) {
        // Without a worker it is found when the server starts again.
        let _ = self.queued.send(user.clone());
    }
}

/// The paths of StatsAI's contract, to be merged with [`crate::router`] or served alone. `data` is the service's directory,
/// which holds the keys, too.
///
/// # Errors
/// Where the keys cannot be opened.
pub fn statsai(service: Service, data: &Path, options: IngestOptions) -> Result<Router, IngestError> {
    serve(Contract::statsai(), service, data, options)
}

/// The paths of Aexy Tracker's contract, as [`statsai()`].
///
/// # Errors
/// Where the keys cannot be opened.
pub fn aexy(service: Service, data: &Path, options: IngestOptions) -> Result<Router, IngestError> {
    serve(Contract::aexy(), service, data, options)
}

fn serve(contract: Contract, service: Service, data: &Path, options: IngestOptions) -> Result<Router, IngestError> {
    let vault = Vault::open(data, Arc::clone(service.environment())).map_err(|e| IngestError::Keys(e.to_string()))?;
    let signing_key = vault.key("files").map_err(|e| IngestError::Keys(e.to_string()))?;
    let (queued, woken) = mpsc::channel();
    let ingest = Arc::new(Ingest {
        service,
        vault,
        contract,
        options,
        turns: Turns::new(BATCHES_PER_USER),
        batches: Arc::new(Semaphore::new(BATCHES)),
        uploads: Arc::new(Semaphore::new(UPLOADS)),
        queued,
        signing_key,
    });
    if ingest.contract.hook.is_some() {
        let served = Arc::downgrade(&ingest);
        let worker = std::thread::Builder::new().name("ingest".into());
        worker.spawn(move || enrich::work(&served, &woken)).map_err(|e| IngestError::Thread(e.to_string()))?;
    }
    Ok(http::router(ingest))
}
