//! Demonstrations: what the expert saw and did, for training.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::episode::{Episode, Split};
use crate::geometry::{Colour, Corner, Point, TABLE_CM};
use crate::instruction::{Goal, Instruction};
use crate::random::{Random, Use};
use crate::render::{Camera, SIDE, render};
use crate::world::{
    ACTION_DIM, ACTION_NAMES, Judge, LIMIT, Outcome, PERIOD_S, STATE_DIM, STATE_NAMES, World,
};
use crate::{expert, files};

/// Actions of a demonstration's chunk, and of the policy's.
pub const CHUNK: usize = 16;
/// What `dataset.json` says it is.
const FORMAT: u32 = 1;
/// There while a recording is under way, so that the next one knows the files of one that was interrupted.
const UNFINISHED: &str = "unfinished";
/// Episodes whose samples share a file.
const EPISODES_A_FILE: u64 = 800;
/// One period in so many is recorded: on the way to the block, where the words matter, and at it, where most time goes.
const EVERY: [usize; 2] = [2, 6];
/// From the gripper to the block while it is on the way, at least.
const ON_THE_WAY_CM: f64 = 2.5;
/// Periods recorded of the time after the goal was reached.
const AFTERWARDS: usize = 6;
/// How likely the gripper is put elsewhere in a period.
const PUT: f64 = 0.05;
/// How likely that is over a block other than the one meant: without it, being over a block would mean being right.
const PUT_OVER_ANOTHER: f64 = 0.5;
/// How likely the gripper is shoved in a period, and by how much at most, in cm/s.
const SHOVE: (f64, f64) = (0.06, 14.0);
/// How likely the expert presses or lifts by mistake in a period.
const SLIP: f64 = 0.01;

/// Demonstrations that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct RecordError {
    path: PathBuf,
    source: io::Error,
}

/// How much was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Episodes.
    pub episodes: u64,
    /// Samples of them.
    pub samples: usize,
}

/// Samples of some episodes, by column.
#[derive(Default)]
struct Samples {
    pictures: [Vec<u8>; 2],
    state: Vec<f32>,
    actions: Vec<f32>,
    instruction: Vec<i32>,
    goal: Vec<i32>,
    blocks: Vec<f32>,
    episode: Vec<i32>,
}

/// Records the episodes `0..episodes` of [`Split::Training`] into `folder`: `dataset.json`, and files of samples.
///
/// Now and then the expert is shoved, slips, or finds itself elsewhere, so that the data holds ways back. A sample has both
/// pictures, the state, the instruction, and the chunk of actions the expert would do from there undisturbed. `progress` is
/// told how many episodes are done. `dataset.json` is written last: where it is, the rest is.
///
/// An earlier recording in `folder` is replaced, whole or interrupted.
///
/// # Errors
/// When a file cannot be written, or `folder` has samples that are of no recording; the error names it.
pub fn record(folder: &Path, episodes: u64, progress: &mut dyn FnMut(u64)) -> Result<Recorded, RecordError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RecordError { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let description = folder.join("dataset.json");
    let unfinished = folder.join(UNFINISHED);
    clear(folder, &description, &unfinished).map_err(failed(folder))?;
    let mut files = Vec::new();
    let mut total = 0;
    for first in (0..episodes).step_by(EPISODES_A_FILE as usize) {
        let mut samples = Samples::default();
        for seed in first..episodes.min(first + EPISODES_A_FILE) {
            samples.demonstrate(seed);
            progress(seed + 1);
        }
        let name = format!("samples-{:03}.safetensors", files.len());
        let path = folder.join(&name);
        samples.write(&path).map_err(failed(&path))?;
        total += samples.episode.len();
        files.push(name);
    }
    let instructions: Vec<String> = Instruction::all().into_iter().map(|one| one.text).collect();
    let text = json!({
        "format": FORMAT,
        "episodes": episodes,
        "samples": total,
        "period_s": PERIOD_S,
        "chunk": CHUNK,
        "side": SIDE,
        "state_names": STATE_NAMES,
        "action_names": ACTION_NAMES,
        "colours": Colour::ALL.map(Colour::name),
        "instructions": instructions,
        "files": files,
    });
    files::write(&description, format!("{text:#}\n").as_bytes()).map_err(failed(&description))?;
    fs::remove_file(&unfinished).map_err(failed(&unfinished))?;
    Ok(Recorded { episodes, samples: total })
}

