//! When a client that runs in the background syncs: a state machine. Time and randomness are inputs,
//! the answer is one of "sync now", "wait until", "stop". Whoever drives it decides nothing.
//!
//! | reason to sync | while all is well | after a failure |
//! |---|---|---|
//! | the app committed, the server has news | at once | waits like everything else |
//! | somebody asks | at once | at once, but not before `Retry-After` and not twice a second |
//! | nothing | now and then | when the wait is over |
//!
//! While another device seeds the scope, news and whoever asks end the wait. Where only the push failed, news end it
//! too, not twice a second: what others committed is pulled.
//!
//! Waits after a failure are exponential with full jitter, and never shorter than `Retry-After`. A
//! success forgets the failures. No sequence of inputs makes it busy: see [`Schedule::pace_ms`].

use super::backoff::Backoff;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The app committed something that was captured.
    Committed,
    /// The server says that there is something to pull.
    News,
    /// Somebody asks for a sync now.
    Asked,
    /// The sync that was to be done ended well.
    Synced,
    /// Somebody else synced this file, by hand. What came before that sync ended may be too new for it.
    SyncedByHand,
    /// A sync failed.
    Failed {
        /// What kind.
        why: Failure,
        /// What the server asked for, in seconds.
        retry_after_s: Option<u64>,
        /// Any 64 random bits.
        random: u64,
    },
    /// It is over.
    Stop,
}

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No reply, or the server fails for now, or the file is busy: it may pass by itself.
    Passing,
    /// The same, but of the push alone: what others committed was pulled, and what they commit is pulled meanwhile.
    PushOnly,
    /// The server refuses: only a change of something helps, and trying is nearly in vain.
    Lasting,
    /// Another device fills the scope for the first time. Nobody's fault, so nothing grows; the news that
    /// it is done ends the wait.
    Seeding,
}

/// What to do. Times are those of the `now` that is passed in, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Sync now, and then say how it went.
    Sync,
    /// Nothing before that time, unless something happens.
    Wait(u64),
    /// End.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was tried yet, or the last sync went well. The next one is due at that time.
    Well(u64),
    /// A sync is running. What came meanwhile: a reason, and somebody who asked.
    Syncing {
        reason: bool,
        asked: bool,
    },
    /// The last sync failed. The next one is due at that time.
    Failed(u64),
    /// Another device seeds the scope. The next sync is due at that time.
    Seeding(u64),
    Stopped,
}

/// The state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The waits after failures.
    pub backoff: Backoff,
    /// The longest wait after a failure that is [`Failure::Lasting`], in milliseconds.
    pub most_lasting_ms: u64,
    /// The server is asked at least this often while all is well, in milliseconds.
    pub poll_ms: u64,
    /// Two syncs never begin closer together than this, in milliseconds.
    pub pace_ms: u64,
    /// The same after a failure, whoever asks.
    pub pace_failing_ms: u64,
    phase: Phase,
    failures: u32,
    /// The failures are of pushes alone.
    pulls: bool,
    /// When the last sync began.
    began: Option<u64>,
    /// What the server asked for: nothing is sent before.
    floor: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            most_lasting_ms: 5 * 60_000,
            poll_ms: 60_000,
            pace_ms: 20,
            pace_failing_ms: 500,
            phase: Phase::Well(0),
            failures: 0,
            pulls: false,
            began: None,
            floor: 0,
        }
    }
}

impl Schedule {
    /// Takes what happened at `now`, which never goes back.
    ///
    /// ```
    /// use sync_core::engine::schedule::{Action, Input, Schedule};
    /// let mut s = Schedule::default();
    /// assert_eq!(s.next(0), Action::Sync, "the first one is due at once");
    /// s.tell(7, Input::Synced);
    /// assert_eq!(s.next(7), Action::Wait(60_007));
    /// s.tell(900, Input::Committed);
    /// assert_eq!(s.next(900), Action::Sync);
    /// ```
    pub fn tell(&mut self, now: u64, input: Input) {
        self.phase = match (self.phase, input) {
            (Phase::Stopped, _) | (_, Input::Stop) => Phase::Stopped,
            (Phase::Syncing { asked, .. }, Input::Committed | Input::News) => Phase::Syncing { reason: true, asked },
            (Phase::Syncing { .. }, Input::Asked) => Phase::Syncing { reason: true, asked: true },
            (Phase::Syncing { reason, .. }, Input::Synced) => {
                self.forget();
                Phase::Well(if reason { self.paced(now, self.pace_ms) } else { now.saturating_add(self.poll_ms) })
            }
            (Phase::Failed(_) | Phase::Seeding(_), Input::SyncedByHand) => {
                self.forget();
                Phase::Well(now.saturating_add(self.poll_ms))
            }
            // One that is due has its reason; one that runs, or waits for the other to end, says itself how it went.
            (phase @ (Phase::Well(_) | Phase::Syncing { .. }), Input::SyncedByHand) => phase,
            (phase @ (Phase::Well(_) | Phase::Failed(_) | Phase::Seeding(_)), Input::Synced) => phase,
            (phase, Input::Failed { why, retry_after_s, random }) => {
                let due = self.failed(now, why, retry_after_s, random);
                let asked = matches!(phase, Phase::Syncing { asked: true, .. });
                let due = if asked { due.min(self.asked(now)) } else { due };
                if why == Failure::Seeding { Phase::Seeding(due) } else { Phase::Failed(due) }
            }
            (Phase::Well(due), Input::Committed | Input::News | Input::Asked) => {
                Phase::Well(due.min(self.paced(now, self.pace_ms)))
            }
            (Phase::Failed(due), Input::Asked) => Phase::Failed(due.min(self.asked(now))),
            (Phase::Failed(due), Input::News) if self.pulls => Phase::Failed(due.min(self.asked(now))),
            (Phase::Failed(due), Input::Committed | Input::News) => Phase::Failed(due),
            (Phase::Seeding(due), Input::Asked | Input::News) => Phase::Seeding(due.min(self.asked(now))),
            (Phase::Seeding(due), Input::Committed) => Phase::Seeding(due),
        };
    }

