//! `JSON.md`: every object that `watch --stdin` reads and writes, written from the objects themselves. Where one of them
//! changes, the test fails until the page is written anew: `SYNC_WRITE_PAGES=1 cargo test -p sync-client --bin sync-client page`.

use std::fmt::Write as _;

use serde_json::json;
use sync_client::report::{ErrorClass, Event, Status, SyncReport};

use crate::{
    commands::{Answer, Outcome, parse},
    conflicts::{Told, over, raw},
    output::{Failure, json},
};

/// One event of each kind.
fn events() -> Vec<Event> {
    let key = || r#"{"id":"n1"}"#.to_owned();
    vec![
        Event::Started,
        Event::Frozen { rows: 2 },
        Event::Uploaded { rows: 1, total: 2 },
        Event::Committed { bundle_seq: 7, rows: 2 },
        Event::Pulling { checkpoint: 6, target: 7, rows: Some(3) },
        Event::Downloaded { rows: 3, total: None },
        Event::Applied { rows: 1, checkpoint: 7 },
        Event::Changed { table: "notes".into(), keys: vec![key()], deleted: Vec::new(), source_id: "5e0c".into() },
        Event::Inbox {
            kind: "discarded".into(),
            table: "notes".into(),
            key: key(),
            message: "the server's row won over this local edit".into(),
        },
        Event::Unanswered {
            table: "notes".into(),
            key: key(),
            message: "no answer came within 30 s: the file's policy decided, server-wins".into(),
        },
        Event::HeldBack { table: "notes".into(), message: "column n is TEXT here and INTEGER on the server".into() },
        Event::Rekeyed { table: "counters".into(), old_key: r#"{"id":"5"}"#.into(), new_key: r#"{"id":"9"}"#.into() },
        Event::Waiting { message: "another program is writing to the file".into(), ms: None },
        Event::Finished { report: SyncReport::default() },
        Event::Failed { class: ErrorClass::Offline, message: "no network".into(), retry_in_ms: Some(500) },
    ]
}

/// What an event says. Whoever adds one has to say it here.
const fn meaning(event: &Event) -> &'static str {
    match event {
        Event::Started => "A sync began.",
        Event::Frozen { .. } => "So many changed rows are about to be sent.",
        Event::Uploaded { .. } => "So many of them are uploaded.",
        Event::Committed { .. } => "The server has them: bundle `bundle_seq` of the account's history.",
        Event::Pulling { .. } => {
            "There is something to receive: bundles after `checkpoint` up to `target`; `rows` may be null."
        }
        Event::Downloaded { .. } => "So many rows are downloaded; `total` may be null.",
        Event::Applied { .. } => "So many rows are written to the file, which is at bundle `checkpoint` now.",
        Event::Changed { .. } => {
            "Rows of a table are new or other ones (`keys`) or gone (`deleted`). Of more than 1,000 both lists are empty: \
             read the table again."
        }
        Event::Inbox { .. } => {
            "There is a new entry in `rejected`, `discarded` or `conflict`: `sync-client rejected FILE --json` and its \
             like have the rows."
        }
        Event::Unanswered { .. } => {
            "A conflict (see below) was not answered in time, or not at all: the policy of the file decided."
        }
        Event::HeldBack { .. } => "A table is not synced for now; the message says why.",
        Event::Rekeyed { .. } => "Two devices had minted a number: the row here has another one now.",
        Event::Waiting { .. } => "It waits for something else, and goes on by itself; `ms` may be null.",
        Event::Finished { .. } => "A sync ended well.",
        Event::Failed { .. } => {
            "A sync failed; the next try comes in `retry_in_ms`. The class is `offline`, `auth`, `refused`, `local`, \
             `protocol`, `failing` (the server was reached, and fails) or `intermediary` (something on the way answers in \
             its place)."
        }
    }
}

