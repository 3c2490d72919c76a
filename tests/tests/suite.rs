//! The suite itself: what it says of wrong, absent and partly able backends.

use std::sync::LazyLock;

use libtest_mimic::{Arguments, Conclusion};
use smolvla_conformance::altered::{Alteration, Altered};
use smolvla_conformance::checks::checks;
use smolvla_conformance::fixtures::Fixtures;
use smolvla_conformance::report::{CheckReport, Presence, Status};
use smolvla_conformance::suite::{run, trials};
use smolvla_conformance::tolerance::numerics_markdown;
use smolvla_conformance::{Candidate, Expectation};
use smolvla_core::BackendError;
use smolvla_core::backend::{AttentionShape, Backend, BackendErrorKind, Capabilities, Epilogue, LayerOp};
use smolvla_core::graph::{KeyValue, VisionLayer};
use smolvla_core::reference::Reference;
use smolvla_core::synth::Size;

static FIXTURES: LazyLock<Fixtures> = LazyLock::new(|| Fixtures::open().expect("the package's own fixtures"));

/// Reports of the checks whose full name contains `filter`.
fn reports(candidate: &Candidate, filter: &str) -> Vec<CheckReport> {
    let mut checks = checks(&FIXTURES, Size::Tiny).expect("cases");
    checks.retain(|check| format!("{}::{}", check.tier.name(), check.name).contains(filter));
    assert!(!checks.is_empty(), "no check is called {filter}");
    let mut reports = run(candidate, &checks, &FIXTURES, false, &mut |_| ()).checks;
    reports.retain(|report| report.full_name().contains(filter));
    reports
}

/// What `cargo test` would count.
fn count(candidates: Vec<Candidate>, required: &[&str], filter: &str) -> Conclusion {
    let required: Vec<String> = required.iter().map(|name| (*name).to_owned()).collect();
    let trials = trials(candidates, &[Size::Tiny], &required).expect("trials");
    // What these runs print is not the result of this one.
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    let arguments = Arguments {
        logfile: Some(log.path().display().to_string()),
        filter: Some(filter.to_owned()),
        ..Arguments::default()
    };
    libtest_mimic::run(&arguments, trials)
}

/// Loses the sign of one element of every product with an odd number of rows.
#[derive(Clone)]
struct LosesASign;

impl<B: Backend> Alteration<B> for LosesASign {
    fn linear(
        &self,
        inner: &B,
        x: &B::Tensor,
        weight: &B::Linear,
        epilogue: Epilogue<'_, B::Tensor>,
    ) -> Result<B::Tensor, BackendError> {
        use smolvla_core::backend::Matrix;
        let product = inner.linear(x, weight, epilogue)?;
        let (rows, cols) = (product.rows(), product.cols());
        let mut values = inner.download(&product)?;
        if rows % 2 == 1
            && let Some(value) = values.get_mut(2 * cols + 5)
        {
            *value = -*value;
        }
        inner.upload(&values, rows, cols)
    }
}

fn wrong() -> Candidate {
    Candidate::new("wrong", || Ok(Altered::new(Reference, LosesASign)))
}

