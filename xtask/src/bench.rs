//! `cargo xtask bench`: how fast the policy is on this machine, beside its peers and the machine's own ceilings.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::Result;
use crate::command::{self, cargo};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// What to measure and where to write it; `cargo xtask bench --help` lists it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Builds the benchmark as the tests are built, so that nothing is built twice, and runs it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    command::run(
        cargo(["build", "--release", "--locked", "--quiet", "--workspace", "--bin", "bench"])
            .args(command::features(&[])),
    )?;
    let mut bench = Command::new(command::built("bench")?);
    let status =
        bench.args(&arguments.arguments).status().map_err(|error| format!("cannot start bench: {error}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::from(status.code().unwrap_or(1) as u8) })
}
