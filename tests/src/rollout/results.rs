//! LeRobot's results: of LeRobot itself, or recorded ones.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use smolvla_tabletop::{Episode, Predictor as _};

use super::contestant::{LEROBOT, Place};
use super::lerobot::{BATCH, LeRobot};
use super::recording::{KEPT, Recording};
use super::shadow::{KeptPrediction, PredictionKeeper, seen_sha256};
use super::study::{attempts, episodes, finished, row};
use super::{Arguments, mini_recording, put, say};
use crate::report::{BehaviourRow, Condition, LeRobotRun};

/// Episodes that [`Recording`]s hold.
const RECORDED: usize = 500;

/// Episodes on which actions are compared unless the arguments say otherwise.
const SHADOW: usize = KEPT;

/// What LeRobot did, in this run or before.
pub(super) struct LeRobotResults {
    pub(super) who: LeRobotRun,
    pub(super) periods: Vec<Option<usize>>,
    /// Its predictions, for the episodes on which actions are compared.
    pub(super) kept: Vec<KeptPrediction>,
    pub(super) n_action_steps: usize,
    pub(super) noise_len: usize,
    /// What a reader should know of them.
    pub(super) notes: Vec<String>,
    /// How long it ran; none where it did not.
    wall_s: Option<f64>,
}

impl LeRobotResults {
    pub(super) fn row(&self, episodes: &[Episode]) -> BehaviourRow {
        let LeRobotRun { lerobot, torch, recorded, .. } = &self.who;
        let recorded = if *recorded { ", recorded" } else { "" };
        let place = Place {
            device: format!("LeRobot {lerobot}, PyTorch {torch} on a processor{recorded}"),
            emulated: None,
            precision: "f32".to_owned(),
        };
        BehaviourRow {
            wall_s: self.wall_s,
            batch: BATCH,
            ..row(LEROBOT, Condition::Normal, &place, episodes, self.periods.clone())
        }
    }
}

/// Runs LeRobot where there is a Python that has it, else reads what it did.
///
/// # Errors
/// When it does not run, or has not been recorded on this checkpoint and these episodes.
pub(super) fn lerobot(
    arguments: &Arguments,
    checkpoint: &Path,
    checkpoint_sha256: &str,
    episodes: &[Episode],
) -> Result<LeRobotResults, String> {
    let Some(python) = python(arguments) else {
        return recorded(arguments, checkpoint_sha256, episodes);
    };
    let shadow = arguments.shadow.map_or(SHADOW, |count| count as usize);
    let clock = Instant::now();
    let mut lerobot = start(&python, checkpoint, arguments)?;
    let who = LeRobotRun { threads: Some(threads(arguments)), ..lerobot.versions() };
    let (n_action_steps, noise_len) = (lerobot.n_action_steps(), lerobot.noise_len());
    let mut keeper = PredictionKeeper::new(&mut lerobot, shadow);
    let attempts = attempts(&mut keeper, episodes, Condition::Normal, LEROBOT)?;
    let periods = attempts.iter().map(finished).collect();
    let wall_s = Some(clock.elapsed().as_secs_f64());
    let (kept, notes) = (keeper.kept, Vec::new());
    Ok(LeRobotResults { who, periods, kept, n_action_steps, noise_len, notes, wall_s })
}

fn recorded(
    arguments: &Arguments,
    checkpoint_sha256: &str,
    episodes: &[Episode],
) -> Result<LeRobotResults, String> {
    if arguments.threads.is_some() {
        return Err("--threads: LeRobot itself does not run, its recorded results are used; name a Python that has it \
                    with --python, or leave out --threads"
            .to_owned());
    }
    say("LeRobot's results are recorded ones; --python PATH runs LeRobot itself");
    let recording = Recording::open(&mini_recording())?;
    recording.check(checkpoint_sha256)?;
    let periods = recording.ended(arguments.first_seed, episodes.len())?.to_vec();
    let (shadow, notes) = recorded_shadow(arguments, recording.actions.len(), episodes.len())?;
    // Where no actions are compared, one episode is done again all the same: it shows that the table is the recorded one.
    let kept = match shadow {
        0 => {
            replayed(&recording, &self::episodes(0, 1))?;
            Vec::new()
        }
        _ => replayed(&recording, &episodes[..shadow])?,
    };
    let Recording { lerobot: who, n_action_steps, noise_len, .. } = recording;
    Ok(LeRobotResults { who, periods, kept, n_action_steps, noise_len, notes, wall_s: None })
}

/// On how many of the episodes actions are compared, and what to say where they are fewer than could be expected.
///
/// # Errors
/// When more are asked for than are recorded.
fn recorded_shadow(
    arguments: &Arguments,
    recorded: usize,
    episodes: usize,
) -> Result<(usize, Vec<String>), String> {
    let first = usize::try_from(arguments.first_seed).unwrap_or(usize::MAX);
    let there = recorded.saturating_sub(first);
    let wanted = arguments.shadow.map_or(SHADOW, |count| count as usize).min(episodes);
    if wanted <= there {
        return Ok((wanted, Vec::new()));
    }
    let what = format!("LeRobot's actions are recorded for the first {recorded} seeds only");
    if arguments.shadow.is_some() {
        return Err(format!(
            "--shadow {wanted} from seed {first} on: {what}; ask for fewer, or run LeRobot itself with --python"
        ));
    }
    Ok((there, vec![format!("{what}: actions are compared on {there} episodes instead of {wanted}")]))
}

