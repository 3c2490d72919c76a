//! A tabletop task: coloured blocks, a gripper, an instruction.
//!
//! A small policy is trained on it (`assets/mini`), so that backends can be compared by what a robot's user cares about: is
//! the task still done? Everything follows from a seed, down to the last bit of every picture, as the
//! arithmetic is that of IEEE 754 and the random numbers are computed in Rust.
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

pub use attempt::{Attempt, AttemptError, Condition, Moment, Ours, Predictor, Step, attempt};
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
