//! XRT, without a card: what its absence says, and our device process behind Debian's XRT in software emulation.
//!
//! XRT may end its process, keeps state for as long as one lives, and sends signals to the whole group of processes. So
//! each test starts this program again as a child, with variables and a process group of its own.
//!
//! What cannot run here is ignored with its reason.
#![allow(clippy::print_stdout, reason = "a child tells its parent what happened")]

use std::process::ExitCode;

#[cfg(target_os = "linux")]
mod common;
#[cfg(target_os = "linux")]
#[path = "xrt/emulated.rs"]
mod emulated;
#[cfg(target_os = "linux")]
#[path = "xrt/harness.rs"]
mod harness;
#[cfg(target_os = "linux")]
#[path = "xrt/missing.rs"]
mod missing;
#[cfg(target_os = "linux")]
#[path = "xrt/shim.rs"]
mod shim;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    if let Some(outcome) = harness::as_child() {
        return outcome;
    }
    let mut trials = missing::trials();
    trials.extend(emulated::trials());
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), trials).exit_code()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    let reason = "XRT is there on Linux only";
    let trial =
        libtest_mimic::Trial::ignorable_test("xrt", || Ok(libtest_mimic::Completion::ignored_with(reason)));
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), vec![trial]).exit_code()
}
