//! Burn's ndarray engine.

use std::thread::available_parallelism;

use burn::tensor::Device;
use smolvla_backend_burn::{BurnBackend, Identity};
use smolvla_core::backend::Execution;

/// The backend.
pub type NdArrayBackend = BurnBackend;

/// Opens Burn's ndarray device: f32, on all cores, on any machine Rust compiles for.
#[expect(deprecated, reason = "burn-ndarray's last release, 0.22.1, is pinned")]
pub fn open() -> NdArrayBackend {
    let threads = available_parallelism().map_or(1, usize::from);
    BurnBackend::new(
        Device::ndarray(),
        Identity {
            backend: "ndarray",
            device: format!("{} with {threads} threads, Burn ndarray engine", std::env::consts::ARCH),
            driver: None,
            execution: Execution::Native,
            static_shapes: false,
        },
    )
}
