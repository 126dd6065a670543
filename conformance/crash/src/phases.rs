//! A kill in each named phase of each process, while the app goes on writing.

use crate::Outcome;
use crate::check::{check, history};
use crate::model::Batch;
use crate::process::Programs;
use crate::tally::Tally;
use crate::world::{World, file_of};

/// What makes a process reach a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Rows of several chunks wait to be sent.
    Push,
    /// Another device's rows wait to be fetched, and own ones to be sent.
    Pull,
    /// The same with a bundle that is too large to come in one piece.
    LargePull,
    /// `rebuild`, with rows that wait to be sent.
    Rebuild,
    /// `clone` into a new file.
    Clone,
}

/// Phases of the client.
const CLIENT: &[(&str, By)] = &[
    ("frozen", By::Push),
    ("uploading:2", By::Push),
    ("before_commit", By::Push),
    ("after_commit", By::Push),
    ("staged", By::Pull),
    ("applying", By::Pull),
    ("downloading", By::LargePull),
    ("downloading", By::Rebuild),
    ("rebuilding", By::Rebuild),
];

/// Phases of either in the first sync of all, which seeds the server under a lease.
const SEEDING: &[(&str, bool)] = &[
    ("frozen", false),
    ("uploading:2", false),
    ("before_commit", false),
    ("after_commit", false),
    ("after_chunk_stored", true),
    ("before_commit", true),
    ("after_commit", true),
];

/// Phases of the client that a new file goes through.
const FRESH: &[&str] = &["downloading", "rebuilding"];

/// Phases of the server.
const SERVER: &[(&str, By)] = &[
    ("before_chunk_stored", By::Push),
    ("after_chunk_stored", By::Push),
    ("before_commit", By::Push),
    ("after_commit", By::Push),
    ("mid_snapshot", By::Rebuild),
];

const FEW: Batch = Batch { fresh: 6, shared: true, tangled: false };
/// More than two chunks.
const SOME: Batch = Batch { fresh: 230, shared: false, tangled: false };
/// More than come with a pull unasked.
const MANY: Batch = Batch { fresh: 2300, shared: false, tangled: false };

/// In these a transaction of the client is open, and no other connection can write to its file.
const LOCKED: &[&str] = &["applying", "rebuilding"];

/// A kill in every phase; `victim` is the device that phases of the client are of this time.
pub(crate) fn run(world: &mut World, tally: &mut Tally, victim: usize) -> Outcome<()> {
    for (phase, by) in CLIENT {
        let label = label(phase, *by);
        for device in &world.devices {
            tally.expect(&label, device.name);
        }
        if both(*by, 1) {
            tally.expect(&label, "server");
        }
        kill_client(world, tally, phase, *by, victim).map_err(|e| format!("{label}, client {victim}: {e}"))?;
    }
    for phase in FRESH {
        let label = label(phase, By::Clone);
        tally.expect(&label, "c");
        kill_clone(world, tally, phase).map_err(|e| format!("{label}: {e}"))?;
    }
    for (phase, by) in SERVER {
        let label = format!("server {}", label(phase, *by));
        tally.expect(&label, "server");
        kill_server(world, tally, phase, *by).map_err(|e| format!("{label}: {e}"))?;
    }
    Ok(())
}

/// Kills in the first sync of all, each in a world of its own.
pub(crate) fn seeding(programs: &Programs, tally: &mut Tally) -> Outcome<()> {
    for (phase, server) in SEEDING {
        let process = if *server { "server" } else { "a" };
        let label = format!("seeding, {}{}", if *server { "server " } else { "" }, label(phase, By::Push));
        tally.expect(&label, process);
        let landed = kill_seeding(&mut World::unseeded(programs.clone())?, phase, *server);
        tally.kill(&label, process, landed.map_err(|e| format!("{label}: {e}"))?);
    }
    Ok(())
}

/// Whether the kill landed.
fn kill_seeding(world: &mut World, phase: &str, server: bool) -> Outcome<bool> {
    if server {
        world.kill_server()?;
        world.start_server(Some(phase))?;
    }
    let mut client = world.start_client(&["sync", "a.db"], (!server).then_some(phase))?;
    if server {
        world.server()?.wait_for("fault ")?
    } else {
        client.wait_for("fault ")?
    };
    let work = world.in_flight("a", 0)?;
    world.edit(0, FEW)?;
    let running = if server {
        let running = world.kill_server()?;
        client.end()?;
        world.start_server(None)?;
        running
    } else {
        client.kill()?
    };
    world.sync(0)?;
    world.join("b")?;
    world.edit(1, FEW)?;
    settled_within(world, 2, 3)?;
    Ok(running && work)
}

fn label(phase: &str, by: By) -> String {
    let name = phase.split(':').next().unwrap_or(phase);
    match by {
        By::Push => name.to_owned(),
        By::Pull | By::LargePull => format!("{name} (pull)"),
        By::Rebuild => format!("{name} (rebuild)"),
        By::Clone => format!("{name} (clone)"),
    }
}

