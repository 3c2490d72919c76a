//! `cargo xtask golden`: the golden files, as LeRobot computes them.

use std::process::Command;

use crate::Result;
use crate::command::{self, cargo, root};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these cases of tests/fixtures/cases.json; all where none is named
    #[arg(value_name = "CASE")]
    cases: Vec<String>,
    /// Compare with the committed files instead of writing them
    #[arg(long)]
    check: bool,
}

/// Builds the command, which makes the synthetic checkpoints, and lets LeRobot run on them.
pub(crate) fn run(arguments: &Arguments) -> Result {
    let reference = root().join("tools/reference");
    let python = reference.join(".venv/bin/python");
    if !python.is_file() {
        return Err(format!("{} is missing: run tools/reference/setup.sh", python.display()));
    }
    command::run(&mut cargo(["build", "--release", "--locked", "--package", "smolvla", "--bin", "smolvla"]))?;
    let smolvla = command::built("smolvla")?;

    let mut golden = Command::new(python);
    golden.current_dir(&reference).arg("golden.py").arg("--smolvla").arg(smolvla);
    if arguments.check {
        golden.arg("--check");
    }
    if arguments.cases.is_empty() {
        golden.arg("--all");
    }
    command::run(golden.args(&arguments.cases))
}
