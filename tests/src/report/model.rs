//! What a run of the suite found, as data; its serialised form is `report.json`.

use serde::Serialize;

use super::behaviour::Behaviour;
use crate::actions::JointReport;
use crate::evidence::{Measurement, Trace};
use crate::metrics::number;
use crate::tolerance::{TABLE, Tolerance};

/// Raised whenever a field of [`Report`] changes its name or meaning.
pub const FORMAT: u32 = 1;

/// A run of the suite.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this format.
    pub format: u32,
    /// Version of smolvla.
    pub version: String,
    /// When the run began, in UTC: `2026-01-31T12:00:00Z`.
    pub started: String,
    /// How long it took.
    #[serde(serialize_with = "number")]
    pub wall_s: f64,
    /// Size of the checkpoints: `tiny` or `base`.
    pub size: String,
    /// What the name of a check had to contain to be asked; `None`: all were asked.
    pub filter: Option<String>,
    /// The machine it ran on.
    pub machine: Machine,
    /// Backends, in the order they were asked for.
    pub backends: Vec<BackendReport>,
    /// Checkpoints and goldens the checks used.
    pub cases: Vec<CaseReport>,
    /// Seeded defects, where they were run.
    pub mutants: Option<MutantsReport>,
    /// Episodes of a robot's task, where results of them were given.
    pub behaviour: Option<Behaviour>,
    /// The limits everything was held to.
    pub tolerances: &'static [Tolerance],
}

impl Report {
    /// The tolerance table, for [`Report::tolerances`].
    pub const TOLERANCES: &'static [Tolerance] = TABLE;

    /// Whether something was checked and nothing failed: every check of every backend, every required backend, every
    /// mutant.
    pub fn passed(&self) -> bool {
        self.checked_anything()
            && self.backends.iter().all(|backend| backend.failures() == 0)
            && self.mutants.as_ref().is_none_or(|mutants| mutants.survivors() == 0)
    }
}

impl Report {
    /// Whether any check was made: absent backends and lacking capabilities prove nothing.
    pub fn checked_anything(&self) -> bool {
        let made = |check: &CheckReport| check.status != Status::Unsupported;
        self.mutants.is_some() || self.backends.iter().any(|backend| backend.checks.iter().any(made))
    }
}

/// The machine of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Operating system and version.
    pub system: String,
    /// Name of the processor.
    pub processor: String,
    /// Threads it runs at once.
    pub threads: usize,
}

/// One backend.
#[derive(Clone, Debug, Serialize)]
pub struct BackendReport {
    /// The name it was registered under.
    pub name: String,
    /// Whether it was there.
    pub presence: Presence,
    /// Whether the caller required it.
    pub required: bool,
    /// Its checks, in order; none where it is absent.
    pub checks: Vec<CheckReport>,
}

impl BackendReport {
    /// Checks with this status.
    pub fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }

    /// What makes the run fail: failed checks, unexpected passes, and absence where the backend was required.
    pub fn failures(&self) -> usize {
        let absent = self.required && matches!(self.presence, Presence::Absent { .. });
        self.checks.iter().filter(|check| check.status.is_failure()).count() + usize::from(absent)
    }
}

/// Whether a backend was there.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Presence {
    /// It ran.
    Present {
        /// The device and engine.
        device: String,
        /// The software between this code and the device, with its version.
        driver: Option<String>,
        /// What stood in for the device, if it was not the device itself that computed.
        emulated: Option<String>,
        /// Precisions it offers.
        precisions: Vec<String>,
    },
    /// It was not there.
    Absent {
        /// Why, and what to do.
        reason: String,
    },
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// What kind of check.
    pub tier: Tier,
    /// The rest of its name, unique within backend, precision and tier.
    pub name: String,
    /// The precision it ran in.
    pub precision: String,
    /// What came of it.
    pub status: Status,
    /// Why it failed, was not made, or is expected to fail; one entry a finding.
    pub reasons: Vec<String>,
    /// What a reader should know beside the numbers.
    pub notes: Vec<String>,
    /// How long it took.
    #[serde(serialize_with = "number")]
    pub wall_s: f64,
    /// Every comparison.
    pub measurements: Vec<Measurement>,
    /// Actions joint by joint.
    pub joints: Vec<JointReport>,
    /// Actions for drawing.
    pub traces: Vec<Trace>,
}

