//! Bars on a terminal; nothing elsewhere.

use std::{
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sync_client::report::Event;

use crate::output::Output;

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Sending,
    Receiving,
    Writing,
}

/// One bar that changes with what is under way.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    phase: Mutex<Option<Phase>>,
}

impl Progress {
    /// Visible on a terminal only, and not where JSON is wanted.
    pub(crate) fn new(out: Output) -> Self {
        let visible = !out.json && std::io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bar: ProgressBar::with_draw_target(None, target), phase: Mutex::new(None) }
    }

    /// Follows an event.
    pub(crate) fn show(&self, event: &Event) {
        match *event {
            Event::Uploaded { rows, total } => self.at(Phase::Sending, rows, Some(total)),
            Event::Downloaded { rows, total } => self.at(Phase::Receiving, rows, total),
            Event::Applied { rows, .. } => self.at(Phase::Writing, rows, None),
            Event::Finished { .. } | Event::Failed { .. } => self.clear(),
            _ => {}
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.bar.finish_and_clear();
    }

    fn at(&self, phase: Phase, rows: u64, total: Option<u64>) {
        let mut current = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != Some(phase) {
            *current = Some(phase);
            self.bar.reset();
            self.bar.set_message(match phase {
                Phase::Sending => "sending",
                Phase::Receiving => "receiving",
                Phase::Writing => "writing",
            });
            self.bar.set_style(style(total.is_some()));
        }
        match total {
            Some(total) => self.bar.set_length(total),
            None => self.bar.unset_length(),
        }
        self.bar.set_position(rows);
    }
}

fn style(bounded: bool) -> ProgressStyle {
    let template = if bounded {
        "{msg:9} [{bar:32}] {human_pos} of {human_len} rows, {eta} left"
    } else {
        "{msg:9} {spinner} {human_pos} rows, {elapsed}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}
