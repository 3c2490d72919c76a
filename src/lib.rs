//! Runs SmolVLA robot policies from LeRobot checkpoints on the device at hand.
//!
//! A policy takes camera images, joint positions and an instruction, and returns a chunk of actions:
//!
//! ```no_run
//! use smolvla::policy::Observation;
//! use smolvla::processor::Image;
//!
//! let mut policy = smolvla::load("my_policy", "cpu")?;
//! let action = policy.select_action(&[Observation {
//!     images: vec![("camera1".into(), Image::open("top.png")?)],
//!     state: vec![0.0; 6],
//!     task: "pick up the red block".into(),
//! }])?;
//! println!("{:?}", action[0]);
//! # Ok::<(), smolvla::Error>(())
//! ```
//!
//! # Tour
//! - [`load`] is the short way from a folder or Hub repository to a [`policy::Policy`]; [`open`] and
//!   [`Device::load`] are its two halves, with every option.
//! - [`Device`] opens a backend by name at run time.
//! - [`policy`] has the policy itself, its observations, requests and chunks of actions; [`policy::WarmUp`] has a GPU
//!   compile and tune before a robot needs it. With the feature `wgpu`, `wgpu::adapters` lists the GPUs.
//! - [`precision`] says in what numbers each layer computes: all alike, or by a plan.
//! - [`checkpoint`] reads LeRobot's directories and says what is wrong with one; `hub` fetches them; [`synth`]
//!   writes one with random weights, for tests and measurements, and [`mod@quantise`] an 8-bit copy of one.
//! - [`processor`] turns observations into what the network takes and its results into joint units.
//! - [`graph`] is what SmolVLA computes, written once over [`Backend`]; [`sampler`] the denoising schedule.
//! - [`cost`] says what the model costs on a device (arithmetic, traffic, storage, time), from the graph that runs, which
//!   [`mod@count`] counts.
//! - [`mod@reference`] is the slow backend of plain loops that every other one is judged by.
//!
//! This crate knows no vendor and no kernels: those are the backends' own crates.
//!
//! # Features
//! Features link code and never choose what runs: that is the device's name, at run time.
//!
//! | Feature | Default | What it links |
//! |---|---|---|
//! | `cpu` | yes | the CPU backend |
//! | `hub` | yes | checkpoints and tokenizers from the Hugging Face Hub |
//! | `ndarray` | | Burn's ndarray engine on the CPU: slow, and written by others |
//! | `wgpu` | | the GPU backend: Vulkan, Metal or DirectX 12 through burn-wgpu |
//! | `wgpu-vulkan` | | the same, compiling for Vulkan through CubeCL's own SPIR-V |
//! | `tt` | | Tenstorrent Blackhole: its arithmetic in software, and cards through PJRT |
//! | `fpga` | | the AMD Alveo U280 backend: an accelerator of our own design, its arithmetic in software |
//! | `fpga-rtl` | | the same with the design itself, simulated by Verilator |
//! | `fpga-xrt` | | the same with cards through XRT |
#![forbid(unsafe_code)]

mod device;
mod source;

#[cfg(feature = "hub")]
pub use smolvla_core::hub;
pub use smolvla_core::{
    Backend, BackendError, Capabilities, Checked, Error, Precision, PrecisionPlan, Result, backend, checked,
    checkpoint, config, cost, count, graph, policy, precision, processor, quantise, reference, sampler,
    synth, weights,
};

pub use device::{BACKENDS, BackendEntry, Device};
#[cfg(feature = "fpga")]
pub use smolvla_backend_fpga as fpga;
#[cfg(feature = "tt")]
pub use smolvla_backend_tt as tt;
#[cfg(feature = "wgpu")]
pub use smolvla_backend_wgpu as wgpu;
pub use source::{CheckpointSource, OpenOptions, OpenProgress, load, open};
