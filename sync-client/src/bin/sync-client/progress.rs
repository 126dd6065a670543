//! Bars on a terminal; nothing elsewhere.

use std::{
    io::IsTerminal as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sync_client::report::Event;

use crate::{output::Output, text::printable};

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Preparing,
    Sending,
    Confirming,
    Receiving,
    Writing,
    Waiting,
}

impl Phase {
    const fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Sending => "sending",
            Self::Confirming => "waiting for the server to commit",
            Self::Receiving => "receiving",
            Self::Writing => "writing",
            Self::Waiting => "waiting",
        }
    }

    const fn template(self, bounded: bool) -> &'static str {
        match self {
            Self::Preparing | Self::Confirming | Self::Waiting => "{spinner} {msg}",
            _ if bounded => "{spinner} {msg:9} [{bar:32}] {human_pos} of {human_len} rows, {eta} left",
            _ => "{spinner} {msg:9} {human_pos} rows, {elapsed}",
        }
    }
}

/// One bar that changes with what is under way.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    phase: Mutex<Option<Phase>>,
    /// Rows of the pull that is under way, where the server says.
    coming: AtomicU64,
    visible: bool,
}

impl Progress {
    /// Visible on a terminal only, and not where JSON is wanted.
    pub(crate) fn new(out: Output) -> Self {
        let visible = !out.json && std::io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            bar: ProgressBar::with_draw_target(None, target),
            phase: Mutex::new(None),
            coming: AtomicU64::new(0),
            visible,
        }
    }

    /// Follows an event.
    pub(crate) fn show(&self, event: &Event) {
        match *event {
            Event::Started => self.at(Phase::Preparing, 0, None),
            Event::Uploaded { rows, total } if rows >= total => self.at(Phase::Confirming, 0, None),
            Event::Uploaded { rows, total } => self.at(Phase::Sending, rows, Some(total)),
            Event::Downloaded { rows, total } => self.at(Phase::Receiving, rows, total),
            Event::Pulling { rows, .. } => self.coming.store(rows.unwrap_or(0), Ordering::Relaxed),
            Event::Applied { rows, .. } => {
                let coming = self.coming.load(Ordering::Relaxed);
                self.at(Phase::Writing, rows, Some(coming).filter(|coming| *coming >= rows));
            }
            Event::Waiting { ref message, .. } => self.wait(message),
            Event::Finished { .. } | Event::Failed { .. } => self.clear(),
            _ => {}
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.bar.disable_steady_tick();
        self.bar.finish_and_clear();
    }

    /// Says what is waited for, until something else happens.
    fn wait(&self, message: &str) {
        self.at(Phase::Waiting, 0, None);
        self.bar.set_message(format!("waiting: {}", printable(message)));
    }

    fn at(&self, phase: Phase, rows: u64, total: Option<u64>) {
        if !self.visible {
            return;
        }
        let mut current = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != Some(phase) {
            *current = Some(phase);
            let style = ProgressStyle::with_template(phase.template(total.is_some()));
            self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            self.bar.set_message(phase.name());
            self.bar.reset_elapsed();
            self.bar.reset_eta();
            self.bar.enable_steady_tick(TICK);
        }
        match total {
            Some(total) => self.bar.set_length(total),
            None => self.bar.unset_length(),
        }
        self.bar.set_position(rows);
    }
}

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(120);
