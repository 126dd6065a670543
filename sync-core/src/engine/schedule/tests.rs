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
            "only the push fails: news are pulled, not twice a second, and commits wait",
            &[
                (0, TIME, Sync),
                (1, failure(Failure::PushOnly, None, u64::MAX), Wait(500)),
                (500, TIME, Sync),
                (501, failure(Failure::PushOnly, None, u64::MAX), Wait(1500)),
                (502, COMMITTED, Wait(1500)),
                (503, NEWS, Wait(1000)),
                (1000, TIME, Sync),
                (1001, failed(None), Wait(3000)),
                (1002, NEWS, Wait(3000)),
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
            &[(0, TIME, Sync), (1, failed(Some(60)), Wait(60_001)), (50, BY_HAND, Wait(60_050)), (70, COMMITTED, Sync)],
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
    /// machine is never busy, never waits longer than its longest wait, and is never early.
    #[test]
    fn neither_busy_nor_stuck(
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
