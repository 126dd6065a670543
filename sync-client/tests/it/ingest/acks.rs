//! Replies that do not acknowledge a batch, and replies that never come: nothing advances, and the same bytes go again.

use serde_json::json;
use sync_client::ingest::Stop;

use super::peer::Answer;
use super::{FULL, Producer, SINCE_LAST, event, source, summaries};

fn two() -> Producer {
    let p = Producer::new();
    p.add("sources", &[source("s1")]);
    p.add("events", &[event("e1", "2026-06-08T09:30:00Z")]);
    p
}

/// ST-21: an acknowledgement that does not fit advances nothing, and the next good push sends everything.
#[test]
fn st_21_a_wrong_ack_advances_nothing() {
    let zero = json!({"sources": 0, "events": 0});
    let named = json!([{"kind": "events", "id": "e1", "reason": "odd"}]);
    let down = Answer::Instead(500, r#"{"error":"internal"}"#.into(), None);
    for (answers, expected) in [
        (vec![down.clone(), down.clone(), down.clone(), down], "not up to it"),
        (vec![Answer::Ack(json!({"schema_version": "sync_ack.v2"}))], "another version"),
        (vec![Answer::Ack(json!({"batch_id": "batch_1"}))], "another batch"),
        (vec![Answer::Ack(json!({"accepted": zero}))], "account for all"),
        (vec![Answer::Ack(json!({"duplicates": {"sources": 1, "events": 1}}))], "account for all"),
        (vec![Answer::Ack(json!({"rejected": named}))], "not taken"),
        (vec![Answer::Instead(200, "<html>login</html>".into(), None)], "no acknowledgement"),
    ] {
        let p = two();
        p.add("events", &[event("e0", "2026-06-01T00:00:00Z")]);
        let before = p.pushed(&FULL).batches[0].batch_id.clone();
        p.add("events", &[event("e2", "2026-06-08T10:30:00Z")]);
        p.peer.answer(answers);
        let stop = p.push(&SINCE_LAST).stop.unwrap();
        assert!(stop.to_string().contains(expected), "{stop}");
        let target = p.status().targets.remove(0);
        assert_eq!((target.failure_count, target.last_batch_id), (1, Some(before)), "{stop}");
        assert_eq!(target.cursors["events"].id, "e1", "{stop}");
        assert_eq!(target.waiting["events"], 1, "{stop}");
        let pushed = p.pushed(&SINCE_LAST);
        let ids: Vec<_> = pushed.batches.iter().map(|b| b.batch_id.as_str()).collect();
        assert_eq!(Some(ids[0]), target.in_flight.as_deref(), "the same batch: {stop}");
        assert_eq!(pushed.counts["events"], 1);
        let target = p.status().targets.remove(0);
        assert_eq!((target.failure_count, target.in_flight, target.waiting["events"]), (0, None, 0), "{stop}");
        assert_eq!(target.cursors["events"].id, "e2");
    }
}

#[test]
fn the_same_bytes_go_again_after_growing_waits() {
    let p = two();
    p.peer.answer([Answer::Lost, Answer::Unheard, Answer::Cut]);
    let pushed = p.pushed(&FULL);
    assert_eq!(pushed.batches.len(), 1);
    let kept = p.peer.kept();
    let waits: Vec<u128> = kept.waits.iter().map(|ms| ms / 1000).collect();
    assert_eq!(waits, [1, 2, 4]);
    assert_eq!(kept.receipts.len(), 1, "one batch, whatever was heard of it");
    assert_eq!(kept.batches.len(), 3);
    assert!(kept.batches.iter().all(|b| *b == kept.batches[0]));
}

#[test]
fn what_is_in_doubt_goes_first_and_as_it_was() {
    let p = two();
    p.peer.answer([Answer::Unheard, Answer::Lost, Answer::Lost, Answer::Lost]);
    assert!(matches!(p.push(&FULL).stop, Some(Stop::Unreachable(_))));
    // Meanwhile the record changed, and there are more.
    let mut changed = event("e1", "2026-06-08T09:30:00Z");
    changed["usage"]["total_tokens"] = 11.into();
    p.add("events", &[changed, event("e2", "2026-06-08T10:30:00Z")]);
    let pushed = p.pushed(&SINCE_LAST);
    assert_eq!(pushed.batches.len(), 2);
    assert!(!pushed.rebuilt);
    let kept = p.peer.kept();
    assert_eq!(kept.batches[0], kept.batches[1]);
    assert_eq!(kept.batches[2]["events"].as_array().unwrap().len(), 2);
    assert_eq!(kept.records[&(4, "e1".into())].1["usage"]["total_tokens"], 11);
}

/// What the server lost or never had is sent again, once that is known.
#[test]
fn a_server_that_has_another_state_gets_everything() {
    let p = two();
    p.add("summaries", &summaries(30));
    p.pushed(&FULL);
    assert_eq!(p.peer.batch_ids().len(), 2);
    assert!(!p.pushed(&SINCE_LAST).rebuilt, "the parts of a batch are one to it");
    *p.peer.kept() = super::peer::Kept::default();
    let pushed = p.pushed(&SINCE_LAST);
    assert!(pushed.rebuilt);
    assert_eq!((pushed.counts["events"], pushed.counts["summaries"]), (1, 30));
    assert_eq!(p.peer.kept().records.len(), 32);
    // Too few or too many of a kind.
    let stray = p.peer.kept_one();
    p.peer.kept().records.insert((0, "stray".into()), stray);
    assert!(p.pushed(&SINCE_LAST).rebuilt);
}

/// ST-18, the other half: `--verify` compares, and sends nothing again.
#[test]
fn verify_tells_of_a_difference_and_sends_nothing() {
    let p = two();
    let verify = sync_client::ingest::How { verify: true, ..FULL };
    assert!(p.pushed(&verify).verified);
    let stray = p.peer.kept_one();
    p.peer.kept().records.insert((0, "stray".into()), stray);
    let pushed = p.push(&verify);
    assert!(matches!(pushed.stop, Some(Stop::Differs(_))), "{:?}", pushed.stop);
    assert!(!pushed.verified);
}
