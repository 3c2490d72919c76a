//! Proves that a smolvla backend computes the same policy as LeRobot.
//!
//! # Tour
//! - [`Candidate`] is a backend that takes part; [`test_main`] runs it through everything under `cargo test`:
//!   that line is all a backend needs, in this repository ([`registry`]) or another.
//! - [`checks`] are the questions, in five tiers: single operations ([`ops`]), stages of the model ([`Recorder`],
//!   [`Forcing`]), whole runs, actions in physical units ([`actions`]), relations between runs.
//! - [`metrics`] says how far apart two tensors are, [`tolerance`] how far they may be and why, [`evidence`] what a
//!   check found.
//! - With the feature `rollout`, the module of that name is a sixth tier beside them: whole episodes of a robot's task.
//! - [`mutants`] are backends and policies with a known defect, to see that the checks find it.
//! - [`report`] writes a run down for machines and people.
//! - [`fixtures`] holds the cases, and [`Golden`] what LeRobot computed for one.
//!
//! There are two judges, and never the backend itself: what LeRobot's own code computed, and plain loops with f64
//! sums ([`smolvla_core::reference`]) for single operations.
#![forbid(unsafe_code)]

pub mod actions;
pub mod altered;
pub mod checks;
pub mod command;
pub mod evidence;
pub mod fixtures;
mod golden;
pub mod metrics;
pub mod mutants;
pub mod ops;
#[cfg(feature = "fpga")]
pub mod registry;
pub mod report;
#[cfg(feature = "rollout")]
pub mod rollout;
mod stages;
pub mod subject;
pub mod suite;
pub mod tolerance;
#[cfg(feature = "tt")]
pub mod tt_precision;

pub use golden::{Golden, GoldenError, GoldenTensor, Values};
pub use stages::{BoundaryRecorder, Forcing, Recorder, StagePair, missing_from_golden, stage_pairs};
pub use suite::{Candidate, Expectation, test_main};
