//! A backend of somebody else joins the suite: its own crate, and one line.

use std::process::ExitCode;

use smolvla_conformance::{Candidate, test_main};
use smolvla_core::synth::Size;

#[path = "third_party/toy.rs"]
mod toy;

fn main() -> ExitCode {
    test_main([Candidate::new("toy", toy::Toy::open)], &[Size::Tiny])
}
