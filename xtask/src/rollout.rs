//! `cargo xtask rollout`: whether the robot still does its task, backend by backend, beside LeRobot.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::{Result, conform};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Which subjects, how many episodes, where to write; `cargo xtask rollout --help` lists it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Runs the program, built as the tests are built.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    conform::run_program("rollout", &arguments.arguments)
}
