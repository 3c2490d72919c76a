//! This repository's own backends: one line each.

use smolvla_backend_cpu::{CpuBackend, Isa};
use smolvla_core::reference::Reference;

use crate::suite::Candidate;

/// Every backend of this repository, in the order reports list them. One that is not there takes part as absent.
pub fn candidates() -> Vec<Candidate> {
    let mut candidates = vec![
        Candidate::new("reference", || Ok(Reference)).too_slow_at_full_size(
            "plain loops take minutes a chunk there; `smolvla run --backend reference` does it",
        ),
        Candidate::new("cpu", smolvla_backend_cpu::open),
        Candidate::new("ndarray", || Ok(smolvla_backend_cpu::ndarray::open())),
        Candidate::new("wgpu", || smolvla_backend_wgpu::open(None)).too_slow_when_emulated(
            &["f32::end_to_end::base_one_camera"],
            "a software renderer takes minutes for a first chunk there; one camera is run, and a GPU runs all of it",
        ),
        // The next two refuse to open until they are written; `Reference` stands for a type that does not exist yet.
        Candidate::new("tt", || -> Result<Reference, _> { match smolvla_backend_tt::open(None)? {} }),
        Candidate::new("fpga", || -> Result<Reference, _> { match smolvla_backend_fpga::open(None)? {} }),
    ];
    // The native engine once more with each other instruction set that it has code for.
    let others = Isa::ALL.iter().copied().filter(|isa| *isa != Isa::detect());
    candidates.extend(others.map(|isa| {
        let mut options = smolvla_backend_cpu::Options::default();
        options.isa = Some(isa);
        Candidate::new(format!("cpu:{isa}"), move || CpuBackend::new(options))
            .too_slow_at_full_size("`cpu` runs the real size with the best instructions of the machine")
    }));
    candidates
}
