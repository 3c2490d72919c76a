//! Whether the robot still does its task, backend by backend, beside LeRobot; `cargo xtask rollout` runs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    smolvla_conformance::rollout::main()
}
