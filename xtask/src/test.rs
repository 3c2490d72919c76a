//! `cargo xtask test`: everything continuous integration asks of a change.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use crate::Result;
use crate::command::{self, cargo, run_watched};
use crate::tally::Tally;
use crate::{check, setup, wheels};

/// Names backends whose absence fails the conformance suite.
const REQUIRE: &str = "SMOLVLA_CONFORM_REQUIRE";

/// Names the plugin of the backend `tt:pjrt`.
const PLUGIN: &str = "SMOLVLA_PJRT_PLUGIN";

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
            .envs(environment()),
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

/// What the tests run under, but for what is set already.
fn environment() -> Vec<(&'static str, OsString)> {
    let required_gpu = setup::is_ci() && cfg!(target_os = "linux");
    let mut variables = variables(wheels::xla_cpu().as_deref(), setup::is_ci(), required_gpu);
    variables.retain(|(name, _)| std::env::var_os(name).is_none());
    variables
}

fn variables(xla_cpu: Option<&Path>, is_ci: bool, required_gpu: bool) -> Vec<(&'static str, OsString)> {
    // Trying every form of every product takes minutes on a software renderer, and its winner means nothing: it is
    // kept apart from what the user's own programs measure.
    let mut variables: Vec<(&str, OsString)> =
        vec![("CUBECL_AUTOTUNE_LEVEL", "minimal".into()), ("CUBECL_ENVIRONMENT", "smolvla-tests".into())];
    // Programs for a Blackhole on this machine's processor: their numbers are checked as any backend's.
    variables.extend(xla_cpu.map(|plugin| (PLUGIN, plugin.into())));
    // Setup has put a driver and a plugin there, so a backend that does not open is a failure, not a skip.
    let mut required = Vec::new();
    if required_gpu {
        required.push("wgpu");
    }
    if is_ci && xla_cpu.is_some() {
        required.push("pjrt");
    }
    if !required.is_empty() {
        variables.push((REQUIRE, required.join(",").into()));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, variables: &[(&'static str, OsString)]) -> Option<String> {
        let found = variables.iter().find(|(own, _)| *own == name)?;
        Some(found.1.to_string_lossy().into_owned())
    }

    #[test]
    fn backends_that_setup_has_provided_are_required_on_ci_alone() {
        let plugin = Path::new("/wheels/plugin.so");
        let required = |xla_cpu, is_ci, gpu| of(REQUIRE, &variables(xla_cpu, is_ci, gpu));
        assert_eq!(required(Some(plugin), true, true).as_deref(), Some("wgpu,pjrt"));
        assert_eq!(required(Some(plugin), true, false).as_deref(), Some("pjrt"));
        assert_eq!(required(None, true, true).as_deref(), Some("wgpu"));
        assert_eq!(required(Some(plugin), false, false), None);
        assert_eq!(of(PLUGIN, &variables(Some(plugin), false, false)).as_deref(), Some("/wheels/plugin.so"));
        assert_eq!(of(PLUGIN, &variables(None, true, true)), None);
    }
}
