//! What is told of the episodes.

use std::fmt::Write;
use std::time::Duration;

use smolvla::backend::Execution;
use smolvla::policy::PolicyInfo;
use smolvla_tabletop::{Episode, Goal, Outcome, PERIOD_S, World};

use crate::demo::film::Captions;
use crate::demo::reel::{Reel, distance_cm};
use crate::output;

/// A first chunk that took so many times as long as the median is worth a word: what is compiled then.
const SLOW_START: u32 = 10;

/// What ran, and how fast.
pub(super) struct Ran<'a> {
    pub(super) info: &'a PolicyInfo,
    pub(super) load: Duration,
    /// Wall time of every chunk.
    pub(super) times: &'a [Duration],
}

impl Ran<'_> {
    fn median(&self) -> Duration {
        let mut times = self.times.to_vec();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }
}

/// What was asked, what happened and what ran.
pub(super) fn report(reel: &Reel, results: &[Outcome], ran: &Ran<'_>) -> String {
    let info = ran.info;
    let mut text = String::new();
    if let [_] = results {
        let _ = writeln!(text, "“{}” (seed {})", reel.episode.instruction, reel.episode.seed);
        let _ = writeln!(text, "{}\n", verdict(reel));
    } else {
        let (count, good) = (results.len(), results.iter().filter(|result| result.is_success()).count());
        let rate = 100.0 * good as f64 / count as f64;
        let _ = writeln!(text, "\nsuccess in {good} of {count} episodes ({rate:.1} %)\n");
    }
    text.push_str(&output::device_and_precision(info));
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<11} {value}");
    };
    line("load", &output::duration(ran.load));
    let median = ran.median();
    let first = ran.times.first().copied().unwrap_or_default();
    let slow = if first > median * SLOW_START {
        format!("; the first took {}", short(first))
    } else {
        String::new()
    };
    line("a chunk", &format!("{}, the median of {}{slow}", output::duration(median), ran.times.len()));
    line(
        "",
        &format!(
            "{} actions of {PERIOD_S} s, of which {} are carried out before the next; nothing moves while it is computed",
            info.chunk_size, info.n_action_steps
        ),
    );
    text
}

/// An episode's line in a list of them.
pub(super) fn row(reel: &Reel) -> String {
    let Episode { seed, instruction, .. } = &reel.episode;
    let seconds = reel.periods() as f64 * PERIOD_S;
    let (word, left) = match reel.outcome {
        Outcome::Success { .. } => ("success", String::new()),
        Outcome::TimeUp => {
            ("failure", format!(" ({})", remaining(&reel.worlds[reel.periods()], reel.goal())))
        }
    };
    format!("seed {seed:<5} {word} {seconds:>5.1} s  {instruction}{left}\n")
}

/// What stands beside the pictures.
pub(super) fn captions(reel: &Reel, ran: &Ran<'_>) -> Captions {
    let info = ran.info;
    let capabilities = &info.capabilities;
    let emulated = if matches!(capabilities.execution, Execution::Emulated(_)) { " (EMULATED)" } else { "" };
    let seconds = reel.periods() as f64 * PERIOD_S;
    let precision = info.precision.name().map_or_else(|| info.precision.to_string(), str::to_owned);
    let backend = format!("{}{emulated}", capabilities.backend);
    Captions {
        instruction: format!("“{}”", reel.episode.instruction),
        outcome: match reel.outcome {
            Outcome::Success { .. } => format!("success after {seconds:.1} s"),
            Outcome::TimeUp => format!("failure: time was up after {seconds:.1} s"),
        },
        details: format!(
            "{} chunks, {} each · {backend} on {}, {precision} · seed {}",
            reel.plans.len(),
            short(ran.median()),
            capabilities.device,
            reel.episode.seed,
        ),
        short: format!("{backend}, {precision} · seed {}", reel.episode.seed),
    }
}

/// What the result is worth, and what to try now.
pub(super) fn next(reel: &Reel) -> String {
    let (seed, swapped) = (reel.episode.seed, reel.episode.swapped());
    format!(
        "
The policy was trained on this toy alone and does nothing else; assets/mini/README.md is its model card. Its times say nothing
about a policy of full size: `smolvla demo --size base` does the work of one.

Next (`cargo run --release --` in the place of `smolvla` where it is not installed):
  smolvla demo --seed {seed} --instruction \"{swapped}\"
  smolvla demo --episodes 20        how often it succeeds
  smolvla demo --backend NAME       the same on another device; `smolvla doctor` lists them
  smolvla run --help                a checkpoint of your own
"
    )
}

/// A time, in the unit that fits.
pub(super) fn short(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}

/// How an episode ended, in a clause.
fn verdict(reel: &Reel) -> String {
    let goal = reel.goal();
    match (reel.outcome, goal) {
        (Outcome::Success { periods }, Goal::Reach(colour)) => {
            format!("success: the {colour} block was reached after {}", span(periods))
        }
        (Outcome::Success { periods }, Goal::Push(colour, corner)) => {
            format!("success: the {colour} block was in the {corner} corner after {}", span(periods))
        }
        (Outcome::TimeUp, _) => {
            let left = remaining(&reel.worlds[reel.periods()], goal);
            format!("failure: time was up after {}, {left}", span(reel.periods()))
        }
    }
}

/// How far the goal is.
fn remaining(world: &World, goal: Goal) -> String {
    match (goal, distance_cm(world, goal)) {
        (Goal::Reach(_), Some(cm)) => format!("{cm:.1} cm to the block"),
        (Goal::Push(..), Some(cm)) => format!("block {cm:.1} cm from its corner"),
        (_, None) => "the block is not there".to_owned(),
    }
}

fn span(periods: usize) -> String {
    format!("{:.1} s ({periods} periods)", periods as f64 * PERIOD_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_unit_that_fits() {
        assert_eq!(short(Duration::from_micros(1250)), "1.2 ms");
        assert_eq!(short(Duration::from_millis(2500)), "2.5 s");
    }
}
