//! Uploading chunks: ordinals, limits, owners.

use super::*;

pub(super) fn chunk() -> Vec<Check> {
    vec![
        Check::must(
            "push.chunk.many",
            "rows come in contiguous chunks",
            &["seed.chunk.reply", "seed.chunk.contiguous", "ref.3.5.order"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let rows: Vec<_> = (1..=7).map(|n| t.insert(n, &format!("row {n}"))).collect();
                let push = d.create(1, rows.len())?;
                d.chunk(&push, 0, &rows[..1])?;
                d.chunk(&push, 1, &rows[1..4])?;
                d.chunk(&push, 4, &rows[4..])?;
                let got = d.rows(&d.commit(&push)?)?;
                let whole = got.len() == 7 && (1..=7).all(|n| got.iter().any(|r| r.key.same(&t.row_key(n))));
                want!(whole, "every row of every chunk is committed", "{}", crate::calls::shown_rows(&got));
                d.audit()
            },
        ),
        Check::must("push.chunk.gap", "a chunk after a gap is refused", &["seed.chunk.contiguous"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            let push = d.create(1, 3)?;
            d.upload(&push, 1, &[t.insert(1, "a")])?.refused(409, &["push_chunk_out_of_order"])?;
            d.chunk(&push, 0, &[t.insert(1, "a")])?;
            d.upload(&push, 2, &[t.insert(2, "b")])?.refused(409, &["push_chunk_out_of_order"]).map(drop)
        }),
        Check::must(
            "push.chunk.again",
            "a chunk that was taken is refused the second time",
            &["seed.chunk.contiguous", "ref.3.3.unchanged"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.create(1, 2)?;
                d.chunk(&push, 0, &[t.insert(1, "a")])?;
                d.upload(&push, 0, &[t.insert(1, "a")])?.refused(409, &["push_chunk_out_of_order"])?;
                d.chunk(&push, 1, &[t.insert(2, "b")])?;
                want!(d.commit(&push)?.row_count == 2, "the session goes on where it stood", "another count");
                Ok(())
            },
        ),
        Check::may(
            "push.chunk.next_expected",
            "push_chunk_out_of_order says where the session stands",
            &["spec.6.next_ordinal"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.create(1, 3)?;
                d.chunk(&push, 0, &[t.insert(1, "a"), t.insert(2, "b")])?;
                let json = d.upload(&push, 0, &[t.insert(1, "a")])?.refused(409, &["push_chunk_out_of_order"])?;
                let Some(next) = json.get("next_expected_row_ordinal") else {
                    return crate::lab::not_offered("push_chunk_out_of_order has no next_expected_row_ordinal");
                };
                want!(next.integer() == Some(2), "next_expected_row_ordinal is where the session stands", "{json}");
                Ok(())
            },
        ),
        Check::must(
            "push.chunk.beyond",
            "more rows than planned are refused",
            &["ref.3.3.limit", "seed.chunk.push_chunk_invalid"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.create(1, 2)?;
                d.chunk(&push, 0, &[t.insert(1, "a")])?;
                d.upload(&push, 1, &[t.insert(2, "b"), t.insert(3, "c")])?.refused(400, &["push_chunk_invalid"])?;
                d.chunk(&push, 1, &[t.insert(2, "b")])?;
                d.upload(&push, 2, &[t.insert(3, "c")])?.refused(400, &["push_chunk_invalid"])?;
                want!(d.commit(&push)?.row_count == 2, "a refused chunk leaves nothing behind", "another count");
                Ok(())
            },
        ),
        Check::must(
            "push.chunk.largest",
            "max_rows_per_push_chunk rows are taken, one more is refused",
            &["ref.3.3.limit", "spec.10.enforced"],
            |lab| {
                let Some(most) = lab.limit("max_rows_per_push_chunk") else {
                    return crate::lab::not_offered("max_rows_per_push_chunk is not advertised");
                };
                if most > 20_000 {
                    return crate::lab::not_offered(format!("max_rows_per_push_chunk is {most}, too many to send"));
                }
                let (d, t) = (lab.ready()?, lab.plain()?);
                let rows: Vec<_> = (0..=most).map(|n| t.insert(n, "r").json()).collect();
                let push = d.create(1, rows.len())?;
                d.upload_text(&push, 0, &rows)?.refused(400, &["push_chunk_invalid"])?;
                d.upload_text(&push, 0, &rows[..most as usize])?.ok()?;
                d.upload_text(&push, most, &rows[most as usize..])?.ok()?;
                let c = d.commit(&push)?;
                want!(c.row_count == most + 1, "all rows are committed", "{c:?}");
                let rows = d.rows(&c)?;
                want!(rows.len() as i64 == most + 1, "all rows are served", "{}", rows.len());
                Ok(())
            },
        )
        .slow(),
        Check::must("push.chunk.invisible", "staged rows are invisible", &["ref.3.1.invisible"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            let push = d.stage(1, &[t.insert(1, "a")])?;
            want!(d.pull("")?.bundles.is_empty(), "staged rows are in no bundle", "a bundle");
            want!(d.state()?.is_empty(), "staged rows are in no snapshot", "rows");
            d.rows_reply(1, "")?.refused(404, &["committed_bundle_not_found"])?;
            d.commit(&push)?;
            want!(d.state()?.len() == 1, "committed rows are in the snapshot", "no row");
            Ok(())
        }),
        Check::must(
            "push.chunk.case",
            "op and table are read without regard to case, or refused",
            &["ref.3.4.op"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let row = t.insert(1, "a").json().replace("\"INSERT\"", "\"insert\"");
                let push = d.create(1, 1)?;
                let reply = d.upload_text(&push, 0, &[row])?;
                if reply.status != 200 {
                    return reply.refused(400, &["push_chunk_invalid"]).map(drop);
                }
                let rows = d.rows(&d.commit(&push)?)?;
                want!(rows[0].op == "INSERT", "a committed op is in upper case", "{}", rows[0].shown());
                Ok(())
            },
        ),
        Check::must(
            "push.chunk.without_key_member",
            "a payload may leave its key out",
            &["spec.4.key_match", "spec.4.complete"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let rows = d.rows(&d.push(1, &[t.insert(1, "a").without(&t.key[0])])?)?;
                want!(
                    rows[0].payload.as_ref().is_some_and(|p| p.same(&t.full(1, "a"))),
                    "the committed payload is whole",
                    "{}",
                    rows[0].shown()
                );
                Ok(())
            },
        ),
        Check::should(
            "push.chunk.renews",
            "each chunk renews the session",
            &["ref.3.1.refreshed"],
            "a large push on a slow link never ends",
            |lab| {
                let (d, t, ttl) = (lab.ready()?, lab.plain()?, lab.short("push_session_ttl_seconds")?);
                let push = d.create(1, 3)?;
                for n in 0..3 {
                    lab.wait(ttl * 6 / 10)?;
                    d.chunk(&push, n, &[t.insert(n as i64, "a")])?;
                }
                d.commit(&push).map(drop)
            },
        )
        .slow(),
    ]
}
