//! Every kind of value, in every place that shows it: committed rows, pull, snapshot, conflict.

mod keys;

use crate::check::Check;
use crate::json::Json;
use crate::lab::{Checked, Device, Lab, want};
use crate::profile::{Column, Kind, Table};
use crate::rows::Change;

pub(super) fn checks() -> Vec<Check> {
    let mut all = text();
    all.extend(numbers());
    all.extend(bytes());
    all.extend(keys::keys());
    all.push(everywhere());
    all
}

/// Whatever a server makes of a value: it is one value. A row with bytes and one without, since one may be read
/// otherwise than the other.
fn everywhere() -> Check {
    Check::should(
        "value.everywhere",
        "a row has the same values in committed rows, pull and snapshot, whatever these are",
        &["spec.4.integer_exact", "seed.snapshot.frozen"],
        "a device that joins has other values than one that was there, and neither can tell",
        |lab| {
            let (t, c) = lab.column("an integer column", |_, c| c.kind == Kind::Integer && c.refuses.is_none())?;
            let blob = t.columns.iter().find(|c| c.kind == Kind::Blob);
            let large = Json::Number("9007199254740993".to_owned());
            let d = lab.ready()?;
            let mut rows = vec![t.insert(1, "a").with(&c.name, large.clone())];
            if let Some(b) = blob {
                rows[0] = rows[0].clone().with(&b.name, Json::Null);
                rows.push(t.insert(2, "b").with(&c.name, large).with(&b.name, "AAEC"));
            }
            let committed = d.push(1, &rows)?;
            let (rows, pulled) = (d.rows(&committed)?, d.pull("")?);
            let Some(bundle) = pulled.bundles.first() else {
                return crate::lab::fail("a pull has the bundle", "an empty page");
            };
            for live in d.state()? {
                for (what, others) in [("committed rows", &rows), ("a pull", &bundle.rows)] {
                    let other = others.iter().find(|r| r.key.same(&live.key)).and_then(|r| r.payload.as_ref());
                    let same = other.zip(live.payload.as_ref()).is_some_and(|(a, b)| a.same(b));
                    let expected = "a row has the same values in a snapshot as in committed rows and pull";
                    let shown = other.map_or_else(|| "nothing".to_owned(), Json::to_string);
                    want!(same, expected, "{}; in {what}: {shown}", live.shown());
                }
            }
            Ok(())
        },
    )
}

