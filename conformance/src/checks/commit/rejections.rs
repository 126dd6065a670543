//! What a commit answers where the schema refuses rows.

use super::*;

pub(super) fn rejections() -> Vec<Check> {
    vec![
        Check::must(
            "push.rejected.foreign_key",
            "a row whose parent does not exist is not committed",
            &["spec.7.refused", "seed.commit.atomic"],
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &missing_parent(lab)?, &[])
            },
        ),
        Check::should(
            "push.rejected.foreign_key_named",
            "a missing parent is 422 with the row",
            &["spec.7.push_rejected"],
            "one bad row stops its device's sync for ever",
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &missing_parent(lab)?, &["foreign_key"])
            },
        ),
        Check::must(
            "push.rejected.unique",
            "a UNIQUE value that is taken is not committed",
            &["spec.7.refused", "seed.commit.atomic"],
            |lab| {
                let d = lab.ready()?;
                let bad = taken(&d)?;
                rejected(&d, &bad, &[])
            },
        ),
        Check::should(
            "push.rejected.unique_named",
            "a taken UNIQUE value is 422 with the row",
            &["spec.7.push_rejected"],
            "one bad row stops its device's sync for ever",
            |lab| {
                let d = lab.ready()?;
                let bad = taken(&d)?;
                rejected(&d, &bad, &["unique"])
            },
        ),
        Check::must(
            "push.rejected.not_null",
            "NULL in a NOT NULL column is not committed",
            &["spec.7.refused", "seed.commit.atomic"],
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &null(lab)?, &[])
            },
        ),
        Check::should(
            "push.rejected.not_null_named",
            "NULL in a NOT NULL column is 422 with the row",
            &["spec.7.push_rejected"],
            "one bad row stops its device's sync for ever",
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &null(lab)?, &["not_null"])
            },
        ),
        Check::must(
            "push.rejected.check",
            "a value that the schema refuses is not committed",
            &["spec.7.refused", "seed.commit.atomic"],
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &unchecked(lab)?, &[])
            },
        ),
        Check::should(
            "push.rejected.check_named",
            "a value that the schema refuses is 422 with the row",
            &["spec.7.push_rejected"],
            "one bad row stops its device's sync for ever",
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &unchecked(lab)?, &["check", "type", "rule"])
            },
        ),
        Check::must(
            "push.rejected.column",
            "a member without a column is not silently dropped",
            &["spec.4.unknown_column", "spec.7.refused"],
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &lab.plain()?.insert(1, "a").with("no_such_column", 1), &[])
            },
        ),
        Check::should(
            "push.rejected.column_named",
            "a member without a column is 422 with the row",
            &["spec.7.push_rejected"],
            "one bad row stops its device's sync for ever",
            |lab| {
                let d = lab.ready()?;
                rejected(&d, &lab.plain()?.insert(1, "a").with("no_such_column", 1), &["unknown_column"])
            },
        ),
        Check::must(
            "push.rejected.delete_parent",
            "a parent whose children hold it is not deleted",
            &["spec.7.refused", "seed.commit.atomic"],
            |lab| {
                let link =
                    lab.link("foreign key that refuses deletes", |l| l.column.on_delete == Some(OnDelete::Refuse))?;
                let d = lab.ready()?;
                let v = d.push(1, &[link.parent.insert(1, "p"), link.child_of(2, 1, "c")])?.seq;
                let push = d.stage(2, &[link.parent.remove(1, v)])?;
                let reply = d.commit_reply(&push)?;
                want!(reply.status >= 400, "a parent with children stays", "{}", reply.came());
                want!(
                    d.live(&link.parent.insert(1, ""))?.is_some(),
                    "a refused delete changes nothing",
                    "the parent is gone"
                );
                d.audit()
            },
        ),
        Check::must(
            "push.rejected.nul",
            "text with U+0000 is stored whole or refused, never cut",
            &["spec.4.text", "spec.7.refused"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.create(1, 1)?;
                let reply = d.upload(&push, 0, &[t.insert(1, "a\u{0}b")])?;
                if reply.status != 200 {
                    return reply.refused(400, &["push_chunk_invalid"]).map(drop);
                }
                let reply = d.commit_reply(&push)?;
                let live = d.live(&t.insert(1, ""))?;
                if reply.status == 200 {
                    let whole =
                        live.as_ref().and_then(|r| r.payload.as_ref()).is_some_and(|p| p.same(&t.full(1, "a\u{0}b")));
                    want!(whole, "text with U+0000 comes back whole", "{live:?}");
                } else {
                    want!(live.is_none(), "a refused row is not there", "{live:?}");
                }
                Ok(())
            },
        ),
    ]
}

