//! Normalisation statistics like those of an SO-100 data set, in degrees.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize};

use crate::config::PolicyConfig;
use crate::{Error, Result};

/// Statistics of one joint.
struct Joint {
    mean: f32,
    std: f32,
    min: f32,
    max: f32,
    quantiles: [f32; 4],
}

/// Shoulder pan, shoulder lift, elbow flex, wrist flex, wrist roll, gripper; wider robots repeat them.
const JOINTS: [Joint; 6] = [
    joint(1.6, 26.9, -69.4, 78.2, [-53.1, -34.0, 37.4, 61.8]),
    joint(119.9, 53.4, 21.5, 197.2, [25.3, 38.1, 186.0, 194.1]),
    joint(109.8, 47.9, 19.1, 181.1, [24.8, 41.6, 170.4, 178.9]),
    joint(58.0, 36.7, -28.7, 104.1, [-19.4, 4.7, 97.2, 102.0]),
    joint(-12.7, 59.3, -134.8, 121.3, [-118.2, -91.5, 70.1, 108.3]),
    joint(14.0, 19.1, -0.3, 62.5, [0.1, 0.8, 43.9, 56.2]),
];

/// Mean, deviation and range of a colour, for policies that normalise images.
const COLOURS: [Joint; 3] = [
    joint(0.485, 0.229, 0.0, 1.0, [0.02, 0.1, 0.85, 0.98]),
    joint(0.456, 0.224, 0.0, 1.0, [0.02, 0.1, 0.82, 0.97]),
    joint(0.406, 0.225, 0.0, 1.0, [0.01, 0.1, 0.79, 0.97]),
];

const fn joint(mean: f32, std: f32, min: f32, max: f32, quantiles: [f32; 4]) -> Joint {
    Joint { mean, std, min, max, quantiles }
}

/// The state file of a normaliser: `<feature>.<statistic>` for state, actions and cameras.
pub(super) fn state_file(policy: &PolicyConfig) -> Result<Vec<u8>> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut add = |feature: &str, joints: &[&Joint], shape: Vec<usize>| {
        type Pick = fn(&Joint) -> f32;
        let statistics: [(&str, Pick); 8] = [
            ("mean", |joint| joint.mean),
            ("std", |joint| joint.std),
            ("min", |joint| joint.min),
            ("max", |joint| joint.max),
            ("q01", |joint| joint.quantiles[0]),
            ("q10", |joint| joint.quantiles[1]),
            ("q90", |joint| joint.quantiles[2]),
            ("q99", |joint| joint.quantiles[3]),
        ];
        for (statistic, pick) in statistics {
            let bytes = joints.iter().flat_map(|joint| pick(joint).to_le_bytes()).collect();
            tensors.push((format!("{feature}.{statistic}"), shape.clone(), bytes));
        }
    };
    for (feature, width) in [("observation.state", policy.state_dim()), ("action", policy.action_dim())] {
        let joints: Vec<&Joint> = JOINTS.iter().cycle().take(width).collect();
        add(feature, &joints, vec![width]);
    }
    for camera in policy.cameras() {
        add(camera, &COLOURS.each_ref(), vec![3, 1, 1]);
    }
    let damaged = |error: safetensors::SafeTensorError| Error::Corrupt {
        file: Path::new("the synthetic statistics").to_owned(),
        reason: error.to_string(),
    };
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(damaged)?;
    serialize(views, None::<HashMap<String, String>>).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_joint_is_ordered() {
        for joint in JOINTS.iter().chain(&COLOURS) {
            let [q01, q10, q90, q99] = joint.quantiles;
            let ascending = [joint.min, q01, q10, joint.mean, q90, q99, joint.max];
            assert!(ascending.is_sorted(), "{ascending:?}");
            assert!(joint.std > 0.0 && joint.std < joint.max - joint.min);
        }
    }
}
