//! The program dies where a detach, an import or a repair stands half-way: nothing is lost, nothing happens twice, and
//! the same verb again works.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use sync_client::context::FaultPoint;
use sync_client::{Client, Detach, Error, Repair};

use crate::world::{AtFault, Device, World, converge, dump, unseen};

/// Runs a verb of a client of its own for this device, which dies at the point. Then the device is open again.
fn killed<T>(d: &mut Device, point: FaultPoint, verb: impl FnOnce(&Client) -> Result<T, Error>) {
    d.close();
    // What was not committed is rolled back, and what is in other files stays.
    let dies = AtFault(move |at| {
        if at == point {
            resume_unwind(Box::new("killed"));
        }
    });
    let client = Client::builder(&d.path).token(|_| Ok("ada".into())).environment(Arc::new(dies)).open().unwrap();
    let dead = catch_unwind(AssertUnwindSafe(|| verb(&client).map(|_| ())));
    assert!(dead.is_err(), "{point:?} was not reached: {:?}", dead.unwrap());
    drop(client);
    d.open();
}

/// Two devices in step, and then an edit, a delete and a new row on the first that the server does not have.
fn pending(w: &World) -> (Device, Device) {
    let (a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x'), ('q', 'x')");
    converge(&[&a, &b]);
    a.sql("UPDATE people SET name = 'edited' WHERE id = 'p'; DELETE FROM people WHERE id = 'q'; INSERT INTO people (id, name) VALUES ('new', 'x')");
    (a, b)
}

const EDITED: &str = "newx,pedited";

fn people(d: &Device) -> String {
    d.text("SELECT group_concat(id || name) FROM (SELECT * FROM people ORDER BY id)")
}

#[test]
fn a_detach_that_was_cut_can_be_done_again() {
    for (how, after) in [(Detach::KeepData, EDITED), (Detach::Discard, "px,qx")] {
        let w = World::new();
        let (mut a, b) = pending(&w);
        killed(&mut a, FaultPoint::Detaching, |c| c.detach(how.clone()));
        assert_eq!((people(&a).as_str(), a.client().status().unwrap().pending_rows), (EDITED, 3));
        assert_eq!(a.client().discarded().unwrap(), []);
        a.client().detach(how).unwrap();
        assert_eq!(people(&a), after);
        a.open();
        converge(&[&a, &b]);
        assert_eq!(people(&b), after);
    }
}

/// The export is there under its name, and the file still has the work: the same again replaces it.
#[test]
fn an_export_that_was_cut_can_be_done_again() {
    for point in [FaultPoint::Exporting, FaultPoint::Detaching] {
        let w = World::new();
        let (mut a, b) = pending(&w);
        let path = w.dir.path().join("work.export");
        killed(&mut a, point, |c| c.detach(Detach::Export(path.clone())));
        assert!(path.exists());
        assert_eq!((people(&a).as_str(), a.client().status().unwrap().pending_rows), (EDITED, 3));
        a.sql("INSERT INTO people (id, name) VALUES ('newer', 'x')");
        assert_eq!(a.client().detach(Detach::Export(path.clone())).unwrap().exported_rows, 4);
        assert_eq!(people(&a), "px,qx");
        let imported = b.client().import(&path).unwrap();
        assert_eq!((imported.rows, imported.conflicts), (4, 0));
        assert_eq!(b.sync().push.committed_rows, 4);
        a.open();
        converge(&[&a, &b]);
        assert_eq!(people(&a), "newx,newerx,pedited");
        // Another file of that name is nobody's leftover.
        let other = a.client().detach(Detach::Export(path.clone())).unwrap_err().to_string();
        assert!(other.contains("exists already"), "{other}");
    }
}

#[test]
fn an_import_that_was_cut_can_be_done_again() {
    let w = World::new();
    let (a, mut b) = pending(&w);
    let path = w.dir.path().join("work.export");
    a.client().detach(Detach::Export(path.clone())).unwrap();
    let before = dump(&b.path);
    killed(&mut b, FaultPoint::Importing, |c| c.import(&path));
    assert_eq!(dump(&b.path), before);
    let imported = b.client().import(&path).unwrap();
    assert_eq!((imported.rows, imported.conflicts, imported.already), (3, 0, false));
    assert!(b.client().import(&path).unwrap().already);
    assert_eq!(b.sync().push.committed_rows, 3);
    assert_eq!(people(&b), EDITED);
    assert_eq!(b.client().discarded().unwrap(), []);
}

#[test]
fn a_repair_that_was_cut_can_be_done_again() {
    for (way, after) in [(Repair::FromServer, "px,qx"), (Repair::FromFile, "pdamaged,qx")] {
        let w = World::new();
        let (mut a, b) = (w.device("a"), w.device("b"));
        a.sql("INSERT INTO people (id, name) VALUES ('p', 'x'), ('q', 'x')");
        converge(&[&a, &b]);
        unseen(&a.path, "UPDATE people SET name = 'damaged' WHERE id = 'p'");
        killed(&mut a, FaultPoint::Repairing, |c| c.verify(way));
        assert_eq!(people(&a), "pdamaged,qx");
        assert_eq!(a.client().discarded().unwrap(), []);
        let report = a.client().verify(way).unwrap();
        assert_eq!((report.differing_rows, report.repaired_rows), (1, 1), "{way:?}");
        converge(&[&a, &b]);
        assert_eq!(people(&b), after);
        assert_eq!(a.client().discarded().unwrap().len(), usize::from(way == Repair::FromServer));
        assert_eq!(a.client().verify(Repair::No).unwrap().differing_rows, 0);
    }
}
