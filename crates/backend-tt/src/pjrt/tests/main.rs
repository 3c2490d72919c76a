//! Real plugins: XLA's on the CPU computes, Tenstorrent's compiles for a card that is not there.
//!
//! Where a plugin is not here, its tests are ignored with the reason.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use smolvla_backend_tt::pjrt::{Wheels, plugin_of_environment};
// As the library's own tests see them, whose programs are these too.
use smolvla_backend_tt::{program, tensix};

#[path = "../../stablehlo/cases.rs"]
mod cases;
mod device;
mod loading;
mod mock;
mod numeric;
mod programs;

fn main() -> ExitCode {
    if let Some(outcome) = mock::as_child() {
        return outcome;
    }
    let mut trials = loading::trials();
    trials.extend(numeric::trials());
    trials.extend(device::trials());
    trials.extend(mock::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test.
fn trial(name: &str, run: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    Trial::test(name, run)
}

/// A test that needs a plugin, which may not be here.
fn with(
    plugin: fn() -> Result<PathBuf, String>,
    name: &str,
    run: impl FnOnce(&Path) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || match plugin() {
        Ok(path) => run(&path).map(|()| Completion::Completed),
        Err(reason) => Ok(Completion::ignored_with(reason)),
    })
}

fn wheels() -> Wheels {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    Wheels::of_target(scratch.parent().unwrap_or(scratch))
}

/// A plugin that computes: the user's, or XLA's for the CPU.
fn numeric_plugin() -> Result<PathBuf, String> {
    plugin_of_environment().map_or_else(|| wheels().xla_cpu(), Ok)
}

/// Tenstorrent's plugin.
fn tenstorrent_plugin() -> Result<PathBuf, String> {
    wheels().tenstorrent()
}
