//! Every backend of this repository through the whole suite: each check is a test of its own.
//!
//! `SMOLVLA_CONFORM_REQUIRE=wgpu,tt` turns the absence of a backend from a counted skip into a failure.

use std::process::ExitCode;

use smolvla_conformance::{registry, test_main};
use smolvla_core::synth::Size;

fn main() -> ExitCode {
    test_main(registry::candidates(), &[Size::Tiny, Size::Base])
}
