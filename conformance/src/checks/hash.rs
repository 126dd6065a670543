//! Both bundle hashes over hostile content, and the chain of history.

use sync_core::hash::{Digest, history};

use crate::calls::check_hash;
use crate::check::Check;
use crate::json::Json;
use crate::lab::{Checked, Device, Lab, want};
use crate::profile::Kind;
use crate::rows::Change;

/// Text that encoders disagree about.
const HOSTILE: [&str; 14] = [
    "<script>&amp;\"'</script>",
    "\u{2028}line\u{2029}separators",
    "quote \" backslash \\ slash / tab \t newline \n return \r",
    "\u{1}\u{2}\u{7}\u{8}\u{b}\u{c}\u{1f}",
    "\u{7f}\u{80}\u{9f}\u{a0}\u{ad}",
    "é e\u{301} ß ﬁ 中文 😀 👩\u{200d}👩\u{200d}👧",
    "\u{feff}bom \u{fffd} \u{ffff} \u{10ffff}",
    "\\u003c is not <",
    "null",
    "",
    " leading and trailing ",
    "9007199254740993",
    "{\"json\":[1,2]}",
    "\u{202e}right to left\u{202c}",
];

pub(super) fn checks() -> Vec<Check> {
    let mut all = vec![
        Check::must("hash.plain", "the hash of a plain bundle", &["spec.5.sha256", "spec.5.stable"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            everywhere(&d, 1, &[t.insert(1, "a"), t.insert(2, "b")])
        }),
        Check::must("hash.text", "the hash over hostile text", &["spec.5.sha256", "spec.4.text"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            let rows: Vec<Change> = HOSTILE.iter().enumerate().map(|(n, s)| t.insert(n as i64, s)).collect();
            everywhere(&d, 1, &rows)
        }),
        Check::must("hash.key", "the hash over hostile keys", &["spec.5.sha256"], |lab| {
            let t = lab.table("a text key", |t| t.column(&t.key[0]).is_some_and(|c| c.kind == Kind::Text))?;
            let d = lab.ready()?;
            let rows: Vec<Change> = HOSTILE
                .iter()
                .filter(|s| !s.trim().is_empty())
                .map(|s| {
                    let c = t.insert(1, "a").with(&t.key[0], *s);
                    Change { key: Json::Object(vec![(t.key[0].clone(), Json::from(*s))]), ..c }
                })
                .collect();
            everywhere(&d, 1, &rows)
        }),
        Check::must(
            "hash.integers",
            "the hash over integers at every edge",
            &["spec.5.sha256", "spec.4.integer"],
            |lab| {
                numbers(
                    lab,
                    Kind::Integer,
                    &[
                        "0",
                        "-1",
                        "1",
                        "9007199254740991",
                        "9007199254740992",
                        "9007199254740993",
                        "-9007199254740993",
                        "9223372036854775000",
                    ],
                )
            },
        ),
        Check::must("hash.reals", "the hash over reals at every edge", &["spec.5.sha256", "spec.4.real"], |lab| {
            numbers(
                lab,
                Kind::Real,
                &[
                    "0.1",
                    "-1.5",
                    "1.0",
                    "100.0",
                    "1e20",
                    "1e21",
                    "1e-6",
                    "1e-7",
                    "1.2345678901234567e23",
                    "5e-324",
                    "1.7976931348623157e308",
                    "0.30000000000000004",
                    "1e300",
                    "123456789012345680000.0",
                ],
            )
        }),
        Check::must("hash.null", "the hash over NULLs and bytes", &["spec.5.sha256"], |lab| {
            let (t, c) = lab.column("a column of bytes", |_, c| c.kind == Kind::Blob)?;
            let d = lab.ready()?;
            let rows = ["", "AA==", "AAE=", "AAEC", "/+7d"]
                .iter()
                .enumerate()
                .map(|(n, s)| t.insert(n as i64, "a").with(&c.name, *s))
                .collect::<Vec<_>>();
            everywhere(&d, 1, &rows)?;
            if c.required { Ok(()) } else { everywhere(&d, 2, &[t.insert(90, "a").with(&c.name, Json::Null)]) }
        }),
        Check::must("hash.delete", "the hash over updates and deletes", &["spec.5.sha256", "spec.5.stable"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            let v = d.push(1, &[t.insert(1, "a"), t.insert(2, "b"), t.insert(3, "c")])?.seq;
            everywhere(&d, 2, &[t.remove(2, v), t.update(1, v, "<x>"), t.insert(4, "d")])
        }),
        Check::must(
            "hash.cascade",
            "the hash over rows that a delete takes along",
            &["spec.5.sha256", "ref.3.7.cascade"],
            |lab| {
                let link = lab.link("foreign key with ON DELETE CASCADE", |l| {
                    l.column.on_delete == Some(crate::profile::OnDelete::Cascade)
                })?;
                let d = lab.ready()?;
                let v = d.push(1, &[link.parent.insert(1, "p"), link.child_of(2, 1, "c")])?.seq;
                everywhere(&d, 2, &[link.parent.remove(1, v)])
            },
        ),
        Check::must(
            "hash.member_order",
            "the order of a payload's members does not matter",
            &["spec.5.sha256", "spec.5.stable"],
            |lab| {
                let (a, b, t) = (lab.ready()?, lab.ready()?, lab.plain()?);
                let row = t.insert(1, "a");
                let mut turned = row.clone();
                if let Some(Json::Object(members)) = &mut turned.payload {
                    members.reverse();
                }
                let (one, two) = (a.push(1, &[row])?, b.push(1, &[turned])?);
                want!(one.hash == two.hash, "the same rows have the same hash", "{} and {}", one.hash, two.hash);
                Ok(())
            },
        ),
        Check::must("hash.differs", "other rows have another hash", &["spec.5.sha256"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            let (a, b) = (d.push(1, &[t.insert(1, "a")])?, d.push(2, &[t.insert(2, "a")])?);
            want!(a.hash != b.hash, "other rows have another hash", "{}", a.hash);
            Ok(())
        }),
    ];
    all.extend(exact());
    all
}

