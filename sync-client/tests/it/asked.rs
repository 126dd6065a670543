//! The app is asked about conflicts while no transaction is open: what it writes meanwhile succeeds, what it answers
//! counts for exactly the rows that it was asked about, and where it does not answer, the file's policy decides.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;
use sync_client::{Conflict, Detach, Event, Policy, Question, Resolution, RowValues, Value};

use crate::world::{Device, SCHEMA, World, converge, until};

/// What was asked.
type Seen = Arc<Mutex<Vec<Conflict>>>;

/// Asks a function, which also gets the number of the question, from 1 on.
fn asking(f: impl Fn(usize, &Conflict) -> Resolution + Send + Sync + 'static) -> (Policy, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let policy = Policy::Custom(Arc::new(move |c| {
        let n = {
            let mut noted = noted.lock().unwrap();
            noted.push(c.clone());
            noted.len()
        };
        f(n, c)
    }));
    (policy, seen)
}

/// A connection of an app that does not wait for locks.
fn app(path: &std::path::Path) -> Connection {
    let app = Connection::open(path).unwrap();
    app.busy_timeout(Duration::ZERO).unwrap();
    app
}

fn named(name: &str) -> RowValues {
    [("name".to_owned(), Value::from(name))].into_iter().collect()
}

fn name(row: Option<&RowValues>) -> String {
    match row.and_then(|r| r.get("name")) {
        Some(Value::Text(t)) => t.clone(),
        _ => "-".into(),
    }
}

/// Both have the row, and both have changed it.
fn clash(a: &Device, b: &Device) {
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x')");
    converge(&[a, b]);
    a.sql("UPDATE people SET name = 'of a'");
    a.sync();
    b.sql("UPDATE people SET name = 'of b'");
}

fn unanswered(d: &Device) -> Vec<String> {
    let of = |e: &Event| match e {
        Event::Unanswered { message, .. } => Some(message.clone()),
        _ => None,
    };
    d.events.lock().unwrap().iter().filter_map(of).collect()
}

/// Both rows change while the app is asked: it is asked about the new ones, and no answer to old ones is applied.
#[test]
fn an_answer_counts_for_the_rows_that_were_asked_about() {
    let w = World::new();
    let a = w.device("a");
    let (path, other) = (w.dir.path().join("b.db"), a.client().clone());
    let theirs = a.path.clone();
    let (policy, seen) = asking(move |n, _| {
        if n == 1 {
            app(&path).execute("UPDATE people SET name = 'of b, again'", []).unwrap();
            app(&theirs).execute("UPDATE people SET name = 'of a, again'", []).unwrap();
            // Not this file's client; on another thread nobody can tell that from a callback.
            let other = other.clone();
            std::thread::spawn(move || other.sync().unwrap()).join().unwrap();
        }
        Resolution::Merged(named(&format!("answer {n}")))
    });
    let b = w.device_with("b", policy, |_| {});
    clash(&a, &b);
    b.sync();
    let seen: Vec<_> = seen.lock().unwrap().iter().map(|c| (name(c.local.as_ref()), name(c.server.as_ref()))).collect();
    let expected = [("of b", "of a"), ("of b, again", "of a"), ("answer 2", "of a, again")];
    assert_eq!(seen, expected.map(|(l, s)| (l.to_owned(), s.to_owned())));
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT name FROM people"), "answer 3");
    let merged: Vec<_> = b.client().conflicts().unwrap().into_iter().filter_map(|e| e.merged_row).collect();
    assert_eq!(merged.len(), 2, "{merged:?}");
    assert!(merged.iter().all(|row| !row.contains("answer 1")) && unanswered(&b).is_empty());
}

