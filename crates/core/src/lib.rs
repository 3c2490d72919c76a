//! SmolVLA's graph, checkpoint loader and processors over a small [`Backend`] trait.
// Two exceptions, with their reasons: mapping the weights file, and giving back its pages (`checkpoint::file`).
#![deny(unsafe_code)]

pub mod backend;
pub mod checked;
pub mod checkpoint;
pub mod config;
pub mod cost;
pub mod count;
mod error;
pub mod graph;
#[cfg(feature = "hub")]
pub mod hub;
pub mod policy;
pub mod precision;
pub mod processor;
pub mod quantise;
pub mod reference;
pub mod sampler;
pub mod synth;
pub mod weights;

pub use backend::{Backend, BackendError, Capabilities, Precision};
pub use checked::Checked;
pub use error::{Error, Result};
pub use policy::{Policy, SmolVla};
pub use precision::PrecisionPlan;
