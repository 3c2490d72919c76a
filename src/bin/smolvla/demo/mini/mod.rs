//! The mini policy at its task, in closed loop.

mod report;
mod run;

use std::fs;
use std::path::Path;

use smolvla::checkpoint::Checkpoint;
use smolvla::policy::PolicyOptions;
use smolvla::{CheckpointSource, Device, OpenOptions};
use smolvla_tabletop::{Episode, Instruction, PolicyPredictor, Split};

use self::report::{Ran, captions, next, report, row};
use self::run::{Progress, Timed, failure};
use super::Args;
use super::film::{animation, strip};
use super::reel::Reel;
use crate::checkpoint_args;
use crate::console::{Console, Unit};
use crate::failure::Failure;
use crate::{output_file, prediction};

/// The scene that is shown unless another is asked for: one in which a block is pushed.
pub(super) const SEED: u64 = 1;
/// The longest instruction, in letters: several times what the policy reads.
const LONGEST: usize = 200;
const STRIP: &str = "smolvla-demo.png";
const ANIMATION: &str = "smolvla-demo.gif";

/// A file of the mini policy's checkpoint, by its name in there.
macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/mini/", $name)).as_slice())),+]
    };
}

/// The mini policy's checkpoint.
const FILES: [(&str, &[u8]); 11] = files![
    "config.json",
    "model.safetensors",
    "policy_preprocessor.json",
    "policy_preprocessor_step_5_normalizer_processor.safetensors",
    "policy_postprocessor.json",
    "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
    "vlm/config.json",
    "vlm/preprocessor_config.json",
    "vlm/processor_config.json",
    "vlm/tokenizer.json",
    "vlm/tokenizer_config.json",
];

pub(super) fn perform(console: Console, args: &Args) -> Result<(), Failure> {
    let (png, gif) = (args.out.join(STRIP), args.out.join(ANIMATION));
    output_file::check(&png, "png")?;
    output_file::check(&gif, "gif")?;
    let instruction = args.instruction.as_deref().map(understand).transpose()?;
    let episodes = episodes(args.seed, args.episodes.unwrap_or(1), instruction.as_ref())?;
    if let Some(note) = instruction.as_ref().and_then(unpractised) {
        console.note(&note);
    }
    let device = Device::open(&args.backend)?;
    let precision = args.precision.resolve(&device)?;
    prediction::announce(console, &device.capabilities());

    // Some systems let no file be deleted that is mapped: the folder lives as long as the policy.
    let folder = tempfile::Builder::new().prefix("smolvla-mini-").tempdir().map_err(|error| {
        Failure::input(format!("cannot make a folder for the mini policy's checkpoint: {error}"))
    })?;
    let checkpoint = open(console, folder.path())?;
    let task = console.task(format!("preparing weights on {}", args.backend), Unit::Parts);
    let options = PolicyOptions { precision, ..PolicyOptions::default() };
    let policy = device.load(&checkpoint, &options, &mut |progress| {
        task.set(progress.done as u64, progress.total as u64);
    })?;
    let load = task.finish();
    policy.info().notices.iter().for_each(|notice| console.note(notice));

    let predictor = PolicyPredictor::new(policy, checkpoint.config.max_action_dim, 1).map_err(failure)?;
    let mut timed = Timed::new(predictor, Progress::of(console, &episodes));
    let mut results = Vec::new();
    let mut shown: Option<Reel> = None;
    for episode in &episodes {
        let reel = timed.run(episode)?;
        if episodes.len() > 1 {
            timed.progress.task.aside(|| console.result(&row(&reel)))?;
        }
        results.push(reel.outcome);
        let is_first_failure = |shown: &Reel| shown.outcome.is_success() && !reel.outcome.is_success();
        if shown.as_ref().is_none_or(is_first_failure) {
            shown = Some(reel);
        }
    }
    let Timed { policy: predictor, times, progress } = timed;
    progress.task.finish();
    predictor.notices().iter().for_each(|notice| console.note(notice));
    let Some(reel) = shown else { return Err(Failure::internal("there was no episode to attempt")) };

    let ran = Ran { info: predictor.policy().info(), load, times: &times };
    let captions = captions(&reel, &ran);
    output_file::write(&gif, &animation(&reel, &captions)?)?;
    output_file::write(&png, &strip(&reel, &captions)?)?;

    console.result(&report(&reel, &results, &ran))?;
    let which = if episodes.len() > 1 { format!(" (seed {})", reel.episode.seed) } else { String::new() };
    console.result(&format!(
        "animation   {}{which}\nfilmstrip   {}{which}\n",
        gif.display(),
        png.display()
    ))?;
    console.remark(&next(&reel))
}

/// What an instruction asks for.
fn understand(text: &str) -> Result<Instruction, Failure> {
    let letters = text.chars().count();
    if letters > LONGEST {
        return Err(Failure::input(format!(
            "--instruction: it has {letters} letters; expected {LONGEST} at most"
        )));
    }
    Instruction::parse(text).map_err(|error| Failure::input(format!("--instruction: {error}")))
}

