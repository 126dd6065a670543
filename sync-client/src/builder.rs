//! Choosing a file, a server, tables and policies.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sync_core::protocol::capabilities::Limits;

use crate::api::{Api, TokenRequest, TokenSource};
use crate::asking::Asking;
use crate::attach::Attach;
use crate::client::Client;
use crate::conflict::{Policies, Policy};
use crate::context::{Environment, Observer, System};
use crate::detach::{Detach, Detached};
use crate::engine::Engine;
use crate::error::{Error, cannot};
use crate::place::{Place, SharedLook};
use crate::report::Event;
use crate::store::{Meta, Selection, Store, look};
use crate::transport::{Http, Request, Response, Transport, TransportError};
use crate::undecided::Inbox;

/// Opens a [`Client`]. Made by [`Client::builder`].
pub struct Builder {
    path: PathBuf,
    server: Option<String>,
    token: TokenSource,
    selection: Option<Selection>,
    policies: Policies,
    remember: bool,
    attach: Option<Attach>,
    observer: Option<Observer>,
    transport: Option<Arc<dyn Transport>>,
    env: Arc<dyn Environment>,
    patience: Duration,
    answer_within: Duration,
    ca: Option<PathBuf>,
}

impl Builder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            server: None,
            token: Arc::new(|_| Err("no token was given".into())),
            selection: None,
            policies: Policies::default(),
            remember: false,
            attach: None,
            observer: None,
            transport: None,
            env: Arc::new(System),
            patience: Duration::ZERO,
            answer_within: ANSWER_WITHIN,
            ca: None,
        }
    }

    /// The server's base URL, which may carry a path. Needed the first time; remembered in the file.
    #[must_use]
    pub fn server(mut self, base_url: &str) -> Self {
        self.server = Some(base_url.trim_end_matches('/').to_owned());
        self
    }

    /// Trusts the certificate authorities in this PEM file, beside the system's, for an https URL. Remembered in the
    /// file, by its path.
    #[must_use]
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// Yields the bearer token. Asked once more, with `renew`, when the server refuses it. It must not call the client.
    #[must_use]
    pub fn token(mut self, f: impl Fn(TokenRequest) -> Result<String, String> + Send + Sync + 'static) -> Self {
        self.token = Arc::new(f);
        self
    }

    /// Syncs these tables. Needed the first time, or [`Builder::all_tables`]; remembered in the file, and
    /// changed there when it is given again.
    #[must_use]
    pub fn tables(mut self, names: &[&str]) -> Self {
        self.selection = Some(Selection::Named(names.iter().map(|n| (*n).to_owned()).collect()));
        self
    }

    /// Syncs every table that can be; [`Client::introspection`] names the others and why.
    #[must_use]
    pub fn all_tables(mut self) -> Self {
        self.selection = Some(Selection::All);
        self
    }

    /// What happens when a remote row meets a local edit of the same row. Where it is not said, what the
    /// file remembers holds ([`Builder::remember_policies`]), else [`Policy::ServerWins`].
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policies.set(policy);
        self
    }

    /// The same for one table.
    #[must_use]
    pub fn table_policy(mut self, table: &str, policy: Policy) -> Self {
        self.policies.set_table(table.to_ascii_lowercase(), policy);
        self
    }

    /// How long an answer of [`Policy::Custom`] or [`Policy::Ask`] is waited for: 30 seconds where this is not said. The time
    /// is for all conflicts that are asked about at once; where no answer at all comes in it, what else the same pull meets
    /// is not asked about. Meanwhile nothing is locked, but the sync stands; [`Client::stop`] ends it at once.
    ///
    /// ```no_run
    /// use std::{sync::Arc, time::Duration};
    /// use sync_client::{Client, Policy, Resolution};
    /// let client = Client::builder("app.db")
    ///     .policy(Policy::ClientWins) // what holds where the function takes too long
    ///     .policy(Policy::Custom(Arc::new(|_| Resolution::TakeServer)))
    ///     .answer_within(Duration::from_secs(5))
    ///     .open()?;
    /// # Ok::<(), sync_client::Error>(())
    /// ```
    #[must_use]
    pub const fn answer_within(mut self, time: Duration) -> Self {
        self.answer_within = time;
        self
    }

    /// Local edits of rows in this table outlive the delete of their parent on the server: the parent
    /// comes back as this file had it, with its own parents where these went too, and is told of in
    /// `conflicts`. Without this the edited row leaves its table for `rejected`. Where a parent does not fit
    /// any more, since its unique value was taken, it is as without this.
    #[must_use]
    pub fn keep_edits_of(mut self, child_table: &str) -> Self {
        self.policies.keep.insert(child_table.to_ascii_lowercase());
        self
    }

    /// Keeps the policies that are given here in the file, in place of those that it had: they hold
    /// whenever the file is opened without naming others. Functions cannot be kept.
    #[must_use]
    pub fn remember_policies(mut self) -> Self {
        self.remember = true;
        self
    }

    /// What happens to this file's rows when it is attached for the first time, or after a detach to
    /// another account; [`Attach::Merge`] where nobody says, unless the file looks like a copy of one that is part of the
    /// account ([`Error::LooksLikeCopy`]). Remembered in the file until it is attached.
    #[must_use]
    pub fn attach(mut self, mode: Attach) -> Self {
        self.attach = Some(mode);
        self
    }

    /// Is told what happens, on the thread that syncs. It must not call the client.
    #[must_use]
    pub fn on_event(mut self, f: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(f));
        self
    }

    /// How long a verb waits, in all, where the server says that it has no place now or that another device fills the
    /// account, and when to come back: it tries again then, and says so by [`Event::Waiting`]. Without this, verbs
    /// fail at once. The background worker and [`Client::sync_within`] go by times of their own.
    #[must_use]
    pub const fn patience(mut self, time: Duration) -> Self {
        self.patience = time;
        self
    }

    /// Another way to the server than HTTP by ureq.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Another clock and other randomness than the system's.
    #[must_use]
    pub fn environment(mut self, env: Arc<dyn Environment>) -> Self {
        self.env = env;
        self
    }

    /// Opens the file and makes sure that its changes are captured. No network.
    ///
    /// # Errors
    /// [`Error::NotInitialized`] where the file is not a synced one and server or tables are missing;
    /// [`Error::Owned`] where another process syncs it; [`Error::Schema`] where a named table cannot be
    /// synced; [`Error::Argument`] where a function is to be remembered; SQLite's.
    pub fn open(mut self) -> Result<Client, Error> {
        let (mut store, place) = self.take()?;
        let now = self.env.now_ms();
        let asleep = store.asleep()?;
        if store.installed()? && !asleep {
            if let Some(selection) = &self.selection {
                // Tables that nobody named may be refused.
                if matches!(selection, Selection::Named(_)) {
                    look(&mut store.conn, selection)?;
                }
                store.select(selection)?;
            }
            store.refresh(now)?;
        } else {
            let (Some(server), Some(selection)) = (&self.server, &self.selection) else {
                return Err(Error::NotInitialized);
            };
            if asleep {
                store.wake_up(server, selection, now)?;
            } else {
                store.install(server, selection, &self.env.new_id(), now)?;
            }
        }
        if let Some(mode) = self.attach
            && Meta::Joined.integer(&store.conn)? == 0
        {
            Meta::AttachMode.keep(&store.conn, mode.name().to_owned())?;
        }
        let remembered: String = Meta::Server.get(&store.conn)?.unwrap_or_default();
        let server = match &self.server {
            Some(s) if *s != remembered => {
                Meta::Server.set(&store.conn, s)?;
                // Whoever answers there was not heard yet.
                Meta::ServerTables.clear(&store.conn)?;
                s.clone()
            }
            _ => remembered,
        };
        if let Some(ca) = &self.ca {
            Meta::Ca.keep(&store.conn, ca.display().to_string())?;
        }
        if self.remember && !self.policies.is_empty() {
            self.policies.remember(&store.conn)?;
        }
        let patience = self.patience;
        Ok(Client::new(self.engine(store, Some(place), &server)?, patience))
    }

    /// Detaches the file as [`Client::detach`] does, without opening it for syncing first: the way out where
    /// [`Builder::open`] refuses what the app did to its schema. No network, no token.
    ///
    /// # Errors
    /// [`Error::NotInitialized`] where the file is not a synced one; [`Error::Owned`]; [`Error::PendingWork`];
    /// [`Error::Damaged`], for which [`Detach::KeepData`] and [`crate::forget`] are left; SQLite's.
    pub fn detach(mut self, how: &Detach) -> Result<Detached, Error> {
        let (store, place) = self.take()?;
        if !store.installed()? || store.asleep()? {
            return Err(Error::NotInitialized);
        }
        self.engine_without_network(store, Some(place))?.detach(how)
    }

    /// Opens what waits for a person, to decide about it: also while another process or a client of this one syncs the
    /// file, which goes on with what was decided. No network, no token.
    ///
    /// # Errors
    /// [`Error::NotInitialized`] where the file is not a synced one; [`Error::Owned`] where another version of this
    /// program syncs it; SQLite's.
    pub fn inbox(mut self) -> Result<Inbox, Error> {
        let (mut store, place) = match self.take() {
            Ok((store, place)) => (store, Some(place)),
            Err(owned @ Error::Owned { .. }) => {
                let store = Store::open(&self.path)?;
                self.env.opened(&store.conn);
                // Bringing the file up to date is for the one that has it.
                if store.installed()? && !store.is_current()? {
                    return Err(owned);
                }
                (store, None)
            }
            Err(e) => return Err(e),
        };
        if !store.installed()? || store.asleep()? {
            return Err(Error::NotInitialized);
        }
        store.refresh(self.env.now_ms())?;
        Ok(Inbox::new(self.engine_without_network(store, place)?))
    }

    /// The file, for this process only.
    fn take(&mut self) -> Result<(Store, Place), Error> {
        // Wherever the process goes, and whichever file a link leads to later.
        self.path = std::path::absolute(&self.path).map_err(cannot("find", &self.path))?;
        let place = Place::take(&self.path)?;
        if let Some(ca) = &self.ca {
            self.ca = Some(std::path::absolute(ca).map_err(cannot("find", ca))?);
        }
        if let (Some(server), None) = (&self.server, &self.transport) {
            Http::with_ca(server, self.ca.as_deref())?;
        }
        let store = Store::open(place.file())?;
        self.env.opened(&store.conn);
        Ok((store, place))
    }

    /// For what asks no server: neither its URL nor its certificates stand in the way.
    fn engine_without_network(mut self, store: Store, place: Option<Place>) -> Result<Engine, Error> {
        self.transport = Some(Arc::new(Nowhere));
        self.engine(store, place, "")
    }

    fn engine(self, store: Store, place: Option<Place>, server: &str) -> Result<Engine, Error> {
        let policies = self.policies.over_remembered(&store.conn)?;
        let ca = self.ca.or(Meta::Ca.get::<String>(&store.conn)?.map(PathBuf::from));
        let transport = match self.transport {
            Some(t) => t,
            None => Arc::new(Http::with_ca(server, ca.as_deref())?),
        };
        let stopping = Arc::new(AtomicBool::new(false));
        let api = Arc::new(Api::new(transport, self.token));
        if Meta::ServerTables.get::<String>(&store.conn)?.is_some() {
            api.set_known();
        }
        let mut engine = Engine {
            store,
            api,
            env: self.env,
            policies,
            asking: Asking::new(self.answer_within),
            limits: Limits::default(),
            stage: None,
            path: place.as_ref().map_or(&*self.path, Place::file).to_owned(),
            asked: self.path,
            server: server.to_owned(),
            observer: self.observer,
            stopping,
            greeted: None,
            can_watch: false,
            pulled: false,
            learned: Cell::new(0),
            look: SharedLook::default(),
            place,
        };
        engine.note_log();
        let stopped = engine.stopped();
        engine.store.heed(stopped)?;
        Ok(engine)
    }
}

/// How long the app's answers to conflicts are waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// No way to any server.
struct Nowhere;

impl Transport for Nowhere {
    fn send(&self, _: &Request<'_>) -> Result<Response, TransportError> {
        Err(TransportError::Offline("this asks no server".into()))
    }
}
