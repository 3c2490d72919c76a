//! `smolvla cost`: what the model costs on a device, counted from the graph that runs.

mod choices;
mod pictures;
mod report;
mod scenario;
mod sweep;
mod tables;
mod views;

use std::path::{Path, PathBuf};

use smolvla::Error;
use smolvla::checkpoint::{Checkpoint, LoadOptions};
use smolvla::config::{Architecture, PolicyConfig};
use smolvla::cost::measured::{Calibration, Measured};
use smolvla::cost::{Device, documents};
use smolvla::count::Workload;
use smolvla::synth::{self, Size, SynthOptions};

use crate::console::{Console, Unit};
use crate::failure::Failure;
use crate::output::to_json;
use crate::synth::sizes;
use choices::{ExecutionArgs, WidthArgs};
use scenario::{Evaluated, Json, Scenario};
use sweep::Sweep;
use tables::Table;
use views::Point;

const AFTER_HELP: &str = "\
Examples:
  smolvla cost --device u280 --precision int8 --cameras 3
  smolvla cost --device h200 --sweep batch=1,2,4,8 --sweep precision=bf16,fp8
  smolvla cost --device my_card.toml --report out/
  smolvla cost --device cpu --precision bf16 --measured benchmarks/record/epyc-2core/2026-11-21.csv
  smolvla cost --scenario seed-003
  smolvla cost --print-device u280 > my_card.toml

Everything is counted by running the policy's own graph on shapes; no weights are read.
  component  vision; connector to image tokens; text: prefix and language model; cross_kv: the
             expert's projections of the prefix's keys and values (K/V); expert: all denoising steps
  time       modelled, of each kernel the longest of: compute (matrix products), elementwise (all other
             arithmetic), bandwidth (memory traffic), each at the rate the device attains, and its floor
             (the least time of any kernel)
  bound by   the shares of the time that pass in kernels of which that is the longest, from 5 %
  roof       the same at the device's peaks, without padding, floors and other arithmetic
1 MAC = 2 operations; MB = 10^6 bytes. docs/cost-model.md has the method and the device file's keys.";

/// What a scenario brings with it.
const SCENARIO_DECIDES: [&str; 27] = [
    "checkpoint",
    "vlm",
    "size",
    "device",
    "cameras",
    "one_by_one",
    "batch",
    "steps",
    "prompt",
    "chunk",
    "precision",
    "weights",
    "activations",
    "kv",
    "accumulators",
    "scales",
    "group",
    "products",
    "fusion",
    "unfused_attention",
    "cross_kv",
    "time_mlp",
    "resident",
    "sweep",
    "measured",
    "report",
    "list_devices",
];

