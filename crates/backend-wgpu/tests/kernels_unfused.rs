//! The kernels against their composed forms, with Burn's fusion off: its tracker knows of results that differ.

use std::process::ExitCode;

mod support;

#[path = "support/kernels.rs"]
mod kernels;

fn main() -> ExitCode {
    assert!(
        smolvla_backend_wgpu::turn_fusion_off(),
        "Burn was configured before the first line of the program"
    );
    kernels::main()
}
