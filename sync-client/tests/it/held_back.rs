//! Tables whose columns are declared otherwise on the server: none of their rows travels, it is said, and the rest of
//! the file goes on.

use std::io::{Cursor, Read as _};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sync_client::transport::{Http, Request, Response, Transport, TransportError};
use sync_client::{Attach, Detach, Event, Policy, Repair};
use sync_server::limits::Limits;
use tempfile::TempDir;

use crate::cli::{file, run};
use crate::relay::{Relay, bare};
use crate::support::serve;
use crate::world::{Device, World, converge, dump};

const LISTS: &str = "
CREATE TABLE lists (id TEXT PRIMARY KEY NOT NULL, name TEXT);
CREATE TABLE items (id TEXT PRIMARY KEY NOT NULL, list TEXT REFERENCES lists(id) ON DELETE CASCADE, v TEXT);
CREATE TABLE marks (id TEXT PRIMARY KEY NOT NULL, item TEXT REFERENCES items(id) ON DELETE CASCADE);
CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, body TEXT);
";

/// What the spec of a table becomes.
type Says = Box<dyn FnMut(&mut Value) + Send>;

/// Our server, which tells other types than it has; or none, as an older one.
struct Teller {
    http: Http,
    says: Mutex<Says>,
}

impl Teller {
    fn new(w: &World) -> Arc<Self> {
        Arc::new(Self { http: Http::new(w.url()).unwrap(), says: Mutex::new(Box::new(|_| {})) })
    }

    /// From the next greeting on, what the specs of the tables become.
    fn says(&self, spec: impl FnMut(&mut Value) + Send + 'static) {
        *self.says.lock().unwrap() = Box::new(spec);
    }

    /// Column v of items is told to have this type.
    fn tells(&self, declared: &'static str) {
        self.says(move |spec| {
            if spec["table"] == "items" {
                spec["column_types"][2] = declared.into();
            }
        });
    }
}

impl Transport for Teller {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let mut reply = self.http.send(request)?;
        if request.path != "/sync/capabilities" {
            return Ok(reply);
        }
        let mut text = String::new();
        reply.body.read_to_string(&mut text).unwrap();
        let mut told: Value = serde_json::from_str(&text).unwrap();
        for spec in told["registered_table_specs"].as_array_mut().unwrap() {
            (self.says.lock().unwrap())(spec);
        }
        Ok(Response { body: Box::new(Cursor::new(told.to_string())), ..reply })
    }
}

fn through(w: &World, name: &str, teller: &Arc<Teller>) -> Device {
    let teller = Arc::clone(teller);
    w.device_built(name, move |b| b.transport(Arc::clone(&teller) as _))
}

fn held(d: &Device) -> Vec<String> {
    d.client().status().unwrap().held_back.into_iter().map(|h| h.table).collect()
}

/// Every pair of types that SQLite or the wire would make another value of.
#[test]
fn values_stay_as_they_are_or_it_is_said() {
    for (here, there, value, travels) in [
        ("TEXT", "INTEGER", "'007'", false),
        ("TEXT", "DATE", "'1e3'", false),
        ("DECIMAL(30, 2)", "TEXT", "12345678901234567.25", false),
        ("BLOB", "TEXT", "9007199254740993", false),
        ("TEXT", "BLOB", "'aGVsbG8='", false),
        ("", "TEXT", "5", false),
        ("", "BLOB", "5", false),
        ("REAL", "INTEGER", "9007199254740993.0", false),
        ("INTEGER", "REAL", "9007199254740993", false),
        ("TEXT", "VARCHAR(5)", "'007'", true),
        ("INTEGER", "DECIMAL", "9007199254740993", true),
        ("BOOLEAN", "TINYINT", "1", true),
    ] {
        let ddl = |t: &str| {
            format!(
                "CREATE TABLE n (id TEXT PRIMARY KEY NOT NULL, v {t}); CREATE TABLE rest (id TEXT PRIMARY KEY NOT NULL);"
            )
        };
        let mut w = World::with(&ddl(there), Limits::default());
        let b = w.device("b");
        w.schema = ddl(here);
        let a = w.device("a");
        a.sql(&format!("INSERT INTO n VALUES ('k', {value}); INSERT INTO rest VALUES ('r')"));
        let wrote = a.text("SELECT quote(v) || typeof(v) FROM n");
        for _ in 0..2 {
            a.sync();
            b.sql("INSERT OR IGNORE INTO n VALUES ('theirs', 1)");
            b.sync();
        }
        let case = format!("{here} {there}");
        assert_eq!(a.text("SELECT quote(v) || typeof(v) FROM n WHERE id = 'k'"), wrote, "{case}");
        assert_eq!(b.count("SELECT count(*) FROM n WHERE id = 'k'"), i64::from(travels), "{case}");
        assert_eq!(a.count("SELECT count(*) FROM n WHERE id = 'theirs'"), i64::from(travels), "{case}");
        assert_eq!(b.count("SELECT count(*) FROM rest"), 1, "{case}");
        let status = a.client().status().unwrap();
        assert_eq!((status.rejected_rows, status.pending_rows), (u64::from(!travels), 0), "{case}");
        assert_eq!(held(&a).is_empty(), travels, "{case}");
        if !travels {
            let said = &status.held_back[0].message;
            let names = |t: &str| if t.is_empty() { "without a type".to_owned() } else { format!("as {t}") };
            for part in
                ["column v", &format!("declared {} here", names(here)), &format!("{} on the server", names(there))]
            {
                assert!(said.contains(part), "{case}: {said}");
            }
            let rejected = a.client().rejected().unwrap();
            assert_eq!((rejected[0].reason.as_str(), &rejected[0].message), ("held_back", said), "{case}");
            assert!(
                a.events.lock().unwrap().iter().any(|e| matches!(e, Event::HeldBack { table, .. } if table == "n"))
            );
        }
    }
}

