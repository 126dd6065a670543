//! Sums by day and month, over HTTP and from the command.

use serde_json::{Value, json};

use super::world::{World, counts, daily, send, summaries, summary, tokens};

const ROLLUP: &str = "sum_0d4c270a8ff871feaf9b8293cd0abef8";

fn day(day: &str, tokens: u64) -> Vec<(String, u64)> {
    vec![(day.to_owned(), tokens)]
}

#[test]
fn st_09_st_10_a_correction_replaces_and_an_older_payload_is_stale() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let first =
        summaries("batch_1", "2026-06-08T12:00:00Z", &[summary(ROLLUP, "2026-06-08", 1550, "2026-06-08T11:00:00Z")]);
    assert_eq!(counts(&send(&device, &first), "accepted"), [0, 0, 0, 0, 0, 1]);
    let second =
        summaries("batch_2", "2026-06-08T12:00:00Z", &[summary(ROLLUP, "2026-06-08", 3100, "2026-06-08T12:00:00Z")]);
    let reply = send(&device, &second);
    assert_eq!(
        (counts(&reply, "accepted")[5], counts(&reply, "updated")[5], counts(&reply, "duplicates")[5]),
        (1, 1, 0)
    );
    assert_eq!(daily(&device), day("2026-06-08", 3100));
    let mut stale = first;
    stale["batch_id"] = "batch_3".into();
    assert_eq!(counts(&send(&device, &stale), "duplicates"), [0, 0, 0, 0, 0, 1]);
    assert_eq!(daily(&device), day("2026-06-08", 3100));
}

#[test]
fn st_11_the_same_record_twice_in_a_batch() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let one = summary(ROLLUP, "2026-06-08", 1550, "2026-06-08T11:00:00Z");
    let reply = send(&device, &summaries("batch_1", "2026-06-08T12:00:00Z", &[one.clone(), one.clone()]));
    assert_eq!((counts(&reply, "accepted")[5], counts(&reply, "duplicates")[5]), (1, 1));
    assert_eq!(daily(&device), day("2026-06-08", 1550));
    // With equal stamps and another payload the later in the list holds.
    let other = summary(ROLLUP, "2026-06-08", 7, "2026-06-08T11:00:00Z");
    let reply = send(&device, &summaries("batch_2", "2026-06-08T12:00:00Z", &[one, other]));
    assert_eq!((counts(&reply, "updated")[5], counts(&reply, "duplicates")[5]), (1, 1));
    assert_eq!(daily(&device), day("2026-06-08", 7));
}

#[test]
fn st_13_days_months_and_the_dashboard() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let stamp = "2026-06-02T00:00:00Z";
    let mut claude = summary("sum_3", "2026-06-01", 50, stamp);
    claude["provider"] = "claude_code".into();
    let mut all_time = summary("sum_4", "2026-06-01", 9999, stamp);
    all_time["metadata"]["summary_format"] = "external_all_time".into();
    let all =
        [summary("sum_1", "2026-05-31", 100, stamp), summary("sum_2", "2026-06-01", 200, stamp), claude, all_time];
    assert_eq!(counts(&send(&device, &summaries("batch_1", stamp, &all)), "accepted"), [0, 0, 0, 0, 0, 4]);
    assert_eq!(daily(&device), [("2026-05-31".to_owned(), 100), ("2026-06-01".to_owned(), 250)]);
    let rows = device.get("/api/rollups/daily").json()["rollups"].clone();
    let split: Vec<_> =
        rows.as_array().unwrap().iter().map(|r| (&r["provider"], &r["usage"]["total_tokens"])).collect();
    assert_eq!(split[1..], [(&json!("claude_code"), &json!(50)), (&json!("codex"), &json!(200))]);
    assert_eq!(tokens(&device, "/api/rollups/monthly"), [("2026-05".to_owned(), 100), ("2026-06".to_owned(), 250)]);
    let dashboard = device.get("/api/dashboard").json();
    assert_eq!(dashboard["totals"]["usage"]["total_tokens"], 350);
    assert_eq!(
        dashboard["totals"]["cost"],
        json!({ "estimated_api_equivalent_micro_usd": 360_000,
        "estimated_api_equivalent_usd": 36 })
    );
    assert_eq!(dashboard["providers"][1]["provider"], "codex");
    assert_eq!(dashboard["providers"][1]["usage"]["total_tokens"], 300);
    // The command shows what HTTP does, while the server runs.
    for (flag, path) in [("--daily", "rollups/daily"), ("--monthly", "rollups/monthly"), ("--dashboard", "dashboard")] {
        let printed = world.printed(&["rollups", "--data", "data", "--user", "ada", flag, "--json"]);
        let printed: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(printed, device.get(&format!("/api/{path}")).json());
    }
    let text = world.printed(&["rollups", "--data", "data", "--user", "ada"]);
    assert!(text.lines().count() == 3 && text.contains("2026-06-01  claude_code  -  -  50 tokens  0.12 USD"), "{text}");
    let nobody = world.printed(&["rollups", "--data", "data", "--user", "nobody", "--json"]);
    assert_eq!(nobody.trim(), "{\"rollups\":[]}");
}

