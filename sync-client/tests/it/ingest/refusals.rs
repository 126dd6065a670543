//! Records and batches that are refused, by the schema here or by the server: told, put aside, neither lost nor sent for ever.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;
use sync_client::ingest::{Endpoint, Remote, Sink, Stop};

use super::peer::{Answer, URL};
use super::{FULL, Producer, SINCE_LAST, event, source, summaries, summary};

/// ST-23: what the schema is against fails the push before any request; the next one goes without it.
#[test]
fn st_23_an_invalid_record_fails_before_any_request() {
    let p = Producer::new();
    let mut bad = event("e1", "2026-06-08T09:30:00Z");
    bad["usage"]["input_tokens"] = (-1).into();
    p.add("events", &[bad, event("e2", "2026-06-08T09:30:00Z")]);
    let pushed = p.push(&FULL);
    let Some(Stop::Invalid(list)) = &pushed.stop else { panic!("{:?}", pushed.stop) };
    assert_eq!((list[0].id.as_deref(), list[0].reason.as_str()), (Some("e1"), "/usage/input_tokens"));
    assert_eq!(p.peer.kept().tokens, [""; 0], "nothing was asked");
    let pushed = p.pushed(&FULL);
    assert_eq!((p.peer.last_ids("events", "event_id"), pushed.invalid.len()), (vec!["e2".to_owned()], 1));
    p.add("events", &[event("e1", "2026-06-08T09:30:00Z")]);
    assert_eq!(p.pushed(&SINCE_LAST).invalid, []);
    assert_eq!(p.peer.last_ids("events", "event_id"), ["e1"]);
}

