//! A server that is killed at any instant of a batch has all of it or nothing.

use super::world::{BATCHES, World, counts, daily, full, send, status, summary};

#[test]
fn st_27_killed_before_and_after_the_commit() {
    for (fault, expected) in [("before_commit", "accepted"), ("after_commit", "duplicates")] {
        let mut world = World::new();
        let token = world.key("ada", "dev_a", &[])["secret"].as_str().unwrap().to_owned();
        world.start(&[], Some(fault));
        let mut batch = full("batch_1");
        batch["summaries"] = serde_json::json!([summary("sum_1", "2026-06-08", 7, "2026-06-08T11:00:00Z")]);
        let (stuck, body) = (world.client(&token), batch.to_string());
        let program = world.id().to_string();
        let sending = std::thread::spawn(move || {
            let told = stuck.try_post(BATCHES, &body).is_some();
            if told {
                // The point was passed: whoever waits for it sees the end of the program.
                drop(std::process::Command::new("kill").args(["-9", &program]).status());
            }
            told
        });
        world.at_fault();
        world.kill();
        assert!(!sending.join().unwrap(), "nobody was told");
        world.start(&[], None);
        let device = world.client(&token);
        let there = expected == "duplicates";
        assert_eq!(status(&device).1, if there { [1, 1, 1, 0] } else { [0; 4] });
        assert_eq!(daily(&device).is_empty(), !there, "sums go with their records");
        assert_eq!(counts(&send(&device, &batch), expected), [1, 1, 1, 0, 1, 1]);
        assert_eq!(status(&device), ("batch_1".into(), [1, 1, 1, 0]));
        assert_eq!(daily(&device), [("2026-06-08".to_owned(), 7)]);
    }
}

/// XC-05, on the server's side: killed at whatever instant, again and again, while batches come, each sent until it is
/// acknowledged.
#[test]
fn xc_05_killed_at_random_instants() {
    let mut world = World::new();
    let token = world.key("ada", "dev_a", &[])["secret"].as_str().unwrap().to_owned();
    let batches: Vec<String> = (0..60)
        .map(|n| {
            let mut batch = full(&format!("batch_{n}"));
            batch["created_at"] = format!("2026-07-01T00:00:{n:02}Z").into();
            let day = format!("2026-06-{:02}", 1 + n % 7);
            batch["summaries"] =
                serde_json::json!([summary(&format!("sum_{}", n % 7), &day, n, "2026-07-01T00:00:00Z")]);
            batch.to_string()
        })
        .collect();
    let mut kills = 0;
    let mut state = 12_345_u64;
    let mut next = 0;
    while next < batches.len() {
        let client = world.client(&token);
        let from = next;
        // The kill comes after a number of requests that nobody knows beforehand, in the midst of one.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let until = from + usize::try_from(state >> 33).unwrap() % 6;
        let (reached, signal) = std::sync::mpsc::channel();
        let pending = batches[from..].to_vec();
        let sending = std::thread::spawn(move || {
            let mut acknowledged = 0;
            for (n, body) in pending.iter().enumerate() {
                if from + n == until {
                    reached.send(()).unwrap();
                }
                match client.try_post(BATCHES, body) {
                    Some(reply) => assert_eq!(reply.status, 200, "{reply:?}"),
                    None => break,
                }
                acknowledged += 1;
            }
            acknowledged
        });
        if signal.recv().is_ok() {
            world.kill();
            kills += 1;
        }
        next += sending.join().unwrap();
        world.start(&[], None);
    }
    assert!(kills > 5, "{kills}");
    let device = world.client(&token);
    let expected: Vec<(String, u64)> =
        (0..7).map(|day| (format!("2026-06-{:02}", day + 1), 53 + (day + 3) % 7)).collect();
    assert_eq!(daily(&device), expected);
    assert_eq!(status(&device), ("batch_59".into(), [1, 1, 1, 0]));
    world.kill();
    let scopes = world.dir.path().join("data/scopes");
    for entry in std::fs::read_dir(scopes)
        .unwrap()
        .map(Result::unwrap)
        .filter(|e| e.path().extension().is_some_and(|e| e == "db"))
    {
        let conn = rusqlite::Connection::open(entry.path()).unwrap();
        let checked: String = conn.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
        assert_eq!(checked, "ok");
    }
}