/// Tell what the model costs on a device: arithmetic, traffic, storage, time, and what binds where.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Count the policy of this folder on this machine; its config.json is read, not its weights.
    #[arg(long, value_name = "FOLDER", conflicts_with = "size")]
    checkpoint: Option<PathBuf>,
    /// Folder with the vision-language model's config.json, in the place of the one the checkpoint names.
    #[arg(long, value_name = "FOLDER", requires = "checkpoint")]
    vlm: Option<PathBuf>,
    /// base: the published sizes; tiny: a miniature.
    #[arg(long, default_value = "base", value_parser = sizes())]
    size: Size,

    /// A preset (see --list-devices) or a TOML file.
    #[arg(long, value_name = "NAME|FILE", default_value = "cpu", help_heading = "Device")]
    device: String,
    /// List the presets.
    #[arg(long, help_heading = "Device", exclusive = true)]
    list_devices: bool,
    /// Print a preset's file, with the source of every number, as a start for one's own.
    #[arg(long, value_name = "NAME", help_heading = "Device", exclusive = true)]
    print_device: Option<String>,

    /// Cameras of an observation; those of the checkpoint unless given, one without a checkpoint.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Workload")]
    cameras: Option<usize>,
    /// Encode pictures one by one rather than as one batch.
    #[arg(long, help_heading = "Workload")]
    one_by_one: bool,
    /// Observations in the batch.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_negative_numbers = true,
        help_heading = "Workload"
    )]
    batch: usize,
    /// Denoising steps; the policy's own unless given.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Workload")]
    steps: Option<usize>,
    /// Tokens of the instruction; the policy's longest unless given.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Workload")]
    prompt: Option<usize>,
    /// Actions in a chunk; the policy's own unless given.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Workload")]
    chunk: Option<usize>,

    #[command(flatten)]
    widths: WidthArgs,
    #[command(flatten)]
    execution: ExecutionArgs,

    /// Vary one thing: cameras=1..4, batch=1,2,4, steps=…, prompt=…, chunk=…, bandwidth=0.5..2, compute=…,
    /// precision=int8,bf16, device=h200,p150, fusion=operations,layers. Ranges of factors go by the square root of 2.
    /// Repeated, each is varied by itself.
    #[arg(long, value_name = "AXIS=VALUES", help_heading = "What-ifs")]
    sweep: Vec<Sweep>,
    /// Show an estimate that the project began with beside the exact figures: seed-000 to seed-004. Its model, workload
    /// and numbers are its own.
    #[arg(long, value_name = "NAME", help_heading = "What-ifs", conflicts_with_all = SCENARIO_DECIDES)]
    scenario: Option<String>,
    /// Set measurements of `cargo xtask bench --record` beside the roof. One that is faster is an error. Cameras, batch
    /// and precision are each row's own.
    #[arg(long, value_name = "CSV", help_heading = "What-ifs", conflicts_with_all = ["chunk", "one_by_one"])]
    measured: Option<PathBuf>,

    /// Print operations and storage beside a sweep or measurements too.
    #[arg(long, help_heading = "Output")]
    all: bool,
    /// Print one JSON object.
    #[arg(long, help_heading = "Output", conflicts_with_all = ["csv", "markdown"])]
    json: bool,
    /// Print one table as comma-separated values: the sweep, the measurements, or else the operations.
    #[arg(long, help_heading = "Output", conflicts_with = "markdown")]
    csv: bool,
    /// Print tables as Markdown, with every column.
    #[arg(long, help_heading = "Output")]
    markdown: bool,
    /// Write a page with tables and pictures, self-contained, and the pictures as SVG and PNG.
    #[arg(long, value_name = "FOLDER", help_heading = "Output")]
    report: Option<PathBuf>,
}

pub(crate) fn perform(console: Console, args: &Args) -> Result<(), Failure> {
    if args.list_devices {
        return list_devices(console);
    }
    if let Some(name) = &args.print_device {
        let text = Device::preset_text(name).ok_or_else(|| {
            let presets: Vec<_> = Device::presets().collect();
            Failure::input(format!("--print-device {name}: presets are {}", presets.join(", ")))
        })?;
        return console.result(text);
    }
    if let Some(name) = &args.scenario {
        return show_document(console, args, name);
    }
    if args.csv && args.sweep.len() + usize::from(args.measured.is_some()) > 1 {
        return Err(Failure::input("--csv prints one table, so it takes one --sweep or --measured"));
    }
    if let Some(folder) = args.report.as_ref().filter(|folder| folder.exists() && !folder.is_dir()) {
        return Err(Failure::input(format!("--report {}: is a file; expected a folder", folder.display())));
    }
    let scenario = args.scenario()?;
    let evaluated = scenario.evaluate()?;
    let sweeps: Vec<(Sweep, Vec<Point>)> = args
        .sweep
        .iter()
        .map(|sweep| Ok((sweep.clone(), points(&scenario, sweep)?)))
        .collect::<Result<_, Failure>>()?;
    let calibration = match &args.measured {
        Some(file) => Some(calibrate(&scenario, file)?),
        None => None,
    };

    args.print(console, &scenario, &evaluated, &sweeps, calibration.as_ref())?;
    if let Some(folder) = &args.report {
        let task = console.task("drawing the report", Unit::Parts);
        let page = report::write(folder, &scenario, &evaluated, sweeps, calibration.as_ref(), &task)?;
        task.finish();
        console.status(&format!("report: {}", page.display()));
    }
    match calibration.as_ref().and_then(above_roof) {
        Some(message) => Err(Failure::input(message)),
        None => Ok(()),
    }
}

impl Args {
    fn scenario(&self) -> Result<Scenario, Failure> {
        let (model, (policy, architecture)) = self.model()?;
        let device = Device::named(&self.device).map_err(device_failure)?;
        let mut workload = Workload {
            cameras: match (self.cameras, &self.checkpoint) {
                (Some(cameras), _) => cameras,
                (None, Some(_)) => policy.cameras().count(),
                (None, None) => 1,
            },
            batch: self.batch,
            images_together: !self.one_by_one,
            chunk: self.chunk,
            ..Workload::of(&policy)
        };
        workload.steps = self.steps.unwrap_or(workload.steps);
        workload.prompt_tokens = self.prompt.unwrap_or(workload.prompt_tokens);
        Scenario::new(
            model,
            (policy, architecture),
            workload,
            device,
            self.widths.clone(),
            self.execution.clone(),
        )
    }

