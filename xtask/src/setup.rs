//! `cargo xtask setup`: what `check` and `test` need beyond Rust itself.
//!
//! The list is short on purpose. Tests run under plain `cargo test`: the conformance suite shares one loaded
//! checkpoint a process, which a process a test (cargo-nextest) would load again for every test, and cargo's own
//! runner needs no installing and prints the reason of each ignored test. No system package is needed: every
//! dependency that builds C needs only the compiler that Rust needs anyway for linking.

use std::process::Command;

use crate::Result;
use crate::command::{self, cargo, succeeds};

/// Built from source where absent, about two minutes on two cores, once: it stays in cargo's own `bin` folder.
/// There is no other way to know the licences of some 500 crates, so it is worth the two minutes.
const CARGO_DENY: &str = "cargo-deny@0.20.2";

/// Installs what is missing, and says of each thing whether it was there.
pub(crate) fn run() -> Result {
    component("rustfmt", "fmt")?;
    component("clippy", "clippy")?;
    cargo_deny()
}

fn component(name: &str, verb: &str) -> Result {
    if succeeds(&mut cargo([verb, "--version"])) {
        eprintln!("xtask: {name}: there");
        return Ok(());
    }
    command::run(Command::new("rustup").args(["component", "add", name]))
        .map_err(|reason| format!("{reason}; install the Rust component `{name}`"))
}

fn cargo_deny() -> Result {
    if cargo_deny_is_there() {
        eprintln!("xtask: cargo-deny: there");
        return Ok(());
    }
    command::run(&mut cargo(["install", "--locked", CARGO_DENY]))?;
    if cargo_deny_is_there() {
        return Ok(());
    }
    Err("cargo-deny was installed but `cargo deny` does not run; is cargo's bin folder in PATH?".to_owned())
}

/// Whether a cargo-deny is there that reads this project's deny.toml.
pub(crate) fn cargo_deny_is_there() -> bool {
    let Ok(output) = cargo(["deny", "--version"]).output() else { return false };
    output.status.success() && reads_our_configuration(&String::from_utf8_lossy(&output.stdout))
}

/// deny.toml is written for 0.20; later versions have kept reading earlier files.
fn reads_our_configuration(version: &str) -> bool {
    let number = version.trim().trim_start_matches("cargo-deny ");
    let mut parts = number.split('.').map_while(|part| part.parse::<u32>().ok());
    (parts.next(), parts.next()) >= (Some(0), Some(20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_deny_versions_are_told_apart() {
        for (line, expected) in [
            ("cargo-deny 0.20.2\n", true),
            ("cargo-deny 0.21.0", true),
            ("cargo-deny 1.0.0", true),
            ("cargo-deny 0.19.4", false),
            ("", false),
            ("error: no such command", false),
        ] {
            assert_eq!(reads_our_configuration(line), expected, "{line:?}");
        }
    }
}
