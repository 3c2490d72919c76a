//! Made-up runs to report about.

use smolvla_conformance::actions::Chunks;
use smolvla_conformance::evidence::{Evidence, Judge, Trace};
use smolvla_conformance::report::{
    ActionErrors, BEHAVIOUR_FORMAT, BEHAVIOUR_KIND, BackendReport, Behaviour, BehaviourRow, CaseReport,
    CheckReport, Condition, Distribution, FORMAT, Kill, LeRobotRun, Machine, MutantReport, MutantsReport,
    Pairs, Presence, Rate, Report, Status, Tier,
};
use smolvla_conformance::tolerance::{Class, Gates};
use smolvla_core::Precision;

use crate::browser::Scheme;

/// A report, and what its page must draw.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) report: fn() -> Report,
    /// Widths in pixels and schemes to look at it in.
    pub(crate) views: &'static [(u32, Scheme)],
    /// Cells of both heat maps.
    pub(crate) heat_cells: usize,
    /// Fewest colours of the cells.
    pub(crate) heat_colors: usize,
    /// Curves in drawings and their keys: LeRobot's once, each backend's as it is and as a difference.
    pub(crate) polylines: usize,
    /// Fewest texts on the page.
    pub(crate) texts: usize,
}

const EVERY_VIEW: &[(u32, Scheme)] =
    &[(1280, Scheme::Light), (1280, Scheme::Dark), (420, Scheme::Light), (420, Scheme::Dark)];
const EXTREME_VIEWS: &[(u32, Scheme)] = &[(1280, Scheme::Light), (420, Scheme::Dark)];

pub(crate) const SAMPLES: [Sample; 3] = [
    // 39 stages of 3 variants, forced and free, but for one that was not compared. Six joints of three curves, one of
    // which is interrupted, and 14 joints of one.
    Sample {
        name: "sample",
        report,
        views: EVERY_VIEW,
        heat_cells: 2 * 3 * 39 - 1,
        heat_colors: 4,
        polylines: (4 + 6 * 7 + 2) + (2 + 14 * 3),
        texts: 1000,
    },
    Sample {
        name: "large",
        report: large,
        views: EXTREME_VIEWS,
        heat_cells: 2 * 30 * 85,
        heat_colors: 2,
        polylines: 31 + 6 * 61,
        texts: 10_000,
    },
    Sample {
        name: "absent",
        report: absent,
        views: EXTREME_VIEWS,
        heat_cells: 0,
        heat_colors: 0,
        polylines: 0,
        texts: 40,
    },
];

pub(crate) const EMULATOR: &str = "a software model of the card";

/// Text that would be markup if it were not escaped.
pub(crate) const HOSTILE: &str = "<b onclick=\"x\">&</b>";

/// Two backends, one of which agrees and one that is emulated and goes wrong; one absent; mutants and traces.
pub(crate) fn report() -> Report {
    let cpu = Backend { name: "cpu", emulated: None, precisions: &[Precision::F32, Precision::Bf16] };
    let sim = Backend { name: "sim", emulated: Some(EMULATOR), precisions: &[Precision::F32] };
    let size = Size { vision: 2, layers: 4 };
    let mut backends = vec![cpu.report(&size, None), sim.report(&size, Some(2)), card(false)];
    backends[0].required = true;
    break_some(&mut backends[1]);
    Report {
        cases: vec![case("two_cameras", 7), case("aloha", 11)],
        mutants: Some(mutants()),
        behaviour: Some(behaviour()),
        ..empty("tiny", backends)
    }
}

/// Thirty rows of 85 columns.
pub(crate) fn large() -> Report {
    const NAMES: [&str; 15] = [
        "cpu",
        "reference",
        "wgpu",
        "tt",
        "fpga",
        "b05",
        "b06",
        "b07",
        "b08",
        "b09",
        "b10",
        "b11",
        "b12",
        "b13",
        "a-backend-with-a-rather-long-name",
    ];
    let precisions = &[Precision::F32, Precision::Bf16];
    let size = Size { vision: 12, layers: 16 };
    let backend = |name| Backend { name, emulated: None, precisions }.report(&size, None);
    Report { cases: vec![case("base_two_cameras", 7)], ..empty("base", NAMES.map(backend).into()) }
}

