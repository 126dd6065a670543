//! Large bundles whose download is cut, or that are not what their head says.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sync_client::transport::Transport as _;
use sync_client::{Client, Event};

use super::{Fate, Fated, fill, open};
use crate::relay::through;
use crate::world::{Device, Impatient, World, converge, dump};

/// A device with a large bundle on the server, and another one that does not get the second page of it at first.
fn cut(w: &World) -> (Device, Device, Arc<Fated>) {
    let (a, mut b) = (w.device("a"), w.device("b"));
    fill(&a, 3);
    converge(&[&a, &b]);
    a.sql("DELETE FROM people");
    fill(&a, 12_000);
    a.sync();
    b.close();
    let pages = AtomicUsize::new(0);
    let transport = Fated::new(w, move |r, _| match r.path.contains("/committed-bundles/") {
        true if pages.fetch_add(1, Ordering::Relaxed) == 1 => Fate::NoNetwork,
        _ => Fate::Passes,
    });
    (a, b, transport)
}

/// A large bundle goes on like a snapshot.
#[test]
fn a_cut_bundle_goes_on_where_it_stands() {
    let w = World::new();
    let (a, b, transport) = cut(&w);
    let client = open(&b, &transport);
    assert!(client.sync().is_err());
    client.sync().unwrap();
    assert_eq!(transport.sent("/committed-bundles/"), 3, "each page once");
    drop(client);
    assert_eq!(dump(&a.path), dump(&b.path));
}

/// What came of it is gone with the sync that a panic ended: it is begun again, not gone on with where it stood.
#[test]
fn a_cut_bundle_is_begun_again_after_a_panic() {
    let w = World::new();
    let (a, b, transport) = cut(&w);
    let pulls = AtomicUsize::new(0);
    let client = Client::builder(&b.path)
        .token(|_| Ok("ada".into()))
        .transport(Arc::clone(&transport) as _)
        .on_event(move |e| {
            let pulling = matches!(e, Event::Pulling { .. });
            assert!(!pulling || pulls.fetch_add(1, Ordering::Relaxed) != 1, "a bug of the app");
        })
        .open()
        .unwrap();
    assert!(client.sync().is_err());
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.sync())).is_err());
    client.sync().unwrap();
    drop(client);
    assert_eq!(dump(&a.path), dump(&b.path));
}

/// What was fetched of it is gone with the scratch file; nothing is taken for fetched that is not there.
#[test]
fn a_cut_bundle_whose_scratch_file_went_is_fetched_anew() {
    let w = World::new();
    let (a, b, transport) = cut(&w);
    let client = Client::builder(&b.path)
        .token(|_| Ok("ada".into()))
        .environment(Arc::new(Impatient))
        .transport(Arc::clone(&transport) as _)
        .open()
        .unwrap();
    assert!(client.pull().is_err());
    // Something else is new at the server, and the app is busy just then.
    a.sql("INSERT INTO counters (label) VALUES ('new')");
    a.sync();
    b.sql("BEGIN IMMEDIATE");
    assert!(client.pull().is_err());
    b.sql("COMMIT");
    client.sync().unwrap();
    drop(client);
    assert_eq!(dump(&a.path), dump(&b.path));
}

/// A large bundle whose rows are not what its head says is not asked for again and again: the file is rebuilt, as
/// where a page of small ones does not fit.
#[test]
fn a_large_bundle_that_does_not_verify_is_passed_by_a_rebuild() {
    let w = World::new();
    let (a, mut b) = (w.device("a"), w.device("b"));
    converge(&[&a, &b]);
    fill(&a, 3000);
    a.sync();
    let client = through(&w, &mut b, |http, r| {
        let mut response = http.send(r)?;
        if r.path.contains("/committed-bundles/") {
            let mut text = String::new();
            response.body.read_to_string(&mut text).unwrap();
            response.body = Box::new(std::io::Cursor::new(text.replacen("\"id\":\"p", "\"id\":\"q", 1)));
        }
        Ok(response)
    });
    assert!(client.sync().unwrap().pull.rebuilt);
    drop(client);
    assert_eq!(dump(&a.path), dump(&b.path));
}
