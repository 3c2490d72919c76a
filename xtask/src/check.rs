//! `cargo xtask check`: everything short of running tests, the cheapest first.
//!
//! All in the release profile, as the tests and the command, so that no dependency is built for a profile of
//! its own.

use crate::Result;
use crate::command::{self, cargo, succeeds};
use crate::{rtl, setup};

#[derive(clap::Args)]
// `test` has these arguments among its own.
#[group(skip)]
pub(crate) struct Arguments {
    /// Lint and document only this package (repeatable); licences are left out then
    #[arg(long, short, value_name = "NAME")]
    pub(crate) package: Vec<String>,
}

/// Stops at the first check that fails. Returns what could not be checked here, for the summary to repeat.
pub(crate) fn run(arguments: &Arguments) -> Result<Vec<&'static str>> {
    let packages = selection(&arguments.package);
    let mut unchecked = Vec::new();
    if arguments.package.is_empty() {
        command::run(&mut cargo(["fmt", "--all", "--check"]))?;
        unchecked.extend(dependencies()?);
    } else {
        command::run(cargo(["fmt", "--check"]).args(&packages))?;
    }
    let warnings = ["--", "--deny", "warnings"];
    command::run(
        cargo(["clippy", "--release", "--locked", "--all-targets"])
            .args(command::features(&arguments.package))
            .args(&packages)
            .args(warnings),
    )?;
    if arguments.package.is_empty() {
        // Features only add: the library must also build without any.
        command::run(
            cargo(["clippy", "--release", "--locked", "--package", "smolvla", "--no-default-features"])
                .args(warnings),
        )?;
    }
    command::run(
        cargo(["doc", "--release", "--locked", "--no-deps"])
            .args(command::features(&arguments.package))
            .args(&packages)
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )?;
    if packages.contains(&"--workspace") {
        if setup::verilator_is_there() {
            rtl::lint()?;
        } else {
            unchecked.push("the FPGA's design and its simulation (there is no Verilator)");
        }
    }
    for what in &unchecked {
        eprintln!("xtask: NOT CHECKED: {what}");
    }
    Ok(unchecked)
}

/// The packages named, or all, as cargo takes them.
pub(crate) fn selection(packages: &[String]) -> Vec<&str> {
    if packages.is_empty() {
        return vec!["--workspace"];
    }
    packages.iter().flat_map(|name| ["--package", name]).collect()
}

/// Licences, sources and bans of every dependency; advisories where their database can be had.
fn dependencies() -> Result<Option<&'static str>> {
    if !setup::cargo_deny_is_there() {
        return Err("cargo-deny 0.20 is missing: run `cargo xtask setup`".to_owned());
    }
    // Only errors: duplicate versions, which are warnings, are for `cargo deny check bans` to list.
    command::run(&mut cargo(["deny", "--log-level", "error", "check", "licenses", "bans", "sources"]))?;
    if succeeds(&mut cargo(["deny", "fetch", "db"])) {
        command::run(&mut cargo(["deny", "--log-level", "error", "check", "--disable-fetch", "advisories"]))?;
        return Ok(None);
    }
    Ok(Some("security advisories (their database could not be fetched from github.com)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_names_each_package_or_the_workspace() {
        assert_eq!(selection(&[]), ["--workspace"]);
        let two = ["a".to_owned(), "b".to_owned()];
        assert_eq!(selection(&two), ["--package", "a", "--package", "b"]);
    }
}
