//! The policy of `assets/mini` at its task, beside what LeRobot did with it: the recorded results, so without Python.

use smolvla_conformance::report::Condition;
use smolvla_conformance::rollout::{
    Contestant, Recording, attempts, checkpoint_sha256, compare, episodes, finished, mini_checkpoint,
    mini_recording, replayed,
};
use smolvla_tabletop::Ours;

/// Episodes of every test.
const EPISODES: usize = 20;

/// Largest difference of a velocity from LeRobot's, in cm/s, on the same observation and noise: the suite's limit for f32,
/// 3e-5 of a normalised action (docs/numerics.md), in the units of this policy, whose velocities have a standard
/// deviation of up to 9.2 cm/s. In closed loop no such limit holds: a difference grows with every picture.
const SINGLE_CM_S: f64 = 3e-5 * 9.2;

/// Episodes that take as many periods as LeRobot's, at least: the last digits of an action may decide whether a block
/// has arrived in this period or the next. Whether it arrives at all is the same in every episode.
const SAME_PERIODS: usize = 18;

fn recording() -> Recording {
    Recording::open(&mini_recording()).unwrap()
}

fn cpu() -> Ours {
    Contestant::open("cpu").unwrap().load(&mini_checkpoint(), EPISODES).unwrap()
}

#[test]
fn recording_is_of_the_checkpoint() {
    recording().check(&checkpoint_sha256(&mini_checkpoint()).unwrap()).unwrap();
}

#[test]
fn cpu_ends_every_episode_as_lerobot_does() {
    let recording = recording();
    let attempts = attempts(&mut cpu(), &episodes(0, EPISODES), Condition::Normal, "cpu").unwrap();
    let ended: Vec<_> = attempts.iter().map(finished).collect();
    let expected = recording.ended(0, EPISODES).unwrap();
    let succeeded = |periods: &[Option<usize>]| periods.iter().map(Option::is_some).collect::<Vec<_>>();
    assert_eq!(succeeded(&ended), succeeded(expected));
    let same = ended.iter().zip(expected).filter(|(own, lerobot)| own == lerobot).count();
    assert!(same >= SAME_PERIODS, "{same} of {EPISODES}: {ended:?} beside {expected:?}");
}

#[test]
fn cpu_predicts_what_lerobot_did_on_its_own_observations() {
    let seen = replayed(&recording(), &episodes(0, EPISODES)).unwrap();
    let errors = compare(&mut cpu(), &seen).unwrap().unwrap();
    assert_eq!((errors.episodes, errors.press_flips), (EPISODES, 0));
    assert!(errors.velocity_cm_s.max <= SINGLE_CM_S, "{errors:?}");
}

#[test]
fn another_instruction_leads_elsewhere() {
    let attempts = attempts(&mut cpu(), &episodes(0, EPISODES), Condition::Swapped, "cpu").unwrap();
    let succeeded = attempts.iter().filter_map(finished).count();
    assert!(succeeded <= EPISODES / 5, "{succeeded} of {EPISODES} succeed though told another instruction");
}
