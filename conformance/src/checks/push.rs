//! Push sessions: creation, source sequences, chunks, deletion.

use crate::calls::read_committed;
use crate::check::Check;
use crate::lab::{Checked, Device, Reply, job, together, want};

const UNKNOWN: &str = "6df0d8dd-a84b-43b6-bbca-8de70432922a";
const MALFORMED: &str = "no-such-thing";

pub(super) fn checks() -> Vec<Check> {
    let mut all = create();
    all.extend(seeding());
    all.extend(sequence());
    all.extend(chunk());
    all.extend(sessions());
    all
}

fn create() -> Vec<Check> {
    vec![
        Check::must(
            "push.create.staging",
            "a fresh session is staging, with the planned rows",
            &["seed.create.staging"],
            |lab| lab.ready()?.create(1, 3).map(drop),
        ),
        Check::should(
            "push.create.next_expected",
            "a fresh session says that row 0 comes next",
            &["seed.create.staging"],
            "clients that read the member as documented stop",
            |lab| {
                let reply = lab.ready()?.create_reply(1, 1)?;
                let json = reply.ok()?;
                want!(
                    reply.need_integer(&json, "next_expected_row_ordinal")? == 0,
                    "next_expected_row_ordinal is 0",
                    "{}",
                    reply.came()
                );
                Ok(())
            },
        ),
        Check::must(
            "push.create.zero_id",
            "source_bundle_id 0 is refused",
            &["seed.create.push_session_invalid"],
            |lab| invalid(&lab.ready()?, r#"{"source_bundle_id":0,"planned_row_count":1}"#),
        ),
        Check::must(
            "push.create.negative_id",
            "a negative source_bundle_id is refused",
            &["seed.create.push_session_invalid"],
            |lab| invalid(&lab.ready()?, r#"{"source_bundle_id":-1,"planned_row_count":1}"#),
        ),
        Check::must(
            "push.create.zero_rows",
            "a push of no rows is refused",
            &["seed.create.push_session_invalid"],
            |lab| invalid(&lab.ready()?, r#"{"source_bundle_id":1,"planned_row_count":0}"#),
        ),
        Check::must(
            "push.create.negative_rows",
            "a push of fewer than no rows is refused",
            &["seed.create.push_session_invalid"],
            |lab| invalid(&lab.ready()?, r#"{"source_bundle_id":1,"planned_row_count":-5}"#),
        ),
        Check::must(
            "push.create.missing",
            "a body without members is refused",
            &["seed.create.push_session_invalid"],
            |lab| invalid(&lab.ready()?, "{}"),
        ),
        Check::must(
            "push.create.malformed",
            "malformed JSON is refused",
            &["seed.create.push_session_invalid", "spec.3.malformed"],
            |lab| unreadable(&lab.ready()?, "{\"source_bundle_id\":1,"),
        ),
        Check::must(
            "push.create.empty_body",
            "an empty body is refused",
            &["seed.create.push_session_invalid", "spec.3.malformed"],
            |lab| unreadable(&lab.ready()?, ""),
        ),
        Check::must(
            "push.create.text_id",
            "numbers in strings are refused",
            &["seed.create.push_session_invalid", "spec.3.malformed"],
            |lab| unreadable(&lab.ready()?, r#"{"source_bundle_id":"1","planned_row_count":1}"#),
        ),
        Check::must(
            "push.create.fraction",
            "a fraction is refused",
            &["seed.create.push_session_invalid", "spec.3.malformed"],
            |lab| unreadable(&lab.ready()?, r#"{"source_bundle_id":1.5,"planned_row_count":1}"#),
        ),
        Check::must(
            "push.create.overflow",
            "2^63 is refused",
            &["seed.create.push_session_invalid", "spec.3.malformed"],
            |lab| unreadable(&lab.ready()?, r#"{"source_bundle_id":9223372036854775808,"planned_row_count":1}"#),
        ),
        Check::should(
            "push.create.trailing",
            "a second document after the first is refused",
            &["spec.3.strict_json"],
            "a garbled request is half understood",
            |lab| unreadable(&lab.ready()?, r#"{"source_bundle_id":1,"planned_row_count":1}{"source_bundle_id":2}"#),
        ),
        Check::should(
            "push.create.duplicate",
            "duplicate members are refused",
            &["spec.3.strict_json"],
            "two readers of one request disagree on what it says",
            |lab| unreadable(&lab.ready()?, r#"{"source_bundle_id":1,"source_bundle_id":1,"planned_row_count":1}"#),
        ),
        Check::must(
            "push.create.unknown_members",
            "unknown members and a source_id in the body are ignored",
            &["spec.3.unknown_members", "seed.auth.source"],
            |lab| {
                let d = lab.ready()?;
                let t = lab.plain()?;
                let reply = d.post(
                    "/sync/push-sessions",
                    r#"{"source_bundle_id":1,"planned_row_count":1,"source_id":"device-b","future":[{}]}"#,
                )?;
                let push = reply.need_text(&reply.ok()?, "push_id")?;
                d.chunk(&push, 0, &[t.insert(1, "a")])?;
                let c = d.commit(&push)?;
                want!(c.source == d.source_id(), "the header alone says which source pushes", "{c:?}");
                Ok(())
            },
        ),
        Check::must(
            "push.create.uninitialized",
            "a scope that nobody initialized takes no push",
            &["seed.create.scope_uninitialized"],
            |lab| lab.user()?.create_reply(1, 1)?.refused(409, &["scope_uninitialized"]).map(drop),
        ),
        Check::must(
            "push.create.uninitialized_with_id",
            "an id without a lease has expired",
            &["seed.create.initialization_expired"],
            |lab| lab.user()?.create_seed_reply(1, 1, UNKNOWN)?.refused(410, &["initialization_expired"]).map(drop),
        ),
        Check::must(
            "push.create.initialized_with_id",
            "an initialized scope takes no initialization_id",
            &["seed.create.push_session_invalid", "ref.2.4.one_seed"],
            |lab| lab.ready()?.create_seed_reply(1, 1, UNKNOWN)?.refused(400, &["push_session_invalid"]).map(drop),
        ),
        Check::must(
            "push.create.replaces",
            "a fresh session for the tuple replaces the older one",
            &["seed.create.replaces"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let old = d.create(1, 1)?;
                d.chunk(&old, 0, &[t.insert(1, "old")])?;
                let new = d.create(1, 1)?;
                want!(old != new, "the fresh session has an id of its own", "{old} twice");
                d.upload(&old, 0, &[t.insert(1, "old")])?.refused(404, &["push_session_not_found"])?;
                d.commit_reply(&old)?.refused(404, &["push_session_not_found"])?;
                d.delete(&format!("/sync/push-sessions/{old}"))?.refused(404, &["push_session_not_found"])?;
                d.chunk(&new, 0, &[t.insert(2, "new")])?;
                let rows = d.rows(&d.commit(&new)?)?;
                let expected = "a replaced session's rows are gone";
                want!(
                    rows.len() == 1 && rows[0].key.same(&t.row_key(2)),
                    expected,
                    "{}",
                    crate::calls::shown_rows(&rows)
                );
                Ok(())
            },
        ),
        Check::must(
            "push.create.race",
            "of sessions created at once for one tuple one lives",
            &["seed.create.serialised", "seed.create.replaces"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let jobs = (0..4).map(|_| job(|| d.create(1, 1))).collect();
                let mut ids = Vec::new();
                for id in together(jobs) {
                    ids.push(id?);
                }
                let mut alive = 0;
                for id in &ids {
                    alive += i32::from(d.upload(id, 0, &[t.insert(1, "a")])?.status == 200);
                }
                want!(alive == 1, "of several sessions for one tuple one takes chunks", "{alive} of {}", ids.len());
                Ok(())
            },
        ),
        Check::may(
            "push.create.too_large",
            "more rows than max_rows_per_bundle are refused at once",
            &["spec.7.bundle_too_large"],
            |lab| {
                let Some(most) = lab.limit("max_rows_per_bundle") else {
                    return crate::lab::not_offered("max_rows_per_bundle is not advertised");
                };
                lab.ready()?.create_reply(1, most + 1)?.refused(413, &["bundle_too_large"]).map(drop)
            },
        ),
    ]
}

fn seeding() -> Vec<Check> {
    vec![
        Check::must(
            "push.seeding.without_id",
            "the seeding source must carry its id",
            &["seed.connect.id", "seed.create.push_session_invalid"],
            |lab| {
                let d = lab.user()?;
                d.connect_as(true, "initialize_local")?;
                d.create_reply(1, 1)?.refused(400, &["push_session_invalid"]).map(drop)
            },
        ),
        Check::must("push.seeding.wrong_id", "another id is stale", &["seed.create.initialization_stale"], |lab| {
            let d = lab.user()?;
            d.connect_as(true, "initialize_local")?;
            d.create_seed_reply(1, 1, UNKNOWN)?.refused(409, &["initialization_stale"]).map(drop)
        }),
        Check::must(
            "push.seeding.other_source",
            "the id is of no use to another source",
            &["seed.create.initialization_stale"],
            |lab| {
                let d = lab.user()?;
                let lease = d.connect_as(true, "initialize_local")?.id.unwrap_or_default();
                d.source("device-b").create_seed_reply(1, 1, &lease)?.refused(409, &["initialization_stale"]).map(drop)
            },
        ),
        Check::must(
            "push.seeding.other_without_id",
            "another source gets no session meanwhile",
            &["seed.create.scope_initializing"],
            |lab| {
                let d = lab.user()?;
                d.connect_as(true, "initialize_local")?;
                let reply = d.source("device-b").create_reply(1, 1)?;
                if reply.status == 400 {
                    return reply.refused(400, &["push_session_invalid"]).map(drop);
                }
                reply.refused(409, &["scope_initializing", "initialization_stale"]).map(drop)
            },
        ),
        Check::should(
            "push.seeding.initializing",
            "another source hears scope_initializing",
            &["spec.6.codes"],
            "a second device takes a wait for an error of its own",
            |lab| {
                let d = lab.user()?;
                d.connect_as(true, "initialize_local")?;
                d.source("device-b").create_reply(1, 1)?.refused(409, &["scope_initializing"]).map(drop)
            },
        ),
        Check::must(
            "push.seeding.given_up",
            "a given up seed's session is stale",
            &["seed.chunk.initialization_stale", "seed.commit.initialization_stale"],
            |lab| {
                let (d, t) = (lab.user()?, lab.plain()?);
                let lease = d.connect_as(true, "initialize_local")?.id.unwrap_or_default();
                let push = d.create_seed(1, 2, &lease)?;
                d.chunk(&push, 0, &[t.insert(1, "a")])?;
                d.connect_as(false, "initialize_empty")?;
                d.upload(&push, 1, &[t.insert(2, "b")])?.refused(409, &["initialization_stale"])?;
                let reply = d.commit_reply(&push)?;
                // The reference looks at the missing rows first.
                if reply.status == 400 {
                    reply.refused(400, &["push_commit_invalid"])?
                } else {
                    reply.refused(409, &["initialization_stale"])?
                };
                want!(d.state()?.is_empty(), "nothing of a given up seed gets in", "rows");
                Ok(())
            },
        ),
        Check::must(
            "push.seeding.given_up_whole",
            "a given up seed that was staged whole cannot be committed",
            &["seed.commit.initialization_stale"],
            |lab| {
                let (d, t) = (lab.user()?, lab.plain()?);
                let lease = d.connect_as(true, "initialize_local")?.id.unwrap_or_default();
                let push = d.create_seed(1, 1, &lease)?;
                d.chunk(&push, 0, &[t.insert(1, "a")])?;
                d.connect_as(false, "initialize_empty")?;
                d.commit_reply(&push)?.refused(409, &["initialization_stale"])?;
                want!(d.pull("")?.stable == 0, "nothing of a given up seed gets in", "a bundle");
                Ok(())
            },
        ),
        Check::must(
            "push.seeding.invisible",
            "while the scope is initializing nothing is served",
            &["seed.pull.scope_initializing", "seed.snapshot.scope_initializing"],
            |lab| {
                let d = lab.user()?;
                d.connect_as(true, "initialize_local")?;
                for d in [d.clone(), d.source("device-b")] {
                    d.pull_reply("")?.refused(409, &["scope_initializing"])?;
                    d.snapshot_reply("{}")?.refused(409, &["scope_initializing"])?;
                }
                Ok(())
            },
        ),
        Check::should(
            "push.seeding.already_committed",
            "a seed is found again with its id",
            &["spec.6.already_first"],
            "a device whose reply to the seed was lost is wedged for ever",
            |lab| {
                let (d, t) = (lab.user()?, lab.plain()?);
                let lease = d.connect_as(true, "initialize_local")?.id.unwrap_or_default();
                let push = d.create_seed(1, 1, &lease)?;
                d.chunk(&push, 0, &[t.insert(1, "a")])?;
                let c = d.commit(&push)?;
                let reply = d.create_seed_reply(1, 1, &lease)?;
                committed_already(&reply, &c)
            },
        ),
    ]
}

fn sequence() -> Vec<Check> {
    vec![
        Check::must(
            "push.sequence.first",
            "an unknown source starts at 1",
            &["ref.3.2.unknown", "seed.create.source_sequence_out_of_order"],
            |lab| {
                let d = lab.ready()?;
                d.create_reply(2, 1)?.refused(409, &["source_sequence_out_of_order"])?;
                d.create(1, 1).map(drop)
            },
        ),
        Check::must(
            "push.sequence.next",
            "a known source expects the next id",
            &["ref.3.2.next", "seed.create.source_sequence_out_of_order"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                d.push(1, &[t.insert(1, "a")])?;
                d.create_reply(3, 1)?.refused(409, &["source_sequence_out_of_order"])?;
                d.push(2, &[t.insert(2, "b")])?;
                d.create_reply(4, 1)?.refused(409, &["source_sequence_out_of_order"])?;
                d.create_reply(i64::MAX, 1)?.refused(409, &["source_sequence_out_of_order"]).map(drop)
            },
        ),
        Check::must(
            "push.sequence.own",
            "each source counts for itself",
            &["ref.3.2.own", "spec.1.sequence", "spec.1.tuple"],
            |lab| {
                let (a, t) = (lab.ready()?, lab.plain()?);
                let b = a.source("device-b");
                let seqs = [
                    a.push(1, &[t.insert(1, "a")])?,
                    b.push(1, &[t.insert(2, "b")])?,
                    b.push(2, &[t.insert(3, "c")])?,
                    a.push(2, &[t.insert(4, "d")])?,
                ]
                .map(|c| c.seq);
                want!(seqs == [1, 2, 3, 4], "bundle_seq counts over all sources without a gap", "{seqs:?}");
                a.audit()
            },
        ),
        Check::must(
            "push.sequence.not_consumed",
            "refused, deleted and conflicting pushes do not consume the id",
            &["ref.3.2.not_consumed", "seed.push_delete"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.create(1, 1)?;
                d.delete(&format!("/sync/push-sessions/{push}"))?.done()?;
                let push = d.stage(1, &[t.update(1, 3, "x")])?;
                d.commit_reply(&push)?.refused(409, &["push_conflict"])?;
                let push = d.create(1, 2)?;
                d.commit_reply(&push)?.refused(400, &["push_commit_invalid"])?;
                want!(d.push(1, &[t.insert(1, "a")])?.seq == 1, "no bundle_seq was lost", "another bundle");
                Ok(())
            },
        ),
        Check::must(
            "push.already_committed",
            "a committed tuple answers with its bundle",
            &["seed.create.already_committed", "spec.1.tuple"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let (one, two) = (d.push(1, &[t.insert(1, "a")])?, d.push(2, &[t.insert(2, "b"), t.insert(3, "c")])?);
                for _ in 0..2 {
                    committed_already(&d.create_reply(1, 1)?, &one)?;
                    committed_already(&d.create_reply(2, 2)?, &two)?;
                }
                // The number of rows is not part of the tuple.
                committed_already(&d.create_reply(2, 7)?, &two)?;
                want!(d.pull("")?.seqs() == [1, 2], "nothing was committed twice", "other bundles");
                Ok(())
            },
        ),
        Check::must(
            "push.already_committed.own",
            "another source's tuple is not already committed",
            &["spec.1.tuple", "ref.3.2.own"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                d.push(1, &[t.insert(1, "a")])?;
                d.source("device-b").create(1, 1)?;
                lab.ready()?.create(1, 1).map(drop)
            },
        ),
    ]
}

fn chunk() -> Vec<Check> {
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

/// Every use of a session by its id: {chunk, commit, delete} × {unknown, malformed, foreign, other source, expired, done}.
fn sessions() -> Vec<Check> {
    vec![
        Check::must(
            "push.chunk.unknown",
            "an unknown session takes no chunk",
            &["seed.chunk.push_session_not_found"],
            |lab| chunk_of(&lab.ready()?, UNKNOWN)?.refused(404, &["push_session_not_found"]).map(drop),
        ),
        Check::must(
            "push.commit.unknown",
            "an unknown session cannot be committed",
            &["seed.commit.push_session_not_found"],
            |lab| lab.ready()?.commit_reply(UNKNOWN)?.refused(404, &["push_session_not_found"]).map(drop),
        ),
        Check::must(
            "push.delete.unknown",
            "an unknown session cannot be deleted",
            &["seed.push_delete", "seed.chunk.push_session_not_found"],
            |lab| delete_of(&lab.ready()?, UNKNOWN)?.refused(404, &["push_session_not_found"]).map(drop),
        ),
        Check::must(
            "push.chunk.malformed_id",
            "a malformed push_id takes no chunk",
            &["spec.3.path_ids", "seed.chunk.push_session_not_found"],
            |lab| chunk_of(&lab.ready()?, MALFORMED)?.refused(404, &["push_session_not_found"]).map(drop),
        ),
        Check::must(
            "push.commit.malformed_id",
            "a malformed push_id cannot be committed",
            &["spec.3.path_ids", "seed.commit.push_session_not_found"],
            |lab| lab.ready()?.commit_reply(MALFORMED)?.refused(404, &["push_session_not_found"]).map(drop),
        ),
        Check::must("push.delete.malformed_id", "a malformed push_id cannot be deleted", &["spec.3.path_ids"], |lab| {
            delete_of(&lab.ready()?, MALFORMED)?.refused(404, &["push_session_not_found"]).map(drop)
        }),
        Check::must(
            "push.chunk.foreign",
            "another user's session takes no chunk",
            &["seed.chunk.push_session_forbidden", "spec.3.foreign", "spec.1.isolation"],
            |lab| {
                let (a, b) = (lab.ready()?, lab.ready()?);
                let push = a.create(1, 1)?;
                chunk_of(&b, &push)?.refused(403, &["push_session_forbidden"])?;
                chunk_of(&a, &push)?.ok().map(drop)
            },
        ),
        Check::must(
            "push.commit.foreign",
            "another user's session cannot be committed",
            &["seed.commit.push_session_forbidden", "spec.3.foreign", "spec.1.isolation"],
            |lab| {
                let (a, b, t) = (lab.ready()?, lab.ready()?, lab.plain()?);
                let push = a.stage(1, &[t.insert(1, "a")])?;
                b.commit_reply(&push)?.refused(403, &["push_session_forbidden"])?;
                want!(a.pull("")?.stable == 0 && b.pull("")?.stable == 0, "nothing was committed", "a bundle");
                a.commit(&push).map(drop)
            },
        ),
        Check::must(
            "push.delete.foreign",
            "another user's session cannot be deleted",
            &["spec.3.foreign", "spec.1.isolation"],
            |lab| {
                let (a, b, t) = (lab.ready()?, lab.ready()?, lab.plain()?);
                let push = a.stage(1, &[t.insert(1, "a")])?;
                delete_of(&b, &push)?.refused(403, &["push_session_forbidden"])?;
                a.commit(&push).map(drop)
            },
        ),
        Check::should(
            "push.chunk.other_source",
            "another source's session takes no chunk",
            &["spec.6.owner"],
            "a device can spoil the push of another",
            |lab| {
                let a = lab.ready()?;
                let push = a.create(1, 1)?;
                chunk_of(&a.source("device-b"), &push)?.refused(403, &["push_session_forbidden"]).map(drop)
            },
        ),
        Check::should(
            "push.commit.other_source",
            "another source's session cannot be committed",
            &["spec.6.owner"],
            "a device can commit what another is still thinking about",
            |lab| {
                let (a, t) = (lab.ready()?, lab.plain()?);
                let push = a.stage(1, &[t.insert(1, "a")])?;
                a.source("device-b").commit_reply(&push)?.refused(403, &["push_session_forbidden"]).map(drop)
            },
        ),
        Check::should(
            "push.delete.other_source",
            "another source's session cannot be deleted",
            &["spec.6.owner"],
            "a device can throw away the push of another",
            |lab| {
                let a = lab.ready()?;
                let push = a.create(1, 1)?;
                delete_of(&a.source("device-b"), &push)?.refused(403, &["push_session_forbidden"]).map(drop)
            },
        ),
        Check::must(
            "push.delete.gone",
            "a deleted session is gone",
            &["seed.push_delete", "seed.commit.push_session_not_found"],
            |lab| {
                let (d, t) = (lab.ready()?, lab.plain()?);
                let push = d.stage(1, &[t.insert(1, "a")])?;
                delete_of(&d, &push)?.done()?;
                chunk_of(&d, &push)?.refused(404, &["push_session_not_found"])?;
                d.commit_reply(&push)?.refused(404, &["push_session_not_found"])?;
                delete_of(&d, &push)?.refused(404, &["push_session_not_found"])?;
                want!(d.state()?.is_empty(), "nothing of a deleted session gets in", "rows");
                Ok(())
            },
        ),
        Check::must("push.delete.committed", "a committed session is gone", &["seed.push_delete"], |lab| {
            let (d, t) = (lab.ready()?, lab.plain()?);
            let push = d.stage(1, &[t.insert(1, "a")])?;
            d.commit(&push)?;
            delete_of(&d, &push)?.refused(404, &["push_session_not_found"])?;
            chunk_of(&d, &push)?.refused(404, &["push_session_not_found"])?;
            want!(d.pull("")?.seqs() == [1], "the bundle stays", "another history");
            Ok(())
        }),
        Check::must(
            "push.expired",
            "an expired session takes no chunk and cannot be committed",
            &["seed.chunk.push_session_expired", "seed.commit.push_session_expired"],
            |lab| {
                let (d, t, ttl) = (lab.ready()?, lab.plain()?, lab.short("push_session_ttl_seconds")?);
                let push = d.create(1, 2)?;
                d.chunk(&push, 0, &[t.insert(1, "a")])?;
                lab.wait(ttl + super::MARGIN)?;
                // Swept sessions of a busy backend are unknown.
                for reply in [d.upload(&push, 1, &[t.insert(2, "b")])?, d.commit_reply(&push)?, delete_of(&d, &push)?] {
                    if reply.status == 404 {
                        reply.refused(404, &["push_session_not_found"])?
                    } else {
                        reply.refused(410, &["push_session_expired"])?
                    };
                }
                want!(d.state()?.is_empty(), "nothing of an expired session gets in", "rows");
                want!(d.push(1, &[t.insert(1, "a")])?.seq == 1, "the id was not consumed", "another bundle");
                Ok(())
            },
        )
        .slow(),
    ]
}

fn chunk_of(d: &Device<'_>, push: &str) -> Checked<Reply> {
    d.upload(push, 0, &[d.lab.plain()?.insert(1, "a")])
}

fn delete_of(d: &Device<'_>, push: &str) -> Checked<Reply> {
    d.delete(&format!("/sync/push-sessions/{push}"))
}

fn invalid(d: &Device<'_>, body: &str) -> Checked {
    d.post("/sync/push-sessions", body)?.refused(400, &["push_session_invalid"])?;
    d.create(1, 1).map(drop)
}

fn unreadable(d: &Device<'_>, body: &str) -> Checked {
    d.post("/sync/push-sessions", body)?.refused(400, &["push_session_invalid", "invalid_request"])?;
    d.create(1, 1).map(drop)
}

/// The reply to the creation of a committed tuple.
pub(super) fn committed_already(reply: &Reply, c: &crate::calls::Committed) -> Checked {
    let json = reply.ok()?;
    let status = reply.need_text(&json, "status")?;
    want!(status == "already_committed", "a committed tuple has the status already_committed", "{}", reply.came());
    want!(json.get("push_id").is_none(), "already_committed has no push_id", "{}", reply.came());
    let found = read_committed(reply, &json)?;
    want!(found == *c, "already_committed repeats what the commit said", "{found:?}, the commit said {c:?}");
    Ok(())
}
