use proptest::prelude::*;

use super::*;
use crate::schema::{Column, ForeignKey, Unique};

/// `people(id, mail UNIQUE NOCASE)`, `notes(id, person → people)`, `tree(id, parent → tree)`.
fn schema() -> Schema {
    let table = |name: &str, columns: &[&str], parent: Option<&str>, unique: bool| Table {
        name: name.into(),
        sql_name: name.into(),
        columns: columns
            .iter()
            .map(|c| Column {
                name: (*c).into(),
                sql_name: (*c).into(),
                declared: "TEXT".into(),
                affinity: Affinity::Text,
                blob: false,
                uuid: false,
                not_null: false,
            })
            .collect(),
        key: vec![0],
        foreign_keys: parent
            .map(|p| ForeignKey {
                columns: vec![1],
                parent: p.into(),
                parent_columns: vec!["id".into()],
                on_delete: "NO ACTION".into(),
                on_update: "NO ACTION".into(),
            })
            .into_iter()
            .collect(),
        uniques: if unique {
            vec![Unique { name: "u".into(), columns: vec![1], collations: vec!["NOCASE".into()] }]
        } else {
            vec![]
        },
        primary_key: true,
        without_rowid: false,
        strict: false,
        sql: String::new(),
    };
    Schema::new(vec![
        table("people", &["id", "mail"], None, true),
        table("notes", &["id", "person"], Some("people"), false),
        table("tree", &["id", "parent"], Some("tree"), false),
    ])
}

type Cells<'a> = Option<(&'a str, &'a str)>;

fn value(s: &str) -> Value {
    if s.is_empty() { Value::Null } else { Value::from(s) }
}

/// A row of a table, before and after.
fn ties(rows: &[(&str, Cells<'_>, Cells<'_>)]) -> Ties {
    let schema = schema();
    let shape = Shape::new(&schema);
    let mut ties = Ties::default();
    for (table, before, after) in rows {
        let key = [value(before.or(*after).expect("one of them").0)];
        let old: Option<Record> = before.map(|(a, b)| vec![Some(value(a)), Some(value(b))]);
        let new = after.map(|(a, b)| vec![value(a), value(b)]);
        let before = old.as_ref().map_or(Before::Absent, Before::Row);
        ties.add(&shape.facts(schema.position(table).unwrap(), &key, before, new.as_deref()));
    }
    ties
}

fn waits(rows: &[(&str, Cells<'_>, Cells<'_>)], stuck: &[u32]) -> Vec<(u32, u32)> {
    ties(rows).waiting(stuck, &[]).into_iter().collect()
}

#[test]
fn the_index_over_exactly_these_columns_says_how_they_compare() {
    let mut table = schema().tables()[1].clone();
    let index = |columns: &[usize], collations: &[&str]| Unique {
        name: "u".into(),
        columns: columns.to_vec(),
        collations: collations.iter().map(|c| (*c).to_owned()).collect(),
    };
    table.uniques = vec![index(&[2, 1], &["NOCASE", "RTRIM"]), index(&[3], &["NOCASE"])];
    for (columns, expected) in [
        (&[1, 2][..], &["RTRIM", "NOCASE"][..]),
        (&[2, 1], &["NOCASE", "RTRIM"]),
        (&[3], &["NOCASE"]),
        (&[1], &["BINARY"]),
        (&[1, 3], &["BINARY", "BINARY"]),
    ] {
        assert_eq!(collations(&table, columns), expected, "{columns:?}");
    }
}

#[test]
fn values_are_tied_as_sqlite_compares_them() {
    let text = |s: &str| Value::Text(s.into());
    for (v, affinity, collation, expected) in [
        (text("12"), Affinity::Integer, "BINARY", Value::Integer(12)),
        (text("12"), Affinity::Text, "BINARY", text("12")),
        (Value::Integer(12), Affinity::Text, "BINARY", text("12")),
        (Value::Real(2.0), Affinity::Real, "BINARY", Value::Integer(2)),
        (Value::Real(0.5), Affinity::Real, "BINARY", Value::Real(0.5)),
        (Value::Real(9e15), Affinity::Real, "BINARY", Value::Real(9e15)),
        (Value::Real(1e17), Affinity::Real, "BINARY", Value::Real(1e17)),
        (text("Ab "), Affinity::Text, "BINARY", text("Ab ")),
        (text("Ab "), Affinity::Text, "nocase", text("ab ")),
        (text("Ab "), Affinity::Text, "RTRIM", text("Ab")),
    ] {
        assert_eq!(folded(&v, affinity, collation), expected, "{v:?} {affinity:?} {collation}");
    }
}

