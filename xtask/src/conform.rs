//! `cargo xtask conform`: the conformance suite over this repository's backends, with a report.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::Result;
use crate::command::{self, cargo};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// What to check and where to write the report; `cargo xtask conform --help` lists it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Runs the suite's command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    run_program("conform", &arguments.arguments)
}

/// Builds a program of the workspace as the tests are built, so that nothing is built twice, and runs it.
pub(crate) fn run_program(name: &str, arguments: &[OsString]) -> Result<ExitCode> {
    command::run(
        cargo(["build", "--release", "--locked", "--quiet", "--workspace", "--bin", name])
            .args(command::features(&[])),
    )?;
    let status = Command::new(command::built(name)?)
        .args(arguments)
        .status()
        .map_err(|error| format!("cannot start {name}: {error}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::from(status.code().unwrap_or(1) as u8) })
}
