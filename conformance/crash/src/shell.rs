//! The `sqlite3` shell writes to both files while both are synced: what it reports as done is done.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::check::{check, latest};
use crate::model::ShellWrite;
use crate::random::{watch, watching};
use crate::world::World;

/// Statements for each file.
const STATEMENTS: usize = 1500;
/// Longer than two devices take to be in step; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many statements were done, and in how many bundles they went; `None` where there is no `sqlite3`.
pub(crate) fn run(world: &mut World) -> Outcome<Option<(usize, i64)>> {
    if Command::new("sqlite3").arg("-version").output().is_err() {
        return Ok(None);
    }
    let before = latest(world)?;
    let mut watches = watching(world)?;
    let mut shells = Vec::new();
    for device in ["a", "b"] {
        let mut script = String::from(".bail on\n.timeout 5000\n");
        let mut writes = Vec::new();
        for n in 0..STATEMENTS {
            let (sql, write) = world.model.shell_write(device, n);
            // With `.bail on` this is only printed where the statement was done.
            script.push_str(&format!("{sql}\n.print done {}\n", write.stamp));
            writes.push(write);
        }
        let mut shell = Command::new("sqlite3")
            .args(["-init", "/dev/null"])
            .arg(world.path(device))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = shell.stdin.take().ok_or("no stdin")?;
        let feeding = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
        shells.push((shell, feeding, writes));
    }
    // Each process goes once, as soon as something of this was sent.
    watches[1].wait_for("\"committed\"")?;
    watches[0].kill()?;
    watches[0] = watch(world, "a")?;
    watches[0].wait_for("\"finished\"")?;
    world.kill_server()?;
    world.start_server(None)?;
    watches[1].kill()?;
    watches[1] = watch(world, "b")?;
    let mut done = 0;
    for (shell, feeding, writes) in shells {
        let output = shell.wait_with_output()?;
        // A shell that gave up reads no further, and what it did not report is not counted.
        drop(feeding.join());
        done += count(world, &String::from_utf8_lossy(&output.stdout), writes);
    }
    if done == 0 {
        return Err("the sqlite3 shell reported nothing as done".into());
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let newest = latest(world)?;
        if !world.in_flight("a", newest)? && !world.in_flight("b", newest)? {
            break;
        }
        if Instant::now() > until {
            return Err("the watching devices do not come in step".into());
        }
        watches[0].hear(1, Duration::from_millis(100));
    }
    drop(watches);
    let bundles = check(world)?.bundles - before;
    Ok(Some((done, bundles)))
}

fn count(world: &mut World, said: &str, writes: Vec<ShellWrite>) -> usize {
    let mut done = 0;
    let mut lines = said.lines();
    for write in writes {
        if lines.next() == Some(format!("done {}", write.stamp).as_str()) {
            world.model.shell_done(write);
            done += 1;
        }
    }
    done
}
