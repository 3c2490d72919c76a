use clap::CommandFactory;
use smolvla_tabletop::{ACTION_DIM, CHUNK, Instruction, Moment, Predictor, expert};

use super::*;
use crate::report::{ActionErrors, BehaviourRow, Condition, LeRobotRun, Pairs};

/// Does what the expert would, a little wrong.
struct Fake {
    offset: f32,
}

impl Predictor for Fake {
    type Error = Failure;

    fn predict(&mut self, moments: &[Moment<'_>]) -> Result<Vec<Vec<f32>>, Failure> {
        let plan = |moment: &Moment<'_>| {
            let told =
                Instruction::parse(&moment.observation.task).map_err(|error| Failure(error.to_string()))?;
            let mut chunk = expert::plan(moment.world, told.goal, CHUNK).concat();
            for action in chunk.chunks_mut(ACTION_DIM) {
                action[0] += self.offset;
            }
            Ok(chunk)
        };
        moments.iter().map(plan).collect()
    }

    fn noise_len(&self) -> usize {
        64
    }

    fn n_action_steps(&self) -> usize {
        8
    }
}

fn place() -> Place {
    Place { device: "a fake".to_owned(), emulated: Some("nothing".to_owned()), precision: "f32".to_owned() }
}

fn who() -> LeRobotRun {
    LeRobotRun { lerobot: "0".to_owned(), torch: "0".to_owned(), recorded: true, threads: None }
}

/// A run of the fake as LeRobot, and of another fake beside it.
fn behaviour() -> Behaviour {
    let episodes = episodes(0, 12);
    let under = |condition| {
        let attempts = attempts(&mut Fake { offset: 0.0 }, &episodes, condition, "fake").unwrap();
        row("fake", condition, &place(), &episodes, attempts.iter().map(finished).collect())
    };
    let mut rows = vec![under(Condition::Normal), under(Condition::Normal), under(Condition::Swapped)];
    rows[1].pairs = Some(pairs(&episodes, &rows[0].periods, &rows[1].periods));
    Behaviour {
        kind: BEHAVIOUR_KIND.to_owned(),
        format: BEHAVIOUR_FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: "2026-01-31T12:00:00Z".to_owned(),
        wall_s: 1.5,
        checkpoint: "a|b".to_owned(),
        checkpoint_sha256: "abc".to_owned(),
        first_seed: 0,
        episodes: 12,
        lerobot: who(),
        notes: vec!["a note".to_owned()],
        rows,
    }
}

#[test]
fn arguments_are_consistent() {
    Arguments::command().debug_assert();
    let arguments = Arguments::parse_from(["rollout", "--backends", "cpu,cpu:int8"]);
    assert_eq!(arguments.backends, ["cpu", "cpu:int8"]);
}

#[test]
fn contestants_of_one_name_are_refused() {
    let arguments = Arguments::parse_from(["rollout", "--backends", "reference,reference"]);
    assert!(contestants(&arguments).err().unwrap().contains("two contestants"));
}

#[test]
fn a_policy_that_listens_succeeds_and_fails_when_told_otherwise() {
    let behaviour = behaviour();
    let [plain, again, swapped] = &behaviour.rows[..] else { panic!("three rows") };
    assert!(plain.overall.successes >= 11, "{:?}", plain.overall);
    assert_eq!(plain.reach.attempts + plain.push.attempts, 12);
    assert!(swapped.overall.successes <= 1, "{:?}", swapped.overall);
    let pairs = again.pairs.as_ref().unwrap();
    assert_eq!((pairs.identical, pairs.p, pairs.lost.len(), pairs.won.len()), (12, 1.0, 0, 0));
}

