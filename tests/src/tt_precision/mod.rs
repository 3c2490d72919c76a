//! What the Tenstorrent backend's precision plans cost in accuracy and gain in time: a study, not a check.
//!
//! Each plan runs a few of the suite's cases on the emulator and is compared with what LeRobot computed; beside the
//! error stands the time that the latency model gives the real size on a p150. That time is modelled, and the
//! arithmetic emulated: both are said wherever the numbers appear.

mod chart;
mod variants;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use smolvla_backend_tt::latency::{Fusing, Latency, Settings};
use smolvla_backend_tt::{Emulator, Plan, TtBackend};
use smolvla_core::Precision;
use smolvla_core::graph::Silent;
use smolvla_core::policy::{ChunkRequest, Noise, Policy, PolicyOptions, SmolVla};

pub use self::variants::{Variant, variants};
use crate::evidence::Stop;
use crate::fixtures::{Fixtures, Reference};
use crate::metrics::{max_abs, nmse, pcc};

/// Measure what each precision plan of the Tenstorrent backend costs and gains, on the emulator.
#[derive(Parser)]
#[command(name = "tt-precision", disable_version_flag = true)]
struct Arguments {
    /// Size of the checkpoints: `tiny` takes a minute, `base` some minutes for each plan
    #[arg(long, value_enum, default_value_t = Size::Tiny)]
    size: Size,
    /// Only these plans, with commas between; all where none is named
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    plan: Vec<String>,
    /// One more plan, from a TOML file (repeatable)
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Folder for precision.json, precision.md and precision.svg [default: tt-precision in the build's target folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the names of all plans and run none
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Size {
    Tiny,
    Base,
}

impl Size {
    /// The cases that are run: one, five and ten Euler steps, the last of them first in the chart.
    fn cases(self) -> [&'static str; 3] {
        match self {
            Self::Tiny => ["steps_1", "steps_5", "one_camera"],
            Self::Base => ["base_1_step", "base_5_steps", "base_one_camera"],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Base => "base",
        }
    }
}

/// One plan's results.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The plan.
    pub name: String,
    /// What it is.
    pub change: String,
    /// The plan itself.
    pub plan: Plan,
    /// By case.
    pub cases: Vec<CaseRow>,
    /// Milliseconds of a chunk of the real size with one camera on a p150: modelled, one kernel an operation, traced.
    pub modelled_ms: f64,
    /// The same with kernels fused only as the vendor's compiler was seen to fuse them.
    pub modelled_compiled_ms: f64,
}

/// One plan's error in one case, in normalised actions, against LeRobot in f32.
#[derive(Clone, Debug, Serialize)]
pub struct CaseRow {
    /// The case.
    pub case: String,
    /// Euler steps.
    pub steps: usize,
    /// Pearson's correlation.
    pub pcc: f64,
    /// Normalised mean squared error.
    pub nmse: f64,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Seconds the emulator took.
    pub emulated_s: f64,
}

/// The program.
pub fn main() -> ExitCode {
    match perform(&Arguments::parse(), &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Standard error may be closed; the exit code says it all the same.
            let _ = writeln!(io::stderr(), "error: {message}");
            ExitCode::from(2)
        }
    }
}

fn perform(arguments: &Arguments, out: &mut dyn io::Write) -> Result<(), String> {
    let chosen = chosen(arguments)?;
    // Whoever reads may stop reading.
    if arguments.list {
        for variant in &chosen {
            let _ = writeln!(out, "{:<28} {}", variant.name, variant.change);
        }
        return Ok(());
    }
    let folder =
        arguments.out.clone().unwrap_or_else(|| crate::fixtures::target_folder().join("tt-precision"));
    std::fs::create_dir_all(&folder).map_err(|error| format!("--out {}: {error}", folder.display()))?;
    let fixtures = Fixtures::open().map_err(|stop| stop.to_string())?;
    let cases = arguments.size.cases();
    let bar = ProgressBar::new((chosen.len() * cases.len()) as u64);
    bar.set_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let mut rows: Vec<Row> = Vec::new();
    for variant in &chosen {
        let row = study(variant, &cases, &fixtures, &bar).map_err(|stop| stop.to_string())?;
        rows.push(row);
        // After each plan: what has been computed is not lost when the rest is stopped.
        write(&folder, arguments.size, &rows)?;
    }
    bar.finish_and_clear();
    let _ = writeln!(out, "{}", markdown(arguments.size, &rows));
    let _ = writeln!(out, "written to {}", folder.display());
    Ok(())
}

fn chosen(arguments: &Arguments) -> Result<Vec<Variant>, String> {
    let mut all = variants();
    for file in &arguments.file {
        let text =
            std::fs::read_to_string(file).map_err(|error| format!("--file {}: {error}", file.display()))?;
        let plan = Plan::from_toml(&text).map_err(|error| format!("--file {}: {error}", file.display()))?;
        all.push(Variant { name: plan.name.clone(), change: plan.summary.clone(), plan });
    }
    let unknown = |name: &&String| !all.iter().any(|variant| variant.name == **name);
    if let Some(name) = arguments.plan.iter().find(unknown) {
        let names: Vec<&str> = all.iter().map(|variant| variant.name.as_str()).collect();
        return Err(format!("--plan `{name}`: there is no such plan; expected {}", names.join(", ")));
    }
    let wanted = |variant: &Variant| arguments.plan.is_empty() || arguments.plan.contains(&variant.name);
    all.retain(wanted);
    Ok(all)
}

