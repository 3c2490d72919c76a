//! Backends put before the checks, and what came of it.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use smolvla_core::backend::Execution;
use smolvla_core::synth::Size;
use smolvla_core::{Backend, BackendError, Capabilities, Precision};

use crate::checks::{Check, Context, checks};
use crate::evidence::{Evidence, Stop};
use crate::fixtures::Fixtures;
use crate::report::{BackendReport, CheckReport, Presence, Status, Tier};
use crate::subject::Subject;

/// The environment variable that names backends which must be there, with commas between.
pub const REQUIRE: &str = "SMOLVLA_CONFORM_REQUIRE";

/// A backend that takes part in the suite.
///
/// ```
/// use smolvla_conformance::Candidate;
/// use smolvla_core::reference::Reference;
///
/// let candidate = Candidate::new("mine", || Ok(Reference));
/// assert!(candidate.subject().is_ok());
/// ```
#[derive(Clone)]
pub struct Candidate {
    name: String,
    subject: Arc<Opening>,
    expectations: Vec<Expectation>,
    /// What it is spared at full size.
    too_slow: Option<Spared>,
    /// What it faces under `cargo test`, where reports ask more.
    in_tests: Option<InTests>,
}

/// What a candidate faces under `cargo test`.
#[derive(Clone, Copy)]
struct InTests {
    /// Full names after the backend's; a `*` at the end stands for any rest.
    kept: &'static [&'static str],
    reason: &'static str,
}

/// Full-size checks that a candidate does not face.
#[derive(Clone, Copy)]
struct Spared {
    /// Only where software stands in for its device.
    when_emulated: bool,
    /// Full names, after the backend's, of checks that it faces all the same.
    kept: &'static [&'static str],
    reason: &'static str,
}

/// A device that is opened when it is needed: choosing one backend must not wake the others.
type Opening = LazyLock<
    Result<Arc<dyn Subject>, BackendError>,
    Box<dyn FnOnce() -> Result<Arc<dyn Subject>, BackendError> + Send>,
>;

/// A check that a backend is known to fail: data, so that improvement is noticed. A check that passes in spite of it
/// fails the suite until the expectation is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expectation {
    /// Full name after the backend's, as reports print it: `f32::op::linear_odd_sizes`. A `*` at the end stands for
    /// any rest.
    pub check: &'static str,
    /// Why it fails, and what would have to change.
    pub reason: &'static str,
}

impl Expectation {
    /// `check` is expected to fail for `reason`.
    pub const fn new(check: &'static str, reason: &'static str) -> Self {
        Self { check, reason }
    }

    fn is_about(&self, full_name: &str) -> bool {
        names(self.check, full_name)
    }
}

/// Whether `pattern`, in which a `*` at the end stands for any rest, is a name of the check.
fn names(pattern: &str, full_name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => full_name.starts_with(start),
        None => full_name == pattern,
    }
}

impl Candidate {
    /// A backend that `open` opens when it is first asked something. Clones of it must be handles of the same device.
    /// One that cannot be opened takes part as absent.
    pub fn new<B: Backend + Clone>(
        name: impl Into<String>,
        open: impl FnOnce() -> Result<B, BackendError> + Send + 'static,
    ) -> Self {
        let open = || open().map(|backend| Arc::new(backend) as Arc<dyn Subject>);
        let subject: Arc<Opening> = Arc::new(LazyLock::new(Box::new(open)));
        Self { name: name.into(), subject, expectations: Vec::new(), too_slow: None, in_tests: None }
    }

    /// A subject that is no plain backend.
    pub fn from_subject(name: impl Into<String>, subject: impl Subject + 'static) -> Self {
        let open = || Ok(Arc::new(subject) as Arc<dyn Subject>);
        let subject: Arc<Opening> = Arc::new(LazyLock::new(Box::new(open)));
        Self { name: name.into(), subject, expectations: Vec::new(), too_slow: None, in_tests: None }
    }

