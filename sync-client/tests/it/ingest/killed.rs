//! The program is killed at an instant of a push, by the system, and run again: each record is at the peer once.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use super::web::{AFTER, BEFORE, NOWHERE, Web, program};
use super::{event, source, summaries};

fn push(web: &Web, sink: &[&str], fault: Option<&str>) -> Child {
    let args = ["stream", "push", "app.db", "statsai", "--since-last", "--auth-token", "t", "--sink"];
    let mut command = program(&web.dir, &[&args[..], sink].concat());
    if let Some(fault) = fault {
        command.env("SYNC_CLIENT_FAULT", fault);
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs a push until it stands at the point, and kills it there.
fn killed_at(web: &Web, sink: &[&str], fault: &str) {
    let mut child = push(web, sink, Some(fault));
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap().starts_with("fault ")), "{fault} is not reached");
    child.kill().unwrap();
    child.wait().unwrap();
}

fn killed_while_the_peer(web: &Web, stands: u8) {
    web.stand_still(stands);
    let mut child = push(web, &["http", "--endpoint", &web.endpoint()], None);
    web.stands();
    child.kill().unwrap();
    child.wait().unwrap();
    web.stand_still(NOWHERE);
}

#[test]
fn xc_05_a_push_killed_at_any_point_delivers_each_record_once() {
    let web = Web::new();
    web.add("sources", &[source("s1")]);
    // Three batches.
    web.add("summaries", &summaries(60));
    for fault in ["frozen", "before_commit", "after_commit", "before_commit:2", "after_commit:2"] {
        killed_at(&web, &["http", "--endpoint", &web.endpoint()], fault);
    }
    // What came since goes behind what is in doubt.
    web.add("events", &[event("e1", "2026-06-08T09:30:00Z")]);
    killed_while_the_peer(&web, BEFORE);
    killed_while_the_peer(&web, AFTER);
    killed_while_the_peer(&web, AFTER);
    web.push(&["--since-last", "--auth-token", "t"]).ends(0);
    let kept = web.peer.kept();
    assert_eq!(kept.records.len(), 62);
    for ((kind, id, _), batches) in kept.versions.iter().filter(|((kind, ..), _)| *kind > 3) {
        assert_eq!(batches.len(), 1, "{kind} {id} is in {batches:?}");
    }
    drop(kept);
    let status = web.run(&["stream", "status", "app.db", "statsai", "--json"]).ends(0).json();
    let target = &status["targets"][0];
    assert_eq!((&target["failure_count"], target["in_flight"].is_null()), (&0.into(), true), "{target}");
    assert!(target["waiting"].as_object().unwrap().values().all(|n| n == 0), "{target}");
    assert_eq!(target["last_batch_id"].as_str(), web.peer.kept().last.as_deref());
}

/// One push at a time from a file, so that nothing in doubt is sent twice at once.
#[test]
fn another_push_has_to_wait_for_the_first() {
    let web = Web::new();
    web.add("sources", &[source("s1")]);
    web.stand_still(BEFORE);
    let mut first = push(&web, &["http", "--endpoint", &web.endpoint()], None);
    web.stands();
    let second = web.run(&["stream", "push", "app.db", "statsai", "--sink", "stdout"]).ends(1);
    assert!(second.stderr.contains("nother program is pushing"), "{}", second.stderr);
    web.add("events", &[event("e1", "2026-06-08T09:30:00Z")]);
    first.kill().unwrap();
    first.wait().unwrap();
    web.run(&["stream", "push", "app.db", "statsai", "--sink", "stdout"]).ends(0);
}

/// A file has one batch: what was cut is written again as it was, or is part of the next one.
#[test]
fn a_file_that_was_cut_is_written_again() {
    let web = Web::new();
    let sink = ["file", "--output", "out.json"];
    let path = web.dir.path().join("out.json");
    let batch = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&path).unwrap()).unwrap();
    let push =
        || web.run(&["stream", "push", "app.db", "statsai", "--since-last", "--sink", sink[0], sink[1], sink[2]]);
    web.add("events", &[event("e1", "2026-06-08T09:30:00Z")]);
    killed_at(&web, &sink, "before_commit");
    assert!(!path.exists());
    killed_at(&web, &sink, "after_commit");
    let written = batch();
    push().ends(0);
    assert_eq!(batch(), written, "the same under the same id");
    web.add("events", &[event("e2", "2026-06-08T09:31:00Z")]);
    killed_at(&web, &sink, "after_commit");
    let cut = batch();
    web.add("events", &[event("e3", "2026-06-08T09:32:00Z")]);
    push().ends(0);
    let ids: Vec<_> = batch()["events"].as_array().unwrap().iter().map(|e| e["event_id"].clone()).collect();
    assert_eq!(ids, ["e2", "e3"]);
    assert_ne!(batch()["batch_id"], cut["batch_id"]);
}
