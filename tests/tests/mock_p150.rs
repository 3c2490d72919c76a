//! The policy in its real size on Tenstorrent's compiler, for a p150 that is not there.
//!
//! Nothing here is a number of the policy's: a mock computes nothing, and what its run leaves is dropped unread. What is
//! shown is that the compiler takes both programs, what it makes of them, and that their kernels build.
//!
//! Building the kernels of a program keeps two cores busy for minutes, so of the prefix that is only done where
//! `SMOLVLA_P150_BUILD_ALL` is set. They stay in the target folder, and the next run finds them.
#![allow(clippy::print_stdout, reason = "a child speaks to its parent, and the parent to people")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use smolvla_backend_tt::device::{Given, TtDevice};
use smolvla_backend_tt::pjrt::child::{self, Children};
use smolvla_backend_tt::pjrt::{Client, CompileOptions, Executable, Mock, MockDevice, Plugin};
use smolvla_backend_tt::pjrt::{TenstorrentOptions, Wheels};
use smolvla_backend_tt::program::{Argument, Op, Program, TensorType};
use smolvla_backend_tt::tensix::Format;
use smolvla_backend_tt::{Collector, TtBackend};
use smolvla_conformance::fixtures::Fixtures;
use smolvla_core::policy::{PolicyOptions, SmolVla, WarmUp};

/// A checkpoint of the real size.
const CASE: &str = "base_one_camera";
/// Cameras that the policy is given.
const CAMERAS: usize = 2;
/// Products of the prefix: 12 layers of vision of 4 (`qkv`, `output`, `fc1`, `fc2`), the patches, the connector and the
/// state; 16 of text, of which the last gives only `qkv` and the others `output`, `gate_up` and `down` too; keys and
/// values for the expert's 8 layers of cross-attention; and two for each attention of 12 + 15 layers.
const PREFIX: usize = (12 * 4 + 3) + (16 + 15 * 3) + 8 * 2 + 2 * (12 + 15);
/// Products of a step: `action_in`, two of the time MLP and `action_out`; in each of 16 layers the query or `qkv`,
/// `output`, `gate_up` and `down`; and two for each attention.
const DENOISE: usize = 4 + 16 * 4 + 2 * 16;
/// Set to build the kernels of both programs.
const BUILD_ALL: &str = "SMOLVLA_P150_BUILD_ALL";
/// A line of a child with something for people.
const SAID: &str = "p150: ";

fn main() -> ExitCode {
    if let Some(outcome) = child::as_child(|_, plugin| policy(plugin).map_err(|error| error.to_string())) {
        return outcome;
    }
    let trial = Trial::ignorable_test(
        "p150::both_programs_of_the_policy_compile_and_the_steps_kernels_build",
        || match Wheels::of_target(&target()).tenstorrent() {
            Ok(plugin) => run(&plugin).map(|()| Completion::Completed),
            Err(reason) => Ok(Completion::ignored_with(reason)),
        },
    );
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

/// Cargo's target folder.
fn target() -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    scratch.parent().unwrap_or(scratch).to_owned()
}

fn run(plugin: &Path) -> Result<(), Failed> {
    // The folder that the tests of the bindings use: what the plugin unpacks is there once.
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tenstorrent");
    let printed = Children::new(plugin, scratch).run("policy", true)?;
    for line in printed.lines().filter_map(|line| line.strip_prefix(SAID)) {
        println!("{line}");
    }
    Ok(())
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The policy's programs in the plan `balanced`, as a card would be given them.
fn programs() -> Outcome<[Program; 2]> {
    let fixtures = Fixtures::open().map_err(|stop| stop.to_string())?;
    let case = fixtures.case(CASE).map_err(|stop| stop.to_string())?;
    let checkpoint = fixtures.checkpoint(case).map_err(|stop| stop.to_string())?;
    let collector = Collector::default();
    let backend = TtBackend::new(collector.clone());
    assert_eq!(backend.plan().name, "balanced");
    let options =
        PolicyOptions { precision: smolvla_core::Precision::Bfp8.into(), ..PolicyOptions::default() };
    let mut policy = SmolVla::open(backend, &checkpoint, &options, &mut |_| ())?;
    let mut chunks = WarmUp::new(CAMERAS);
    chunks.repeats = 1;
    chunks.run(&mut policy)?;
    let named = |name| collector.named(name).ok_or("the policy has no such program");
    Ok([named("prefix")?, named("denoise")?])
}

fn policy(plugin: &Plugin) -> Outcome<()> {
    let started = Instant::now();
    let programs = programs()?;
    say(&format!("the policy's programs: {:.1} s", started.elapsed().as_secs_f64()));
    let started = Instant::now();
    let device = MockDevice::from(Client::<Mock>::open(plugin)?);
    say(&format!("a client: {:.1} s", started.elapsed().as_secs_f64()));
    for (program, (name, products)) in programs.iter().zip([("prefix", PREFIX), ("denoise", DENOISE)]) {
        let started = Instant::now();
        let (executable, text) = compile(&device, program, name)?;
        let seconds = started.elapsed().as_secs_f64();
        let kinds = kinds(&text).iter().fold(String::new(), |mut all, (kind, count)| {
            let _ = write!(all, " {kind} {count}");
            all
        });
        say(&format!(
            "{name}: {} operations compiled in {seconds:.1} s to{kinds}",
            program.instructions.len()
        ));
        check(program, &text, products);
        if name == "prefix" && std::env::var_os(BUILD_ALL).is_none() {
            say(&format!(
                "{name}: kernels not built; set {BUILD_ALL} to build them, which takes minutes once"
            ));
            continue;
        }
        let started = Instant::now();
        execute(&device, program, &executable)?;
        say(&format!("{name}: kernels built and run once in {:.1} s", started.elapsed().as_secs_f64()));
    }
    Ok(())
}

fn say(text: &str) {
    println!("{SAID}{text}");
}

/// A program, and the compiler's own text of it in operations of ttnn, which is kept beside what was built.
fn compile(device: &MockDevice, program: &Program, name: &str) -> Outcome<(Executable<Mock>, String)> {
    let exported = tempfile::tempdir()?;
    let options = TenstorrentOptions {
        export: Some((exported.path().to_owned(), name.to_owned())),
        ..TenstorrentOptions::of(program)
    };
    let executable = device.compile_with(program, name, &CompileOptions::from(&options))?;
    let start = format!("ttnn_{name}_");
    let file = std::fs::read_dir(exported.path().join("irs"))?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&start))
        .ok_or("the plugin exported no program in operations of ttnn")?;
    let text = std::fs::read_to_string(file.path())?;
    let kept = target().join("tenstorrent-ir");
    std::fs::create_dir_all(&kept)?;
    let kept = kept.join(format!("{name}.mlir"));
    std::fs::write(&kept, &text)?;
    say(&format!("{name}: {}", kept.display()));
    Ok((executable, text))
}

