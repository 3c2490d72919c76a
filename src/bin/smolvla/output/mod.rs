//! The forms a prediction is printed in.

mod csv;
mod json;
mod plot;
mod summary;
mod table;

pub(crate) use csv::{csv, quoted};
pub(crate) use json::{json, to_json};
pub(crate) use plot::plot;
pub(crate) use summary::{device_and_precision, duration, summary};
pub(crate) use table::{excerpt, table};

#[cfg(test)]
mod sample {
    use std::time::Duration;

    use smolvla::policy::{ActionChunk, ActionUnits, PolicyInfo, StageTiming};
    use smolvla::{Device, Precision};

    use crate::prediction::Prediction;

    /// A chunk of `chunk_size` actions of two joints, with known numbers.
    pub(super) fn prediction(chunk_size: usize) -> Prediction {
        let capabilities = Device::open("reference").unwrap().capabilities();
        let actions: Vec<f32> = (0..chunk_size * 2).map(|index| index as f32 / 2.0 - 1.0).collect();
        Prediction {
            checkpoint_name: "my_policy".to_owned(),
            task: "pick up the block".to_owned(),
            cameras: vec!["camera1".to_owned()],
            noise_seed: Some(7),
            joints: vec!["pan".to_owned(), "lift, \"fast\"".to_owned()],
            info: PolicyInfo {
                capabilities,
                precision: Precision::F32.into(),
                image_side: 512,
                cameras: vec!["observation.images.camera1".to_owned()],
                state_dim: 2,
                action_dim: 2,
                chunk_size,
                n_action_steps: chunk_size,
                num_steps: 10,
                units: ActionUnits::Dataset,
                notices: vec!["a notice".to_owned()],
            },
            chunk: ActionChunk {
                batch: 1,
                chunk_size,
                action_dim: 2,
                normalized: actions.iter().map(|value| value / 10.0).collect(),
                actions,
                units: ActionUnits::Dataset,
                steps: 10,
                prefix_tokens: 113,
                timings: vec![StageTiming { stage: "vision", elapsed: Duration::from_millis(1500) }],
                notices: vec!["another notice".to_owned()],
            },
            load: Duration::from_millis(250),
        }
    }
}
