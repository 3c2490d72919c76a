//! What the tests that need an adapter share.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use smolvla_backend_wgpu::{NAME, Options, WgpuBackend, adapters};

/// A test on an opened adapter.
pub(crate) type Test = fn(&WgpuBackend) -> Result<(), Failed>;

/// Runs tests on the first adapter; where there is none, each is ignored and says why.
pub(crate) fn main(tests: impl IntoIterator<Item = (String, Test)>) -> ExitCode {
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::ignorable_test(name, move || match WgpuBackend::open(&Options::default()) {
            Ok(backend) => test(&backend).map(|()| Completion::Completed),
            // An adapter that is there must open.
            Err(error) if adapters().is_empty() && !is_required() => {
                Ok(Completion::ignored_with(error.to_string()))
            }
            Err(error) => Err(Failed::from(error.to_string())),
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Whether the variable that the conformance suite reads too asks for this backend.
fn is_required() -> bool {
    let required = std::env::var("SMOLVLA_CONFORM_REQUIRE").unwrap_or_default();
    required.split(',').any(|name| name.trim() == NAME)
}
