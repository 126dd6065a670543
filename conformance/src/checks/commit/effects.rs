//! What a committed bundle contains: what was sent, and what it set off.

use super::conflicts::conflict;
use super::*;

pub(super) fn effects() -> Vec<Check> {
    vec![
        Check::must(
            "push.effects.cascade",
            "a bundle contains the rows that a delete takes along",
            &["ref.3.7.cascade"],
            |lab| {
                let link = lab.link("foreign key with ON DELETE CASCADE", |l| {
                    l.column.on_delete == Some(OnDelete::Cascade) && l.parent.name != l.child.name
                })?;
                let d = lab.ready()?;
                let v = d
                    .push(
                        1,
                        &[
                            link.parent.insert(1, "p"),
                            link.child_of(2, 1, "c"),
                            link.child_of(3, 1, "c"),
                            link.parent.insert(4, "q"),
                        ],
                    )?
                    .seq;
                let c = d.push(2, &[link.parent.remove(1, v)])?;
                let rows = d.rows(&c)?;
                let all = [link.parent.remove(1, 0), link.child.remove(2, 0), link.child.remove(3, 0)];
                let whole = rows.len() == 3
                    && all.iter().all(|c| rows.iter().any(|r| r.op == "DELETE" && r.is(&c.schema, &c.table, &c.key)));
                want!(whole, "the bundle deletes the parent and its children", "{}", shown_rows(&rows));
                conflict(&d, 3, &link.child.remove(2, v), c.seq, true, None)?;
                d.audit()
            },
        ),
        Check::must(
            "push.effects.set_null",
            "a bundle contains the rows whose reference became NULL",
            &["ref.3.7.cascade"],
            |lab| {
                let link = lab.link("foreign key with ON DELETE SET NULL", |l| {
                    l.column.on_delete == Some(OnDelete::SetNull) && l.parent.name != l.child.name
                })?;
                let d = lab.ready()?;
                let v = d.push(1, &[link.parent.insert(1, "p"), link.child_of(2, 1, "c")])?.seq;
                let rows = d.rows(&d.push(2, &[link.parent.remove(1, v)])?)?;
                let child = link.child.row_key(2);
                let found = rows.iter().find(|r| r.is(&link.child.schema, &link.child.name, &child));
                let null =
                    found.and_then(|r| r.payload.as_ref()).and_then(|p| p.get(&link.column.name)) == Some(&Json::Null);
                want!(
                    rows.len() == 2 && null,
                    "the bundle has the parent's DELETE and the child's UPDATE",
                    "{}",
                    shown_rows(&rows)
                );
                d.audit()
            },
        ),
        Check::must(
            "push.effects.deep_cascade",
            "a cascade through a table that refers to itself is whole",
            &["ref.3.7.cascade"],
            |lab| {
                let link = lab.link("foreign key to its own table with ON DELETE CASCADE", |l| {
                    l.column.on_delete == Some(OnDelete::Cascade) && l.parent.name == l.child.name
                })?;
                let d = lab.ready()?;
                let v = d
                    .push(
                        1,
                        &[
                            link.parent.insert(1, "root"),
                            link.child_of(2, 1, "child"),
                            link.child_of(3, 2, "grandchild"),
                        ],
                    )?
                    .seq;
                let rows = d.rows(&d.push(2, &[link.parent.remove(1, v)])?)?;
                want!(
                    rows.len() == 3 && rows.iter().all(|r| r.op == "DELETE"),
                    "the whole tree is deleted",
                    "{}",
                    shown_rows(&rows)
                );
                d.audit()
            },
        ),
        Check::must("push.effects.child_first", "a child may come before its parent", &["ref.3.5.order"], |lab| {
            let link = lab.link("foreign key", |l| l.parent.name != l.child.name)?;
            let d = lab.ready()?;
            let c = d.push(1, &[link.child_of(2, 1, "c"), link.parent.insert(1, "p")])?;
            want!(c.row_count == 2, "child and parent are committed", "{c:?}");
            d.audit()
        }),
        Check::must("push.effects.self_reference", "a row may refer to itself", &["ref.3.5.order"], |lab| {
            let link = lab.link("foreign key to its own table", |l| l.parent.name == l.child.name)?;
            let d = lab.ready()?;
            d.push(1, &[link.child_of(1, 1, "me")])?;
            d.audit()
        }),
        Check::must("push.effects.cycle", "rows may refer to each other", &["ref.3.5.order"], |lab| {
            let tables = &lab.subject.profile.tables;
            let pair = tables.iter().find_map(|a| {
                let to_b = a.columns.iter().find(|c| c.references.as_ref().is_some_and(|r| *r != a.name))?;
                let b = tables.iter().find(|b| Some(&b.name) == to_b.references.as_ref())?;
                let to_a = b.columns.iter().find(|c| c.references.as_ref() == Some(&a.name))?;
                Some((a, to_b, b, to_a))
            });
            let Some((a, to_b, b, to_a)) = pair else {
                return crate::lab::not_offered("the profile has no two tables that refer to each other");
            };
            let d = lab.ready()?;
            let key = |t: &Table, n| t.row_key(n).get(&t.key[0]).cloned().unwrap_or(Json::Null);
            d.push(1, &[a.insert(1, "a").with(&to_b.name, key(b, 2)), b.insert(2, "b").with(&to_a.name, key(a, 1))])?;
            d.audit()
        }),
        Check::should(
            "push.effects.order",
            "a bundle's rows are in upload order",
            &["ref.3.7.upload_order"],
            "clients that compare with what they sent stop",
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let order = [5, 1, 4, 2, 3];
                let rows: Vec<Change> = order.iter().map(|n| t.insert(*n, "a")).collect();
                let same = |c: &crate::calls::Committed| -> Checked {
                    let rows = d.rows(c)?;
                    want!(
                        rows.len() == 5 && rows.iter().zip(order).all(|(r, n)| r.key.same(&t.row_key(n))),
                        "rows are in upload order",
                        "{}",
                        shown_rows(&rows)
                    );
                    Ok(())
                };
                let c = d.push(1, &rows)?;
                same(&c)?;
                let c = d.push(2, &order.map(|n| t.update(n, c.seq, "b")))?;
                same(&c)?;
                same(&d.push(3, &order.map(|n| t.remove(n, c.seq)))?)
            },
        ),
        Check::must(
            "push.effects.random",
            "random bundles leave what a model leaves",
            &["seed.commit.atomic", "ref.3.6.insert_deleted", "ref.3.6.change_live", "spec.1.version"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let mut model: Vec<Option<(i64, bool)>> = vec![None; 12];
                let mut seed: u64 = 0x9e37_79b9;
                let mut random = |n: u64| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 33) % n
                };
                for id in 1..=15 {
                    let mut rows = Vec::new();
                    let mut next = model.clone();
                    for (n, row) in model.iter().enumerate() {
                        let key = n as i64;
                        match (row, random(3)) {
                            (_, 0) => {}
                            (Some((v, true)), 1) => {
                                rows.push(t.update(key, *v, &format!("{id}-{n}")));
                                next[n] = Some((id, true));
                            }
                            (Some((v, true)), _) => {
                                rows.push(t.remove(key, *v));
                                next[n] = Some((id, false));
                            }
                            (row, _) => {
                                let base = row.map_or(0, |(v, _)| v);
                                rows.push(Change { base, ..t.insert(key, &format!("{id}-{n}")) });
                                next[n] = Some((id, true));
                            }
                        }
                    }
                    if rows.is_empty() {
                        rows.push(t.insert(1000 + id, "filler"));
                    }
                    let c = d.push(id, &rows)?;
                    want!(
                        c.seq == id && c.row_count == rows.len() as i64,
                        "each bundle holds its rows",
                        "{c:?} for {} rows",
                        rows.len()
                    );
                    model = next;
                }
                let live = d.state()?;
                for (n, row) in model.iter().enumerate() {
                    let found = live.iter().find(|r| r.is(&t.schema, &t.name, &t.row_key(n as i64)));
                    let alive = row.filter(|(_, alive)| *alive);
                    want!(
                        found.map(|r| r.version) == alive.map(|(v, _)| v),
                        "each row lives with the version of its last change",
                        "row {n}: {found:?}, by the model {row:?}"
                    );
                }
                d.audit()
            },
        ),
    ]
}
