//! What-ifs: one thing varied, all else as it is.

use std::str::FromStr;

use smolvla::cost::{Device, Fusion};

use super::device_failure;
use super::scenario::Scenario;
use crate::failure::Failure;

/// Most points of one sweep.
const MOST_POINTS: usize = 24;

/// What is varied, and the values it takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sweep {
    pub(crate) axis: Axis,
    pub(crate) values: Vec<String>,
}

/// What can be varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    Cameras,
    Batch,
    Steps,
    Prompt,
    Chunk,
    Bandwidth,
    Compute,
    Precision,
    Device,
    Fusion,
}

impl Axis {
    const ALL: [Self; 10] = [
        Self::Cameras,
        Self::Batch,
        Self::Steps,
        Self::Prompt,
        Self::Chunk,
        Self::Bandwidth,
        Self::Compute,
        Self::Precision,
        Self::Device,
        Self::Fusion,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cameras => "cameras",
            Self::Batch => "batch",
            Self::Steps => "steps",
            Self::Prompt => "prompt",
            Self::Chunk => "chunk",
            Self::Bandwidth => "bandwidth",
            Self::Compute => "compute",
            Self::Precision => "precision",
            Self::Device => "device",
            Self::Fusion => "fusion",
        }
    }

    /// How a picture's axis is called.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Steps => "denoising steps",
            Self::Prompt => "tokens of the instruction",
            Self::Chunk => "actions in a chunk",
            Self::Bandwidth => "bandwidth × the device's",
            Self::Compute => "arithmetic × the device's",
            Self::Fusion => "what is one kernel",
            _ => self.name(),
        }
    }

    fn is_factor(self) -> bool {
        matches!(self, Self::Bandwidth | Self::Compute)
    }

    fn is_count(self) -> bool {
        matches!(self, Self::Cameras | Self::Batch | Self::Steps | Self::Prompt | Self::Chunk)
    }
}

impl Sweep {
    /// The scenario with one value put in.
    pub(crate) fn apply(&self, scenario: &Scenario, value: &str) -> Result<Scenario, Failure> {
        let mut scenario = scenario.clone();
        // Parsed already.
        let count = || value.parse().unwrap_or(0);
        let factor = || value.parse().unwrap_or(0.0);
        match self.axis {
            Axis::Cameras => scenario.workload.cameras = count(),
            Axis::Batch => scenario.workload.batch = count(),
            Axis::Steps => scenario.workload.steps = count(),
            Axis::Prompt => scenario.workload.prompt_tokens = count(),
            Axis::Chunk => scenario.workload.chunk = Some(count()),
            Axis::Bandwidth => scenario.device = scenario.device.with_bandwidth(factor())?,
            Axis::Compute => scenario.device = scenario.device.with_compute(factor())?,
            Axis::Precision => return scenario.in_precision(value),
            Axis::Device => return scenario.on(Device::named(value).map_err(device_failure)?),
            Axis::Fusion => {
                let fusion = Fusion::ALL.into_iter().find(|fusion| fusion.name() == value);
                let names = Fusion::ALL.map(Fusion::name).join(", ");
                let unknown =
                    || Failure::input(format!("--sweep fusion: there is no `{value}`; there are {names}"));
                return scenario.fused(fusion.ok_or_else(unknown)?);
            }
        }
        Ok(scenario)
    }
}

