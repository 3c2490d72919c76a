//! What the tests that need an adapter share.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use smolvla_backend_wgpu::{Options, WgpuBackend};

/// A test on an opened adapter.
pub(crate) type Test = fn(&WgpuBackend) -> Result<(), Failed>;

/// Runs tests on the first adapter; where there is none, each is ignored and says why.
pub(crate) fn main(tests: impl IntoIterator<Item = (String, Test)>) -> ExitCode {
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::ignorable_test(name, move || match WgpuBackend::open(&Options::default()) {
            Ok(backend) => test(&backend).map(|()| Completion::Completed),
            Err(error) => Ok(Completion::ignored_with(error.to_string())),
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
