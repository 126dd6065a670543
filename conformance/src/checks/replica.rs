//! Real devices on the backend: files that are synced by `sync-client`. In programs that are built with
//! the feature `replica`.

use crate::check::Check;
use crate::lab::{Checked, Lab};

pub(super) fn checks() -> Vec<Check> {
    vec![
        Check::must(
            "replica.converge.rows",
            "what one device writes into any table arrives on another, value by value",
            &["seed.commit.atomic", "seed.pull.complete", "spec.4.text"],
            |lab| run(lab, Story::Rows),
        )
        .slow(),
        Check::must(
            "replica.converge.links",
            "devices that add and delete parents and children end alike",
            &["ref.3.7.cascade", "ref.3.5.order", "seed.pull.complete"],
            |lab| run(lab, Story::Links),
        )
        .slow(),
        Check::must(
            "replica.converge.random",
            "three devices that write and sync at random end alike",
            &["seed.pull.complete", "seed.commit.push_conflict", "spec.1.version", "spec.1.tuple"],
            |lab| run(lab, Story::Random),
        )
        .slow(),
        Check::must(
            "replica.converge.together",
            "three devices that write and sync at the same time end alike",
            &["seed.commit.atomic", "spec.1.sequence", "spec.1.tuple"],
            |lab| run(lab, Story::Together),
        )
        .slow(),
        Check::must(
            "replica.converge.joined",
            "a device that comes later has what the others have, and brings its own rows",
            &["seed.snapshot.reply", "ref.6.2.live", "ref.2.3.initialized"],
            |lab| run(lab, Story::Joined),
        )
        .slow(),
    ]
}

/// What the devices do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Story {
    /// One writes, syncs, writes again; the other only syncs.
    Rows,
    /// Two write along the foreign keys.
    Links,
    /// Three write and sync in any order.
    Random,
    /// Three write and sync, each on a thread.
    Together,
    /// A new file and a file with rows join.
    Joined,
}

/// Whether this program has the devices. Where it has not, these checks are not chosen.
pub const REPLICA: bool = cfg!(feature = "replica");

#[cfg(feature = "replica")]
fn run(lab: &Lab<'_>, story: Story) -> Checked {
    crate::replica::run(lab, story)
}

#[cfg(not(feature = "replica"))]
fn run(_: &Lab<'_>, _: Story) -> Checked {
    Err(crate::lab::Stop::Inconclusive("this program was built without the feature replica".to_owned()))
}
