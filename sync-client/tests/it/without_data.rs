//! A server that runs for a while without its data (a volume that is not mounted), and then has it again, or never: what
//! the app wrote meanwhile holds, or is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sync_client::Detach;
use sync_client::transport::{Http, Request, Response, Transport, TransportError};

use crate::world::{Device, World, converge, copy};

const ROWS: &str =
    "INSERT INTO people (id, name, email) VALUES ('x', 'old', 'x@x'), ('y', 'old', NULL), ('z', 'old', NULL);
    INSERT INTO notes VALUES ('n', 'y', 'old')";
const MEANWHILE: &str =
    "DELETE FROM notes; DELETE FROM people WHERE id = 'y'; UPDATE people SET name = 'new' WHERE id = 'x';
    INSERT INTO people (id, name) VALUES ('w', 'new')";

fn two(w: &World) -> (Device, Device) {
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql(ROWS);
    converge(&[&a, &b]);
    (a, b)
}

/// The server's data goes; returns where it is.
fn unmount(w: &mut World) -> PathBuf {
    w.stop();
    let real = w.dir.path().join("real");
    std::fs::rename(w.data(), &real).unwrap();
    w.start();
    real
}

fn mount(w: &mut World, real: PathBuf) {
    w.stop();
    std::fs::remove_dir_all(w.data()).unwrap();
    std::fs::rename(real, w.data()).unwrap();
    w.start();
}

fn people(d: &Device) -> String {
    d.text("SELECT group_concat(id || name) FROM (SELECT * FROM people ORDER BY id)")
}

fn nothing_is_told(d: &Device) {
    let c = d.client();
    let told: Vec<_> = [c.discarded(), c.conflicts(), c.rejected()].into_iter().flat_map(Result::unwrap).collect();
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn what_was_written_meanwhile_holds() {
    for edited_before in [false, true] {
        let mut w = World::new();
        let (a, b) = two(&w);
        if edited_before {
            a.sql(MEANWHILE);
        }
        let real = unmount(&mut w);
        if !edited_before {
            a.sync();
            a.sql(MEANWHILE);
        }
        a.sync();
        mount(&mut w, real);
        b.sync();
        converge(&[&a, &b]);
        assert_eq!(people(&b), "wnew,xnew,zold", "{edited_before}");
        assert_eq!(b.count("SELECT count(*) FROM notes"), 0);
        nothing_is_told(&a);
        nothing_is_told(&b);
    }
}

/// Others go on where the data is again, before this device does: then the policy decides, row by row, of what both
/// changed, and of nothing else.
#[test]
fn what_others_changed_is_a_conflict_and_nothing_else_is() {
    let mut w = World::new();
    let (a, b) = two(&w);
    let real = unmount(&mut w);
    a.sql(MEANWHILE);
    a.sync();
    mount(&mut w, real);
    b.sql("UPDATE people SET name = 'of b' WHERE id IN ('x', 'z')");
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(people(&a), "wnew,xof b,zof b");
    let lost = a.client().discarded().unwrap();
    assert!(lost.len() == 1 && lost[0].local_row.as_ref().unwrap().contains("\"new\""), "{lost:?}");
    nothing_is_told(&b);
}

/// It comes back as it was at its last backup.
#[test]
fn the_data_may_come_back_older() {
    let mut w = World::new();
    let (a, b) = two(&w);
    w.stop();
    let backup = w.dir.path().join("backup");
    std::fs::create_dir(&backup).unwrap();
    copy(&w.data(), &backup);
    w.start();
    a.sql("INSERT INTO people (id, name) VALUES ('later', 'old'); UPDATE people SET name = 'later' WHERE id = 'z'");
    a.sync();
    unmount(&mut w);
    a.sql(MEANWHILE);
    a.sync();
    mount(&mut w, backup);
    converge(&[&a, &b]);
    assert_eq!(people(&b), "laterold,wnew,xnew,zlater");
    nothing_is_told(&a);
}

/// HTTP on which commits fail while asked to.
struct NoCommits(Http, Arc<AtomicBool>);

impl Transport for NoCommits {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        if self.1.load(Ordering::Relaxed) && request.path.ends_with("/commit") {
            return Err(TransportError::Offline("nobody listens".into()));
        }
        self.0.send(request)
    }
}

/// A lease to seed the account begins no history.
#[test]
fn a_lease_is_not_the_beginning_of_a_history() {
    let mut w = World::new();
    let (mut a, b) = two(&w);
    let (failing, url) = (Arc::new(AtomicBool::new(true)), w.url().to_owned());
    let fails = Arc::clone(&failing);
    a.setup = Box::new(move |b| b.transport(Arc::new(NoCommits(Http::new(&url).unwrap(), Arc::clone(&fails)))));
    a.open();
    a.sql(MEANWHILE);
    let real = unmount(&mut w);
    a.client().sync().unwrap_err();
    a.client().sync().unwrap_err();
    mount(&mut w, real);
    failing.store(false, Ordering::Relaxed);
    converge(&[&a, &b]);
    assert_eq!(people(&b), "wnew,xnew,zold");
    nothing_is_told(&a);
}

/// The data never comes back, and a device that knows nothing of it fills the account: an edit of what nobody else
/// touched holds, a delete is told.
#[test]
fn edits_hold_where_another_device_begins_a_history() {
    let mut w = World::new();
    let (a, b) = two(&w);
    a.sql(MEANWHILE);
    unmount(&mut w);
    b.sql("INSERT INTO people (id, name) VALUES ('v', 'of b')");
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(people(&b), "vof b,wnew,xnew,yold,zold");
    assert!(a.client().conflicts().unwrap().is_empty());
    let told = a.client().discarded().unwrap();
    assert!(told.len() == 2 && told.iter().all(|e| e.op == "DELETE"), "{told:?}");
}

/// A delete that was made on an account without data cannot be kept where another device still has the row.
#[test]
fn a_delete_that_comes_undone_is_told() {
    let mut w = World::new();
    let (a, b) = two(&w);
    unmount(&mut w);
    a.sql(MEANWHILE);
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(people(&a), "wnew,xnew,yold,zold");
    let told = a.client().discarded().unwrap();
    let told: Vec<_> = told.iter().map(|e| (e.op.as_str(), e.reason.as_str(), e.key.as_str())).collect();
    assert_eq!(told, [("DELETE", "history_lost", r#"{"id":"y"}"#), ("DELETE", "history_lost", r#"{"id":"n"}"#)]);
}

/// An imported change that stands on just what is here is no conflict, though this file has to send that itself, since the
/// server has lost it with the history that it came by.
#[test]
fn an_imported_change_goes_on_top_of_a_row_that_is_sent_again() {
    let mut w = World::new();
    let (a, mut b) = two(&w);
    let real = unmount(&mut w);
    converge(&[&b, &a]);
    b.sql("INSERT INTO people (id, name) VALUES ('w', 'new')");
    converge(&[&b, &a]);
    mount(&mut w, real);
    b.sql("UPDATE people SET name = 'late' WHERE id = 'w'");
    let export = w.dir.path().join("work.export");
    b.client().detach(Detach::Export(export.clone())).unwrap();
    b.close();
    assert_eq!(a.client().import(&export).unwrap().conflicts, 0);
    a.sync();
    b.open();
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT name FROM people WHERE id = 'w'"), "late");
    nothing_is_told(&a);
}
