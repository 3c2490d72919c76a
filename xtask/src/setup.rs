//! `cargo xtask setup`: what `check` and `test` need beyond Rust itself.
//!
//! The list is short on purpose. Tests run under plain `cargo test`: the conformance suite shares one loaded
//! checkpoint a process, which a process a test (cargo-nextest) would load again for every test, and cargo's own
//! runner needs no installing and prints the reason of each ignored test. Four system packages are wanted, and none is
//! needed: a Chromium, for the test that looks at the conformance report in a browser, Verilator, which simulates the
//! FPGA's design, XRT, for the test of its host's side in XRT's emulation, and on Linux a Vulkan driver (a GPU's, or
//! Mesa's software renderer) for the GPU backend. Plugins for the tests of the Tenstorrent backend come as
//! wheels, through pip. What cannot be had is ignored with its reason. Every dependency that builds C needs only the
//! compiler that Rust needs anyway for linking.

use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::command::{self, cargo, succeeds};
use crate::wheels;

/// Built from source where absent, about two minutes on two cores, once: it stays in cargo's own `bin` folder.
/// There is no other way to know the licences of some 500 crates, so it is worth the two minutes.
const CARGO_DENY: &str = "cargo-deny@0.20.2";

/// Names a browser for the tests that want one.
const BROWSER_VARIABLE: &str = "SMOLVLA_BROWSER";

/// Programs in PATH, and where other systems put theirs; tests/tests/report/browser.rs looks for the same.
const BROWSERS: [&str; 6] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
];

/// Who asks for the setup: system packages are installed only where that was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// `cargo xtask setup`.
    Setup,
    /// `cargo xtask test`: on a machine of continuous integration (`CI` is set), as `Setup`.
    Test,
}

/// Installs what is missing, and says of each thing whether it was there.
pub(crate) fn run(caller: Caller) -> Result {
    component("rustfmt", "fmt")?;
    component("clippy", "clippy")?;
    cargo_deny()?;
    browser(caller);
    verilator(caller)?;
    wheels::fetch();
    xrt(caller);
    vulkan(caller)
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

/// Installs a browser where there is none and apt can; else says what goes without it.
fn browser(caller: Caller) {
    if let Some(name) = installed_browser() {
        eprintln!("xtask: {name}: there");
        return;
    }
    let outcome = install_for(caller, &["chromium"]);
    match installed_browser() {
        Some(name) => eprintln!("xtask: {name}: installed"),
        None => {
            let reason = outcome.err().unwrap_or_else(|| "it was installed but is not found".to_owned());
            eprintln!(
                "xtask: no browser: {reason}. The test that looks at the conformance report in one will be ignored; \
                 install Chromium or Chrome, or name a browser of that kind in {BROWSER_VARIABLE}"
            );
        }
    }
}

/// Installs XRT on a Debian that has none, where apt can; else says what goes without it. No card is needed.
fn xrt(caller: Caller) {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return;
    }
    if xrt_is_there() {
        eprintln!("xtask: XRT: there");
        return;
    }
    let outcome = install_for(caller, &["libxrt1"]);
    if xrt_is_there() {
        eprintln!("xtask: XRT: installed");
    } else {
        let reason = outcome.err().unwrap_or_else(|| "it was installed but is not found".to_owned());
        eprintln!("xtask: no XRT: {reason}. Tests of the U280's backend in XRT's emulation will be ignored");
    }
}

/// Whether XRT is where Debian has it; crates/backend-fpga/tests/xrt/harness.rs looks there too.
fn xrt_is_there() -> bool {
    Path::new("/usr/lib/x86_64-linux-gnu/libxrt_coreutil.so.2").is_file()
}

/// Installs Verilator, and the compiler for what it writes, where there is none and apt can; else says what goes without
/// it.
///
/// # Errors
/// On a machine of continuous integration without it: the FPGA's design would go untested.
fn verilator(caller: Caller) -> Result {
    if verilator_is_there() {
        eprintln!("xtask: Verilator: there");
        return Ok(());
    }
    let outcome = install_for(caller, &["verilator", "g++"]);
    if verilator_is_there() {
        eprintln!("xtask: Verilator: installed");
        return Ok(());
    }
    let reason = outcome.err().unwrap_or_else(|| "it was installed but is not found".to_owned());
    if is_ci() {
        return Err(format!("no Verilator: {reason}; install verilator and g++"));
    }
    eprintln!(
        "xtask: no Verilator: {reason}. The simulation of the FPGA's design will be neither built nor tested; install \
         Verilator 5 and a C++ compiler"
    );
    Ok(())
}