fn study(variant: &Variant, cases: &[&str], fixtures: &Fixtures, bar: &ProgressBar) -> Result<Row, Stop> {
    // The plan replaces what this precision stands for.
    let precision = Precision::Bfp8;
    let mut loaded: Option<(PathBuf, SmolVla<TtBackend<Emulator>>)> = None;
    let mut rows = Vec::new();
    for case in cases {
        bar.set_message(format!("{}: {case}", variant.name));
        let case = fixtures.case(case)?;
        let golden = fixtures.golden(case, Reference::Fp32)?;
        let observations = fixtures.observations(case, &golden)?;
        let checkpoint = fixtures.checkpoint(case)?;
        if loaded.as_ref().is_none_or(|(folder, _)| *folder != checkpoint.folder) {
            let backend = TtBackend::new(Emulator).with_settings(precision, variant.plan.clone());
            let options = PolicyOptions { precision: precision.into(), ..PolicyOptions::default() };
            let policy = SmolVla::open(backend, &checkpoint, &options, &mut |_| ())?;
            loaded = Some((checkpoint.folder.clone(), policy));
        }
        let Some((_, policy)) = &mut loaded else { continue };
        let (_, noise) = golden.f32("noise")?;
        let request = ChunkRequest { noise: Some(Noise::Values(noise.to_vec())), steps: case.steps() };
        let started = Instant::now();
        let chunk = policy.predict_action_chunk(&observations, &request, &mut Silent)?;
        let (_, expected) = golden.f32("actions.normalized")?;
        rows.push(CaseRow {
            case: case.name.clone(),
            steps: chunk.steps,
            pcc: pcc(expected, &chunk.normalized),
            nmse: nmse(expected, &chunk.normalized),
            max_abs: max_abs(expected, &chunk.normalized),
            emulated_s: started.elapsed().as_secs_f64(),
        });
        bar.inc(1);
    }
    let modelled = |settings: Settings| {
        Latency::of_base(1, &variant.plan, &settings).map(|latency| latency.total.total * 1e3)
    };
    Ok(Row {
        name: variant.name.clone(),
        change: variant.change.clone(),
        plan: variant.plan.clone(),
        cases: rows,
        modelled_ms: modelled(Settings::default())?,
        modelled_compiled_ms: modelled(Settings { fusing: Fusing::COMPILER, ..Settings::default() })?,
    })
}

/// Writes all three files, each aside and then in place.
fn write(folder: &Path, size: Size, rows: &[Row]) -> Result<(), String> {
    let mut json = serde_json::to_string_pretty(&serde_json::json!({ "size": size.name(), "plans": rows }))
        .map_err(|error| format!("precision.json: {error}"))?;
    json.push('\n');
    // The numbers first: a picture may have nothing to show.
    put(folder, "precision.json", &json)?;
    put(folder, "precision.md", &markdown(size, rows))?;
    put(folder, "precision.svg", &chart::svg(size.name(), rows)?)
}

fn put(folder: &Path, name: &str, text: &str) -> Result<(), String> {
    let file = folder.join(name);
    let aside = folder.join(format!(".{name}.part"));
    std::fs::write(&aside, text)
        .and_then(|()| std::fs::rename(&aside, &file))
        .map_err(|error| format!("{}: {error}", file.display()))
}

/// A table of all plans, with the first port's figures below.
fn markdown(size: Size, rows: &[Row]) -> String {
    let mut text = format!(
        "Normalised actions of the `{}` checkpoint against LeRobot in f32. The arithmetic is emulated; the times are \
         modelled (a traced chunk of the real size, one camera, on a p150).\n\n",
        size.name()
    );
    text += "| plan | PCC, 1 step | 5 steps | 10 steps | relative error | largest error | ms, each operation one kernel (modelled) | ms, kernels as the compiler makes them (modelled) |\n";
    text += "|---|---|---|---|---|---|---|---|\n";
    for row in rows {
        let correlations: Vec<String> = row.cases.iter().map(|case| format!("{:.5}", case.pcc)).collect();
        let last = row.cases.last();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {:.4} | {:.4} | {:.1} | {:.1} |",
            row.name,
            correlations.join(" | "),
            last.map_or(f64::NAN, |case| case.nmse.sqrt()),
            last.map_or(f64::NAN, |case| case.max_abs),
            row.modelled_ms,
            row.modelled_compiled_ms
        );
    }
    text += "\nThe first port states PCC 0.9988, 0.9812 and 0.9372 after 1, 5 and 10 steps, against its own re-implementation.\n";
    text
}
