//! `verify` and `compare` on the command line.

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tempfile::TempDir;

use crate::cli::{ALL_ORDERS, DDL, THREE, file, run, text};
use crate::support::serve;

fn unseen(conn: &Connection, sql: &str) {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    conn.execute_batch(sql).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).unwrap();
}

#[test]
fn rows_that_differ_end_with_5_until_they_are_repaired() {
    let (dir, server) = (TempDir::new().unwrap(), serve(DDL));
    let a = file(&dir, "a.db", &format!("{DDL} {THREE}"));
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    run(&dir, &["sync", "a.db"]).ends(0);
    run(&dir, &["clone", &server.url(), "b.db", "--token", "ann"]).ends(0);
    let ran = run(&dir, &["verify", "a.db"]).ends(0);
    assert_eq!(ran.stdout, "Compared 3 rows with the server's at bundle 1: no difference.\n");
    assert_eq!(run(&dir, &["compare", "a.db", "b.db"]).ends(0).stdout, "Compared 3 rows: no difference.\n");

    unseen(&a, "UPDATE orders SET cents = 1; DELETE FROM customers WHERE id = 'c2'");
    let ran = run(&dir, &["verify", "a.db"]).ends(5);
    assert!(ran.stdout.contains("customers  c2   only the server has it"), "{}", ran.stdout);
    assert!(ran.stdout.contains("orders     o1   cents"), "{}", ran.stdout);
    assert!(ran.stdout.contains("2 of 3 rows differ from the server's at bundle 1."), "{}", ran.stdout);
    let ran = run(&dir, &["compare", "a.db", "b.db"]).ends(5);
    assert!(ran.stdout.contains("customers  c2   only b.db has it"), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("2 of 3 rows differ.\n"), "{}", ran.stdout);
    let json = run(&dir, &["compare", "b.db", "a.db", "--json"]).ends(5).json();
    assert_eq!((&json["differing_rows"], &json["differences"][0]["kind"]), (&2.into(), &"extra".into()));

    let json = run(&dir, &["verify", "a.db", "--repair", "server", "--json"]).ends(0).json();
    assert_eq!((&json["differing_rows"], &json["repaired_rows"]), (&2.into(), &2.into()));
    assert_eq!(json["differences"][1]["remedy"], "from_server");
    assert_eq!(text(&a, ALL_ORDERS), "o1=1250");
    assert!(run(&dir, &["discarded", "a.db"]).ends(0).stdout.contains("\"cents\":1"));
    run(&dir, &["compare", "a.db", "b.db"]).ends(0);

    unseen(&a, "UPDATE customers SET name = 'Cyd' WHERE id = 'c2'");
    let ran = run(&dir, &["verify", "a.db", "--repair", "file"]).ends(0);
    assert!(ran.stdout.contains("goes with the next sync"), "{}", ran.stdout);
    let ran = run(&dir, &["compare", "a.db", "b.db"]).ends(0);
    assert!(ran.stdout.contains("Left out: 1 row"), "{}", ran.stdout);
    run(&dir, &["sync", "a.db"]).ends(0);
    run(&dir, &["sync", "b.db"]).ends(0);
    assert!(run(&dir, &["compare", "a.db", "b.db"]).ends(0).stdout.contains("no difference"));
}

#[test]
fn files_that_cannot_be_compared() {
    let dir = TempDir::new().unwrap();
    file(&dir, "a.db", DDL);
    run(&dir, &["compare", "a.db", "b.db"]).ends(1);
    run(&dir, &["verify", "a.db", "--token", "t"]).ends(1);
    file(
        &dir,
        "c.db",
        "CREATE TABLE customers (name TEXT PRIMARY KEY NOT NULL); CREATE TABLE other (id INTEGER PRIMARY KEY)",
    );
    let ran = run(&dir, &["compare", "a.db", "c.db"]).ends(5);
    for part in ["Only a.db has orders.", "Only c.db has other.", "other columns: customers."] {
        assert!(ran.stdout.contains(part), "{}", ran.stdout);
    }
}
