//! What an app is told of how much is still to come.

use sync_client::Event;

use crate::world::{World, converge};

/// Before the first of many small bundles is here, their number and their rows are told, and they are what arrives.
#[test]
fn a_pull_says_first_what_will_come() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    for n in 0..30 {
        a.sql(&format!(
            "INSERT INTO people (id) VALUES ('p{n}'), ('q{n}'); UPDATE people SET age = {n} WHERE id = 'p0'"
        ));
        a.sync();
    }
    b.events.lock().unwrap().clear();
    let report = b.sync();
    let events = std::mem::take(&mut *b.events.lock().unwrap());
    let moved = |e: &Event| !matches!(e, Event::Started | Event::Finished { .. });
    let first = events.iter().find(|e| moved(e)).unwrap();
    let Event::Pulling { checkpoint, target, rows } = *first else { panic!("{first:?} came first") };
    assert_eq!((target - checkpoint).unsigned_abs(), report.pull.bundles);
    assert_eq!((target, rows), (report.pull.checkpoint, Some(report.pull.applied_rows)));
    assert_eq!((report.pull.bundles, report.pull.applied_rows), (30, 60 + 29));
    let last = events.iter().rev().find_map(|e| match e {
        Event::Applied { rows, checkpoint } => Some((*rows, *checkpoint)),
        _ => None,
    });
    assert_eq!(last, Some((60 + 29, target)));
    assert_eq!(events.iter().filter(|e| matches!(e, Event::Pulling { .. })).count(), 1);
    b.sync();
    assert!(!b.events.lock().unwrap().iter().any(moved), "nothing comes, and nothing is told");
}
