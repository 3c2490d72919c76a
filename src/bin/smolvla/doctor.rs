//! `smolvla doctor`: what this build and this machine can do, and what to do about each problem.

use std::path::{Path, PathBuf};
use std::{env, fs, thread};

use serde::Serialize;
use smolvla::backend::Execution;
use smolvla::{BACKENDS, BackendEntry, Device, Precision, PrecisionPlan};
use sysinfo::{Disks, MemoryRefreshKind, RefreshKind, System};

use crate::cache;
use crate::console::Console;
use crate::failure::Failure;
use crate::memory::gigabytes;
use crate::output::to_json;

/// What a full-size policy takes in f32, with room for the rest.
const MEMORY_BYTES: u64 = 2_500_000_000;
/// What a full-size checkpoint takes on a disk.
const CHECKPOINT_BYTES: u64 = 1_000_000_000;

/// What a variable does, and whether its value is nobody's business.
const VARIABLES: [(&str, bool); 18] = [
    (cache::VARIABLE, false),
    ("SMOLVLA_CPU_ISA", false),
    ("SMOLVLA_CPU_THREADS", false),
    ("SMOLVLA_CPU_PIN", false),
    ("SMOLVLA_PJRT_PLUGIN", false),
    ("BURN_FUSION_MAX_EXPLORATIONS", false),
    ("CUBECL_AUTOTUNE_LEVEL", false),
    ("CUBECL_AUTOTUNE_CACHE", false),
    ("VK_DRIVER_FILES", false),
    ("VK_ICD_FILENAMES", false),
    ("HF_HOME", false),
    ("HF_HUB_CACHE", false),
    ("HF_ENDPOINT", false),
    ("HF_HUB_OFFLINE", false),
    ("HF_TOKEN", true),
    ("HTTPS_PROXY", true),
    ("RAYON_NUM_THREADS", false),
    ("RUST_LOG", false),
];

/// Say what this build and this machine can do, and what to do about each problem.
///
/// Exits with 1 when no backend but the reference opens.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    backends: Vec<BackendReport>,
    machine: Machine,
    folders: Vec<Folder>,
    environment: Vec<Variable>,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct BackendReport {
    name: &'static str,
    summary: &'static str,
    built_in: bool,
    /// The device, where the backend opens.
    device: Option<String>,
    /// What stands in for the device, if anything does.
    emulated_by: Option<String>,
    precisions: Vec<Precision>,
    /// Mixtures of them that `--precision` takes by name.
    plans: Vec<PrecisionPlan>,
    /// Why a precision is not offered, where there is more to say.
    refusals: Vec<(Precision, String)>,
    /// Devices that the backend can be told to open, by number or name.
    adapters: Vec<AdapterReport>,
    /// What else was found: cards, and what is missing to use one.
    notes: Vec<String>,
    /// Why it does not open.
    problem: Option<String>,
}

#[cfg(feature = "wgpu")]
type AdapterReport = smolvla::wgpu::Adapter;
/// There are none.
#[cfg(not(feature = "wgpu"))]
#[derive(Serialize)]
enum AdapterReport {}

#[derive(Serialize)]
struct Machine {
    system: String,
    processor: String,
    threads: usize,
    instruction_sets: Vec<&'static str>,
    memory_bytes: u64,
    memory_available_bytes: u64,
    /// A container's limit, where it is below the machine's memory.
    memory_limit_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Folder {
    purpose: &'static str,
    path: PathBuf,
    exists: bool,
    free_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Variable {
    name: &'static str,
    value: String,
}

#[derive(Serialize)]
struct Problem {
    problem: String,
    fix: String,
}

pub(crate) fn perform(console: Console, args: &Args) -> Result<(), Failure> {
    let report = examine()?;
    console.result(&if args.json { to_json(&report)? } else { text(&report) })?;
    let usable =
        report.backends.iter().any(|backend| backend.device.is_some() && backend.name != "reference");
    if usable { Ok(()) } else { Err(Failure::internal("no backend can be opened but the slow reference")) }
}

fn examine() -> Result<Report, Failure> {
    let backends: Vec<_> = BACKENDS.iter().map(backend).collect();
    let machine = machine();
    let folders = folders()?;
    let mut problems = Vec::new();
    for backend in &backends {
        if let (true, Some(problem)) = (backend.built_in, &backend.problem) {
            problems.push(Problem {
                problem: problem.clone(),
                fix: "correct what it names, or use another --backend".to_owned(),
            });
        }
    }
    problems.extend(lacking_cpu(&backends));
    problems.extend(lacking_plugin());
    problems.extend(lacking_memory(&machine));
    problems.extend(folders.iter().filter_map(lacking_space));
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        backends,
        machine,
        folders,
        environment: variables(),
        problems,
    })
}

