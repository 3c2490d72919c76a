//! The command `conform`: the suite with a progress bar and a report, for one or several backends.
//!
//! `cargo xtask conform` runs it with this repository's backends. A backend elsewhere gets the same command from a
//! binary of one line: `fn main() -> ExitCode { smolvla_conformance::command::main(vec![Candidate::new(…)]) }`.

use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, io};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use smolvla_core::synth;

use crate::checks::{Check, checks};
use crate::evidence::Stop;
use crate::fixtures::{Fixtures, target_folder};
use crate::mutants;
use crate::report::{
    BackendReport, Behaviour, CaseReport, FORMAT, Files, HEADLINES, Machine, MutantsReport, Presence, Report,
    Status, Tier, describe_pcc,
};
use crate::suite::{Candidate, refuse_ambiguous, run};
use crate::tolerance::{numerics_markdown, short};

/// Check that backends compute the same policy as LeRobot, and write a report.
#[derive(Parser)]
#[command(name = "conform", disable_version_flag = true)]
struct Arguments {
    /// Backends to check, with commas between; all where none is named
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    backend: Vec<String>,
    /// Size of the checkpoints: `tiny` asks everything in seconds, `base` compares the real size with LeRobot
    #[arg(long, value_enum, default_value_t = Size::Tiny)]
    size: Size,
    /// Folder for report.json, report.md and report.html [default: conform in the build's target folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Backends that must be there, with commas between: their absence is a failure, not a skip
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    require: Vec<String>,
    /// Only checks whose name (`op::linear_one_row`; see --list) contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Put known defects into the reference backend and show which checks find each; backends named beside it are
    /// checked as well
    #[arg(long)]
    mutants: bool,
    /// Put the results of `cargo xtask rollout` into the report; they are shown, not judged
    #[arg(long, value_name = "FILE")]
    rollout: Option<PathBuf>,
    /// Print the names of all checks and run none
    #[arg(long)]
    list: bool,
    /// Write the tolerance table to this file (docs/numerics.md) and run nothing
    #[arg(long, value_name = "FILE")]
    numerics: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Size {
    Tiny,
    Base,
}

impl From<Size> for synth::Size {
    fn from(size: Size) -> Self {
        match size {
            Size::Tiny => Self::Tiny,
            Size::Base => Self::Base,
        }
    }
}

/// Runs the command on the given backends. Exit codes: 0 everything holds, 1 something does not, 2 something given is
/// wrong.
pub fn main(candidates: Vec<Candidate>) -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = perform(&arguments, candidates, &mut io::stdout());
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure(message)) => {
            // Standard error may be closed; the exit code says it all the same.
            let _ = writeln!(io::stderr(), "error: {message}");
            ExitCode::from(2)
        }
    }
}

/// What is wrong, for people.
struct Failure(String);

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        Self(stop.to_string())
    }
}

/// Whether everything holds.
fn perform(arguments: &Arguments, candidates: Vec<Candidate>, out: &mut dyn Write) -> Result<bool, Failure> {
    if let Some(file) = &arguments.numerics {
        return write_numerics(file).map(|()| true);
    }
    refuse_ambiguous(&candidates)?;
    let candidates = chosen(candidates, arguments)?;
    let fixtures = Fixtures::open()?;
    let mut checks = checks(&fixtures, arguments.size.into())?;
    if let Some(text) = &arguments.filter {
        checks.retain(|check| format!("{}::{}", check.tier.name(), check.name).contains(text.as_str()));
    }
    if arguments.list {
        for check in &checks {
            if writeln!(out, "{}::{}", check.tier.name(), check.name).is_err() {
                break;
            }
        }
        return Ok(true);
    }
    if checks.is_empty() {
        return Err(Failure(format!(
            "--filter {}: no check has such a name; --list prints them",
            arguments.filter.as_deref().unwrap_or_default()
        )));
    }
    let out_folder = arguments.out.clone().unwrap_or_else(|| target_folder().join("conform"));
    // Before anything runs: a misspelt name should not be found out after it all.
    let behaviour = behaviour(arguments.rollout.as_deref())?;
    let started = SystemTime::now();
    let clock = Instant::now();
    let report = Report {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: humantime::format_rfc3339_seconds(started).to_string(),
        backends: run_all(&candidates, &checks, &fixtures, arguments)?,
        mutants: arguments.mutants.then(|| run_mutants(&fixtures)).transpose()?,
        wall_s: clock.elapsed().as_secs_f64(),
        size: synth::Size::from(arguments.size).name().to_owned(),
        filter: arguments.filter.clone(),
        machine: machine(),
        cases: cases(&fixtures, arguments.size)?,
        behaviour,
        tolerances: Report::TOLERANCES,
    };
    let files = report.write(&out_folder).map_err(|error| Failure(error.to_string()))?;
    // The files are written; a reader that has gone does not change what was found.
    let _ = summarize(&report, &files, out);
    Ok(report.passed())
}

