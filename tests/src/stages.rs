//! Comparison of a whole run with a golden, stage by stage.

use std::collections::HashMap;

use smolvla_core::graph::{Observer, Site, Stage};

use crate::golden::Golden;
use crate::metrics::{max_abs, nmse};

/// Keeps the value of every site of a run, under the names goldens use.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    values: HashMap<String, Vec<f32>>,
}

impl Observer for Recorder {
    fn wants(&self, _site: Site) -> bool {
        true
    }

    fn value(&mut self, site: Site, _rows: usize, _cols: usize, values: Vec<f32>) {
        let recorded = self.values.entry(site.to_string()).or_default();
        // Cameras with images of different sizes come one after the other.
        if site.stage() == Stage::Vision {
            recorded.extend(values);
        } else {
            *recorded = values;
        }
    }
}

/// How far one stage is from the golden.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The stage, as the golden names it.
    pub stage: String,
    /// Normalised mean squared error.
    pub nmse: f64,
    /// Largest absolute difference.
    pub max_abs: f64,
}

/// Compares every stage that `golden` holds with what was recorded, in the order of computation.
///
/// A stage that was not recorded differs infinitely.
pub fn compare_stages(golden: &Golden, recorded: &Recorder) -> Vec<Difference> {
    let mut stages: Vec<(Vec<u64>, &str)> =
        golden.tensors().filter_map(|(name, _)| Some((order(name)?, name))).collect();
    stages.sort();
    let mut cameras = CameraOffsets::default();
    stages
        .into_iter()
        .filter_map(|(_, name)| {
            let (stage, tensor) = (name, golden.f32(name).ok()?);
            let got = recorded_values(recorded, golden, &mut cameras, stage, tensor.1.len());
            let got = got.unwrap_or_default();
            Some(Difference {
                stage: stage.to_owned(),
                nmse: nmse(tensor.1, &got),
                max_abs: max_abs(tensor.1, &got),
            })
        })
        .collect()
}

/// Where each camera's part of a vision site starts, in elements; cameras come in order.
#[derive(Default)]
struct CameraOffsets(HashMap<String, usize>);

/// The recorded elements that a golden tensor is about: the whole stage, or a digest's samples of it.
fn recorded_values(
    recorded: &Recorder,
    golden: &Golden,
    cameras: &mut CameraOffsets,
    name: &str,
    length: usize,
) -> Option<Vec<f32>> {
    let sampled = name.strip_suffix(".samples");
    let stage = sampled.unwrap_or(name);
    let whole = match sampled {
        Some(_) => golden.i64(&format!("{stage}.shape")).ok()?.1.iter().product::<i64>().try_into().ok()?,
        None => length,
    };
    let site = site_of(stage);
    let start = if site == stage { 0 } else { cameras.advance(&site, whole) };
    let all = recorded.values.get(&site)?;
    // More than the golden holds is as wrong as less; of the cameras' shared sites, the last one shows it.
    if site == stage && all.len() != whole {
        return None;
    }
    let values = all.get(start..start + whole)?;
    if sampled.is_none() {
        return Some(values.to_vec());
    }
    let (_, indices) = golden.i64(&format!("{stage}.indices")).ok()?;
    indices.iter().map(|index| values.get(usize::try_from(*index).ok()?).copied()).collect()
}

impl CameraOffsets {
    /// Where the next camera's part of `site` starts; the one after it starts `length` later.
    fn advance(&mut self, site: &str, length: usize) -> usize {
        let offset = self.0.entry(site.to_owned()).or_default();
        *offset += length;
        *offset - length
    }
}

/// The site a golden stage belongs to: `vision.0.layers.3` is camera 0 of `vision.layers.3`.
fn site_of(stage: &str) -> String {
    let mut parts: Vec<&str> = stage.split('.').collect();
    if matches!(parts[0], "vision" | "connector") && parts.len() > 1 && parts[1].parse::<usize>().is_ok() {
        parts.remove(1);
    }
    parts.join(".")
}

/// A key that sorts stages by when they are computed; `None` for what is not a stage.
fn order(name: &str) -> Option<Vec<u64>> {
    let name = name.strip_suffix(".samples").unwrap_or(name);
    if [".indices", ".shape", ".moments"].iter().any(|suffix| name.ends_with(suffix)) {
        return None;
    }
    let rank = |part: &str| -> u64 {
        match part {
            "vision" => 0,
            "connector" => 1,
            "prefix" => 2,
            "text" => 3,
            "steps" => 4,
            "embeddings" | "x" | "key" => 10,
            "suffix" | "value" => 11,
            "layers" => 12,
            "output" | "velocity" => 13,
            _ => part.parse().map_or(99, |number: u64| 1000 + number),
        }
    };
    let key: Vec<u64> = name.split('.').map(rank).collect();
    let is_stage = key[0] < 10 && !key.contains(&99);
    is_stage.then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_ordered_by_computation() {
        let mut names = [
            "steps.10.x",
            "steps.2.velocity",
            "steps.2.x",
            "text.layers.3",
            "vision.0.output",
            "vision.0.layers.11",
            "vision.0.layers.2",
            "connector.0",
            "prefix.embeddings",
        ];
        names.sort_by_key(|name| order(name));
        assert_eq!(
            names,
            [
                "vision.0.layers.2",
                "vision.0.layers.11",
                "vision.0.output",
                "connector.0",
                "prefix.embeddings",
                "text.layers.3",
                "steps.2.x",
                "steps.2.velocity",
                "steps.10.x",
            ]
        );
        for name in
            ["input.0.state", "noise", "processed.tokens", "actions", "prefix.pad_mask", "actions.padded"]
        {
            assert_eq!(order(name), None, "{name}");
        }
    }

    #[test]
    fn camera_index_is_not_part_of_the_site() {
        assert_eq!(site_of("vision.2.layers.7"), "vision.layers.7");
        assert_eq!(site_of("connector.0"), "connector");
        assert_eq!(site_of("steps.0.layers.3"), "steps.0.layers.3");
    }
}
