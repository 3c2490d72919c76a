//! Comparison of a whole run with a golden, stage by stage.

use std::collections::{HashMap, HashSet};

use smolvla_core::config::Architecture;
use smolvla_core::graph::{Observer, Site, Stage};

use crate::fixtures::Stages;
use crate::golden::Golden;

/// Keeps the value of every site of a run, under the names goldens use.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    values: HashMap<String, Vec<f32>>,
}

impl Recorder {
    /// The `length` recorded values of a golden's stage; `None` where it was not recorded or has another size.
    fn stage(&self, stage: &str, cameras: &mut CameraOffsets, length: usize) -> Option<&[f32]> {
        let site = site_of(stage);
        let start = if site == stage { 0 } else { cameras.advance(&site, length) };
        let all = self.values.get(&site)?;
        // More than the golden holds is as wrong as less; of the cameras' shared sites, the last one shows it.
        if site == stage && all.len() != length {
            return None;
        }
        all.get(start..start + length)
    }

    /// Name of the last site of noisy actions: the actions themselves.
    fn last_actions(&self) -> String {
        let last =
            self.values.keys().filter(|site| site.ends_with(".x")).filter_map(|site| step_of(site)).max();
        format!("steps.{}.x", last.unwrap_or(0))
    }
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

/// Keeps what a denoising step takes and gives, and leaves its inside alone: a backend with a denoising step of its
/// own runs that.
#[derive(Clone, Debug, Default)]
pub struct BoundaryRecorder {
    recorder: Recorder,
}

impl BoundaryRecorder {
    /// What was recorded.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }
}

impl Observer for BoundaryRecorder {
    fn wants(&self, site: Site) -> bool {
        !matches!(site, Site::Suffix { .. } | Site::ExpertLayer { .. })
    }

    fn value(&mut self, site: Site, rows: usize, cols: usize, values: Vec<f32>) {
        self.recorder.value(site, rows, cols, values);
    }
}

/// Records what each stage computes and goes on with LeRobot's value of it, so that every stage is computed from
/// LeRobot's own inputs (teacher forcing). Values that the golden does not hold are kept as computed.
#[derive(Clone, Debug)]
pub struct Forcing<'a> {
    golden: &'a Golden,
    recorder: Recorder,
    /// The next camera of each vision site.
    cameras: HashMap<Site, usize>,
}

impl<'a> Forcing<'a> {
    /// Feeds a run the stages of `golden`.
    pub fn new(golden: &'a Golden) -> Self {
        Self { golden, recorder: Recorder::default(), cameras: HashMap::new() }
    }

    /// What the stages computed.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The golden's values of the cameras that make up a vision site.
    fn cameras(&mut self, site: Site, length: usize) -> Option<Vec<f32>> {
        let next = self.cameras.entry(site).or_default();
        let mut values = Vec::with_capacity(length);
        while values.len() < length {
            let (_, camera) = self.golden.f32(&camera_stage(site, *next)).ok()?;
            values.extend_from_slice(camera);
            *next += 1;
        }
        (values.len() == length).then_some(values)
    }
}

impl Observer for Forcing<'_> {
    fn wants(&self, _site: Site) -> bool {
        true
    }

    fn value(&mut self, site: Site, rows: usize, cols: usize, values: Vec<f32>) {
        self.recorder.value(site, rows, cols, values);
    }

    fn replacement(&mut self, site: Site, rows: usize, cols: usize) -> Option<Vec<f32>> {
        if site.stage() == Stage::Vision {
            return self.cameras(site, rows * cols);
        }
        let (_, values) = self.golden.f32(&site.to_string()).ok()?;
        (values.len() == rows * cols).then(|| values.to_vec())
    }
}

/// A stage with what LeRobot computed and what was recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePair {
    /// The stage, as the golden names it.
    pub stage: String,
    /// LeRobot's values: all, or a digest's samples.
    pub expected: Vec<f32>,
    /// The recorded values in their place; empty where the stage was not recorded or has another size.
    pub got: Vec<f32>,
    /// Columns of both; 0 where they are samples or moments.
    pub cols: usize,
}

