//! What quantising did to layers and to actions.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use serde_json::json;

use super::digits::{ONE_DIGIT, TWO_DIGITS};
use super::{FORMAT, PLAN_FILE, QuantiseOptions};
use crate::backend::Precision;
use crate::checkpoint::Checkpoint;
use crate::policy::{ActionChunk, ActionUnits};
use crate::precision::PrecisionPlan;

/// What writes the folder.
pub(super) const WRITER: &str = concat!("smolvla ", env!("CARGO_PKG_VERSION"));

/// The name of the policy that is always measured.
pub(super) const SIMULATED: &str = "f32 with these weights and rounded activations";

/// What was quantised, how, and with what error.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The folder that was quantised.
    pub checkpoint: String,
    /// How.
    pub options: Options,
    /// Observations that the policy was calibrated and compared on.
    pub observations: usize,
    /// Bytes of the weights file that was quantised.
    pub bytes_before: usize,
    /// Bytes of the quantised weights file.
    pub bytes_after: usize,
    /// Every linear layer, in the order of the data's way through the graph.
    pub layers: Vec<LayerError>,
    /// The quantised policy's actions beside the f32 policy's: simulated, then on other devices.
    pub policies: Vec<PolicyError>,
}

/// The options that decide about layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Options {
    /// As [`QuantiseOptions::alpha`].
    pub alpha: f32,
    /// As [`QuantiseOptions::escape_above`].
    pub escape_above: f64,
    /// As [`QuantiseOptions::int4_below`].
    pub int4_below: Option<f64>,
    /// As [`QuantiseOptions::source`].
    pub calibration: String,
}

/// The error of one linear layer's product on the observations: mean squared, relative to the product's own.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LayerError {
    /// Its path in the graph.
    pub layer: String,
    /// Width of what goes in.
    pub inputs: usize,
    /// Width of what comes out.
    pub outputs: usize,
    /// Rows of activations that the errors are over.
    pub rows: usize,
    /// Whether factors went into the norm before it.
    pub smoothed: bool,
    /// With weights and activations in 8 bits.
    pub w8a8: f64,
    /// With weights in 8 bits and activations in 16.
    pub w8a16: f64,
    /// With weights in 4 bits and the activations that were chosen, where that was tried.
    pub w4: Option<f64>,
    /// Whether its activations get 16 bits.
    pub escape: bool,
    /// Whether its weights get 4 bits.
    pub int4: bool,
}

impl LayerError {
    /// The error in the form that was chosen.
    pub fn chosen(&self) -> f64 {
        match (self.int4, self.w4) {
            (true, Some(error)) => error,
            _ if self.escape => self.w8a16,
            _ => self.w8a8,
        }
    }

    /// The precision of the layer in the plan.
    pub fn precision(&self) -> Precision {
        if self.escape { Precision::Int8Weights } else { Precision::Int8 }
    }

    fn weights(&self) -> &'static str {
        if self.int4 { "int4" } else { "int8" }
    }
}

/// Actions of a quantised policy beside those of the f32 one.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PolicyError {
    /// What ran it.
    pub name: String,
    /// Whether the numbers below are in the network's own units rather than the training data's.
    pub normalized: bool,
    /// Every number of an action.
    pub joints: Vec<JointError>,
    /// Root mean square difference of all actions in the network's own units.
    pub rms_normalized: f64,
    /// Largest difference of all actions in the network's own units.
    pub max_normalized: f64,
}

/// The difference of one number of the actions.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct JointError {
    /// What it is called.
    pub joint: String,
    /// Root mean square difference.
    pub rms: f64,
    /// Largest difference.
    pub max: f64,
    /// Pearson's correlation; `None` where one of the two never changes.
    pub pcc: Option<f64>,
}

/// Mean squared difference relative to the mean square of what was expected.
pub(super) fn nmse(expected: &[f32], got: &[f32]) -> f64 {
    let error: f64 = expected.iter().zip(got).map(|(e, g)| (f64::from(*e) - f64::from(*g)).powi(2)).sum();
    let size: f64 = expected.iter().map(|e| f64::from(*e).powi(2)).sum();
    if error == 0.0 { 0.0 } else { error / size.max(f64::MIN_POSITIVE) }
}

/// Root mean square and largest difference.
fn difference(expected: &[f32], got: &[f32]) -> (f64, f64) {
    let differences = expected.iter().zip(got).map(|(e, g)| (f64::from(*e) - f64::from(*g)).abs());
    let (sum, max) = differences.fold((0.0, 0.0_f64), |(sum, max), d| (sum + d * d, max.max(d)));
    ((sum / expected.len().max(1) as f64).sqrt(), max)
}

