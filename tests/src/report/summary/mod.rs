//! What the pages show, worked out from a [`Report`]: worst values, matrices, grouped reasons.
//!
//! Nothing here knows Markdown or HTML. Whatever is not finite stays so and is always the worst.

mod drawings;
mod matrix;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub(super) use self::drawings::{Drawing, drawings};
use self::matrix::badness;
pub(super) use self::matrix::{BANDS, Cell, MOST_NINES, Matrix, Running, band, divergences, matrix};
pub(super) use self::tables::{Metric, is_measured, judges, operation, worst};

use super::format;
use super::model::{BackendReport, CheckReport, MutantsReport, Presence, Report, Status, Tier};

/// A backend in one of the precisions its checks ran in: a row of most tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant<'a> {
    pub(super) backend: &'a BackendReport,
    pub(super) precision: &'a str,
}

impl<'a> Variant<'a> {
    /// `cpu · f32`
    pub(super) fn label(&self) -> String {
        format!("{} · {}", self.backend.name, self.precision)
    }

    /// Its checks of one tier, in order.
    pub(super) fn checks(&self, tier: Tier) -> impl Iterator<Item = &'a CheckReport> + use<'a> {
        let precision = self.precision;
        self.backend.checks.iter().filter(move |check| check.tier == tier && check.precision == precision)
    }
}

/// Every variant, backends in the report's order, precisions in the order their checks ran.
pub(super) fn variants(report: &Report) -> Vec<Variant<'_>> {
    let mut variants = Vec::new();
    for backend in &report.backends {
        let mut seen = BTreeSet::new();
        let precisions = backend.checks.iter().map(|check| check.precision.as_str());
        variants.extend(
            precisions.filter(|name| seen.insert(*name)).map(|precision| Variant { backend, precision }),
        );
    }
    variants
}

/// The variants that ran any of [`HEADLINES`]; one that the backend does not offer has nothing to show there.
pub(super) fn headline_variants(report: &Report) -> Vec<Variant<'_>> {
    let ran = |variant: &Variant<'_>| {
        HEADLINES.iter().any(|(tier, name, _)| variant.checks(*tier).any(|check| check.name == *name))
    };
    variants(report).into_iter().filter(ran).collect()
}

/// `PASSED` or `FAILED`.
pub(super) fn verdict(report: &Report) -> &'static str {
    if report.passed() { "PASSED" } else { "FAILED" }
}

/// The run in one sentence.
pub(super) fn sentence(report: &Report) -> String {
    let total = |status| report.backends.iter().map(|backend| backend.count(status)).sum::<usize>();
    let checks: usize = report.backends.iter().map(|backend| backend.checks.len()).sum();
    let made = checks - total(Status::Unsupported);
    let absent = report.backends.iter().filter(|backend| is_absent(backend)).count();
    let present = report.backends.len() - absent;
    let mut parts = Vec::new();
    if made > 0 {
        let passed = if made == 1 { "1 check passed".to_owned() } else { format!("{made} checks passed") };
        let present = format::count(present, "backend");
        parts.push(format!("{} of {passed} on {present}", total(Status::Passed)));
    } else if !report.checked_anything() {
        parts.push("Nothing was checked".to_owned());
    }
    for status in Status::ALL.into_iter().filter(|status| *status != Status::Passed) {
        match total(status) {
            0 => (),
            1 => parts.push(format!("1 {}", status.name())),
            count => parts.push(format!("{count} {}", plural(status))),
        }
    }
    if absent > 0 {
        parts.push(format!("{} absent", format::count(absent, "backend")));
    }
    if let Some(mutants) = &report.mutants {
        let total = mutants.mutants.len();
        parts.push(format!("{} of {} killed", total - mutants.survivors(), format::count(total, "mutant")));
    }
    format!("{}.", parts.join(", "))
}

