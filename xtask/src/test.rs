//! `cargo xtask test`: everything continuous integration asks of a change.

use std::process::ExitCode;
use std::time::Instant;

use crate::Result;
use crate::command::{cargo, run_watched};
use crate::tally::Tally;
use crate::{check, setup};

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
        cargo(["test", "--release", "--locked", "--all-features", "--no-fail-fast"])
            .args(check::selection(&arguments.check.package))
            // The tally reads plain text.
            .env("CARGO_TERM_COLOR", "never"),
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
