//! `cargo xtask bench`: how fast the policy is on this machine, beside its peers and beside what the machine could
//! do.
//!
//! - [`ceiling`] measures the machine: arithmetic on registers, and reading.
//! - [`policy`] measures whole chunks, each configuration in a process of its own ([`one`], [`engine`]), with the
//!   [`peers`] taking turns where they are asked for; [`kernels`] measures single operations.
//! - [`flops`] counts what was computed; [`table`] and [`record`] write the results down.
#![deny(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks through its output")]

mod arguments;
mod ceiling;
mod checkpoint;
mod engine;
mod flops;
mod kernels;
mod machine;
mod one;
mod peers;
mod policy;
mod precision;
mod progress;
mod record;
mod statistics;
mod table;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use smolvla::{Device, Precision};

use crate::arguments::Arguments;
use crate::ceiling::Ceilings;
use crate::machine::{Machine, cores};
use crate::peers::Peers;
use crate::precision::Choice;
use crate::progress::Progress;
use crate::record::Csv;
use crate::table::Report;

/// What a task comes to: nothing, or what went wrong and what to do.
type Result<T = ()> = std::result::Result<T, String>;

/// What could not be measured, and why.
type Failures = Vec<String>;

/// Exit codes: 0 everything was measured, 1 something was not, 2 something given is wrong.
fn main() -> ExitCode {
    let outcome = if env::args_os().nth(1).is_some_and(|first| first == one::FLAG) {
        one::main().map(|()| true)
    } else {
        bench(&Arguments::parse())
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything asked for was measured.
fn bench(arguments: &Arguments) -> Result<bool> {
    let device = Device::open(&arguments.backend).map_err(|error| error.to_string())?;
    let capabilities = device.capabilities();
    // It has threads of its own, which are not to be in the way.
    drop(device);
    let precisions = arguments.precisions(&capabilities)?;
    let isas = arguments.isas()?;
    let configs = policy::configs(&arguments.axes(), &precisions, &isas, cores());
    let peers = arguments.peers.as_deref().map(Peers::new).transpose()?;
    let configs = match peers {
        Some(_) => arguments.compared(configs),
        None => configs,
    };
    let machine = Machine::here(arguments.machine.as_deref());
    let checkpoint = (!arguments.kernels && !arguments.ceilings)
        .then(|| checkpoint::open(arguments.checkpoint.as_deref(), arguments.most_cameras(&configs)))
        .transpose()?;

    let ceilings = measure_ceilings(&arguments.threads_of(&configs));
    let mut failures = Failures::new();
    let (mut policies, mut kernels) = (Vec::new(), Vec::new());
    if let Some((folder, checkpoint)) = &checkpoint {
        let runs = arguments.runs;
        let backend = &arguments.backend;
        let session =
            policy::Session { backend, checkpoint, folder, configs, peers, runs, ceilings: &ceilings };
        announce(&session);
        policies = session.run(&mut failures);
    } else if arguments.kernels {
        let threads = arguments.threads_of(&configs);
        let mut uniform: Vec<Precision> = precisions.iter().map(Choice::of_kernels).collect();
        uniform.dedup();
        let selection = kernels::Selection { precisions: &uniform, threads: &threads, isas: &isas };
        kernels = kernels::run(&selection, &ceilings, &mut failures)?;
    }
    let mut remarks = vec![format!("engine: {}", capabilities.device)];
    if let Some((folder, _)) = &checkpoint {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        remarks.push(format!("checkpoint `{name}`; a run predicts one chunk of actions"));
    }
    let report =
        Report { machine: &machine, remarks, ceilings: &ceilings, policies, kernels, failures: &failures };
    publish(arguments, &report)?;
    Ok(failures.is_empty())
}

fn measure_ceilings(threads: &[usize]) -> Ceilings {
    let progress = Progress::new(Ceilings::count());
    let mut begun = false;
    let ceilings = Ceilings::measure(threads, &mut |what| {
        progress.next(u64::from(begun), &format!("ceiling: {what}"));
        begun = true;
    });
    progress.finish();
    ceilings
}

fn announce(session: &policy::Session<'_>) {
    let minutes = (session.estimate_s() / 60.0).max(1.0);
    let peers = match &session.peers {
        Some(peers) => format!(", beside {} peers, whose time is not in the estimate", peers.engines.len()),
        None => String::new(),
    };
    eprintln!(
        "{} configuration(s), 1 + {} runs each: about {minutes:.0} min at a quarter of the ceiling{peers}",
        session.configs.len(),
        session.runs
    );
}

/// Prints the report, and writes the files asked for.
fn publish(arguments: &Arguments, report: &Report<'_>) -> Result {
    let page = report.markdown();
    // Whoever closes standard output early has read enough.
    let _ = io::stdout().write_all(page.as_bytes());
    if let Some(file) = &arguments.markdown {
        let aside = file.with_extension("md.partial");
        std::fs::write(&aside, &page)
            .and_then(|()| std::fs::rename(&aside, file))
            .map_err(|error| format!("--markdown: cannot write {}: {error}", file.display()))?;
    }
    if arguments.record {
        let machine = report.machine;
        let mut files = vec![Csv::ceilings(machine, report.ceilings).append(machine)?];
        if !report.policies.is_empty() {
            files.push(Csv::policy(machine, &report.policies).append(machine)?);
        }
        if !report.kernels.is_empty() {
            files.push(Csv::kernels(machine, &report.kernels).append(machine)?);
        }
        for file in files {
            eprintln!("recorded: {}", file.display());
        }
    }
    for failure in report.failures {
        eprintln!("not measured: {failure}");
    }
    Ok(())
}
