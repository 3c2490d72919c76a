//! What each of the Tenstorrent backend's precision plans costs and gains; `cargo xtask tt-precision` runs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    smolvla_conformance::tt_precision::main()
}
