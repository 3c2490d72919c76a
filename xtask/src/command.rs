//! Running other programs, visibly.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::{Result, setup};

/// Every feature of this workspace that is built and tested, by the package that has it.
///
/// Not `--all-features`: that would turn on `LEFT_OUT` too.
pub(crate) const FEATURES: [&str; 17] = [
    "smolvla/cpu",
    "smolvla/fpga",
    RTL[1],
    "smolvla/fpga-xrt",
    "smolvla/hub",
    "smolvla/ndarray",
    "smolvla/tt",
    "smolvla/wgpu",
    "smolvla-backend-cpu/ndarray",
    RTL[0],
    "smolvla-backend-fpga/xrt",
    "smolvla-conformance/backends",
    "smolvla-conformance/fpga",
    "smolvla-conformance/rollout",
    "smolvla-conformance/tt",
    "smolvla-core/hub",
    "smolvla-tabletop/record",
];

/// Simulates the FPGA's design: built where Verilator is there to translate it.
const RTL: [&str; 2] = ["smolvla-backend-fpga/rtl-sim", "smolvla/fpga-rtl"];

/// Features that are built on request alone: CubeCL's SPIR-V crashes the software driver that tests run on.
#[cfg(test)]
const LEFT_OUT: [&str; 2] = ["smolvla-backend-wgpu/vulkan", "smolvla/wgpu-vulkan"];

/// [`FEATURES`] of the packages, or of all where none is named, as cargo takes them.
pub(crate) fn features(packages: &[String]) -> Vec<String> {
    let selected: Vec<&str> = FEATURES
        .into_iter()
        .filter(|feature| !RTL.contains(feature) || setup::verilator_is_there())
        .filter(|feature| {
            let package = feature.split('/').next().unwrap_or_default();
            packages.is_empty() || packages.iter().any(|selected| selected == package)
        })
        .collect();
    if selected.is_empty() { Vec::new() } else { vec!["--features".to_owned(), selected.join(",")] }
}

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// The cargo that runs this task, in the workspace's root, with `arguments`.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Where cargo put a program of this workspace: beside this task, wherever the target folder is.
pub(crate) fn built(program: &str) -> Result<PathBuf> {
    let task = std::env::current_exe().map_err(|error| format!("cannot find the target folder: {error}"))?;
    Ok(task.with_file_name(format!("{program}{}", std::env::consts::EXE_SUFFIX)))
}

/// Says what runs, runs it, says how long it took. An exit status other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result {
    let line = announce(command);
    let start = Instant::now();
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if !status.success() {
        return Err(format!("`{line}` failed ({status})"));
    }
    eprintln!("xtask:   {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Whether a command succeeds, its output thrown away; false where it cannot even start.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Says what runs and runs it, showing each line of its standard output at once and giving it to `look`.
pub(crate) fn run_watched(command: &mut Command, mut look: impl FnMut(&str)) -> Result<ExitStatus> {
    announce(command);
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| cannot_start(command, &error))?;
    let stdout = child.stdout.take().expect("standard output was piped two lines above");
    // Bytes, not `lines()`: a test may print what is not UTF-8.
    for line in BufReader::new(stdout).split(b'\n') {
        let line =
            line.map_err(|error| format!("cannot read the output of {}: {error}", describe(command)))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        look(&line);
    }
    child.wait().map_err(|error| format!("cannot wait for {}: {error}", describe(command)))
}

fn announce(command: &Command) -> String {
    let line = describe(command);
    eprintln!("xtask: {line}");
    line
}

/// The command as a shell would take it, the program by its file name.
fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn cannot_start(command: &Command, error: &std::io::Error) -> String {
    format!("cannot start `{}`: {error}", describe(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_of_the_workspace_is_built_or_left_out_on_purpose() {
        let output = cargo(["metadata", "--no-deps", "--format-version", "1"]).output().unwrap();
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut known: Vec<&str> = FEATURES.into_iter().chain(LEFT_OUT).collect();
        known.sort_unstable();
        let mut there: Vec<String> = Vec::new();
        for package in metadata["packages"].as_array().unwrap() {
            let name = package["name"].as_str().unwrap();
            let features = package["features"].as_object().unwrap().keys();
            there.extend(
                features.filter(|feature| *feature != "default").map(|feature| format!("{name}/{feature}")),
            );
        }
        there.sort_unstable();
        assert_eq!(there, known);
    }

    #[test]
    fn features_are_those_of_the_packages_that_are_built() {
        let names =
            |packages: &[&str]| features(&packages.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&["smolvla-core"]), ["--features", "smolvla-core/hub"]);
        assert!(names(&["smolvla-backend-burn"]).is_empty());
        assert!(names(&[])[1].contains("smolvla/wgpu,"));
    }

    #[test]
    fn root_holds_the_workspace_manifest() {
        assert!(root().join("deny.toml").is_file(), "{}", root().display());
    }

    #[test]
    fn run_reports_a_failing_command() {
        let reason = run(cargo(["no-such-verb-of-cargo"]).stderr(Stdio::null())).unwrap_err();
        assert!(reason.starts_with("`cargo no-such-verb-of-cargo` failed"), "{reason}");
    }

    #[test]
    fn run_reports_an_absent_program() {
        let reason = run(&mut Command::new("/nowhere/program")).unwrap_err();
        assert!(reason.starts_with("cannot start `program`"), "{reason}");
    }

    #[test]
    fn run_watched_hands_over_every_line() {
        let mut lines = Vec::new();
        let status = run_watched(&mut cargo(["--version"]), |line| lines.push(line.to_owned())).unwrap();
        assert!(status.success());
        assert!(lines.len() == 1 && lines[0].starts_with("cargo "), "{lines:?}");
    }
}
