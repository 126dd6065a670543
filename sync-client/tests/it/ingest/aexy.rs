//! Aexy Tracker's events, from the program to the real server: numbered, once, under the server's configuration.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;
use serde_json::{Value, json};
use sync_client::ingest::{Sink, Stop, Stream};

use super::FULL;
use super::tracker::{PROJECT, Real, event, events, push};
use super::web::program;

#[test]
fn ax_31_each_event_of_days_without_a_network_is_stored_once() {
    let real = Real::new();
    let (stream, remote, flaky) = real.flaky(3);
    stream.enrol(&remote, PROJECT, Some("Mac"), None).unwrap().unwrap();
    let three_days = |n: u64| {
        let mut event = event(n);
        let at = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(3 * 86_400 - n as i64 * 60);
        event["ts"] = at.to_string().into();
        event.to_string()
    };
    let all: Vec<String> = (0..4000).map(three_days).collect();
    assert_eq!(stream.add("events", all.iter().map(String::as_str)).unwrap().added, 4000);
    let pushed = push(&stream, &remote);
    assert_eq!((&pushed.stop, pushed.counts["events"], pushed.verified), (&None, 4000, true));
    assert_eq!(real.seqs(), (1..=4000).collect::<Vec<_>>());
    let waiting = stream.status().unwrap().targets[0].waiting["events"];
    assert_eq!(waiting, 0);
    let batches = flaky.batches.lock().unwrap().clone();
    assert!(batches.len() > 8, "some went again: {}", batches.len());
    for batch in &batches {
        assert!(batch["events"].as_array().unwrap().len() <= 500);
        assert_eq!(batch["schema_version"], "1.0");
    }
    drop(batches);
    // Nothing is left, so nothing is sent.
    let before = flaky.sent.load(Ordering::SeqCst);
    assert_eq!(push(&stream, &remote).counts["events"], 0);
    assert_eq!(flaky.sent.load(Ordering::SeqCst), before);
}

#[test]
fn ax_32_numbers_go_on_from_the_servers_in_a_file_that_was_put_back() {
    let real = Real::new();
    let copy = real.dir.path().join("copy.db");
    real.enrol();
    real.add(&events(0..2)).ends(0);
    real.push(&[]).ends(0);
    let save = |to: &Path| {
        let conn = Connection::open(real.file()).unwrap();
        conn.execute("VACUUM INTO ?", [to.to_str().unwrap()]).unwrap();
    };
    save(&copy);
    real.add(&events(2..9)).ends(0);
    real.push(&[]).ends(0);
    assert_eq!(real.seqs(), (1..=9).collect::<Vec<_>>());
    for beside in ["app.db-wal", "app.db-shm"] {
        let _ = fs::remove_file(real.dir.path().join(beside));
    }
    fs::copy(&copy, real.file()).unwrap();
    real.add(&events(9..11)).ends(0);
    real.push(&["--verify"]).ends(0);
    assert_eq!(real.seqs(), (1..=11).collect::<Vec<_>>(), "no number is given twice");
    // A server that lost its state gets what the file still has.
    let scopes = fs::read_dir(real.data.path().join("scopes")).unwrap().map(|e| e.unwrap().path());
    for path in scopes.filter(|p| p.extension().is_some_and(|e| e == "db")) {
        let sql = "DELETE FROM _sync_ingest_sample WHERE device_seq > 5; UPDATE _sync_ingest_enrolled SET high_seq = 5";
        Connection::open(path).unwrap().execute_batch(sql).unwrap();
    }
    let again = real.push(&["--verify"]).ends(0).json();
    assert_eq!(again["counts"]["events"], 2, "those that this file has of them: {again}");
    assert_eq!(real.seqs(), [1, 2, 3, 4, 5, 10, 11]);
}

#[test]
fn ax_33_what_the_server_excludes_is_not_captured_and_what_waits_still_goes() {
    let real = Real::new();
    assert_eq!(real.enrol()["config"]["config_etag"], "cfg_0");
    real.add(&events(0..2)).ends(0);
    real.configure(&json!({ "excluded_bundle_ids": ["com.example.vault"], "idle_threshold_s": 60 }));
    // The reply to a batch names another configuration, so it is asked for.
    real.push(&[]).ends(0);
    let mut vault = event(2);
    vault["active_app"]["bundle_id"] = "com.example.vault".into();
    let added = real.add(&[vault, event(3)]).ends(0).json();
    assert_eq!((&added["added"], &added["left_out"]), (&json!(1), &json!(1)));
    assert_eq!(real.status()["config"]["idle_threshold_s"], 60);
    real.configure(&json!({ "paused": true }));
    real.push(&[]).ends(0);
    assert_eq!(real.stored().len(), 3);
    let added = real.add(&events(4..6)).ends(0).json();
    assert_eq!((&added["added"], &added["left_out"]), (&json!(0), &json!(2)));
    real.configure(&json!({}));
    real.add(&events(6..7)).ends(0);
    assert_eq!(real.push(&[]).ends(0).json()["counts"]["events"], 0, "still paused when it was added");
    // Unpaused by an enrolment, as a tracker does when it starts.
    real.enrol();
    real.add(&events(7..8)).ends(0);
    assert_eq!(real.push(&[]).ends(0).json()["counts"]["events"], 1);
}