/// Removes an earlier recording, its description first, and leaves the mark of one that is under way.
fn clear(folder: &Path, description: &Path, unfinished: &Path) -> io::Result<()> {
    let mut samples = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("samples-") && name.ends_with(".safetensors") {
            samples.push(path);
        }
    }
    if !samples.is_empty() && !description.exists() && !unfinished.exists() {
        let reason = "it has samples-*.safetensors but no dataset.json, so they are of something else; name another \
                      folder, or move them";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
    }
    fs::write(unfinished, "These samples are incomplete.\n")?;
    if description.exists() {
        fs::remove_file(description)?;
    }
    samples.into_iter().try_for_each(fs::remove_file)
}

impl Samples {
    fn demonstrate(&mut self, seed: u64) {
        let Episode { mut world, instruction, .. } = Episode::new(Split::Training, seed);
        let goal = instruction.goal;
        let mut random = Random::new(Split::Training, seed, Use::Demonstration);
        let known = Instruction::all();
        let instruction = known.iter().position(|one| *one == instruction).unwrap_or_default();
        let mut wait = random.below(EVERY[0]);
        let mut judge = Judge::new(goal);
        let mut remaining = LIMIT;
        while remaining > 0 {
            if random.chance(PUT) {
                put_elsewhere(&mut world, goal, &mut random);
            }
            if wait > 0 {
                wait -= 1;
            } else {
                wait = EVERY[usize::from(!on_the_way(&world, goal))] - 1;
                for (camera, pictures) in Camera::ALL.into_iter().zip(&mut self.pictures) {
                    pictures.extend(render(&world, camera, SIDE));
                }
                self.state.extend(world.state());
                self.actions.extend(expert::plan(&world, goal, CHUNK).into_iter().flatten());
                self.instruction.push(instruction as i32);
                self.goal.extend([kind(goal), goal.colour().index() as i32]);
                for colour in Colour::ALL {
                    let centre =
                        world.block(colour).map_or(Point::new(f64::NAN, f64::NAN), |block| block.centre);
                    self.blocks.extend([centre.x as f32, centre.y as f32]);
                }
                self.episode.push(seed as i32);
            }
            if random.chance(SHOVE.0) {
                world.shove(random.point(Point::new(-SHOVE.1, -SHOVE.1), Point::new(SHOVE.1, SHOVE.1)));
            }
            let mut action = expert::act(&world, goal);
            if random.chance(SLIP) {
                action[2] = 1.0 - action[2];
            }
            let carried_out = world.step(&action);
            debug_assert!(carried_out.is_ok(), "the expert's actions are finite");
            remaining -= 1;
            if matches!(judge.look(&world), Some(Outcome::Success { .. })) {
                remaining = remaining.min(AFTERWARDS);
            }
        }
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let count = self.episode.len();
        let state = bytes(&self.state, f32::to_le_bytes);
        let actions = bytes(&self.actions, f32::to_le_bytes);
        let blocks = bytes(&self.blocks, f32::to_le_bytes);
        let instruction = bytes(&self.instruction, i32::to_le_bytes);
        let goal = bytes(&self.goal, i32::to_le_bytes);
        let episode = bytes(&self.episode, i32::to_le_bytes);
        let columns: [(&str, Dtype, Vec<usize>, &[u8]); 8] = [
            ("top", Dtype::U8, vec![count, SIDE, SIDE, 3], &self.pictures[0]),
            ("wrist", Dtype::U8, vec![count, SIDE, SIDE, 3], &self.pictures[1]),
            ("state", Dtype::F32, vec![count, STATE_DIM], &state),
            ("actions", Dtype::F32, vec![count, CHUNK, ACTION_DIM], &actions),
            ("instruction", Dtype::I32, vec![count], &instruction),
            ("goal", Dtype::I32, vec![count, 2], &goal),
            ("blocks", Dtype::F32, vec![count, Colour::ALL.len(), 2], &blocks),
            ("episode", Dtype::I32, vec![count], &episode),
        ];
        let mut views = Vec::with_capacity(columns.len());
        for (name, dtype, shape, data) in columns {
            views.push((name, TensorView::new(dtype, shape, data).map_err(io::Error::other)?));
        }
        let file = safetensors::serialize(views, None).map_err(io::Error::other)?;
        files::write(path, &file)
    }
}