    fn model(&self) -> Result<(String, (PolicyConfig, Architecture)), Failure> {
        Ok(match &self.checkpoint {
            Some(folder) => {
                let options = LoadOptions { vlm: self.vlm.clone(), ..LoadOptions::default() };
                let sizes = Checkpoint::sizes(folder, &options).map_err(|error| {
                    let failure = Failure::from(error);
                    if folder.exists() {
                        failure
                    } else {
                        failure.hint("--checkpoint takes a folder here, with config.json and the vision-language model's")
                    }
                })?;
                (folder.display().to_string(), sizes)
            }
            None => {
                let options = SynthOptions { size: self.size, ..SynthOptions::default() };
                (format!("SmolVLA {}", self.size.name()), synth::sizes(&options)?)
            }
        })
    }

    fn print(
        &self,
        console: Console,
        scenario: &Scenario,
        evaluated: &Evaluated,
        sweeps: &[(Sweep, Vec<Point>)],
        calibration: Option<&Calibration>,
    ) -> Result<(), Failure> {
        if self.json {
            return console.result(&to_json(&JsonReport {
                report: Json::of(scenario, evaluated),
                sweeps: sweeps.iter().map(JsonSweep::of).collect(),
                measured: calibration,
            })?);
        }
        let mut notes = scenario.notes(evaluated);
        for (sweep, points) in sweeps {
            notes.extend(views::refusals(sweep, points));
            notes.extend(points.iter().flat_map(|point| point.notes.clone()));
        }
        notes.extend(calibration.iter().flat_map(|calibration| views::calibration_notes(calibration)));
        if self.csv {
            let table = match (calibration, sweeps) {
                (Some(calibration), _) => views::calibration(calibration),
                (None, [(sweep, points)]) => views::sweep(sweep, points),
                _ => views::kernels(&evaluated.cost),
            };
            console.result(&table.csv())?;
        } else {
            let mut tables: Vec<Table> =
                sweeps.iter().map(|(sweep, points)| views::sweep(sweep, points)).collect();
            tables.extend(calibration.map(views::calibration));
            let asked = !tables.is_empty();
            tables.push(views::parts(&evaluated.cost));
            if self.all || !asked {
                tables.push(views::kernels(&evaluated.cost));
                tables.push(views::storage(&evaluated.storage));
                tables.push(views::working_memory(&evaluated.storage));
            }
            let heading = if self.markdown { "## " } else { "" };
            let break_line = if self.markdown { "  \n" } else { "\n" };
            let lines = [
                format!("{heading}{} on {}\n", scenario.model, scenario.device.title),
                format!(
                    "{}; prefix of {} tokens",
                    scenario.describe_workload(),
                    evaluated.trace.prefix_tokens
                ),
                scenario.describe_widths(),
                scenario.describe_execution(),
                summary(evaluated),
            ];
            let mut text = lines.join(break_line) + "\n\n";
            for table in &tables {
                text += &if self.markdown { table.markdown() } else { table.text() };
                text.push('\n');
            }
            if self.markdown {
                notes.drain(..).for_each(|note| text += &format!("- {note}\n"));
            }
            console.result(&text)?;
        }
        notes.iter().for_each(|note| console.note(note));
        Ok(())
    }
}

/// Evaluates each value of a sweep. A format that the device lacks is a point without a cost; what is wrong with the
/// request itself is an error.
fn points(scenario: &Scenario, sweep: &Sweep) -> Result<Vec<Point>, Failure> {
    sweep
        .values
        .iter()
        .map(|value| {
            let varied = sweep.apply(scenario, value)?;
            let lacking = varied.device.peak(varied.widths.products).err();
            let outcome = match lacking {
                Some(error) => Err(error.to_string()),
                None => Ok(varied.evaluate()?),
            };
            let mut notes = Vec::new();
            if let Ok(evaluated) = &outcome {
                let known = scenario.notes(evaluated);
                let own = varied.notes(evaluated).into_iter().filter(|note| !known.contains(note));
                notes.extend(own.map(|note| format!("{}={value}: {note}", sweep.axis.name())));
            }
            Ok(Point { value: value.clone(), precision: varied.widths.name, notes, outcome })
        })
        .collect()
}

