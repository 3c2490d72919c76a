//! What LeRobot did, kept in a file: so that machines without Python can compare with it.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize};
use smolvla_tabletop::{ACTION_DIM, Attempt, CHUNK, LIMIT, Moment, Predictor};

use super::Failure;
use super::shadow::{KeptPrediction, seen_sha256};
use crate::golden::{Golden, GoldenError};
use crate::report::LeRobotRun;

/// Episodes whose actions are kept; of the others only how they ended.
pub const KEPT: usize = 40;

/// The widest action that a policy may have; no file makes this program allocate more.
const WIDEST_ACTION: usize = 1024;

/// LeRobot's episodes on the seeds 0, 1, 2, …
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Who it was.
    pub lerobot: LeRobotRun,
    /// What it ran: [`super::checkpoint_sha256`].
    pub checkpoint_sha256: String,
    /// Actions carried out of each chunk.
    pub n_action_steps: usize,
    /// Numbers of noise a chunk starts from.
    pub noise_len: usize,
    /// By seed: periods until the goal was reached, `None` where time ran out.
    pub periods: Vec<Option<usize>>,
    /// Of the first [`KEPT`] seeds: the executed actions of each chunk, `[n_action_steps, ACTION_DIM]`.
    pub actions: Vec<Vec<Vec<f32>>>,
    /// Of the same seeds: what it saw, as [`seen_sha256`].
    pub seen_sha256: Vec<String>,
}

impl Recording {
    /// What to keep of attempts at the seeds from 0 on. `kept` has all predictions for the first [`KEPT`].
    ///
    /// # Errors
    /// As [`seen_sha256`].
    pub fn of(
        attempts: &[Attempt],
        kept: &[KeptPrediction],
        lerobot: LeRobotRun,
        checkpoint_sha256: String,
        n_action_steps: usize,
        noise_len: usize,
    ) -> Result<Self, String> {
        let executed = |chunk: &Vec<f32>| chunk[..n_action_steps * ACTION_DIM].to_vec();
        let first = attempts.len().min(KEPT);
        Ok(Self {
            lerobot,
            checkpoint_sha256,
            n_action_steps,
            noise_len,
            periods: attempts.iter().map(super::finished).collect(),
            actions: attempts[..first]
                .iter()
                .map(|attempt| attempt.chunks.iter().map(executed).collect())
                .collect(),
            seen_sha256: (0..first).map(|episode| seen_sha256(kept, episode)).collect::<Result<_, _>>()?,
        })
    }

    /// Reads a recording.
    ///
    /// # Errors
    /// A message that names the file and what is wrong with it.
    pub fn open(file: &Path) -> Result<Self, String> {
        Self::read(file).map_err(|error| error.to_string())
    }

