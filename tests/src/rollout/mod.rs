//! The behaviour tier: whether the robot still does its task, backend by backend, beside LeRobot.
//!
//! Every contestant and LeRobot try the same episodes of the tabletop from the same noise. What differs then is arithmetic,
//! grown in closed loop; what counts is whether the goal is reached. Beside the rates stand LeRobot's own, tests on the
//! pairs, controls that ought to do worse, and how far single predictions are apart. What was emulated is said in every
//! row.

mod chart;
mod checkpoint;
mod contestant;
mod lerobot;
mod progress;
mod recording;
mod results;
mod shadow;
mod statistics;
mod study;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use clap::Parser;
use smolvla_tabletop::ActionError;

pub use self::checkpoint::checkpoint_sha256;
pub use self::contestant::{Contestant, Loaded, Place};
pub use self::lerobot::LeRobot;
pub use self::recording::{KEPT, Recording, Replay};
pub use self::results::replayed;
pub use self::shadow::{KeptPrediction, PredictionKeeper, compare, seen_sha256};
pub use self::statistics::{control_met, correct, distribution, mcnemar, rate, wilson};
pub use self::study::{Baseline, attempts, episodes, finished, pairs, row, study};
use crate::fixtures::target_folder;
use crate::report::{BEHAVIOUR_FORMAT, BEHAVIOUR_KIND, Behaviour, replace};

/// Run policies at the tabletop task beside LeRobot, and count how often they succeed.
#[derive(Parser)]
#[command(name = "rollout", disable_version_flag = true)]
struct Arguments {
    /// Checkpoint of a policy for the table [default: assets/mini of the repository]
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Contestants, with commas between: a backend as `smolvla run` takes it and, after a colon, a precision (cpu:int8,
    /// tt:fast, wgpu:1:f16)
    #[arg(long, value_name = "BACKEND[:PRECISION],…", value_delimiter = ',', default_value = "cpu")]
    backends: Vec<String>,
    /// One more contestant on a checkpoint of its own, as a quantised copy; its precision.json is used where no precision is
    /// named (repeatable)
    #[arg(long, value_name = "LABEL=BACKEND[:PRECISION]@DIR")]
    also: Vec<String>,
    /// Episodes of each contestant [default: 200; with --record 500]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    episodes: Option<u32>,
    /// Seed of the first episode
    #[arg(long, value_name = "SEED", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..1 << 48))]
    first_seed: u64,
    /// Python with LeRobot [default: that of tools/reference/setup.sh where it is there, else LeRobot's recorded results]
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Use LeRobot's recorded results even where Python is there
    #[arg(long, conflicts_with_all = ["python", "record", "threads"])]
    recorded: bool,
    /// Threads of LeRobot [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Controls for the first contestant: told another instruction, and shown its first pictures until the end
    #[arg(long)]
    controls: bool,
    /// Controls for every contestant
    #[arg(long)]
    all_controls: bool,
    /// Compare the actions on what LeRobot saw in the first episodes, up to so many; 0 for none [default: 40, or as many as
    /// are recorded]
    #[arg(long, value_name = "N")]
    shadow: Option<u32>,
    /// Observations that go into a prediction; always 1 where a backend compiles for shapes
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Only run LeRobot on assets/mini, from seed 0 on, and write tests/fixtures/mini/lerobot.safetensors
    #[arg(long, conflicts_with_all = [
        "checkpoint", "backends", "also", "first_seed", "controls", "all_controls", "shadow", "batch", "out",
    ])]
    record: bool,
    /// Folder for rollout.json, rollout.md and rollout.svg [default: rollout in the build's target folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What went wrong, for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self(message)
    }
}

impl From<ActionError> for Failure {
    fn from(error: ActionError) -> Self {
        Self(error.to_string())
    }
}

impl From<smolvla_core::Error> for Failure {
    fn from(error: smolvla_core::Error) -> Self {
        Self(error.to_string())
    }
}

/// The program. Exit codes: 0 written; 1 written, but a control did not show what it is there for; 2 something given is wrong
/// or failed. Where contestants failed, all else is written.
pub fn main() -> ExitCode {
    match perform(&Arguments::parse(), &mut io::stdout()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            // Standard error may be closed; the exit code says it all the same.
            let _ = writeln!(io::stderr(), "error: {message}");
            ExitCode::from(2)
        }
    }
}

/// The checkpoint of this repository that is made for the table.
pub fn mini_checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/mini")
}

/// What LeRobot did with [`mini_checkpoint`].
pub fn mini_recording() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/mini/lerobot.safetensors")
}