#[test]
fn ax_37_the_device_is_the_files_and_has_to_be_enrolled() {
    let real = Real::new();
    real.add(&events(0..1)).ends(0);
    let early = real.push(&[]).ends(5).json();
    assert_eq!((&early["error"]["class"], &early["counts"]["events"]), (&json!("refused"), &json!(0)));
    let device = real.status()["device_id"].as_str().unwrap().to_owned();
    assert_eq!((device.len(), device.matches('-').count()), (36, 4), "{device}");
    let enrolled = real.enrol();
    assert_eq!((&enrolled["device_id"], &enrolled["project_id"]), (&json!(device), &json!(PROJECT)));
    assert_eq!(real.push(&[]).ends(0).json()["counts"]["events"], 1, "nothing was lost");
    let bytes = fs::read(real.file()).unwrap();
    let bearer = [&b"Bearer"[..], b"auth_token"];
    assert!(bearer.iter().all(|b| !bytes.windows(b.len()).any(|w| w == *b)));
    for (args, code) in [
        (&["--project", "99999999-9999-4999-8999-999999999999", "--auth-token", "ada"][..], 4),
        (&["--project", PROJECT, "--auth-token", "bob"], 4),
    ] {
        let endpoint = real.endpoint();
        let base = ["stream", "enrol", "app.db", "aexy", "--endpoint", &endpoint];
        real.run(&[&base[..], args].concat()).ends(code);
    }
    real.run(&["stream", "enrol", "app.db", "statsai", "--project", PROJECT]).ends(2);
    let schema = real.run(&["stream", "schema", "aexy.events_batch"]).ends(0);
    assert_eq!(schema.json()["title"], "aexy.events_batch");
}

/// A rejected event is put aside and told, the others of its batch are sent once.
#[test]
fn an_event_that_is_rejected_waits_for_a_person() {
    let real = Real::new();
    real.enrol();
    let mut late = event(1);
    late["ts"] = "2001-01-01T00:00:00Z".into();
    let mut derived = event(2);
    derived["category"] = Value::Null;
    let added = real.add(&[event(0), late.clone(), derived]).ends(0).json();
    assert_eq!(added["invalid"][0]["reason"], "/category");
    let first = real.push(&[]).ends(5).json();
    assert_eq!(first["counts"]["events"], 0, "told of what is invalid first");
    let pushed = real.push(&[]).ends(5).json();
    assert_eq!((&pushed["counts"]["events"], &pushed["error"]), (&json!(1), &Value::Null));
    let expected = json!([{ "kind": "events", "id": late["event_id"], "reason": "ts_out_of_range" }]);
    assert_eq!(pushed["quarantined"], expected);
    assert_eq!(real.stored().len(), 1);
    late["ts"] = jiff::Timestamp::now().to_string().into();
    real.add(&[late]).ends(0);
    let again = real.push(&[]).ends(5).json();
    assert_eq!((&again["counts"]["events"], &again["quarantined"]), (&json!(1), &json!([])));
    assert_eq!(real.stored().len(), 2);
}

/// More batches than a device has in a minute: the rest waits in the file, and goes when the server said.
#[test]
fn a_full_window_is_waited_for() {
    let real = Real::new();
    real.enrol();
    let (stream, remote, flaky) = real.flaky(u64::MAX);
    let mut stop = None;
    for n in 0..31 {
        let one = event(n).to_string();
        stream.add("events", [one.as_str()]).unwrap();
        stop = push(&stream, &remote).stop;
    }
    assert!(matches!(stop, Some(Stop::Later { seconds: 1..=60 })), "{stop:?}");
    let sent = flaky.sent.load(Ordering::SeqCst);
    assert!(matches!(push(&stream, &remote).stop, Some(Stop::Waiting { seconds: 1..=60 })));
    assert_eq!((flaky.sent.load(Ordering::SeqCst), real.stored().len()), (sent, 30), "nothing was asked");
    real.clock.0.fetch_add(61_000, Ordering::Relaxed);
    let conn = Connection::open(real.file()).unwrap();
    conn.execute("UPDATE _sync_ingest_target SET retry_at = 1", []).unwrap();
    assert_eq!(push(&stream, &remote).stop, None);
    assert_eq!(real.stored().len(), 31);
}

