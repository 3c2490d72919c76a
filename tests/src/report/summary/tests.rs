use smolvla_core::Precision;

use super::super::model::{Machine, MutantReport};
use super::matrix::{Part, StageName, nines};
use super::*;
use crate::evidence::{Evidence, Judge, Measurement, Trace};
use crate::tolerance::{Class, Gates};

fn stage(what: &str, expected: &[f32], got: &[f32]) -> Measurement {
    let mut evidence = Evidence::default();
    let class = (Class::StageFree, Precision::F32);
    evidence.compare(what, Judge::LeRobot, class, [expected, got], expected.len());
    evidence.measurements.remove(0)
}

fn check(tier: Tier, name: &str, measurements: Vec<Measurement>) -> CheckReport {
    let failed = measurements.iter().any(|measurement| !measurement.violations.is_empty());
    CheckReport {
        tier,
        name: name.to_owned(),
        precision: "f32".to_owned(),
        status: if failed { Status::Failed } else { Status::Passed },
        reasons: Vec::new(),
        notes: Vec::new(),
        wall_s: 0.0,
        measurements,
        joints: Vec::new(),
        traces: Vec::new(),
    }
}

fn report(checks: Vec<CheckReport>) -> Report {
    let presence = Presence::Present {
        device: "test".to_owned(),
        driver: None,
        emulated: None,
        precisions: vec!["f32".to_owned()],
    };
    Report {
        format: super::super::FORMAT,
        version: "0.0.0".to_owned(),
        started: "2026-01-31T12:00:00Z".to_owned(),
        wall_s: 1.0,
        filter: None,
        size: "tiny".to_owned(),
        machine: Machine { system: String::new(), processor: String::new(), threads: 1 },
        backends: vec![BackendReport { name: "cpu".to_owned(), presence, required: false, checks }],
        cases: Vec::new(),
        mutants: None,
        behaviour: None,
        tolerances: Report::TOLERANCES,
    }
}

const EXPECTED: [f32; 4] = [1.0, 2.0, 3.0, 5.0];

#[test]
fn scope_claims_no_trained_robot_where_none_was_run() {
    let text = scope(&report(Vec::new()));
    assert!(text.contains("a trained robot does its task is not shown"), "{text}");
}

#[test]
fn matrix_keeps_the_worst_correlation_over_cases_cameras_and_steps() {
    let good = [1.0, 2.0, 3.0, 5.1];
    let bad = [1.0, 3.0, 2.0, 5.0];
    let report = report(vec![
        check(
            Tier::Stage,
            "free_a",
            vec![stage("vision.0.layers.3", &EXPECTED, &good), stage("steps.0.layers.1", &EXPECTED, &bad)],
        ),
        check(
            Tier::Stage,
            "free_b",
            vec![
                stage("vision.0.layers.3", &EXPECTED, &EXPECTED),
                stage("vision.1.layers.3", &EXPECTED, &bad),
                stage("steps.9.layers.1", &EXPECTED, &good),
            ],
        ),
        check(Tier::Stage, "forced_a", vec![stage("vision.0.layers.3", &EXPECTED, &EXPECTED)]),
    ]);
    let free = matrix(&report, Running::Free);
    let labels: Vec<_> = free.columns.iter().map(|c| (c.part, c.label.as_str())).collect();
    assert_eq!(labels, [(Part::Vision, "3"), (Part::Expert, "1")]);
    let titles = free.blocks();
    assert_eq!(titles, [("Vision, connector, prefix", 0..1), ("Expert layers, worst step", 1..2)]);
    let [Some(vision), Some(expert)] = &free.rows[0].1[..] else { panic!("{free:?}") };
    assert_eq!((vision.count, vision.worst), (3, ("free_b", "vision.1.layers.3")));
    assert_eq!((expert.count, expert.worst), (2, ("free_a", "steps.0.layers.1")));
    assert_eq!(vision.pcc, crate::metrics::pcc(&EXPECTED, &bad));
    assert_eq!(vision.nmse, crate::metrics::nmse(&EXPECTED, &bad));
    let forced = matrix(&report, Running::Forced);
    assert_eq!(forced.rows[0].1[0].as_ref().unwrap().nines(), Some(MOST_NINES));
    assert_eq!(forced.columns.len(), 1);
}

