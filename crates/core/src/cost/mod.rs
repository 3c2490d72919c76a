//! What the model costs: arithmetic, traffic, storage and time, from the graph that runs.
//!
//! [`crate::count`] runs the graph on shapes and writes down every operation. Here that trace meets three things, each
//! data of its own:
//!
//! - [`Widths`]: in how many bits each kind of value is kept, and what products are multiplied in;
//! - [`Execution`]: what is one kernel, what is computed once a chunk, what stays on chip;
//! - [`Device`]: peaks, bandwidth, floors, from a file in which every number has its source.
//!
//! The result is a [`Cost`] (time under the roof, kernel by kernel) and a [`Storage`]. [`documents`] sets the estimates that
//! the project began with beside the exact figures, and [`measured`] sets measurements beside the roof.
//!
//! ```
//! use smolvla_core::cost::{Cost, Device, Execution, Widths};
//! use smolvla_core::count::{Part, Workload, count};
//! use smolvla_core::synth::{self, Size, SynthOptions};
//!
//! let (policy, architecture) = synth::sizes(&SynthOptions { size: Size::Base, ..SynthOptions::default() })?;
//! let trace = count(&policy, &architecture, &Workload { cameras: 2, ..Workload::of(&policy) })?;
//! assert_eq!(trace.prefix_tokens, 177);
//! let cost = Cost::of(&trace, &Execution::default(), &Widths::named("bf16")?, &Device::named("h200")?)?;
//! assert_eq!(cost.part(Part::Vision).macs, 2 * 106_904_420_352);
//! # Ok::<(), smolvla_core::Error>(())
//! ```

mod device;
pub mod documents;
mod estimate;
mod execution;
mod format;
#[cfg(test)]
mod guide;
pub mod measured;
mod storage;
#[cfg(test)]
mod tests;

pub use device::{Array, Class, Device, Elementwise, Launch, Memory, OnChip, Peak};
pub use estimate::{Bound, BoundBy, Cost, KernelCost, PartCost, Seconds, Sums};
pub use execution::{CrossKv, Execution, Fusion, Kernel, TimeMlp, Traffic, kernels, peak_activation};
pub use format::{Format, Widths};
pub use storage::{Storage, StoredComponent};