/// What refers to such a table waits with it; verify and rebuild leave it alone; once it is declared alike, everything
/// that both sides did meanwhile meets.
#[test]
fn a_file_that_is_declared_alike_again_gets_and_sends_all_of_it() {
    let mut w = World::with(LISTS, Limits::default());
    let b = w.device("b");
    w.schema = LISTS.replace("v TEXT", "v INTEGER");
    let mut a = w.device("a");
    b.sql("INSERT INTO lists VALUES ('l', 'theirs'); INSERT INTO items VALUES ('b', 'l', '007'); INSERT INTO marks VALUES ('mb', 'b')");
    b.sync();
    a.sql("INSERT INTO lists VALUES ('m', 'ours'); INSERT INTO items VALUES ('a', 'm', 7); INSERT INTO marks VALUES ('ma', 'a'); INSERT INTO notes VALUES ('n', 'goes')");
    a.sync();
    b.sync();
    assert_eq!(held(&a), ["items", "marks"]);
    assert!(a.client().status().unwrap().held_back[1].message.contains("refers to items"));
    assert_eq!(b.count("SELECT (SELECT count(*) FROM lists) * 10 + (SELECT count(*) FROM notes)"), 21);
    a.client().rebuild().unwrap();
    assert_eq!(a.client().verify(Repair::FromServer).unwrap().skipped_tables, ["items", "marks"]);
    a.client().retry("items", "a").unwrap();
    a.sync();
    assert_eq!(a.text("SELECT group_concat(id) FROM items") + &a.text("SELECT group_concat(id) FROM marks"), "ama");
    assert_eq!(a.client().status().unwrap().rejected_rows, 2);
    a.client().detach(Detach::KeepData).unwrap();
    a.close();
    a.sql(RETYPED);
    a.open();
    converge(&[&a, &b]);
    assert_eq!(held(&a), [""; 0]);
    assert_eq!(b.text("SELECT group_concat(id || v) FROM (SELECT * FROM items ORDER BY id)"), "a7,b007");
    assert_eq!(a.client().status().unwrap().rejected_rows, 0);
}

