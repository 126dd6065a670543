//! XC-05, the producer's half: whatever happens in between, each version of a record is in one batch of the peer's.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use serde_json::json;

use super::peer::Answer;
use super::{FULL, Producer, SINCE_LAST, event, summary};

#[derive(Debug, Clone)]
enum Step {
    /// Appends an event of its own, at some minute.
    Event(u8),
    /// Appends a version of one of a few summaries.
    Summary(u8),
    /// Pushes, with what becomes of the batches on the way, and dies at a fault point where it is not 0.
    Push(Vec<Fate>, u64),
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Fine,
    Lost,
    Unheard,
    Cut,
    Down,
    WrongBatch,
    Slow,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        3 => Just(Fate::Fine),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Unheard),
        1 => Just(Fate::Cut),
        1 => Just(Fate::Down),
        1 => Just(Fate::WrongBatch),
        1 => Just(Fate::Slow),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u8..60).prop_map(Step::Event),
        3 => (0_u8..8).prop_map(Step::Summary),
        2 => (prop::collection::vec(fate(), 0..6), 0_u64..8).prop_map(|(fates, dies)| Step::Push(fates, dies)),
    ]
}

fn answer(fate: Fate) -> Answer {
    match fate {
        Fate::Fine => Answer::Ack(json!({})),
        Fate::Lost => Answer::Lost,
        Fate::Unheard => Answer::Unheard,
        Fate::Cut => Answer::Cut,
        Fate::Down => Answer::Instead(503, "{}".into(), Some(1)),
        Fate::WrongBatch => Answer::Ack(json!({"batch_id": "batch_0"})),
        Fate::Slow => Answer::Instead(429, "{}".into(), Some(3)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn each_version_is_delivered_once(steps in prop::collection::vec(step(), 1..40), first in 0_usize..30) {
        let p = Producer::new();
        p.add("summaries", &super::summaries(first));
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Event(minute) => {
                    let record = event(&format!("e{n}"), &format!("2026-06-08T09:{minute:02}:00Z"));
                    p.add("events", &[record]);
                }
                Step::Summary(id) => {
                    p.add("summaries", &[summary(&format!("m{id}"), "2026-06-08T10:00:00Z", n as u64)]);
                }
                Step::Push(fates, dies) => {
                    p.peer.kept().answers = fates.into_iter().map(answer).collect();
                    p.world.dies_in.store(dies, Ordering::SeqCst);
                    let pushed = catch_unwind(AssertUnwindSafe(|| p.push(&SINCE_LAST)));
                    p.world.dies_in.store(0, Ordering::SeqCst);
                    p.peer.kept().answers.clear();
                    if let Ok(pushed) = pushed {
                        prop_assert!(!pushed.rebuilt && pushed.quarantined.is_empty(), "{pushed:?}");
                    }
                }
            }
        }
        // The faults stop.
        p.world.now_ms.fetch_add(10_000, Ordering::SeqCst);
        let last = p.push(&SINCE_LAST);
        prop_assert_eq!(&last.stop, &None);
        let status = p.status();
        let target = &status.targets[0];
        let kept = p.peer.kept();
        for ((_, id, _), batches) in &kept.versions {
            prop_assert_eq!(batches.len(), 1, "{} is in {:?}", id, batches);
        }
        prop_assert_eq!(target.waiting.values().sum::<u64>(), 0);
        prop_assert_eq!((&target.in_flight, target.failure_count), (&None, 0));
        prop_assert_eq!(&target.last_batch_id, &kept.last);
        prop_assert_eq!(kept.records.len() as u64, status.records.values().sum::<u64>());
        for (kind, at) in [("events", "/session/started_at"), ("summaries", "/observed_at")] {
            let position = if kind == "events" { 4 } else { 5 };
            let of_kind = kept.records.iter().filter(|((k, _), _)| *k == position);
            let latest = of_kind.map(|((_, id), (_, r))| (r.pointer(at).unwrap().as_str().unwrap().to_owned(), id.clone())).max();
            prop_assert_eq!(target.cursors.get(kind).map(|c| (c.at.clone(), c.id.clone())), latest);
        }
        drop(kept);
        // All that is left to say is that nothing is left.
        prop_assert_eq!(p.push(&SINCE_LAST).counts.values().sum::<u64>(), 0);
        prop_assert_eq!(p.push(&FULL).counts.values().sum::<u64>(), status.records.values().sum::<u64>());
    }
}
