//! Aloha's joint conventions (`adapt_to_pi_aloha`).
//!
//! The pre-training data flips four joints and measures the two grippers as angles, while Aloha's runtime
//! reports gripper positions along a line. Both functions work on normalised values, as LeRobot does.

use crate::{Error, Result};

/// Joints of both arms, grippers included; further columns are left alone.
pub(crate) const WIDTH: usize = 14;
const FLIPPED_JOINTS: [usize; 4] = [1, 2, 8, 9];
const GRIPPERS: [usize; 2] = [6, 13];

/// Linear gripper positions in metres, closed and open.
const GRIPPER_LINEAR: (f32, f32) = (0.01844, 0.05800);
/// Gripper angles of the pre-training data in radians, measured on a Trossen robot.
const GRIPPER_ANGULAR: (f32, f32) = (0.4, 1.5);
/// Gripper joint angles of Aloha in radians, closed and open.
const GRIPPER_JOINT: (f32, f32) = (-0.6213, 1.4910);
/// Of the gripper's linkage, in metres. f64 because their squares are taken before rounding to f32.
const ARM_LENGTH: f64 = 0.036;
const HORN_RADIUS: f64 = 0.022;

/// Converts one normalised state to the conventions of the pre-training data, in place. `state: [≥ 14]`.
///
/// # Errors
/// [`Error::Input`] when the state has fewer than 14 elements.
pub fn decode_state(state: &mut [f32]) -> Result<()> {
    flip_joints("state", state)?;
    for gripper in GRIPPERS {
        state[gripper] = gripper_to_angular(state[gripper]);
    }
    Ok(())
}

/// Converts one row of predicted actions back to Aloha's conventions, in place. `actions: [≥ 14]`.
///
/// # Errors
/// [`Error::Input`] when the row has fewer than 14 elements.
pub fn encode_actions(actions: &mut [f32]) -> Result<()> {
    flip_joints("action", actions)?;
    for gripper in GRIPPERS {
        actions[gripper] = to_unit(from_unit(actions[gripper], GRIPPER_ANGULAR), GRIPPER_JOINT);
    }
    Ok(())
}

fn flip_joints(field: &str, values: &mut [f32]) -> Result<()> {
    if values.len() < WIDTH {
        return Err(Error::input(
            field,
            format!("{} values; adapt_to_pi_aloha needs the {WIDTH} joints of two arms", values.len()),
        ));
    }
    for joint in FLIPPED_JOINTS {
        values[joint] = -values[joint];
    }
    Ok(())
}

fn gripper_to_angular(value: f32) -> f32 {
    let position = from_unit(value, GRIPPER_LINEAR);
    let horn_squared = (HORN_RADIUS * HORN_RADIUS) as f32;
    let arm_squared = (ARM_LENGTH * ARM_LENGTH) as f32;
    let sine = (horn_squared + position * position - arm_squared) / ((2.0 * HORN_RADIUS) as f32 * position);
    to_unit(sine.clamp(-1.0, 1.0).asin(), GRIPPER_ANGULAR)
}

fn to_unit(value: f32, (low, high): (f32, f32)) -> f32 {
    (value - low) / (high - low)
}

fn from_unit(value: f32, (low, high): (f32, f32)) -> f32 {
    value * (high - low) + low
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `aloha_gripper_to_angular` and `aloha_gripper_from_angular` of LeRobot 0.6.1.
    const GRIPPER_CASES: [(f32, f32, f32); 6] = [
        (-1.0, 0.004_323_856_4, -0.037_258),
        (0.0, -0.928_013_1, 0.483_501_4),
        (0.25, -0.370_499_9, 0.613_691_2),
        (0.5, -0.003_582_158, 0.743_881_1),
        (1.0, 1.064_360_4, 1.004_260_8),
        (3.0, 1.064_360_4, 2.045_779_7),
    ];

    #[test]
    fn grippers_match_lerobot() {
        for (value, state, action) in GRIPPER_CASES {
            let mut decoded = [value; WIDTH];
            decode_state(&mut decoded).unwrap();
            let mut encoded = [value; WIDTH];
            encode_actions(&mut encoded).unwrap();
            for gripper in GRIPPERS {
                assert!((decoded[gripper] - state).abs() <= 2e-6, "{value}: {} != {state}", decoded[gripper]);
                assert!(
                    (encoded[gripper] - action).abs() <= 1e-6,
                    "{value}: {} != {action}",
                    encoded[gripper]
                );
            }
        }
    }

    #[test]
    fn joints_flip_both_ways_and_extra_columns_stay() {
        let mut row = [2.0; WIDTH + 1];
        encode_actions(&mut row).unwrap();
        let flipped: Vec<_> = (0..=WIDTH).filter(|&i| row[i] == -2.0).collect();
        assert_eq!(flipped, FLIPPED_JOINTS);
        assert_eq!(row[WIDTH], 2.0);
    }

    #[test]
    fn narrow_state_is_refused() {
        let error = decode_state(&mut [0.0; 13]).unwrap_err();
        assert_eq!(error.to_string(), "state: 13 values; adapt_to_pi_aloha needs the 14 joints of two arms");
    }
}
