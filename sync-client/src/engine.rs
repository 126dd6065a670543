//! The rounds of a sync: connect where needed, push, pull, rebuild, until nothing is left to do.
//!
//! From every state there is a way forward: each outcome of a push or a pull either makes progress or
//! names the next step, and a round that does neither ends the sync with an error.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sync_core::hash::Algorithm;
use sync_core::protocol::capabilities::Limits;
use sync_core::wire::Form;

use crate::api::Api;
use crate::asking::Asking;
use crate::budget::{Budget, Deadline};
use crate::conflict::Policies;
use crate::context::{Environment, Observer};
use crate::error::Error;
use crate::mutant::{self, Mutant};
use crate::place::{Place, SharedLook};
use crate::pull::Pulled;
use crate::push::Pushed;
use crate::report::{Attached, ErrorClass, Event, PullReport, PushReport, SyncReport, SyncWithin};
use crate::stage::Stage;
use crate::store::{Meta, OutboxState, Store};

/// One file's syncing. One thread at a time.
pub(crate) struct Engine {
    pub(crate) store: Store,
    pub(crate) api: Arc<Api>,
    pub(crate) env: Arc<dyn Environment>,
    pub(crate) policies: Policies,
    pub(crate) asking: Asking,
    pub(crate) limits: Limits,
    pub(crate) stage: Option<Stage>,
    /// The file that is open.
    pub(crate) path: PathBuf,
    /// The path that was asked for.
    pub(crate) asked: PathBuf,
    /// The server that the file is synced with.
    pub(crate) server: String,
    pub(crate) observer: Option<Observer>,
    pub(crate) stopping: Arc<AtomicBool>,
    /// When capabilities were last read, in milliseconds since the epoch.
    pub(crate) greeted: Option<i64>,
    pub(crate) can_watch: bool,
    /// Whether the last sync pulled all that there was, also where its push failed.
    pub(crate) pulled: bool,
    /// Versions that conflicts taught: each only ever goes up.
    pub(crate) learned: Cell<u64>,
    /// What the background worker looks at the file with.
    pub(crate) look: SharedLook,
    /// `None` while no file is open (another one is at the path, or none), and where somebody else has it. Last: the file is closed before it is free.
    pub(crate) place: Option<Place>,
}

/// Says, of an error and whether nothing came of the sync, in how many milliseconds the caller tries again by itself.
pub(crate) type Retry<'a> = &'a mut dyn FnMut(&Error, bool) -> u64;

impl Engine {
    pub(crate) fn tell(&self, event: &Event) {
        if let Some(o) = &self.observer {
            crate::calling::call(|| o(event));
        }
    }

    pub(crate) fn source_id(&self) -> Result<String, Error> {
        Meta::SourceId.get(&self.store.conn)?.ok_or_else(|| Error::Damaged("source".into()))
    }

    pub(crate) fn wire_schema(&self) -> Result<String, Error> {
        Ok(Meta::WireSchema.get(&self.store.conn)?.unwrap_or_else(|| "main".into()))
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        if self.api.is_ours() { Algorithm::Blake3 } else { Algorithm::Sha256 }
    }

    /// The view in which rows are sent.
    pub(crate) fn form(&self) -> Form {
        if self.api.is_ours() { Form::Exact } else { Form::Foreign }
    }

    /// The scratch database; made where there is none. What it knows of a download that was cut goes with it, also where
    /// an error or a panic takes it along.
    pub(crate) fn stage(&mut self) -> Result<Stage, Error> {
        match self.stage.take() {
            Some(s) => Ok(s),
            None => Stage::create(&self.path),
        }
    }

    /// Keeps the scratch database for what comes next. It has no journal: after an error that may be its own (a full
    /// disk) it may be damaged, and goes, with what it has of downloads that were cut.
    pub(crate) fn keep_stage<T>(&mut self, stage: Stage, outcome: &Result<T, Error>) {
        if outcome
            .as_ref()
            .err()
            .is_none_or(|e| e.is_no_answer() || matches!(e, Error::Stopped | Error::RetryLater { .. }))
        {
            self.stage = Some(stage);
        }
    }

