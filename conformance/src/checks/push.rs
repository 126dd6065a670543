//! Push sessions: creation, source sequences, chunks, deletion.

mod chunk;
mod seeding;
mod sequence;
mod sessions;

use crate::calls::committed_already;
use crate::check::Check;
use crate::lab::{Checked, Device, Reply, job, want};

const UNKNOWN: &str = "6df0d8dd-a84b-43b6-bbca-8de70432922a";
const MALFORMED: &str = "no-such-thing";

pub(super) fn checks() -> Vec<Check> {
    let mut all = create();
    all.extend(seeding::seeding());
    all.extend(sequence::sequence());
    all.extend(chunk::chunk());
    all.extend(sessions::sessions());
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
                for id in lab.together(jobs) {
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
