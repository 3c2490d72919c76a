//! `cargo xtask test`: everything continuous integration asks of a change.

use std::process::ExitCode;
use std::time::Instant;

use crate::Result;
use crate::command::{self, cargo, run_watched};
use crate::tally::Tally;
use crate::{check, setup};

/// Names backends whose absence fails the conformance suite.
const REQUIRE: &str = "SMOLVLA_CONFORM_REQUIRE";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    check: check::Arguments,
    /// Neither set up nor check: only the tests
    #[arg(long)]
    tests_only: bool,
}

/// Fails where a check or a test fails, and where a test is skipped without a reason. Once tests have run, the last
/// line printed is `N passed, N failed, N skipped`, whatever came of them.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let started = Instant::now();
    let mut unchecked = Vec::new();
    if !arguments.tests_only {
        setup::run(setup::Caller::Test)?;
        unchecked = check::run(&arguments.check)?;
    }
    let mut tally = Tally::default();
    let status = run_watched(
        cargo(["test", "--release", "--locked", "--no-fail-fast"])
            .args(command::features(&arguments.check.package))
            .args(check::selection(&arguments.check.package))
            // The tally reads plain text.
            .env("CARGO_TERM_COLOR", "never")
            .envs(gpu_environment()),
        |line| tally.line(line),
    )?;
    tally.finish();
    if tally.is_empty() {
        return Err(format!("no test ran: `cargo test` ended with {status}"));
    }
    if !status.success() && tally.failed() == 0 {
        tally.fail("cargo test", &format!("ended with {status} though no test failed"));
    }
    println!();
    for what in unchecked {
        println!("not checked: {what}");
    }
    println!("took {} minutes", started.elapsed().as_secs().div_ceil(60));
    println!("{tally}");
    Ok(if tally.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the GPU backend's tests run under.
fn gpu_environment() -> Vec<(&'static str, &'static str)> {
    let is_free = |(name, _): &(&str, &str)| std::env::var_os(name).is_none();
    // Trying every form of every product takes minutes on a software renderer, and its winner means nothing: it is
    // kept apart from what the user's own programs measure.
    let mut variables = vec![("CUBECL_AUTOTUNE_LEVEL", "minimal"), ("CUBECL_ENVIRONMENT", "smolvla-tests")];
    // Setup has put a driver there, so a backend that does not open is a failure, not a skip.
    if setup::is_ci() && cfg!(target_os = "linux") {
        variables.push((REQUIRE, "wgpu"));
    }
    variables.into_iter().filter(is_free).collect()
}
