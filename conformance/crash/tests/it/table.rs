//! The table of what proves what: every test and every mutant that it names is there.

use std::path::Path;

/// What a line names: pairs of a file and a function, and mutants.
fn named(line: &str) -> (Vec<(String, String)>, Vec<String>) {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    assert_eq!(cells.len(), 6, "{line}");
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut tests = Vec::new();
    for part in cells[3].split(';').filter(|_| !cells[3].starts_with("open: ")) {
        let names = quoted(part);
        let (file, functions) = names.split_first().unwrap_or_else(|| panic!("no test: {line}"));
        assert!(!functions.is_empty(), "{line}");
        tests.extend(functions.iter().map(|f| (file.clone(), f.clone())));
    }
    (tests, quoted(cells[4]))
}

#[test]
fn every_test_in_the_table_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mutants = read("sync-client/src/mutant.rs");
    let text = read("ARCHITECTURE.md");
    let (_, from) = text.split_once("## Promises, hard cases").expect("the section");
    let (table, _) = from.split_once("### By subject").expect("its end");
    let lines: Vec<&str> = table.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| |")).collect();
    let mut ids = std::collections::BTreeSet::new();
    let mut missing = Vec::new();
    for line in &lines {
        let id = line.split('|').nth(1).unwrap_or_default().trim();
        assert!(ids.insert(id), "{id} is there twice");
        let (tests, broken) = named(line);
        for (file, function) in tests {
            // A property has its `#[test]` inside of its macro, too.
            let text = read(&file);
            let is_test = text.split("#[test]").skip(1).any(|after| {
                after
                    .lines()
                    .find(|l| l.trim_start().starts_with("fn "))
                    .is_some_and(|l| l.trim_start().starts_with(&format!("fn {function}(")))
            });
            if !is_test {
                missing.push(format!("{id}: {function} in {file}"));
            }
        }
        missing.extend(broken.into_iter().filter(|m| !mutants.contains(&format!("    {m},\n"))));
    }
    assert!(missing.is_empty(), "{missing:#?}");
    let promised = |n: u32| ids.iter().any(|id| id.trim_end_matches(char::is_alphabetic) == n.to_string());
    assert!((1..=11).all(promised), "a promise is missing");
    let expected = [("P", 10), ("C", 14), ("S", 16), ("H", 9), ("D", 3), ("F", 23)];
    for (letter, n) in expected {
        assert!((1..=n).all(|i| ids.contains(format!("{letter}{i}").as_str())), "a line of {letter} is missing");
    }
}