/// An app that changes the row each time that it is asked is not asked for ever.
#[test]
fn a_row_that_never_rests_is_the_policys() {
    let w = World::new();
    let a = w.device("a");
    let path = w.dir.path().join("b.db");
    let (policy, seen) = asking(move |n, _| {
        app(&path).execute("UPDATE people SET name = ?", [format!("edit {n}")]).unwrap();
        Resolution::TakeServer
    });
    let b = w.device_built("b", move |b| b.policy(Policy::ClientWins).policy(policy.clone()));
    clash(&a, &b);
    b.sync();
    assert_eq!(seen.lock().unwrap().len(), 3);
    assert!(unanswered(&b)[0].contains("client-wins"), "{:?}", unanswered(&b));
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT name FROM people"), "edit 3");
}

/// Every way on which a conflict may be met asks with no transaction open: an app without a busy timeout writes.
#[test]
fn every_path_asks_with_nothing_locked() {
    let writing = |w: &World| {
        let path = w.dir.path().join("b.db");
        asking(move |n, _| {
            let app = app(&path);
            app.execute("INSERT INTO counters (label) VALUES (?)", [format!("while asked {n}")]).unwrap();
            Resolution::KeepLocal
        })
    };
    let check = |way: &str, a: &Device, b: &Device, seen: &Seen| {
        assert_eq!(seen.lock().unwrap().len(), 1, "{way}");
        converge(&[b, a]);
        assert_eq!(a.text("SELECT name FROM people WHERE id = 'p'"), "of b", "{way}");
        assert_eq!(a.count("SELECT count(*) FROM counters WHERE label LIKE 'while%'"), 1, "{way}");
        let kept = b.client().conflicts().unwrap();
        assert_eq!(kept.iter().filter(|e| e.reason == "resolver").count(), 1, "{way}");
        assert!(unanswered(b).is_empty(), "{way}");
    };

    let w = World::new();
    let (policy, seen) = writing(&w);
    let (a, b) = (w.device("a"), w.device_with("b", policy, |_| {}));
    clash(&a, &b);
    b.client().pull().unwrap();
    check("pull", &a, &b, &seen);

    let w = World::new();
    let (policy, seen) = writing(&w);
    let (a, b) = (w.device("a"), w.device_with("b", policy, |_| {}));
    clash(&a, &b);
    assert!(b.client().rebuild().unwrap().rebuilt);
    check("rebuild", &a, &b, &seen);

    let w = World::new();
    let (policy, seen) = writing(&w);
    let (a, b) = (w.device("a"), w.device_with("b", policy, |_| {}));
    let mut c = w.device("c");
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x')");
    converge(&[&a, &b, &c]);
    c.sql("UPDATE people SET name = 'of b'");
    let work = w.dir.path().join("work.export");
    c.client().detach(Detach::Export(work.clone())).unwrap();
    c.close();
    a.sql("UPDATE people SET name = 'of a'");
    converge(&[&a, &b]);
    assert_eq!(b.client().import(&work).unwrap().conflicts, 1);
    check("import", &a, &b, &seen);
}

/// A push in conflict that no pull explains: the server's row was set aside here, and the app made its own since.
#[test]
fn what_a_push_in_conflict_teaches_is_asked_about_too() {
    let strict = SCHEMA.replace("name TEXT,", "name TEXT CHECK (length(name) < 5),");
    let mut w = World::new();
    let a = w.device("a");
    w.schema = strict;
    let path = w.dir.path().join("b.db");
    let (policy, seen) = asking(move |n, _| {
        app(&path).execute("INSERT INTO counters (label) VALUES (?)", [format!("while asked {n}")]).unwrap();
        Resolution::KeepLocal
    });
    let b = w.device_with("b", policy, |_| {});
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'far too long')");
    a.sync();
    assert_eq!(b.sync().pull.set_aside, 1);
    b.sql("INSERT INTO people (id, name) VALUES ('p', 'b')");
    b.sync();
    assert_eq!(seen.lock().unwrap().len(), 1);
    converge(&[&b, &a]);
    assert_eq!(a.text("SELECT name FROM people"), "b");
}