#[test]
fn values_of_p_are_corrected_for_the_number_of_rows() {
    let mut rows = behaviour().rows;
    rows.truncate(1);
    let tested = |p: f64| BehaviourRow {
        pairs: Some(Pairs { lost: Vec::new(), won: Vec::new(), identical: 0, p, p_holm: p }),
        ..rows[0].clone()
    };
    // Holm, Scandinavian Journal of Statistics 6 (1979): the smallest of m times m, the next times m - 1, never decreasing.
    let mut rows = vec![rows[0].clone(), tested(0.03), tested(0.01), tested(0.02), tested(0.6)];
    correct(&mut rows);
    let corrected: Vec<f64> = rows.iter().filter_map(|row| Some(row.pairs.as_ref()?.p_holm)).collect();
    for (found, expected) in corrected.iter().zip([0.06, 0.04, 0.06, 0.6]) {
        assert!((found - expected).abs() < 1e-12, "{corrected:?}");
    }
}

#[test]
fn a_policy_with_other_chunks_than_lerobot_s_is_no_pair_and_refused() {
    let episodes = episodes(0, 2);
    let checkpoint = mini_checkpoint();
    let mut baseline = Baseline {
        checkpoint: &checkpoint,
        episodes: &episodes,
        periods: &[None; 2],
        kept: &[],
        n_action_steps: 4,
        noise_len: 64,
    };
    let reason = |baseline: &Baseline<'_>| {
        let rows = study(Contestant::open("reference").unwrap(), true, baseline, 2);
        assert_eq!(rows.len(), 1);
        rows[0].failed.clone().unwrap_or_default()
    };
    assert!(reason(&baseline).contains("carries out 8 actions"), "{}", reason(&baseline));
    (baseline.n_action_steps, baseline.noise_len) = (8, 48);
    assert!(reason(&baseline).contains("64 numbers of noise"), "{}", reason(&baseline));
}

#[test]
fn results_that_contradict_themselves_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rollout.json");
    let refused = |change: &dyn Fn(&mut Behaviour), reason: &str| {
        let mut broken = behaviour();
        change(&mut broken);
        std::fs::write(&file, broken.to_json().unwrap()).unwrap();
        let error = Behaviour::open(&file).unwrap_err();
        assert!(error.contains("rollout.json") && error.contains(reason), "{reason}: {error}");
    };
    refused(&|it| it.first_seed = u64::MAX, "from seed");
    refused(&|it| it.episodes += 1, "the run 13");
    refused(&|it| it.rows[0].overall.successes = 13, "says 13 of 12");
    refused(&|it| it.rows[1].periods.truncate(11), "of 11");
    refused(&|it| it.rows[0].push.attempts += 1, "reach and push");
    refused(&|it| it.rows[0].overall.interval.1 = 1.5, "interval");
    refused(&|it| it.rows[0].overall.interval = (0.1, 0.2), "interval");
}

#[test]
fn pairs_name_the_seeds_that_differ() {
    let episodes = episodes(7, 4);
    let pairs = pairs(&episodes, &[Some(9), Some(9), None, None], &[Some(9), None, Some(8), None]);
    assert_eq!((pairs.lost, pairs.won, pairs.identical), (vec![8], vec![9], 2));
}

#[test]
fn recorded_actions_lead_to_the_same_observations() {
    let all = episodes(0, 5);
    let mut fake = Fake { offset: 0.0 };
    let mut keeper = PredictionKeeper::new(&mut fake, 5);
    let attempts = attempts(&mut keeper, &all, Condition::Normal, "fake").unwrap();
    let live = keeper.kept;
    let recording = Recording::of(&attempts, &live, who(), "abc".to_owned(), 8, 64).unwrap();
    let again = replayed(&recording, &all).unwrap();
    let errors = |offset: f32, kept: &[KeptPrediction]| compare(&mut Fake { offset }, kept).unwrap().unwrap();
    assert_eq!(live.len(), again.len());
    let exact: ActionErrors = errors(0.0, &again);
    assert_eq!((exact.episodes, exact.velocity_cm_s.max, exact.press_flips), (5, 0.0, 0));
    // Half of the velocities are off by a quarter.
    let off = errors(0.25, &live);
    assert_eq!((off.velocity_cm_s.median, off.press.max), (0.0, 0.0));
    assert!((off.velocity_cm_s.p95 - 0.25).abs() < 1e-5, "{off:?}");
    assert_eq!(errors(0.0, &replayed(&recording, &episodes(2, 3)).unwrap()).velocity_cm_s.max, 0.0);
}

