//! The project's own tasks: `cargo xtask VERB`, one file a verb.
//!
//! `cargo xtask test` is what continuous integration runs, and nothing else: it reproduces CI anywhere.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks through its output")]

mod check;
mod command;
mod golden;
mod mini;
mod program;
mod rtl;
mod setup;
mod synth;
mod tally;
mod test;
mod wheels;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a task comes to: nothing, or what went wrong and what to do.
type Result<T = ()> = std::result::Result<T, String>;

/// Tasks for working on smolvla.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what `check` and `test` need; downloads nothing that is there already
    Setup,
    /// Formatting, lints, documentation, licences; the cheapest first
    Check(check::Arguments),
    /// Set up, check, and run every test; prints how many passed, failed and were skipped
    #[command(visible_alias = "ci")]
    Test(test::Arguments),
    /// Run the conformance suite over some backends and write a report; `conform --help` has its arguments
    Conform(program::Arguments),
    /// Study what each precision plan of the Tenstorrent backend costs and gains; `tt-precision --help` has its
    /// arguments
    TtPrecision(program::Arguments),
    /// Run policies at the tabletop task beside LeRobot and count successes; `rollout --help` has its arguments
    Rollout(program::Arguments),
    /// Hold the simulated FPGA design to its arithmetic; `rtl --help` has its arguments
    Rtl(rtl::Arguments),
    /// Measure the policy, its peers and this machine's ceilings; `bench --help` has its arguments
    Bench(program::Arguments),
    /// Synthesise the FPGA backend's design with Yosys, check its DSP slices and record its resources
    Synth(synth::Arguments),
    /// Record demonstrations for the mini policy of assets/mini and train it
    Mini(mini::Arguments),
    /// Regenerate the golden files with LeRobot (needs tools/reference/setup.sh to have been run)
    Golden(golden::Arguments),
}

fn main() -> ExitCode {
    perform(Arguments::parse().task).unwrap_or_else(|reason| {
        eprintln!("xtask: {reason}");
        ExitCode::FAILURE
    })
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => setup::run(setup::Caller::Setup)?,
        Task::Check(arguments) => drop(check::run(&arguments)?),
        Task::Test(arguments) => return test::run(&arguments),
        Task::Conform(arguments) => return program::run("conform", &arguments),
        Task::TtPrecision(arguments) => return program::run("tt-precision", &arguments),
        Task::Rollout(arguments) => return program::run("rollout", &arguments),
        Task::Rtl(arguments) => return rtl::run(&arguments),
        Task::Bench(arguments) => return program::run("bench", &arguments),
        Task::Synth(arguments) => synth::run(&arguments)?,
        Task::Mini(arguments) => mini::run(&arguments)?,
        Task::Golden(arguments) => golden::run(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
