//! Asking the app about conflicts. No transaction is open meanwhile: one that meets a conflict without an answer is
//! undone, the app is asked about all that it met, and it is done again. An answer counts for exactly the rows that were
//! asked about. Where none comes, the file's policy decides, so that nothing waits for ever.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::apply::Applier;
use crate::budget::Deadline;
use crate::conflict::{Conflict, Resolution};
use crate::context::FaultPoint;
use crate::engine::Engine;
use crate::error::Error;
use crate::question::{Desk, Reply};
use crate::report::Event;

/// What a transaction of remote rows came to that may have to ask.
pub(crate) enum Attempt<T> {
    /// It was committed.
    Kept(T),
    /// It was undone for another reason.
    Undone(T),
    /// It was undone, since the app has to be asked about these.
    Asks(Vec<Conflict>),
}

/// Why the app's answer to a conflict is not taken, or there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// None came in time.
    Late(u64),
    /// It was not asked any more, since it had been silent until the end of its time.
    Silent,
    /// The question was dropped.
    Declined,
    Panicked,
    /// Each time the local row had changed.
    Restless,
}

impl Why {
    fn said(self) -> String {
        match self {
            Self::Late(seconds) => format!("no answer came within {seconds} s"),
            Self::Silent => "no answer had come in time to what was asked before".into(),
            Self::Declined => "no answer was given".into(),
            Self::Panicked => "the app's own function panicked".into(),
            Self::Restless => "the row changed each time while it was asked about".into(),
        }
    }
}

/// What is known about a conflict.
#[derive(Debug, Clone)]
enum Said {
    Answer(Resolution),
    Nothing(Why),
}

/// What the app said, by table and key; of one key to several conflicts, where several bundles touch it.
#[derive(Debug, Default)]
pub(crate) struct Answers(BTreeMap<(String, String), Vec<(Conflict, Said)>>);

impl Answers {
    fn of(&self, c: &Conflict) -> &[(Conflict, Said)] {
        self.0.get(&(c.table.clone(), c.key.clone())).map_or(&[], Vec::as_slice)
    }

    /// The answer to exactly these rows.
    fn to(&self, c: &Conflict) -> Option<&Said> {
        self.of(c).iter().find(|(asked, _)| same_rows(asked, c)).map(|(_, said)| said)
    }

    fn note(&mut self, c: Conflict, said: Said) {
        self.0.entry((c.table.clone(), c.key.clone())).or_default().push((c, said));
    }

    /// What the app did not say now, it may be asked again another time.
    fn forget_silence(&mut self) {
        for answers in self.0.values_mut() {
            answers.retain(|(_, said)| matches!(said, Said::Answer(_)));
        }
        self.0.retain(|_, answers| !answers.is_empty());
    }
}

fn same_rows(a: &Conflict, b: &Conflict) -> bool {
    (&a.op, &a.local, &a.base, &a.server) == (&b.op, &b.local, &b.base, &b.server)
}

/// What an engine needs to ask.
pub(crate) struct Asking {
    desk: Arc<Desk>,
    /// How long an answer is waited for.
    time: Duration,
    /// What was said of a transaction that could not be committed since.
    answers: RefCell<Answers>,
    /// Nobody said a word until the time was over: until the next verb nobody is asked.
    silent: Cell<bool>,
}

impl Asking {
    pub(crate) fn new(time: Duration) -> Self {
        Self { desk: Arc::default(), time, answers: RefCell::default(), silent: Cell::new(false) }
    }

    /// A verb, or a round of one, begins.
    pub(crate) fn begin(&self) {
        self.silent.set(false);
    }
}

impl Engine {
    /// Does a transaction of remote rows, again as long as it meets conflicts that the app was not asked about.
    pub(crate) fn asking<T>(&self, mut attempt: impl FnMut(&Answers) -> Result<Attempt<T>, Error>) -> Result<T, Error> {
        let mut answers = self.asking.answers.take();
        let outcome = loop {
            match attempt(&answers) {
                Ok(Attempt::Kept(done)) => return Ok(done),
                Ok(Attempt::Undone(done)) => break Ok(done),
                Ok(Attempt::Asks(conflicts)) => {
                    if let Err(e) = self.ask(conflicts, &mut answers) {
                        break Err(e);
                    }
                }
                Err(e) => break Err(e),
            }
        };
        answers.forget_silence();
        self.asking.answers.replace(answers);
        outcome
    }