    /// What to do at `now`. After [`Action::Sync`] a sync is taken to be running, until
    /// [`Input::Synced`] or [`Input::Failed`] is told.
    #[must_use]
    pub const fn next(&mut self, now: u64) -> Action {
        match self.phase {
            Phase::Stopped => Action::Stop,
            Phase::Syncing { .. } => Action::Wait(u64::MAX),
            Phase::Well(due) | Phase::Failed(due) | Phase::Seeding(due) if now >= due => {
                self.phase = Phase::Syncing { reason: false, asked: false };
                self.began = Some(now);
                Action::Sync
            }
            Phase::Well(due) | Phase::Failed(due) | Phase::Seeding(due) => Action::Wait(due),
        }
    }

    /// When the next sync comes by itself; `None` while one runs and after a stop.
    #[must_use]
    pub const fn due(&self) -> Option<u64> {
        match self.phase {
            Phase::Well(due) | Phase::Failed(due) | Phase::Seeding(due) => Some(due),
            Phase::Syncing { .. } | Phase::Stopped => None,
        }
    }

    /// Whether local commits count: while it is so, the file is worth looking at.
    #[must_use]
    pub const fn heeds_commits(&self) -> bool {
        matches!(self.phase, Phase::Well(_) | Phase::Syncing { .. })
    }

    /// Whether the server's stream is worth opening: not while it cannot be reached anyway.
    #[must_use]
    pub const fn may_watch(&self) -> bool {
        self.failures == 0 || self.pulls
    }

    fn forget(&mut self) {
        self.failures = 0;
        self.pulls = false;
        self.floor = 0;
    }

    /// The earliest that a sync may begin, by its distance to the last one.
    fn paced(&self, now: u64, pace: u64) -> u64 {
        now.max(self.began.map_or(0, |b| b.saturating_add(pace)))
    }

    fn asked(&self, now: u64) -> u64 {
        self.paced(now, self.pace_failing_ms).max(self.floor)
    }

    /// When to try again.
    fn failed(&mut self, now: u64, why: Failure, retry_after_s: Option<u64>, random: u64) -> u64 {
        let retry_after_ms = retry_after_s.unwrap_or(0).min(MOST_RETRY_AFTER_S) * 1000;
        let wait = match why {
            Failure::Seeding => {
                self.forget();
                let wait = retry_after_ms.min(MOST_SEEDING_MS) + share(self.backoff.first_ms, random);
                return now.saturating_add(wait).max(self.paced(now, self.pace_failing_ms));
            }
            Failure::Passing | Failure::PushOnly | Failure::Lasting => {
                self.pulls = why == Failure::PushOnly;
                self.failures = self.failures.saturating_add(1);
                let most_ms = if why == Failure::Lasting { self.most_lasting_ms } else { self.backoff.most_ms };
                let backoff = Backoff { most_ms, ..self.backoff };
                backoff.wait_ms(self.failures, random, None).max(retry_after_ms)
            }
        };
        self.floor = now.saturating_add(retry_after_ms);
        now.saturating_add(wait).max(self.paced(now, self.pace_failing_ms))
    }
}

/// A uniform share of `most`.
fn share(most: u64, random: u64) -> u64 {
    ((u128::from(most) * u128::from(random)) >> 64) as u64
}

/// A server that asks for more is asked again after an hour: it may not have meant it.
const MOST_RETRY_AFTER_S: u64 = 3600;
/// A device that seeds may be done long before its lease ends.
const MOST_SEEDING_MS: u64 = 30_000;

#[cfg(test)]
mod tests;