fn exact() -> Vec<Check> {
    vec![
        Check::may("hash.blake3.text", "the blake3 hash over hostile text", &["spec.5.blake3"], |lab| {
            lab.need_exact()?;
            let (d, t) = (lab.ready()?.exact(), lab.plain()?);
            let rows: Vec<Change> = HOSTILE.iter().enumerate().map(|(n, s)| t.insert(n as i64, s)).collect();
            everywhere(&d, 1, &rows)
        }),
        Check::may(
            "hash.blake3.numbers",
            "the blake3 hash over exact integers and reals",
            &["spec.5.blake3", "spec.4.integer_exact"],
            |lab| {
                lab.need_exact()?;
                let d = lab.ready()?.exact();
                let (t, c) = lab.column("an integer column", |_, c| c.kind == Kind::Integer && c.refuses.is_none())?;
                let integers = ["9223372036854775807", "-9223372036854775808", "9007199254740993", "0"];
                let rows: Vec<_> = integers
                    .iter()
                    .enumerate()
                    .map(|(n, i)| t.insert(n as i64, "a").with(&c.name, Json::Number((*i).to_owned())))
                    .collect();
                everywhere(&d, 1, &rows)?;
                let (t, c) = lab.column("a real column", |_, c| c.kind == Kind::Real)?;
                let reals = ["1.0", "1e21", "1e-7", "0.1", "-2.5e-300"];
                let rows: Vec<_> = reals
                    .iter()
                    .enumerate()
                    .map(|(n, i)| t.insert(50 + n as i64, "a").with(&c.name, Json::Number((*i).to_owned())))
                    .collect();
                everywhere(&d, 2, &rows)
            },
        ),
        Check::may("hash.blake3.delete", "the blake3 hash over deletes", &["spec.5.blake3"], |lab| {
            lab.need_exact()?;
            let (d, t) = (lab.ready()?.exact(), lab.plain()?);
            let v = d.push(1, &[t.insert(1, "a"), t.insert(2, "b")])?.seq;
            everywhere(&d, 2, &[t.remove(2, v), t.update(1, v, "x")])
        }),
        Check::may(
            "hash.both",
            "one bundle has both hashes, each for who asks",
            &["spec.5.blake3", "spec.5.sha256"],
            |lab| {
                lab.need_exact()?;
                let (d, t) = (lab.ready()?, lab.plain()?);
                let c = d.push(1, &[t.insert(1, "<a>")])?;
                let reply = d.exact().rows_reply(1, "")?;
                let blake3 = reply.need_text(&reply.ok()?, "bundle_hash")?;
                want!(blake3 != c.hash, "the two hashes differ", "{blake3}");
                check_hash(&d.exact().rows(&c)?, &blake3, true)?;
                d.rows(&c).map(drop)
            },
        ),
        Check::may("hash.history", "history_hash chains the bundles", &["spec.5.history"], |lab| {
            lab.need_exact()?;
            let (d, t) = (lab.ready()?.exact(), lab.plain()?);
            let mut previous = Digest::default();
            for id in 1..=4 {
                let c = d.push(id, &[t.insert(id, "a")])?;
                let Some(found) = c.history.clone() else {
                    return crate::lab::not_offered("commits have no history_hash");
                };
                let rows = d.rows(&c)?;
                previous = history(previous, crate::hashing::bundle(&rows, true), c.seq);
                want!(
                    found == previous.hex(),
                    "history_hash is the hash of the one before, the bundle's and its place",
                    "{found}, computed {}",
                    previous.hex()
                );
            }
            let (_, bundles) = d.pull_all(0, 2)?;
            let last = bundles.last().and_then(|b| b.history.clone());
            want!(last == Some(previous.hex()), "a pull carries the same history_hash", "{last:?}");
            Ok(())
        }),
    ]
}

/// Pushes rows and verifies their hash in every place that shows it.
fn everywhere(d: &Device<'_>, id: i64, rows: &[Change]) -> Checked {
    let c = d.push(id, rows)?;
    let served = d.rows(&c)?;
    check_hash(&served, &c.hash, d.is_exact())?;
    let p = d.pull(&format!("?after_bundle_seq={}", c.seq - 1))?;
    want!(
        p.bundles[0].hash.as_ref().is_none_or(|h| *h == c.hash),
        "a pulled bundle has the commit's hash",
        "{:?}, not {}",
        p.bundles[0].hash,
        c.hash
    );
    let same = p.bundles[0].rows.len() == served.len() && p.bundles[0].rows.iter().zip(&served).all(|(a, b)| a.same(b));
    want!(same, "a pulled bundle has the rows of the committed one", "others");
    let reply = d.create_reply(id, 1)?;
    let json = reply.ok()?;
    want!(reply.need_text(&json, "bundle_hash")? == c.hash, "already_committed has the commit's hash", "{json}");
    d.audit()
}

fn numbers(lab: &Lab<'_>, kind: Kind, texts: &[&str]) -> Checked {
    let (t, c) = lab.column("a column of numbers", |_, c| c.kind == kind && c.refuses.is_none())?;
    let d = lab.ready()?;
    let rows: Vec<Change> = texts
        .iter()
        .enumerate()
        .map(|(n, s)| t.insert(n as i64, "a").with(&c.name, Json::Number((*s).to_owned())))
        .collect();
    everywhere(&d, 1, &rows)
}
