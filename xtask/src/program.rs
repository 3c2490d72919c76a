//! Tasks that are programs of this workspace: `cargo xtask conform`, `rollout`, `tt-precision`, `bench`.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::Result;
use crate::command::{self, cargo};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// The program's own arguments; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Builds a program as the tests are built, so that nothing is built twice, and runs it.
pub(crate) fn run(name: &str, arguments: &Arguments) -> Result<ExitCode> {
    command::run(
        cargo(["build", "--release", "--locked", "--quiet", "--workspace", "--bin", name])
            .args(command::features(&[])),
    )?;
    let status = Command::new(command::built(name)?)
        .args(&arguments.arguments)
        .status()
        .map_err(|error| format!("cannot start {name}: {error}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::from(status.code().unwrap_or(1) as u8) })
}