/// Whether the server goes down with the client, so that neither remembers.
const fn both(by: By, victim: usize) -> bool {
    matches!(by, By::Push) && victim == 1
}

/// Makes work for `victim`; the bundles that it comes to, and the newest one.
fn prepare(world: &mut World, by: By, victim: usize) -> Outcome<(i64, i64)> {
    let other = 1 - victim;
    let mut bundles = 1;
    if by != By::Push {
        world.edit(other, if by == By::LargePull { MANY } else { SOME })?;
        world.sync(other)?;
        bundles += 1;
    }
    let latest = history(world)?.bundles;
    world.edit(victim, SOME)?;
    Ok((bundles, latest))
}

fn verb(by: By) -> &'static str {
    if by == By::Rebuild { "rebuild" } else { "sync" }
}

fn kill_client(world: &mut World, tally: &mut Tally, phase: &str, by: By, victim: usize) -> Outcome<()> {
    let before = history(world)?.bundles;
    let name = world.devices[victim].name;
    let (mut bundles, latest) = prepare(world, by, victim)?;
    let mut client = world.start_client(&[verb(by), &file_of(name)], Some(phase))?;
    client.wait_for("fault ")?;
    let work = world.in_flight(name, latest)?;
    world.edit(1 - victim, FEW)?;
    bundles += 1;
    let locked = LOCKED.contains(&phase);
    if !locked {
        world.edit(victim, FEW)?;
    }
    let running = client.kill()?;
    if locked {
        world.edit(victim, FEW)?;
    }
    // A rebuild sends nothing, so what was written before and after it goes together.
    bundles += i64::from(by != By::Rebuild);
    tally.kill(&label(phase, by), name, running && work);
    if both(by, victim) {
        let running = world.kill_server()?;
        tally.kill(&label(phase, by), "server", running && world.in_flight(name, latest)?);
        world.start_server(None)?;
    }
    world.sync(victim)?;
    settled(world, before + bundles)
}

fn kill_clone(world: &mut World, tally: &mut Tally, phase: &str) -> Outcome<()> {
    let before = history(world)?.bundles;
    world.edit(0, SOME)?;
    world.sync(0)?;
    let latest = before + 1;
    let url = world.url();
    let args = ["clone", &url, "c.db", "--token", crate::world::USER];
    let mut client = world.start_client(&args, Some(phase))?;
    client.wait_for("fault ")?;
    let work = world.in_flight("c", latest)?;
    world.open("c")?;
    world.edit(1, FEW)?;
    let locked = LOCKED.contains(&phase);
    if !locked {
        world.edit(2, FEW)?;
    }
    let running = client.kill()?;
    if locked {
        world.edit(2, FEW)?;
    }
    tally.kill(&label(phase, By::Clone), "c", running && work);
    world.client(&args)?;
    settled(world, latest + 2)?;
    world.devices.pop();
    for entry in std::fs::read_dir(world.dir.path())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("c.db") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Both clients are at work when the server goes.
fn kill_server(world: &mut World, tally: &mut Tally, phase: &str, by: By) -> Outcome<()> {
    let before = history(world)?.bundles;
    let (bundles, latest) = prepare(world, by, 0)?;
    world.kill_server()?;
    world.start_server(Some(phase))?;
    let a = world.start_client(&[verb(by), "a.db"], None)?;
    world.server()?.wait_for("fault ")?;
    let work = world.in_flight("a", latest)?;
    world.edit(1, FEW)?;
    let b = world.start_client(&["sync", "b.db"], None)?;
    world.edit(0, FEW)?;
    let running = world.kill_server()?;
    tally.kill(&format!("server {}", label(phase, by)), "server", running && work);
    for (name, client, may_be_done) in [("a", a, false), ("b", b, true)] {
        let ended = client.end()?;
        // Exit code 3: the server cannot be reached.
        if ended.code != Some(3) && !(may_be_done && ended.code == Some(0)) {
            return Err(format!("client {name} ended with {:?}: {}", ended.code, ended.stderr).into());
        }
    }
    world.start_server(None)?;
    world.sync(0)?;
    // What nothing of was taken goes back among the changes, before a pull is tried: the next edit may go with it.
    let most = before + bundles + 1 + i64::from(by != By::Rebuild);
    settled_within(world, most - 1, most)
}

/// Everything is in step again, by exactly as many bundles as the app wrote batches.
fn settled(world: &mut World, bundles: i64) -> Outcome<()> {
    settled_within(world, bundles, bundles)
}

/// The same by as many as this at least and at most.
fn settled_within(world: &mut World, least: i64, most: i64) -> Outcome<()> {
    world.settle()?;
    let history = check(world)?;
    if (least..=most).contains(&history.bundles) {
        return Ok(());
    }
    Err(format!("the server has {} bundles, not {least} to {most}", history.bundles).into())
}
