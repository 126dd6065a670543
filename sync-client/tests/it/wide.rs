//! Tables with as many columns as SQLite takes, or nearly so.

use sync_client::{Detach, Repair};
use sync_core::sqlite::introspect::MOST_COLUMNS;
use sync_server::limits::Limits;
use tempfile::TempDir;

use crate::cli::{file, run};
use crate::support::serve;
use crate::world::{Device, World};

fn ddl(columns: usize) -> String {
    let more: Vec<String> = (1..columns).map(|i| format!("c{i} TEXT")).collect();
    format!(
        "CREATE TABLE wide (id INTEGER PRIMARY KEY, {}); CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL);",
        more.join(", ")
    )
}

/// The same rows everywhere; a comparison of all columns would be too deep for SQLite.
fn converge(devices: &[&Device]) {
    let rows = "SELECT coalesce(group_concat(r, ';'), '') FROM (SELECT concat_ws(',', id, c1, c7, c8, c9, c10, c11) AS r FROM wide ORDER BY id)";
    for _ in 0..2 {
        devices.iter().for_each(|d| _ = d.sync());
    }
    for d in devices {
        assert_eq!(d.text(rows), devices[0].text(rows));
        assert_eq!(d.client().status().unwrap().pending_rows, 0);
    }
}

/// Whatever the widest table that is taken goes through.
#[test]
fn the_widest_table_syncs() {
    let w = World::with(&ddl(MOST_COLUMNS), Limits::default());
    let (mut a, b) = (w.device("a"), w.device("b"));
    a.sql("INSERT INTO wide (id, c7) VALUES (1, 'one'), (2, 'two'), (3, 'three')");
    converge(&[&a, &b]);
    a.sql("UPDATE wide SET c8 = 'a' WHERE id = 1; UPDATE wide SET id = 9 WHERE id = 2; DELETE FROM wide WHERE id = 3");
    b.sql("UPDATE wide SET c9 = 'b' WHERE id = 1; INSERT OR REPLACE INTO wide (id, c1) VALUES (4, 'b')");
    a.sync();
    converge(&[&b, &a]);
    assert_eq!(b.client().discarded().unwrap().len(), 1);
    b.client().rebuild().unwrap();
    a.client().detach(Detach::KeepData).unwrap();
    a.close();
    a.sql("UPDATE wide SET c10 = 'asleep' WHERE id = 9");
    a.open();
    converge(&[&a, &b]);
    crate::world::unseen(&b.path, "UPDATE wide SET c11 = 'unseen' WHERE id = 9");
    assert_eq!(b.client().verify(Repair::FromServer).unwrap().repaired_rows, 1);
    converge(&[&a, &b]);
}

/// One column more, up to the most that SQLite takes: the table is named and left out, by both ends, and the rest syncs.
#[test]
fn a_wider_table_is_named_and_left_out() {
    for columns in [MOST_COLUMNS + 1, 1998, 2000] {
        let (dir, server) = (TempDir::new().unwrap(), serve(&ddl(columns)));
        file(
            &dir,
            "a.db",
            &format!("{} INSERT INTO wide (id) VALUES (1); INSERT INTO notes VALUES ('n')", ddl(columns)),
        );
        let ran = run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("wide") && said.contains(&format!("it has {columns} columns")), "{said}");
        run(&dir, &["sync", "a.db"]).ends(0);
        assert_eq!(run(&dir, &["pending", "a.db", "--json"]).ends(0).json()["rows"].as_array().unwrap().len(), 0);
        let ran = run(&dir, &["schema", "a.db"]).ends(0);
        assert!(ran.stderr.contains("wide"), "{}", ran.stderr);
    }
}