/// What a verdict rests on and what it does not: a reader may know nothing but this page.
pub(super) fn scope(report: &Report) -> String {
    let size = match report.size.as_str() {
        "base" => "the sizes of the published model",
        _ => "a miniature of the published model",
    };
    let versions: BTreeSet<&str> = report.cases.iter().map(|case| case.lerobot.as_str()).collect();
    let version = versions.into_iter().collect::<Vec<_>>().join(", ");
    let filter = match &report.filter {
        Some(text) => format!(" Only checks whose name contains “{text}” were asked."),
        None => String::new(),
    };
    let task = match &report.behaviour {
        Some(_) => {
            "Whether a trained policy does its task is under Behaviour, where it is shown and not judged."
        }
        None => "That a trained robot does its task is not shown.",
    };
    format!(
        "Judged by what LeRobot {version} itself computed, and by plain loops with f64 sums for single operations. \
         The checkpoints have {size} and random weights from a seed: what is judged is that the same policy is \
         computed. No published checkpoint was run. {task}{filter}"
    )
}

/// The words for several of them.
pub(super) fn plural(status: Status) -> &'static str {
    match status {
        Status::ExpectedFailure => "expected failures",
        Status::UnexpectedPass => "unexpected passes",
        _ => status.name(),
    }
}

pub(super) fn is_absent(backend: &BackendReport) -> bool {
    matches!(backend.presence, Presence::Absent { .. })
}

/// Something that makes the run fail, or a known gap.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding<'a> {
    /// Full name: `cpu::f32::op::linear_one_row`.
    pub(super) name: String,
    /// What it is: the status' name, or what is missing.
    pub(super) kind: &'static str,
    pub(super) messages: Vec<&'a str>,
}

/// Failed checks, unexpected passes, absent backends that were required, mutants that survived.
pub(super) fn failures(report: &Report) -> Vec<Finding<'_>> {
    let mut findings = Vec::new();
    for backend in &report.backends {
        if let (Presence::Absent { reason }, true) = (&backend.presence, backend.required) {
            let messages = vec![reason.as_str()];
            findings.push(Finding { name: backend.name.clone(), kind: "required, but absent", messages });
        }
    }
    findings.extend(with_status(report, Status::is_failure));
    let survivors = report.mutants.iter().flat_map(|mutants| &mutants.mutants);
    findings.extend(survivors.filter(|mutant| mutant.killed_by.is_empty()).map(|mutant| Finding {
        name: format!("mutant {}", mutant.name),
        kind: "survived",
        messages: vec![mutant.defect.as_str()],
    }));
    findings
}

/// Checks that fail as the backends' expectations say.
pub(super) fn known_gaps(report: &Report) -> Vec<Finding<'_>> {
    with_status(report, |status| status == Status::ExpectedFailure)
}

fn with_status(report: &Report, wanted: impl Fn(Status) -> bool) -> Vec<Finding<'_>> {
    let checks =
        report.backends.iter().flat_map(|backend| backend.checks.iter().map(move |check| (backend, check)));
    checks
        .filter(|(_, check)| wanted(check.status))
        .map(|(backend, check)| Finding {
            name: format!("{}::{}", backend.name, check.full_name()),
            kind: check.status.name(),
            messages: check.reasons.iter().map(String::as_str).collect(),
        })
        .collect()
}

/// Unsupported checks of one variant that share a reason.
#[derive(Clone, Debug)]
pub(super) struct Unsupported<'a> {
    pub(super) variant: Variant<'a>,
    pub(super) reason: String,
    /// `tier::name` of each.
    pub(super) checks: Vec<String>,
}

/// Every unsupported check, by variant and reason.
pub(super) fn unsupported(report: &Report) -> Vec<Unsupported<'_>> {
    let mut groups: Vec<Unsupported<'_>> = Vec::new();
    for variant in variants(report) {
        let first = groups.len();
        let own = variant.backend.checks.iter().filter(|check| check.precision == variant.precision);
        for check in own.filter(|check| check.status == Status::Unsupported) {
            let reason = check.reasons.join("; ");
            let name = format!("{}::{}", check.tier.name(), check.name);
            match groups[first..].iter_mut().find(|group| group.reason == reason) {
                Some(group) => group.checks.push(name),
                None => groups.push(Unsupported { variant, reason, checks: vec![name] }),
            }
        }
    }
    groups
}

