//! What machine this is, and what was measured on it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;
use std::time::SystemTime;
use std::{env, fs};

/// The machine and the state of the sources, for the head of a table.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Name of its folder under `benchmarks/record`.
    pub(crate) name: String,
    /// As the processor calls itself.
    pub(crate) processor: String,
    /// Processors this process may use.
    pub(crate) cores: usize,
    /// Instruction sets that matter to the kernels.
    pub(crate) flags: Vec<&'static str>,
    /// Memory, where the system tells.
    pub(crate) memory_bytes: Option<u64>,
    /// Of the sources; `+` where files differ from it, `unknown` outside a repository.
    pub(crate) revision: String,
    /// The compiler, as it calls itself.
    pub(crate) compiler: String,
    /// When the session began: date and minute, UTC.
    pub(crate) date: String,
    /// See `date`.
    pub(crate) time: String,
}

/// Words of processors' names that tell families apart, as folder names.
const FAMILIES: [&str; 13] = [
    "epyc",
    "threadripper",
    "ryzen",
    "xeon",
    "ultra",
    "core",
    "celeron",
    "pentium",
    "atom",
    "graviton",
    "neoverse",
    "ampere",
    "apple",
];

impl Machine {
    /// This machine; `name` replaces the name made from its processor.
    pub(crate) fn here(name: Option<&str>) -> Self {
        let processor = processor();
        let cores = cores();
        let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let (date, time) = started.split_once('T').unwrap_or((&started, ""));
        Self {
            name: name.map_or_else(|| machine_name(&processor, cores), str::to_owned),
            cores,
            flags: flags(),
            memory_bytes: memory_bytes(),
            revision: revision(),
            compiler: output(Command::new("rustc").arg("--version"))
                .unwrap_or_else(|| "rustc unknown".into()),
            date: date.to_owned(),
            time: time.get(..5).unwrap_or(time).to_owned(),
            processor,
        }
    }
}

/// The repository's root folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Processors this process may use.
pub(crate) fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// A folder for large files that may be deleted: `bench` in the build's target folder.
pub(crate) fn scratch() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    let profile = program.ancestors().find(|folder| folder.join(".fingerprint").is_dir());
    match profile.and_then(Path::parent) {
        Some(target) => target.join("bench"),
        None => env::temp_dir().join("smolvla-bench"),
    }
}

/// The most memory this process has had at once, in MB; 0 where the system does not tell.
pub(crate) fn peak_memory_mb() -> f64 {
    let peak = || {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()
    };
    peak().map_or(0.0, |kibibytes| kibibytes * 1024.0 / 1e6)
}

fn processor() -> String {
    let name = || {
        let text = fs::read_to_string("/proc/cpuinfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    name().unwrap_or_else(|| env::consts::ARCH.to_owned())
}

/// A folder name from a processor's name: its family, or the architecture, and the number of cores.
fn machine_name(processor: &str, cores: usize) -> String {
    let lower = processor.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let family = FAMILIES.iter().find(|family| words.contains(family));
    format!("{}-{cores}core", family.copied().unwrap_or(env::consts::ARCH))
}

fn flags() -> Vec<&'static str> {
    let mut flags = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! probe {
            ($($name:tt),*) => { $(if is_x86_feature_detected!($name) { flags.push($name); })* };
        }
        probe!("avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512bf16");
        if crate::ceiling::amx_is_there() {
            flags.push("amx");
        }
    }
    flags.sort_unstable();
    flags
}

fn memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

fn revision() -> String {
    let git = |arguments: &[&str]| output(Command::new("git").args(arguments).current_dir(root()));
    let Some(revision) = git(&["rev-parse", "--short=10", "HEAD"]) else { return "unknown".to_owned() };
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    format!("{revision}{}", if changed { "+" } else { "" })
}

/// What a program prints, trimmed; `None` where it cannot run or fails.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_names_are_family_and_cores() {
        assert_eq!(machine_name("AMD EPYC", 2), "epyc-2core");
        assert_eq!(machine_name("Intel(R) Xeon(R) Platinum 8488C", 8), "xeon-8core");
        assert_eq!(machine_name("13th Gen Intel(R) Core(TM) i7-13700K", 16), "core-16core");
        assert_eq!(machine_name("something else", 4), format!("{}-4core", env::consts::ARCH));
    }

    #[test]
    fn peak_memory_is_this_process_own() {
        if cfg!(target_os = "linux") {
            assert!((1.0..100_000.0).contains(&peak_memory_mb()), "{}", peak_memory_mb());
        }
    }
}
