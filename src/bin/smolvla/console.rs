//! What the command says: results on standard output, everything else on standard error.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;

/// Longer than this, the time that work took is worth mentioning where no bar can be drawn.
const NOTEWORTHY: Duration = Duration::from_secs(2);
/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(120);

/// The two output streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    /// Only results and errors.
    pub(crate) quiet: bool,
}

/// What a [`Task`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes.
    Bytes,
    /// Parts of no particular size.
    Parts,
    /// Periods of an episode, which may end before the last.
    Periods,
    /// Episodes.
    Episodes,
    /// Nothing: how much there is to do is not known.
    Unknown,
}

/// Work in progress. Dropping it takes its bar off the screen.
pub(crate) struct Task {
    what: String,
    started: Instant,
    bar: ProgressBar,
    /// Say at the end how long it took, because no bar is seen.
    mention: bool,
}

impl Console {
    /// Writes a result to standard output.
    pub(crate) fn result(self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::closed_pipe()),
            Err(error) => Err(Failure::internal(format!("cannot write to standard output: {error}"))),
        }
    }

    /// Writes what explains a result to standard output, below it.
    pub(crate) fn remark(self, text: &str) -> Result<(), Failure> {
        if self.quiet { Ok(()) } else { self.result(text) }
    }

    /// Something the user should know.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            say(&format!("note: {text}"));
        }
    }

    /// Something that a result must never be without; said even where only results are asked for.
    pub(crate) fn caution(self, text: &str) {
        say(&format!("note: {text}"));
    }

    /// What is going on.
    pub(crate) fn status(self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// Why the command stops.
    pub(crate) fn failure(self, failure: &Failure) {
        if !failure.is_silent() {
            say(&failure.to_string());
        }
    }

    /// Begins work that may take a while: with a bar on a terminal, with a line elsewhere.
    pub(crate) fn task(self, what: impl Into<String>, unit: Unit) -> Task {
        let what = what.into();
        let visible = !self.quiet && io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar =
            ProgressBar::with_draw_target(None, target).with_style(style(unit)).with_message(what.clone());
        // Also with a bar: its clock goes on while a device is busy with one part.
        if visible {
            bar.enable_steady_tick(TICK);
        }
        let mention = !self.quiet && !visible;
        if mention {
            say(&format!("{what} …"));
        }
        Task { what, started: Instant::now(), bar, mention }
    }
}

impl Task {
    /// How far the work is.
    pub(crate) fn set(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// What is being worked on now.
    pub(crate) fn describe(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    /// Does something that writes to the terminal, with the bar out of its way.
    pub(crate) fn aside<R>(&self, write: impl FnOnce() -> R) -> R {
        self.bar.suspend(write)
    }

    /// Ends the work and returns how long it took.
    pub(crate) fn finish(self) -> Duration {
        let elapsed = self.started.elapsed();
        if self.mention && elapsed > NOTEWORTHY {
            say(&format!("{}: {:.1} s", self.what, elapsed.as_secs_f64()));
        }
        elapsed
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Writes a line to standard error; nobody can be told when that is closed.
fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

fn style(unit: Unit) -> ProgressStyle {
    ProgressStyle::with_template(template(unit)).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn template(unit: Unit) -> &'static str {
    match unit {
        Unit::Bytes => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
        Unit::Parts => "{msg} {wide_bar} {percent}% {elapsed}",
        Unit::Periods => "{wide_msg} {bar:16} period {pos} of {len} {elapsed}",
        Unit::Episodes => "{wide_msg} {bar:16} {pos} of {len} episodes {elapsed}",
        Unit::Unknown => "{spinner} {msg} {elapsed}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_understood() {
        for unit in [Unit::Bytes, Unit::Parts, Unit::Periods, Unit::Episodes, Unit::Unknown] {
            assert!(ProgressStyle::with_template(template(unit)).is_ok(), "{unit:?}");
        }
    }
}
