//! With the feature `rtl-sim`, translates the compute unit's SystemVerilog to C++ with Verilator and compiles it.
//!
//! `SMOLVLA_RTL_DIR` names another folder of sources than `rtl`, for tests that plant bugs in a copy;
//! `SMOLVLA_RTL_TRACE`, where it is not empty, builds a simulation that can write waveforms, and is slower for it.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(rtl_trace)");
    #[cfg(feature = "rtl-sim")]
    simulation::build()?;
    Ok(())
}

#[cfg(feature = "rtl-sim")]
mod simulation {
    use std::error::Error;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    const TOP: &str = "smolvla_cu";
    const PREFIX: &str = "Vsmolvla_cu";

    pub(super) fn build() -> Result<(), Box<dyn Error>> {
        println!("cargo::rerun-if-env-changed=SMOLVLA_RTL_DIR");
        println!("cargo::rerun-if-env-changed=SMOLVLA_RTL_TRACE");
        let own = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("rtl");
        let rtl = named("SMOLVLA_RTL_DIR").map_or(own, PathBuf::from);
        let trace = named("SMOLVLA_RTL_TRACE").is_some();
        println!("cargo::rerun-if-changed={}", rtl.display());
        let model = Path::new(&std::env::var("OUT_DIR")?).join("model");
        // What an earlier, larger design left there would be compiled again.
        if model.exists() {
            std::fs::remove_dir_all(&model)?;
        }
        translate(&rtl, &model, trace)?;
        compile(&rtl, &model, trace)
    }

    fn named(variable: &str) -> Option<String> {
        std::env::var(variable).ok().filter(|value| !value.is_empty())
    }

    fn translate(rtl: &Path, model: &Path, trace: bool) -> Result<(), Box<dyn Error>> {
        let (packages, mut folders) = packages_and_folders(rtl)?;
        folders.retain(|folder| !folder.starts_with(rtl.join("sim")));
        let mut command = Command::new("verilator");
        command
            .args(["--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-timing", "--no-assert"])
            // The array's plain twin, which simulates several times as fast.
            .arg("+define+PLAIN_ARRAY")
            // Lints are for the check of the sources, which asks for all of them.
            .args(["--Wno-lint", "--Wno-style", "--error-limit", "20"])
            // Files of this many statements, to compile them side by side.
            .args(["--output-split", "20000", "--output-split-cfuncs", "5000"])
            .args(["--top-module", TOP, "--prefix", PREFIX, "--Mdir"])
            .arg(model);
        if trace {
            command.args(["--trace", "--trace-structs"]);
        }
        for folder in &folders {
            command.arg("-y").arg(folder);
            command.arg(format!("+incdir+{}", folder.display()));
        }
        command.args(&packages).arg(rtl.join("top").join(format!("{TOP}.sv")));
        let status = command.status().map_err(|error| {
            format!(
                "cannot start `verilator` ({error}): the feature `rtl-sim` simulates the U280's design with it; \
                 install it with `cargo xtask setup` or `apt-get install verilator`"
            )
        })?;
        if !status.success() {
            return Err(format!("`verilator` refused the sources in {} ({status})", rtl.display()).into());
        }
        Ok(())
    }

    /// Packages, the one that the others use first, and every folder with sources.
    fn packages_and_folders(rtl: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Box<dyn Error>> {
        let mut folders = vec![rtl.to_owned()];
        let (mut packages, mut at) = (Vec::new(), 0);
        while at < folders.len() {
            for entry in std::fs::read_dir(&folders[at])? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_string_lossy().ends_with("_pkg.sv") {
                    packages.push(path);
                }
            }
            at += 1;
        }
        folders.sort();
        packages.sort_by_key(|path| (!path.ends_with("smolvla_pkg.sv"), path.clone()));
        Ok((packages, folders))
    }

    fn compile(rtl: &Path, model: &Path, trace: bool) -> Result<(), Box<dyn Error>> {
        let root = Command::new("verilator").args(["--getenv", "VERILATOR_ROOT"]).output()?;
        let include = Path::new(String::from_utf8(root.stdout)?.trim()).join("include");
        let mut files: Vec<PathBuf> = std::fs::read_dir(model)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "cpp"))
            .collect();
        files.sort();
        // Initial values and the like, half of the whole: they run once, and optimising them takes longer than that.
        let (slow, mut files): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|path| path.to_string_lossy().ends_with("__Slow.cpp"));
        files.extend(["verilated.cpp", "verilated_threads.cpp"].map(|name| include.join(name)));
        if trace {
            files.push(include.join("verilated_vcd_c.cpp"));
        }
        files.push(rtl.join("sim").join("smolvla_cu.cpp"));
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            .debug(false)
            // The generated code is Verilator's to keep free of warnings.
            .warnings(false)
            .define("VM_SC", "0")
            .define("VM_COVERAGE", "0")
            .define("VM_TRACE", if trace { "1" } else { "0" })
            .define("VM_TRACE_VCD", if trace { "1" } else { "0" })
            .define("VM_TRACE_FST", "0")
            .include(model)
            .include(&include)
            .include(include.join("vltstd"));
        if trace {
            build.define("SMOLVLA_RTL_TRACE", None);
            println!("cargo::rustc-cfg=rtl_trace");
        }
        let slow = build.clone().opt_level(0).files(slow).try_compile_intermediates()?;
        build.opt_level(2).files(files).objects(slow).try_compile("smolvla_cu")?;
        Ok(())
    }
}
