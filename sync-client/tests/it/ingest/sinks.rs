//! What leaves, to which sink, and what is known of each target afterwards.

use serde_json::Value;
use sync_client::ingest::{How, Sink, Stop};

use super::{FULL, Producer, SINCE_LAST, account, event, source, subscription, summary};

fn filled() -> Producer {
    let p = Producer::new();
    p.add("sources", &[source("s1")]);
    p.add("accounts", &[account("a1")]);
    p.add("subscriptions", &[subscription("b1")]);
    p.add("events", &[event("e1", "2026-06-08T09:30:00Z")]);
    p.add("summaries", &[summary("m1", "2026-06-08T10:00:00Z", 5)]);
    p
}

/// ST-14: local evidence leaves by no sink; identities, hashes and the owner's paths do.
#[test]
fn st_14_no_sink_has_local_evidence() {
    let p = filled();
    let mut printed = Vec::new();
    p.stream().push(&mut Sink::Stdout(&mut printed), &FULL).unwrap();
    p.stream().push(&mut Sink::File(p.path("out.json")), &FULL).unwrap();
    p.pushed(&FULL);
    let sent = p.peer.kept().batches[0].to_string();
    for text in [String::from_utf8(printed).unwrap(), std::fs::read_to_string(p.path("out.json")).unwrap(), sent] {
        assert!(!text.contains("SEKRIT") && !text.contains("77177"), "{text}");
        let batch: Value = serde_json::from_str(&text).unwrap();
        let event = &batch["events"][0];
        assert_eq!(event["project"]["path_label"], "~/kept");
        assert_eq!(event["privacy"]["contains_file_paths"], true);
        assert_eq!(event["parse_evidence"]["source_file_path_hash"], "hash-of-file");
        assert_eq!(event["parse_evidence"]["source_line_number"], Value::Null, "null, not left out");
        assert_eq!(event["source"]["source_path_hash"], "hash-of-source");
        assert_eq!(batch["summaries"][0]["privacy"]["contains_file_paths"], false, "it has no path");
        assert_eq!(batch["accounts"][0]["email"], "ada@example.com");
        assert_eq!(batch["accounts"][0]["provider_user_id"], "u-1");
        assert_eq!(batch["sources"][0]["path_hash"], "hash-of-path");
        let ids = ["/sources/0/source_id", "/accounts/0/provider_account_id", "/subscriptions/0/subscription_id"];
        assert_eq!(ids.map(|i| batch.pointer(i).unwrap().as_str().unwrap()), ["s1", "a1", "b1"]);
    }
}

/// ST-18: a dry run counts, and nothing else.
#[test]
fn st_18_a_dry_run_leaves_no_trace() {
    let p = filled();
    p.pushed(&FULL);
    p.add("events", &[event("e2", "2026-06-08T09:31:00Z")]);
    p.peer.kept().last = Some("another".into());
    let before = (p.status(), p.peer.kept().batches.len(), std::fs::read(p.path("app.db")).unwrap());
    let dry = How { dry_run: true, ..SINCE_LAST };
    let mut printed = Vec::new();
    for (sink, events) in [
        (&mut Sink::Stdout(&mut printed), 2),
        (&mut Sink::File(p.path("out.json")), 2),
        (&mut Sink::Http(&p.remote()), 1),
    ] {
        let counted = p.stream().push(sink, &dry).unwrap();
        assert!(counted.dry_run && counted.batches.is_empty() && counted.stop.is_none());
        assert_eq!((counted.counts["events"], counted.counts["sources"]), (events, 1), "{sink:?}");
    }
    assert_eq!(printed, b"");
    assert!(!p.path("out.json").exists());
    assert_eq!((p.status(), p.peer.kept().batches.len(), std::fs::read(p.path("app.db")).unwrap()), before);
}