/// Commands, what each does, and an answer to it.
fn commands() -> Vec<(&'static str, &'static str, Answer)> {
    let answer = |answer, request: Option<u64>, outcome| Answer { answer, request: request.map(Into::into), outcome };
    let (pending_rows, rejected_rows) = (0, 0);
    vec![
        (
            r#"{"command":"sync","request":1}"#,
            "Pushes and pulls until nothing is left to do, and answers then. Syncs also happen by themselves.",
            answer("sync", Some(1), Outcome::Synced { report: SyncReport::default(), pending_rows, rejected_rows }),
        ),
        (
            r#"{"command":"status"}"#,
            "What waits, at once, also during a sync. The members are those of `sync-client status --json`.",
            answer("status", None, Outcome::Status { status: Box::new(Status::default()) }),
        ),
        (
            r#"{"command":"retry","table":"notes","key":{"id":"n1"}}"#,
            "Sends a refused row again, or puts a displaced one back; `\"id\": 4` names an entry in place of a row. \
             `changed` is false where nothing of it waits.",
            answer("retry", None, Outcome::Changed { changed: true }),
        ),
        (
            r#"{"command":"retry","table":"counters","key":{"id":6}}"#,
            "The same of a table whose key is a number: `{\"id\":\"6\"}`, as events and lists have it, names the same row.",
            answer("retry", None, Outcome::Changed { changed: false }),
        ),
        (
            r#"{"command":"drop","id":4}"#,
            "Gives a refused row up; it is kept in `discarded`. A row is named as for `retry`.",
            answer("drop", None, Outcome::Changed { changed: true }),
        ),
        (
            r#"{"command":"clear","kind":"discarded"}"#,
            "Forgets the entries of a kind (`rejected`, `discarded`, `conflict`), or one by its `id`.",
            answer("clear", None, Outcome::Cleared { cleared: 3 }),
        ),
        (
            r#"{"command":"resolve","id":1,"take":"local"}"#,
            "Answers a conflict: takes this file's row (`local`) or the `server`'s.",
            answer("resolve", None, Outcome::Resolved { resolved: true }),
        ),
        (
            r#"{"command":"resolve","id":2,"row":{"body":"both"}}"#,
            "The same with a row made of both. Columns that it does not name come from the server's row, or, where there is \
             none, from the local one.",
            answer("resolve", None, Outcome::Resolved { resolved: true }),
        ),
        (
            r#"{"command":"resolve","id":9,"take":"server"}"#,
            "An answer that comes too late changes nothing. A local row that lost is in `discarded`: `retry` with the `id` of \
             that entry puts it back.",
            answer("resolve", None, Outcome::Error { error: Failure::usage(over(9)) }),
        ),
        (
            r#"{"command":"stop"}"#,
            "Ends the program, as closing its standard input does.",
            answer("stop", None, Outcome::Stopping { stopping: true }),
        ),
        (
            r#"{"command":"clear","kind":"all","request":"x"}"#,
            "What cannot be done is answered with `error`; the classes are those of `failed`, `usage`, and `stopped` for a \
             sync that the end of the program cut short: nothing is lost, and the next one goes on. A line that is \
             no command is answered with `\"answer\": \"none\"`.",
            answer("clear", None, Outcome::Error { error: Failure::usage("there is no such kind") }),
        ),
    ]
}

fn page() -> String {
    let mut page = String::from(
        "# What `sync-client watch FILE --stdin` reads and writes\n\n\
         One JSON object a line, both ways: commands on standard input, events and answers on standard output. It ends \
         with `stop`, and when standard input is closed, so that it does not outlive the program that started it. Members \
         may be added; a reader passes over what it does not know. Keys of rows are objects of the key's columns, whose values are \
         text, numbers too (`{\"id\":\"6\"}`), since some readers have only doubles; commands also take `{\"id\":6}`. \
         `examples/watch.py` and `examples/watch.mjs` are whole programs.\n\n\
         ## Events\n\n",
    );
    for event in events() {
        // Writing to a String cannot fail.
        let _ = write!(page, "{}\n\n```json\n{}\n```\n\n", meaning(&event), json(&event));
    }
    let row = |body: &str| raw(format!(r#"{{"body":"{body}","id":"n1"}}"#));
    let conflict = Told {
        id: 1,
        table: "notes".into(),
        key: raw(r#"{"id":"n1"}"#.into()).expect("invariant: it is JSON"),
        op: "UPDATE".into(),
        local: row("mine"),
        base: row("first"),
        server: row("theirs"),
        seconds: 30,
    };
    let _ = write!(
        page,
        "## Conflicts\n\n\
         With `--ask SECONDS` each conflict is told, all that met together at once, and a command `resolve` is waited for \
         that long. Then the policy of the file decides, and `unanswered` says so; without `--ask` it decides at once. \
         `local` is null where the row was deleted here, `server` where it was deleted there, `base` where nobody knows how \
         it was before. Values have the form that they have in `sync-client conflicts --json`.\n\n\
         Nothing is locked meanwhile, and the app may write, also to this row: an answer is applied only if both rows are \
         still what was told. Otherwise the conflict is told again, with another `id`; so it is after the program was \
         stopped or killed.\n\n```json\n{}\n```\n\n",
        json(&conflict)
    );
    page.push_str(
        "## Commands and their answers\n\n\
         A command may have a member `request`, of any kind; its answer has the same one. Answers come in the order of the \
         commands, but for `status` and `resolve`, which wait for nothing.\n\n",
    );
    for (command, does, answer) in commands() {
        let _ = write!(page, "{does}\n\n```json\n{command}\n{}\n```\n\n", json(&answer));
    }
    page.truncate(page.trim_end().len());
    page + "\n"
}

#[test]
fn the_page_is_what_the_program_says() {
    for (command, ..) in commands() {
        parse(command.as_bytes()).unwrap_or_else(|(_, why)| panic!("{command}: {why}"));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/JSON.md");
    if std::env::var_os("SYNC_WRITE_PAGES").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap_or_default() == page(),
        "JSON.md is not what is written from the objects"
    );
    let keys: serde_json::Value = serde_json::from_str(&json(&events()[7])).unwrap();
    assert_eq!(keys["keys"], json!([{"id": "n1"}]));
}
