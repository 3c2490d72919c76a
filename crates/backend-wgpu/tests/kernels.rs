//! The kernels against their composed forms, with Burn's fusion on.

use std::process::ExitCode;

mod support;

#[path = "support/kernels.rs"]
mod kernels;

fn main() -> ExitCode {
    kernels::main()
}
