//! Whether the simulator would notice: the client is broken on purpose, and some seed has to break an invariant.

use sync_client::mutant::{Mutant, choose};

use crate::generate;
use crate::run::run;
use crate::world::Violation;

/// How a mutant was found.
#[derive(Debug)]
pub struct Found {
    /// The first seed that breaks an invariant, counted from 1.
    pub seed: u64,
    /// What it breaks.
    pub violation: Violation,
}

/// Runs seeds from 1 on with this fault in the client until one breaks an invariant that holds without it.
#[must_use]
pub fn find(mutant: Mutant, seeds: u64) -> Option<Found> {
    (1..=seeds).find_map(|seed| {
        let plan = generate::plan(seed);
        choose(Some(mutant));
        let broken = run(&plan, false).violation;
        choose(None);
        broken.filter(|_| run(&plan, false).violation.is_none()).map(|violation| Found { seed, violation })
    })
}
