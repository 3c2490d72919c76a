//! `smolvla warmup`: has a device compile and tune for a policy before a robot needs it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use smolvla::Device;
use smolvla::backend::Execution;
use smolvla::graph::{Observer, Site};
use smolvla::policy::{PolicyOptions, WarmUp};

use crate::checkpoint_args::CheckpointArgs;
use crate::console::{Console, Task, Unit};
use crate::failure::Failure;
use crate::output::to_json;
use crate::precision::PrecisionArgs;

/// Chunks after the first, of which the last is reported.
const REPEATS: usize = 2;

const AFTER_HELP: &str = "\
Examples:
  smolvla warmup --checkpoint ./my_policy --backend wgpu
  smolvla warmup --checkpoint ./my_policy --backend wgpu --precision f16 --cameras 1,2 --json

What a device finds out here (the fastest form of each product) is kept in the cache folder and found by every later
process. Programs for the device itself are compiled again in each process: one that controls a robot calls
`smolvla::policy::WarmUp` before it starts.";

/// Have a device compile and tune for a policy, and say how long the first chunk and the next ones take.
///
/// Runs the policy on black pictures, once for each number of cameras.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    /// The backend, as for `smolvla run`.
    #[arg(long, value_name = "NAME", default_value = "wgpu", help_heading = "Computation")]
    backend: String,
    #[command(flatten, next_help_heading = "Computation")]
    precision: PrecisionArgs,
    /// How many cameras there will be images of; several numbers with commas between. By default all the policy has.
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = count, help_heading = "Computation")]
    cameras: Vec<usize>,
    /// Observations predicted at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count, help_heading = "Computation")]
    batch: usize,
    /// Print one JSON object.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    backend: &'static str,
    device: String,
    /// What stands in for the device, if anything does.
    emulated_by: Option<String>,
    precision: String,
    batch: usize,
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Run {
    cameras: usize,
    /// The first chunk, with compilation and tuning.
    first_s: f64,
    /// A chunk once everything is ready.
    steady_s: f64,
}

pub(crate) fn perform(console: Console, args: Args) -> Result<(), Failure> {
    let device = Device::open(&args.backend)?;
    let precision = args.precision.resolve(&device)?;
    let capabilities = device.capabilities();
    if !capabilities.static_shapes {
        console.note(&format!(
            "the backend {} compiles nothing at run time; its first chunk is like any other",
            capabilities.backend
        ));
    }
    let emulated_by = match &capabilities.execution {
        Execution::Emulated(by) => Some(by.clone()),
        _ => None,
    };
    if let Some(by) = &emulated_by {
        console.note(&format!("EMULATED by {by}; timings say nothing about the device"));
    }

    let checkpoint = args.checkpoint.open(console)?;
    let there: Vec<&str> = checkpoint.config.cameras().collect();
    if let Some(many) = args.cameras.iter().find(|many| **many > there.len()) {
        return Err(Failure::input(format!(
            "--cameras {many}: the policy has {}: {}",
            counted(there.len()),
            there.join(", ")
        )));
    }
    let task = console.task(format!("preparing weights on {}", capabilities.backend), Unit::Parts);
    let options = PolicyOptions { precision: precision.clone(), ..PolicyOptions::default() };
    let mut policy = device.load(&checkpoint, &options, &mut |progress| {
        task.set(progress.done as u64, progress.total as u64);
    })?;
    task.finish();

    let cameras = match &args.cameras[..] {
        [] => vec![policy.info().cameras.len()],
        cameras => cameras.to_vec(),
    };
    let architecture = &checkpoint.architecture;
    let parts = architecture.vision.layers + architecture.text.layers + policy.info().num_steps;
    let mut runs = Vec::new();
    for cameras in cameras {
        let mut warm_up = WarmUp::new(cameras);
        (warm_up.batch, warm_up.repeats) = (args.batch, REPEATS);
        let what = format!("warming up for {}", counted(cameras));
        let total = (parts * (1 + REPEATS)) as u64;
        let progress =
            Rc::new(RefCell::new(Progress { task: console.task(&what, Unit::Parts), done: 0, total }));
        let times = warm_up.run_observed(&mut *policy, &mut |_| Box::new(Watcher(Rc::clone(&progress))))?;
        let seconds = |time: Duration| time.as_secs_f64();
        runs.push(Run { cameras, first_s: seconds(times.first), steady_s: seconds(times.steady) });
    }

    let report = Report {
        backend: capabilities.backend,
        device: capabilities.device,
        emulated_by,
        precision: precision.to_string(),
        batch: args.batch,
        runs,
    };
    console.result(&if args.json { to_json(&report)? } else { text(&report) })
}

/// How many of something, at least one and no slip of the finger; for clap.
fn count(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| (1..=64).contains(count))
        .ok_or("expected a whole number from 1 to 64".to_owned())
}

fn counted(cameras: usize) -> String {
    if cameras == 1 { "1 camera".to_owned() } else { format!("{cameras} cameras") }
}

fn text(report: &Report) -> String {
    let mut lines = vec![format!("{} on {}", report.precision, report.device)];
    if let Some(by) = &report.emulated_by {
        lines.push(format!("EMULATED by {by}; timings say nothing about the device"));
    }
    for run in &report.runs {
        lines.push(format!(
            "{}: first chunk {:.2} s, then {:.3} s",
            counted(run.cameras),
            run.first_s,
            run.steady_s
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A bar over all chunks of a warm-up.
struct Progress {
    task: Task,
    done: u64,
    total: u64,
}

struct Watcher(Rc<RefCell<Progress>>);

impl Observer for Watcher {
    fn reached(&mut self, site: Site) {
        if let Site::VisionLayer(_) | Site::TextLayer(_) | Site::Velocity { .. } = site {
            let mut progress = self.0.borrow_mut();
            progress.done = (progress.done + 1).min(progress.total);
            progress.task.set(progress.done, progress.total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_gives_both_times_and_what_was_emulated() {
        let report = Report {
            backend: "wgpu",
            device: "a card".to_owned(),
            emulated_by: Some("a program".to_owned()),
            precision: "f16".to_owned(),
            batch: 1,
            runs: vec![Run { cameras: 2, first_s: 12.345, steady_s: 0.0678 }],
        };
        assert_eq!(
            text(&report),
            "f16 on a card\nEMULATED by a program; timings say nothing about the device\n2 cameras: first chunk 12.35 \
             s, then 0.068 s\n"
        );
    }
}
