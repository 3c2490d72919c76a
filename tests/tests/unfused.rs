//! The GPU backend's operations and layers once more with Burn's fusion off: its tracker knows of results that differ.
//! A program of its own, because fusion is turned off for a process.

use std::process::ExitCode;

use libtest_mimic::Arguments;
use smolvla_conformance::{Candidate, suite};
use smolvla_core::synth::Size;

fn main() -> ExitCode {
    assert!(
        smolvla_backend_wgpu::turn_fusion_off(),
        "Burn was configured before the first line of the program"
    );
    let candidate = Candidate::new("wgpu_unfused", || smolvla_backend_wgpu::open(None));
    let trials = suite::trials(vec![candidate], &[Size::Tiny], &[]).expect("the package's own fixtures");
    // Precision by precision the same kernels: one is enough here.
    let is_asked = |name: &str| name.contains("::f32::op::") || name.ends_with("::present");
    let trials = trials.into_iter().filter(|trial| is_asked(trial.name())).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