/// One backend, and it is not there.
pub(crate) fn absent() -> Report {
    empty("tiny", vec![card(true)])
}

fn empty(size: &str, backends: Vec<BackendReport>) -> Report {
    Report {
        format: FORMAT,
        version: "0.1.0".to_owned(),
        started: "2026-01-31T12:00:00Z".to_owned(),
        wall_s: 42.7,
        size: size.to_owned(),
        filter: None,
        machine: Machine {
            system: "Debian GNU/Linux 12".to_owned(),
            processor: "Example Processor 7000 at 3.5 GHz".to_owned(),
            threads: 16,
        },
        backends,
        cases: Vec::new(),
        mutants: None,
        behaviour: None,
        tolerances: Report::TOLERANCES,
    }
}

fn card(required: bool) -> BackendReport {
    BackendReport {
        name: "card".to_owned(),
        presence: Presence::Absent { reason: "no card found; load its driver".to_owned() },
        required,
        checks: Vec::new(),
    }
}

struct Backend {
    name: &'static str,
    emulated: Option<&'static str>,
    precisions: &'static [Precision],
}

/// How many layers the made-up model has.
struct Size {
    vision: usize,
    layers: usize,
}

impl Backend {
    /// `diverges` at this text layer, if at all.
    fn report(&self, size: &Size, diverges: Option<usize>) -> BackendReport {
        let checks =
            self.precisions.iter().flat_map(|precision| checks(*precision, size, diverges)).collect();
        BackendReport {
            name: self.name.to_owned(),
            presence: Presence::Present {
                device: format!("{} device, engine 1.2", self.name),
                driver: self.emulated.is_some().then(|| "cardd 4.1.0".to_owned()),
                emulated: self.emulated.map(str::to_owned),
                precisions: self.precisions.iter().map(ToString::to_string).collect(),
            },
            required: false,
            checks,
        }
    }
}

fn checks(precision: Precision, size: &Size, diverges: Option<usize>) -> Vec<CheckReport> {
    let noise = noise(precision);
    let mut checks = operations(precision);
    for (kind, class) in [("forced", Class::StageForced), ("free", Class::StageFree)] {
        let mut evidence = Evidence::default();
        for stage in stages(size) {
            let error = if kind == "free" && diverges.is_some_and(|layer| is_after(&stage, layer)) {
                0.2
            } else {
                noise
            };
            // Errors add up, though here without any meaning.
            let error = error * (1.0 + stage.len() as f32 / 10.0);
            compare(&mut evidence, &stage, (class, precision), error);
        }
        checks.push(check(Tier::Stage, &format!("{kind}_two_cameras"), precision, evidence));
    }
    for name in ["pcc_1_step", "pcc_5_steps", "pcc_full_trajectory"] {
        let mut evidence = Evidence::default();
        compare(&mut evidence, "actions", (Class::Actions, precision), noise);
        checks.push(check(Tier::EndToEnd, name, precision, evidence));
    }
    checks.push(check(Tier::ActionSpace, "every_joint", precision, action_space(precision)));
    let mut evidence = Evidence::default();
    let values = signal(300, 0.0);
    evidence.compare_within("actions", Judge::Itself, Gates::EXACT, [&values, &values], 6);
    checks.push(check(Tier::Metamorphic, "determinism", precision, evidence));
    for (name, moved) in
        [("instruction_sensitivity", 0.3), ("camera_sensitivity", 0.9), ("state_sensitivity", 0.05)]
    {
        let mut evidence = Evidence::default();
        let values = [&signal(300, 0.0)[..], &signal(300, moved)];
        evidence.compare_within("actions", Judge::Itself, Gates::NONE, values, 6);
        evidence.notes.push("must move the actions".to_owned());
        checks.push(check(Tier::Metamorphic, name, precision, evidence));
    }
    checks
}

