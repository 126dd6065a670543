//! Order of arrival, repetition and concurrency do not matter.

use std::sync::Barrier;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use super::world::{World, contains, counts, daily, full, send, status, summaries, summary, tokens};
use crate::http::Client;

const ID: &str = "sum_0d4c270a8ff871feaf9b8293cd0abef8";
const DAY: &str = "2026-06-08";

/// All three views, for comparison.
fn views(device: &Client) -> Vec<Value> {
    ["rollups/daily", "rollups/monthly", "dashboard"].iter().map(|p| device.get(&format!("/api/{p}")).json()).collect()
}

#[test]
fn st_31_an_equal_payload_moves_the_stamp_on() {
    let world = World::new();
    let versions = [
        (10, "2026-06-08T01:00:00Z"),
        (10, "2026-06-08T03:00:00Z"),
        (5, "2026-06-08T02:00:00Z"),
        (7, "2026-06-08T00:00:00Z"),
    ];
    let mut orders = vec![vec![]];
    for n in 0..versions.len() {
        orders = orders
            .into_iter()
            .flat_map(|o: Vec<usize>| {
                (0..=o.len()).map(move |at| {
                    let mut o = o.clone();
                    o.insert(at, n);
                    o
                })
            })
            .collect();
    }
    assert_eq!(orders.len(), 24);
    for (n, order) in orders.iter().enumerate() {
        let device = world.device(&format!("user {n}"), &format!("dev_{n}"));
        for i in order {
            let (tokens, stamp) = versions[*i];
            let sent = summaries(&format!("batch_{i}"), "2026-06-09T00:00:00Z", &[summary(ID, DAY, tokens, stamp)]);
            assert_eq!(send(&device, &sent).status, 200);
        }
        assert_eq!(daily(&device), [(DAY.to_owned(), 10)], "{order:?}");
        assert_eq!(tokens(&device, "/api/rollups/monthly"), [("2026-06".to_owned(), 10)], "{order:?}");
        assert_eq!(device.get("/api/dashboard").json()["totals"]["usage"]["total_tokens"], 10);
    }
}

#[test]
fn st_33_a_later_batch_may_say_less_at_an_earlier_time() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let more = summary(ID, DAY, 1002, "2026-06-08T18:00:30Z");
    let less = summary(ID, DAY, 101, "2026-06-08T09:30:00Z");
    send(&device, &summaries("batch_1", "2026-06-08T19:00:00Z", std::slice::from_ref(&more)));
    let reply = send(&device, &summaries("batch_2", "2026-06-08T20:00:00Z", &[less]));
    assert_eq!((counts(&reply, "updated")[5], daily(&device)), (1, vec![(DAY.to_owned(), 101)]));
    let reply = send(&device, &summaries("batch_3", "2026-06-08T19:00:00Z", &[more]));
    assert_eq!((counts(&reply, "duplicates")[5], daily(&device)), (1, vec![(DAY.to_owned(), 101)]));
    let same_stamp = summary(ID, DAY, 55, "2026-06-08T09:30:00Z");
    let reply = send(&device, &summaries("batch_4", "2026-06-08T21:00:00Z", &[same_stamp]));
    assert_eq!((counts(&reply, "updated")[5], daily(&device)), (1, vec![(DAY.to_owned(), 55)]));
}

#[test]
fn st_34_the_ninth_digit_counts() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let sent = |id: &str, at: &str, n| summaries(id, at, &[summary(ID, DAY, n, "2026-06-08T18:00:30Z")]);
    send(&device, &sent("batch_2", "2026-06-08T19:00:00.941127158Z", 2));
    let reply = send(&device, &sent("batch_1", "2026-06-08T19:00:00.941127157Z", 1));
    assert_eq!((counts(&reply, "duplicates")[5], daily(&device)), (1, vec![(DAY.to_owned(), 2)]));
}

#[test]
fn concurrent_duplicates_get_one_truth() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let sent = full("batch_1");
    let start = Barrier::new(20);
    let replies: Vec<[u64; 6]> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..20)
            .map(|_| {
                s.spawn(|| {
                    start.wait();
                    counts(&send(&device, &sent), "accepted")
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(replies.iter().filter(|c| **c == [1, 1, 1, 0, 1, 0]).count(), 1, "one of them did it: {replies:?}");
    assert_eq!(replies.iter().filter(|c| **c == [0; 6]).count(), 19);
    assert_eq!(status(&device).1, [1, 1, 1, 0]);
}

/// Four threads send overlapping batches, each one to three times; another user sends each once, in order.
#[test]
fn st_30_shuffled_and_repeated_batches_end_as_one_application_in_order() {
    let world = World::new();
    let strategy = prop::collection::vec(
        (prop::collection::vec((0usize..8, 0u64..5), 0..6), prop::collection::vec(0usize..4, 1..4)),
        25,
    );
    let mut runner = TestRunner::new(Config { cases: 4, ..Config::default() });
    let run = std::cell::Cell::new(0);
    let checked = runner.run(&strategy, |plan| {
        run.set(run.get() + 1);
        let batches: Vec<Value> = plan
            .iter()
            .enumerate()
            .map(|(n, (records, _))| {
                // One version of a record in a batch, and batches of different times: order is defined by stamps alone.
                let mut all: Vec<Value> = Vec::new();
                for (id, tokens) in records {
                    let id = format!("sum_{id}");
                    if all.iter().all(|s| s["summary_id"] != id.as_str()) {
                        all.push(summary(
                            &id,
                            &format!("2026-06-{:02}", 28 + *tokens % 3),
                            *tokens,
                            "2026-06-08T00:00:00Z",
                        ));
                    }
                }
                summaries(&format!("batch_{n}"), &format!("2026-07-01T00:00:{n:02}Z"), &all)
            })
            .collect();
        let shuffled = world.device(&format!("shuffled {}", run.get()), &format!("dev_s{}", run.get()));
        std::thread::scope(|s| {
            for thread in 0..4 {
                let (plan, batches, shuffled) = (&plan, &batches, &shuffled);
                s.spawn(move || {
                    for (n, (_, threads)) in plan.iter().enumerate().rev() {
                        for _ in threads.iter().filter(|t| **t == thread) {
                            assert_eq!(send(shuffled, &batches[n]).status, 200);
                        }
                    }
                });
            }
        });
        let ordered = world.device(&format!("ordered {}", run.get()), &format!("dev_o{}", run.get()));
        for batch in &batches {
            assert_eq!(send(&ordered, batch).status, 200);
        }
        prop_assert_eq!(views(&shuffled), views(&ordered));
        Ok(())
    });
    checked.unwrap();
    assert!(!contains(&world.everything(), "panicked"));
}