/// ST-24: a batch that is too large goes in halves, each under an id of its own; what is too large alone is put aside.
#[test]
fn st_24_halves_after_a_413() {
    let p = Producer::new();
    p.add("summaries", &summaries(4));
    p.peer.kept().most_summaries = Some(2);
    let pushed = p.pushed(&FULL);
    let ids = p.peer.batch_ids();
    let x = &ids[0];
    assert_eq!(ids, [x.clone(), format!("{x}_part_1_of_2"), format!("{x}_part_2_of_2")]);
    let sizes: Vec<usize> = p.peer.kept().batches.iter().map(|b| b["summaries"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [4, 2, 2]);
    assert_eq!((pushed.counts["summaries"], p.status().targets[0].waiting["summaries"]), (4, 0));
    // The first of three is refused alone.
    let p = Producer::new();
    p.add("summaries", &summaries(3));
    let large = || Answer::Instead(413, r#"{"error":"sync_batch_too_large"}"#.into(), None);
    p.peer.answer([large(), large(), large()]);
    let pushed = p.pushed(&FULL);
    assert_eq!(pushed.counts["summaries"], 2);
    assert_eq!(pushed.quarantined.len(), 1);
    assert_eq!((pushed.quarantined[0].id.as_str(), p.peer.kept().records.len()), ("sum000", 2));
    assert_eq!(p.pushed(&FULL).counts["summaries"], 2, "it is not sent again");
    p.add("summaries", &summaries(1));
    let pushed = p.pushed(&SINCE_LAST);
    assert_eq!((pushed.counts["summaries"], pushed.quarantined), (1, vec![]), "added again, it is tried again");
}

#[test]
fn batches_are_of_25_and_metadata_of_20() {
    let p = Producer::new();
    p.add("summaries", &summaries(60));
    p.add("sources", &(0..21).map(|i| source(&format!("s{i}"))).collect::<Vec<_>>());
    let pushed = p.pushed(&FULL);
    let whole = pushed.batches[0].batch_id.strip_suffix("_part_1_of_4").unwrap().to_owned();
    for (n, batch) in pushed.batches.iter().enumerate() {
        assert_eq!(batch.batch_id, format!("{whole}_part_{}_of_4", n + 1));
        assert!(batch.counts["sources"] <= 20 && batch.counts["summaries"] <= 25);
    }
    let kept = p.peer.kept();
    assert!(kept.batches.iter().all(|b| b["created_at"] == kept.batches[0]["created_at"]));
    assert_eq!(kept.records.len(), 81);
}

/// A record that the server points to, or names again and again, is put aside; the others go.
#[test]
fn a_record_that_the_server_refuses_is_put_aside() {
    let p = Producer::new();
    p.add("sources", &[source("s1")]);
    p.add("events", &["e1", "e2", "e3"].map(|id| event(id, "2026-06-08T09:30:00Z")));
    p.peer.answer([Answer::Instead(400, r#"{"error":"invalid_batch","path":"/events/1/usage"}"#.into(), None)]);
    let pushed = p.pushed(&FULL);
    let q = &pushed.quarantined[0];
    assert_eq!((q.kind.as_str(), q.id.as_str(), q.reason.as_str()), ("events", "e2", "invalid_batch at /usage"));
    assert_eq!(p.peer.last_ids("events", "event_id"), ["e1", "e3"]);
    let ids = p.peer.batch_ids();
    assert_ne!(ids[0], ids[1], "an id that was refused is not used again");
    assert_eq!(p.status().targets[0].quarantined.len(), 1);
    assert_eq!(p.pushed(&FULL).counts["events"], 2);

    let p = Producer::new();
    p.add("events", &["e1", "e2"].map(|id| event(id, "2026-06-08T09:30:00Z")));
    let named = || Answer::Ack(json!({"rejected": [{"kind": "events", "id": "e2", "reason": "never"}]}));
    p.peer.answer([named(), named()]);
    assert!(matches!(p.push(&FULL).stop, Some(Stop::WrongAck(_))));
    assert_eq!(p.status().targets[0].quarantined, []);
    let pushed = p.pushed(&FULL);
    assert_eq!((pushed.quarantined[0].id.as_str(), pushed.quarantined[0].reason.as_str()), ("e2", "never"));
    assert_eq!(p.peer.last_ids("events", "event_id"), ["e1"]);
}

#[test]
fn a_wait_that_the_server_asks_for_outlives_the_program() {
    let p = Producer::new();
    p.add("events", &[event("e1", "2026-06-08T09:30:00Z")]);
    p.peer.answer([Answer::Instead(429, "{}".into(), Some(100))]);
    assert_eq!(p.push(&FULL).stop, Some(Stop::Later { seconds: 100 }));
    assert!(p.status().targets[0].retry_after.is_some());
    // A second has passed.
    assert_eq!(p.push(&FULL).stop, Some(Stop::Waiting { seconds: 99 }));
    assert_eq!(p.peer.kept().batches.len(), 1, "nothing was sent");
    assert_eq!(p.status().targets[0].failure_count, 1, "and nobody failed");
    p.world.now_ms.fetch_add(99_000, Ordering::SeqCst);
    assert_eq!(p.pushed(&FULL).counts["events"], 1);
    assert_eq!(p.peer.batch_ids()[0], p.peer.batch_ids()[1]);
    // A clock that was ahead when the wait was noted does not hold anything up for longer than a day.
    p.peer.answer([Answer::Instead(429, "{}".into(), Some(u64::MAX))]);
    assert!(matches!(p.push(&FULL).stop, Some(Stop::Later { .. })));
    p.world.now_ms.fetch_sub(7 * 86_400_000, Ordering::SeqCst);
    assert_eq!(p.pushed(&FULL).counts["events"], 1);
}

#[test]
fn other_refusals_stop_and_keep_everything() {
    let conflict = r#"{"error":"batch_id_payload_conflict"}"#;
    for (status, body, expected) in [
        (400, r#"{"error":"unsupported_schema_version"}"#, Stop::Update),
        (409, conflict, Stop::Refused { status: 409, code: Some("batch_id_payload_conflict".into()) }),
        (403, "<html>\u{1b}[31m", Stop::Refused { status: 403, code: None }),
        (400, r#"{"error":"a b\u001b[31m"}"#, Stop::Refused { status: 400, code: None }),
        (400, r#"{"error":"x","path":"/created_at"}"#, Stop::Refused { status: 400, code: Some("x".into()) }),
        (302, "", Stop::Refused { status: 302, code: None }),
    ] {
        let p = Producer::new();
        p.add("events", &[event("e1", "2026-06-08T09:30:00Z")]);
        p.peer.answer([Answer::Instead(status, body.into(), None)]);
        assert_eq!(p.push(&FULL).stop, Some(expected), "{body}");
        let target = p.status().targets.remove(0);
        assert_eq!((target.failure_count, target.waiting["events"], target.in_flight), (1, 1, None));
        assert_eq!(p.pushed(&FULL).counts["events"], 1);
        let ids = p.peer.batch_ids();
        assert_ne!(ids[0], ids[1], "under another id");
    }
}

#[test]
fn a_refused_token_is_renewed_once() {
    let p = Producer::new();
    p.add("summaries", &[summary("m", "2026-06-08T10:00:00Z", 1)]);
    let refused = || Answer::Instead(401, r#"{"error":"unauthorized"}"#.into(), None);
    let renewing = |renewed: Result<&'static str, &'static str>| {
        let transport: Arc<dyn sync_client::transport::Transport> = Arc::<super::peer::Peer>::clone(&p.peer);
        let tokens = move |asked: sync_client::TokenRequest| match (asked.renew, renewed) {
            (false, _) => Ok("old".to_owned()),
            (true, Ok(token)) => Ok(token.to_owned()),
            (true, Err(why)) => Err(Stop::Login(why.into())),
        };
        Remote::new(Endpoint::parse(URL).unwrap(), transport, Arc::new(tokens))
    };
    p.peer.answer([refused()]);
    let pushed = p.stream().push(&mut Sink::Http(&renewing(Err("the login is over"))), &FULL).unwrap();
    assert_eq!(pushed.stop, Some(Stop::Login("the login is over".into())));
    p.peer.answer([refused(), refused()]);
    let pushed = p.stream().push(&mut Sink::Http(&renewing(Ok("new"))), &FULL).unwrap();
    assert!(matches!(pushed.stop, Some(Stop::Login(_))), "{:?}", pushed.stop);
    p.peer.answer([refused()]);
    let pushed = p.stream().push(&mut Sink::Http(&renewing(Ok("new"))), &FULL).unwrap();
    assert_eq!((pushed.stop, pushed.counts["summaries"]), (None, 1));
    assert_eq!(p.peer.kept().tokens[..5], ["old", "old", "new", "old", "new"]);
    assert_eq!(p.peer.kept().receipts.len(), 1);
}