#[test]
fn what_is_not_finite_is_worst_and_has_no_nines() {
    let nan = [1.0, f32::NAN, 3.0, 5.0];
    let bad = [5.0, 3.0, 2.0, 1.0];
    for order in [[&nan, &bad], [&bad, &nan]] {
        let measurements = order.map(|got| stage("connector.0", &EXPECTED, got));
        let report = report(vec![check(Tier::Stage, "free_a", measurements.to_vec())]);
        let matrix = matrix(&report, Running::Free);
        let cell = matrix.rows[0].1[0].clone().unwrap();
        assert!(!cell.is_finite() && cell.broken && cell.nines().is_none(), "{cell:?}");
        assert_eq!(cell.nmse, f64::INFINITY);
        let shown =
            worst(&report.backends[0].checks[0], judges(&report.backends[0].checks[0])[0], Metric::Pcc)
                .unwrap();
        assert!(shown.broken && shown.value_text() == "not finite", "{shown:?}");
    }
}

#[test]
fn stages_are_grouped_by_part_of_the_model_in_its_order() {
    let names = [
        "steps.4.x",
        "steps.3.layers.5",
        "text.layers.10",
        "text.layers.7.value",
        "vision.1.output",
        "vision.0.layers.11",
        "text.layers.7.key",
        "something.new",
        "steps.9.velocity",
        "prefix.embeddings",
        "vision.0.embeddings",
        "connector.2",
        "steps.3.suffix",
        "text.layers.9",
        "vision.0.layers.2.samples",
    ];
    let columns: BTreeSet<_> = names.iter().map(|name| StageName::parse(name).column).collect();
    let columns: Vec<_> = columns.iter().map(|c| (c.part, c.label.as_str())).collect();
    assert_eq!(
        columns,
        [
            (Part::Vision, "emb"),
            (Part::Vision, "2"),
            (Part::Vision, "11"),
            (Part::Vision, "out"),
            (Part::Connector, "out"),
            (Part::Prefix, "emb"),
            (Part::Text, "9"),
            (Part::Text, "10"),
            (Part::Cache, "7"),
            (Part::Expert, "in"),
            (Part::Expert, "5"),
            (Part::Velocity, "9"),
            (Part::Actions, "4"),
            (Part::Other, "something.new"),
        ]
    );
}

#[test]
fn divergence_is_at_the_stage_computed_first_not_the_one_listed_first() {
    let bad = [1.0, 3.0, 2.0, 5.0];
    let broken = |what| stage(what, &EXPECTED, &bad);
    let report = report(vec![
        check(Tier::Stage, "free_a", vec![broken("steps.0.x"), broken("steps.0.layers.2")]),
        check(Tier::Stage, "free_b", vec![broken("text.layers.3"), broken("text.layers.3.key")]),
        check(Tier::Stage, "free_c", vec![stage("vision.0.embeddings", &EXPECTED, &EXPECTED)]),
    ]);
    let found = divergences(&report);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].stage, found[0].check, found[0].checks), ("text.layers.3.key", "free_b", 2));
    assert!(found[0].message.contains("NMSE"), "{}", found[0].message);
}

#[test]
fn bands_rise_with_the_nines() {
    assert_eq!([0.0, 0.99, 1.0, 2.5, 5.9, 6.0, 15.0].map(band), [0, 0, 1, 2, 4, 5, 7]);
    assert_eq!([1.0, 0.9, 0.0, -1.0].map(|pcc| nines(pcc).round()), [15.0, 1.0, 0.0, 0.0]);
}

#[test]
fn headline_takes_the_lowest_correlation_of_the_actions() {
    let slightly = [1.0, 2.0, 3.0, 5.1];
    let bad = [1.0, 3.0, 2.0, 5.0];
    let measurements = vec![
        stage("steps.0.x", &EXPECTED, &[5.0, 3.0, 2.0, 1.0]),
        stage("actions", &EXPECTED, &slightly),
        stage("actions", &EXPECTED, &bad),
    ];
    let report = report(vec![check(Tier::EndToEnd, "pcc_1_step", measurements)]);
    let variant = variants(&report)[0];
    let found = headline(variant, Tier::EndToEnd, "pcc_1_step").unwrap();
    assert_eq!(found.value, format::pcc(crate::metrics::pcc(&EXPECTED, &bad)));
    assert_eq!(found.status, Status::Failed);
    assert_eq!(headline(variant, Tier::EndToEnd, "pcc_5_steps"), None);
}