/// What is to be said of words that the policy has not learnt.
fn unpractised(instruction: &Instruction) -> Option<String> {
    let Instruction { text, goal } = instruction;
    (!Instruction::all().contains(instruction)).then(|| {
        let known = [0, 1].map(|phrasing| Instruction::phrased(*goal, phrasing).text);
        format!(
            "“{text}” is not a phrasing that the policy was trained on, so it may not understand it; success is judged as for \
             “{}”, which it knows, as “{}”",
            known[0], known[1]
        )
    })
}

/// Scenes from this seed on, else from [`SEED`], with this instruction where there is one.
fn episodes(
    seed: Option<u64>,
    count: u64,
    instruction: Option<&Instruction>,
) -> Result<Vec<Episode>, Failure> {
    let all = (seed.unwrap_or(SEED)..=u64::MAX).map(|seed| Episode::new(Split::Evaluation, seed));
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let Some(instruction) = instruction else { return Ok(all.take(count).collect()) };
    let with = |episode: Episode| episode.with_instruction(instruction.clone());
    if let Some(seed) = seed {
        // A scene that was asked for must have the block; of the others, those that have it are taken.
        with(Episode::new(Split::Evaluation, seed))
            .map_err(|error| Failure::input(format!("--instruction: {error}")))?;
    }
    Ok(all.filter_map(|episode| with(episode).ok()).take(count).collect())
}

/// Writes the checkpoint into a folder and opens it like any other.
fn open(console: Console, folder: &Path) -> Result<Checkpoint, Failure> {
    let write = |path: &Path, bytes: &[u8]| {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, bytes)
    };
    for (name, bytes) in FILES {
        let path = folder.join(name);
        write(&path, bytes).map_err(|error| Failure::write(&path, &error))?;
    }
    checkpoint_args::open(console, &CheckpointSource::Folder(folder.to_owned()), &OpenOptions::default())
}

#[cfg(test)]
mod tests {
    use smolvla_tabletop::{Colour, Corner, Goal};

    use super::*;

    #[test]
    fn scenes_without_the_block_are_passed_over_but_not_one_that_was_asked_for() {
        let seeds = |found: &[Episode]| found.iter().map(|episode| episode.seed).collect::<Vec<_>>();
        assert_eq!(seeds(&episodes(Some(7), 3, None).unwrap()), [7, 8, 9]);
        assert_eq!(seeds(&episodes(None, 2, None).unwrap()), [SEED, SEED + 1]);
        let lacks_red =
            |seed: &u64| Episode::new(Split::Evaluation, *seed).world.block(Colour::Red).is_none();
        let without = (0..).find(lacks_red).unwrap();
        let with = (0..).find(|seed| !lacks_red(seed) && lacks_red(&(seed + 1))).unwrap();
        let instruction = understand("reach the red block").unwrap();
        let message = episodes(Some(without), 2, Some(&instruction)).unwrap_err().to_string();
        assert!(message.contains("no red block"), "{message}");
        let found = seeds(&episodes(Some(with), 2, Some(&instruction)).unwrap());
        assert!(found[0] == with && found[1] > with + 1, "{found:?}");
        // The default scene has no yellow block.
        let instruction = understand("reach the yellow block").unwrap();
        let found = episodes(None, 1, Some(&instruction)).unwrap();
        assert!(found[0].seed > SEED && found[0].world.block(Colour::Yellow).is_some(), "{found:?}");
    }

    #[test]
    fn the_scene_that_is_shown_unless_another_is_asked_for_is_about_pushing() {
        let episode = Episode::new(Split::Evaluation, SEED);
        assert_eq!(episode.instruction.text, "bring the blue block to the right corner");
        assert_eq!(episode.instruction.goal, Goal::Push(Colour::Blue, Corner::Right));
    }

    #[test]
    fn instructions_that_say_nothing_or_too_much_are_refused() {
        let message = understand("dance").unwrap_err().to_string();
        assert!(message.contains("--instruction") && message.contains("reach the red block"), "{message}");
        let padded = |letters: usize| format!("{:<letters$}", "reach the red block");
        assert!(understand(&padded(LONGEST)).is_ok());
        let message = understand(&padded(LONGEST + 1)).unwrap_err().to_string();
        assert!(message.contains("201 letters") && message.len() < LONGEST, "{message}");
    }

    #[test]
    fn words_that_the_policy_has_not_learnt_are_told_with_what_they_are_taken_for() {
        for instruction in Instruction::all() {
            assert_eq!(unpractised(&understand(&instruction.text).unwrap()), None);
        }
        let note = unpractised(&understand("please slide the blue one left").unwrap()).unwrap();
        assert!(
            note.contains("please slide") && note.contains("“push the blue block into the left corner”"),
            "{note}"
        );
    }

    #[test]
    fn the_checkpoint_in_the_command_opens() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = open(Console { quiet: true }, folder.path()).unwrap();
        assert_eq!(checkpoint.config.cameras().count(), 2);
        assert_eq!(checkpoint.config.action_dim(), smolvla_tabletop::ACTION_DIM);
    }
}