/// The rollout that is named.
fn behaviour(file: Option<&Path>) -> Result<Option<Behaviour>, Failure> {
    file.map(Behaviour::open).transpose().map_err(|error| Failure(format!("--rollout {error}")))
}

/// The candidates asked for, in that order.
fn chosen(candidates: Vec<Candidate>, arguments: &Arguments) -> Result<Vec<Candidate>, Failure> {
    let find = |flag: &str, name: &String| {
        candidates.iter().find(|candidate| candidate.name() == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = candidates.iter().map(Candidate::name).collect();
            Failure(format!("{flag} `{name}`: there is no such backend; expected {}", names.join(", ")))
        })
    };
    let mut chosen: Vec<Candidate> = Vec::new();
    for name in &arguments.backend {
        let candidate = find("--backend", name)?;
        if !chosen.iter().any(|other| other.name() == name) {
            chosen.push(candidate);
        }
    }
    // A required backend takes part even where only others were named.
    for name in &arguments.require {
        let required = find("--require", name)?;
        if !arguments.backend.is_empty() && !arguments.backend.contains(name) {
            chosen.push(required);
        }
    }
    // Mutants are put into the reference; without a backend named, they are all that is asked for.
    if chosen.is_empty() && !arguments.mutants {
        return Ok(candidates);
    }
    Ok(chosen)
}

fn run_all(
    candidates: &[Candidate],
    checks: &[Check],
    fixtures: &Fixtures,
    arguments: &Arguments,
) -> Result<Vec<BackendReport>, Failure> {
    let total: usize = candidates.iter().map(|candidate| candidate.trials(checks).len()).sum();
    let progress = Progress::new(total);
    let mut reports = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let required = arguments.require.iter().any(|name| name == candidate.name());
        reports.push(run(candidate, checks, fixtures, required, &mut |check| {
            progress.next(&format!("{}::{check}", candidate.name()));
        }));
    }
    progress.finish();
    Ok(reports)
}

fn run_mutants(fixtures: &Fixtures) -> Result<MutantsReport, Stop> {
    let progress = Progress::new(mutants::all().len());
    let report = mutants::run(fixtures, &|mutant| progress.next(mutant))?;
    progress.finish();
    Ok(report)
}

/// A bar on a terminal; elsewhere a line every ten seconds.
struct Progress {
    bar: ProgressBar,
    said: Mutex<Instant>,
}

