//! The first-connect lifecycle.

use crate::check::Check;
use crate::lab::{Checked, Device, job, want};

pub(super) fn checks() -> Vec<Check> {
    vec![
        Check::must(
            "connect.first_empty",
            "the first source without rows initializes an empty scope",
            &["seed.connect.resolutions", "ref.2.3.first_empty"],
            |lab| {
                let d = lab.user()?;
                d.connect_as(false, "initialize_empty")?;
                want!(
                    d.pull("")?.stable == 0,
                    "a scope that was initialized empty stands at bundle 0",
                    "another bundle"
                );
                want!(d.state()?.is_empty(), "a scope that was initialized empty has no rows", "rows");
                Ok(())
            },
        ),
        Check::must(
            "connect.first_pending",
            "the first source with rows gets a lease",
            &["seed.connect.resolutions", "seed.connect.id", "ref.2.3.first_pending"],
            |lab| {
                let c = lab.user()?.connect_as(true, "initialize_local")?;
                let id = c.id.unwrap_or_default();
                want!(id.len() >= 16, "initialization_id cannot be guessed", "{id}");
                Ok(())
            },
        ),
        Check::must("connect.default", "a body without members has no pending rows", &["ref.2.3.first_empty"], |lab| {
            let reply = lab.user()?.post("/sync/connect", "{}")?;
            let json = reply.ok()?;
            want!(
                reply.need_text(&json, "resolution")? == "initialize_empty",
                "{} has no pending rows",
                "{}",
                reply.came()
            );
            Ok(())
        }),
        Check::must(
            "connect.initialized.without_rows",
            "an initialized scope is remote_authoritative for a source without rows",
            &["ref.2.3.initialized"],
            |lab| {
                let d = lab.ready()?;
                d.connect_as(false, "remote_authoritative")?;
                d.source("device-b").connect_as(false, "remote_authoritative").map(drop)
            },
        ),
        Check::must(
            "connect.initialized.with_rows",
            "an initialized scope is remote_authoritative for a source with rows",
            &["ref.2.3.initialized"],
            |lab| {
                let d = lab.ready()?;
                d.connect_as(true, "remote_authoritative")?;
                d.source("device-b").connect_as(true, "remote_authoritative").map(drop)
            },
        ),
        Check::must(
            "connect.again",
            "the seeding source keeps its id and renews its lease",
            &["ref.2.3.again"],
            |lab| {
                let d = lab.user()?;
                let (a, b) = (d.connect_as(true, "initialize_local")?, d.connect_as(true, "initialize_local")?);
                want!(a.id == b.id, "a reconnect keeps the initialization_id", "{} then {}", a.body, b.body);
                want!(not_before(b.lease, a.lease), "a reconnect renews the lease", "{} then {}", a.body, b.body);
                Ok(())
            },
        ),
        Check::must(
            "connect.gives_up",
            "the seeding source without rows initializes an empty scope",
            &["ref.2.3.gives_up"],
            |lab| {
                let d = lab.user()?;
                d.connect_as(true, "initialize_local")?;
                d.connect_as(false, "initialize_empty")?;
                d.source("device-b").connect_as(true, "remote_authoritative").map(drop)
            },
        ),
        Check::must(
            "connect.other.with_rows",
            "another source with rows is told to come later",
            &["seed.connect.retry_later", "ref.2.3.other"],
            |lab| later(&lab.user()?, true),
        ),
        Check::must(
            "connect.other.without_rows",
            "another source without rows is told to come later",
            &["seed.connect.retry_later", "ref.2.3.other"],
            |lab| later(&lab.user()?, false),
        ),
        Check::should(
            "connect.retry_after",
            "retry_later says how long to wait",
            &["ref.2.3.other"],
            "devices ask again too often, or too late",
            |lab| {
                let d = lab.user()?;
                d.connect_as(true, "initialize_local")?;
                let c = d.source("device-b").connect_as(false, "retry_later")?;
                want!(c.body.get("retry_after_seconds").is_some(), "retry_later has retry_after_seconds", "{}", c.body);
                Ok(())
            },
        ),
        Check::must(
            "connect.seeded",
            "after the seed commit the scope is remote_authoritative",
            &["seed.connect.id", "ref.2.4.one_seed", "ref.2.3.initialized"],
            |lab| {
                let d = lab.user()?;
                let c = seed(&d)?;
                want!(c.seq == 1, "the seed is bundle 1", "{c:?}");
                d.connect_as(true, "remote_authoritative")?;
                d.source("device-b").connect_as(false, "remote_authoritative")?;
                let t = lab.plain()?;
                want!(
                    d.push(2, &[t.insert(2, "b")])?.seq == 2,
                    "the push after the seed needs no id",
                    "another bundle"
                );
                d.audit()
            },
        ),
        Check::must(
            "connect.race",
            "of two first sources with rows exactly one seeds",
            &["ref.2.3.first_pending", "ref.2.3.other"],
            |lab| {
                let a = lab.user()?;
                let b = a.source("device-b");
                let results = lab.together(vec![job(|| a.connect(true)), job(|| b.connect(true))]);
                let mut said = Vec::new();
                for r in results {
                    said.push(r?.resolution);
                }
                said.sort();
                want!(
                    said == ["initialize_local", "retry_later"],
                    "one initialize_local and one retry_later",
                    "{said:?}"
                );
                Ok(())
            },
        ),
        Check::must(
            "connect.body_source",
            "a source_id in the body is ignored",
            &["spec.3.unknown_members", "seed.auth.source"],
            |lab| {
                let d = lab.user()?;
                d.post("/sync/connect", r#"{"has_local_pending_rows":true,"source_id":"device-b"}"#)?.ok()?;
                d.connect_as(true, "initialize_local")?;
                d.source("device-b").connect_as(true, "retry_later").map(drop)
            },
        ),
        Check::must("connect.unknown_members", "unknown members are ignored", &["spec.3.unknown_members"], |lab| {
            lab.user()?.post("/sync/connect", r#"{"has_local_pending_rows":false,"future":{"a":[1]}}"#)?.ok().map(drop)
        }),
        Check::should(
            "connect.null",
            "null stands for an absent member",
            &["ref.2.3.first_empty"],
            "clients whose encoders write null cannot connect",
            |lab| lab.user()?.post("/sync/connect", r#"{"has_local_pending_rows":null}"#)?.ok().map(drop),
        ),
        Check::must(
            "connect.malformed",
            "malformed JSON is refused",
            &["seed.connect.connect_invalid", "spec.3.malformed"],
            |lab| bad(&lab.user()?, "{\"has_local_pending_rows\":"),
        ),
        Check::must(
            "connect.empty_body",
            "an empty body is refused",
            &["seed.connect.connect_invalid", "spec.3.malformed"],
            |lab| bad(&lab.user()?, ""),
        ),
        Check::must(
            "connect.wrong_type",
            "pending rows that are no boolean are refused",
            &["seed.connect.connect_invalid", "spec.3.malformed"],
            |lab| bad(&lab.user()?, r#"{"has_local_pending_rows":"yes"}"#),
        ),
        Check::must(
            "connect.array",
            "an array is refused",
            &["seed.connect.connect_invalid", "spec.3.malformed"],
            |lab| bad(&lab.user()?, "[true]"),
        ),
        Check::should(
            "connect.trailing",
            "a second document after the first is refused",
            &["spec.3.strict_json"],
            "a garbled request is half understood",
            |lab| bad(&lab.user()?, "{} {}"),
        ),
        Check::should(
            "connect.duplicate",
            "duplicate members are refused",
            &["spec.3.strict_json"],
            "two readers of one request disagree on what it says",
            |lab| bad(&lab.user()?, r#"{"has_local_pending_rows":true,"has_local_pending_rows":false}"#),
        ),
        Check::should(
            "connect.deep",
            "nesting over 64 is refused",
            &["spec.3.strict_json"],
            "a small request can exhaust the server's stack",
            |lab| bad(&lab.user()?, &format!("{{\"x\":{}{}}}", "[".repeat(100), "]".repeat(100))),
        ),
        Check::must(
            "connect.refused_changes_nothing",
            "a refused connect leaves the scope as it was",
            &["seed.connect.connect_invalid"],
            |lab| {
                let d = lab.user()?;
                bad(&d, r#"{"has_local_pending_rows":1"#)?;
                d.pull_reply("")?.refused(409, &["scope_uninitialized"])?;
                d.connect_as(true, "initialize_local").map(drop)
            },
        ),
        Check::may("connect.scope_id", "scope_id is stable and the same everywhere", &["spec.6.scope_id"], |lab| {
            let d = lab.ready()?;
            let c = d.connect(false)?;
            let Some(id) = c.body.get("scope_id") else { return crate::lab::not_offered("connect has no scope_id") };
            let again = d.source("device-b").connect(true)?;
            want!(
                again.body.get("scope_id") == Some(id),
                "scope_id is the same for every source",
                "{} then {}",
                c.body,
                again.body
            );
            let capabilities = d.get("/sync/capabilities")?.ok()?;
            want!(
                capabilities.get("scope_id") == Some(id),
                "scope_id is the same in capabilities",
                "{} and {capabilities}",
                c.body
            );
            let other = lab.ready()?.connect(false)?;
            want!(
                other.body.get("scope_id").is_some_and(|o| o != id),
                "another user has another scope_id",
                "{}",
                other.body
            );
            Ok(())
        }),
        Check::must(
            "connect.expired.fresh_id",
            "after its lease lapsed a source gets a fresh id",
            &["ref.2.3.lapsed"],
            |lab| {
                let d = lab.user()?;
                let ttl = lab.short("initialization_lease_ttl_seconds")?;
                let a = d.connect_as(true, "initialize_local")?;
                lab.wait(ttl + super::MARGIN)?;
                let b = d.connect_as(true, "initialize_local")?;
                want!(a.id != b.id, "a lapsed lease is not continued", "{} then {}", a.body, b.body);
                Ok(())
            },
        )
        .slow(),
        Check::must(
            "connect.expired.other",
            "after a lapsed lease another source may seed, and the old one is refused",
            &[
                "ref.2.3.lapsed",
                "seed.chunk.initialization_stale",
                "seed.commit.initialization_stale",
                "seed.create.initialization_stale",
            ],
            |lab| {
                let t = lab.plain()?;
                let (a, ttl) = (lab.user()?, lab.short("initialization_lease_ttl_seconds")?);
                let lease = a.connect_as(true, "initialize_local")?.id.unwrap_or_default();
                let push = a.create_seed(1, 2, &lease)?;
                a.chunk(&push, 0, &[t.insert(1, "a")])?;
                lab.wait(ttl + super::MARGIN)?;
                let b = a.source("device-b");
                b.connect_as(true, "initialize_local")?;
                a.create_seed_reply(1, 1, &lease)?.refused(409, &["initialization_stale"])?;
                // Sessions may run out with the lease.
                let reply = a.upload(&push, 1, &[t.insert(2, "b")])?;
                refused_late(&reply)?;
                refused_late(&a.commit_reply(&push)?)
            },
        )
        .slow(),
        Check::must(
            "connect.expired.nobody",
            "after a lapsed lease nothing of the seed gets in",
            &[
                "seed.create.initialization_expired",
                "seed.chunk.initialization_expired",
                "seed.commit.initialization_expired",
            ],
            |lab| {
                let t = lab.plain()?;
                let (a, ttl) = (lab.user()?, lab.short("initialization_lease_ttl_seconds")?);
                let lease = a.connect_as(true, "initialize_local")?.id.unwrap_or_default();
                let push = a.create_seed(1, 1, &lease)?;
                a.chunk(&push, 0, &[t.insert(1, "a")])?;
                lab.wait(ttl + super::MARGIN)?;
                refused_late(&a.upload(&push, 1, &[t.insert(2, "b")])?)?;
                refused_late(&a.commit_reply(&push)?)?;
                a.create_seed_reply(1, 1, &lease)?.refused(410, &["initialization_expired"])?;
                a.create_reply(1, 1)?.refused(409, &["scope_uninitialized"])?;
                a.pull_reply("")?.refused(409, &["scope_uninitialized"]).map(drop)
            },
        )
        .slow(),
        Check::must(
            "connect.expired.renewed",
            "create and chunks renew the lease",
            &["ref.2.3.again", "ref.3.1.refreshed"],
            |lab| {
                let t = lab.plain()?;
                let (a, ttl) = (lab.user()?, lab.short("initialization_lease_ttl_seconds")?);
                let lease = a.connect_as(true, "initialize_local")?.id.unwrap_or_default();
                lab.wait(ttl * 6 / 10)?;
                let push = a.create_seed(1, 2, &lease)?;
                lab.wait(ttl * 6 / 10)?;
                a.chunk(&push, 0, &[t.insert(1, "a")])?;
                lab.wait(ttl * 6 / 10)?;
                a.chunk(&push, 1, &[t.insert(2, "b")])?;
                want!(a.commit(&push)?.seq == 1, "a seed that goes on is committed", "another bundle");
                Ok(())
            },
        )
        .slow(),
    ]
}

/// Seeds the scope with one row.
pub(super) fn seed(d: &Device<'_>) -> Checked<crate::calls::Committed> {
    let t = d.lab.plain()?;
    let lease = d.connect_as(true, "initialize_local")?.id.unwrap_or_default();
    let push = d.create_seed(1, 1, &lease)?;
    d.chunk(&push, 0, &[t.insert(1, "seed")])?;
    d.commit(&push)
}

/// Whether a lease ends no earlier than it was said to; a clock may be told in milliseconds and in finer parts.
fn not_before(said: Option<jiff::Timestamp>, before: Option<jiff::Timestamp>) -> bool {
    said.zip(before).is_some_and(|(said, before)| said.as_millisecond() >= before.as_millisecond() - 1)
}

fn later(d: &Device<'_>, pending: bool) -> Checked {
    let a = d.connect_as(true, "initialize_local")?;
    let b = d.source("device-b").connect_as(pending, "retry_later")?;
    want!(not_before(b.lease, a.lease), "retry_later says until when the lease runs", "{} for {}", b.body, a.body);
    d.connect_as(true, "initialize_local").map(drop)
}

fn bad(d: &Device<'_>, body: &str) -> Checked {
    d.post("/sync/connect", body)?.refused(400, &["connect_invalid", "invalid_request"]).map(drop)
}

/// A seeding request after the lease lapsed: refused for its lease, or for its session, which may
/// have run out and been swept meanwhile.
fn refused_late(reply: &crate::lab::Reply) -> Checked {
    match reply.status {
        409 => reply.refused(409, &["initialization_stale"]).map(drop),
        404 => reply.refused(404, &["push_session_not_found"]).map(drop),
        _ => reply.refused(410, &["initialization_expired", "push_session_expired"]).map(drop),
    }
}