#[test]
fn who_waits_for_whom() {
    let new = |k, v| (None, Some((k, v)));
    let gone = |k, v| (Some((k, v)), None);
    let row = |t, (b, a): (Cells<'static>, Cells<'static>)| (t, b, a);
    // A child of a new parent, and its child in turn; not the stranger.
    let chain =
        [row("tree", new("a", "")), row("tree", new("b", "a")), row("tree", new("c", "b")), row("tree", new("x", ""))];
    assert_eq!(waits(&chain, &[0]), [(1, 0), (2, 0)]);
    assert_eq!(waits(&chain, &[1]), [(2, 1)]);
    assert_eq!(waits(&chain, &[2]), []);
    // A parent that the server has does not hold its children back.
    let known = [("people", Some(("p", "a")), Some(("p", "b"))), row("notes", new("n", "p"))];
    assert_eq!(waits(&known, &[0]), []);
    // C8: a refused move of a child makes the delete of its old parent wait; also a refused delete does.
    let moved = [("notes", Some(("n", "p")), Some(("n", "q"))), row("people", gone("p", ""))];
    assert_eq!(waits(&moved, &[0]), [(1, 0)]);
    assert_eq!(waits(&moved, &[1]), []);
    let deleted = [row("notes", gone("n", "p")), row("people", gone("p", ""))];
    assert_eq!(waits(&deleted, &[0]), [(1, 0)]);
    // A key change, with its child: the old key waits for the child, the child for the new key.
    let rekeyed =
        [row("people", new("q", "")), ("notes", Some(("n", "p")), Some(("n", "q"))), row("people", gone("p", ""))];
    assert_eq!(waits(&rekeyed, &[0]), [(1, 0), (2, 0)]);
    // Who takes a UNIQUE value waits for who frees it, whatever the case of its letters.
    let taken = [row("people", gone("p", "A@x")), row("people", new("q", "a@X"))];
    assert_eq!(waits(&taken, &[0]), [(1, 0)]);
    assert_eq!(waits(&taken, &[1]), []);
    // NULL refers to nothing.
    assert_eq!(waits(&[row("tree", new("a", "")), row("tree", new("b", ""))], &[0]), []);
}

/// A server names the children of what it refuses too: they are not what has to be looked at.
#[test]
fn a_row_that_was_refused_for_want_of_another_waits_for_it() {
    let tree = [("tree", None, Some(("a", ""))), ("tree", None, Some(("b", "a"))), ("tree", None, Some(("c", "b")))];
    let t = ties(&tree);
    assert_eq!(t.waiting(&[0], &[1, 2]), BTreeMap::from([(1, 0), (2, 0)]));
    assert_eq!(t.waiting(&[], &[1, 2]), BTreeMap::from([(2, 1)]));
    let cycle = [("tree", None, Some(("a", "b"))), ("tree", None, Some(("b", "a")))];
    assert_eq!(ties(&cycle).waiting(&[], &[0, 1]), BTreeMap::from([(1, 0)]), "one of them has to be looked at");
    assert_eq!(t.independent(&[vec![0], vec![1], vec![2]], 2), Vec::<usize>::new());
    assert_eq!(t.independent(&[vec![0, 1], vec![2]], 2), Vec::<usize>::new());
    let alone = [tree[0], tree[1], ("tree", None, Some(("x", ""))), ("tree", None, Some(("y", "c")))];
    assert_eq!(ties(&alone).independent(&[vec![0], vec![1], vec![2], vec![3]], 3), [3, 2], "a parent elsewhere");
}

