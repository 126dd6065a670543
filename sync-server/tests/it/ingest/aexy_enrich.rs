//! What is done of events once they were taken, on a server whose clock the test moves.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;
use sync_server::ingest::{Enrich, Run};

use super::aexy_limits::Served;
use super::aexy_world::enrol;

/// Tells each run, and fails or panics at first.
#[derive(Debug)]
struct Telling {
    runs: Mutex<Sender<Run>>,
    fails: AtomicU32,
}

impl Enrich for Telling {
    fn enrich(&self, run: &Run) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.runs.lock().unwrap().send(run.clone()).unwrap();
        match self.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
            Ok(2) => panic!("on purpose"),
            Ok(_) => Err("on purpose".into()),
            Err(_) => Ok(()),
        }
    }
}

fn telling(fails: u32) -> (Arc<dyn Enrich>, Receiver<Run>) {
    let (runs, told) = channel();
    (Arc::new(Telling { runs: Mutex::new(runs), fails: fails.into() }), told)
}

fn next(told: &Receiver<Run>) -> (String, i64) {
    let run = told.recv_timeout(Duration::from_secs(60)).expect("no run");
    assert_eq!(run.user.as_str(), "ada");
    (run.binding, run.slot)
}

/// The samples of each span, and the first minute that is queued.
fn derived(served: &Served) -> (Vec<i64>, i64) {
    let mut scopes = std::fs::read_dir(served.dir.path().join("scopes")).unwrap().map(|e| e.unwrap().path());
    let conn = Connection::open(scopes.find(|p| p.extension().is_some_and(|e| e == "db")).unwrap()).unwrap();
    let mut s = conn.prepare("SELECT samples FROM _sync_ingest_span ORDER BY from_ms").unwrap();
    let spans = s.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect();
    (spans, conn.query_row("SELECT min(slot) FROM _sync_ingest_hook", [], |r| r.get(0)).unwrap())
}

#[test]
fn ax_30_one_run_for_a_project_and_a_minute_until_it_is_done() {
    let (enrich, told) = telling(2);
    let mut s = Served::new(|options| options.enrich = Some(enrich));
    let p = s.project("p");
    enrol(&s.client("ada"), "mac", &p);
    let minute = |s: &Served| sync_server::service::Environment::now_ms(&*s.environment) / 60_000;
    let first = minute(&s);
    for n in 0..10 {
        assert_eq!(s.send("mac", &[n]).status, 200);
        s.environment.pass(1000);
    }
    assert_eq!(s.send("mac", &[3]).status, 200, "nothing new");
    assert_eq!(minute(&s), first);
    assert!(told.try_recv().is_err(), "the minute is not over");
    s.environment.pass(60_000);
    assert_eq!(s.send("mac", &[10]).status, 200);
    assert_eq!(next(&told), (p.clone(), first), "it panicked");
    s.environment.pass(300_000);
    assert_eq!(s.send("mac", &[11]).status, 200);
    assert_eq!(next(&told), (p.clone(), first), "it failed");
    assert_eq!(next(&told), (p.clone(), first + 1));
    s.environment.pass(300_000);
    assert_eq!(s.send("mac", &[12]).status, 200);
    let rest: Vec<i64> = (0..2).map(|_| next(&told).1).collect();
    assert_eq!(rest, [first, first + 6], "what failed, and what came meanwhile");
    s.environment.pass(60_000);
    assert_eq!(s.send("mac", &[13]).status, 200);
    assert_eq!(next(&told), (p.clone(), first + 11));
    // That one has begun, so those before it are off the queue.
    let (spans, queued) = derived(&s);
    assert_eq!(spans, [11, 1, 2], "computed again and again, and there once");
    assert!(queued >= first + 11, "{queued} {first}");
    // Cut off in the midst of a minute: it is found when the server starts.
    s.stop();
    // Until nobody has it any more: a run may be under way.
    while told.recv_timeout(Duration::from_secs(60)).is_ok() {}
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sync-server"));
    command.args(["projects", "spans", "--user", "ada", "--json", "--project", &p, "--data"]).arg(s.dir.path());
    let shown: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let first_id = super::aexy_world::id(0);
    assert_eq!((&shown[0]["key"], &shown[0]["bundle_id"]), (&format!("tracker:{first_id}").into(), &"b".into()));
    assert_eq!((&shown[0]["seconds"], &shown[0]["samples"]), (&(11 * 60).into(), &11.into()));
    s.environment.pass(60_000);
    let (enrich, told) = telling(0);
    s.start(|options| options.enrich = Some(enrich));
    assert!(std::iter::from_fn(|| Some(next(&told))).any(|run| run == (p.clone(), first + 12)));
}
