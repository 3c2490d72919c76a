//! What policies did on the table, as data; its serialised form is `rollout.json`.
//!
//! `cargo xtask rollout` writes it, and `conform --rollout FILE` puts it into a conformance report.

mod words;

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use self::words::{BEHAVIOUR_NOTE, COLUMNS, SWAPPED_AT_MOST};

/// What [`Behaviour::kind`] holds: tells `rollout.json` from any other JSON file.
pub const BEHAVIOUR_KIND: &str = "smolvla rollout";

/// Raised whenever a field of [`Behaviour`] changes its name or meaning.
pub const BEHAVIOUR_FORMAT: u32 = 2;

/// Episodes that several contestants and LeRobot tried, each on the same seeds and from the same noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Behaviour {
    /// [`BEHAVIOUR_KIND`].
    pub kind: String,
    /// Version of this format.
    pub format: u32,
    /// Version of smolvla.
    pub version: String,
    /// When the run began, in UTC: `2026-01-31T12:00:00Z`.
    pub started: String,
    /// How long it took.
    pub wall_s: f64,
    /// The checkpoint, as it was named.
    pub checkpoint: String,
    /// SHA-256 of its files, of those that make the policy.
    pub checkpoint_sha256: String,
    /// Seed of the first episode; the others follow one by one.
    pub first_seed: u64,
    /// Episodes of each contestant.
    pub episodes: usize,
    /// Who LeRobot was.
    pub lerobot: LeRobotRun,
    /// Where the run departs from what its arguments ask for, and why.
    pub notes: Vec<String>,
    /// LeRobot first, then each contestant with its controls.
    pub rows: Vec<BehaviourRow>,
}

/// The LeRobot that contestants are compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeRobotRun {
    /// Version of LeRobot.
    pub lerobot: String,
    /// Version of PyTorch.
    pub torch: String,
    /// Whether its results are from a recording, and not from this run.
    pub recorded: bool,
    /// Its threads; none where its results are recorded.
    pub threads: Option<usize>,
}

/// What a policy is told and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The scene and the instruction as they are.
    Normal,
    /// Control: told of another block and the other corner, while the judge keeps the real instruction.
    Swapped,
    /// Control: shown the first pictures of the episode until its end.
    Frozen,
}

impl Condition {
    /// The word that reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Swapped => "swapped",
            Self::Frozen => "frozen",
        }
    }

    /// Whether the policy ought to do worse than normally.
    pub fn is_control(self) -> bool {
        self != Self::Normal
    }
}

/// One contestant under one condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BehaviourRow {
    /// What tables call it: `cpu:int8`.
    pub label: String,
    /// What it was told and shown.
    pub condition: Condition,
    /// The device and engine.
    pub device: String,
    /// What stood in for the device, if it was not the device itself that computed.
    pub emulated: Option<String>,
    /// The plan by which its linear layers compute.
    pub precision: String,
    /// Another checkpoint than the others', if it ran one.
    pub checkpoint: Option<OtherCheckpoint>,
    /// Observations that went into a prediction at most: a backend may round by their number.
    pub batch: usize,
    /// By episode: periods until the goal was reached, `null` where time ran out.
    pub periods: Vec<Option<usize>>,
    /// Successes.
    pub overall: Rate,
    /// Successes where a block was to be reached.
    pub reach: Rate,
    /// Successes where a block was to be pushed into a corner.
    pub push: Rate,
    /// The same episodes beside LeRobot's; none for LeRobot itself and for controls.
    pub pairs: Option<Pairs>,
    /// Actions beside LeRobot's, where they were compared.
    pub actions: Option<ActionErrors>,
    /// Of a control, whether these episodes show that it does as badly as it must; none of anything else.
    pub control_met: Option<bool>,
    /// What the policy said of its checkpoint and of what it was shown, each once.
    pub notices: Vec<String>,
    /// Why there are no results, where there are none.
    pub failed: Option<String>,
    /// How long its episodes took, with loading; none where they are recorded ones.
    pub wall_s: Option<f64>,
}

/// A contestant's own checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherCheckpoint {
    /// The folder, as it was named.
    pub folder: String,
    /// SHA-256 of its files, of those that make the policy; empty where it could not be read.
    pub sha256: String,
    /// Which of its weights are stored as integers: `33 weights in int8, 20 in int4`; none where none are.
    pub integers: Option<String>,
}

/// How often something succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Successes.
    pub successes: usize,
    /// Attempts.
    pub attempts: usize,
    /// Wilson's 95 % interval of the rate.
    pub interval: (f64, f64),
}

impl Rate {
    /// The share of successes; 0 of no attempts.
    pub fn share(&self) -> f64 {
        self.successes as f64 / self.attempts.max(1) as f64
    }
}

