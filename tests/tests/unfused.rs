//! The GPU backend's operations once more with Burn's fusion off: its tracker knows of results that differ. A program of
//! its own, because fusion is turned off for a process.

use std::process::ExitCode;

use libtest_mimic::Arguments;
use smolvla_conformance::Candidate;
use smolvla_conformance::suite::{self, REQUIRE};
use smolvla_core::synth::Size;

const NAME: &str = "wgpu_unfused";

fn main() -> ExitCode {
    assert!(
        smolvla_backend_wgpu::turn_fusion_off(),
        "Burn was configured before the first line of the program"
    );
    let candidate = Candidate::new(NAME, || smolvla_backend_wgpu::open(None));
    let required = std::env::var(REQUIRE).unwrap_or_default();
    let is_required = required.split(',').any(|name| name.trim() == smolvla_backend_wgpu::NAME);
    let required: &[String] = if is_required { &[NAME.to_owned()] } else { &[] };
    let trials = suite::trials(vec![candidate], &[Size::Tiny], required).expect("the package's own fixtures");
    // In f16 only linear layers are other kernels.
    let is_asked = |name: &str| {
        name.contains("::f32::op::") || name.contains("::f16::op::linear_") || name.ends_with("::present")
    };
    let trials: Vec<_> = trials.into_iter().filter(|trial| is_asked(trial.name())).collect();
    assert!(!trials.is_empty(), "no check of this backend has a name that is looked for");
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