    fn read(file: &Path) -> Result<Self, GoldenError> {
        let golden = Golden::open(file)?;
        let fail = |reason: String| GoldenError { file: file.to_owned(), reason };
        let size = |key: &str, smallest: usize, largest: usize| -> Result<usize, GoldenError> {
            let text = golden.metadata(key)?;
            text.parse()
                .ok()
                .filter(|size| (smallest..=largest).contains(size))
                .ok_or_else(|| fail(format!("{key} is {text:?}; expected {smallest} to {largest}")))
        };
        let n_action_steps = size("n_action_steps", 1, CHUNK)?;
        let noise_len = size("noise_len", CHUNK * ACTION_DIM, CHUNK * WIDEST_ACTION)?;
        let periods = golden.i64("periods")?.1.iter().map(|number| periods(*number));
        let periods: Vec<Option<usize>> = periods.collect::<Result<_, _>>().map_err(fail)?;
        let (counts, values) = (golden.i64("chunks")?.1, golden.f32("actions")?.1);
        let actions = actions(counts, values, n_action_steps, &periods).map_err(fail)?;
        let seen_sha256: Vec<String> =
            golden.metadata("seen_sha256")?.split_whitespace().map(str::to_owned).collect();
        if seen_sha256.len() != actions.len() {
            let (hashes, kept) = (seen_sha256.len(), actions.len());
            return Err(fail(format!("{hashes} hashes of what was seen in {kept} episodes")));
        }
        Ok(Self {
            lerobot: LeRobotRun {
                lerobot: golden.metadata("lerobot")?.to_owned(),
                torch: golden.metadata("torch")?.to_owned(),
                recorded: true,
                threads: None,
            },
            checkpoint_sha256: golden.metadata("checkpoint_sha256")?.to_owned(),
            n_action_steps,
            noise_len,
            periods,
            actions,
            seen_sha256,
        })
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// When the numbers cannot be laid out as tensors.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        let ended = self.periods.iter().map(|periods| periods.map_or(-1, |periods| periods as i64));
        let ended: Vec<u8> = ended.flat_map(i64::to_le_bytes).collect();
        let counts: Vec<u8> =
            self.actions.iter().flat_map(|chunks| (chunks.len() as i64).to_le_bytes()).collect();
        let chunks: Vec<&Vec<f32>> = self.actions.iter().flatten().collect();
        let values: Vec<u8> =
            chunks.iter().flat_map(|chunk| chunk.iter()).flat_map(|v| v.to_le_bytes()).collect();
        let view = |dtype, shape: Vec<usize>, data| {
            TensorView::new(dtype, shape, data).map_err(|error| error.to_string())
        };
        let views = [
            ("periods", view(Dtype::I64, vec![self.periods.len()], &ended)?),
            ("chunks", view(Dtype::I64, vec![self.actions.len()], &counts)?),
            ("actions", view(Dtype::F32, vec![chunks.len(), self.n_action_steps, ACTION_DIM], &values)?),
        ];
        let metadata = HashMap::from([
            ("lerobot".to_owned(), self.lerobot.lerobot.clone()),
            ("torch".to_owned(), self.lerobot.torch.clone()),
            ("checkpoint_sha256".to_owned(), self.checkpoint_sha256.clone()),
            ("seen_sha256".to_owned(), self.seen_sha256.join(" ")),
            ("n_action_steps".to_owned(), self.n_action_steps.to_string()),
            ("noise_len".to_owned(), self.noise_len.to_string()),
        ]);
        serialize(views, Some(metadata)).map_err(|error| error.to_string())
    }

    /// Refuses a checkpoint that is not the recorded one.
    ///
    /// # Errors
    /// Names both and says what to do.
    pub fn check(&self, checkpoint_sha256: &str) -> Result<(), String> {
        if self.checkpoint_sha256 == checkpoint_sha256 {
            return Ok(());
        }
        Err(format!(
            "the recorded results of LeRobot are of a checkpoint with the SHA-256 {}, this one's is \
             {checkpoint_sha256}: run LeRobot itself with --python, or record anew with --record",
            self.checkpoint_sha256
        ))
    }

    /// How the episodes of the seeds from `first_seed` on ended.
    ///
    /// # Errors
    /// Where not all of them are recorded.
    pub fn ended(&self, first_seed: u64, episodes: usize) -> Result<&[Option<usize>], String> {
        slice(&self.periods, first_seed, episodes).ok_or_else(|| {
            format!(
                "LeRobot's results are recorded for the seeds 0 to {}; ask for fewer episodes, or run LeRobot itself \
                 with --python",
                self.periods.len().saturating_sub(1)
            )
        })
    }

    /// A policy that does again what LeRobot did at the seeds from `first_seed` on.
    ///
    /// # Errors
    /// Where the actions of so many are not recorded.
    pub fn replay(&self, first_seed: u64, episodes: usize) -> Result<Replay, String> {
        let actions = slice(&self.actions, first_seed, episodes).ok_or_else(|| self.too_few())?;
        Ok(Replay {
            actions: actions.to_vec(),
            n_action_steps: self.n_action_steps,
            noise_len: self.noise_len,
        })
    }

