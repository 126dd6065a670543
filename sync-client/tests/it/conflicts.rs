//! Conflicts: what each policy keeps, what it records, and what many of them cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sync_client::transport::{Http, Request, Response, Transport, TransportError};
use sync_client::{Policy, Tie};

use crate::world::{Device, SCHEMA, World, converge};

/// Two devices with one row, which both edit; `a` pushes first.
fn both_edit(policy: Policy, on_a: &str, on_b: &str) -> (World, Device, Device) {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device_with("b", policy, |_| {}));
    a.sql("INSERT INTO people (id, name, age, score) VALUES ('p', 'first', 1, 0.5)");
    converge(&[&a, &b]);
    a.sql(on_a);
    b.sql(on_b);
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    (w, a, b)
}

const ROW: &str = "SELECT group_concat(name || ',' || age || ',' || score, ';') FROM people";

#[test]
fn columns_that_one_side_changed_are_merged() {
    let (_w, a, b) = both_edit(
        Policy::MergeColumns(Tie::Server),
        "UPDATE people SET name = 'from a'",
        "UPDATE people SET age = 2; UPDATE people SET score = 1.5",
    );
    assert_eq!(a.text(ROW), "from a,2,1.5");
    assert!(b.client().discarded().unwrap().is_empty());
    let entry = &b.client().conflicts().unwrap()[0];
    assert_eq!(
        (entry.reason.as_str(), entry.op.as_str(), entry.key.as_str()),
        ("merge_columns", "UPDATE", r#"{"id":"p"}"#)
    );
    assert!(entry.local_row.as_ref().unwrap().contains(r#""age":2"#));
    assert!(entry.server_row.as_ref().unwrap().contains("from a"));
    let merged = entry.merged_row.as_ref().unwrap();
    assert!(merged.contains("from a") && merged.contains(r#""age":2"#), "what was kept: {merged}");
}

/// The inbox of a file that an earlier version made has no merged rows.
#[test]
fn an_inbox_without_merged_rows_is_read_and_completed() {
    let w = World::new();
    let mut a = w.device("a");
    a.close();
    a.sql(
        "ALTER TABLE _sync_inbox DROP COLUMN merged_row; ALTER TABLE _sync_table DROP COLUMN shape; ALTER TABLE _sync_table DROP COLUMN triggers;
             DROP INDEX _sync_dirty_followed; ALTER TABLE _sync_dirty DROP COLUMN departure; ALTER TABLE _sync_dirty DROP COLUMN heir;
             ALTER TABLE _sync_out DROP COLUMN departure; ALTER TABLE _sync_out DROP COLUMN heir; ALTER TABLE _sync_suspect DROP COLUMN message; UPDATE _sync_meta SET value = 3 WHERE name = 'format';
         INSERT INTO _sync_inbox (kind, at, tbl, key, op, reason, message) VALUES ('conflict', 0, 'people', '{}', 'UPDATE', 'x', 'y')",
    );
    // Why a row is set aside was said by the end of a sentence.
    for message in [
        "this file's schema refuses the server's row: a UNIQUE value is held by another row, by a rule that only this file has",
        "the row that this one refers to is set aside: this file's schema refuses it",
        "this file's schema refuses the server's row: CHECK constraint failed: age < 100",
    ] {
        a.app
            .execute(
                "INSERT INTO _sync_inbox (kind, at, tbl, key, op, reason, message) \
                 VALUES ('conflict', 0, 'people', '{}', 'UPDATE', 'set_aside', ?)",
                [message],
            )
            .unwrap();
    }
    assert_eq!(sync_client::read_inbox(&a.path, "conflict").unwrap()[0].merged_row, None);
    a.open();
    let reasons: Vec<String> = a.client().conflicts().unwrap().into_iter().map(|r| r.reason).collect();
    assert_eq!(reasons, ["x", "set_aside_unique", "set_aside_parent", "set_aside"]);
    assert_eq!(a.count("SELECT count(merged_row) FROM _sync_inbox"), 0);
}

#[test]
fn ties_are_the_servers_and_the_local_row_is_kept_whole() {
    let (_w, a, b) = both_edit(
        Policy::MergeColumns(Tie::Server),
        "UPDATE people SET name = 'from a', age = 7",
        "UPDATE people SET name = 'from b', score = 9.0",
    );
    assert_eq!(a.text(ROW), "from a,7,9.0");
    let entry = &b.client().discarded().unwrap()[0];
    assert!(entry.message.contains("(name), the server's was taken"), "{}", entry.message);
    assert!(!entry.message.contains("from"), "values stay out of messages");
    assert!(entry.local_row.as_ref().unwrap().contains("from b"));
    assert!(entry.base_row.as_ref().unwrap().contains("first"));
    assert!(b.client().conflicts().unwrap().is_empty());
}

#[test]
fn ties_are_this_devices_where_it_is_said_so() {
    let (_w, a, b) = both_edit(
        Policy::MergeColumns(Tie::Client),
        "UPDATE people SET name = 'from a', age = 7",
        "UPDATE people SET name = 'from b', score = 9.0",
    );
    assert_eq!(a.text(ROW), "from b,7,9.0");
    let entry = &b.client().conflicts().unwrap()[0];
    assert!(entry.message.contains("(name), this device's was taken"), "{}", entry.message);
    assert!(b.client().discarded().unwrap().is_empty());
}

/// The base moves with every merge: the second one is against the row that the first one met.
#[test]
fn a_merge_meets_one_bundle_after_the_other() {
    let w = World::new();
    let (a, b) = (w.device("a"), w.device_with("b", Policy::MergeColumns(Tie::Client), |_| {}));
    a.sql("INSERT INTO people (id, name, age, score) VALUES ('p', 'first', 1, 0.5)");
    converge(&[&a, &b]);
    b.sql("UPDATE people SET score = 9.0");
    a.sql("UPDATE people SET name = 'second'");
    a.sync();
    a.sql("UPDATE people SET name = 'third', age = 2");
    a.sync();
    let report = b.sync();
    assert_eq!((report.pull.conflicts, report.push.committed_rows), (2, 1));
    converge(&[&a, &b]);
    assert_eq!(a.text(ROW), "third,2,9.0");
}

/// Nothing to keep and nothing lost: both sides did the same, one of them more.
#[test]
fn a_merge_that_equals_the_servers_row_pushes_nothing() {
    let (_w, a, b) = both_edit(
        Policy::MergeColumns(Tie::Server),
        "UPDATE people SET name = 'same', age = 7",
        "UPDATE people SET name = 'same'",
    );
    assert_eq!(a.text(ROW), "same,7,0.5");
    assert_eq!(b.client().conflicts().unwrap().len(), 1);
    assert_eq!(b.client().status().unwrap().checkpoint, 2, "b pushed nothing");
}

/// A row that `REPLACE` wrote has no base: whatever differs is a tie.
#[test]
fn without_a_base_every_difference_is_a_tie() {
    for (tie, expected) in [(Tie::Server, "from a,1,0.5"), (Tie::Client, "first,1,3.0")] {
        let (_w, a, _b) = both_edit(
            Policy::MergeColumns(tie),
            "UPDATE people SET name = 'from a'",
            "INSERT OR REPLACE INTO people (id, name, age, score) VALUES ('p', 'first', 1, 3.0)",
        );
        assert_eq!(a.text(ROW), expected, "{tie:?}");
    }
}

#[test]
fn a_row_that_one_side_deleted_is_a_tie() {
    for (tie, left) in [(Tie::Server, 0), (Tie::Client, 1)] {
        let (_w, a, b) = both_edit(Policy::MergeColumns(tie), "DELETE FROM people", "UPDATE people SET age = 2");
        assert_eq!(a.count("SELECT count(*) FROM people"), left, "{tie:?}");
        assert_eq!(b.client().discarded().unwrap().len(), usize::from(tie == Tie::Server));
        assert_eq!(b.client().conflicts().unwrap().len(), usize::from(tie == Tie::Client));
    }
}

#[test]
fn a_merged_row_that_the_schema_refuses_leaves_the_servers() {
    let schema = SCHEMA.replace("photo BLOB", "photo BLOB, CHECK (age < score)");
    let w = World::with(&schema, Default::default());
    let (a, b) = (w.device("a"), w.device_with("b", Policy::MergeColumns(Tie::Server), |_| {}));
    a.sql("INSERT INTO people (id, name, age, score) VALUES ('p', 'first', 1, 5.0)");
    converge(&[&a, &b]);
    a.sql("UPDATE people SET age = 4");
    b.sql("UPDATE people SET score = 2.0");
    a.sync();
    b.sync();
    converge(&[&a, &b]);
    assert_eq!(b.text(ROW), "first,4,5.0");
    let entry = &b.client().discarded().unwrap()[0];
    assert!(entry.message.contains("refuses") && entry.local_row.as_ref().unwrap().contains("2.0"), "{entry:?}");
}

/// Each table has its rule; the others have the default.
#[test]
fn each_table_has_its_policy() {
    let w = World::new();
    let a = w.device("a");
    let b = w.device_built("b", |b| b.policy(Policy::ClientWins).table_policy("Counters", Policy::ServerWins));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x'); INSERT INTO counters VALUES (1, 'x')");
    converge(&[&a, &b]);
    a.sql("UPDATE people SET name = 'a'; UPDATE counters SET label = 'a'");
    b.sql("UPDATE people SET name = 'b'; UPDATE counters SET label = 'b'");
    a.sync();
    converge(&[&b, &a]);
    assert_eq!(a.text("SELECT name || label FROM people, counters"), "ba");
}

/// Policies can be kept in the file: they hold until others are kept, and a run may have its own.
#[test]
fn a_file_remembers_its_policies() {
    let w = World::new();
    let a = w.device("a");
    let mut b = w.closed_device("b", |_| {});
    b.setup = Box::new(|_| unreachable!());
    let open = |path: &std::path::Path, setup: &dyn Fn(sync_client::Builder) -> sync_client::Builder| {
        let builder = sync_client::Client::builder(path).server(w.url()).all_tables().token(|_| Ok("ada".into()));
        setup(builder).open()
    };
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x'); INSERT INTO notes (id, body) VALUES ('n', 'x')");
    a.sync();
    let client =
        open(&b.path, &|b| b.policy(Policy::ClientWins).table_policy("notes", Policy::ServerWins).remember_policies());
    client.unwrap().sync().unwrap();
    let round = |name: &str, setup: &dyn Fn(sync_client::Builder) -> sync_client::Builder| {
        a.sync();
        let client = open(&b.path, setup).unwrap();
        client.sync().unwrap();
        a.sql(&format!("UPDATE people SET name = 'a{name}'; UPDATE notes SET body = 'a{name}'"));
        b.sql(&format!("UPDATE people SET name = 'b{name}'; UPDATE notes SET body = 'b{name}'"));
        a.sync();
        client.sync().unwrap();
        b.text("SELECT name || ' ' || body FROM people, notes")
    };
    assert_eq!(round("1", &|b| b), "b1 a1", "as remembered");
    assert_eq!(round("2", &|b| b.policy(Policy::ServerWins)), "a2 a2", "the default for one run");
    assert_eq!(round("3", &|b| b.table_policy("notes", Policy::ClientWins)), "b3 b3", "a table for one run");
    assert_eq!(round("4", &|b| b), "b4 a4", "still as remembered");
    assert_eq!(round("5", &|b| b.policy(Policy::ServerWins).remember_policies()), "a5 a5", "replaced");
    assert_eq!(round("6", &|b| b), "a6 a6");
    let custom = Policy::Custom(Arc::new(|_| sync_client::Resolution::KeepLocal));
    assert!(open(&b.path, &|b| b.policy(custom.clone()).remember_policies()).is_err(), "a function cannot be kept");
}

/// HTTP that counts requests.
struct Counting(Http, AtomicUsize);

impl Transport for Counting {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.send(request)
    }
}

/// However many conflicts a bundle brings: one pull settles them, and one push brings what is left.
#[test]
fn ten_thousand_conflicts_are_settled_in_one_pull() {
    let w = World::new();
    let counting = Arc::new(Counting(Http::new(w.url()).unwrap(), AtomicUsize::new(0)));
    let transport = Arc::clone(&counting);
    let a = w.device("a");
    let b = w.device_built("b", move |b| {
        b.policy(Policy::MergeColumns(Tie::Server)).transport(Arc::<Counting>::clone(&transport))
    });
    a.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) \
         INSERT INTO people (id, name, age) SELECT printf('p%05d', i), 'first', 0 FROM n",
    );
    converge(&[&a, &b]);
    a.sql("UPDATE people SET name = 'from a'");
    b.sql("UPDATE people SET age = 1");
    a.sync();
    // The pull is asked for first, then the push: nothing of the conflicts is left for it.
    let pull = b.client().pull().unwrap();
    assert_eq!((pull.conflicts, pull.bundles), (10_000, 1));
    let report = b.sync();
    assert_eq!((report.rounds, report.push.bundles, report.push.committed_rows), (1, 1, 10_000));
    assert_eq!(report.pull.conflicts, 0);
    converge(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM people WHERE name = 'from a' AND age = 1"), 10_000);
    assert_eq!(b.client().conflicts().unwrap().len(), 10_000);

    // The push finds out by itself: one refused commit, one pull, one commit, not one a row.
    a.sql("UPDATE people SET name = 'again'");
    b.sql("UPDATE people SET age = 2");
    a.sync();
    counting.1.store(0, Ordering::Relaxed);
    let report = b.sync();
    assert_eq!((report.rounds, report.pull.conflicts, report.push.bundles), (2, 10_000, 1));
    let requests = counting.1.load(Ordering::Relaxed);
    assert!(requests < 40, "{requests} requests");
    converge(&[&a, &b]);
    assert_eq!(a.count("SELECT count(*) FROM people WHERE name = 'again' AND age = 2"), 10_000);
}