    /// Says which checks it is known to fail.
    #[must_use]
    pub fn expecting(mut self, expectations: &[Expectation]) -> Self {
        self.expectations.extend_from_slice(expectations);
        self
    }

    /// Spares it the checks at full size, which are then reported as not run, with this reason.
    #[must_use]
    pub fn too_slow_at_full_size(mut self, reason: &'static str) -> Self {
        self.too_slow = Some(Spared { when_emulated: false, kept: &[], reason });
        self
    }

    /// Spares it the checks at full size but for those in `kept` (`f32::end_to_end::base_*`), where software stands
    /// in for its device. The others are then reported as not run, with this reason.
    #[must_use]
    pub fn too_slow_when_emulated(mut self, kept: &'static [&'static str], reason: &'static str) -> Self {
        self.too_slow = Some(Spared { when_emulated: true, kept, reason });
        self
    }

    /// Under `cargo test` it faces only these checks (`f32::op::*`, `f32::end_to_end::base_one_camera`); the others are
    /// reported as not run, with this reason. Reports ask all.
    #[must_use]
    pub fn in_tests_only(mut self, kept: &'static [&'static str], reason: &'static str) -> Self {
        self.in_tests = Some(InTests { kept, reason });
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The opened backend, or why it is absent.
    ///
    /// # Errors
    /// What opening it said.
    pub fn subject(&self) -> Result<&dyn Subject, &BackendError> {
        self.opened().as_deref()
    }

    fn opened(&self) -> &Result<Arc<dyn Subject>, BackendError> {
        &self.subject
    }

    /// What a report says of it before any check.
    pub fn presence(&self) -> Presence {
        match self.subject() {
            Ok(subject) => {
                let capabilities = subject.capabilities();
                Presence::Present {
                    emulated: match capabilities.execution {
                        Execution::Emulated(by) => Some(by),
                        _ => None,
                    },
                    device: capabilities.device,
                    driver: capabilities.driver,
                    precisions: capabilities.precisions.iter().map(Precision::to_string).collect(),
                }
            }
            Err(error) => Presence::Absent { reason: error.to_string() },
        }
    }

    /// Every check it faces: all of them in each precision it offers, and one that says so for each it does not.
    pub fn trials(&self, checks: &[Check]) -> Vec<CandidateTrial> {
        let Ok(subject) = self.opened() else { return Vec::new() };
        let Capabilities { precisions: offered, execution, .. } = subject.capabilities();
        let is_emulated = matches!(execution, Execution::Emulated(_));
        let names: Vec<&str> = offered.iter().map(|precision| precision.name()).collect();
        let mut trials = Vec::new();
        if !Precision::ALL.iter().any(|precision| offered.contains(precision)) {
            let nothing = "offers no precision, so that nothing can be checked".to_owned();
            trials.push(CandidateTrial {
                subject: Arc::clone(subject),
                precision: Precision::F32,
                expectation: None,
                asked: Asked::Impossible(nothing),
            });
        }
        for precision in Precision::ALL.iter().copied() {
            let asked = if offered.contains(&precision) {
                self.asked(checks, precision, is_emulated)
            } else {
                vec![Asked::Lacking("precision", format!("the backend offers {}", names.join(", ")))]
            };
            trials.extend(asked.into_iter().map(|asked| CandidateTrial {
                subject: Arc::clone(subject),
                precision,
                expectation: None,
                asked,
            }));
        }
        for trial in &mut trials {
            let name = trial.full_name();
            trial.expectation =
                self.expectations.iter().find(|expectation| expectation.is_about(&name)).copied();
        }
        trials
    }

    fn asked(&self, checks: &[Check], precision: Precision, is_emulated: bool) -> Vec<Asked> {
        let spared = self.too_slow.filter(|spared| is_emulated || !spared.when_emulated);
        let is_spared = |check: &Check| {
            let name = format!("{precision}::{}::{}", check.tier.name(), check.name);
            let is_kept = |spared: Spared| spared.kept.iter().any(|pattern| names(pattern, &name));
            check.size == Size::Base && spared.is_some_and(|spared| !is_kept(spared))
        };
        let mut asked: Vec<Asked> =
            checks.iter().filter(|check| !is_spared(check)).cloned().map(Asked::Check).collect();
        if let Some(Spared { reason, .. }) = spared
            && checks.iter().any(is_spared)
        {
            asked.push(Asked::Lacking("full_size", reason.to_owned()));
        }
        asked
    }

    /// [`Candidate::trials`] without what only reports ask, which is said in a trial of its own for each precision.
    fn trials_in_tests(&self, checks: &[Check]) -> Vec<CandidateTrial> {
        let mut trials = self.trials(checks);
        let Some(InTests { kept, reason }) = self.in_tests else { return trials };
        let mut left_out: Vec<CandidateTrial> = Vec::new();
        trials.retain(|trial| {
            if !matches!(trial.asked, Asked::Check(_)) {
                return true;
            }
            let is_kept = kept.iter().any(|pattern| names(pattern, &trial.full_name()));
            if !is_kept && left_out.last().is_none_or(|last| last.precision != trial.precision) {
                let asked = Asked::Lacking("in_reports_only", reason.to_owned());
                left_out.push(CandidateTrial { asked, expectation: None, ..trial.clone() });
            }
            is_kept
        });
        trials.extend(left_out);
        trials
    }

    /// Expectations that are about no check of `trials`: misspelt, or of a check that is gone. Where only the full size
    /// is asked, of which the candidate is spared most, nothing can be told.
    pub fn idle_expectations(&self, trials: &[CandidateTrial]) -> Vec<&Expectation> {
        let is_spared = trials.iter().any(|trial| matches!(trial.asked, Asked::Lacking("full_size", _)));
        let is_small =
            |trial: &CandidateTrial| matches!(&trial.asked, Asked::Check(check) if check.size == Size::Tiny);
        if is_spared && !trials.iter().any(is_small) {
            return Vec::new();
        }
        let names: Vec<String> = trials.iter().map(CandidateTrial::full_name).collect();
        self.expectations
            .iter()
            .filter(|expectation| !names.iter().any(|name| expectation.is_about(name)))
            .collect()
    }
}