/// A file that was synced before the server told of its types: nothing of what it has goes while they are unlike, nor
/// is a reference broken, and what was passed over comes once they are alike.
#[test]
fn a_table_that_was_synced_before_stays_whole() {
    for policy in [Policy::ServerWins, Policy::ClientWins] {
        let w = World::with(LISTS, Limits::default());
        let teller = Teller::new(&w);
        let (told, rule) = (Arc::clone(&teller), policy.clone());
        let mut a = w.device_built("a", move |b| b.policy(rule.clone()).transport(Arc::clone(&told) as _));
        let b = w.device("b");
        a.sql("INSERT INTO lists VALUES ('l', 'stays'), ('gone', 'goes'), ('away', 'goes');
               INSERT INTO items SELECT value, iif(value = 'c', 'gone', 'l'), 'v' FROM json_each('[\"a\", \"b\", \"c\", \"d\"]');
               INSERT INTO marks VALUES ('m', 'a'), ('n', 'c');");
        converge(&[&a, &b]);
        teller.tells("INTEGER");
        a.open();
        b.sql("UPDATE items SET v = 'from b' WHERE id = 'b'; DELETE FROM items WHERE id = 'd'; DELETE FROM lists WHERE id = 'gone'; INSERT INTO items VALUES ('e', 'l', 'new')");
        b.sync();
        a.sql("UPDATE items SET v = 'from a' WHERE id = 'a'");
        a.sync();
        assert_eq!(held(&a), ["items", "marks"]);
        let rows = "SELECT group_concat(id || v) FROM (SELECT * FROM items ORDER BY id)";
        assert_eq!(a.text(rows), "afrom a,bv,dv", "only what lost its parent went");
        assert_eq!(a.count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
        let left = a.client().rejected().unwrap();
        let left: Vec<_> = left
            .iter()
            .filter(|r| r.reason == "parent_deleted")
            .map(|r| (r.table.as_str(), r.local_row.is_some()))
            .collect();
        assert_eq!(left, [("items", true), ("marks", true)]);
        a.client().rebuild().unwrap();
        b.sql("DELETE FROM lists WHERE id = 'away'");
        b.sync();
        a.sync();
        assert_eq!(a.text(rows), "afrom a,bv,dv", "a rebuild leaves it alone");
        teller.says(|_| {});
        a.open();
        converge(&[&a, &b]);
        assert_eq!(a.text(rows), "afrom a,bfrom b,enew");
    }
}

/// A program of before has made 7 of '007' here. Once both ends are alike, that is no edit of '007'.
#[test]
fn what_was_changed_on_the_way_is_not_sent_back() {
    for attached in [true, false] {
        let mut w = World::with(LISTS, Limits::default());
        let teller = Teller::new(&w);
        let b = w.device("b");
        b.sql("INSERT INTO items VALUES ('x', NULL, '007'), ('y', NULL, 'text'), ('z', NULL, '008')");
        b.sync();
        w.schema = LISTS.replace("v TEXT", "v INTEGER");
        let mut a = through(&w, "a", &teller);
        teller.tells("INTEGER");
        a.open();
        a.sync();
        assert_eq!(a.text("SELECT group_concat(quote(v)) FROM items"), "7,'text',8");
        teller.says(|_| {});
        a.open();
        a.sync();
        assert_eq!(held(&a), ["items", "marks"]);
        b.sql("DELETE FROM items WHERE id = 'z'");
        b.sync();
        if !attached {
            a.client().detach(Detach::KeepData).unwrap();
            a.close();
        }
        a.sql(RETYPED);
        if !attached {
            a.open();
        }
        converge(&[&a, &b]);
        assert_eq!(a.text("SELECT group_concat(quote(v)) FROM items"), "'007','text'");
        let discarded = a.client().discarded().unwrap();
        assert_eq!(discarded.iter().map(|d| d.key.as_str()).next(), Some(r#"{"id":"x"}"#));
        assert_eq!(b.client().discarded().unwrap(), []);
    }
}

const RETYPED: &str = "PRAGMA foreign_keys = OFF; BEGIN;
    CREATE TABLE n (id TEXT PRIMARY KEY NOT NULL, list TEXT REFERENCES lists(id) ON DELETE CASCADE, v TEXT);
    INSERT INTO n SELECT * FROM items; DROP TABLE items; ALTER TABLE n RENAME TO items;
    COMMIT; PRAGMA foreign_keys = ON";

/// A push that was on its way when they became unlike: its rows are not taken for rows that the server removed.
#[test]
fn a_push_that_comes_back_takes_nothing_away() {
    for (lost, disturbed) in [(false, false), (false, true), (true, false), (true, true)] {
        let w = World::with(LISTS, Limits::default());
        let teller = Teller::new(&w);
        let mut a = through(&w, "a", &teller);
        a.sync();
        a.sql("INSERT INTO items VALUES ('a', NULL, 'v'); INSERT INTO notes VALUES ('n', 'x')");
        if lost {
            let relay = Relay::new(w.url(), Box::new(|_, _| bare(503)));
            w.through(&mut a, &relay).push().unwrap_err();
        } else {
            a.client().push().unwrap();
        }
        if disturbed {
            // Its rows are looked at one by one.
            a.sql("INSERT OR REPLACE INTO _sync_meta VALUES ('outbox_disturbed', 1)");
        }
        teller.tells("INTEGER");
        a.open();
        a.sync();
        assert_eq!(a.text("SELECT group_concat(id || v) FROM items"), "av");
        a.client().rebuild().unwrap();
        assert_eq!(a.text("SELECT group_concat(id || v) FROM items"), "av");
        teller.says(|_| {});
        a.open();
        let b = w.device("b");
        converge(&[&a, &b]);
        assert_eq!(b.text("SELECT group_concat(id || v) FROM items"), "av");
        assert_eq!(a.count("SELECT count(*) FROM _sync_inbox"), 0);
    }
}

/// The app adds a column that the server has with another type. Once it has the same, what is there arrives here.
#[test]
fn a_column_that_is_added_with_another_type_is_filled_later() {
    let w = World::with(LISTS, Limits::default());
    let teller = Teller::new(&w);
    let mut a = through(&w, "a", &teller);
    a.sql("INSERT INTO items VALUES ('x', NULL, 'one'), ('y', NULL, 'two')");
    let b = w.device("b");
    converge(&[&a, &b]);
    drop(b);
    let mut w = w;
    w.stop();
    w.schema = LISTS.replace("v TEXT", "v TEXT, more TEXT");
    w.start();
    let b = w.device("later");
    b.sync();
    b.sql("UPDATE items SET more = 'from b' WHERE id = 'x'");
    b.sync();
    a.sync();
    teller.says(|spec| {
        if spec["table"] == "items" {
            spec["column_types"][3] = "INTEGER".into();
        }
    });
    a.open();
    a.sql("ALTER TABLE items ADD COLUMN more TEXT; UPDATE items SET more = 'from a' WHERE id = 'y'");
    a.sync();
    assert_eq!(held(&a), ["items", "marks"]);
    assert_eq!(a.count("SELECT count(more) FROM items"), 1);
    teller.says(|_| {});
    a.open();
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT group_concat(more) FROM (SELECT more FROM items ORDER BY id)"), "from b,from a");
}

/// Rows of such a table are not given up for those of the server, which are not known.
#[test]
fn taking_the_servers_rows_leaves_them_alone() {
    let mut w = World::with(LISTS, Limits::default());
    let b = w.device("b");
    b.sql("INSERT INTO items VALUES ('theirs', NULL, 'v'); INSERT INTO notes VALUES ('theirs', 'x')");
    b.sync();
    w.schema = LISTS.replace("v TEXT", "v BLOB");
    let a = w.device_built("a", |b| b.attach(Attach::TakeRemote));
    a.sql("INSERT INTO items VALUES ('mine', NULL, x'00ff'); INSERT INTO notes VALUES ('mine', 'x')");
    a.sync();
    assert_eq!(a.text("SELECT group_concat(id) FROM notes"), "theirs");
    assert_eq!(a.text("SELECT group_concat(id) FROM items"), "mine");
}

/// UUIDs in a column that is a foreign key at one end only, and a key of other columns.
#[test]
fn other_keys_and_references_are_held_back_too() {
    let server = "CREATE TABLE files (id BLOB PRIMARY KEY NOT NULL, up BLOB); CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, n TEXT NOT NULL); CREATE TABLE rest (id TEXT PRIMARY KEY NOT NULL);";
    let mut w = World::with(server, Limits::default());
    let b = w.device("b");
    let id = "x'000102030405060708090a0b0c0d0e0f'";
    b.sql(&format!(
        "INSERT INTO files VALUES ({id}, {id}); INSERT INTO t VALUES ('1', 'x'); INSERT INTO rest VALUES ('b')"
    ));
    b.sync();
    w.schema = server.replace("up BLOB", "up BLOB REFERENCES files(id)").replace(
        "t (id TEXT PRIMARY KEY NOT NULL, n TEXT NOT NULL)",
        "t (id TEXT NOT NULL, n TEXT NOT NULL, PRIMARY KEY (id, n))",
    );
    let a = w.device("a");
    a.sql(&format!(
        "INSERT INTO files VALUES ({id}, {id}); INSERT INTO t VALUES ('1', 'y'); INSERT INTO rest VALUES ('a')"
    ));
    a.sync();
    b.sync();
    assert_eq!(held(&a), ["files", "t"]);
    assert_eq!(dump(&a.path).len(), 4);
    assert_eq!(b.count("SELECT count(*) FROM rest"), 2);
}

/// The commands say it, and end with 5, also where this file has no row in the table.
#[test]
fn the_commands_say_which_tables_are_held_back() {
    let (dir, server) = (TempDir::new().unwrap(), serve(LISTS));
    file(&dir, "a.db", &LISTS.replace("v TEXT", "v REAL"));
    run(&dir, &["init", "a.db", "--server", &server.url(), "--all", "--token", "ann"]).ends(0);
    let ran = run(&dir, &["sync", "a.db"]).ends(5);
    assert!(
        ran.stdout.contains("Table items is held back: column v is declared as REAL here and as TEXT on the server"),
        "{}",
        ran.stdout
    );
    let json = run(&dir, &["sync", "a.db", "--json"]).ends(5).json();
    assert_eq!(json["held_back"].as_array().unwrap().len(), 2);
    let sheet = run(&dir, &["status", "a.db"]).ends(0).stdout;
    assert!(sheet.contains("held back     table marks: it refers to items"), "{sheet}");
    run(&dir, &["verify", "a.db"]).ends(0);
}

/// The same word means another thing in a STRICT table.
#[test]
fn a_table_that_is_strict_at_one_end_says_so() {
    let mut w = World::with("CREATE TABLE n (id TEXT PRIMARY KEY NOT NULL, v ANY)", Default::default());
    w.schema = "CREATE TABLE n (id TEXT PRIMARY KEY NOT NULL, v ANY) STRICT".into();
    let a = w.device("a");
    a.sync();
    let held = a.client().status().unwrap().held_back;
    assert!(held.len() == 1 && held[0].message.contains("STRICT at one of them only"), "{held:?}");
}