/// How many operations of each kind there are, the most frequent first.
fn kinds(text: &str) -> Vec<(&str, usize)> {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for kind in text.split("\"ttnn.").skip(1).filter_map(|rest| rest.split('"').next()) {
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((kind, 1)),
        }
    }
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    kinds
}

/// Holds the compiler to what the program and its plan say.
fn check(program: &Program, text: &str, expected: usize) {
    let count = |is: fn(&Op) -> bool| program.instructions.iter().filter(|step| is(&step.op)).count();
    let linear = count(|op| matches!(op, Op::Linear { .. }));
    let attention = count(|op| matches!(op, Op::Attention { .. }));
    let lines = |kinds: &[&str]| -> Vec<&str> {
        let is = |line: &&str| kinds.iter().any(|kind| line.contains(&format!("\"ttnn.{kind}\"")));
        text.lines().filter(is).collect()
    };

    // A product for each layer, and two for each attention whatever its heads and segments are.
    let products = lines(&["matmul", "linear"]);
    assert_eq!((products.len(), linear + 2 * attention), (expected, expected));
    // What the plan asks of most linear layers all products do: the compiler has one setting for a program. Only
    // products of 32-bit floats, which ask for the highest precision by themselves, keep that: the noisy actions'.
    let fine = count(|op| matches!(op, Op::Linear { input: Format::F32, .. }));
    let of = |fidelity: &str| {
        let accumulates = |line: &&&str| line.contains("fp32_dest_acc_en = true");
        let fidelity = format!("math_fidelity = {fidelity},");
        products.iter().filter(accumulates).filter(|line| line.contains(&fidelity)).count()
    };
    assert_eq!((of("hifi2"), of("hifi4")), (expected - fine, fine));
    // Every weight, and nothing else, is in block floats when it is multiplied.
    let weights = program.arguments.iter().filter(|a| matches!(a, Argument::Weight { .. })).count();
    let stored = products.iter().filter(|line| line.contains("bfp_bf8")).count();
    assert_eq!((weights, stored), (linear, linear));

    // Norms and softmax are kernels of their own, not the steps that they are made of.
    let norms = count(|op| matches!(op, Op::RmsNorm { .. }));
    assert_eq!((lines(&["rms_norm"]).len(), lines(&["rsqrt", "mean"]).len()), (norms, 0));
    let norms = count(|op| matches!(op, Op::LayerNorm { .. }));
    assert_eq!(lines(&["layer_norm"]).len(), norms);
    assert_eq!((lines(&["softmax"]).len(), lines(&["exp", "sum", "max"]).len()), (attention, 0));
}

/// Runs a program once on zeros. What it leaves is dropped unread.
fn execute(device: &MockDevice, program: &Program, executable: &Executable<Mock>) -> Outcome<()> {
    let zeros = |count| vec![0.0; count];
    let buffers: Vec<_> = program
        .arguments
        .iter()
        .map(|argument| match *argument {
            Argument::Tensor(TensorType { rows, cols, format }) => {
                device.upload(&zeros(rows * cols), rows, cols, format)
            }
            Argument::Weight { outputs, inputs, format } => {
                device.upload_weight(&zeros(outputs * inputs), outputs, inputs, format)
            }
            Argument::Mask { batch, queries, keys } => {
                device.upload_mask(&vec![true; batch * queries * keys], batch, queries, keys)
            }
        })
        .collect::<Result<_, _>>()?;
    let outputs = device.execute(executable, buffers.iter().map(Given::Lent).collect())?;
    for output in &outputs {
        output.wait()?;
    }
    assert_eq!(outputs.len(), program.results.len());
    Ok(())
}