impl CheckReport {
    /// Its full name after the backend's: `f32::op::linear_one_row`.
    pub fn full_name(&self) -> String {
        format!("{}::{}::{}", self.precision, self.tier.name(), self.name)
    }
}

/// A kind of check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Tier {
    /// One operation against plain loops.
    Op,
    /// Stages of the model against LeRobot.
    Stage,
    /// Whole runs against LeRobot.
    EndToEnd,
    /// Actions in physical units, joint by joint.
    ActionSpace,
    /// Relations between runs: what must change the actions, and what must not.
    Metamorphic,
}

impl Tier {
    /// Every tier, in the order they run.
    pub const ALL: [Self; 5] = [Self::Op, Self::Stage, Self::EndToEnd, Self::ActionSpace, Self::Metamorphic];

    /// The name in a check's full name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Op => "op",
            Self::Stage => "stage",
            Self::EndToEnd => "end_to_end",
            Self::ActionSpace => "action_space",
            Self::Metamorphic => "metamorphic",
        }
    }
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// It does not, as the backend's expectations say.
    ExpectedFailure,
    /// It holds though an expectation says it does not: the expectation must go.
    UnexpectedPass,
    /// The backend says that it cannot do this.
    Unsupported,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 5] =
        [Self::Passed, Self::Failed, Self::ExpectedFailure, Self::UnexpectedPass, Self::Unsupported];

    /// Whether it makes the run fail.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::UnexpectedPass)
    }

    /// The words reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::ExpectedFailure => "expected failure",
            Self::UnexpectedPass => "unexpected pass",
            Self::Unsupported => "unsupported",
        }
    }
}

/// A checkpoint with the golden that belongs to it.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    /// The case.
    pub name: String,
    /// Size of its checkpoint.
    pub size: String,
    /// Seed of its checkpoint.
    pub seed: u64,
    /// SHA-256 of the weights file.
    pub model_sha256: String,
    /// SHA-256 of the golden file.
    pub golden_sha256: String,
    /// Version of LeRobot that wrote the golden.
    pub lerobot: String,
    /// Version of PyTorch it ran on.
    pub torch: String,
}

/// Seeded defects and which checks found them.
#[derive(Clone, Debug, Serialize)]
pub struct MutantsReport {
    /// The backend the defects were put into.
    pub backend: String,
    /// The correlation that alone would have been the gate.
    pub pcc_gate: f64,
    /// Each defect.
    pub mutants: Vec<MutantReport>,
}

impl MutantsReport {
    /// Defects that no check found.
    pub fn survivors(&self) -> usize {
        self.mutants.iter().filter(|mutant| mutant.killed_by.is_empty()).count()
    }

    /// Defects that the correlation alone would have let through.
    pub fn missed_by_pcc(&self) -> usize {
        self.mutants.iter().filter(|mutant| mutant.missed_by_pcc).count()
    }
}

/// One seeded defect.
#[derive(Clone, Debug, Serialize)]
pub struct MutantReport {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub defect: String,
    /// The tiers that found it; empty: it survived.
    pub killed_by: Vec<Kill>,
    /// The lowest correlation of final actions with LeRobot's, over the checks that compare them.
    #[serde(serialize_with = "number")]
    pub pcc: f64,
    /// Whether that alone would have let it through.
    pub missed_by_pcc: bool,
}

/// A tier that found a defect.
#[derive(Clone, Debug, Serialize)]
pub struct Kill {
    /// The tier.
    pub tier: Tier,
    /// The first of its checks that failed; those after it were not asked.
    pub check: String,
    /// What it said.
    pub message: String,
}