fn operations(precision: Precision) -> Vec<CheckReport> {
    let names = [
        ("linear_one_row", Class::Product),
        ("linear_long_inner", Class::Product),
        ("layer_norm", Class::Norm),
        ("attention_fully_masked_rows", Class::Attention),
        ("rope", Class::Elementwise),
        ("slice_rows", Class::Movement),
    ];
    let of = |(name, class): (&str, Class)| {
        let mut evidence = Evidence::default();
        let error = if class == Class::Movement { 0.0 } else { noise(precision) };
        compare(&mut evidence, "result", (class, precision), error);
        check(Tier::Op, name, precision, evidence)
    };
    names.map(of).into()
}

/// Relative errors that the table allows.
fn noise(precision: Precision) -> f32 {
    if precision == Precision::F32 { 1e-7 } else { 1e-3 }
}

fn compare(evidence: &mut Evidence, what: &str, class: (Class, Precision), error: f32) {
    let expected = signal(64, 0.0);
    let got: Vec<f32> = expected
        .iter()
        .enumerate()
        .map(|(i, v)| v + error * (i as f32 * 1.7 + what.len() as f32).sin())
        .collect();
    evidence.compare(what, Judge::LeRobot, class, [&expected, &got], 16);
}

fn signal(length: usize, shift: f32) -> Vec<f32> {
    (0..length).map(|i| (i as f32 * 0.37 + shift).sin() + 0.3).collect()
}

/// The stages of a run with two cameras, in the order they are computed.
fn stages(size: &Size) -> Vec<String> {
    let mut stages = Vec::new();
    for camera in 0..2 {
        stages.push(format!("vision.{camera}.embeddings"));
        stages.extend((0..size.vision).map(|layer| format!("vision.{camera}.layers.{layer}")));
        stages.push(format!("vision.{camera}.output"));
        stages.push(format!("connector.{camera}"));
    }
    stages.push("prefix.embeddings".to_owned());
    for layer in 0..size.layers {
        let of = |part: &str| format!("text.layers.{layer}{part}");
        stages.extend([of(".key"), of(".value"), of("")]);
    }
    for step in 0..10 {
        stages.extend([format!("steps.{step}.x"), format!("steps.{step}.suffix")]);
        stages.extend((0..size.layers).map(|layer| format!("steps.{step}.layers.{layer}")));
        stages.push(format!("steps.{step}.velocity"));
    }
    stages
}