#[test]
fn a_value_stands_beside_its_own_limit() {
    let mut evidence = Evidence::default();
    let tight = Gates { nmse: Some(1e-2), ..Gates::NONE };
    evidence.compare_within("held", Judge::LeRobot, tight, [&EXPECTED[..], &[1.0, 2.0, 3.0, 5.1][..]], 4);
    evidence.compare_within("shown", Judge::LeRobot, Gates::NONE, [&EXPECTED[..], &[9.0; 4][..]], 4);
    let check = check(Tier::EndToEnd, "a", evidence.measurements);
    let shown = worst(&check, judges(&check)[0], Metric::Nmse).unwrap();
    assert!(shown.limit == Some(1e-2) && !shown.broken && shown.value < 1e-2, "{shown:?}");
    assert_eq!(worst(&check, judges(&check)[0], Metric::Pcc).unwrap().value, 0.0);
}

#[test]
fn operations_are_told_from_their_cases() {
    for (name, expected) in [
        ("linear_one_row", ("linear", "one_row")),
        ("layer_norm", ("layer_norm", "")),
        ("scale", ("scale", "")),
        ("scaled", ("scaled", "")),
        ("embed_rows_bf16", ("embed_rows", "bf16")),
    ] {
        assert_eq!(operation(name), expected);
    }
}

#[test]
fn unsupported_checks_are_grouped_by_reason() {
    let mut checks: Vec<_> =
        ["a", "b", "c"].map(|name| check(Tier::Op, name, Vec::new())).into_iter().collect();
    for (check, reason) in checks.iter_mut().zip(["no f16", "no int8", "no f16"]) {
        check.status = Status::Unsupported;
        check.reasons = vec![reason.to_owned()];
    }
    let report = report(checks);
    let groups: Vec<_> = unsupported(&report).into_iter().map(|group| (group.reason, group.checks)).collect();
    assert_eq!(
        groups,
        [
            ("no f16".to_owned(), vec!["op::a".to_owned(), "op::c".to_owned()]),
            ("no int8".to_owned(), vec!["op::b".to_owned()])
        ]
    );
}

#[test]
fn traces_of_equal_expectations_share_a_drawing() {
    let trace = |expected: f32, got: f32| Trace {
        case: "case".to_owned(),
        joints: 1,
        unit: "deg".to_owned(),
        expected: vec![expected],
        got: vec![got],
    };
    let mut first = check(Tier::EndToEnd, "a", Vec::new());
    first.traces = vec![trace(1.0, 1.5), trace(2.0, 2.0), trace(1.0, 1.5)];
    let mut second = check(Tier::ActionSpace, "b", Vec::new());
    second.traces = vec![trace(1.0, f32::NAN)];
    let report = report(vec![first, second]);
    let drawings = drawings(&report);
    assert_eq!(drawings.iter().map(|d| d.curves.len()).collect::<Vec<_>>(), [2, 1]);
    let labels: Vec<_> = drawings[0].curves.iter().map(|(label, _)| label.as_str()).collect();
    assert_eq!(labels, ["cpu · f32", "cpu · f32 (b)"]);
    let distances = drawings[0].curves.iter().map(|(_, values)| drawings[0].max_abs(values, 0));
    assert_eq!(distances.collect::<Vec<_>>(), [Some(0.5), None]);
}

#[test]
fn failures_name_required_backends_checks_and_survivors() {
    let mut failed = check(Tier::Op, "linear", Vec::new());
    failed.status = Status::Failed;
    failed.reasons = vec!["NMSE".to_owned()];
    let mut report = report(vec![failed, check(Tier::Op, "rope", Vec::new())]);
    let absent = |name: &str, required| BackendReport {
        name: name.to_owned(),
        presence: Presence::Absent { reason: "no card".to_owned() },
        required,
        checks: Vec::new(),
    };
    report.backends.extend([absent("tt", true), absent("fpga", false)]);
    report.mutants = Some(MutantsReport {
        backend: "cpu".to_owned(),
        pcc_gate: 0.99,
        mutants: vec![MutantReport {
            name: "scaled".to_owned(),
            defect: "1.3 times".to_owned(),
            killed_by: Vec::new(),
            pcc: 1.0,
            missed_by_pcc: true,
        }],
    });
    let names: Vec<_> = failures(&report).into_iter().map(|f| (f.name, f.kind)).collect();
    assert_eq!(
        names,
        [
            ("tt".to_owned(), "required, but absent"),
            ("cpu::f32::op::linear".to_owned(), "failed"),
            ("mutant scaled".to_owned(), "survived"),
        ]
    );
    assert_eq!(
        sentence(&report),
        "1 of 2 checks passed on 1 backend, 1 failed, 2 backends absent, 0 of 1 mutant killed."
    );
    assert_eq!(commands(&report)[0], "cargo xtask conform --backend cpu,tt,fpga --size tiny --require tt");
}
