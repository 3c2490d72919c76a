//! smolvla on the CPU.
//!
//! The portable engine: [`smolvla_backend_burn`] on Burn's ndarray device, f32, on all cores. It runs on any
//! machine Rust compiles for.
//!
//! ```
//! use smolvla_core::Backend;
//!
//! let cpu = smolvla_backend_cpu::open();
//! assert_eq!(cpu.capabilities().backend, "cpu");
//! ```
#![forbid(unsafe_code)]

use std::thread::available_parallelism;

use burn::tensor::Device;
use smolvla_backend_burn::{BurnBackend, Identity};
use smolvla_core::backend::Execution;

/// The CPU backend.
pub type CpuBackend = BurnBackend;

/// Opens the CPU. It is always there.
#[expect(deprecated, reason = "the portable engine is burn-ndarray; its last release, 0.22.1, is pinned")]
pub fn open() -> CpuBackend {
    let threads = available_parallelism().map_or(1, usize::from);
    BurnBackend::new(
        Device::ndarray(),
        Identity {
            backend: "cpu",
            device: format!("{} with {threads} threads, Burn ndarray engine", std::env::consts::ARCH),
            driver: None,
            execution: Execution::Native,
            static_shapes: false,
        },
    )
}