#[test]
fn a_wrong_backend_is_told_op_case_metric_and_worst_element() {
    let reports = reports(&wrong(), "op::linear_odd_sizes");
    let message = reports[0].reasons.join("\n");
    assert_eq!(reports[0].status, Status::Failed, "{message}");
    for part in ["linear", "odd_sizes", "NMSE", "row error", "worst element [2, 5]", "expected"] {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}

#[test]
fn a_wrong_backend_is_told_the_first_stage_that_diverges() {
    // The prefix has 37 rows; images and actions have even numbers of rows.
    let free = &reports(&wrong(), "stage::free_three_cameras")[0];
    assert_eq!((free.status, free.reasons.len()), (Status::Failed, 1), "{:?}", free.reasons);
    assert!(free.reasons[0].starts_with("first diverges at text.layers.0"), "{}", free.reasons[0]);
    assert!(free.reasons[0].contains("stages after it are off too"), "{}", free.reasons[0]);
}

#[test]
fn a_wrong_backend_is_told_each_stage_that_is_wrong_by_itself() {
    let forced = &reports(&wrong(), "stage::forced_three_cameras")[0];
    assert_eq!(forced.status, Status::Failed);
    let is_told = |stage: &str| forced.reasons.iter().any(|reason| reason.starts_with(stage));
    // Of the expert, only cross-attention layers (the odd ones) project the prefix.
    for stage in
        ["text.layers.0:", "text.layers.2:", "text.layers.3.key:", "steps.0.layers.1:", "steps.9.layers.3:"]
    {
        assert!(is_told(stage), "{stage} is not in {:?}", forced.reasons);
    }
    for stage in
        ["vision.", "connector.", "prefix.", "steps.0.layers.0:", "steps.9.layers.2:", "steps.0.suffix:"]
    {
        assert!(!is_told(stage), "{stage} is in {:?}", forced.reasons);
    }
}

#[test]
fn known_failures_pass_and_their_disappearance_fails() {
    let expectation = [Expectation::new("f32::op::linear_odd_sizes*", "loses a sign")];
    let known = wrong().expecting(&expectation);
    let report = &reports(&known, "op::linear_odd_sizes")[0];
    assert_eq!(report.status, Status::ExpectedFailure);
    assert!(
        report.reasons[0].contains("loses a sign") && report.reasons[1].contains("NMSE"),
        "{:?}",
        report.reasons
    );
    assert!(!count(vec![known], &[], "op::linear_odd_sizes").has_failed());

    let healed = Candidate::new("healed", || Ok(Reference)).expecting(&expectation);
    let report = &reports(&healed, "op::linear_odd_sizes")[0];
    assert_eq!(report.status, Status::UnexpectedPass);
    assert!(report.reasons[0].contains("remove the expectation"), "{:?}", report.reasons);
    assert!(count(vec![healed], &[], "op::linear_odd_sizes").has_failed());
}

#[test]
fn an_expectation_about_no_check_fails() {
    let idle = [Expectation::new("f32::op::no_such_case", "misspelt")];
    let candidate = Candidate::new("idle", || Ok(Reference)).expecting(&idle);
    assert!(count(vec![candidate.clone()], &[], "expectations").has_failed());
    let report = run(&candidate, &[], &FIXTURES, false, &mut |_| ());
    assert_eq!(report.failures(), 1);
    assert!(report.checks[0].reasons[0].contains("no_such_case"), "{:?}", report.checks[0]);
}

#[test]
fn an_absent_backend_is_counted_and_fails_where_it_is_required() {
    let absent = || {
        Candidate::new("absent", || -> Result<Reference, _> {
            Err(BackendError::new("absent", "open", BackendErrorKind::Unavailable, "no card in this machine"))
        })
    };
    let counted = count(vec![absent()], &[], "absent");
    assert_eq!((counted.num_passed, counted.num_failed, counted.num_ignored), (0, 0, 1));
    assert_eq!(count(vec![absent()], &["absent"], "absent").num_failed, 1);

    let report = run(&absent(), &[], &FIXTURES, true, &mut |_| ());
    assert!(matches!(&report.presence, Presence::Absent { reason } if reason.contains("no card")));
    assert_eq!(report.failures(), 1);
    assert!(trials(vec![absent()], &[Size::Tiny], &["another".to_owned()]).is_err());
}

/// Refuses a product of more than 100 rows.
#[derive(Clone)]
struct Limited(usize);

impl<B: Backend> Alteration<B> for Limited {
    fn linear(
        &self,
        inner: &B,
        x: &B::Tensor,
        weight: &B::Linear,
        epilogue: Epilogue<'_, B::Tensor>,
    ) -> Result<B::Tensor, BackendError> {
        use smolvla_core::backend::Matrix;
        if x.rows() > self.0 {
            let message = format!("{} rows, at most {} fit", x.rows(), self.0);
            return Err(BackendError::new("limited", "linear", BackendErrorKind::Unsupported, message));
        }
        inner.linear(x, weight, epilogue)
    }
}

#[test]
fn what_a_backend_lacks_is_unsupported_and_never_passed() {
    let limited = |rows| Candidate::new("limited", move || Ok(Altered::new(Reference, Limited(rows))));
    let statuses: Vec<Status> = reports(&limited(32), "op::linear_").iter().map(|r| r.status).collect();
    assert!(statuses.contains(&Status::Unsupported) && statuses.contains(&Status::Passed), "{statuses:?}");
    assert!(statuses.iter().all(|status| !status.is_failure()), "{statuses:?}");

    // The model is another matter: a precision that is offered must run it.
    let report = &reports(&limited(5), "end_to_end::one_camera")[0];
    assert_eq!(report.status, Status::Failed);
    assert!(report.reasons[0].contains("offers f32 and cannot run the model in it"), "{:?}", report.reasons);
}

#[test]
fn precisions_that_are_not_offered_are_said() {
    let report = run(&Candidate::new("plain", || Ok(Reference)), &[], &FIXTURES, false, &mut |_| ());
    let said: Vec<_> = report.checks.iter().map(|c| (c.precision.as_str(), c.status)).collect();
    let others = ["bf16", "f16", "int8", "int8w", "int8full", "int16", "bfp8", "bfp8lofi"];
    assert_eq!(said, others.map(|precision| (precision, Status::Unsupported)));
}

/// Offers nothing.
#[derive(Clone)]
struct OffersNothing;

impl<B: Backend> Alteration<B> for OffersNothing {
    fn capabilities(&self, inner: &B) -> Capabilities {
        let mut capabilities = inner.capabilities();
        capabilities.precisions.clear();
        capabilities
    }
}

#[test]
fn a_backend_that_offers_no_precision_fails() {
    let idle = || Candidate::new("idle", || Ok(Altered::new(Reference, OffersNothing)));
    assert_eq!(run(&idle(), &[], &FIXTURES, false, &mut |_| ()).failures(), 1);
    assert!(count(vec![idle()], &[], "idle").has_failed());
}

/// Has a vision layer of its own that is wrong, and no attention to compose the right one of.
#[derive(Clone)]
struct WrongAndUnable;

impl<B: Backend> Alteration<B> for WrongAndUnable {
    fn attention(
        &self,
        _: &B,
        _: &B::Tensor,
        _: &[&KeyValue<B::Tensor>],
        _: Option<&B::Mask>,
        _: AttentionShape,
    ) -> Result<B::Tensor, BackendError> {
        Err(BackendError::new("unable", "attention", BackendErrorKind::Unsupported, "only inside layers"))
    }

    fn overrides(&self, _: &B, op: LayerOp) -> bool {
        op == LayerOp::VisionLayer
    }

    fn vision_layer(
        &self,
        inner: &B,
        layer: &VisionLayer<B::Tensor, B::Linear>,
        x: &B::Tensor,
        images: usize,
    ) -> Result<B::Tensor, BackendError> {
        inner.scale(&inner.vision_layer(layer, x, images)?, 1.1)
    }
}

#[test]
fn what_is_wrong_is_not_hidden_by_what_is_lacking() {
    let candidate = Candidate::new("unable", || Ok(Altered::new(Reference, WrongAndUnable)));
    let reports = reports(&candidate, "op::");
    let statuses = |start: &str| -> Vec<Status> {
        reports.iter().filter(|r| r.name.starts_with(start)).map(|r| r.status).collect()
    };
    assert!(statuses("attention").iter().all(|status| *status == Status::Unsupported));
    assert!(
        statuses("vision_layer").iter().all(|status| *status == Status::Failed),
        "{:?}",
        statuses("vision_layer")
    );
}

#[test]
fn an_expected_failure_that_becomes_unsupported_is_noticed() {
    let expectation = [Expectation::new("f32::op::attention_*", "off by a bit")];
    let candidate =
        Candidate::new("unable", || Ok(Altered::new(Reference, WrongAndUnable))).expecting(&expectation);
    for report in reports(&candidate, "op::attention_") {
        assert_eq!(report.status, Status::Failed);
        assert!(report.reasons[0].contains("is now unsupported"), "{:?}", report.reasons);
    }
}

#[test]
fn no_backends_and_two_of_one_name_are_refused() {
    let one = || Candidate::new("one", || Ok(Reference));
    assert!(trials(Vec::new(), &[Size::Tiny], &[]).is_err());
    let error = trials(vec![one(), one()], &[Size::Tiny], &[]).map(|_| ()).unwrap_err().to_string();
    assert_eq!(error, "two backends are called `one`");
}

/// Panics in every norm.
#[derive(Clone)]
struct Panics;

impl<B: Backend> Alteration<B> for Panics {
    fn rms_norm(&self, _: &B, _: &B::Tensor, _: &B::Tensor, _: f32) -> Result<B::Tensor, BackendError> {
        panic!("index out of bounds, says the backend");
    }
}

#[test]
fn a_panic_is_a_failure_and_the_suite_goes_on() {
    let candidate = Candidate::new("panics", || Ok(Altered::new(Reference, Panics)));
    let reports = reports(&candidate, "norm");
    let of = |name: &str| {
        reports.iter().filter(|r| r.name.starts_with(name)).map(|r| r.status).collect::<Vec<_>>()
    };
    assert!(of("rms_norm").iter().all(|status| *status == Status::Failed));
    assert!(of("layer_norm").iter().all(|status| *status == Status::Passed));
    let message = &reports.iter().find(|r| r.status == Status::Failed).expect("a failure").reasons[0];
    assert!(message.contains("the backend panicked: index out of bounds"), "{message}");
}

#[test]
fn names_of_checks_are_unique() {
    for size in [Size::Tiny, Size::Base] {
        let mut names: Vec<String> = checks(&FIXTURES, size)
            .expect("cases")
            .iter()
            .map(|check| format!("{}::{}", check.tier.name(), check.name))
            .collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

#[test]
fn numerics_page_is_written_from_the_table() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/numerics.md"))
        .expect("docs/numerics.md");
    assert!(
        page.replace("\r\n", "\n") == numerics_markdown(),
        "docs/numerics.md is out of date: run `cargo xtask conform --numerics docs/numerics.md`"
    );
}
