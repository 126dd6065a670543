//! Keys that must be refused.

use super::*;

pub(super) fn keys() -> Vec<Check> {
    vec![
        Check::must(
            "push.refused.key_missing",
            "a row without a key is refused",
            &["ref.3.4.key", "seed.keys.strings"],
            |lab| {
                row(lab, |t| {
                    let c = t.insert(1, "a");
                    c.json().replacen(&format!("\"key\":{},", c.key), "", 1)
                })
            },
        ),
        Check::must(
            "push.refused.key_empty",
            "a key without its column is refused",
            &["ref.3.4.key", "spec.4.keys"],
            |lab| row(lab, |t| Change { key: Json::Object(Vec::new()), ..t.insert(1, "a") }.json()),
        ),
        Check::must(
            "push.refused.key_other",
            "a key of another column is refused",
            &["ref.3.4.key", "spec.4.keys"],
            |lab| {
                row(lab, |t| {
                    Change {
                        key: Json::Object(vec![("no_such_column".to_owned(), Json::from("x"))]),
                        ..t.insert(1, "a")
                    }
                    .json()
                })
            },
        ),
        Check::must("push.refused.key_null", "NULL in a key is refused", &["ref.3.4.key", "spec.4.keys"], |lab| {
            row(lab, |t| with_key(t, Json::Null))
        }),
        Check::must(
            "push.refused.key_number",
            "a number as a key is refused",
            &["ref.3.4.key", "seed.keys.strings"],
            |lab| row(lab, |t| with_key(t, Json::from(1))),
        ),
        Check::must(
            "push.refused.key_array",
            "an array as a key is refused",
            &["ref.3.4.key", "seed.keys.strings"],
            |lab| row(lab, |t| with_key(t, Json::Array(vec![Json::from("a")]))),
        ),
        Check::must(
            "push.refused.key_text",
            "a key that is text instead of an object is refused",
            &["ref.3.4.key", "spec.3.malformed"],
            |lab| {
                let t = lab.plain()?;
                let row = Change { key: Json::from("k1"), ..t.insert(1, "a") }.json();
                body(lab, &format!("{{\"start_row_ordinal\":0,\"rows\":[{row}]}}"), UNREADABLE)
            },
        ),
        Check::must(
            "push.refused.uuid_upper",
            "an upper-case UUID key is refused",
            &["seed.keys.uuid", "ref.3.4.key"],
            |lab| uuid(lab, "6DF0D8DD-A84B-43B6-BBCA-8DE70432922A"),
        ),
        Check::must(
            "push.refused.uuid_bare",
            "a UUID key without dashes is refused",
            &["seed.keys.uuid", "ref.3.4.key"],
            |lab| uuid(lab, "6df0d8dda84b43b6bbca8de70432922a"),
        ),
        Check::must(
            "push.refused.uuid_braces",
            "a UUID key in braces is refused",
            &["seed.keys.uuid", "ref.3.4.key"],
            |lab| uuid(lab, "{6df0d8dd-a84b-43b6-bbca-8de70432922a}"),
        ),
        Check::must(
            "push.refused.uuid_not",
            "text that is no UUID is refused as a UUID key",
            &["seed.keys.uuid", "ref.3.4.key"],
            |lab| uuid(lab, "row-1"),
        ),
        Check::may(
            "push.refused.integer_key",
            "an INTEGER key must be canonical decimal text",
            &["spec.4.composite", "spec.4.keys"],
            |lab| {
                let t = lab.any_table("one INTEGER key column", |t| {
                    t.key.len() == 1 && t.column(&t.key[0]).is_some_and(|c| c.kind == Kind::Integer)
                })?;
                for text in ["01", "+1", "1.0", " 1", "1e3", "x", "", "9223372036854775808", "-0"] {
                    refused(
                        lab,
                        &Change {
                            key: Json::Object(vec![(t.key[0].clone(), Json::from(text))]),
                            ..t.insert(1, "a").without(&t.key[0])
                        }
                        .json(),
                        INVALID,
                    )?;
                }
                Ok(())
            },
        ),
        Check::must(
            "push.refused.duplicate_row",
            "a row twice in a chunk is refused",
            &["ref.3.4.duplicate", "seed.chunk.push_chunk_invalid"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.create(1, 2)?;
                d.upload(&push, 0, &[t.insert(1, "a"), t.insert(1, "b")])?.refused(400, INVALID)?;
                d.chunk(&push, 0, &[t.insert(1, "a"), t.insert(2, "b")])
            },
        ),
    ]
}

fn with_key(t: &Table, value: Json) -> String {
    let c = t.insert(1, "a");
    Change { key: Json::Object(vec![(t.key[0].clone(), value)]), ..c }.json()
}

fn uuid(lab: &Lab<'_>, text: &str) -> Checked {
    let t = lab.table("a UUID key", |t| t.column(&t.key[0]).is_some_and(|c| c.kind == Kind::Uuid))?;
    let c =
        Change { key: Json::Object(vec![(t.key[0].clone(), Json::from(text))]), ..t.insert(1, "a").without(&t.key[0]) };
    refused(lab, &c.json(), INVALID)
}
