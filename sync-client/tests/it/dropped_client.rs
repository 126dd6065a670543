//! A client that is dropped while its worker syncs: the syncing ends with it, and the file is free again.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use sync_client::{Client, Error, Event};

use crate::world::{Device, World};

/// Opens the file once it is free; far sooner than a network gives up.
fn reopen(a: &mut Device) {
    let begun = std::time::Instant::now();
    while let Err(e) = a.try_open() {
        assert!(matches!(e, Error::Owned { .. }) && begun.elapsed().as_secs() < 30, "{e}");
        std::thread::yield_now();
    }
}

/// A host that accepts and never answers.
#[test]
fn a_worker_that_waits_for_the_network_ends_with_its_client() {
    let w = World::new();
    let mut a = w.device("a");
    a.close();
    let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", host.local_addr().unwrap());
    let client = Client::builder(&a.path).server(&url).token(|_| Ok("ada".into())).open().unwrap();
    let other = client.clone();
    client.start().unwrap();
    let _connection = host.accept().unwrap();
    drop(client);
    assert!(matches!(a.try_open(), Err(Error::Owned { .. })), "there is another clone");
    drop(other);
    reopen(&mut a);
    a.sync();
}

/// A function of the app cannot be cut: until it returns this process has the file, which is said. Then the sync
/// ends where it stands.
#[test]
fn a_worker_inside_a_function_of_the_app_ends_after_it() {
    let w = World::new();
    let mut a = w.device("a");
    a.close();
    let (events, told) = channel();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let client = Client::builder(&a.path)
        .server(w.url())
        .token(|_| Ok("ada".into()))
        .on_event(move |e| {
            let _ = events.send(e.clone());
            let _ = released.lock().unwrap().recv();
        })
        .open()
        .unwrap();
    client.start().unwrap();
    assert_eq!(told.recv().unwrap(), Event::Started);
    drop(client);
    let e = a.try_open().unwrap_err();
    assert!(e.to_string().contains("this process"), "{e}");
    drop(release);
    let mut last = Event::Started;
    while let Ok(event) = told.recv_timeout(Duration::from_secs(30)) {
        last = event;
    }
    assert!(matches!(&last, Event::Failed { message, .. } if message == "stopped"), "{last:?}");
    reopen(&mut a);
    a.sync();
}