    /// What LeRobot saw at the seeds from `first_seed` on, each as [`seen_sha256`].
    ///
    /// # Errors
    /// As [`Recording::replay`].
    pub fn seen_sha256(&self, first_seed: u64, episodes: usize) -> Result<&[String], String> {
        slice(&self.seen_sha256, first_seed, episodes).ok_or_else(|| self.too_few())
    }

    fn too_few(&self) -> String {
        format!(
            "LeRobot's actions are recorded for the first {} seeds only; run LeRobot itself with --python",
            self.actions.len()
        )
    }
}

fn slice<T>(values: &[T], first: u64, count: usize) -> Option<&[T]> {
    let first = usize::try_from(first).ok()?;
    values.get(first..first.checked_add(count)?)
}

/// The file's number of periods, -1 where time ran out.
fn periods(number: i64) -> Result<Option<usize>, String> {
    match usize::try_from(number) {
        Ok(periods @ 1..=LIMIT) => Ok(Some(periods)),
        _ if number == -1 => Ok(None),
        _ => Err(format!("an episode ended after {number} periods; expected 1 to {LIMIT}, or -1")),
    }
}

/// The executed actions by episode and chunk: as many chunks as the episode's periods take.
fn actions(
    counts: &[i64],
    values: &[f32],
    n_action_steps: usize,
    periods: &[Option<usize>],
) -> Result<Vec<Vec<Vec<f32>>>, String> {
    if counts.len() > periods.len() {
        return Err(format!("actions of {} episodes, but ends of {} only", counts.len(), periods.len()));
    }
    let chunks = |ended: &Option<usize>| ended.unwrap_or(LIMIT).div_ceil(n_action_steps);
    for (seed, (count, ended)) in counts.iter().zip(periods).enumerate() {
        let expected = chunks(ended);
        if usize::try_from(*count) != Ok(expected) {
            return Err(format!("seed {seed} has {count} chunks of actions; its periods take {expected}"));
        }
    }
    let counts: Vec<usize> = periods[..counts.len()].iter().map(chunks).collect();
    let width = n_action_steps * ACTION_DIM;
    if values.len() != width * counts.iter().sum::<usize>() {
        return Err("`actions` are not as many as `chunks` says".to_owned());
    }
    if values.iter().any(|value| !value.is_finite()) {
        return Err("`actions` are not all finite".to_owned());
    }
    let mut chunks = values.chunks_exact(width).map(<[f32]>::to_vec);
    Ok(counts.iter().map(|count| chunks.by_ref().take(*count).collect()).collect())
}

/// Does again what was recorded, whatever it sees.
#[derive(Clone, Debug)]
pub struct Replay {
    actions: Vec<Vec<Vec<f32>>>,
    n_action_steps: usize,
    noise_len: usize,
}

impl Predictor for Replay {
    type Error = Failure;

    fn predict(&mut self, moments: &[Moment<'_>]) -> Result<Vec<Vec<f32>>, Failure> {
        let whole = |moment: &Moment<'_>| {
            // Another world than the recorded one may last longer; the comparison of its end shows it.
            let recorded = self.actions.get(moment.episode).and_then(|chunks| chunks.get(moment.chunk));
            let mut chunk = recorded.cloned().unwrap_or_default();
            // Beyond what is carried out nothing is recorded.
            chunk.resize(CHUNK * ACTION_DIM, 0.0);
            chunk
        };
        Ok(moments.iter().map(whole).collect())
    }

    fn noise_len(&self) -> usize {
        self.noise_len
    }

    fn n_action_steps(&self) -> usize {
        self.n_action_steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording() -> Recording {
        Recording {
            lerobot: LeRobotRun {
                lerobot: "0.6.1".to_owned(),
                torch: "2.8.0".to_owned(),
                recorded: true,
                threads: None,
            },
            checkpoint_sha256: "abc".to_owned(),
            n_action_steps: 2,
            noise_len: 64,
            periods: vec![Some(3), None, Some(8)],
            actions: vec![vec![vec![1.0; 6], vec![2.0; 6]], vec![vec![3.0; 6]; LIMIT / 2]],
            seen_sha256: vec!["12".repeat(32), "34".repeat(32)],
        }
    }

    /// What becomes of a recording that is written and read again.
    fn reread(recording: &Recording) -> Result<Recording, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lerobot.safetensors");
        std::fs::write(&file, recording.bytes().unwrap()).unwrap();
        Recording::open(&file)
    }

