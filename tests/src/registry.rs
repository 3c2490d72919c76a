//! This repository's own backends: one line each. Without the feature `backends` there are those of `fpga` alone, which
//! needs no graphics library to be built.

#[cfg(feature = "backends")]
use smolvla_backend_cpu::{CpuBackend, Isa};
#[cfg(feature = "backends")]
use smolvla_backend_tt::{Emulator, TtBackend};
use smolvla_core::reference::Reference;

use crate::suite::Candidate;
#[cfg(feature = "backends")]
use crate::suite::Expectation;

/// What the arithmetic of a Tensix cannot do, on a card as little as in its emulator.
#[cfg(feature = "backends")]
const TENSIX: [Expectation; 7] = [
    Expectation::new("bf16::op::attention_high_scores", SCORES),
    Expectation::new("bf16::op::attention_low_scores", SCORES),
    Expectation::new("bfp8::op::attention_high_scores", SCORES),
    Expectation::new("bfp8::op::attention_low_scores", SCORES),
    Expectation::new("bfp8lofi::op::attention_high_scores", SCORES),
    Expectation::new("bfp8lofi::op::attention_low_scores", SCORES),
    Expectation::new(
        "bfp8lofi::op::layer_norm_far_from_zero",
        "in 16-bit accumulators nothing is left of small differences from a large mean",
    ),
];

#[cfg(feature = "backends")]
const SCORES: &str = "the matrix engine keeps 10 bits below the largest of 8 products, so scores that are all large lose \
                      their differences; no score of the policy is";

/// Every backend of this repository, in the order reports list them. One that is not there takes part as absent.
pub fn candidates() -> Vec<Candidate> {
    let mut candidates = vec![Candidate::new("reference", || Ok(Reference)).too_slow_at_full_size(
        "plain loops take minutes a chunk there; `smolvla run --backend reference` does it",
    )];
    #[cfg(feature = "backends")]
    candidates.extend(before_fpga());
    candidates.push(Candidate::new("fpga", || smolvla_backend_fpga::open(None)).too_slow_when_emulated(
        &[
            "int8::stage::free_base_one_camera",
            "int8::end_to_end::*",
            "int8w::end_to_end::pcc_full_trajectory",
            "int8full::end_to_end::pcc_full_trajectory",
            "int16::end_to_end::pcc_full_trajectory",
        ],
        "a chunk takes ten seconds there and more, so the precision that runs where none is named is asked in full, and \
         each of the others for one chunk",
    ));
    #[cfg(feature = "backends")]
    candidates.extend(instruction_sets());
    candidates
}

#[cfg(feature = "backends")]
fn before_fpga() -> Vec<Candidate> {
    vec![
        Candidate::new("cpu", smolvla_backend_cpu::open),
        Candidate::new("ndarray", || Ok(smolvla_backend_cpu::ndarray::open())),
        Candidate::new("wgpu", || smolvla_backend_wgpu::open(None)).too_slow_when_emulated(
            &["f32::end_to_end::base_one_camera"],
            "a software renderer takes minutes for a first chunk there; one camera is run, and a GPU runs all of it",
        ),
        Candidate::new("tt", || Ok(TtBackend::new(Emulator)))
            .too_slow_when_emulated(
                &[
                    "bfp8::end_to_end::pcc_1_step",
                    "bfp8::end_to_end::pcc_5_steps",
                    "bfp8::end_to_end::pcc_full_trajectory",
                ],
                "a chunk takes a minute there; `cargo xtask tt-precision --size base` measures it",
            )
            .expecting(&TENSIX),
        // The same programs as a card's plugin is given, on XLA's for the CPU: `cargo xtask test` names it.
        Candidate::new("pjrt", || smolvla_backend_tt::open_plugin(None))
            .in_tests_only(
                &[
                    "f32::op::*",
                    "f32::stage::free_one_camera",
                    "f32::end_to_end::one_camera",
                    "f32::end_to_end::three_cameras",
                    "f32::end_to_end::batch_two_cameras",
                    "f32::end_to_end::base_one_camera",
                ],
                "each check and stage is compiled anew, which takes minutes; `cargo xtask conform --backend pjrt` asks \
                 all, with SMOLVLA_PJRT_PLUGIN set",
            ),
    ]
}

/// The native engine once more with each other instruction set that it has code for.
#[cfg(feature = "backends")]
fn instruction_sets() -> impl Iterator<Item = Candidate> {
    let others = Isa::ALL.iter().copied().filter(|isa| *isa != Isa::detect());
    others.map(|isa| {
        let mut options = smolvla_backend_cpu::Options::default();
        options.isa = Some(isa);
        Candidate::new(format!("cpu:{isa}"), move || CpuBackend::new(options))
            .too_slow_at_full_size("`cpu` runs the real size with the best instructions of the machine")
    })
}
