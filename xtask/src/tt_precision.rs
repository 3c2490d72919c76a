//! `cargo xtask tt-precision`: what each precision plan of the Tenstorrent backend costs and gains.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::{Result, conform};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Which plans and where to write the table and chart; `cargo xtask tt-precision --help` lists it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Runs the study's program, built as the tests are built.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    conform::run_program("tt-precision", &arguments.arguments)
}