/// What a reader should know of [`HEADLINES`].
pub(super) const HEADLINES_NOTE: &str = "The rows by which the first port of SmolVLA to another chip was judged, \
    under its names, with cameras and state added. They say little by themselves: see the mutants.";

/// The checks of the first port of SmolVLA to another chip, by tier, name and the title they had there.
pub(crate) const HEADLINES: [(Tier, &str, &str); 7] = [
    (Tier::EndToEnd, "pcc_1_step", "PCC (1-step)"),
    (Tier::EndToEnd, "pcc_5_steps", "PCC (5-step)"),
    (Tier::EndToEnd, "pcc_full_trajectory", "PCC (full trajectory)"),
    (Tier::Metamorphic, "determinism", "Determinism"),
    (Tier::Metamorphic, "instruction_sensitivity", "Instruction Sensitivity"),
    (Tier::Metamorphic, "camera_sensitivity", "Camera Sensitivity"),
    (Tier::Metamorphic, "state_sensitivity", "State Sensitivity"),
];

/// What one of [`HEADLINES`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Headline {
    pub(super) status: Status,
    /// The correlation, the different bits, or how far the actions moved; empty where nothing was measured.
    pub(super) value: String,
}

/// The result of a headline check; `None` where the variant has no such check.
pub(super) fn headline(variant: Variant<'_>, tier: Tier, name: &str) -> Option<Headline> {
    let check = variant.checks(tier).find(|check| check.name == name)?;
    let actions = check.measurements.iter().filter(|measurement| measurement.what == "actions");
    let measurement = actions
        .min_by(|a, b| badness(&b.metrics).total_cmp(&badness(&a.metrics)))
        .or(check.measurements.first());
    let value = measurement.map_or_else(String::new, |measurement| {
        let metrics = &measurement.metrics;
        match (tier, name) {
            _ if metrics.non_finite > 0 => format::count(metrics.non_finite, "not finite element"),
            (Tier::EndToEnd, _) => format::pcc(metrics.pcc),
            (_, "determinism") if metrics.different_bits == 0 => "equal bits".to_owned(),
            (_, "determinism") => format::count(metrics.different_bits, "different element"),
            _ => format!("moved by NMSE {}", format::number(metrics.nmse)),
        }
    });
    Some(Headline { status: check.status, value })
}

/// What the mutants came to, in one sentence.
pub(super) fn mutants_sentence(mutants: &MutantsReport) -> String {
    let total = mutants.mutants.len();
    format!(
        "{} of {} killed on {}; PCC ≥ {} alone would have let {} through.",
        total - mutants.survivors(),
        format::count(total, "mutant"),
        mutants.backend,
        mutants.pcc_gate,
        mutants.missed_by_pcc()
    )
}

/// The commands that repeat the run.
pub(super) fn commands(report: &Report) -> Vec<String> {
    let mut commands = Vec::new();
    if !report.backends.is_empty() {
        let names = |wanted: fn(&BackendReport) -> bool| -> Vec<&str> {
            report.backends.iter().filter(|b| wanted(b)).map(|b| b.name.as_str()).collect()
        };
        let mut command =
            format!("cargo xtask conform --backend {} --size {}", names(|_| true).join(","), report.size);
        if let Some(text) = &report.filter {
            command.push_str(&format!(" --filter {text}"));
        }
        for name in names(|backend| backend.required) {
            command.push_str(&format!(" --require {name}"));
        }
        commands.push(command);
    }
    if report.mutants.is_some() {
        commands.push("cargo xtask conform --mutants".to_owned());
    }
    commands
}