/// Pairs of episodes: the same seed, tried by LeRobot and by the contestant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pairs {
    /// Seeds at which LeRobot alone succeeded.
    pub lost: Vec<u64>,
    /// Seeds at which the contestant alone succeeded.
    pub won: Vec<u64>,
    /// Episodes that ended alike, and after as many periods.
    pub identical: usize,
    /// McNemar's exact test, two-sided: how likely the losses and wins are this uneven if neither is better.
    pub p: f64,
    /// The same, corrected for the number of rows that are tested (Holm).
    pub p_holm: f64,
}

/// How far a contestant's actions are from LeRobot's, on LeRobot's own observations and noise: errors do not compound.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActionErrors {
    /// Episodes whose observations these are.
    pub episodes: usize,
    /// Predictions compared.
    pub moments: usize,
    /// Absolute difference of each velocity in the actions that LeRobot carried out, in cm/s.
    pub velocity_cm_s: Distribution,
    /// Absolute difference of the number that is pressed down above 0.5.
    pub press: Distribution,
    /// Actions of which one presses and the other does not.
    pub press_flips: usize,
}

/// A summary of a set of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Half of them are at most this.
    pub median: f64,
    /// 95 % of them are at most this.
    pub p95: f64,
    /// The largest.
    pub max: f64,
}

impl Behaviour {
    /// Reads `rollout.json`.
    ///
    /// # Errors
    /// A message that names the file, where it cannot be read or holds something else.
    pub fn open(file: &Path) -> Result<Self, String> {
        let fail = |reason: String| format!("{}: {reason}", file.display());
        let text = fs::read_to_string(file).map_err(|error| fail(error.to_string()))?;
        let no_rollout =
            |what: &str| fail(format!("{what}; expected the rollout.json that `cargo xtask rollout` wrote"));
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| no_rollout(&format!("not JSON ({error})")))?;
        if value["kind"] != BEHAVIOUR_KIND {
            return Err(no_rollout("not the results of a rollout"));
        }
        if value["format"] != BEHAVIOUR_FORMAT {
            let found = &value["format"];
            return Err(no_rollout(&format!("has format {found}, this program reads {BEHAVIOUR_FORMAT}")));
        }
        let behaviour: Self =
            serde_json::from_value(value).map_err(|error| no_rollout(&error.to_string()))?;
        behaviour.check().map_err(|reason| no_rollout(&reason))?;
        Ok(behaviour)
    }

    /// Whether its numbers agree with each other.
    fn check(&self) -> Result<(), String> {
        if self.first_seed.checked_add(self.episodes as u64).is_none() {
            return Err(format!("{} episodes from seed {} on", self.episodes, self.first_seed));
        }
        for row in self.rows.iter().filter(|row| row.failed.is_none()) {
            row.check(self.episodes).map_err(|reason| format!("{}: {reason}", row.name()))?;
        }
        Ok(())
    }
}

impl BehaviourRow {
    fn check(&self, episodes: usize) -> Result<(), String> {
        let successes = self.periods.iter().flatten().count();
        let expected = (successes, episodes);
        if self.periods.len() != episodes || (self.overall.successes, self.overall.attempts) != expected {
            let Rate { successes: said, attempts, .. } = self.overall;
            return Err(format!(
                "says {said} of {attempts} successes; its episodes have {successes} of {}, the run {episodes}",
                self.periods.len()
            ));
        }
        let parts = (self.reach.successes + self.push.successes, self.reach.attempts + self.push.attempts);
        if parts != expected {
            return Err(format!(
                "reach and push make {} of {}, not {successes} of {episodes}",
                parts.0, parts.1
            ));
        }
        for rate in [self.overall, self.reach, self.push] {
            let (low, high) = rate.interval;
            let holds = 0.0 <= low && low <= high && high <= 1.0;
            if !holds || (rate.attempts > 0 && !(low <= rate.share() && rate.share() <= high)) {
                return Err(format!("the interval {low} to {high} does not hold {}", rate.share()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_refuses_what_is_no_rollout() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rollout.json");
        let error = Behaviour::open(&file).unwrap_err();
        assert!(error.contains("rollout.json"), "{error}");
        for (text, reason) in [
            ("not json", "not JSON"),
            ("{\"format\": 1}", "not the results of a rollout"),
            ("{\"kind\": \"smolvla rollout\", \"format\": 99}", "has format 99"),
            ("{\"kind\": \"smolvla rollout\", \"format\": 2}", "missing field"),
        ] {
            fs::write(&file, text).unwrap();
            let error = Behaviour::open(&file).unwrap_err();
            assert!(error.contains(reason) && error.contains("cargo xtask rollout"), "{error}");
        }
    }
}