#[test]
fn recordings_of_another_table_are_refused() {
    let all = episodes(0, 5);
    let mut fake = Fake { offset: 0.0 };
    let mut keeper = PredictionKeeper::new(&mut fake, 5);
    let attempts = attempts(&mut keeper, &all, Condition::Normal, "fake").unwrap();
    let recording = Recording::of(&attempts, &keeper.kept, who(), "abc".to_owned(), 8, 64).unwrap();

    let ends = |change: &dyn Fn(&mut Recording)| {
        let mut other = recording.clone();
        change(&mut other);
        replayed(&other, &all).unwrap_err()
    };
    let error = ends(&|it| it.periods[3] = Some(1));
    assert!(error.contains("at seed 3 end otherwise"), "{error}");
    let error = ends(&|it| it.seen_sha256.swap(1, 2));
    assert!(error.contains("at seed 1 go with other pictures"), "{error}");
    // A policy with more noise sees other noise.
    let error = ends(&|it| it.noise_len += 1);
    assert!(error.contains("at seed 0 go with other pictures, states or noise"), "{error}");
}

#[test]
fn a_contestant_that_fails_leaves_a_row_that_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let episodes = episodes(0, 2);
    let baseline = Baseline {
        checkpoint: folder.path(),
        episodes: &episodes,
        periods: &[None; 2],
        kept: &[],
        n_action_steps: 8,
        noise_len: 64,
    };
    let rows = study(Contestant::open("reference").unwrap(), true, &baseline, 1);
    let [BehaviourRow { label, failed: Some(reason), periods, .. }] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((label.as_str(), periods.len()), ("reference", 0));
    assert!(reason.contains("config.json"), "{reason}");
}

#[test]
fn arguments_that_would_be_ignored_are_refused() {
    let refused = |words: &str| Arguments::try_parse_from(words.split(' ')).err();
    for other in [
        "--checkpoint a",
        "--backends cpu",
        "--also a=cpu@b",
        "--first-seed 0",
        "--controls",
        "--all-controls",
        "--shadow 20",
        "--batch 50",
        "--out a",
        "--recorded",
    ] {
        let error = refused(&format!("rollout --record {other}")).unwrap().to_string();
        assert!(error.contains("cannot be used with"), "{error}");
    }
    assert!(refused("rollout --record --python a --threads 2 --episodes 500").is_none());
    assert!(refused("rollout --recorded --threads 2").is_some());
    assert!(refused("rollout --episodes 100001").is_some());
    let error = perform(&Arguments::parse_from(["rollout", "--record", "--episodes", "39"]), &mut io::sink());
    assert!(error.unwrap_err().contains("40 episodes"));
}

#[test]
fn files_hold_what_was_found() {
    let folder = tempfile::tempdir().unwrap();
    let behaviour = behaviour();
    write(folder.path(), &behaviour).unwrap();
    let file = folder.path().join("rollout.json");
    assert_eq!(Behaviour::open(&file).unwrap(), behaviour);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.lines().any(|line| line.contains("\"periods\": [") && line.ends_with("],")), "{text}");
    let text = std::fs::read_to_string(folder.path().join("rollout.md")).unwrap();
    for fact in
        ["a\\|b", "fake (**EMULATED**)", "emulated by nothing", "| swapped |", "12 of 12 episodes end as"]
    {
        assert!(text.contains(fact), "{fact:?} is missing in:\n{text}");
    }
    assert!(text.contains("- a note"), "{text}");
    let text = std::fs::read_to_string(folder.path().join("rollout.svg")).unwrap();
    assert!(text.starts_with("<svg") && text.contains("EMULATED") && text.contains("12/12"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "something was left aside");
}
