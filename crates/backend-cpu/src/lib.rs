//! smolvla on the CPU.
//!
//! The native engine: packed weights, kernels for the instructions the processor has (AMX, AVX-512, AVX2, or plain Rust on
//! any other), threads of its own. `SMOLVLA_CPU_ISA`, `SMOLVLA_CPU_THREADS` and `SMOLVLA_CPU_PIN` change what is
//! detected; see [`Options::from_env`].
//!
//! ```
//! use smolvla_core::Backend;
//!
//! let cpu = smolvla_backend_cpu::open()?;
//! assert_eq!(cpu.capabilities().backend, "cpu");
//! # Ok::<(), smolvla_core::BackendError>(())
//! ```
//!
//! With the feature `ndarray` there is also `ndarray::open`: [Burn](https://burn.dev)'s ndarray engine in f32, several
//! times slower, written by others: a second opinion.
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "kernels use processor intrinsics and write disjoint parts of shared buffers")]
mod native;

#[cfg(feature = "ndarray")]
pub mod ndarray;

pub use native::{CpuBackend, Isa, Mask, Options, Table, Tensor, Weights, open};
