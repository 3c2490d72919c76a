//! The policy of `assets/mini` at its task, beside what LeRobot did with it: the recorded results, so without Python.

use smolvla_conformance::report::Condition;
use smolvla_conformance::rollout::{
    Contestant, Recording, attempts, checkpoint_sha256, compare, control_met, episodes, finished,
    mini_checkpoint, mini_recording, rate, replayed,
};
use smolvla_tabletop::{Episode, PolicyPredictor, Split};

/// Episodes of most tests; LeRobot succeeds in all of them.
const EPISODES: usize = 20;

/// Largest difference of a velocity from LeRobot's, in cm/s, on the same observation and noise: the suite's limit for f32,
/// 3e-5 of a normalised action (docs/numerics.md), in the units of this policy, whose velocities have a standard
/// deviation of up to 9.2 cm/s. In closed loop no such limit holds: a difference grows with every picture.
const SINGLE_CM_S: f64 = 3e-5 * 9.2;

/// Episodes that take as many periods as LeRobot's, at least: the last digits of an action may decide whether a block
/// has arrived in this period or the next. Measured: all 20 (499 of 500).
const SAME_PERIODS: usize = 18;

/// Episodes that LeRobot fails and int8 may finish, or the other way round, of the first [`EPISODES`] and the
/// [`LEROBOT_FAILS`]. Measured: 5. Half of these episodes are at the margin by choice, and which of them rounding decides
/// differs from one set of instructions to another.
const INT8_DIFFER: usize = 8;

/// Episodes that LeRobot fails, of its 500.
const LEROBOT_FAILS: usize = 21;

fn recording() -> Recording {
    Recording::open(&mini_recording()).unwrap()
}

fn policy(contestant: &str) -> PolicyPredictor {
    Contestant::open(contestant).unwrap().load(&mini_checkpoint(), EPISODES).unwrap().policy
}

/// Whether each episode succeeds.
fn ends(contestant: &str, episodes: &[Episode], condition: Condition) -> Vec<bool> {
    let attempts = attempts(&mut policy(contestant), episodes, condition, contestant).unwrap();
    attempts.iter().map(|attempt| attempt.outcome.is_success()).collect()
}

/// Those that LeRobot fails.
fn failed_by_lerobot(recording: &Recording) -> Vec<Episode> {
    let seeds = recording.periods.iter().enumerate().filter(|(_, periods)| periods.is_none());
    seeds.map(|(seed, _)| Episode::new(Split::Evaluation, seed as u64)).collect()
}

#[test]
fn recording_is_of_the_checkpoint() {
    recording().check(&checkpoint_sha256(&mini_checkpoint()).unwrap()).unwrap();
}

#[test]
fn cpu_succeeds_where_lerobot_does_and_after_as_many_periods() {
    let recording = recording();
    let attempts = attempts(&mut policy("cpu"), &episodes(0, EPISODES), Condition::Normal, "cpu").unwrap();
    let ended: Vec<_> = attempts.iter().map(finished).collect();
    let expected = recording.ended(0, EPISODES).unwrap();
    assert!(expected.iter().all(Option::is_some) && ended.iter().all(Option::is_some), "{ended:?}");
    let same = ended.iter().zip(expected).filter(|(own, lerobot)| own == lerobot).count();
    assert!(same >= SAME_PERIODS, "{same} of {EPISODES}: {ended:?} beside {expected:?}");
}

#[test]
fn cpu_fails_where_lerobot_does() {
    let failed = failed_by_lerobot(&recording());
    assert_eq!(failed.len(), LEROBOT_FAILS);
    let succeeded = ends("cpu", &failed, Condition::Normal).iter().filter(|success| **success).count();
    // Measured: none. These episodes are at the margin, where one in twenty may end otherwise by rounding.
    assert!(succeeded <= 1, "{succeeded} of {LEROBOT_FAILS} succeed");
}

#[test]
fn int8_ends_most_episodes_as_lerobot_does() {
    let mut all = episodes(0, EPISODES);
    all.extend(failed_by_lerobot(&recording()));
    let ended = ends("cpu:int8", &all, Condition::Normal);
    let lerobot = (0..all.len()).map(|index| index < EPISODES);
    let differ = ended.iter().zip(lerobot).filter(|(own, lerobot)| *own != lerobot).count();
    assert!(differ <= INT8_DIFFER, "{differ} of {}: {ended:?}", all.len());
}

#[test]
fn cpu_predicts_what_lerobot_did_on_its_own_observations() {
    let seen = replayed(&recording(), &episodes(0, EPISODES)).unwrap();
    let errors = compare(&mut policy("cpu"), &seen).unwrap().unwrap();
    assert_eq!((errors.episodes, errors.press_flips), (EPISODES, 0));
    assert!(errors.velocity_cm_s.max <= SINGLE_CM_S, "{errors:?}");
}

#[test]
fn controls_are_met() {
    let rate_under = |condition| {
        let ended = ends("cpu", &episodes(0, EPISODES), condition);
        rate(ended.iter().filter(|success| **success).count(), EPISODES)
    };
    let normal = rate_under(Condition::Normal);
    for condition in [Condition::Swapped, Condition::Frozen] {
        let control = rate_under(condition);
        assert_eq!(control_met(condition, &normal, &control), Some(true), "{condition:?}: {control:?}");
    }
}
