//! Conflicts that wait for the app's answer. They are put as questions while no transaction is open, may be answered
//! from any thread, and what comes after their time is told so.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::calling;
use crate::conflict::{Conflict, Function, Resolution};
use crate::error::Error;

/// A conflict that waits for the app to answer ([`crate::Policy::Ask`]). Meanwhile nothing is locked: the app may write,
/// also to this row, and is asked again then. Dropped without an answer, it is the file's policy that decides.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use sync_client::{Policy, Question, Resolution};
///
/// let waiting: Arc<Mutex<Vec<Question>>> = Arc::default();
/// let shown = Arc::clone(&waiting);
/// let policy = Policy::Ask(Arc::new(move |question| shown.lock().unwrap().push(question)));
/// // Later, on another thread, once somebody has looked at it:
/// for question in waiting.lock().unwrap().drain(..) {
///     println!("{} {}", question.conflict().table, question.conflict().key);
///     let in_time = question.answer(Resolution::KeepLocal);
///     println!("{}", if in_time { "taken" } else { "too late" });
/// }
/// # drop(policy);
/// ```
pub struct Question {
    conflict: Conflict,
    place: usize,
    round: u64,
    time: Duration,
    desk: Arc<Desk>,
}

impl Question {
    /// What met.
    #[must_use]
    pub const fn conflict(&self) -> &Conflict {
        &self.conflict
    }

    /// How long an answer is waited for, counted from when this was asked.
    #[must_use]
    pub const fn time(&self) -> Duration {
        self.time
    }

    /// Whether an answer is still waited for.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let state = self.desk.lock();
        state.round == self.round && state.replies.get(self.place).is_some_and(Option::is_none)
    }

    /// Answers. False where nobody waits any more: it is too late, or the sync was stopped and asks again. An answer that
    /// was in time is applied if both rows are still what they were; otherwise there is another question.
    #[expect(clippy::must_use_candidate, reason = "whoever comes too late may have nothing to do about it")]
    pub fn answer(self, resolution: Resolution) -> bool {
        self.reply(Reply::Answer(resolution))
    }

    fn reply(&self, reply: Reply) -> bool {
        let mut state = self.desk.lock();
        if state.round != self.round {
            return false;
        }
        let Some(place @ None) = state.replies.get_mut(self.place) else { return false };
        *place = Some(reply);
        state.left -= 1;
        if state.left == 0 {
            self.desk.changed.notify_all();
        }
        true
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // Does nothing where it was answered.
        self.reply(Reply::None);
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("conflict", &self.conflict).field("time", &self.time).finish_non_exhaustive()
    }
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Answer(Resolution),
    /// It was dropped.
    None,
    /// The function panicked.
    Panicked,
}

/// Where the questions of one file are put, one round of them at a time.
#[derive(Default)]
pub(crate) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    round: u64,
    replies: Vec<Option<Reply>>,
    /// Questions without a reply.
    left: usize,
    /// Whether the functions of the app are being called: also those of a round that is over.
    busy: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a round.
    pub(crate) fn put(self: &Arc<Self>, conflicts: &[Conflict], time: Duration) -> Vec<Question> {
        let mut state = self.lock();
        state.round += 1;
        state.replies = vec![None; conflicts.len()];
        state.left = conflicts.len();
        let question = |(place, conflict): (usize, &Conflict)| Question {
            conflict: conflict.clone(),
            place,
            round: state.round,
            time,
            desk: Arc::clone(self),
        };
        conflicts.iter().enumerate().map(question).collect()
    }

    /// Ends the round: later answers are told that they are too late.
    pub(crate) fn close(&self) -> Vec<Option<Reply>> {
        let mut state = self.lock();
        state.round += 1;
        state.left = 0;
        std::mem::take(&mut state.replies)
    }

    /// Waits for all replies, but no longer than this. Whether they are there.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        self.wait_while(time, |s| s.left > 0)
    }

    /// The same for the functions of an earlier round to return.
    pub(crate) fn wait_idle(&self, time: Duration) -> bool {
        self.wait_while(time, |s| s.busy)
    }

    fn wait_while(&self, time: Duration, condition: impl Fn(&mut State) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), time, condition);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Asks on a thread of its own, which a function that does not return keeps.
    pub(crate) fn ask(self: &Arc<Self>, questions: Vec<(Question, Function)>) -> Result<(), Error> {
        /// Also where something panics that nobody thought of.
        struct Until(Arc<Desk>);
        impl Drop for Until {
            fn drop(&mut self) {
                self.0.lock().busy = false;
                self.0.changed.notify_all();
            }
        }
        self.lock().busy = true;
        let until = Until(Arc::clone(self));
        let run = move || {
            let _until = until;
            for (question, function) in questions {
                ask(question, &function);
            }
        };
        match std::thread::Builder::new().name("sync-ask".into()).spawn(run) {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Io { what: "cannot start a thread".into(), source }),
        }
    }
}

/// Puts one question to the app.
fn ask(question: Question, function: &Function) {
    if !question.is_open() {
        return;
    }
    match function {
        Function::Returns(f) => {
            let answered = catch_unwind(AssertUnwindSafe(|| calling::call(|| f(question.conflict()))));
            question.reply(answered.map_or(Reply::Panicked, Reply::Answer));
        }
        Function::Takes(f) => {
            // It went into the panic: that dropped it.
            let _ = catch_unwind(AssertUnwindSafe(|| calling::call(|| f(question))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflicts(n: usize) -> Vec<Conflict> {
        let conflict = |i| Conflict {
            table: "t".into(),
            key: format!("{{\"id\":\"{i}\"}}"),
            op: "UPDATE".into(),
            local: None,
            base: None,
            server: None,
            local_version: 1,
            server_version: 2,
        };
        (0..n).map(conflict).collect()
    }

    #[test]
    fn a_question_is_answered_once_and_in_time() {
        let desk = Arc::new(Desk::default());
        let mut questions = desk.put(&conflicts(3), Duration::ZERO);
        let (late, dropped, first) = (questions.pop().unwrap(), questions.pop().unwrap(), questions.pop().unwrap());
        assert!(first.is_open() && first.answer(Resolution::KeepLocal));
        drop(dropped);
        assert!(late.is_open() && !desk.wait(Duration::ZERO));
        assert_eq!(desk.close(), [Some(Reply::Answer(Resolution::KeepLocal)), Some(Reply::None), None]);
        assert!(!late.is_open());
        // The next round has a question at the same place.
        let again = desk.put(&conflicts(3), Duration::ZERO);
        assert!(!late.answer(Resolution::TakeServer));
        assert!(again.iter().all(Question::is_open));
    }

    #[test]
    fn a_panic_is_a_reply_and_ends_nothing() {
        let desk = Arc::new(Desk::default());
        let returns = Function::Returns(Arc::new(|_| panic!("a bug of the app")));
        let takes = Function::Takes(Arc::new(|_| panic!("another one")));
        let questions = desk.put(&conflicts(2), Duration::ZERO).into_iter().zip([returns, takes]).collect();
        desk.ask(questions).unwrap();
        assert!(desk.wait(Duration::from_secs(30)) && desk.wait_idle(Duration::from_secs(30)));
        assert_eq!(desk.close(), [Some(Reply::Panicked), Some(Reply::None)]);
    }
}