#[test]
fn an_unknown_base_still_has_its_key() {
    let schema = schema();
    let shape = Shape::new(&schema);
    let people = schema.position("people").unwrap();
    let row = [value("p"), value("m")];
    let live = shape.facts(people, &row[..1], Before::Unknown, Some(&row));
    let insert = shape.facts(people, &row[..1], Before::Absent, Some(&row));
    assert_eq!(live.gives, [], "the server has the key");
    assert_eq!(insert.gives.len(), 1);
    assert_eq!(shape.facts(people, &row[..1], Before::Unknown, None).needs.len(), 1, "nobody may refer to it");
}

#[test]
fn numbers_and_text_meet_by_the_parents_affinity() {
    assert_eq!(folded(&Value::from("07"), Affinity::Integer, "BINARY"), Value::Integer(7));
    assert_eq!(folded(&Value::Real(7.0), Affinity::Integer, "BINARY"), Value::Integer(7));
    assert_eq!(folded(&Value::Integer(7), Affinity::Text, "BINARY"), Value::from("7"));
    assert_eq!(folded(&Value::from("x "), Affinity::Text, "RTRIM"), Value::from("x"));
}

#[test]
fn groups_keep_rings_and_unique_values_together() {
    let moved = |k, b, a| ("people", Some((k, b)), Some((k, a)));
    // A ring of values, a chain of them, and a parent after its child.
    let ring = [moved("a", "1", "2"), moved("b", "2", "1"), moved("c", "3", "4")];
    assert_eq!(ties(&ring).groups(9), [vec![0, 1], vec![2]]);
    assert_eq!(ties(&ring).groups(1), [vec![0, 1], vec![2]], "a ring cannot be parted");
    let chain = [moved("a", "1", "2"), moved("b", "2", "3"), moved("c", "3", "4")];
    assert_eq!(ties(&chain).groups(3), [vec![0, 1, 2]]);
    assert_eq!(ties(&chain).groups(2), [vec![2], vec![1], vec![0]], "too many: who frees goes first");
    let tree = [("tree", None, Some(("b", "a"))), ("tree", None, Some(("a", "")))];
    assert_eq!(ties(&tree).groups(9), [vec![1], vec![0]]);
    let cycle = [("tree", None, Some(("b", "a"))), ("tree", None, Some(("a", "b")))];
    assert_eq!(ties(&cycle).groups(9), [vec![0, 1]]);
    assert_eq!(
        pack(vec![vec![0], vec![1, 2], vec![3], vec![4, 5, 6, 7]], 3),
        [vec![0, 1, 2], vec![3], vec![4, 5, 6, 7]]
    );
}

proptest! {
    /// Against a plain model: in a random forest the descendants of a stuck row wait, and nobody else;
    /// groups come parents first; and what is left without the waiting rows needs nothing stuck.
    #[test]
    fn a_forest(parents in proptest::collection::vec(0usize..40, 1..40), stuck in 0usize..40) {
        let names: Vec<String> = (0..parents.len()).map(|i| format!("r{i}")).collect();
        // A row refers to an earlier one, or to nothing.
        let parent = |i: usize| (parents[i] < i).then_some(parents[i]);
        let rows: Vec<(&str, Cells<'_>, Cells<'_>)> = (0..names.len())
            .rev()
            .map(|i| ("tree", None, Some((names[i].as_str(), parent(i).map_or("", |p| names[p].as_str())))))
            .collect();
        let number = |i: usize| (names.len() - 1 - i) as u32;
        let t = ties(&rows);
        let stuck = stuck % names.len();
        let mut expected = BTreeSet::new();
        for i in 0..names.len() {
            if parent(i).is_some_and(|p| p == stuck || expected.contains(&p)) && i != stuck {
                expected.insert(i);
            }
        }
        let waiting = t.waiting(&[number(stuck)], &[]);
        prop_assert_eq!(waiting.keys().copied().collect::<BTreeSet<_>>(), expected.iter().map(|i| number(*i)).collect());
        prop_assert!(waiting.values().all(|root| *root == number(stuck)));
        let groups = t.groups(1000);
        let order: Vec<u32> = groups.concat();
        prop_assert_eq!(order.len(), names.len());
        let at = |i: usize| order.iter().position(|r| *r == number(i));
        for i in 0..names.len() {
            if let Some(p) = parent(i) {
                prop_assert!(at(p) < at(i));
            }
        }
    }
}