/// Every stage that `golden` holds and an action depends on, in the order of computation.
pub fn stage_pairs(golden: &Golden, recorded: &Recorder, architecture: &Architecture) -> Vec<StagePair> {
    let mut stages: Vec<(Vec<u64>, &str)> =
        golden.tensors().filter_map(|(name, _)| Some((order(name)?, name))).collect();
    stages.sort();
    let read = architecture.expert.schedule.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    let mut cameras = CameraOffsets::default();
    stages
        .into_iter()
        .filter(|(_, name)| !is_dead(name, read))
        .flat_map(|(_, name)| pairs_of(golden, recorded, &mut cameras, name))
        .collect()
}

/// A whole stage; of a digest, its samples and its moments.
fn pairs_of(golden: &Golden, recorded: &Recorder, cameras: &mut CameraOffsets, name: &str) -> Vec<StagePair> {
    let Ok((shape, expected)) = golden.f32(name) else { return Vec::new() };
    let Some(stage) = name.strip_suffix(SAMPLES) else {
        // The actions after the last step are recorded as what the step after it would start from.
        let site = if name == ACTIONS { recorded.last_actions() } else { name.to_owned() };
        let got = recorded.stage(&site, cameras, expected.len()).unwrap_or_default().to_vec();
        let cols = shape.last().copied().unwrap_or(0);
        return vec![StagePair { stage: site, expected: expected.to_vec(), got, cols }];
    };
    let pair = |expected: &[f32], got: Vec<f32>| StagePair {
        stage: stage.to_owned(),
        expected: expected.to_vec(),
        got,
        cols: 0,
    };
    let length = golden.i64(&format!("{stage}.shape")).map_or(0, |(_, axes)| axes.iter().product::<i64>());
    let all = usize::try_from(length).ok().and_then(|length| recorded.stage(stage, cameras, length));
    let all = all.unwrap_or_default();
    let indices = golden.i64(&format!("{stage}.indices")).map_or(&[][..], |(_, indices)| indices);
    let samples =
        indices.iter().filter_map(|index| all.get(usize::try_from(*index).ok()?).copied()).collect();
    let moments = golden.f32(&format!("{stage}.moments")).map_or(&[][..], |(_, moments)| moments);
    vec![pair(expected, samples), pair(moments, digest_moments(all))]
}

/// Mean, standard deviation and largest magnitude, as digests have them.
fn digest_moments(values: &[f32]) -> Vec<f32> {
    if values.is_empty() {
        return Vec::new();
    }
    let count = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / count;
    let largest = values.iter().fold(0.0_f32, |largest, v| largest.max(v.abs()));
    vec![mean as f32, variance.sqrt() as f32, largest]
}

/// Recorded sites that the golden should hold and does not: a comparison cannot pass because the golden is thin.
pub fn missing_from_golden(golden: &Golden, recorded: &Recorder, kept: Stages) -> Vec<String> {
    let held: HashSet<String> = golden
        .tensors()
        .filter(|(name, _)| order(name).is_some())
        .map(|(name, _)| site_of(name.strip_suffix(SAMPLES).unwrap_or(name)))
        .collect();
    let last_step = recorded.values.keys().filter_map(|site| step_of(site)).max().unwrap_or(0);
    let mut missing: Vec<String> = recorded
        .values
        .keys()
        .filter(|site| !held.contains(*site) && !is_left_out(site, kept, last_step))
        .cloned()
        .collect();
    missing.sort();
    missing
}

/// Whether goldens leave a site out on purpose: to be small.
fn is_left_out(site: &str, kept: Stages, last_step: usize) -> bool {
    // The actions after the last step are the golden's `actions.padded`; the steps are one less than the sites `x`.
    let Some(step) = step_of(site) else {
        return kept == Stages::NoVision && site.starts_with("vision.");
    };
    let is_boundary = site.ends_with(".x") || site.ends_with(".velocity");
    let is_first_or_last = step == 0 || step + 1 == last_step;
    step == last_step
        || (!is_boundary && !is_first_or_last)
        || (site.ends_with(".x") && kept == Stages::Digest)
}