/// Whether the FPGA's design can be simulated.
pub(crate) fn verilator_is_there() -> bool {
    succeeds(Command::new("verilator").arg("--version"))
}

/// Installs a software Vulkan driver on a Linux without any, where apt can; else says what goes without it. Other
/// systems bring Metal or DirectX.
///
/// # Errors
/// On a machine of continuous integration without a driver: a whole backend would go untested.
fn vulkan(caller: Caller) -> Result {
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    if vulkan_driver_is_there() {
        eprintln!("xtask: Vulkan driver: there");
        return Ok(());
    }
    let outcome = install_for(caller, &["mesa-vulkan-drivers", "libvulkan1"]);
    if vulkan_driver_is_there() {
        eprintln!("xtask: Vulkan driver (Mesa's, with its software renderer): installed");
    } else {
        let reason = outcome.err().unwrap_or_else(|| "it was installed but is not found".to_owned());
        if is_ci() {
            return Err(format!("no Vulkan driver: {reason}"));
        }
        eprintln!("xtask: no Vulkan driver: {reason}. Tests of the GPU backend will be ignored");
    }
    Ok(())
}

/// Whether a Vulkan driver is registered: where the loader looks, in a system's folders, or as a variable says.
pub(crate) fn vulkan_driver_is_there() -> bool {
    let is_named = |name: &&str| std::env::var_os(name).is_some_and(|files| !files.is_empty());
    let has_files = |folder: &&str| std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some());
    ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].iter().any(is_named)
        || ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"]
            .iter()
            .any(has_files)
}

/// Whether this is a machine of continuous integration.
pub(crate) fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// The browser that tests will use. One that `SMOLVLA_BROWSER` names is taken at its word.
fn installed_browser() -> Option<String> {
    if let Some(name) = std::env::var_os(BROWSER_VARIABLE).filter(|name| !name.is_empty()) {
        return Some(name.to_string_lossy().into_owned());
    }
    BROWSERS.into_iter().find(|name| is_installed(name)).map(str::to_owned)
}

fn is_installed(program: &str) -> bool {
    // On Windows a browser asked for its version opens a window.
    match Path::new(program).is_absolute() {
        true => Path::new(program).is_file(),
        false => succeeds(Command::new(program).arg("--version")),
    }
}

/// Installs Debian packages, where the caller may.
fn install_for(caller: Caller, packages: &[&str]) -> Result {
    if caller != Caller::Setup && !is_ci() {
        return Err("none is installed; `cargo xtask setup` does it".to_owned());
    }
    if !succeeds(Command::new("apt-get").arg("--version")) {
        return Err("none is installed, and this system has no apt to install one with".to_owned());
    }
    let become_root: &[&str] = if is_root() {
        &[]
    } else if succeeds(Command::new("sudo").args(["--non-interactive", "true"])) {
        &["sudo", "--non-interactive"]
    } else {
        return Err(format!("none is installed, and `apt-get install {}` needs root", packages.join(" ")));
    };
    command::run(&mut apt(become_root, &["update"]))?;
    let arguments: Vec<&str> =
        ["install", "--yes", "--no-install-recommends"].iter().chain(packages).copied().collect();
    command::run(&mut apt(become_root, &arguments))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// `apt-get` with these arguments, through the words that give it the rights.
fn apt(become_root: &[&str], arguments: &[&str]) -> Command {
    // Through `env`, because sudo drops the environment. Another apt may hold the lock for a while.
    let program = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--option", "DPkg::Lock::Timeout=120"];
    let mut words = become_root.iter().chain(&program).chain(arguments);
    let mut command = Command::new(words.next().unwrap_or(&"env"));
    command.args(words);
    command
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

    #[test]
    fn apt_runs_through_sudo_only_where_it_must() {
        let words = |command: Command| -> Vec<String> {
            std::iter::once(command.get_program())
                .chain(command.get_args())
                .map(|word| word.to_string_lossy().into_owned())
                .collect()
        };
        let as_root = words(apt(&[], &["update"]));
        assert_eq!(as_root[..3], ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        assert_eq!(as_root.last().map(String::as_str), Some("update"));
        let through_sudo = words(apt(&["sudo", "--non-interactive"], &["update"]));
        assert_eq!(through_sudo[..2], ["sudo", "--non-interactive"]);
        assert_eq!(through_sudo[2..], as_root);
    }

    #[test]
    fn programs_that_are_not_there_are_not_installed() {
        assert!(!is_installed("no-such-browser-anywhere"));
        assert!(!is_installed("/nowhere/browser"));
    }
}
