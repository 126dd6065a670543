//! The scratch file beside the app's: it holds rows of other devices.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sync_client::context::FaultPoint;
use sync_client::{Client, Detach};

use crate::world::{AtFault, World, converge};

fn beside(path: &Path) -> PathBuf {
    path.with_extension("db-sync-stage")
}

/// Only its owner can read it, whoever can read the app's file.
#[cfg(unix)]
#[test]
fn only_its_owner_can_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let w = World::new();
    let b = w.device("b");
    let mut a = w.closed_device("a", |_| {});
    let path = beside(&a.path);
    let seen: Arc<Mutex<Vec<u32>>> = Arc::default();
    let modes = Arc::clone(&seen);
    a.setup = Box::new(move |builder| {
        let (path, modes) = (path.clone(), Arc::clone(&modes));
        builder.environment(Arc::new(AtFault(move |at| {
            if at == FaultPoint::Staged {
                modes.lock().unwrap().push(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777);
            }
        })))
    });
    a.open();
    a.sync();
    b.sql("INSERT INTO people (id) VALUES ('p')");
    converge(&[&b, &a]);
    assert_eq!(*seen.lock().unwrap(), [0o600]);
}

/// What a process that was killed left there goes with the next one that has the file, whatever that does.
#[test]
fn a_leftover_goes() {
    let w = World::new();
    let mut a = w.device("a");
    a.sync();
    let left = beside(&a.path);
    let leave = || std::fs::write(&left, "rows of others").unwrap();
    a.close();
    leave();
    a.open();
    assert!(!left.exists());
    a.sync();
    a.close();
    leave();
    Client::builder(&a.path).detach(&Detach::WhenClean).unwrap();
    assert!(!left.exists());
    leave();
    sync_client::forget(&a.path).unwrap();
    assert!(!left.exists());
}