/// The denoising step a site is in.
fn step_of(site: &str) -> Option<usize> {
    site.strip_prefix("steps.")?.split('.').next()?.parse().ok()
}

/// Whether a stage lies behind the keys and values of the last of the `read` language-model layers: LeRobot
/// computes it, and no action depends on it.
fn is_dead(stage: &str, read: usize) -> bool {
    let Some(layer) = stage.strip_prefix("text.layers.") else { return false };
    let (index, is_cache) = match layer.split_once('.') {
        Some((index, rest)) => (index, rest.starts_with("key") || rest.starts_with("value")),
        None => (layer, false),
    };
    let index: usize = index.parse().unwrap_or(usize::MAX);
    index >= read || (!is_cache && index + 1 == read)
}

/// What goldens call the actions after the last step, padding included.
const ACTIONS: &str = "actions.padded";

/// What a digest's tensor of samples is called after the stage.
const SAMPLES: &str = ".samples";

/// Where each camera's part of a vision site starts, in elements; cameras come in order.
#[derive(Default)]
struct CameraOffsets(HashMap<String, usize>);

impl CameraOffsets {
    /// Where the next camera's part of `site` starts; the one after it starts `length` later.
    fn advance(&mut self, site: &str, length: usize) -> usize {
        let offset = self.0.entry(site.to_owned()).or_default();
        *offset += length;
        *offset - length
    }
}

/// What the golden calls a vision site of one camera: `vision.0.layers.3` for `vision.layers.3`.
fn camera_stage(site: Site, camera: usize) -> String {
    let name = site.to_string();
    match name.split_once('.') {
        Some((part, rest)) => format!("{part}.{camera}.{rest}"),
        None => format!("{name}.{camera}"),
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
    if name == ACTIONS {
        return Some(vec![5]);
    }
    let name = name.strip_suffix(SAMPLES).unwrap_or(name);
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
            "actions.padded",
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
                "actions.padded",
            ]
        );
        for name in
            ["input.0.state", "noise", "processed.tokens", "actions", "prefix.pad_mask", "steps.0.x.moments"]
        {
            assert_eq!(order(name), None, "{name}");
        }
    }

    #[test]
    fn camera_stage_and_site_are_inverse() {
        for site in [Site::VisionEmbeddings, Site::VisionLayer(7), Site::VisionOutput, Site::Connector] {
            assert_eq!(site_of(&camera_stage(site, 2)), site.to_string());
        }
        assert_eq!(camera_stage(Site::VisionLayer(7), 2), "vision.2.layers.7");
    }

    #[test]
    fn only_what_no_action_depends_on_is_dead() {
        let dead = |stage: &str| is_dead(stage, 3);
        assert!(!dead("text.layers.1") && !dead("text.layers.2.key") && !dead("text.layers.2.value"));
        assert!(dead("text.layers.2") && dead("text.layers.3") && dead("text.layers.3.key"));
        assert!(!dead("vision.0.layers.9") && !dead("steps.0.layers.9"));
    }

    #[test]
    fn only_what_makes_goldens_small_is_left_out() {
        let left_out = |site: &str, kept| is_left_out(site, kept, 10);
        for site in ["steps.10.x", "steps.4.suffix", "steps.4.layers.1"] {
            assert!(left_out(site, Stages::All), "{site}");
        }
        for site in [
            "steps.9.x",
            "steps.4.velocity",
            "steps.9.layers.1",
            "steps.0.suffix",
            "vision.output",
            "text.layers.0",
        ] {
            assert!(!left_out(site, Stages::All), "{site}");
        }
        assert!(left_out("vision.output", Stages::NoVision) && !left_out("connector", Stages::NoVision));
        assert!(left_out("steps.3.x", Stages::Digest) && !left_out("steps.3.velocity", Stages::Digest));
    }

    #[test]
    fn camera_index_is_not_part_of_the_site() {
        assert_eq!(site_of("vision.2.layers.7"), "vision.layers.7");
        assert_eq!(site_of("connector.0"), "connector");
        assert_eq!(site_of("steps.0.layers.3"), "steps.0.layers.3");
    }
}
