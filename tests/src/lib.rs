//! Proves that a smolvla backend computes the same policy as LeRobot.
//!
//! Two judges, and never the backend itself: goldens that LeRobot's own code wrote ([`Golden`], compared stage
//! by stage with what a [`Recorder`] saw), and the plain-loop reference for single operations ([`ops`]).
//! [`metrics`] says how far apart two tensors are.
#![forbid(unsafe_code)]

mod golden;
pub mod metrics;
pub mod ops;
mod stages;

pub use golden::{Golden, GoldenError, GoldenTensor, Values};
pub use stages::{Difference, Recorder, compare_stages};
