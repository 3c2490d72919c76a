//! The conformance suite over this repository's own backends; `cargo xtask conform` runs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    smolvla_conformance::command::main(smolvla_conformance::registry::candidates())
}