/// What LeRobot saw and did in `episodes`, of seeds one after the other, by doing its recorded actions again.
///
/// # Errors
/// When the table does not look or go on as it did: it has changed since, or the recording is not of these episodes.
pub fn replayed(recording: &Recording, episodes: &[Episode]) -> Result<Vec<KeptPrediction>, String> {
    let Some(first) = episodes.first().map(|episode| episode.seed) else { return Ok(Vec::new()) };
    let mut replay = recording.replay(first, episodes.len())?;
    let mut keeper = PredictionKeeper::new(&mut replay, episodes.len());
    let attempts = attempts(&mut keeper, episodes, Condition::Normal, "LeRobot, again")?;
    let fail = |seed: u64, what: &str| {
        Err(format!(
            "LeRobot's recorded actions at seed {seed} {what}: the table has changed since; record anew with --record"
        ))
    };
    let ends = recording.ended(first, episodes.len())?;
    let seen = recording.seen_sha256(first, episodes.len())?;
    for (index, episode) in episodes.iter().enumerate() {
        let (found, expected) = (finished(&attempts[index]), ends[index]);
        if found != expected {
            return fail(
                episode.seed,
                &format!("end otherwise than recorded ({found:?} periods, not {expected:?})"),
            );
        }
        if seen_sha256(&keeper.kept, index)? != seen[index] {
            return fail(episode.seed, "go with other pictures, states or noise than recorded");
        }
    }
    Ok(keeper.kept)
}

/// Runs LeRobot and keeps what it did in the repository.
///
/// # Errors
/// When it does not run, or too few episodes are asked for.
pub(super) fn record(
    arguments: &Arguments,
    checkpoint: &Path,
    checkpoint_sha256: String,
    out: &mut dyn io::Write,
) -> Result<(), String> {
    let count = arguments.episodes.map_or(RECORDED, |count| count as usize);
    if count < KEPT {
        return Err(format!(
            "--record --episodes {count}: recordings hold the actions of {KEPT} episodes; ask for more"
        ));
    }
    let Some(python) = python(arguments) else {
        return Err("--record: runs LeRobot itself; name a Python that has it with --python".to_owned());
    };
    let mut lerobot = start(&python, checkpoint, arguments)?;
    let mut keeper = PredictionKeeper::new(&mut lerobot, KEPT);
    let attempts = attempts(&mut keeper, &episodes(0, count), Condition::Normal, LEROBOT)?;
    let kept = keeper.kept;
    let who = LeRobotRun { recorded: true, ..lerobot.versions() };
    let (n_action_steps, noise_len) = (lerobot.n_action_steps(), lerobot.noise_len());
    let recording = Recording::of(&attempts, &kept, who, checkpoint_sha256, n_action_steps, noise_len)?;
    let file = mini_recording();
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    put(&file, &recording.bytes()?)?;
    let succeeded = recording.periods.iter().flatten().count();
    // Whoever reads may stop reading.
    let _ = writeln!(out, "LeRobot finished {succeeded} of {count} episodes: {}", file.display());
    Ok(())
}

fn start(python: &Path, checkpoint: &Path, arguments: &Arguments) -> Result<LeRobot, String> {
    say("starting LeRobot");
    LeRobot::start(python, checkpoint, threads(arguments))
}

/// The Python that is named, else that of the reference's own environment.
fn python(arguments: &Arguments) -> Option<PathBuf> {
    if arguments.recorded {
        return None;
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/reference/.venv/bin/python");
    arguments.python.clone().or_else(|| own.is_file().then_some(own))
}

fn threads(arguments: &Arguments) -> usize {
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    arguments.threads.map_or_else(all, |threads| threads as usize)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn shadow(words: &[&str], episodes: usize) -> Result<(usize, Vec<String>), String> {
        let words = ["rollout"].iter().chain(words);
        recorded_shadow(&Arguments::parse_from(words), 40, episodes)
    }

    #[test]
    fn fewer_compared_actions_than_expected_are_told_and_than_asked_for_refused() {
        assert_eq!(shadow(&[], 200).unwrap(), (40, Vec::new()));
        assert_eq!(shadow(&["--shadow", "40"], 10).unwrap(), (10, Vec::new()));
        assert_eq!(shadow(&["--first-seed", "20", "--shadow", "20"], 200).unwrap(), (20, Vec::new()));
        let (count, notes) = shadow(&["--first-seed", "30"], 200).unwrap();
        assert!(count == 10 && notes[0].contains("on 10 episodes instead of 40"), "{notes:?}");
        assert_eq!(shadow(&["--first-seed", "300"], 200).unwrap().0, 0);
        assert_eq!(shadow(&["--first-seed", "300", "--shadow", "0"], 200).unwrap(), (0, Vec::new()));
        assert!(shadow(&["--shadow", "41"], 200).unwrap_err().contains("--shadow 41"));
        assert!(
            shadow(&["--shadow", "1", "--first-seed", "40"], 200).unwrap_err().contains("first 40 seeds")
        );
    }
}
