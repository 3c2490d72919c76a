//! How far the episodes of a contestant are.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use smolvla_tabletop::Step;

/// A bar on a terminal; elsewhere a line every ten seconds.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    what: String,
    succeeded: usize,
    said: Instant,
}

impl Progress {
    /// Nothing done yet of `episodes`.
    pub(super) fn new(what: String, episodes: usize) -> Self {
        let target = match io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(episodes as u64), target).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        bar.set_message(what.clone());
        Self { bar, what, succeeded: 0, said: Instant::now() }
    }

    /// A period of an episode has gone by.
    pub(super) fn step(&mut self, step: &Step<'_>) {
        if let Some(outcome) = step.outcome {
            self.succeeded += usize::from(outcome.is_success());
            self.bar.inc(1);
        }
        let message = format!("{}: {} succeeded, period {}", self.what, self.succeeded, step.period);
        if self.bar.is_hidden() && self.said.elapsed() > Duration::from_secs(10) {
            self.said = Instant::now();
            let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
            // Standard error may be closed: nobody wants to know then.
            let _ = writeln!(io::stderr(), "{message}, {done} of {total} episodes over");
        }
        self.bar.set_message(message);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
