//! When a client that runs in the background syncs: a state machine. Time and randomness are inputs,
//! the answer is one of "sync now", "wait until", "stop". Whoever drives it decides nothing.
//!
//! | reason to sync | while all is well | after a failure |
//! |---|---|---|
//! | the app committed, the server has news | at once | waits like everything else |
//! | somebody asks | at once | at once, but not before `Retry-After` and not twice a second |
//! | nothing | now and then | when the wait is over |
//!
//! While another device seeds the scope, news and whoever asks end the wait.
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
        self.failures == 0
    }

    fn forget(&mut self) {
        self.failures = 0;
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
            Failure::Passing | Failure::Lasting => {
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIME: Option<Input> = None;
    const COMMITTED: Option<Input> = Some(Input::Committed);
    const NEWS: Option<Input> = Some(Input::News);
    const ASKED: Option<Input> = Some(Input::Asked);
    const SYNCED: Option<Input> = Some(Input::Synced);
    const BY_HAND: Option<Input> = Some(Input::SyncedByHand);
    const STOP: Option<Input> = Some(Input::Stop);

    const fn failure(why: Failure, retry_after_s: Option<u64>, random: u64) -> Option<Input> {
        Some(Input::Failed { why, retry_after_s, random })
    }

    const fn failed(retry_after_s: Option<u64>) -> Option<Input> {
        failure(Failure::Passing, retry_after_s, u64::MAX)
    }

    impl Schedule {
        fn on(&mut self, now: u64, input: Option<Input>) -> Action {
            if let Some(input) = input {
                self.tell(now, input);
            }
            self.next(now)
        }
    }

    /// What comes when, and what is to be done.
    type Step = (u64, Option<Input>, Action);

    #[test]
    fn table() {
        use Action::{Stop, Sync, Wait};
        let seeding = failure(Failure::Seeding, Some(9), 0);
        let lasting = failure(Failure::Lasting, None, u64::MAX);
        let never = Wait(u64::MAX);
        let rows: &[(&str, &[Step])] = &[
            ("the first sync is due at once", &[(5, TIME, Sync)]),
            (
                "nothing happens: the timer",
                &[(0, TIME, Sync), (10, SYNCED, Wait(60_010)), (60_009, TIME, Wait(60_010)), (60_010, TIME, Sync)],
            ),
            ("a commit, at once", &[(0, TIME, Sync), (1, SYNCED, Wait(60_001)), (99, COMMITTED, Sync)]),
            ("news, at once", &[(0, TIME, Sync), (1, SYNCED, Wait(60_001)), (99, NEWS, Sync)]),
            ("asked, at once", &[(0, TIME, Sync), (1, SYNCED, Wait(60_001)), (99, ASKED, Sync)]),
            (
                "what comes during a sync is not forgotten",
                &[(0, TIME, Sync), (30, COMMITTED, never), (40, SYNCED, Sync), (90, SYNCED, Wait(60_090))],
            ),
            (
                "too close to the last one: a little later",
                &[
                    (0, TIME, Sync),
                    (1, SYNCED, Wait(60_001)),
                    (5, COMMITTED, Wait(20)),
                    (6, NEWS, Wait(20)),
                    (20, TIME, Sync),
                ],
            ),
            (
                "offline: commits and news change nothing",
                &[
                    (0, TIME, Sync),
                    (1, failed(None), Wait(500)),
                    (400, COMMITTED, Wait(500)),
                    (450, NEWS, Wait(500)),
                    (500, TIME, Sync),
                ],
            ),
            (
                "offline: asked, at once",
                &[
                    (0, TIME, Sync),
                    (1, failed(None), Wait(500)),
                    (501, TIME, Sync),
                    (502, failed(None), Wait(1501)),
                    (1100, ASKED, Sync),
                ],
            ),
            (
                "offline: asked again and again, it is tried twice a second",
                &[
                    (0, TIME, Sync),
                    (0, failed(None), Wait(500)),
                    (1, ASKED, Wait(500)),
                    (2, ASKED, Wait(500)),
                    (500, ASKED, Sync),
                ],
            ),
            (
                "asked during a sync that fails: once more at once",
                &[(0, TIME, Sync), (700, ASKED, never), (900, failed(None), Sync), (901, failed(None), Wait(1900))],
            ),
            (
                "a commit during a sync that fails changes nothing",
                &[(0, TIME, Sync), (7, COMMITTED, never), (900, failed(None), Wait(1399))],
            ),
            (
                "Retry-After is a floor, also for who asks",
                &[(0, TIME, Sync), (100, failed(Some(7)), Wait(7100)), (3000, ASKED, Wait(7100)), (7100, TIME, Sync)],
            ),
            ("a Retry-After of a year is an hour", &[(0, TIME, Sync), (0, failed(Some(31_000_000)), Wait(3_600_000))]),
            (
                "waits double, and a success forgets them",
                &[
                    (0, TIME, Sync),
                    (1000, failed(None), Wait(1499)),
                    (1499, TIME, Sync),
                    (2000, failed(None), Wait(2999)),
                    (2999, TIME, Sync),
                    (3000, failed(None), Wait(4999)),
                    (4999, TIME, Sync),
                    (5000, SYNCED, Wait(65_000)),
                    (6000, COMMITTED, Sync),
                    (7000, failed(None), Wait(7499)),
                ],
            ),
            (
                "synced by hand meanwhile: the failures are over",
                &[
                    (0, TIME, Sync),
                    (1, failed(Some(60)), Wait(60_001)),
                    (50, BY_HAND, Wait(60_050)),
                    (70, COMMITTED, Sync),
                ],
            ),
            (
                "synced by hand while a sync runs or waits for that: it is not over, and what comes is not forgotten",
                &[
                    (0, TIME, Sync),
                    (10, BY_HAND, never),
                    (20, NEWS, never),
                    (30, BY_HAND, never),
                    (40, SYNCED, Sync),
                    (50, SYNCED, Wait(60_050)),
                ],
            ),
            (
                "synced by hand, asked for meanwhile: it stays so",
                &[(0, TIME, Sync), (10, BY_HAND, never), (20, ASKED, never), (30, failed(None), Wait(500))],
            ),
            (
                "synced by hand while one is due: news that came since stay",
                &[
                    (0, TIME, Sync),
                    (1, SYNCED, Wait(60_001)),
                    (5, NEWS, Wait(20)),
                    (9, BY_HAND, Wait(20)),
                    (20, TIME, Sync),
                ],
            ),
            (
                "another device seeds: as long as the server says, and nothing grows",
                &[
                    (0, TIME, Sync),
                    (10, seeding, Wait(9010)),
                    (20, COMMITTED, Wait(9010)),
                    (9010, TIME, Sync),
                    (9020, seeding, Wait(18_020)),
                ],
            ),
            (
                "another device has seeded",
                &[(0, TIME, Sync), (10, seeding, Wait(9010)), (20, NEWS, Wait(500)), (500, TIME, Sync)],
            ),
            (
                "a refusal: it also grows",
                &[(0, TIME, Sync), (1000, lasting, Wait(1499)), (1200, ASKED, Sync), (2200, lasting, Wait(3199))],
            ),
            (
                "stop, in every phase",
                &[(0, STOP, Stop), (1, ASKED, Stop), (2, TIME, Stop), (3, SYNCED, Stop), (4, failed(None), Stop)],
            ),
            ("stop during a sync", &[(0, TIME, Sync), (1, STOP, Stop), (2, SYNCED, Stop)]),
            ("stop during a wait", &[(0, TIME, Sync), (1, failed(None), Wait(500)), (2, STOP, Stop)]),
        ];
        for (what, steps) in rows {
            let mut s = Schedule::default();
            for (now, input, action) in *steps {
                assert_eq!(s.on(*now, *input), *action, "{what}: {input:?} at {now}");
                let due = match action {
                    Wait(until) if *action != never => Some(*until),
                    _ => None,
                };
                assert_eq!(s.due(), due, "{what}: {input:?} at {now}");
            }
        }
    }

    #[test]
    fn shares_are_even() {
        for (random, expected) in [(0, 0), (1 << 62, 25), (1 << 63, 50), (u64::MAX, 99)] {
            assert_eq!(share(100, random), expected, "{random}");
        }
    }

    #[test]
    fn the_file_and_the_stream_are_left_alone_while_offline() {
        let mut s = Schedule::default();
        assert!(s.heeds_commits() && s.may_watch());
        s.on(0, TIME);
        s.on(1, failed(None));
        assert!(!s.heeds_commits() && !s.may_watch());
        s.on(600, TIME);
        s.on(700, SYNCED);
        assert!(s.heeds_commits() && s.may_watch());
        let mut refused = Schedule::default();
        refused.on(0, TIME);
        for n in 1..30 {
            refused.on(n * 1_000_000, failure(Failure::Lasting, None, u64::MAX));
        }
        assert_eq!(refused.on(29_000_000, NEWS), Action::Wait(29_299_999), "at most five minutes");
    }

    fn inputs() -> impl Strategy<Value = Option<Input>> {
        prop_oneof![
            4 => Just(COMMITTED),
            2 => Just(NEWS),
            2 => Just(ASKED),
            1 => Just(BY_HAND),
            4 => Just(TIME),
        ]
    }

    proptest! {
        /// A virtual clock, any inputs at any times, and a server that is up or down as it likes: the
        /// machine is never busy, never asleep for longer than its longest wait, and never early.
        #[test]
        fn never_busy_and_never_asleep(
            steps in prop::collection::vec((0u64..3000, inputs(), 0u64..300, 0u8..8, any::<u64>()), 1..400),
        ) {
            let mut s = Schedule::default();
            let (mut now, mut last, mut floor, mut failing) = (0u64, None::<u64>, 0u64, false);
            for (step, input, lasts, luck, random) in steps {
                now += step;
                let mut action = s.on(now, input);
                if input == BY_HAND {
                    (failing, floor) = (false, 0);
                }
                while action == Action::Sync {
                    if let Some(last) = last {
                        let pace = if failing { s.pace_failing_ms } else { s.pace_ms };
                        prop_assert!(now >= last + pace, "busy: {last} and {now}");
                    }
                    prop_assert!(now >= floor, "before Retry-After");
                    last = Some(now);
                    now += lasts;
                    let outcome = match luck {
                        0 => failure(Failure::Passing, Some(random % 5), random),
                        1 => failure(Failure::Lasting, None, random),
                        2 => failure(Failure::Seeding, Some(random % 90), random),
                        3 | 4 => failure(Failure::Passing, None, random),
                        _ => SYNCED,
                    };
                    (failing, floor) = match outcome {
                        Some(Input::Failed { why: Failure::Seeding, .. }) => (true, 0),
                        Some(Input::Failed { retry_after_s, .. }) => (true, now + retry_after_s.unwrap_or(0) * 1000),
                        _ => (false, 0),
                    };
                    action = s.on(now, outcome);
                }
                match action {
                    Action::Wait(until) => prop_assert!(until > now && until <= now + s.most_lasting_ms + 1),
                    _ => prop_assert!(false, "{action:?}"),
                }
            }
        }

        /// A server that stays down for an hour, an app that commits all the time and nobody who asks.
        #[test]
        fn quiet_while_offline(seed in any::<u64>()) {
            let mut s = Schedule::default();
            let (mut now, mut tries, mut random) = (0u64, 0u32, seed);
            let mut action = s.on(now, TIME);
            while now < 3_600_000 {
                action = match action {
                    Action::Sync => {
                        tries += 1;
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        s.on(now, failure(Failure::Passing, None, random))
                    }
                    Action::Wait(until) => {
                        prop_assert!(s.on(now, COMMITTED) == action);
                        now = until;
                        s.on(now, TIME)
                    }
                    Action::Stop => unreachable!("nobody stops it"),
                };
            }
            prop_assert!((60..400).contains(&tries), "{tries} tries in an hour");
        }
    }
}