/// A bundle has a row that several others have touched before: every one of these conflicts is asked about, once.
#[test]
fn each_bundle_of_a_pull_may_ask_about_the_same_row() {
    let w = World::new();
    let (policy, seen) = asking(|n, _| Resolution::Merged(named(&format!("answer {n}"))));
    let (a, b) = (w.device("a"), w.device_with("b", policy, |_| {}));
    clash(&a, &b);
    for n in 2..7 {
        a.sql(&format!("UPDATE people SET name = 'of a {n}'"));
        a.sync();
    }
    assert_eq!(b.client().pull().unwrap().conflicts, 6);
    assert_eq!(seen.lock().unwrap().len(), 6);
    converge(&[&b, &a]);
    assert_eq!(a.text("SELECT name FROM people"), "answer 6");
}

/// Hands every question to the test.
fn handing_over(w: &World, time: Duration) -> (Device, Receiver<Question>) {
    let (to, questions) = channel();
    let b = w.device_built("b", move |b| {
        let to = to.clone();
        b.policy(Policy::ClientWins).policy(Policy::Ask(Arc::new(move |q| drop(to.send(q))))).answer_within(time)
    });
    (b, questions)
}

/// Past the deadline the policy decides, says so, and asks about nothing else in this sync. An answer that comes then is
/// told that it is too late, and changes nothing.
#[test]
fn past_the_deadline_the_policy_decides() {
    let w = World::new();
    let a = w.device("a");
    let (b, questions) = handing_over(&w, Duration::from_millis(100));
    clash(&a, &b);
    b.sync();
    let question = questions.recv().unwrap();
    assert_eq!((question.conflict().key.as_str(), question.time()), (r#"{"id":"p"}"#, Duration::from_millis(100)));
    assert!(!question.is_open() && !question.answer(Resolution::TakeServer));
    let told = unanswered(&b);
    assert!(told.len() == 1 && told[0].contains("client-wins"), "{told:?}");
    converge(&[&b, &a]);
    assert_eq!(a.text("SELECT name FROM people"), "of b");
    assert!(questions.try_recv().is_err());
    // The next conflict is asked about again, and an answer in time counts. So does none at all.
    for (taken, expected) in [(true, "of a 2"), (false, "of b 3")] {
        let n = if taken { 2 } else { 3 };
        a.sql(&format!("UPDATE people SET name = 'of a {n}'"));
        a.sync();
        b.sql(&format!("UPDATE people SET name = 'of b {n}'"));
        let client = b.client().clone();
        let syncing = std::thread::spawn(move || client.sync().unwrap());
        let question = questions.recv().unwrap();
        if taken {
            assert!(question.answer(Resolution::TakeServer));
        } else {
            drop(question);
        }
        syncing.join().unwrap();
        a.sync();
        assert_eq!(a.text("SELECT name FROM people"), expected);
    }
    assert!(unanswered(&b)[1].contains("no answer was given"));
}

/// A function that does not return keeps its thread, and nothing else; while it does, nobody else is asked.
#[test]
fn a_function_that_hangs_holds_nothing_up() {
    let w = World::new();
    let a = w.device("a");
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let (policy, seen) = asking(move |_, _| {
        let _ = released.lock().unwrap().recv();
        Resolution::KeepLocal
    });
    let b = w.device_built("b", move |b| b.policy(policy.clone()).answer_within(Duration::from_millis(50)));
    clash(&a, &b);
    b.sync();
    assert_eq!(b.text("SELECT name FROM people"), "of a");
    a.sql("UPDATE people SET name = 'of a 2'");
    a.sync();
    b.sql("UPDATE people SET name = 'of b 2'");
    b.sync();
    assert_eq!((seen.lock().unwrap().len(), unanswered(&b).len()), (1, 2));
    let discarded = b.client().discarded().unwrap();
    assert!(discarded.len() == 2 && discarded.iter().all(|d| d.local_row.as_ref().unwrap().contains("of b")));
    drop(release);
    a.sql("UPDATE people SET name = 'of a 3'");
    a.sync();
    b.sql("UPDATE people SET name = 'of b 3'");
    until("it is asked again", || {
        b.sync();
        b.sql("UPDATE people SET name = 'of b 3'");
        a.sql("UPDATE people SET age = coalesce(age, 0) + 1");
        a.sync();
        seen.lock().unwrap().len() > 1
    });
}

/// A function that panics: the policy decides, the row is kept whole, and the next conflict is asked about.
#[test]
fn a_panic_is_no_answer() {
    let w = World::new();
    let (policy, seen) = asking(|n, _| if n == 1 { panic!("a bug of the app") } else { Resolution::KeepLocal });
    let (a, b) = (w.device("a"), w.device_with("b", policy, |_| {}));
    clash(&a, &b);
    b.sync();
    let told = unanswered(&b);
    assert!(told.len() == 1 && told[0].contains("panicked") && told[0].contains("server-wins"), "{told:?}");
    assert!(b.client().discarded().unwrap()[0].local_row.as_ref().unwrap().contains("of b"));
    a.sql("UPDATE people SET name = 'of a 2'");
    a.sync();
    b.sql("UPDATE people SET name = 'of b 2'");
    converge(&[&b, &a]);
    assert_eq!((a.text("SELECT name FROM people").as_str(), seen.lock().unwrap().len()), ("of b 2", 2));
}

/// A stop, or the end of a sync's time, while the app is asked: nothing was done, and it is asked again.
#[test]
fn a_sync_that_is_stopped_asks_again() {
    let w = World::new();
    let a = w.device("a");
    let (b, questions) = handing_over(&w, Duration::from_secs(60));
    clash(&a, &b);
    let before = b.client().status().unwrap();
    let within = b.client().sync_within(Duration::from_millis(300), None).unwrap();
    assert!(within.more);
    assert!(!questions.recv().unwrap().answer(Resolution::TakeServer), "nobody waits for it");
    b.client().start().unwrap();
    let question = questions.recv().unwrap();
    b.client().stop();
    assert!(!question.answer(Resolution::TakeServer));
    let after = b.client().status().unwrap();
    assert_eq!((after.pending_rows, after.checkpoint), (before.pending_rows, before.checkpoint));
    assert_eq!(b.text("SELECT name FROM people"), "of b");
    b.client().start().unwrap();
    assert!(questions.recv().unwrap().answer(Resolution::KeepLocal));
    until("the answer is on the server", || {
        a.sync();
        a.text("SELECT name FROM people") == "of b"
    });
    b.client().stop();
    assert!(unanswered(&b).is_empty());
}

/// Rows are answered in any order, and all that met in one transaction are asked about together.
#[test]
fn questions_come_together() {
    let w = World::new();
    let a = w.device("a");
    let (b, questions) = handing_over(&w, Duration::from_secs(60));
    a.sql("INSERT INTO people (id, name) VALUES ('p', 'x'), ('q', 'x'), ('r', 'x')");
    converge(&[&a, &b]);
    a.sql("UPDATE people SET name = 'of a'");
    a.sync();
    b.sql("UPDATE people SET name = 'of b'");
    let client = b.client().clone();
    let syncing = std::thread::spawn(move || client.sync().unwrap());
    let mut open: Vec<Question> = (0..3).map(|_| questions.recv().unwrap()).collect();
    for (n, question) in open.drain(..).rev().enumerate() {
        assert!(question.answer(if n == 1 { Resolution::KeepLocal } else { Resolution::TakeServer }));
    }
    assert_eq!(syncing.join().unwrap().pull.conflicts, 3);
    converge(&[&a, &b]);
    assert_eq!(a.text("SELECT group_concat(name) FROM (SELECT name FROM people ORDER BY id)"), "of a,of b,of a");
}