fn is_after(stage: &str, layer: usize) -> bool {
    let own =
        stage.strip_prefix("text.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    stage.starts_with("steps.")
        || own.is_some_and(|own| own > layer)
        || stage == format!("text.layers.{layer}")
}

const STEPS: usize = 50;

fn action_space(precision: Precision) -> Evidence {
    let joints = 6;
    let expected = trajectory(joints);
    let error = 30.0 * noise(precision);
    let got: Vec<f32> =
        expected.iter().enumerate().map(|(i, v)| v + error * (i as f32 * 0.61).sin()).collect();
    let mut evidence = Evidence::default();
    let chunks = |values| Chunks { values, steps: STEPS, joints };
    evidence.compare_joints(precision, chunks(&expected), chunks(&got));
    evidence.traces.push(Trace {
        case: "two_cameras".to_owned(),
        joints,
        unit: "deg".to_owned(),
        expected,
        got,
    });
    evidence
}

fn trajectory(joints: usize) -> Vec<f32> {
    (0..STEPS * joints)
        .map(|i| ((i / joints) as f32, (i % joints) as f32))
        .map(|(step, joint)| 25.0 * (step * 0.06 * (1.0 + joint * 0.4) + joint).sin() + 10.0 * joint - 20.0)
        .collect()
}

fn check(tier: Tier, name: &str, precision: Precision, evidence: Evidence) -> CheckReport {
    CheckReport {
        tier,
        name: name.to_owned(),
        precision: precision.to_string(),
        status: if evidence.holds() { Status::Passed } else { Status::Failed },
        reasons: evidence.failures,
        notes: evidence.notes,
        wall_s: 0.02,
        measurements: evidence.measurements,
        joints: evidence.joints,
        traces: evidence.traces,
    }
}

/// What can go wrong with a backend, once each.
fn break_some(backend: &mut BackendReport) {
    let precision = Precision::F32;
    let find = |backend: &mut BackendReport, name: &str| -> usize {
        backend.checks.iter().position(|check| check.name == name).expect("a check of the sample")
    };
    let linear = find(backend, "linear_one_row");
    let mut evidence = Evidence::default();
    compare(&mut evidence, "result", (Class::Product, precision), 0.1);
    evidence.failures.push(format!("the device said {HOSTILE}"));
    backend.checks[linear] = check(Tier::Op, "linear_one_row", precision, evidence);

    let rope = find(backend, "rope");
    backend.checks[rope] = check(Tier::Op, "rope", precision, Evidence::default());
    backend.checks[rope].status = Status::Unsupported;
    backend.checks[rope].reasons = vec!["no rotation".to_owned()];

    let norm = find(backend, "layer_norm");
    backend.checks[norm].status = Status::ExpectedFailure;
    backend.checks[norm].reasons = vec!["rounds to zero, to be fixed with the next firmware".to_owned()];

    let moved = find(backend, "slice_rows");
    backend.checks[moved].status = Status::UnexpectedPass;
    backend.checks[moved].reasons = vec!["it holds now: remove the expectation".to_owned()];

    // A NaN from some step on, and a stage that was not compared.
    let free = find(backend, "free_two_cameras");
    let mut evidence = Evidence::default();
    compare(&mut evidence, "steps.7.velocity", (Class::StageFree, precision), f32::NAN);
    backend.checks[free].reasons.extend(evidence.failures);
    backend.checks[free].measurements.extend(evidence.measurements);
    let forced = find(backend, "forced_two_cameras");
    backend.checks[forced].measurements.retain(|measurement| !measurement.what.ends_with(".output"));

    // One joint's actions are too large, another's break off for five steps.
    let actions = find(backend, "every_joint");
    let trace = &mut backend.checks[actions].traces[0];
    for (step, action) in trace.got.chunks_mut(6).enumerate() {
        action[4] *= 1.2;
        if (20..25).contains(&step) {
            action[5] = f32::NAN;
        }
    }
    let trace = trace.clone();
    let mut evidence = Evidence { traces: vec![trace.clone(), aloha()], ..Evidence::default() };
    let chunks = |values| Chunks { values, steps: STEPS, joints: 6 };
    evidence.compare_joints(precision, chunks(&trace.expected), chunks(&trace.got));
    backend.checks[actions] = check(Tier::ActionSpace, "every_joint", precision, evidence);
}

/// Two arms of seven joints.
fn aloha() -> Trace {
    let expected: Vec<f32> = trajectory(14).iter().map(|degrees| degrees.to_radians()).collect();
    let got = expected.iter().map(|value| value + 2e-7).collect();
    Trace { case: "aloha".to_owned(), joints: 14, unit: "rad".to_owned(), expected, got }
}

fn case(name: &str, seed: u64) -> CaseReport {
    let hash = |salt: u64| format!("{:016x}", (seed + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(4);
    CaseReport {
        name: name.to_owned(),
        size: "tiny".to_owned(),
        seed,
        model_sha256: hash(1),
        golden_sha256: hash(2),
        lerobot: "0.4.0".to_owned(),
        torch: "2.8.0+cpu".to_owned(),
    }
}

/// LeRobot, a backend that does as well, its control, and an emulated one that does worse.
fn behaviour() -> Behaviour {
    let rate = |successes: usize, attempts: usize| {
        let share = successes as f64 / attempts as f64;
        Rate { successes, attempts, interval: ((share - 0.1).max(0.0), (share + 0.1).min(1.0)) }
    };
    let row = |label: &str, condition: Condition, successes: usize| BehaviourRow {
        label: label.to_owned(),
        condition,
        device: "Example Processor 7000".to_owned(),
        emulated: None,
        precision: "f32".to_owned(),
        checkpoint: None,
        periods: (0..40).map(|seed| (seed < successes).then_some(30 + seed)).collect(),
        batch: 50,
        overall: rate(successes, 40),
        reach: rate(successes / 3, 13),
        push: rate(successes - successes / 3, 27),
        pairs: None,
        actions: None,
        control_met: (condition == Condition::Swapped).then_some(true),
        notices: Vec::new(),
        failed: None,
        wall_s: Some(12.5),
    };
    let distribution = |count: usize, scale: f64| Distribution {
        count,
        mean: 1.5 * scale,
        median: scale,
        p95: 4.0 * scale,
        max: 40.0 * scale,
    };
    let errors = |scale: f64| ActionErrors {
        episodes: 20,
        moments: 131,
        velocity_cm_s: distribution(2096, scale),
        press: distribution(1048, scale),
        press_flips: 1,
    };
    let mut rows = vec![
        row("LeRobot", Condition::Normal, 39),
        row("cpu", Condition::Normal, 39),
        row("cpu", Condition::Swapped, 2),
        row(&format!("sim {HOSTILE}"), Condition::Normal, 31),
    ];
    rows[1].pairs = Some(Pairs { lost: Vec::new(), won: Vec::new(), identical: 40, p: 1.0, p_holm: 1.0 });
    rows[1].actions = Some(errors(4e-7));
    rows[3].emulated = Some(EMULATOR.to_owned());
    rows[3].pairs = Some(Pairs {
        lost: (31..39).collect(),
        won: Vec::new(),
        identical: 32,
        p: 2.0 / 256.0,
        p_holm: 4.0 / 256.0,
    });
    rows[3].actions = Some(errors(0.02));
    Behaviour {
        kind: BEHAVIOUR_KIND.to_owned(),
        format: BEHAVIOUR_FORMAT,
        version: "0.1.0".to_owned(),
        started: "2026-01-31T12:00:00Z".to_owned(),
        wall_s: 62.0,
        checkpoint: "assets/mini".to_owned(),
        checkpoint_sha256: "ab".repeat(32),
        first_seed: 0,
        episodes: 40,
        lerobot: LeRobotRun {
            lerobot: "0.6.1".to_owned(),
            torch: "2.8.0".to_owned(),
            recorded: true,
            threads: None,
        },
        notes: vec![format!("a note {HOSTILE}")],
        rows,
    }
}

fn mutants() -> MutantsReport {
    let mutant = |name: &str, defect: &str, pcc: f64| MutantReport {
        name: name.to_owned(),
        defect: defect.to_owned(),
        killed_by: [Tier::Stage, Tier::EndToEnd]
            .map(|tier| Kill {
                tier,
                check: "free_two_cameras".to_owned(),
                message: "text.layers.0: NMSE 0.09000 (at most 1.0e-10)".to_owned(),
            })
            .into(),
        pcc,
        missed_by_pcc: pcc >= 0.99,
    };
    MutantsReport {
        backend: "cpu".to_owned(),
        pcc_gate: 0.99,
        mutants: vec![
            mutant("actions_scaled", "Every action is 1.3 times as large.", 1.0),
            mutant("cameras_swapped", "The first camera’s image is taken for the second’s.", 0.83),
            mutant("bias_dropped", "The bias of one projection is left out.", 0.9993),
        ],
    }
}