/// Whether every control that ran shows what it is there for.
fn perform(arguments: &Arguments, out: &mut dyn io::Write) -> Result<bool, String> {
    let checkpoint = arguments.checkpoint.clone().unwrap_or_else(mini_checkpoint);
    let checkpoint_sha256 = checkpoint_sha256(&checkpoint)?;
    if arguments.record {
        return results::record(arguments, &checkpoint, checkpoint_sha256, out).map(|()| true);
    }
    let (started, clock) = (SystemTime::now(), Instant::now());
    // All of them before any runs: a misspelt name should not be found out after an hour.
    let contestants = contestants(arguments)?;
    let folder = arguments.out.clone().unwrap_or_else(|| target_folder().join("rollout"));
    std::fs::create_dir_all(&folder).map_err(|error| format!("--out {}: {error}", folder.display()))?;
    let count = arguments.episodes.unwrap_or(200) as usize;
    let episodes = episodes(arguments.first_seed, count);
    let lerobot = results::lerobot(arguments, &checkpoint, &checkpoint_sha256, &episodes)?;
    let mut behaviour = Behaviour {
        kind: BEHAVIOUR_KIND.to_owned(),
        format: BEHAVIOUR_FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: humantime::format_rfc3339_seconds(started).to_string(),
        wall_s: clock.elapsed().as_secs_f64(),
        checkpoint: match &arguments.checkpoint {
            Some(folder) => folder.display().to_string(),
            None => "assets/mini".to_owned(),
        },
        checkpoint_sha256,
        first_seed: arguments.first_seed,
        episodes: count,
        lerobot: lerobot.who.clone(),
        notes: lerobot.notes.clone(),
        rows: vec![lerobot.row(&episodes)],
    };
    behaviour.notes.iter().for_each(|note| say(note));
    write(&folder, &behaviour)?;
    let baseline = Baseline {
        checkpoint: &checkpoint,
        episodes: &episodes,
        periods: &lerobot.periods,
        kept: &lerobot.kept,
        n_action_steps: lerobot.n_action_steps,
        noise_len: lerobot.noise_len,
    };
    let mut failed = Vec::new();
    for (index, contestant) in contestants.into_iter().enumerate() {
        let controls = arguments.all_controls || (arguments.controls && index == 0);
        let rows = study(contestant, controls, &baseline, arguments.batch as usize);
        for row in &rows {
            if let Some(reason) = &row.failed {
                say(&format!("{} failed: {reason}", row.name()));
                failed.push(row.name());
            }
        }
        behaviour.rows.extend(rows);
        correct(&mut behaviour.rows);
        behaviour.wall_s = clock.elapsed().as_secs_f64();
        // After each contestant: what has been computed is not lost when the rest is stopped.
        write(&folder, &behaviour)?;
    }
    // Whoever reads may stop reading.
    let _ = writeln!(out, "{}", behaviour.to_markdown());
    let _ = writeln!(out, "written to {}", folder.display());
    let mut all_met = true;
    for row in &behaviour.rows {
        if let Some(remark) = behaviour.unmet_control(row) {
            all_met = false;
            say(&format!("{}: {remark}", row.name()));
        }
    }
    match failed.is_empty() {
        true => Ok(all_met),
        false => Err(format!("without results: {}; the rest is written", failed.join("; "))),
    }
}

fn contestants(arguments: &Arguments) -> Result<Vec<Contestant>, String> {
    let mut contestants: Vec<Contestant> =
        arguments.backends.iter().map(|name| Contestant::open(name)).collect::<Result<_, _>>()?;
    for text in &arguments.also {
        contestants.push(Contestant::open_also(text)?);
    }
    for (index, contestant) in contestants.iter().enumerate() {
        if contestants[..index].iter().any(|other| other.label == contestant.label) {
            return Err(format!("{}: there are two contestants of this name", contestant.label));
        }
    }
    Ok(contestants)
}

/// A line beside the results.
fn say(line: &str) {
    // Standard error may be closed: nobody wants to know then.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes all three files, each aside and then in place.
fn write(folder: &Path, behaviour: &Behaviour) -> Result<(), String> {
    // The numbers first.
    let json = behaviour.to_json().map_err(|error| format!("rollout.json: {error}"))?;
    put(&folder.join("rollout.json"), &json)?;
    put(&folder.join("rollout.md"), behaviour.to_markdown().as_bytes())?;
    put(&folder.join("rollout.svg"), chart::svg(behaviour)?.as_bytes())
}

fn put(file: &Path, bytes: &[u8]) -> Result<(), String> {
    replace(file, bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