    pub(crate) fn check_stopped(&self) -> Result<(), Error> {
        let over = self.stopping.load(Ordering::Relaxed)
            || self.api.transport().is_interrupted()
            || self.api.budget().is_some_and(|b| b.is_over());
        if over { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Says whether this is to stop, to what runs long.
    pub(crate) fn stopped(&self) -> impl Fn() -> bool + Send + use<> {
        let (stopping, transport) = (Arc::clone(&self.stopping), Arc::clone(self.api.transport()));
        move || stopping.load(Ordering::Relaxed) || transport.is_interrupted()
    }

    /// Reads what the server offers, now and then: it may have been given tables or limits since.
    pub(crate) fn greet(&mut self) -> Result<(), Error> {
        self.asking.begin();
        let now = self.env.now_ms();
        if self.greeted.is_some_and(|at| (at..at + GREETING_MS).contains(&now)) {
            // The app may have changed its tables since.
            return self.note_held_back();
        }
        // Another account does not hear of the source that this file had at the one before.
        let source = match Meta::Resume.integer(&self.store.conn)? {
            0 => self.source_id()?,
            _ => self.env.new_id(),
        };
        let c = self.api.capabilities(&source).map_err(Error::from)?;
        if !c.has("connect_lifecycle") {
            return Err(Error::Protocol("it does not offer the connect lifecycle".into()));
        }
        self.same_scope(c.scope_id.as_deref())?;
        self.api.set_ours(c.bundle_hash_algorithms.iter().any(|a| a == Algorithm::Blake3.name()));
        self.can_watch = c.has("bundle_change_watch");
        if let Some(schema) = c.registered_tables.first().and_then(|t| t.split_once('.')) {
            Meta::WireSchema.keep(&self.store.conn, schema.0.to_owned())?;
        }
        self.same_bundle()?;
        self.learn_tables(&c)?;
        self.limits = c.bundle_limits;
        self.greeted = Some(now);
        Ok(())
    }

    /// The same within what the call may use. What was reached is durable, and the next call goes on.
    pub(crate) fn sync_within(&mut self, deadline: &Deadline, bytes: Option<u64>) -> Result<SyncWithin, Error> {
        let transport = Arc::clone(self.api.transport());
        let budget = Arc::new(Budget::new(deadline.clone(), transport, bytes));
        let limited = self.api.limit(Arc::clone(&budget));
        self.tell(&Event::Started);
        let mut report = SyncReport::default();
        let outcome = self.rounds(&mut report);
        drop(limited);
        let cut = match &outcome {
            Err(Error::Stopped) => !self.stopping.load(Ordering::Relaxed),
            // A request in flight that the deadline ended.
            Err(Error::Offline { .. }) => budget.time_left().is_zero(),
            _ => false,
        };
        if cut {
            self.tell(&Event::Finished { report: report.clone() });
            return Ok(SyncWithin { report, more: true, bytes: budget.used() });
        }
        match self.remembered(outcome) {
            Ok(left) => {
                self.tell(&Event::Finished { report: report.clone() });
                Ok(SyncWithin { report, more: left == Left::Newer, bytes: budget.used() })
            }
            Err(e) => {
                self.tell(&Event::Failed { class: e.class(), message: e.to_string(), retry_in_ms: None });
                Err(e)
            }
        }
    }

    /// Pushes and pulls until nothing is left to do. `retry` says, from an error and whether the pull went well, in how
    /// many milliseconds the caller tries again by itself.
    pub(crate) fn sync(&mut self, report: &mut SyncReport, retry: Option<Retry<'_>>) -> Result<Left, Error> {
        self.tell(&Event::Started);
        let here = if self.place.is_some() { Ok(()) } else { self.follow() };
        let outcome = here.and_then(|()| self.rounds(report));
        // What failed is a file that is gone.
        if outcome.is_err() && self.is_elsewhere() {
            return Ok(Left::Everything);
        }
        let outcome = self.remembered(outcome);
        // It may have gone just then.
        if outcome.is_err() && self.is_elsewhere() {
            return Ok(Left::Everything);
        }
        match &outcome {
            Ok(_) => self.tell(&Event::Finished { report: report.clone() }),
            Err(e) => {
                self.note_while_offline(e);
                let retry_in_ms = retry.map(|f| f(e, self.pulled));
                self.tell(&Event::Failed { class: e.class(), message: e.to_string(), retry_in_ms });
            }
        }
        outcome
    }

    /// A sync of the worker ended in a panic: no outcome says so.
    pub(crate) fn panicked(&self, retry_in_ms: u64) {
        let why = "a function of the app, or the syncing itself, panicked; it is tried again, and nothing is lost";
        if let Err(e) = self.noted::<()>(Err(Error::Argument(why.into()))) {
            let message = e.to_string();
            self.tell(&Event::Failed { class: e.class(), message, retry_in_ms: Some(retry_in_ms) });
        }
    }

    /// Does something that ends at the network once more where a reply was lost on the way, or where the server
    /// forgot what had begun: every step can be taken again, and often that settles it. A server that cannot be
    /// reached is not asked again.
    pub(crate) fn again<T>(&mut self, mut f: impl FnMut(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        for _ in 0..LOST_REPLIES {
            match f(self) {
                Err(Error::Offline { lost: true, .. }) => self.check_stopped()?,
                Err(e) if e.begins_anew() => self.check_stopped()?,
                other => return other,
            }
        }
        f(self)
    }

    fn rounds(&mut self, report: &mut SyncReport) -> Result<Left, Error> {
        let begun = self.written()?;
        let (mut idle, mut stood) = (0, self.standing(report)?);
        // When the last of what the first round left was noticed.
        let mut newest = None;
        loop {
            self.check_stopped()?;
            report.rounds += 1;
            match self.again(|e| e.round(report)) {
                Err(Error::SchemaMoved) if idle < IDLE_ROUNDS => {}
                other => other?,
            }
            let more = self.store.any_dirty(true)? || self.store.any_logged()? || self.store.outbox()?.is_some();
            if !more {
                self.store.note_settled()?;
                return Ok(Left::Nothing);
            }
            // An app that never pauses is not chased: what was here when this began is settled, at once or in parts.
            if self.written()? > begun {
                let at_once = Meta::SyncedThrough.integer(&self.store.conn)? >= begun;
                if at_once || newest.map_or(Ok(false), |newest| self.store.none_since(newest))? {
                    return Ok(Left::Newer);
                }
            }
            if newest.is_none() {
                newest = self.store.newest_since()?;
            }
            let stands = self.standing(report)?;
            idle = if stands == stood { idle + 1 } else { 0 };
            stood = stands;
            if idle >= IDLE_ROUNDS && !mutant::on(Mutant::GoesInCircles) {
                return Err(Error::NoProgress);
            }
        }
    }

    /// Counts what the app wrote, noticed or not.
    fn written(&self) -> Result<i64, Error> {
        Ok(Meta::Noticed.integer(&self.store.conn)? + i64::from(self.store.any_logged()?))
    }

    /// What a round that gets anywhere changes. Local commits do not count: an app that never pauses must not keep
    /// a sync going that the server does not take any further.
    fn standing(&self, report: &SyncReport) -> Result<Standing, Error> {
        let (push, pull) = (&report.push, &report.pull);
        let search: Option<String> = Meta::Search.get(&self.store.conn)?;
        let checkpoint = Meta::Checkpoint.integer(&self.store.conn)?.unsigned_abs();
        let learned = self.learned.get();
        let counts =
            [checkpoint, push.bundles, push.rejected_rows, pull.applied_rows, pull.conflicts, pull.set_aside, learned];
        Ok(Standing { counts, search })
    }

    /// Whatever became of the push, other devices' rows are pulled; how it ended is told then.
    fn round(&mut self, report: &mut SyncReport) -> Result<(), Error> {
        self.pulled = false;
        self.connected(&mut report.pull)?;
        let pushed = self.push_part(&mut report.push, &mut report.pull);
        if let Err(e) = &pushed
            && (!e.lets_pull() || mutant::on(Mutant::PushHoldsPull))
        {
            return pushed;
        }
        match (self.pull_part(&mut report.pull), pushed) {
            (Ok(()), pushed) => {
                self.pulled = true;
                pushed
            }
            (Err(e), Ok(())) => Err(e),
            // What stands in the way of both is said once; what is wrong with this file, or stops this, comes first.
            (Err(e), Err(pushed)) => Err(if e.lets_pull() { pushed } else { e }),
        }
    }

    /// Attached, greeted, and with a schema that capture knows.
    pub(crate) fn connected(&mut self, report: &mut PullReport) -> Result<(), Error> {
        self.store.refresh(self.env.now_ms())?;
        self.look_again_at_aside()?;
        self.greet()?;
        let attached = self.attach(report)?;
        self.in_time(attached)
    }

    /// Pushes what is pending, once around: conflicts wait for the pull that settles them.
    pub(crate) fn push_part(&mut self, report: &mut PushReport, pull: &mut PullReport) -> Result<(), Error> {
        let (mut reconnects, mut fruitless) = (0, 0);
        for _ in 0..MAX_PUSHES {
            self.check_stopped()?;
            // Before a rebuild nothing is pushed but what is in doubt: a snapshot cannot tell whose a row is.
            let outbox = self.store.outbox()?.map(|o| o.state);
            let (doubt, known) = (outbox == Some(OutboxState::Sent), outbox == Some(OutboxState::Committed));
            if !doubt && Meta::Rebuild.get::<String>(&self.store.conn)?.is_some() {
                return Ok(());
            }
            match self.push_once()? {
                Pushed::Nothing => return self.give_up_lease(pull),
                Pushed::Rebuild | Pushed::FreshSource => return Ok(()),
                // It is in history already, and only has to come back.
                Pushed::Committed if known => return Ok(()),
                Pushed::Committed => {
                    let rows = self.store.outbox()?.map_or(0, |o| o.rows);
                    report.committed_rows += rows.unsigned_abs();
                    report.bundles += 1;
                    return Ok(());
                }
                Pushed::Conflicts(conflicts) => {
                    let earlier = std::mem::take(&mut pull.rebuilt);
                    self.pull_part(pull)?;
                    // A snapshot says nothing of what was deleted since the reply: the next push asks again.
                    if !pull.rebuilt {
                        self.learn(&conflicts, pull)?;
                    }
                    pull.rebuilt |= earlier;
                    return Ok(());
                }
                Pushed::Rejected(n) => report.rejected_rows += n,
                Pushed::Narrowed => {}
                Pushed::Undecided | Pushed::Thawed if fruitless >= MAX_FRUITLESS => return Ok(()),
                Pushed::Undecided => fruitless += 1,
                Pushed::Thawed => {
                    fruitless += 1;
                    self.greeted = None;
                    self.greet()?;
                }
                Pushed::Reconnect if reconnects < MAX_RECONNECTS => {
                    reconnects += 1;
                    self.reconnect(pull)?;
                }
                Pushed::Reconnect => {
                    return Err(Error::Protocol(
                        "the server takes no push, though it said that this file is connected".into(),
                    ));
                }
            }
        }
        Ok(())
    }

    /// What was pending meant nothing or cannot travel: a lease to seed the scope would only keep other
    /// devices waiting, so the server is told.
    fn give_up_lease(&mut self, pull: &mut PullReport) -> Result<(), Error> {
        if Meta::InitializationId.get::<String>(&self.store.conn)?.is_none() {
            return Ok(());
        }
        let tx = self.store.begin()?;
        Meta::InitializationId.clear(&tx)?;
        Meta::Attached.set(&tx, 0)?;
        tx.commit()?;
        self.connected(pull)
    }

    /// Pulls to stable, rebuilding where the history asks for it.
    pub(crate) fn pull_part(&mut self, report: &mut PullReport) -> Result<(), Error> {
        for _ in 0..MAX_PULLS {
            self.check_stopped()?;
            let rebuilds = Meta::Rebuild.get::<String>(&self.store.conn)?.is_some();
            // One that is half uploaded stays while nothing comes that touches it.
            if rebuilds || Meta::PushSession.get::<String>(&self.store.conn)?.is_none() {
                self.thaw()?;
            }
            // In vain is no snapshot downloaded: it cannot be applied before that is known.
            if rebuilds && self.in_doubt()? {
                self.confirm_committed()?;
            }
            let pulled =
                self.past_endless(|e| if rebuilds { e.rebuild_once(report) } else { e.pull_to_stable(report) })?;
            match pulled {
                Pulled::Stable if Meta::Rebuild.get::<String>(&self.store.conn)?.is_none() => {
                    if Meta::PullFirst.integer(&self.store.conn)? != 0 {
                        Meta::PullFirst.clear(&self.store.conn)?;
                    }
                    return self.give_up_lost_commit();
                }
                Pulled::Stable | Pulled::Rebuild => {}
                Pulled::Reconnect => self.reconnect(report)?,
            }
        }
        Err(Error::Protocol("the server's history keeps changing under a rebuild".into()))
    }

    /// Does something once more without the row on which it was ended, which is set aside then. Each costs some seconds:
    /// after a few the sync says so, and the next one goes on behind them.
    pub(crate) fn past_endless<T>(&mut self, mut f: impl FnMut(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        for _ in 0..MAX_ENDLESS {
            match f(self) {
                Err(Error::Endless { .. }) => self.check_stopped()?,
                other => return other,
            }
        }
        f(self)
    }

    /// Whether a commit was sent whose outcome is not known.
    pub(crate) fn in_doubt(&self) -> Result<bool, Error> {
        Ok(self.store.outbox()?.is_some_and(|o| o.state == OutboxState::Sent))
    }

    /// A push that the server confirmed, and that its history did not show to its end. Where the server lacks it, it
    /// was restored or wiped since, and what was in it is local work again.
    fn give_up_lost_commit(&self) -> Result<(), Error> {
        if self.store.outbox()?.is_none_or(|o| o.state != OutboxState::Committed) {
            return Ok(());
        }
        match self.confirm_committed()? {
            None => self.fresh_source(),
            Some(seq) if seq <= Meta::Checkpoint.integer(&self.store.conn)? => {
                Meta::Rebuild.set(&self.store.conn, "an own push was passed over")
            }
            // It was committed before that pull was asked for.
            Some(seq) => Err(Error::OldReply { said: Meta::Checkpoint.integer(&self.store.conn)?, known: seq }),
        }
    }

    /// An outbox of which nothing was sent goes back among the intents before remote rows are applied:
    /// they are settled there.
    pub(crate) fn thaw(&self) -> Result<(), Error> {
        if self.store.outbox()?.is_some_and(|o| o.state == OutboxState::Frozen) {
            let tx = self.store.begin()?;
            self.store.release_outbox()?;
            tx.commit()?;
        }
        Ok(())
    }

    /// The scope is not there (any more), or its lease lapsed: this device may be the one to seed it (H3).
    fn reconnect(&mut self, report: &mut PullReport) -> Result<(), Error> {
        let attached = self.connect(report)?;
        self.in_time(attached)
    }

    pub(crate) fn in_time(&self, attached: Attached) -> Result<(), Error> {
        if attached == Attached::RetryLater {
            let seconds = Meta::RetryAfter.integer(&self.store.conn)?.max(1).unsigned_abs();
            return Err(Error::RetryLater { seconds });
        }
        Ok(())
    }

    /// Takes an outbox whose fate is in doubt as far as it goes, before anything is pulled.
    pub(crate) fn settle_doubt(&mut self, push: &mut PushReport, pull: &mut PullReport) -> Result<(), Error> {
        if self.in_doubt()? { self.push_part(push, pull) } else { Ok(()) }
    }

    /// What the app wrote is noticed, and its log folded, also while there is no network (S16).
    fn note_while_offline(&self, e: &Error) {
        let no_network = matches!(e, Error::RetryLater { .. } | Error::Auth(_) | Error::NoToken(_));
        if !no_network && !e.is_no_answer() {
            return;
        }
        let noticed = self.store.begin().and_then(|tx| {
            self.store.absorb(self.env.now_ms())?;
            Ok(tx.commit()?)
        });
        if let Err(e) = noticed {
            tracing::debug!("the log was not folded: {e}");
        }
    }

    /// How a sync ended, kept for `status`. The first error is the one that is told. A success that cannot be kept is
    /// a failure: `status` would tell of an older one until the next sync.
    fn remembered<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        let kept = self.remember(&outcome);
        outcome.and_then(|done| kept.map(|()| done))
    }

    /// How another verb ended, kept for `status` where that can be: what it did is not to be lost over this, nor is
    /// why it failed.
    pub(crate) fn noted<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(e) = self.remember(&outcome) {
            tracing::debug!("how a verb ended was not noted: {e}");
        }
        outcome
    }

    /// Keeps the last success or failure, for `status`.
    fn remember<T>(&self, outcome: &Result<T, Error>) -> Result<(), Error> {
        if matches!(outcome, Err(Error::Stopped)) {
            return Ok(());
        }
        let tx = self.store.begin_unchecked()?;
        let reached = match outcome {
            Ok(_) | Err(Error::RetryLater { .. }) => Some(1),
            Err(e) => match e.class() {
                ErrorClass::Offline => e.is_no_answer().then_some(0),
                ErrorClass::Auth | ErrorClass::Refused | ErrorClass::Protocol | ErrorClass::Failing => Some(1),
                // What is on the way hides the server, unless it lets a pull through; before it was heard, it may be it.
                ErrorClass::Intermediary => {
                    Some(i64::from(self.pulled || matches!(e, Error::Intermediary { known: false, .. })))
                }
                ErrorClass::Local => None,
            },
        };
        if let Some(reached) = reached {
            Meta::Reached.keep(&tx, reached)?;
        }
        match outcome {
            Ok(_) => {
                Meta::LastSuccess.set(&tx, self.env.now_ms())?;
                for m in [Meta::LastError, Meta::LastErrorAt, Meta::LastErrorClass] {
                    m.clear(&tx)?;
                }
            }
            Err(e) => {
                Meta::LastErrorAt.set(&tx, self.env.now_ms())?;
                Meta::LastErrorClass.set(&tx, serde_json::to_string(&e.class()).unwrap_or_default())?;
                Meta::LastError.set(&tx, e.to_string())?;
            }
        }
        Ok(tx.commit()?)
    }
}

/// What a sync that ended well leaves to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    /// What the app wrote while it ran.
    Newer,
    /// All of it: another file came to the path meanwhile, of which nothing is known yet.
    Everything,
}

/// How far a sync is.
#[derive(PartialEq)]
struct Standing {
    counts: [u64; 7],
    search: Option<String>,
}

/// How long capabilities are taken as read.
const GREETING_MS: i64 = 5 * 60 * 1000;
/// Tries after a lost reply.
const LOST_REPLIES: u32 = 2;
/// Rounds in a row that change nothing, before a sync ends: the next one is the caller's, after a while.
const IDLE_ROUNDS: u32 = 5;
/// Pushes in one round, each after rows were held back.
const MAX_PUSHES: u32 = 50;
/// Pushes in one round of which nothing is known afterwards, or that could not be sent as they were.
const MAX_FRUITLESS: u32 = 5;
/// Greetings in one round: each time, the lease to seed the scope was gone.
const MAX_RECONNECTS: u32 = 5;
/// Rows that come to no end, in one pull.
const MAX_ENDLESS: u32 = 10;
/// Pulls and rebuilds in one round.
const MAX_PULLS: u32 = 5;
