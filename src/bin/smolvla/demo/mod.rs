//! `smolvla demo`: a policy at work, without network and without a checkpoint of one's own.

mod film;
mod mini;
mod reel;
mod sample;

use std::path::PathBuf;

use clap::ValueEnum;
use smolvla::synth;

use crate::console::Console;
use crate::failure::Failure;
use crate::precision::PrecisionArgs;

/// How many scenes there are to choose from: room for any number of episodes from each seed on.
const SEEDS: u64 = 1 << 48;

const AFTER_HELP: &str = "\
Examples:
  smolvla demo
  smolvla demo --seed 3 --instruction \"push the blue block into the left corner\"
  smolvla demo --episodes 20 --precision int8
  smolvla demo --size base

The mini policy comes with the command: 1.5 million parameters, trained from nothing on a toy, a
table with coloured blocks. It does that task and no other; an episode that fails is a result, and
the exit code is 0 all the same. The policies of --size base and tiny
have random weights: their motion means nothing, and base does the work of a real one.";

/// Let a small trained policy do a task, and draw what it did; or run one with random weights.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Which policy.
    #[arg(long, value_enum, default_value_t = Size::Mini)]
    size: Size,
    /// What to tell the mini policy to do, in 200 letters at most; by default what the scene's seed says.
    #[arg(long, value_name = "TEXT")]
    instruction: Option<String>,
    /// The mini policy's scene, with its noise and disturbances [default: 1, or the next with the block that --instruction names].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..SEEDS))]
    seed: Option<u64>,
    /// How many scenes the mini policy gets, from that seed on [default: 1]. The pictures show the first failure, or the
    /// first episode where none failed; scenes without the block that --instruction names are passed over.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    episodes: Option<u64>,
    /// How many of the three sample pictures the policies of --size base and tiny get [default: 3].
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=sample::CAMERAS))]
    cameras: Option<u64>,
    /// The backend, as for `smolvla run`.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    backend: String,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// The folder for smolvla-demo.png and smolvla-demo.gif; by default the current one.
    #[arg(long, value_name = "FOLDER", default_value = ".", hide_default_value = true)]
    out: PathBuf,
}

/// Which policy to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Size {
    /// Trained on a toy task, which it does in closed loop.
    Mini,
    /// Random weights, as large as the published policies; writes 907 MB to the cache folder once (SMOLVLA_CACHE moves it).
    Base,
    /// Random weights, a miniature for tests.
    Tiny,
}

pub(crate) fn perform(console: Console, args: &Args) -> Result<(), Failure> {
    args.refuse_foreign()?;
    match args.size {
        Size::Mini => mini::perform(console, args),
        Size::Base => sample::perform(console, args, synth::Size::Base),
        Size::Tiny => sample::perform(console, args, synth::Size::Tiny),
    }
}

impl Args {
    /// Refuses options that would have no effect.
    fn refuse_foreign(&self) -> Result<(), Failure> {
        let foreign = match self.size {
            Size::Mini => vec![("--cameras", self.cameras.is_some())],
            Size::Base | Size::Tiny => vec![
                ("--instruction", self.instruction.is_some()),
                ("--seed", self.seed.is_some()),
                ("--episodes", self.episodes.is_some()),
            ],
        };
        let Some((option, _)) = foreign.into_iter().find(|(_, given)| *given) else { return Ok(()) };
        Err(Failure::input(match self.size {
            Size::Mini => format!(
                "{option} is for --size base and tiny; the mini policy always sees through its own two cameras"
            ),
            Size::Base | Size::Tiny => format!(
                "{option} is for --size mini; a policy with random weights runs once, on sample pictures"
            ),
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn help_tells_the_seed_that_is_the_default() {
        let help = Command::command().render_long_help().to_string();
        let seed = help.split("--seed <N>").nth(1).and_then(|rest| rest.split("--episodes").next()).unwrap();
        assert!(seed.contains(&format!("[default: {},", mini::SEED)), "{seed}");
    }

    #[test]
    fn seeds_without_room_for_more_episodes_are_refused() {
        let given = |seed: u64| Command::try_parse_from(["", "--seed", &seed.to_string()]);
        assert!(given(SEEDS - 1).is_ok());
        for seed in [SEEDS, u64::MAX] {
            assert!(given(seed).err().unwrap().to_string().contains(&seed.to_string()));
        }
    }

    #[test]
    fn options_of_the_other_policies_are_refused_by_name() {
        let cases = [
            (vec!["", "--cameras", "2"], Some("--cameras")),
            (vec!["", "--size", "tiny", "--instruction", "go"], Some("--instruction")),
            (vec!["", "--size", "base", "--seed", "0"], Some("--seed")),
            (vec!["", "--size", "tiny", "--episodes", "1"], Some("--episodes")),
            (vec!["", "--seed", "1", "--episodes", "2"], None),
            (vec!["", "--size", "tiny", "--cameras", "1"], None),
        ];
        for (line, expected) in cases {
            let result = Command::parse_from(&line).args.refuse_foreign();
            let message = result.err().map(|failure| failure.to_string());
            assert_eq!(message.is_some(), expected.is_some(), "{line:?}: {message:?}");
            assert!(message.unwrap_or_default().contains(expected.unwrap_or_default()), "{line:?}");
        }
    }
}
