//! This repository's own backends: one line each.

use smolvla_core::reference::Reference;

use crate::suite::Candidate;

/// Every backend of this repository, in the order reports list them. One that is not there takes part as absent.
pub fn candidates() -> Vec<Candidate> {
    vec![
        Candidate::new("reference", || Ok(Reference)).too_slow_at_full_size(
            "plain loops take minutes a chunk there; `smolvla run --backend reference` does it",
        ),
        Candidate::new("cpu", || Ok(smolvla_backend_cpu::open())),
        // The next three refuse to open until they are written; `Reference` stands for a type that does not exist yet.
        Candidate::new("wgpu", || -> Result<Reference, _> { match smolvla_backend_wgpu::open(None)? {} }),
        Candidate::new("tt", || -> Result<Reference, _> { match smolvla_backend_tt::open(None)? {} }),
        Candidate::new("fpga", || -> Result<Reference, _> { match smolvla_backend_fpga::open(None)? {} }),
    ]
}