fn backend(entry: &BackendEntry) -> BackendReport {
    let opened = Device::open(entry.name).map(|device| device.capabilities());
    let (device, emulated_by, precisions, plans, refusals, problem) = match opened {
        Ok(capabilities) => {
            let emulated_by = match capabilities.execution {
                Execution::Emulated(by) => Some(by),
                _ => None,
            };
            let (precisions, plans) = (capabilities.precisions, capabilities.plans);
            (Some(capabilities.device), emulated_by, precisions, plans, capabilities.refusals, None)
        }
        Err(error) => (None, None, Vec::new(), Vec::new(), Vec::new(), Some(error.to_string())),
    };
    BackendReport {
        name: entry.name,
        summary: entry.summary,
        built_in: entry.built_in,
        device,
        emulated_by,
        precisions,
        plans,
        refusals,
        adapters: adapters(entry.name),
        notes: notes(entry.name),
        problem,
    }
}

#[cfg(feature = "wgpu")]
fn adapters(backend: &str) -> Vec<AdapterReport> {
    if backend == smolvla::wgpu::NAME { smolvla::wgpu::adapters() } else { Vec::new() }
}

#[cfg(not(feature = "wgpu"))]
fn adapters(_backend: &str) -> Vec<AdapterReport> {
    Vec::new()
}

/// What a backend finds beyond what it opens by itself.
fn notes(backend: &str) -> Vec<String> {
    match backend {
        "tt" => tenstorrent(),
        "fpga" => u280(),
        _ => Vec::new(),
    }
}

/// Tenstorrent cards, and the plugin that would run programs on one.
#[cfg(feature = "tt")]
fn tenstorrent() -> Vec<String> {
    use smolvla::tt::{PLUGIN_VARIABLE, probe};

    let mut notes: Vec<String> = probe::probe().to_string().lines().map(str::to_owned).collect();
    notes.push(match env::var_os(PLUGIN_VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => format!("tt:pjrt would load {} (not tried here)", Path::new(&path).display()),
        None => {
            format!("tt:pjrt needs a PJRT plugin: name its file in {PLUGIN_VARIABLE}, or as tt:pjrt:FILE")
        }
    });
    notes
}

#[cfg(not(feature = "tt"))]
fn tenstorrent() -> Vec<String> {
    Vec::new()
}

/// U280 cards, and XRT, which would run the design on one.
#[cfg(feature = "fpga-xrt")]
fn u280() -> Vec<String> {
    smolvla::fpga::xrt::probe().to_string().lines().map(str::to_owned).collect()
}

#[cfg(not(feature = "fpga-xrt"))]
fn u280() -> Vec<String> {
    if cfg!(feature = "fpga") {
        vec!["cards through XRT: not in this build (feature `fpga-xrt`)".to_owned()]
    } else {
        Vec::new()
    }
}

/// An adapter by number, with what bounds what it can run.
#[cfg(feature = "wgpu")]
fn adapter_lines(adapter: &AdapterReport) -> [String; 3] {
    let mib = |bytes: u64| bytes >> 20;
    let has = |there: bool| if there { "yes" } else { "no" };
    let [least, most] = adapter.subgroup_sizes;
    [
        format!("wgpu:{adapter}"),
        format!(
            "  driver {}; 16-bit floats: {}; subgroups: {} ({least} to {most})",
            if adapter.driver.is_empty() { "unknown" } else { &adapter.driver },
            has(adapter.f16),
            has(adapter.subgroups),
        ),
        format!(
            "  buffers up to {} MiB, of which a shader takes {} MiB; workgroups of {} units with {} KiB",
            mib(adapter.max_buffer_bytes),
            mib(adapter.max_binding_bytes),
            adapter.workgroup_units,
            adapter.workgroup_bytes >> 10
        ),
    ]
}

#[cfg(not(feature = "wgpu"))]
fn adapter_lines(adapter: &AdapterReport) -> [String; 3] {
    match *adapter {}
}

fn machine() -> Machine {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(memory);
    let limit = system.cgroup_limits().map(|limits| limits.total_memory);
    Machine {
        system: format!("{} {}", env::consts::OS, env::consts::ARCH),
        processor: processor().unwrap_or_else(|| "unknown".to_owned()),
        threads: thread::available_parallelism().map_or(1, usize::from),
        instruction_sets: instruction_sets(),
        memory_bytes: system.total_memory(),
        memory_available_bytes: system.available_memory(),
        memory_limit_bytes: limit.filter(|limit| *limit > 0 && *limit < system.total_memory()),
    }
}