/// XC-05, on the producer's side: killed at each point of a push, it goes on where it stood.
#[test]
fn xc_05_a_push_of_events_killed_at_any_point_delivers_each_once() {
    let real = Real::new();
    let (stream, remote, _) = real.flaky(u64::MAX);
    stream.enrol(&remote, PROJECT, None, None).unwrap().unwrap();
    drop(stream);
    let open = |point: u64| {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let world = super::World { now_ms: now_ms.into(), random: (point * 1000).into(), dies_in: point.into() };
        Stream::open_with(&real.file(), "aexy", Arc::new(world)).unwrap()
    };
    let mut ends = Vec::new();
    for point in 1..=6 {
        let stream = open(point);
        let added: Vec<String> = events(point * 10..point * 10 + 3).iter().map(Value::to_string).collect();
        stream.add("events", added.iter().map(String::as_str)).unwrap();
        let push = || push(&stream, &remote).stop;
        ends.push(std::panic::catch_unwind(std::panic::AssertUnwindSafe(push)).ok());
        drop(stream);
        assert_eq!(super::tracker::push(&open(0), &remote).stop, None);
        assert_eq!(real.stored().len() as u64, point * 3, "killed at point {point}");
    }
    assert!(ends[..3].iter().all(Option::is_none) && ends[5] == Some(None), "{ends:?}");
    let mut seqs = real.seqs();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=18).collect::<Vec<_>>(), "each has a number of its own");
}

/// What every target has, and no server takes any more, is no longer in the file.
#[test]
fn an_outbox_does_not_grow_for_ever() {
    let real = Real::new();
    let (stream, remote, _) = real.flaky(u64::MAX);
    stream.enrol(&remote, PROJECT, None, None).unwrap().unwrap();
    let days_ago = |n: u64, days: i64| {
        let mut event = event(n);
        event["ts"] = (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * days)).to_string().into();
        event.to_string()
    };
    let all = [days_ago(0, 20), days_ago(1, 20), days_ago(2, 1)];
    stream.add("events", all.iter().map(String::as_str)).unwrap();
    assert_eq!(push(&stream, &remote).stop, None);
    let of = |stream: &Stream| stream.status().unwrap().records["events"];
    assert_eq!(of(&stream), 3);
    drop(stream);
    let later = |days: i64| {
        let now_ms = jiff::Timestamp::now().as_millisecond() + days * 86_400_000;
        let world = super::World { now_ms: now_ms.into(), random: 1.into(), dies_in: 0.into() };
        Stream::open_with(&real.file(), "aexy", Arc::new(world)).unwrap()
    };
    // Another target has not got them yet.
    let stream = later(15);
    let mut out = Vec::new();
    Connection::open(real.file())
        .unwrap()
        .execute("INSERT INTO _sync_ingest_target (stream, sink, target) VALUES ('aexy', 'stdout', 'stdout')", [])
        .unwrap();
    assert_eq!(push(&stream, &remote).stop, None);
    assert_eq!(of(&stream), 3);
    assert_eq!(stream.push(&mut Sink::Stdout(&mut out), &FULL).unwrap().counts["events"], 3);
    assert_eq!(of(&stream), 1);
    assert_eq!(push(&stream, &remote).stop, None);
    assert_eq!((of(&stream), real.stored().len()), (1, 3));
}

#[test]
fn where_the_token_of_a_developer_comes_from() {
    let real = Real::new();
    real.enrol();
    real.add(&events(0..1)).ends(0);
    let endpoint = real.endpoint();
    let args = ["stream", "push", "app.db", "aexy", "--sink", "http", "--endpoint", &endpoint];
    real.run(&args).ends(2);
    // In this server's development mode a name is a user, so a name is what is traded.
    real.run(&["stream", "login", "aexy", "ada"]).ends(2);
    real.run(&["stream", "login", "aexy"]).ends(2);
    real.run(&["stream", "login", "aexy", "ada", "--endpoint", &endpoint]).ends(0);
    let kept = fs::read_to_string(real.dir.path().join("config/sync-client/aexy.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert!(kept["secret"].as_str().unwrap().starts_with("aexy_"), "{kept}");
    real.run(&["stream", "push", "app.db", "aexy", "--sink", "http"]).ends(0);
    assert_eq!(real.stored().len(), 1);
    let out = program(&real.dir, &args).env("AEXY_TOKEN", "bob").output().unwrap();
    assert_eq!(out.status.code(), Some(5), "bob has no such device: {out:?}");
}