fn text() -> Vec<Check> {
    vec![
        Check::must("value.text", "text comes back as it was sent", &["spec.4.text", "spec.4.complete"], |lab| {
            for s in [
                "plain",
                "",
                " spaces ",
                "<&>\u{2028}\u{2029}",
                "\"\\/\u{8}\u{c}\n\r\t\u{1}",
                "é e\u{301} 中文 😀",
                "\u{feff}\u{fffd}\u{10ffff}",
                "null",
                "12",
                "1.0",
                "-0",
                "true",
            ] {
                round(lab, Kind::Text, &Json::from(s), &Json::from(s))?;
            }
            Ok(())
        }),
        Check::must(
            "value.text.escaped",
            "escapes of every form are the characters they stand for",
            &["spec.4.text"],
            |lab| {
                let (t, d) = (lab.plain()?, lab.ready()?);
                let label = t.label().map_or("", |c| c.name.as_str());
                let row = t.insert(1, "MARK").json().replace("\"MARK\"", r#""\u0041\u00e9\ud83d\ude00\/\u003c""#);
                let push = d.create(1, 1)?;
                d.upload_text(&push, 0, &[row])?.ok()?;
                let rows = d.rows(&d.commit(&push)?)?;
                let found = rows[0].payload.as_ref().and_then(|p| p.get(label)).and_then(Json::text);
                want!(found == Some("Aé😀/<"), "escapes are read", "{}", rows[0].shown());
                Ok(())
            },
        ),
        Check::must(
            "value.text.surrogate",
            "half a surrogate pair is refused or replaced, never a fault",
            &["spec.4.text", "spec.3.malformed"],
            |lab| {
                let (t, d) = (lab.plain()?, lab.ready()?);
                let row = t.insert(1, "MARK").json().replace("\"MARK\"", r#""\ud83d""#);
                let push = d.create(1, 1)?;
                let reply = d.upload_text(&push, 0, &[row])?;
                if reply.status != 200 {
                    return reply.refused(400, &["push_chunk_invalid", "invalid_request"]).map(drop);
                }
                d.commit(&push)?;
                d.audit()
            },
        ),
        Check::must(
            "value.text.invalid_utf8",
            "a body that is not UTF-8 is refused or replaced, never a fault",
            &["spec.4.text", "spec.3.malformed"],
            |lab| {
                let (t, d) = (lab.plain()?, lab.ready()?);
                let row = t.insert(1, "MARK").json();
                let mut body = format!("{{\"start_row_ordinal\":0,\"rows\":[{row}]}}").into_bytes();
                if let Some(at) = body.windows(4).position(|w| w == b"MARK") {
                    body[at..at + 4].copy_from_slice(&[0xff, 0xfe, 0xc0, 0x80]);
                }
                let push = d.create(1, 1)?;
                let reply = d.post(&format!("/sync/push-sessions/{push}/chunks"), body)?;
                if reply.status != 200 {
                    return reply.refused(400, &["push_chunk_invalid", "invalid_request"]).map(drop);
                }
                d.commit(&push)?;
                d.audit()
            },
        ),
        Check::must("value.text.long", "a megabyte of text comes back", &["spec.4.text"], |lab| {
            if lab.limit("max_bytes_per_row").is_some_and(|n| n < 1_200_000) {
                return crate::lab::not_offered("max_bytes_per_row is less than a megabyte");
            }
            let s = "é<x>".repeat(1 << 18);
            round(lab, Kind::Text, &Json::from(s.as_str()), &Json::from(s.as_str()))
        })
        .slow(),
        Check::must("value.null", "NULL comes back as null", &["spec.4.null"], |lab| {
            let (t, c) = lab.column("a nullable column", |t, c| {
                !c.required && t.label().is_some_and(|l| l.name != c.name) && c.references.is_none()
            })?;
            place(lab, t, c, &Json::Null, &Json::Null)
        }),
        Check::must(
            "value.null_again",
            "a value may become NULL and a value again",
            &["spec.4.null", "spec.4.partial"],
            |lab| {
                let (t, c) = lab.column("a nullable text column", |t, c| {
                    c.kind == Kind::Text && !c.required && !c.unique && t.label().is_some_and(|l| l.name != c.name)
                })?;
                let d = lab.ready()?;
                let mut v = d.push(1, &[t.insert(1, "a").with(&c.name, "x")])?.seq;
                for (id, value) in [(2, Json::Null), (3, Json::from("y")), (4, Json::Null)] {
                    let rows = d.rows(&d.push(id, &[t.update(1, v, "a").with(&c.name, value.clone())])?)?;
                    want!(
                        rows[0].payload.as_ref().and_then(|p| p.get(&c.name)) == Some(&value),
                        "what was sent is there",
                        "{}",
                        rows[0].shown()
                    );
                    v = id;
                }
                d.audit()
            },
        ),
    ]
}

fn numbers() -> Vec<Check> {
    vec![
        Check::must("value.integer", "integers come back", &["spec.4.integer"], |lab| {
            for i in ["0", "1", "-1", "2147483648", "-2147483649", "9007199254740991", "-9007199254740991"] {
                let json = Json::Number(i.to_owned());
                round(lab, Kind::Integer, &json, &json)?;
            }
            Ok(())
        }),
        Check::should(
            "value.integer.exact",
            "integers are exact to 64 bits",
            &["spec.4.integer_exact"],
            "large numbers, as ids of other services are, change silently",
            |lab| {
                for i in ["9007199254740993", "-9007199254740993", "9223372036854775807", "-9223372036854775808"] {
                    let json = Json::Number(i.to_owned());
                    round(lab, Kind::Integer, &json, &json)?;
                }
                Ok(())
            },
        ),
        Check::should(
            "value.integer.text",
            "a decimal string is an integer in an integer column",
            &["spec.4.decode"],
            "deployed clients that send large numbers as text are refused",
            |lab| round(lab, Kind::Integer, &Json::from("42"), &Json::from(42)),
        ),
        Check::should(
            "value.integer.boolean",
            "true and false are 1 and 0 in an integer column",
            &["spec.4.decode"],
            "deployed clients that send booleans are refused",
            |lab| {
                round(lab, Kind::Integer, &Json::Bool(true), &Json::from(1))?;
                round(lab, Kind::Integer, &Json::Bool(false), &Json::from(0))
            },
        ),
        Check::must("value.real", "reals come back bit for bit", &["spec.4.real"], |lab| {
            for r in [
                "0.5",
                "-1.25",
                "0.1",
                "0.30000000000000004",
                "1e21",
                "1e-7",
                "1.2345678901234567e23",
                "1.7976931348623157e308",
                "2.2250738585072014e-308",
                "5e-324",
            ] {
                let json = Json::Number(r.to_owned());
                round(lab, Kind::Real, &json, &json)?;
            }
            Ok(())
        }),
        Check::must("value.real.integral", "whole numbers in a real column come back", &["spec.4.real"], |lab| {
            for r in ["0", "1", "-3", "1e15", "100.0"] {
                let json = Json::Number(r.to_owned());
                round(lab, Kind::Real, &json, &json)?;
            }
            Ok(())
        }),
        Check::must("value.real.negative_zero", "-0.0 in a real column is zero", &["spec.4.real"], |lab| {
            round(lab, Kind::Real, &Json::Number("-0.0".to_owned()), &Json::from(0))
        }),
        Check::should(
            "value.real.infinity",
            "infinity travels as text",
            &["spec.4.infinity"],
            "a calculation that overflowed cannot be synced",
            |lab| {
                for s in ["Infinity", "-Infinity"] {
                    round(lab, Kind::Real, &Json::from(s), &Json::from(s))?;
                }
                Ok(())
            },
        ),
        Check::must("value.boolean", "booleans come back", &["spec.4.decode"], |lab| {
            for b in [true, false] {
                round(lab, Kind::Boolean, &Json::Bool(b), &Json::Bool(b))?;
            }
            Ok(())
        }),
        Check::must("value.timestamp", "a time comes back as the same instant", &["spec.4.text"], |lab| {
            let (t, c) = lab.column("a column of time", |_, c| c.kind == Kind::Timestamp)?;
            let d = lab.ready()?;
            for (n, s) in ["2026-03-24T18:02:00Z", "2026-03-24T18:02:00.123456+02:00", "1969-12-31T23:59:59+00:00"]
                .iter()
                .enumerate()
            {
                let n = n as i64 + 1;
                let rows = d.rows(&d.push(n, &[t.insert(n, "a").with(&c.name, *s)])?)?;
                let found =
                    rows[0].payload.as_ref().and_then(|p| p.get(&c.name)).and_then(Json::text).unwrap_or_default();
                let instant = |s: &str| s.parse::<jiff::Timestamp>().ok();
                want!(instant(found).is_some() && instant(found) == instant(s), "the same instant", "{found} for {s}");
            }
            d.audit()
        }),
    ]
}

fn bytes() -> Vec<Check> {
    vec![
        Check::must("value.blob", "bytes come back as standard padded base64", &["spec.4.blob"], |lab| {
            for s in ["", "AA==", "AAE=", "AAEC", "//79/A==", "PDw/Pz4+", "AAECAwQFBgcICQoLDA0ODw=="] {
                round(lab, Kind::Blob, &Json::from(s), &Json::from(s))?;
            }
            Ok(())
        }),
        Check::must("value.blob.every", "every byte comes back", &["spec.4.blob"], |lab| {
            use base64::Engine as _;
            let all: Vec<u8> = (0..=255).collect();
            let s = base64::engine::general_purpose::STANDARD.encode(all);
            round(lab, Kind::Blob, &Json::from(s.as_str()), &Json::from(s.as_str()))
        }),
        Check::must("value.plain_view", "the plain view never nests", &["spec.4.plain_view"], |lab| {
            let (t, c) = lab.column("a column of bytes", |_, c| c.kind == Kind::Blob)?;
            let d = lab.ready()?;
            // A client of the exact view may have stored text there; others see it without a nested value.
            let push = d.create(1, 1)?;
            let row = t.insert(1, "a").with(&c.name, Json::Object(vec![("$text".to_owned(), Json::from("hi"))]));
            let reply = d.upload(&push, 0, &[row])?;
            if reply.status != 200 {
                return reply.refused(400, &["push_chunk_invalid"]).map(drop);
            }
            let rows = d.rows(&d.commit(&push)?)?;
            let found = rows[0].payload.as_ref().and_then(|p| p.get(&c.name)).cloned().unwrap_or(Json::Null);
            want!(found == Json::from("aGk="), "text in a column of bytes is the base64 of its UTF-8", "{found}");
            d.audit()
        }),
        Check::may(
            "value.exact_view",
            "the exact view tags what its column does not say",
            &["spec.4.exact_view", "spec.5.blake3"],
            |lab| {
                lab.need_exact()?;
                let (t, c) = lab.column("a column of bytes", |_, c| c.kind == Kind::Blob)?;
                let d = lab.ready()?.exact();
                let tagged = Json::Object(vec![("$text".to_owned(), Json::from("hi"))]);
                let label = t.label().map_or("", |c| c.name.as_str());
                let blob = Json::Object(vec![("$blob".to_owned(), Json::from("AAEC"))]);
                let rows = d.rows(&d.push(
                    1,
                    &[t.insert(1, "a").with(&c.name, tagged.clone()), t.insert(2, "b").with(label, blob.clone())],
                )?)?;
                let found = |n: usize, column: &str| {
                    rows[n].payload.as_ref().and_then(|p| p.get(column)).cloned().unwrap_or(Json::Null)
                };
                want!(
                    found(0, &c.name).same(&tagged),
                    "text in a column of bytes is {\"$text\"}",
                    "{}",
                    found(0, &c.name)
                );
                want!(found(1, label).same(&blob), "bytes in a column of text are {\"$blob\"}", "{}", found(1, label));
                let (_, bundles) = d.pull_all(0, 10)?;
                want!(bundles[0].hash.is_some(), "its hash is over the exact view", "none");
                d.audit()
            },
        ),
    ]
}

fn round(lab: &Lab<'_>, kind: Kind, sent: &Json, expected: &Json) -> Checked {
    let (t, c) = lab.column(&format!("a {kind:?} column").to_lowercase(), |t, c| {
        c.kind == kind
            && c.refuses.is_none()
            && !c.unique
            && c.references.is_none()
            && (kind != Kind::Text || t.label().is_some_and(|l| l.name != c.name))
    })?;
    place(lab, t, c, sent, expected)
}

/// A value is the same in committed rows, pull, snapshot and conflict.
fn place(lab: &Lab<'_>, t: &Table, c: &Column, sent: &Json, expected: &Json) -> Checked {
    let d = lab.ready()?;
    let committed = d.push(1, &[t.insert(1, "a").with(&c.name, sent.clone())])?;
    let found = |what: &str, payload: Option<&Json>| -> Checked {
        let value = payload.and_then(|p| p.get(&c.name)).cloned().unwrap_or_else(|| Json::from("(absent)"));
        let short = |j: &Json| crate::lab::shown(j.to_string().as_bytes());
        want!(value.same(expected), format!("a value comes back in {what}"), "{} for {}", short(&value), short(sent));
        Ok(())
    };
    found("committed rows", d.rows(&committed)?[0].payload.as_ref())?;
    found("a pull", d.pull("")?.bundles[0].rows[0].payload.as_ref())?;
    found("a snapshot", d.state()?[0].payload.as_ref())?;
    conflicting(&d, t).and_then(|row| found("a conflict", Some(&row)))
}

/// The server row of a conflict over row 1.
fn conflicting(d: &Device<'_>, t: &Table) -> Checked<Json> {
    let push = d.stage(2, &[t.insert(1, "x")])?;
    let json = d.commit_reply(&push)?.refused(409, &["push_conflict"])?;
    Ok(json.get("conflict").and_then(|c| c.get("server_row")).cloned().unwrap_or(Json::Null))
}