fn correlation(a: &[f32], b: &[f32]) -> Option<f64> {
    let mean = |x: &[f32]| x.iter().map(|v| f64::from(*v)).sum::<f64>() / x.len().max(1) as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f64::from(*a) - mean_a, f64::from(*b) - mean_b);
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    (aa > 0.0 && bb > 0.0).then(|| ab / (aa * bb).sqrt())
}

impl PolicyError {
    pub(super) fn of(
        name: &str,
        joints: Option<&[String]>,
        expected: &[ActionChunk],
        got: &[ActionChunk],
    ) -> Self {
        let width = expected.first().map_or(0, |chunk| chunk.action_dim);
        let column = |chunks: &[ActionChunk], joint: usize| -> Vec<f32> {
            chunks.iter().flat_map(|chunk| chunk.actions.iter().skip(joint).step_by(width)).copied().collect()
        };
        let joints = (0..width).map(|joint| {
            let (expected, got) = (column(expected, joint), column(got, joint));
            let (rms, max) = difference(&expected, &got);
            let name = joints.and_then(|names| names.get(joint).cloned());
            let joint = name.unwrap_or_else(|| format!("action[{joint}]"));
            JointError { joint, rms, max, pcc: correlation(&expected, &got) }
        });
        let all = |chunks: &[ActionChunk]| -> Vec<f32> {
            chunks.iter().flat_map(|chunk| &chunk.normalized).copied().collect()
        };
        let (rms_normalized, max_normalized) = difference(&all(expected), &all(got));
        Self {
            name: name.to_owned(),
            normalized: expected.first().is_some_and(|chunk| chunk.units == ActionUnits::Normalized),
            joints: joints.collect(),
            rms_normalized,
            max_normalized,
        }
    }

    fn units(&self) -> &'static str {
        if self.normalized { "the network's own units" } else { "the units of the training data" }
    }
}