#[test]
fn the_dashboard_has_the_last_thirty_days_today_included() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let today = jiff::Timestamp::now();
    let date =
        |ago: i64| today.checked_sub(jiff::SignedDuration::from_hours(24 * ago)).unwrap().to_string()[..10].to_owned();
    let all: Vec<Value> =
        [0, 29, 30].iter().map(|ago| summary(&format!("sum_{ago}"), &date(*ago), 1, "2026-01-01T00:00:00Z")).collect();
    send(&device, &summaries("batch_1", "2026-01-01T00:00:00Z", &all));
    let dashboard = device.get("/api/dashboard").json();
    let days: Vec<&str> =
        dashboard["daily"].as_array().unwrap().iter().map(|r| r["bucket"].as_str().unwrap()).collect();
    assert_eq!(days, [date(29), date(0)]);
    assert_eq!(dashboard["totals"]["usage"]["total_tokens"], 3);
}

#[test]
fn st_28_counts_are_exact_and_sums_end_at_64_bits() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let one = |id: &str| {
        let mut one = summary(id, "2026-06-08", 1, "2026-06-08T11:00:00Z");
        one["usage"]["input_tokens"] = u64::MAX.into();
        one
    };
    let sent = summaries("batch_1", "2026-06-08T12:00:00Z", &[one("sum_1"), one("sum_2")]);
    assert_eq!(counts(&send(&device, &sent), "accepted")[5], 2);
    let text = String::from_utf8(device.get("/api/rollups/daily").body).unwrap();
    assert!(text.contains("\"input_tokens\":18446744073709551615,"), "{text}");
    assert!(
        super::world::contains(&world.everything(), "\"input_tokens\":18446744073709551615"),
        "stored as it was sent"
    );
}

#[test]
fn st_32_neighbours_beyond_a_double_are_two() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let sent =
        |id: &str, tokens: u64, stamp: &str| summaries(id, stamp, &[summary(ROLLUP, "2026-06-08", tokens, stamp)]);
    let (even, odd) = (1 << 53, (1 << 53) + 1);
    assert_eq!(send(&device, &sent("batch_1", even, "2026-06-08T11:00:00Z")).status, 200);
    assert_eq!(send(&device, &sent("batch_1", odd, "2026-06-08T11:00:00Z")).status, 409);
    let reply = send(&device, &sent("batch_2", odd, "2026-06-08T12:00:00Z"));
    assert_eq!(counts(&reply, "updated")[5], 1);
    assert_eq!(daily(&device), day("2026-06-08", odd));
}

#[test]
fn st_41_the_day_is_the_date_as_written() {
    let world = World::new();
    let device = world.device("ada", "dev_a");
    let mut east = summary("sum_1", "2026-06-01", 5, "2026-06-08T11:00:00Z");
    east["period_start"] = "2026-06-01T00:30:00+09:00".into();
    let mut nowhen = summary("sum_2", "2026-06-01", 7, "2026-06-08T11:00:00Z");
    nowhen.as_object_mut().unwrap().remove("period_start");
    assert_eq!(
        counts(&send(&device, &summaries("batch_1", "2026-06-08T12:00:00Z", &[east.clone(), nowhen])), "accepted")[5],
        2
    );
    assert_eq!(daily(&device), day("2026-06-01", 5));
    assert_eq!(tokens(&device, "/api/rollups/monthly"), day("2026-06", 5));
    // A record that moves leaves the bucket that it was in.
    east["period_start"] = "2026-07-01T00:30:00+09:00".into();
    send(&device, &summaries("batch_2", "2026-06-09T12:00:00Z", &[east]));
    assert_eq!(daily(&device), day("2026-07-01", 5));
    assert_eq!(tokens(&device, "/api/rollups/monthly"), day("2026-07", 5));
}