/// ST-19: a file is whole and private, and hides nothing from other targets.
#[test]
fn st_19_a_file_has_its_own_state() {
    let p = filled();
    let path = p.path("b.json");
    std::fs::write(&path, "what was there before").unwrap();
    let read = || serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap()).unwrap();
    let first = p.stream().push(&mut Sink::File(path.clone()), &FULL).unwrap();
    assert_eq!((first.sink, first.stop), ("file", None));
    let batch = read();
    assert_eq!(batch["events"].as_array().unwrap().len(), 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    p.stream().push(&mut Sink::File(path.clone()), &SINCE_LAST).unwrap();
    let second = read();
    assert_ne!(second["batch_id"], batch["batch_id"]);
    assert!(second.get("events").is_none() && second.get("summaries").is_none(), "{second}");
    for kind in ["sources", "accounts", "subscriptions"] {
        assert_eq!(second[kind], batch[kind]);
    }
    let dry = p.push(&How { dry_run: true, ..SINCE_LAST });
    assert_eq!((dry.counts["events"], dry.counts["summaries"]), (1, 1));
    let status = p.status();
    assert_eq!(status.targets.len(), 1);
    assert_eq!((status.targets[0].sink.as_str(), status.targets[0].target.as_str()), ("file", path.to_str().unwrap()));
    // What cannot be written changes nothing.
    let nowhere = p.stream().push(&mut Sink::File(p.path("none/b.json")), &FULL).unwrap();
    assert!(matches!(nowhere.stop, Some(Stop::Sink(_))), "{:?}", nowhere.stop);
    assert_eq!(read(), second);
}

/// ST-20: what is new to the target, and all metadata; also an event that is older than the cursor.
#[test]
fn st_20_since_last_sends_what_the_target_has_not() {
    let p = filled();
    p.pushed(&FULL);
    p.add("events", &[event("e2", "2026-06-08T10:30:00Z")]);
    p.pushed(&SINCE_LAST);
    assert_eq!(p.peer.last_ids("events", "event_id"), ["e2"]);
    assert_eq!(p.peer.last_ids("summaries", "summary_id"), [""; 0]);
    assert_eq!(p.peer.last_ids("sources", "source_id"), ["s1"]);
    assert_eq!(p.peer.last_ids("accounts", "provider_account_id"), ["a1"]);
    let cursor = |p: &Producer| p.status().targets[0].cursors["events"].clone();
    assert_eq!((cursor(&p).at.as_str(), cursor(&p).id.as_str()), ("2026-06-08T10:30:00Z", "e2"));
    p.add("events", &[event("e0", "2026-06-01T00:00:00Z")]);
    p.pushed(&SINCE_LAST);
    assert_eq!(p.peer.last_ids("events", "event_id"), ["e0"]);
    assert_eq!(cursor(&p).id, "e2", "a cursor never goes back");
    let last = p.pushed(&SINCE_LAST).batches;
    assert_eq!(p.peer.last_ids("events", "event_id"), [""; 0]);
    assert_eq!(p.peer.kept().last.as_deref(), Some(last[0].batch_id.as_str()));
    // The same record again is no other version; a changed one is.
    p.add("events", &[event("e2", "2026-06-08T10:30:00Z")]);
    p.add("summaries", &[summary("m1", "2026-06-08T10:00:00Z", 6)]);
    p.pushed(&SINCE_LAST);
    assert_eq!(p.peer.last_ids("events", "event_id"), [""; 0]);
    assert_eq!(p.peer.last_ids("summaries", "summary_id"), ["m1"]);
    let ids = p.peer.batch_ids();
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len(), "{ids:?}");
}

#[test]
fn a_stream_without_records_tells_the_server_that_it_was_there() {
    let p = Producer::new();
    let pushed = p.pushed(&SINCE_LAST);
    let kept = p.peer.kept();
    assert_eq!(kept.last.as_deref(), Some(pushed.batches[0].batch_id.as_str()));
    let members: Vec<_> = kept.batches[0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["batch_id", "created_at", "device_id", "schema_version"]);
}

#[test]
fn the_device_is_the_files_unless_it_is_said() {
    let p = filled();
    p.pushed(&FULL);
    p.pushed(&How { device: Some("dev_other".into()), ..FULL });
    p.pushed(&FULL);
    let devices: Vec<_> = p.peer.kept().batches.iter().map(|b| b["device_id"].clone()).collect();
    assert_eq!(devices[0], devices[2]);
    assert_eq!(devices[1], "dev_other");
    assert_eq!(p.status().device_id.unwrap(), devices[0].as_str().unwrap());
    assert_eq!(devices[0].as_str().unwrap().len(), 20);
}