    /// Asks about these, and waits for the answers.
    fn ask(&self, conflicts: Vec<Conflict>, answers: &mut Answers) -> Result<(), Error> {
        let mut open = Vec::new();
        for c in conflicts {
            let times = answers.of(&c).iter().filter(|(asked, _)| asked.server_version == c.server_version).count();
            if times >= MOST {
                answers.note(c, Said::Nothing(Why::Restless));
            } else if self.asking.silent.get() {
                answers.note(c, Said::Nothing(Why::Silent));
            } else {
                open.push(c);
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        let deadline = Deadline::after(self.asking.time, &self.env);
        self.env.fault(FaultPoint::Asking);
        let desk = &self.asking.desk;
        let idle = self.wait(&deadline, |time| desk.wait_idle(time))?;
        let questions = desk.put(&open, self.asking.time);
        // One thread at most is kept by a function that does not return.
        let asked = if idle && !deadline.time_left().is_zero() {
            let functions = questions.into_iter().filter_map(|q| {
                let function = self.policies.function(&q.conflict().table)?;
                Some((q, function))
            });
            desk.ask(functions.collect()).and_then(|()| self.wait(&deadline, |time| desk.wait(time)))
        } else {
            // Before they are dropped, which would be an answer.
            desk.close();
            Ok(false)
        };
        let mut replies = desk.close();
        replies.resize(open.len(), None);
        asked?;
        self.asking.silent.set(replies.iter().all(Option::is_none));
        for (c, reply) in open.into_iter().zip(replies) {
            let said = match reply {
                Some(Reply::Answer(resolution)) => Said::Answer(resolution),
                Some(Reply::None) => Said::Nothing(Why::Declined),
                Some(Reply::Panicked) => Said::Nothing(Why::Panicked),
                None => Said::Nothing(Why::Late(self.asking.time.as_secs())),
            };
            answers.note(c, said);
        }
        Ok(())
    }

    /// Waits until the deadline, in steps short enough for a stop. Whether it came in time.
    fn wait(&self, deadline: &Deadline, for_it: impl Fn(Duration) -> bool) -> Result<bool, Error> {
        loop {
            let left = deadline.time_left();
            if for_it(left.min(STEP)) {
                return Ok(true);
            }
            self.check_stopped()?;
            if left.is_zero() {
                return Ok(false);
            }
        }
    }
}

/// What is done about a conflict.
pub(crate) enum Decided {
    ByApp(Resolution),
    ByPolicy,
    /// Nothing that will be kept.
    Open,
}

impl Applier<'_> {
    /// What the app said of this conflict; where nothing yet, it will be asked.
    pub(crate) fn decided(&mut self, conflict: Conflict) -> Decided {
        let Some(answers) = self.answers else { return Decided::ByPolicy };
        match answers.to(&conflict) {
            Some(Said::Answer(resolution)) => Decided::ByApp(resolution.clone()),
            Some(Said::Nothing(why)) => {
                let policy = self.policies.of(&conflict.table);
                let message = format!("{}: the file's policy decided, {policy:?}", why.said());
                self.outcome.events.push(Event::Unanswered { table: conflict.table, key: conflict.key, message });
                Decided::ByPolicy
            }
            None => {
                self.questions.push(conflict);
                Decided::Open
            }
        }
    }

    /// What the app has to be asked before this transaction can be ended.
    pub(crate) fn asks<T>(&mut self) -> Option<Attempt<T>> {
        (!self.questions.is_empty()).then(|| Attempt::Asks(std::mem::take(&mut self.questions)))
    }
}

/// Times that the app is asked about the same row of the server.
const MOST: usize = 3;
/// How long a stop waits at most.
const STEP: Duration = Duration::from_millis(50);