impl Progress {
    fn new(total: usize) -> Self {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total as u64), target).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, said: Mutex::new(Instant::now()) }
    }

    /// Something is about to run, after what ran before.
    fn next(&self, what: &str) {
        if !self.bar.message().is_empty() {
            self.bar.inc(1);
        }
        self.bar.set_message(what.to_owned());
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bar.is_hidden() && said.elapsed() > Duration::from_secs(10) {
            *said = Instant::now();
            let total = self.bar.length().unwrap_or(0);
            let _ = writeln!(io::stderr(), "{} of {total}: {what}", self.bar.position() + 1);
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn summarize(report: &Report, files: &Files, out: &mut dyn Write) -> io::Result<()> {
    for backend in &report.backends {
        summarize_backend(backend, out)?;
    }
    if let Some(mutants) = &report.mutants {
        summarize_mutants(mutants, out)?;
    }
    let verdict = match (report.checked_anything(), report.passed()) {
        (false, _) => "FAILED: nothing was checked,",
        (true, true) => "passed",
        (true, false) => "FAILED",
    };
    writeln!(out, "\n{verdict} in {:.0} s", report.wall_s)?;
    writeln!(out, "\nreport: {}", files.html.display())?;
    writeln!(out, "        {}\n        {}", files.markdown.display(), files.json.display())
}

fn summarize_backend(backend: &BackendReport, out: &mut dyn Write) -> io::Result<()> {
    let (device, emulated) = match &backend.presence {
        Presence::Absent { reason } => {
            let required = if backend.required { " (required: a failure)" } else { "" };
            return writeln!(out, "{:<10} absent{required}: {reason}", backend.name);
        }
        Presence::Present { device, emulated, .. } => (device, emulated),
    };
    let counts: Vec<String> = Status::ALL
        .into_iter()
        .filter(|status| backend.count(*status) > 0 || *status == Status::Failed)
        .map(|status| format!("{} {}", backend.count(status), status.name()))
        .collect();
    writeln!(out, "{:<10} {} · {device}", backend.name, counts.join(", "))?;
    if let Some(by) = emulated {
        writeln!(out, "{:<10} EMULATED by {by}: these are not results of the device", "")?;
    }
    for check in backend.checks.iter().filter(|check| check.status != Status::Passed) {
        let first = check.reasons.first().map_or("", String::as_str);
        writeln!(out, "  {}: {}::{}: {first}", check.status.name(), backend.name, check.full_name())?;
    }
    for check in &backend.checks {
        if let Some(line) = seed_row(check.tier, &check.name)
            && let Some(measurement) = check.measurements.first()
        {
            let value = match check.tier {
                Tier::EndToEnd => format!("PCC {}", describe_pcc(measurement.metrics.pcc)),
                _ if measurement.metrics.different_bits == 0 => "equal bits".to_owned(),
                _ if check.name == "determinism" => {
                    format!("{} different elements", measurement.metrics.different_bits)
                }
                _ => format!("moved by NMSE {}", short(measurement.metrics.nmse)),
            };
            writeln!(out, "  {line:<26} {:<6} {value}", check.precision)?;
        }
    }
    Ok(())
}

/// What the first port's test called a check.
fn seed_row(tier: Tier, name: &str) -> Option<&'static str> {
    HEADLINES.iter().find(|row| (row.0, row.1) == (tier, name)).map(|row| row.2)
}

fn summarize_mutants(mutants: &MutantsReport, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\n{:<28} {:<9} {:<10} killed by", "mutant", "PCC", "by PCC?")?;
    for mutant in &mutants.mutants {
        let killers: Vec<&str> = mutant.killed_by.iter().map(|kill| kill.tier.name()).collect();
        let killers = if killers.is_empty() { "NOTHING".to_owned() } else { killers.join(", ") };
        let pcc = if mutant.missed_by_pcc { "let through" } else { "caught" };
        writeln!(out, "{:<28} {:<9.6} {pcc:<11} {killers}", mutant.name, mutant.pcc)?;
    }
    let total = mutants.mutants.len();
    writeln!(
        out,
        "\n{} of {total} mutants killed; PCC ≥ {} alone would have let {} through",
        total - mutants.survivors(),
        mutants.pcc_gate,
        mutants.missed_by_pcc()
    )
}

fn write_numerics(file: &PathBuf) -> Result<(), Failure> {
    let fail = |error: io::Error| Failure(format!("cannot write {}: {error}", file.display()));
    let aside = file.with_extension("md.partial");
    fs::write(&aside, numerics_markdown()).map_err(fail)?;
    fs::rename(&aside, file).map_err(fail)
}

fn cases(fixtures: &Fixtures, size: Size) -> Result<Vec<CaseReport>, Stop> {
    let of_size = |case: &&crate::fixtures::Case| case.size() == size.into();
    fixtures.cases().iter().filter(of_size).map(|case| fixtures.describe(case)).collect()
}

fn machine() -> Machine {
    let processor = || {
        let text = fs::read_to_string("/proc/cpuinfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    Machine {
        system: format!("{} {}", env::consts::OS, env::consts::ARCH),
        processor: processor().unwrap_or_else(|| env::consts::ARCH.to_owned()),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use smolvla_core::reference::Reference;

    use super::*;

    fn candidates() -> Vec<Candidate> {
        vec![Candidate::new("one", || Ok(Reference)), Candidate::new("two", || Ok(Reference))]
    }

    fn names(words: &[&str]) -> Result<Vec<String>, String> {
        let arguments = Arguments::parse_from(std::iter::once(&"conform").chain(words));
        match chosen(candidates(), &arguments) {
            Ok(chosen) => Ok(chosen.iter().map(|candidate| candidate.name().to_owned()).collect()),
            Err(Failure(message)) => Err(message),
        }
    }

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn backends_are_all_those_named_or_those_required() {
        assert_eq!(names(&[]).unwrap(), ["one", "two"]);
        assert_eq!(names(&["--backend", "two,one"]).unwrap(), ["two", "one"]);
        assert_eq!(names(&["--backend", "two", "--require", "one"]).unwrap(), ["two", "one"]);
        assert_eq!(names(&["--require", "one"]).unwrap(), ["one", "two"]);
        assert!(names(&["--mutants"]).unwrap().is_empty());
    }

    #[test]
    fn unknown_backends_are_refused_with_the_known_ones() {
        let message = names(&["--backend", "abacus"]).unwrap_err();
        assert_eq!(message, "--backend `abacus`: there is no such backend; expected one, two");
        assert!(names(&["--require", "abacus"]).unwrap_err().starts_with("--require `abacus`"));
    }
}
