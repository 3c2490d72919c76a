//! How far a measurement has come.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on a terminal; elsewhere a line every ten seconds.
pub(crate) struct Progress {
    bar: ProgressBar,
    said: Mutex<Instant>,
}

impl Progress {
    /// Of so many units of work.
    pub(crate) fn new(total: u64) -> Self {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style =
            ProgressStyle::with_template("{bar:30} {percent}% {elapsed} (about {eta} left) {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        // No steady tick: a thread that draws would take time from what is measured.
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style);
        Self { bar, said: Mutex::new(Instant::now()) }
    }

    /// So many more units are done, and this comes next.
    pub(crate) fn next(&self, done: u64, what: &str) {
        self.reach(self.bar.position() + done, what);
    }

    /// So many units are done in all, and this goes on.
    pub(crate) fn reach(&self, position: u64, what: &str) {
        self.bar.set_position(position);
        self.bar.set_message(what.to_owned());
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bar.is_hidden() && said.elapsed() > Duration::from_secs(10) {
            *said = Instant::now();
            let percent = 100 * self.bar.position() / self.bar.length().unwrap_or(1).max(1);
            let _ = writeln!(io::stderr(), "{percent} %: {what}");
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