/// What a device's file that cannot be used is to be answered with.
pub(super) fn device_failure(error: Error) -> Failure {
    let about_a_file = matches!(error, Error::Config { .. });
    let failure = Failure::from(error);
    if about_a_file {
        failure.hint("`smolvla cost --print-device u280` shows what such a file looks like")
    } else {
        failure
    }
}

fn calibrate(scenario: &Scenario, file: &Path) -> Result<Calibration, Failure> {
    let hint = "--measured takes what `cargo xtask bench --record` writes to benchmarks/record";
    let measured = Measured::from_file(file).map_err(|error| Failure::from(error).hint(hint))?;
    let Scenario { policy, architecture, workload, execution, device, .. } = scenario;
    Ok(measured.against(policy, architecture, workload, execution, device)?)
}

/// The line that answers the question.
fn summary(evaluated: &Evaluated) -> String {
    let total = &evaluated.cost.total;
    format!(
        "{} GMAC, {} moved, {} of weights to keep: {:.1} ms a chunk modelled ({:.1} ms at the roof), bound by {}",
        tables::grouped(total.macs as f64 / 1e9, 2),
        views::bytes(total.traffic.total()),
        views::bytes(evaluated.storage.needed_bytes),
        total.seconds.total * 1e3,
        total.seconds.roof * 1e3,
        views::bound(total)
    )
}

fn above_roof(calibration: &Calibration) -> Option<String> {
    let above: Vec<_> =
        calibration.comparisons.iter().filter(|comparison| comparison.is_above_roof()).collect();
    let worst = above.iter().max_by(|a, b| a.achieved().total_cmp(&b.achieved()))?;
    Some(format!(
        "{} of {} measurements are faster than the roof, which cannot be; the worst is line {} ({}{}) at {:.0} %: the \
         device's file, the count or the measurement is wrong",
        above.len(),
        calibration.comparisons.len(),
        worst.line,
        worst.what,
        worst.stage.map_or_else(String::new, |stage| format!(", {stage}")),
        worst.achieved() * 100.0
    ))
}

fn list_devices(console: Console) -> Result<(), Failure> {
    let mut text = String::new();
    for name in Device::presets() {
        let device = Device::named(name)?;
        let peaks: Vec<String> = device
            .peaks
            .iter()
            .map(|(format, peak)| format!("{format} {} TOP/s", tables::grouped(peak.tops, 1)))
            .collect();
        text += &format!(
            "{name:<15} {}\n{:<15} {}; {} GB/s\n",
            device.title,
            "",
            peaks.join(", "),
            device.memory.gb_s
        );
    }
    console.result(&text)?;
    console.remark("--print-device NAME shows the source of each number\n")
}

fn show_document(console: Console, args: &Args, name: &str) -> Result<(), Failure> {
    let document = documents::named(name)?;
    if args.json {
        return console.result(&to_json(&document)?);
    }
    let table = views::document(&document);
    if args.csv {
        return console.result(&table.csv());
    }
    if args.markdown {
        return console.result(&format!("{}\nassumes: {}\n", table.markdown(), document.assumptions));
    }
    console.result(&views::document_text(&document))
}

/// Everything, for programs.
#[derive(serde::Serialize)]
struct JsonReport<'a> {
    #[serde(flatten)]
    report: Json<'a>,
    sweeps: Vec<JsonSweep<'a>>,
    measured: Option<&'a Calibration>,
}

#[derive(serde::Serialize)]
struct JsonSweep<'a> {
    axis: &'static str,
    points: Vec<JsonPoint<'a>>,
}

#[derive(serde::Serialize)]
struct JsonPoint<'a> {
    value: &'a str,
    cost: Option<&'a smolvla::cost::Cost>,
    /// Why there is no cost.
    reason: Option<&'a str>,
}

impl<'a> JsonSweep<'a> {
    fn of((sweep, points): &'a (Sweep, Vec<Point>)) -> Self {
        let points = points
            .iter()
            .map(|point| JsonPoint {
                value: &point.value,
                cost: point.outcome.as_ref().ok().map(|evaluated| &evaluated.cost),
                reason: point.outcome.as_ref().err().map(String::as_str),
            })
            .collect();
        Self { axis: sweep.axis.name(), points }
    }
}
