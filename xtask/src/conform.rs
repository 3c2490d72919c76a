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

/// Builds the suite's command as the tests are built, so that nothing is built twice, and runs it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    command::run(
        cargo(["build", "--release", "--locked", "--quiet", "--workspace", "--bin", "conform"])
            .args(command::features(&[])),
    )?;
    let mut conform = Command::new(command::built("conform")?);
    let status = conform
        .args(&arguments.arguments)
        .status()
        .map_err(|error| format!("cannot start conform: {error}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::from(status.code().unwrap_or(1) as u8) })
}