/// One check of one candidate in one precision.
#[derive(Clone)]
pub struct CandidateTrial {
    subject: Arc<dyn Subject>,
    precision: Precision,
    expectation: Option<Expectation>,
    asked: Asked,
}

#[derive(Clone)]
enum Asked {
    Check(Check),
    /// Something that is not asked: what, and why.
    Lacking(&'static str, String),
    /// Nothing can be asked at all: that is a failure.
    Impossible(String),
}

impl CandidateTrial {
    /// The name after the candidate's: `f32::op::linear_odd_sizes`.
    pub fn full_name(&self) -> String {
        match &self.asked {
            Asked::Check(check) => format!("{}::{}::{}", self.precision, check.tier.name(), check.name),
            Asked::Lacking(what, _) => format!("{}::{}::{what}", self.precision, Tier::EndToEnd.name()),
            Asked::Impossible(_) => format!("{}::{}::capabilities", self.precision, Tier::EndToEnd.name()),
        }
    }

    /// Runs it.
    pub fn run(&self, fixtures: &Fixtures) -> CheckReport {
        let started = Instant::now();
        let (tier, name, evidence) = match &self.asked {
            Asked::Check(check) => {
                let context = Context { subject: &*self.subject, precision: self.precision, fixtures };
                (check.tier, check.name.clone(), self.must_run(check.tier, check.run(&context)))
            }
            Asked::Lacking(what, reason) => {
                (Tier::EndToEnd, (*what).to_owned(), Evidence::unsupported(reason.clone()))
            }
            Asked::Impossible(reason) => {
                (Tier::EndToEnd, "capabilities".to_owned(), Evidence::failed(reason.clone()))
            }
        };
        let (status, reasons) = judge(&evidence, self.expectation.as_ref());
        CheckReport {
            tier,
            name,
            precision: self.precision.to_string(),
            status,
            reasons,
            notes: evidence.notes,
            wall_s: started.elapsed().as_secs_f64(),
            measurements: evidence.measurements,
            joints: evidence.joints,
            traces: evidence.traces,
        }
    }

