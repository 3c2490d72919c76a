//! A prediction as one JSON object: everything the other forms show, and more digits.

use std::time::Duration;

use serde::Serialize;
use smolvla::PrecisionPlan;
use smolvla::backend::Execution;
use smolvla::policy::ActionUnits;

use crate::failure::Failure;
use crate::memory;
use crate::prediction::Prediction;

/// The object's fields, in order. Names are part of the command's interface.
#[derive(Serialize)]
struct Report<'a> {
    checkpoint: &'a str,
    task: &'a str,
    cameras: &'a [String],
    backend: &'a str,
    device: &'a str,
    /// `native` or `emulated`.
    execution: &'static str,
    /// What stands in for the device when it is emulated.
    emulated_by: Option<&'a str>,
    /// As people read it.
    precision: String,
    /// As `--precision` reads it from a file.
    precision_plan: &'a PrecisionPlan,
    /// `dataset` or `normalized`.
    units: &'static str,
    joints: &'a [String],
    steps: usize,
    noise_seed: Option<u64>,
    prefix_tokens: usize,
    /// `[step][joint]`, in `units`.
    actions: Vec<&'a [f32]>,
    /// `[step][joint]`, before un-normalisation.
    normalized: Vec<&'a [f32]>,
    load_ms: f64,
    stages: Vec<Stage>,
    total_ms: f64,
    peak_memory_bytes: Option<u64>,
    notices: Vec<&'a String>,
}

#[derive(Serialize)]
struct Stage {
    stage: &'static str,
    ms: f64,
}

/// The object, on one line, with a newline at its end.
pub(crate) fn json(prediction: &Prediction) -> Result<String, Failure> {
    let capabilities = &prediction.info.capabilities;
    let chunk = &prediction.chunk;
    let (execution, emulated_by) = match &capabilities.execution {
        Execution::Native => ("native", None),
        Execution::Emulated(by) => ("emulated", Some(by.as_str())),
        _ => ("other", None),
    };
    let stages = chunk.timings.iter();
    let report = Report {
        checkpoint: &prediction.checkpoint_name,
        task: &prediction.task,
        cameras: &prediction.cameras,
        backend: capabilities.backend,
        device: &capabilities.device,
        execution,
        emulated_by,
        precision: prediction.info.precision.to_string(),
        precision_plan: &prediction.info.precision,
        units: match chunk.units {
            ActionUnits::Dataset => "dataset",
            ActionUnits::Normalized => "normalized",
        },
        joints: &prediction.joints,
        steps: chunk.steps,
        noise_seed: prediction.noise_seed,
        prefix_tokens: chunk.prefix_tokens,
        actions: chunk.actions.chunks(chunk.action_dim).collect(),
        normalized: chunk.normalized.chunks(chunk.action_dim).collect(),
        load_ms: ms(prediction.load),
        stages: stages.map(|timing| Stage { stage: timing.stage, ms: ms(timing.elapsed) }).collect(),
        total_ms: ms(prediction.total()),
        peak_memory_bytes: memory::peak_bytes(),
        notices: prediction.notices().collect(),
    };
    line(serde_json::to_string(&report))
}

/// Any report as JSON, on several lines, with a newline at its end.
pub(crate) fn to_json(report: &impl Serialize) -> Result<String, Failure> {
    line(serde_json::to_string_pretty(report))
}

fn line(json: serde_json::Result<String>) -> Result<String, Failure> {
    let mut text = json.map_err(|error| Failure::internal(format!("cannot write JSON: {error}")))?;
    text.push('\n');
    Ok(text)
}

/// Milliseconds to the microsecond: what is beyond says nothing.
fn ms(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::output::sample;

    #[test]
    fn json_holds_every_action_and_how_it_came_about() {
        let value: Value = serde_json::from_str(&json(&sample::prediction(3)).unwrap()).unwrap();
        assert_eq!(value["actions"][2], serde_json::json!([1.0, 1.5]));
        assert_eq!(value["actions"].as_array().map(Vec::len), Some(3));
        assert_eq!((&value["backend"], &value["execution"]), (&"reference".into(), &"native".into()));
        assert_eq!(value["units"], "dataset");
        assert_eq!(value["noise_seed"], 7);
        assert_eq!(value["stages"][0]["ms"], 1500.0);
        assert_eq!(value["notices"], serde_json::json!(["a notice", "another notice"]));
    }
}
