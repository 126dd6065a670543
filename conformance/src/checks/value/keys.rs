//! Keys as values: they come back as they were sent.

use super::*;

pub(super) fn keys() -> Vec<Check> {
    vec![
        Check::must(
            "value.key.text",
            "text keys come back as they were sent",
            &["spec.4.keys", "seed.keys.strings"],
            |lab| {
                let t = lab.table("a text key", |t| t.column(&t.key[0]).is_some_and(|c| c.kind == Kind::Text))?;
                for s in ["a", "A", "with space", "<&>", "é 中 😀", "\"quoted\"", "42", "null", "a/b?c#d", "%41"] {
                    key(lab, t, &Json::Object(vec![(t.key[0].clone(), Json::from(s))]))?;
                }
                Ok(())
            },
        ),
        Check::must(
            "value.key.case",
            "keys that differ in case or accents are different rows",
            &["spec.4.keys"],
            |lab| {
                let t = lab.table("a text key", |t| t.column(&t.key[0]).is_some_and(|c| c.kind == Kind::Text))?;
                let d = lab.ready()?;
                let rows: Vec<Change> = ["a", "A", "a ", "\u{e9}", "e\u{301}", "1", "01", "1.0"]
                    .iter()
                    .map(|s| at(t, &Json::Object(vec![(t.key[0].clone(), Json::from(*s))]), "x"))
                    .collect();
                let c = d.push(1, &rows)?;
                want!(c.row_count == 8 && d.state()?.len() == 8, "eight different rows", "{c:?}");
                d.audit()
            },
        ),
        Check::must("value.key.uuid", "UUID keys are canonical text", &["seed.keys.uuid", "spec.4.keys"], |lab| {
            let t = lab.table("a UUID key", |t| t.column(&t.key[0]).is_some_and(|c| c.kind == Kind::Uuid))?;
            for s in [
                "550e8400-e29b-41d4-a716-446655440000",
                "00000000-0000-0000-0000-000000000000",
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
            ] {
                key(lab, t, &Json::Object(vec![(t.key[0].clone(), Json::from(s))]))?;
            }
            Ok(())
        }),
        Check::may("value.key.integer", "INTEGER keys are decimal text", &["spec.4.composite"], |lab| {
            let t = lab.any_table("one INTEGER key column", |t| {
                t.key.len() == 1 && t.column(&t.key[0]).is_some_and(|c| c.kind == Kind::Integer)
            })?;
            for s in ["1", "0", "-7", "9007199254740993", "9223372036854775807", "-9223372036854775808"] {
                key(lab, t, &Json::Object(vec![(t.key[0].clone(), Json::from(s))]))?;
            }
            // A payload may say the number as a number or as text.
            let d = lab.ready()?;
            let rows =
                [t.insert(5, "a").with(&t.key[0], Json::from(5)), t.insert(6, "a").with(&t.key[0], Json::from("6"))];
            want!(d.push(1, &rows)?.row_count == 2, "42 equals \"42\" for an INTEGER key", "another count");
            Ok(())
        }),
        Check::may(
            "value.key.composite",
            "keys may have several columns",
            &["spec.4.composite", "spec.4.keys"],
            |lab| {
                let t = lab.any_table("a key of several columns", |t| t.key.len() > 1)?;
                let d = lab.ready()?;
                let make = |a: &str, b: &str| {
                    Json::Object(
                        t.key
                            .iter()
                            .enumerate()
                            .map(|(n, k)| (k.clone(), Json::from(if n == 0 { a } else { b })))
                            .collect(),
                    )
                };
                let keys = [make("x", "y"), make("y", "x"), make("xy", ""), make("", "xy"), make("x", "z")];
                let rows: Vec<Change> = keys.iter().map(|k| at(t, k, "a")).collect();
                let c = d.push(1, &rows)?;
                let got = d.rows(&c)?;
                want!(
                    got.len() == 5 && keys.iter().all(|k| got.iter().any(|r| r.key.same(k))),
                    "each pair is a row",
                    "{}",
                    crate::calls::shown_rows(&got)
                );
                let gone = Change { op: "DELETE", base: c.seq, payload: None, ..at(t, &keys[0], "") };
                d.push(2, &[gone])?;
                want!(d.state()?.len() == 4, "one of them is deleted", "another number");
                let part =
                    Change { key: Json::Object(vec![(t.key[0].clone(), Json::from("x"))]), ..at(t, &keys[0], "a") };
                let push = d.create(3, 1)?;
                d.upload(&push, 0, &[part])?.refused(400, &["push_chunk_invalid"])?;
                d.audit()
            },
        ),
    ]
}

/// A row under another key.
fn at(t: &Table, key: &Json, label: &str) -> Change {
    let mut c = t.insert(1, label);
    c.key = key.clone();
    for (name, value) in key.members().unwrap_or_default() {
        let value = match t.column(name).map(|c| c.kind) {
            Some(Kind::Integer) => Json::Number(value.text().unwrap_or("0").to_owned()),
            _ => value.clone(),
        };
        c = c.with(name, value);
    }
    c
}

/// A row under this key is inserted, updated, found, deleted.
fn key(lab: &Lab<'_>, t: &Table, key: &Json) -> Checked {
    let d = lab.ready()?;
    let c = d.push(1, &[at(t, key, "a")])?;
    let rows = d.rows(&c)?;
    want!(
        rows.len() == 1 && rows[0].key.same(key),
        "a key comes back as it was sent",
        "{}, sent {key}",
        crate::calls::shown_rows(&rows)
    );
    let c = d.push(2, &[Change { op: "UPDATE", base: c.seq, ..at(t, key, "b") }])?;
    let live = d.state()?;
    want!(
        live.len() == 1 && live[0].key.same(key) && live[0].version == 2,
        "the key names the row",
        "{}",
        crate::calls::shown_rows(&live)
    );
    d.push(3, &[Change { op: "DELETE", base: c.seq, payload: None, ..at(t, key, "") }])?;
    want!(d.state()?.is_empty(), "the key names the row", "it lives");
    Ok(())
}
