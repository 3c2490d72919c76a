//! SmolVLA on GPUs (Vulkan, Metal, DirectX 12) through [Burn](https://burn.dev)'s wgpu tensors.
//!
//! [`open`] takes a graphics adapter by number or name; [`adapters`] lists them. A program on the processor can pass
//! for an adapter (Mesa's llvmpipe does): it is opened like any other, and named as software wherever a result of it is
//! shown ([`smolvla_core::backend::Execution::Emulated`]).
//!
//! Matrix products and elementwise chains are Burn's, which compiles them for the adapter as they are met, fuses what
//! follows a product into it, and measures which form is the fastest; results of that are kept in the user's cache
//! folder. Attention, norms, rotary embeddings and gates are kernels of this crate. Everything between an observation
//! and its chunk stays on the device ([`WgpuBackend::transfers`] counts).
//!
//! Opening the first adapter sets where CubeCL keeps its files, for the whole process.
//!
//! # Variables
//! `SMOLVLA_CACHE` moves the folder of tuning results. `BURN_FUSION_MAX_EXPLORATIONS=0` turns Burn's fusion off, and
//! `CUBECL_AUTOTUNE_LEVEL` (`minimal` to `full`) says how hard to tune.
#![forbid(unsafe_code)]

mod adapter;
mod backend;
mod failure;
mod kernels;
mod linear;
mod plans;
mod runtime;

use smolvla_core::BackendError;

pub use adapter::{Adapter, AdapterKind, adapters};
pub use backend::{Options, Transfers, WgpuBackend, WgpuMask, WgpuMatrix};
pub use linear::WgpuLinear;

/// Turns Burn's fusion of operations off for this process: each operation is then a launch of its own. For tests and for
/// finding faults; `BURN_FUSION_MAX_EXPLORATIONS=0` does the same from outside.
///
/// Returns whether it was still possible: only before Burn is first used.
pub fn turn_fusion_off() -> bool {
    use cubecl::config::RuntimeConfig;

    const OFF: &str = r#"{"fusion": {"beam_search": {"max_explorations": 0}}}"#;
    let config = serde_json::from_str(OFF).expect("it is Burn's own format, at the version that is pinned");
    burn::BurnConfig::try_set(config)
}

/// The backend's name, as `--backend` takes it.
pub const NAME: &str = "wgpu";

/// Opens an adapter: the first of [`adapters`], or the one that `selector` names (what follows the colon in `--backend
/// wgpu:0` or `--backend wgpu:nvidia`).
///
/// # Errors
/// As [`WgpuBackend::open`].
///
/// ```no_run
/// use smolvla_core::Backend;
///
/// let backend = smolvla_backend_wgpu::open(Some("nvidia"))?;
/// println!("{}", backend.capabilities().device);
/// # Ok::<(), smolvla_core::BackendError>(())
/// ```
pub fn open(selector: Option<&str>) -> Result<WgpuBackend, BackendError> {
    WgpuBackend::open(&Options { adapter: selector.map(str::to_owned), ..Options::default() })
}