    /// A backend may lack an operation at some size; the model it must run in every precision it offers.
    fn must_run(&self, tier: Tier, evidence: Evidence) -> Evidence {
        match &evidence.unsupported {
            Some(reason) if tier != Tier::Op => Evidence::failed(format!(
                "offers {} and cannot run the model in it: {reason}",
                self.precision
            )),
            _ => evidence,
        }
    }
}

/// What evidence comes to, in the light of what was expected. What is wrong counts more than what is lacking.
fn judge(evidence: &Evidence, expectation: Option<&Expectation>) -> (Status, Vec<String>) {
    let Evidence { failures, unsupported, .. } = evidence;
    match (expectation, unsupported) {
        (Some(expectation), _) if !failures.is_empty() => {
            let known = format!("known: {}", expectation.reason);
            (Status::ExpectedFailure, std::iter::once(known).chain(failures.iter().cloned()).collect())
        }
        (None, _) if !failures.is_empty() => (Status::Failed, failures.clone()),
        (Some(expectation), Some(lack)) => (
            Status::Failed,
            vec![format!("was expected to fail ({}), and is now unsupported: {lack}", expectation.reason)],
        ),
        (None, Some(lack)) => (Status::Unsupported, vec![lack.clone()]),
        (Some(expectation), None) => (
            Status::UnexpectedPass,
            vec![format!(
                "passes, and was expected to fail ({}); remove the expectation",
                expectation.reason
            )],
        ),
        (None, None) => (Status::Passed, Vec::new()),
    }
}

/// Runs the suite at the given sizes as tests under `cargo test`: the `main` of a test with `harness = false`.
///
/// The usual arguments of test programs work. Backends that [`REQUIRE`] names must be there.
pub fn test_main(candidates: impl IntoIterator<Item = Candidate>, sizes: &[Size]) -> ExitCode {
    let candidates: Vec<Candidate> = candidates.into_iter().collect();
    let mut required: Vec<String> = std::env::var(REQUIRE)
        .unwrap_or_default()
        .split(',')
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    // The variable is for all test programs of a workspace; each has its own candidates.
    let (own, others) = required.drain(..).partition(|name| candidates.iter().any(|c| c.name == *name));
    let others: Vec<String> = others;
    if !others.is_empty() {
        say(&format!("{REQUIRE}: this program has no backend {}", others.join(", ")));
    }
    // Also where a filter or --list leaves out the test that says so.
    for name in &own {
        if let Some(Err(error)) = candidates.iter().find(|c| c.name == *name).map(Candidate::subject) {
            say(&format!("{REQUIRE}: {name} is absent: {error}"));
            return ExitCode::FAILURE;
        }
    }
    match trials(candidates, sizes, &own) {
        Ok(trials) => libtest_mimic::run(&Arguments::from_args(), trials).exit_code(),
        Err(stop) => {
            say(&stop.to_string());
            ExitCode::FAILURE
        }
    }
}

/// A line on standard error. It may be closed; the exit code says the rest.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The candidates' checks as tests.
///
/// # Errors
/// [`Stop::Fixture`] when cases are absent or malformed, there is no candidate or two of one name, or a required backend
/// is no candidate.
pub fn trials(candidates: Vec<Candidate>, sizes: &[Size], required: &[String]) -> Result<Vec<Trial>, Stop> {
    let fixtures = Arc::new(Fixtures::open()?);
    let mut checks = Vec::new();
    for size in sizes {
        checks.extend(self::checks(&fixtures, *size)?.into_iter().filter(|check| !check.in_reports_only));
    }
    refuse_ambiguous(&candidates)?;
    if let Some(unknown) = required.iter().find(|name| !candidates.iter().any(|c| c.name == **name)) {
        return Err(Stop::Fixture(format!("{REQUIRE}: there is no backend `{unknown}`")));
    }
    Ok(candidates
        .iter()
        .flat_map(|candidate| tests_of(candidate, &checks, &fixtures, required.contains(&candidate.name)))
        .collect())
}

/// Refuses no candidates, and two of one name.
pub(crate) fn refuse_ambiguous(candidates: &[Candidate]) -> Result<(), Stop> {
    if candidates.is_empty() {
        return Err(Stop::Fixture("there is no backend to check".to_owned()));
    }
    let twice = candidates
        .iter()
        .enumerate()
        .find(|(index, candidate)| candidates[..*index].iter().any(|other| other.name == candidate.name));
    match twice {
        Some((_, candidate)) => Err(Stop::Fixture(format!("two backends are called `{}`", candidate.name))),
        None => Ok(()),
    }
}

fn tests_of(candidate: &Candidate, checks: &[Check], fixtures: &Arc<Fixtures>, required: bool) -> Vec<Trial> {
    let name = candidate.name.clone();
    if let Err(error) = candidate.subject() {
        let reason = error.to_string();
        return vec![Trial::ignorable_test(format!("{name}::present"), move || {
            if required { Err(Failed::from(reason)) } else { Ok(Completion::ignored_with(reason)) }
        })];
    }
    let trials = candidate.trials_in_tests(checks);
    let mut tests: Vec<Trial> = candidate
        .idle_expectations(&trials)
        .into_iter()
        .map(|expectation| {
            let message = no_check(expectation);
            Trial::test(format!("{name}::expectations"), move || Err(Failed::from(message)))
        })
        .collect();
    tests.extend(trials.into_iter().map(|trial| {
        let fixtures = Arc::clone(fixtures);
        let kind =
            trial.expectation.map(|known| format!("known to fail: {}", known.reason)).unwrap_or_default();
        let test = Trial::ignorable_test(format!("{name}::{}", trial.full_name()), move || {
            let report = trial.run(&fixtures);
            match report.status {
                Status::Passed | Status::ExpectedFailure => Ok(Completion::Completed),
                Status::Unsupported => {
                    Ok(Completion::ignored_with(format!("unsupported: {}", report.reasons.join("; "))))
                }
                Status::Failed | Status::UnexpectedPass => Err(Failed::from(report.reasons.join("\n"))),
            }
        });
        test.with_kind(kind)
    }));
    tests
}

/// Runs every check of a candidate one after the other. `progress` hears the name of each before it runs.
pub fn run(
    candidate: &Candidate,
    checks: &[Check],
    fixtures: &Fixtures,
    required: bool,
    progress: &mut dyn FnMut(&str),
) -> BackendReport {
    let trials = candidate.trials(checks);
    let mut reports: Vec<CheckReport> = candidate.idle_expectations(&trials).into_iter().map(idle).collect();
    for trial in &trials {
        progress(&trial.full_name());
        reports.push(trial.run(fixtures));
    }
    BackendReport { name: candidate.name.clone(), presence: candidate.presence(), required, checks: reports }
}

/// The report of an expectation that is about no check.
fn idle(expectation: &Expectation) -> CheckReport {
    CheckReport {
        tier: Tier::EndToEnd,
        name: "expectations".to_owned(),
        precision: Precision::F32.to_string(),
        status: Status::Failed,
        reasons: vec![no_check(expectation)],
        notes: Vec::new(),
        wall_s: 0.0,
        measurements: Vec::new(),
        joints: Vec::new(),
        traces: Vec::new(),
    }
}

fn no_check(expectation: &Expectation) -> String {
    format!("expects `{}` to fail, and no check has that name", expectation.check)
}
