//! Every program runs to its end with the arguments that its first lines name.

use crate::{QUICKSTART, printed, run};

#[test]
fn quickstart_proves_that_all_agree() {
    let text = printed(QUICKSTART, &["--notes", "300"]);
    assert!(text.ends_with("Both devices and the server hold the same rows.\n"), "{text}");
    assert!(text.lines().count() < 75 && !text.contains('\u{1b}'), "short, and without colour in a pipe:\n{text}");
    assert!(
        text.contains("The 07:40 ferry was late; the captain, Zoë, had the 舵."),
        "a lost edit is shown whole:\n{text}"
    );
}

#[test]
fn quickstart_fails_when_a_row_was_tampered_with() {
    let out = run(QUICKSTART, &["--notes", "200", "--tamper"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.ends_with("They differ.\n"), "{text}");
}

#[test]
fn todo_shows_both_edits_on_both_devices() {
    let text = printed(env!("CARGO_BIN_EXE_todo"), &[]);
    assert!(text.contains("[ ] water the plants") && text.contains("[x] buy bread"), "{text}");
}

#[test]
fn todo_keeps_a_list() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("list.db");
    let todo = |arguments: &[&str]| {
        printed(env!("CARGO_BIN_EXE_todo"), &[&["--file", file.to_str().unwrap()], arguments].concat())
    };
    todo(&["add", "water the plants"]);
    let id = todo(&["list"])[..6].to_owned();
    todo(&["done", &id]);
    assert_eq!(todo(&["list"]), format!("{id} [x] water the plants\n"));
    assert!(todo(&["schema"]).starts_with("CREATE TABLE"));
}

#[test]
fn mount_answers_and_exits() {
    let text = printed(env!("CARGO_BIN_EXE_mount"), &["--once"]);
    assert!(text.contains("401"), "{text}");
}

#[test]
fn merge_merges() {
    let text = printed(env!("CARGO_BIN_EXE_merge"), &[]);
    assert!(text.contains("merged   cooked 6"), "{text}");
}