fn on_the_way(world: &World, goal: Goal) -> bool {
    world.block(goal.colour()).is_some_and(|block| {
        block.centre.distance(world.gripper()) > ON_THE_WAY_CM && world.held() != Some(block)
    })
}

/// Lifts the gripper and puts it anywhere, or over a block that is not meant.
fn put_elsewhere(world: &mut World, goal: Goal, random: &mut Random) {
    let others: Vec<Point> = world
        .blocks()
        .iter()
        .filter(|block| block.colour != goal.colour())
        .map(|block| block.centre)
        .collect();
    let place = if random.chance(PUT_OVER_ANOTHER) {
        let about = random.point(Point::new(-2.5, -2.5), Point::new(2.5, 2.5));
        others[random.below(others.len())] + about
    } else {
        random.point(Point::default(), Point::new(TABLE_CM, TABLE_CM))
    };
    let velocity = random.point(Point::new(-SHOVE.1, -SHOVE.1), Point::new(SHOVE.1, SHOVE.1));
    world.put(place.on_table(0.0), velocity);
}

/// The goal's kind as the data has it.
fn kind(goal: Goal) -> i32 {
    match goal {
        Goal::Reach(_) => 0,
        Goal::Push(_, Corner::Left) => 1,
        Goal::Push(_, Corner::Right) => 2,
    }
}

fn bytes<T: Copy>(values: &[T], of: fn(T) -> [u8; 4]) -> Vec<u8> {
    values.iter().flat_map(|&value| of(value)).collect()
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn a_recording_has_what_its_description_says() {
        let folder = tempfile::tempdir().unwrap();
        let mut told = Vec::new();
        let recorded = record(folder.path(), 3, &mut |done| told.push(done)).unwrap();
        assert_eq!((recorded.episodes, told), (3, vec![1, 2, 3]));
        let text = fs::read_to_string(folder.path().join("dataset.json")).unwrap();
        let description: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(description["samples"], recorded.samples);
        let bytes = fs::read(folder.path().join("samples-000.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let actions = tensors.tensor("actions").unwrap();
        assert_eq!(actions.shape(), [recorded.samples, CHUNK, ACTION_DIM]);
        assert_eq!(tensors.tensor("top").unwrap().shape(), [recorded.samples, SIDE, SIDE, 3]);
        // The first sample's instruction is one of those listed, and is that episode's.
        let index = tensors.tensor("instruction").unwrap().data()[0];
        let episode = Episode::new(Split::Training, 0);
        assert_eq!(description["instructions"][usize::from(index)], episode.instruction.text);
    }

    #[test]
    fn a_recording_replaces_another_whole_or_interrupted_and_nothing_else() {
        for left in ["dataset.json", UNFINISHED] {
            let folder = tempfile::tempdir().unwrap();
            let file = |name: &str| folder.path().join(name);
            for name in ["samples-007.safetensors", "notes.txt", left] {
                fs::write(file(name), "old").unwrap();
            }
            record(folder.path(), 1, &mut |_| ()).unwrap();
            assert!(!file("samples-007.safetensors").exists() && !file(UNFINISHED).exists());
            assert!(file("notes.txt").exists() && file("dataset.json").exists());
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("samples-of-mine.safetensors");
        fs::write(&file, "mine").unwrap();
        let error = record(folder.path(), 1, &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("of something else"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    }

    #[test]
    fn recording_twice_gives_the_same_bytes() {
        let read = || {
            let folder = tempfile::tempdir().unwrap();
            record(folder.path(), 2, &mut |_| ()).unwrap();
            fs::read(folder.path().join("samples-000.safetensors")).unwrap()
        };
        assert_eq!(read(), read());
    }
}
