//! Kills at random moments, while both devices watch and the app writes to both files.

use std::time::Duration;

use crate::Outcome;
use crate::check::{check, latest};
use crate::model::Batch;
use crate::process::Process;
use crate::tally::Tally;
use crate::world::{World, file_of};

/// The devices' names, by index.
const NAMES: [&str; 2] = ["a", "b"];
const PHASE: &str = "at random, while watching";
/// Rounds between two checks of everything.
const LEG: u32 = 20;
/// The longest that a kill waits for something to be said.
const MOMENT: Duration = Duration::from_millis(250);

/// `SplitMix64`.
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap_or(0)
    }
}

/// Runs the rounds, and checks everything now and then.
pub(crate) fn run(world: &mut World, tally: &mut Tally, rounds: u32, seed: u64) -> Outcome<()> {
    for process in ["a", "b", "server"] {
        tally.expect(PHASE, process);
    }
    let mut random = Random(seed);
    let mut done = 0;
    while done < rounds {
        let leg = LEG.min(rounds - done);
        let mut watches = watching(world)?;
        for round in 0..leg {
            self::round(world, tally, &mut random, &mut watches)
                .map_err(|e| format!("seed {seed}, round {}: {e}", done + round + 1))?;
        }
        drop(watches);
        done += leg;
        world.settle()?;
        check(world).map_err(|e| format!("seed {seed}, after round {done}: {e}"))?;
    }
    Ok(())
}

/// Both devices, watching.
pub(crate) fn watching(world: &World) -> Outcome<Vec<Process>> {
    NAMES.iter().map(|name| watch(world, name)).collect()
}

/// One device, watching.
pub(crate) fn watch(world: &World, name: &str) -> Outcome<Process> {
    world.start_client(&["watch", &file_of(name), "--json"], None)
}

fn round(world: &mut World, tally: &mut Tally, random: &mut Random, watches: &mut [Process]) -> Outcome<()> {
    for _ in 0..=random.below(5) {
        let batch = Batch { fresh: random.below(120), shared: random.below(2) == 0, tangled: true };
        world.edit(random.below(2), batch)?;
        watches[random.below(2)].hear(random.below(4), MOMENT);
    }
    // Sometimes in the midst of a sync, sometimes just after a write.
    watches[random.below(2)].hear(random.below(6), MOMENT);
    let moment = Duration::from_micros(random.next() % 20_000);
    watches[0].hear(usize::MAX, moment);
    let victim = random.below(3);
    if let Some(name) = NAMES.get(victim) {
        let fresh = watch_again(world, &mut watches[victim], name)?;
        tally.kill(PHASE, name, fresh);
    } else {
        let running = world.kill_server()?;
        let open = std::fs::read_dir(world.dir.path().join("data/pushes"))?.next().is_some();
        let work = open || world.in_flight("a", 0)? || world.in_flight("b", 0)?;
        tally.kill(PHASE, "server", running && work);
        world.start_server(None)?;
    }
    Ok(())
}

/// Kills a watch and starts another. Whether the first was at work.
fn watch_again(world: &World, slot: &mut Process, name: &str) -> Outcome<bool> {
    let running = slot.kill()?;
    let work = world.in_flight(name, latest(world)?)?;
    *slot = watch(world, name)?;
    Ok(running && work)
}