/// `cameras=1..4`, `batch=1,2,4`, `bandwidth=0.5..2`, `precision=int8,bf16`.
impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<_> = Axis::ALL.iter().map(|axis| axis.name()).collect();
        let (name, values) = text.split_once('=').ok_or_else(|| {
            format!("expected AXIS=VALUES, such as cameras=1..4; axes are {}", names.join(", "))
        })?;
        let axis = Axis::ALL
            .into_iter()
            .find(|axis| axis.name() == name)
            .ok_or_else(|| format!("there is no axis `{name}`; axes are {}", names.join(", ")))?;
        let values = match values.split_once("..") {
            Some((from, to)) if axis.is_count() => whole_numbers(name, from, to)?,
            Some((from, to)) if axis.is_factor() => factors(name, from, to)?,
            _ => values.split(',').map(|value| value.trim().to_owned()).collect(),
        };
        for value in &values {
            if axis.is_count() {
                count(name, value)?;
            } else if axis.is_factor() {
                factor(name, value)?;
            } else if value.is_empty() {
                return Err(format!("{name}: has an empty value"));
            }
        }
        if values.len() > MOST_POINTS {
            return Err(format!("{name}: {} values; expected at most {MOST_POINTS}", values.len()));
        }
        Ok(Self { axis, values })
    }
}

fn count(name: &str, text: &str) -> Result<usize, String> {
    let number = text.trim().parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{name}: `{text}` is no whole number above 0"))
}

fn factor(name: &str, text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.trim().parse().ok();
    number
        .filter(|number| number.is_finite() && *number > 0.0)
        .ok_or_else(|| format!("{name}: `{text}` is no positive number"))
}

fn whole_numbers(name: &str, from: &str, to: &str) -> Result<Vec<String>, String> {
    let (from, to) = (count(name, from)?, count(name, to)?);
    if from > to {
        return Err(format!("{name}: {from}..{to} goes down"));
    }
    if to - from >= MOST_POINTS {
        return Err(format!("{name}: {} values; expected at most {MOST_POINTS}", to - from + 1));
    }
    Ok((from..=to).map(|value| value.to_string()).collect())
}

/// From one to the other by factors of √2.
fn factors(name: &str, from: &str, to: &str) -> Result<Vec<String>, String> {
    let (from, to) = (factor(name, from)?, factor(name, to)?);
    if from > to {
        return Err(format!("{name}: {from}..{to} goes down"));
    }
    let steps = (2.0 * (to / from).log2()).ceil() as usize;
    if steps >= MOST_POINTS {
        return Err(format!("{name}: {} values; expected at most {MOST_POINTS}", steps + 1));
    }
    let between = (0..steps).map(|step| from * 2_f64.powf(step as f64 / 2.0));
    let mut values: Vec<String> =
        between.chain([to]).map(|value| ((value * 1000.0).round() / 1000.0).to_string()).collect();
    values.dedup();
    // Rounding must not turn a small factor into none.
    if values.iter().any(|value| value == "0") {
        return Err(format!("{name}: factors below 0.001 are not distinguished"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<String> {
        text.parse::<Sweep>().unwrap().values
    }

    #[test]
    fn ranges_and_lists_are_spelt_out() {
        assert_eq!(values("cameras=1..4"), ["1", "2", "3", "4"]);
        assert_eq!(values("batch=1,2,8"), ["1", "2", "8"]);
        assert_eq!(values("bandwidth=0.5..2"), ["0.5", "0.707", "1", "1.414", "2"]);
        assert_eq!(values("bandwidth=1..1"), ["1"]);
        assert_eq!(values("precision=int8, bf16"), ["int8", "bf16"]);
    }

    #[test]
    fn what_is_no_sweep_says_why() {
        for (text, expected) in [
            ("cameras", "expected AXIS=VALUES"),
            ("colour=1..2", "there is no axis `colour`; axes are cameras"),
            ("cameras=0..3", "cameras: `0` is no whole number above 0"),
            ("cameras=3..1", "goes down"),
            ("steps=1..1000", "1000 values; expected at most 24"),
            ("bandwidth=-1..2", "bandwidth: `-1` is no positive number"),
            ("bandwidth=nan,1", "no positive number"),
            ("bandwidth=1e-9..1e9", "values; expected at most 24"),
            ("compute=0.0001..0.0002", "below 0.001"),
            ("batch=", "no whole number"),
            ("precision=int8,,", "empty value"),
        ] {
            let message = text.parse::<Sweep>().unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