    #[test]
    fn recording_survives_its_file() {
        assert_eq!(reread(&recording()).unwrap(), recording());
    }

    #[test]
    fn recording_refuses_another_checkpoint_and_seeds_it_lacks() {
        let recording = recording();
        recording.check("abc").unwrap();
        assert!(recording.check("abd").unwrap_err().contains("--record"));
        assert_eq!(recording.ended(1, 2).unwrap(), [None, Some(8)]);
        assert!(recording.ended(1, 3).unwrap_err().contains("seeds 0 to 2"));
        assert!(recording.ended(u64::MAX, 3).is_err());
        recording.replay(0, 2).unwrap();
        recording.replay(1, 1).unwrap();
        assert!(recording.replay(0, 3).unwrap_err().contains("first 2 seeds"));
        assert!(recording.replay(u64::MAX, 1).is_err());
    }

    #[test]
    fn recording_that_is_broken_is_refused_with_its_name_and_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lerobot.safetensors");
        std::fs::write(&file, "short").unwrap();
        assert!(Recording::open(&file).unwrap_err().contains("lerobot.safetensors"));
        let refused = |change: &dyn Fn(&mut Recording), reason: &str| {
            let mut broken = recording();
            change(&mut broken);
            let error = reread(&broken).unwrap_err();
            assert!(error.contains("lerobot.safetensors") && error.contains(reason), "{reason}: {error}");
        };
        refused(&|it| it.noise_len = CHUNK * ACTION_DIM - 1, "noise_len");
        refused(&|it| it.noise_len = usize::MAX, "noise_len");
        refused(&|it| it.periods[0] = Some(0), "after 0 periods");
        refused(&|it| it.periods[2] = Some(LIMIT + 1), "after 121 periods");
        refused(&|it| it.periods[2] = Some((-7_i64) as usize), "after -7 periods");
        refused(&|it| it.periods.truncate(1), "ends of 1 only");
        refused(&|it| it.periods[0] = Some(5), "seed 0 has 2 chunks");
        refused(&|it| drop(it.actions[1].pop()), "seed 1 has 59 chunks");
        refused(&|it| it.actions[0][1][5] = f32::NAN, "not all finite");
        refused(&|it| drop(it.seen_sha256.pop()), "1 hashes");
    }

    #[test]
    fn recording_with_absurd_sizes_is_refused_before_they_are_used() {
        // What `bytes` would not write: numbers in the file that the tensors in it do not bear out.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lerobot.safetensors");
        let refused = |n_action_steps: &str, counts: [i64; 2], reason: &str| {
            let numbers = |values: &[i64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
            let (ended, counts, values) = (numbers(&[3, -1]), numbers(&counts), vec![0; 24]);
            let view = |dtype, shape, data| TensorView::new(dtype, shape, data).unwrap();
            let views = [
                ("periods", view(Dtype::I64, vec![2], &ended)),
                ("chunks", view(Dtype::I64, vec![2], &counts)),
                ("actions", view(Dtype::F32, vec![1, 2, 3], &values)),
            ];
            let metadata = [("n_action_steps", n_action_steps), ("noise_len", "64")];
            let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
            std::fs::write(&file, serialize(views, Some(HashMap::from(metadata))).unwrap()).unwrap();
            let error = Recording::open(&file).unwrap_err();
            assert!(error.contains(reason), "{error}");
        };
        refused("0", [2, 60], "n_action_steps");
        refused("17", [1, 8], "n_action_steps");
        refused("9223372036854775807", [2, 60], "n_action_steps");
        refused("2", [i64::MAX, i64::MAX], "seed 0 has 9223372036854775807 chunks");
        refused("2", [-2, 60], "seed 0 has -2 chunks");
        refused("2", [2, 60], "not as many");
    }
}