/// The processor's name, where the system tells.
fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Instruction sets that matter to matrix products, of those this processor has.
#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> Vec<&'static str> {
    let detected = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
    ];
    let mut sets: Vec<_> = detected.iter().filter(|(_, found)| *found).map(|(name, _)| *name).collect();
    // Not among the standard library's stable names.
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags: Vec<&str> =
        flags.lines().find(|line| line.starts_with("flags")).unwrap_or("").split(' ').collect();
    sets.extend(["amx_tile", "amx_bf16", "amx_int8"].into_iter().filter(|name| flags.contains(name)));
    sets
}

/// Instruction sets that matter to matrix products, of those this processor has.
#[cfg(target_arch = "aarch64")]
fn instruction_sets() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected;

    let detected = [
        ("neon", is_aarch64_feature_detected!("neon")),
        ("dotprod", is_aarch64_feature_detected!("dotprod")),
        ("bf16", is_aarch64_feature_detected!("bf16")),
        ("i8mm", is_aarch64_feature_detected!("i8mm")),
        ("sve", is_aarch64_feature_detected!("sve")),
    ];
    detected.iter().filter(|(_, found)| *found).map(|(name, _)| *name).collect()
}

/// Instruction sets that matter to matrix products, of those this processor has.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn instruction_sets() -> Vec<&'static str> {
    Vec::new()
}

fn folders() -> Result<Vec<Folder>, Failure> {
    let disks = Disks::new_with_refreshed_list();
    let folder = |purpose, path: PathBuf| Folder {
        purpose,
        exists: path.is_dir(),
        free_bytes: free_bytes(&disks, &path),
        path,
    };
    Ok(vec![
        folder("synthetic checkpoints and tuning results", cache::folder()?),
        #[cfg(feature = "hub")]
        folder("Hugging Face Hub", smolvla::hub::HubOptions::from_env().cache_folder()),
    ])
}

/// Free space on the disk that holds `path`, or would.
fn free_bytes(disks: &Disks, path: &Path) -> Option<u64> {
    let existing = path.ancestors().find_map(|folder| fs::canonicalize(folder).ok())?;
    let holding = disks.list().iter().filter(|disk| existing.starts_with(disk.mount_point()));
    holding.max_by_key(|disk| disk.mount_point().as_os_str().len()).map(sysinfo::Disk::available_space)
}

fn variables() -> Vec<Variable> {
    let set =
        VARIABLES.iter().filter_map(|&(name, secret)| env::var_os(name).map(|value| (name, secret, value)));
    set.map(|(name, secret, value)| Variable {
        name,
        value: if secret { "(set)".to_owned() } else { value.to_string_lossy().into_owned() },
    })
    .collect()
}

fn lacking_cpu(backends: &[BackendReport]) -> Option<Problem> {
    let cpu = backends.iter().find(|backend| backend.name == "cpu")?;
    (!cpu.built_in).then(|| Problem {
        problem: "this build has no CPU backend".to_owned(),
        fix: "build again with the default features".to_owned(),
    })
}

/// A PJRT plugin that is named and not there. It is not loaded: that runs its code and may take a while.
#[cfg(feature = "tt")]
fn lacking_plugin() -> Option<Problem> {
    use smolvla::tt::PLUGIN_VARIABLE;

    let path = env::var_os(PLUGIN_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)?;
    (!path.is_file()).then(|| Problem {
        problem: format!("{PLUGIN_VARIABLE} names {}, which is no file", path.display()),
        fix: format!("set {PLUGIN_VARIABLE} to the library of a PJRT plugin, or to nothing"),
    })
}

#[cfg(not(feature = "tt"))]
fn lacking_plugin() -> Option<Problem> {
    None
}

fn lacking_memory(machine: &Machine) -> Option<Problem> {
    let usable = machine.memory_limit_bytes.unwrap_or(u64::MAX).min(machine.memory_available_bytes);
    (usable < MEMORY_BYTES).then(|| Problem {
        problem: format!(
            "{} of memory to be had; a full-size policy takes about {} in f32",
            gigabytes(usable),
            gigabytes(MEMORY_BYTES)
        ),
        fix: "end other programs, or try `smolvla demo --size tiny`".to_owned(),
    })
}

fn lacking_space(folder: &Folder) -> Option<Problem> {
    let free = folder.free_bytes?;
    let variable =
        if folder.purpose.starts_with("synthetic checkpoints") { cache::VARIABLE } else { "HF_HOME" };
    (free < CHECKPOINT_BYTES).then(|| Problem {
        problem: format!(
            "{} free for {} in {}; a full-size checkpoint takes {}",
            gigabytes(free),
            folder.purpose,
            folder.path.display(),
            gigabytes(CHECKPOINT_BYTES)
        ),
        fix: format!("free some space, or set {variable} to a folder on another disk"),
    })
}

