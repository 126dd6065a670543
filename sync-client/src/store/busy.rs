//! Waiting for the write lock, also beside an app that commits without pause.
//!
//! SQLite's own wait grows to a tenth of a second between two looks; beside a writer that takes the lock again at once
//! it sees it free by luck only. This one looks about every millisecond, and says after a moment that it waits.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::calling;
use crate::context::Observer;
use crate::report::Event;

thread_local! {
    /// When the wait that is under way began.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Who is to hear that it waits, and of which file; taken by the first wait that is long enough.
    static HEARER: RefCell<Option<(Observer, String)>> = const { RefCell::new(None) };
}

/// Has this connection wait so.
pub(crate) fn wait_patiently(conn: &mut Connection) -> rusqlite::Result<()> {
    conn.busy_handler(Some(looked as fn(i32) -> bool))
}

/// What this thread's waits are told to, once, as long as it lives.
pub(crate) struct Hearer(());

/// Tells an observer of a wait for this file's lock.
pub(crate) fn tell(observer: Option<&Observer>, path: &Path) -> Hearer {
    HEARER.set(observer.map(|o| (Observer::clone(o), path.display().to_string())));
    Hearer(())
}

impl Drop for Hearer {
    fn drop(&mut self) {
        HEARER.set(None);
    }
}

/// What comes after a look in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Look,
    TellAndLook,
    GiveUp,
}

const fn next(waited: Duration, told: bool) -> Next {
    if waited.as_millis() >= LONGEST.as_millis() {
        Next::GiveUp
    } else if !told && waited.as_millis() >= UNTOLD.as_millis() {
        Next::TellAndLook
    } else {
        Next::Look
    }
}

/// Called by SQLite after each look in vain; false gives up.
fn looked(looks: i32) -> bool {
    let now = Instant::now();
    let began = BEGAN.get().filter(|_| looks > 0).unwrap_or(now);
    BEGAN.set(Some(began));
    let hearer = HEARER.take();
    match next(now - began, hearer.is_none()) {
        Next::GiveUp => return false,
        Next::Look => HEARER.set(hearer),
        Next::TellAndLook => {
            if let Some((observer, file)) = hearer {
                let message = format!("another program is writing to {file}, and this waits for its turn");
                calling::call(|| observer(&Event::Waiting { message, ms: None }));
            }
        }
    }
    // Not the same each time: a writer may have a beat of its own.
    std::thread::sleep(LOOK + Duration::from_micros(u64::from(looks.unsigned_abs() % 7) * 60));
    true
}

/// Between two looks.
const LOOK: Duration = Duration::from_micros(800);
/// A wait that is shorter is not worth a word.
const UNTOLD: Duration = Duration::from_millis(500);
/// After this the other one is taken to hang in a transaction.
const LONGEST: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decision_table() {
        let ms = Duration::from_millis;
        for (waited, told, expected) in [
            (ms(0), false, Next::Look),
            (ms(499), false, Next::Look),
            (ms(500), false, Next::TellAndLook),
            (ms(500), true, Next::Look),
            (ms(14_999), true, Next::Look),
            (ms(15_000), true, Next::GiveUp),
            (ms(15_000), false, Next::GiveUp),
        ] {
            assert_eq!(next(waited, told), expected, "{waited:?} {told}");
        }
        assert!(LOOK + Duration::from_micros(6 * 60) < ms(2), "looks come often");
    }
}