/// Commits a bundle with one bad row between good ones; it must be refused, and nothing get in.
fn rejected(d: &Device<'_>, bad: &Change, kinds: &[&str]) -> Checked {
    let t = d.lab.plain()?;
    let id = d.pull("")?.stable + 1;
    let before = d.state()?;
    let push = d.create(id, 3)?;
    let uploaded = d.upload(&push, 0, &[t.insert(71, "good"), bad.clone(), t.insert(72, "good")])?;
    if uploaded.status == 400 && kinds.is_empty() {
        return uploaded.refused(400, &["push_chunk_invalid"]).map(drop);
    }
    uploaded.ok()?;
    let reply = d.commit_reply(&push)?;
    want!(reply.status >= 400, "a bundle with a row that the schema refuses is refused", "{}", reply.came());
    let after = d.state()?;
    let same = before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| a.same(b));
    want!(same, "nothing of a refused bundle gets in", "{}", shown_rows(&after));
    want!(d.pull("")?.stable == id - 1, "a refused bundle takes no bundle_seq", "it took one");
    if kinds.is_empty() {
        return d.push(id, &[t.insert(71, "good"), t.insert(72, "good")]).map(drop);
    }
    let json = reply.refused(422, &["push_rejected"])?;
    let list = json.get("rejections").and_then(Json::items).unwrap_or_default();
    let named = list.len() == 1
        && list[0].get("row_ordinal").and_then(Json::integer) == Some(1)
        && list[0].get("table").and_then(Json::text) == Some(&bad.table)
        && list[0].get("schema").and_then(Json::text) == Some(&bad.schema)
        && list[0].get("key").is_some_and(|k| k.same(&bad.key))
        && list[0].get("kind").and_then(Json::text).is_some_and(|k| kinds.contains(&k))
        && list[0].get("columns").and_then(Json::items).is_some_and(|c| c.iter().all(|c| c.text().is_some()))
        && list[0].get("message").and_then(Json::text).is_some_and(|m| !m.is_empty());
    want!(named, format!("rejections names row 1 alone, of the kind {}", kinds.join(" or ")), "{json}");
    // The session stays, so that the client can replace it.
    d.push(id, &[t.insert(71, "good"), t.insert(72, "good")]).map(drop)
}

fn missing_parent(lab: &Lab<'_>) -> Checked<Change> {
    Ok(lab.link("foreign key", |l| l.parent.name != l.child.name)?.child_of(1, 99, "orphan"))
}

fn taken(d: &Device<'_>) -> Checked<Change> {
    let (t, c) = d.lab.column("a UNIQUE column", |_, c| c.unique)?;
    d.push(1, &[t.insert(1, "a").with(&c.name, "taken")])?;
    Ok(t.insert(2, "b").with(&c.name, "taken"))
}

fn null(lab: &Lab<'_>) -> Checked<Change> {
    let (t, c) = lab.column("a NOT NULL column", |_, c| c.required && c.default.is_none())?;
    Ok(t.insert(1, "a").with(&c.name, Json::Null))
}

fn unchecked(lab: &Lab<'_>) -> Checked<Change> {
    let (t, c) = lab.column("a column with `refuses`", |_, c| c.refuses.is_some())?;
    Ok(t.insert(1, "a").with(&c.name, c.refuses.as_ref().map_or(Json::Null, crate::profile::json)))
}