fn text(report: &Report) -> String {
    let mut lines = vec![format!("smolvla {}", report.version), String::new(), "Backends".to_owned()];
    for backend in &report.backends {
        let state = match (&backend.device, &backend.emulated_by, backend.built_in) {
            (Some(device), None, _) => format!("ready: {device}"),
            (Some(device), Some(by), _) => format!("emulated by {by}: {device}"),
            (None, _, false) => format!("not in this build (build with --features {})", backend.name),
            (None, ..) => "cannot be opened, see below".to_owned(),
        };
        lines.push(format!("  {:<10} {}", backend.name, backend.summary));
        lines.push(format!("  {:<10}   {state}", ""));
        if backend.device.is_some() {
            let names: Vec<_> = backend.precisions.iter().map(|precision| precision.name()).collect();
            lines.push(format!("  {:<10}   precisions: {}", "", names.join(", ")));
        }
        for (precision, why) in &backend.refusals {
            lines.push(format!("  {:<10}   no {precision}: {why}", ""));
        }
        for line in backend.adapters.iter().flat_map(adapter_lines) {
            lines.push(format!("  {:<10}   {line}", ""));
        }
        lines.extend(backend.plans.iter().map(|plan| format!("  {:<10}   plan {plan}", "")));
        lines.extend(backend.notes.iter().map(|note| format!("  {:<10}   {note}", "")));
    }
    lines.extend([String::new(), "Machine".to_owned()]);
    lines.extend(machine_lines(&report.machine));
    lines.extend([String::new(), "Folders".to_owned()]);
    for folder in &report.folders {
        let free = folder.free_bytes.map_or_else(|| "unknown".to_owned(), gigabytes);
        let exists = if folder.exists { "" } else { ", will be made when needed" };
        lines.push(format!("  {}: {} ({free} free{exists})", folder.purpose, folder.path.display()));
    }
    lines.extend([String::new(), "Environment".to_owned()]);
    if report.environment.is_empty() {
        lines.push("  none of the variables that matter is set".to_owned());
    }
    lines.extend(report.environment.iter().map(|variable| format!("  {}={}", variable.name, variable.value)));
    lines.extend([String::new(), "Problems".to_owned()]);
    if report.problems.is_empty() {
        lines.push("  none".to_owned());
    }
    for problem in &report.problems {
        lines.push(format!("  {}", problem.problem));
        lines.push(format!("    do: {}", problem.fix));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn machine_lines(machine: &Machine) -> [String; 4] {
    let limit = machine.memory_limit_bytes;
    let limit =
        limit.map_or_else(String::new, |bytes| format!(", this container may use {}", gigabytes(bytes)));
    [
        format!("  system       {}", machine.system),
        format!("  processor    {}, {} threads", machine.processor, machine.threads),
        format!("  instructions {}", machine.instruction_sets.join(" ")),
        format!(
            "  memory       {}, {} available{limit}",
            gigabytes(machine.memory_bytes),
            gigabytes(machine.memory_available_bytes)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_backend_opens_or_says_why() {
        for entry in &BACKENDS {
            let report = backend(entry);
            assert_ne!(report.device.is_some(), report.problem.is_some(), "{}", entry.name);
        }
    }

    #[test]
    fn little_memory_and_little_space_are_problems_with_a_fix() {
        let mut machine = machine();
        machine.memory_available_bytes = u64::MAX;
        machine.memory_limit_bytes = None;
        assert!(lacking_memory(&machine).is_none());
        machine.memory_limit_bytes = Some(1_000_000_000);
        assert!(lacking_memory(&machine).unwrap().problem.contains("1.00 GB"));

        let mut folder = Folder {
            purpose: "synthetic checkpoints",
            path: "cache".into(),
            exists: false,
            free_bytes: Some(1 << 20),
        };
        assert!(lacking_space(&folder).unwrap().fix.contains(cache::VARIABLE));
        folder.free_bytes = Some(u64::MAX);
        assert!(lacking_space(&folder).is_none());
    }

    #[test]
    fn precisions_and_plans_of_a_backend_are_listed() {
        let mut report = examine().unwrap();
        let cpu = &mut report.backends[0];
        cpu.device = Some("a processor".to_owned());
        cpu.precisions = vec![Precision::F32, Precision::Bf16];
        cpu.plans = vec![PrecisionPlan::new("auto", Precision::Bf16).with_rule("state", Precision::F32, "")];
        let text = text(&report);
        assert!(text.contains("precisions: f32, bf16\n"), "{text}");
        assert!(text.contains("plan auto (bf16, f32 for state)\n"), "{text}");
    }
}
