//! A tabletop task: coloured blocks, a gripper, an instruction.
//!
//! A small policy is trained on it (`assets/mini`), so that backends can be compared by what a robot's user cares about: is
//! the task still done? Everything follows from a seed. Pictures and motion are sums, products and square roots of f64, which
//! are the same on every machine; so are uniform random numbers. Normal ones are too, but for those beyond
//! 3.65 standard deviations, three in ten thousand, whose last bit is that of the system's `ln`.
//!
//! - [`Episode`] is a scene with an [`Instruction`]; [`World`] moves, [`render()`] shows it, [`Judge`] decides.
//! - [`attempt()`] runs a policy (a [`Predictor`]) in closed loop, over many episodes side by side.
//! - [`expert`] does the task by looking at the table itself; [`record`] writes what it did, for training, and
//!   [`observe`] single moments, for calibration.
#![forbid(unsafe_code)]

mod attempt;
mod demonstrations;
mod episode;
pub mod expert;
mod files;
mod geometry;
mod instruction;
mod observations;
mod random;
mod render;
mod world;

pub use attempt::{Attempt, AttemptError, Condition, Moment, PolicyPredictor, Predictor, Step, attempt};
pub use demonstrations::{CHUNK, RecordError, Recorded, record};
pub use episode::{Episode, SceneError, Split};
pub use geometry::{BLOCK_CM, CORNER_CM, Colour, Corner, Point, TABLE_CM};
pub use instruction::{Goal, Instruction, InstructionError};
pub use observations::{ObserveError, observe};
pub use render::{Camera, SIDE, WRIST_CM, render};
pub use world::{
    ACTION_DIM, ACTION_NAMES, ActionError, Block, HOLD, Judge, LIMIT, MAX_SPEED, Outcome, PERIOD_S,
    STATE_DIM, STATE_NAMES, World,
};
