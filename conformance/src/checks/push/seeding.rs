//! Push sessions while a scope is being seeded.

use super::*;

pub(super) fn seeding() -> Vec<Check> {
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