impl Report {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        observations: usize,
        options: &QuantiseOptions,
        layers: Vec<LayerError>,
        bytes_before: usize,
    ) -> Self {
        Self {
            checkpoint: checkpoint.folder.display().to_string(),
            options: Options {
                alpha: options.alpha,
                escape_above: options.escape_above,
                int4_below: options.int4_below,
                calibration: options.source.clone(),
            },
            observations,
            bytes_before,
            bytes_after: 0,
            layers,
            policies: Vec::new(),
        }
    }

    /// Layers that take the escape.
    pub fn escaped(&self) -> impl Iterator<Item = &LayerError> {
        self.layers.iter().filter(|layer| layer.escape)
    }

    /// The plan that goes with the weights.
    pub fn plan(&self) -> PrecisionPlan {
        self.escaped().fold(PrecisionPlan::new("quantised", Precision::Int8), |plan, layer| {
            let reason =
                format!("error {:.2e} with 8-bit activations, {:.2e} with 16", layer.w8a8, layer.w8a16);
            plan.with_rule(layer.layer.clone(), layer.precision(), reason)
        })
    }

    /// The largest integer of each layer's activations.
    pub(super) fn targets(&self) -> BTreeMap<String, i32> {
        let target = |layer: &LayerError| if layer.escape { TWO_DIGITS } else { ONE_DIGIT };
        self.layers.iter().map(|layer| (layer.layer.clone(), target(layer))).collect()
    }

    /// `quantisation.json`.
    pub(super) fn choices(&self) -> String {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| {
                json!({ "layer": layer.layer, "weights": layer.weights(), "precision": layer.precision() })
            })
            .collect();
        let value = json!({
            "format": FORMAT,
            "quantised_by": WRITER,
            "options": self.options,
            "observations": self.observations,
            "plan": PLAN_FILE,
            "layers": layers,
        });
        pretty(&value)
    }

    /// Everything, for programs.
    pub fn to_json(&self) -> String {
        pretty(self)
    }

    /// The layers of each kind (`expert.layers.*.down`) together, in the order of the graph: the kind, how many there
    /// are, how many escape, and the largest error with 8-bit activations, with 16-bit ones and as chosen.
    pub fn families(&self) -> Vec<(String, usize, usize, [f64; 3])> {
        let mut families: Vec<(String, usize, usize, [f64; 3])> = Vec::new();
        for layer in &self.layers {
            let kind = crate::precision::family(&layer.layer);
            let errors = [layer.w8a8, layer.w8a16, layer.chosen()];
            match families.iter_mut().find(|family| family.0 == kind) {
                Some((_, count, escaped, worst)) => {
                    *count += 1;
                    *escaped += usize::from(layer.escape);
                    worst.iter_mut().zip(errors).for_each(|(worst, error)| *worst = worst.max(error));
                }
                None => families.push((kind, 1, usize::from(layer.escape), errors)),
            }
        }
        families
    }

    /// Everything, for people, as Markdown.
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_markdown(&mut text);
        text
    }

    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        let Options { alpha, escape_above, int4_below, calibration } = &self.options;
        writeln!(text, "# Quantised checkpoint\n")?;
        writeln!(text, "Made by {WRITER} of `{}`.\n", self.checkpoint)?;
        writeln!(text, "| | |\n|---|---|")?;
        writeln!(text, "| calibration | {} observations: {calibration} |", self.observations)?;
        writeln!(text, "| smoothing | α = {alpha} |")?;
        writeln!(text, "| 16-bit activations | where the error with 8 bits is above {escape_above} |")?;
        match int4_below {
            Some(limit) => writeln!(text, "| 4-bit weights | where the error is below {limit} |")?,
            None => writeln!(text, "| 4-bit weights | none |")?,
        }
        writeln!(text, "| weights file | {} bytes, {} before |", self.bytes_after, self.bytes_before)?;
        writeln!(
            text,
            "\nErrors of layers are mean squared, relative to the mean square of the layer's product, on rows of"
        )?;
        writeln!(text, "activations kept from the observations. Attention itself is not rounded here.")?;
        for policy in &self.policies {
            writeln!(text, "\n## Actions: {}\n", policy.name)?;
            writeln!(text, "Against the f32 policy, in {}.\n", policy.units())?;
            writeln!(text, "| joint | RMS | largest | PCC |\n|---|---:|---:|---:|")?;
            for JointError { joint, rms, max, pcc } in &policy.joints {
                let pcc = pcc.map_or_else(|| "–".to_owned(), |pcc| format!("{pcc:.6}"));
                writeln!(text, "| {joint} | {rms:.6} | {max:.6} | {pcc} |")?;
            }
            let (rms, max) = (policy.rms_normalized, policy.max_normalized);
            writeln!(text, "\nAll in the network's own units: RMS {rms:.6}, largest {max:.6}.")?;
        }
        writeln!(text, "\n## Layers with 16-bit activations\n")?;
        if self.escaped().next().is_none() {
            writeln!(text, "None.")?;
        }
        for layer in self.escaped() {
            writeln!(
                text,
                "- `{}`: {:.2e} with 8 bits, {:.2e} with 16",
                layer.layer, layer.w8a8, layer.w8a16
            )?;
        }
        writeln!(text, "\n## Layers\n")?;
        writeln!(text, "| layer | inputs | outputs | smoothed | W8A8 | W8A16 | W4 | chosen | error |")?;
        writeln!(text, "|---|---:|---:|---|---:|---:|---:|---|---:|")?;
        for layer in &self.layers {
            let w4 = layer.w4.map_or_else(|| "–".to_owned(), |error| format!("{error:.2e}"));
            writeln!(
                text,
                "| `{}` | {} | {} | {} | {:.2e} | {:.2e} | {w4} | {} weights, {} | {:.2e} |",
                layer.layer,
                layer.inputs,
                layer.outputs,
                if layer.smoothed { "yes" } else { "" },
                layer.w8a8,
                layer.w8a16,
                layer.weights(),
                layer.precision(),
                layer.chosen()
            )?;
        }
        Ok(())
    }
}

/// JSON with a newline at its end.
fn pretty(value: &impl Serialize) -> String {
    // Writing numbers, texts and lists of them to memory cannot fail.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_and_correlations_follow_their_formulas() {
        assert_eq!(difference(&[1.0, 2.0], &[4.0, -2.0]), ((12.5_f64).sqrt(), 4.0));
        assert_eq!(nmse(&[3.0, 4.0], &[3.0, 5.0]), 1.0 / 25.0);
        assert_eq!((nmse(&[0.0], &[0.0]), nmse(&[], &[])), (0.0, 0.0));
        assert_eq!(correlation(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]), Some(1.0));
        assert_eq!(correlation(&[1.0, 2.0], &[2.0, 1.0]), Some(-1.0));
        assert_eq!(correlation(&[1.0, 1.0], &[2.0, 1.0]), None);
    }
}
