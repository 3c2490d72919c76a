//! Costs as pictures.

use smolvla::cost::measured::Calibration;
use smolvla::cost::{KernelCost, Sums};
use smolvla::count::Part;

use super::scenario::{Evaluated, Scenario};
use super::sweep::{Axis, Sweep};
use super::views::{self, Point as SweepPoint};
use crate::charts::{Bar, Bars, Ceiling, Chart, Point, Roofline, Step, Waterfall};

/// A picture and where it stands.
pub(crate) struct Picture {
    /// Of its files, without extension.
    pub(crate) name: String,
    /// What it shows, for those who cannot see it.
    pub(crate) description: String,
    pub(crate) chart: Chart,
}

/// Parts of the model that have a roofline of their own, beside all together.
const ROOFLINES: [(&str, &str, &[Part]); 4] = [
    ("roofline", "every part", &Part::ALL),
    ("roofline-vision", "vision tower and connector", &[Part::Vision, Part::Connector]),
    ("roofline-text", "language model", &[Part::Text]),
    ("roofline-expert", "action expert", &[Part::CrossKv, Part::Expert]),
];

/// Rooflines and the waterfall of one scenario.
pub(crate) fn of(
    scenario: &Scenario,
    evaluated: &Evaluated,
    calibration: Option<&Calibration>,
) -> Vec<Picture> {
    let mut pictures: Vec<Picture> = ROOFLINES
        .into_iter()
        .map(|(name, what, parts)| Picture {
            name: name.to_owned(),
            description: format!("Roofline of {}: {what}", scenario.device.title),
            chart: Chart::Roofline(roofline(scenario, evaluated, what, parts)),
        })
        .collect();
    if let Some(calibration) = calibration.filter(|calibration| !calibration.comparisons.is_empty()) {
        pictures.push(Picture {
            name: "measured".to_owned(),
            description: format!("Measurements under the roof of {}", scenario.device.title),
            chart: Chart::Roofline(measured(scenario, calibration)),
        });
    }
    pictures.push(Picture {
        name: "waterfall".to_owned(),
        description: "Time of each part, one after the other".to_owned(),
        chart: Chart::Waterfall(waterfall(scenario, evaluated)),
    });
    pictures
}

fn ceilings(scenario: &Scenario) -> Vec<Ceiling> {
    scenario
        .device
        .peaks
        .iter()
        .map(|(format, peak)| Ceiling {
            label: format.clone(),
            ops_per_s: peak.tops * 1e12,
            in_use: format == scenario.widths.products.name(),
        })
        .collect()
}

fn roofline(scenario: &Scenario, evaluated: &Evaluated, what: &str, parts: &[Part]) -> Roofline {
    let cost = &evaluated.cost;
    let drawn: Vec<&KernelCost> =
        cost.kernels.iter().filter(|kernel| parts.contains(&kernel.part) && kernel.sums.macs > 0).collect();
    let all = parts.len() == Part::ALL.len();
    // In the picture of everything, what takes less than a two-hundredth of the time would only hide the rest.
    let seconds: f64 = drawn.iter().map(|kernel| kernel.sums.seconds.total).sum();
    let (shown, small): (Vec<&KernelCost>, Vec<&KernelCost>) =
        drawn.into_iter().partition(|kernel| !all || kernel.sums.seconds.total > seconds / 200.0);
    let without = cost.kernels.iter().filter(|k| parts.contains(&k.part) && k.sums.macs == 0);
    let without: f64 = without.map(|kernel| kernel.sums.seconds.total).sum();
    let total: f64 = parts.iter().map(|part| cost.part(*part).seconds.total).sum();
    let mut remarks = vec![format!("modelled, {}: {:.1} ms", scenario.widths.name, total * 1e3)];
    if without > 0.0 {
        remarks.push(format!("{:.1} ms of it in operations without products", without * 1e3));
    }
    if !small.is_empty() {
        remarks.push(format!("{} small ones not drawn", small.len()));
    }
    Roofline {
        title: format!("{} — {what}", scenario.device.title),
        subtitle: remarks.join("; "),
        bandwidth: scenario.device.memory.gb_s * 1e9,
        ceilings: ceilings(scenario),
        groups: parts.iter().map(|part| part.name().to_owned()).collect(),
        points: shown
            .into_iter()
            .map(|kernel| Point {
                label: short(&kernel.name, all),
                group: parts.iter().position(|part| *part == kernel.part).unwrap_or_default(),
                ops_per_byte: kernel.sums.ops_per_byte(),
                ops_per_s: kernel.sums.ops_per_second(),
                share: kernel.sums.seconds.total / total,
                measured: false,
                above_roof: false,
            })
            .collect(),
    }
}

/// `vision.layers.*.qkv` → `vision qkv`; without the part where the picture is about that part alone.
fn short(name: &str, with_part: bool) -> String {
    let pieces: Vec<&str> = name.split('.').filter(|piece| *piece != "layers" && *piece != "*").collect();
    let rest = if with_part || pieces.len() == 1 { &pieces[..] } else { &pieces[1..] };
    let mut words: Vec<&str> = rest.to_vec();
    words.dedup();
    words.join(" ")
}

fn measured(scenario: &Scenario, calibration: &Calibration) -> Roofline {
    let mut stages: Vec<&str> = Vec::new();
    for stage in calibration.comparisons.iter().map(|c| c.stage.unwrap_or("operation")) {
        if !stages.contains(&stage) {
            stages.push(stage);
        }
    }
    let group = |stage: Option<&str>| {
        let name = stage.unwrap_or("operation");
        stages.iter().position(|known| *known == name).unwrap_or_default()
    };
    // A whole session of kernels does not fit one picture: those of the precision in question do.
    let wanted: Vec<_> =
        calibration.comparisons.iter().filter(|c| c.precision == scenario.widths.name).collect();
    let shown: Vec<_> = if wanted.is_empty() { calibration.comparisons.iter().collect() } else { wanted };
    let shown = &shown[..shown.len().min(24)];
    Roofline {
        title: format!("{} — measured", scenario.device.title),
        subtitle: format!(
            "{} of {} measurements; hollow = measured",
            shown.len(),
            calibration.comparisons.len()
        ),
        bandwidth: scenario.device.memory.gb_s * 1e9,
        ceilings: ceilings(scenario),
        groups: stages.iter().map(|stage| (*stage).to_owned()).collect(),
        points: shown
            .iter()
            .map(|comparison| Point {
                // The colour says which stage.
                label: comparison.what.clone(),
                group: group(comparison.stage),
                ops_per_byte: comparison.ops_per_byte,
                ops_per_s: comparison.ops / comparison.measured,
                // Of different runs, which have no time in common.
                share: 0.0,
                measured: true,
                above_roof: comparison.is_above_roof(),
            })
            .collect(),
    }
}

fn waterfall(scenario: &Scenario, evaluated: &Evaluated) -> Waterfall {
    let step = |label: &str, group: usize, sums: &Sums| Step {
        label: label.to_owned(),
        value: sums.seconds.total * 1e3,
        note: format!("bound by {}", views::bound(sums)),
        group,
    };
    let steps = evaluated
        .cost
        .parts
        .iter()
        .filter(|part| part.sums.kernels > 0)
        .map(|part| {
            let label = match part.part {
                Part::Expert => format!("expert, {} steps", scenario.workload.steps),
                other => other.name().to_owned(),
            };
            step(&label, part.part as usize, &part.sums)
        })
        .collect();
    Waterfall {
        title: format!("{} — one chunk", scenario.device.title),
        subtitle: format!("modelled, {}; {}", scenario.widths.name, scenario.describe_workload()),
        unit: "ms".to_owned(),
        groups: Part::ALL.map(|part| part.name().to_owned()).to_vec(),
        steps,
    }
}

/// Time by part over a sweep; `None` where no value of it can be.
pub(crate) fn bars(scenario: &Scenario, sweep: &Sweep, points: &[SweepPoint]) -> Option<Picture> {
    let bars: Vec<Bar> = points
        .iter()
        .filter_map(|point| {
            let cost = &point.outcome.as_ref().ok()?.cost;
            let values = cost.parts.iter().map(|part| part.sums.seconds.total * 1e3).collect();
            let label = match sweep.axis {
                // Devices may each be in numbers of their own.
                Axis::Device => format!("{} ({})", point.value, point.precision),
                _ => point.value.clone(),
            };
            Some(Bar { label, values })
        })
        .collect();
    if bars.is_empty() {
        return None;
    }
    Some(Picture {
        name: format!("sweep-{}", sweep.axis.name()),
        description: format!("Time by part over {}", sweep.axis.label()),
        chart: Chart::Bars(Bars {
            title: match sweep.axis {
                Axis::Device => "Devices".to_owned(),
                axis => format!("{} — {}", scenario.device.title, axis.label()),
            },
            subtitle: match sweep.axis {
                Axis::Precision | Axis::Device => format!("modelled; {}", scenario.describe_workload()),
                axis => format!(
                    "modelled, {}; {}",
                    scenario.widths.name,
                    scenario.describe_workload_but(Some(axis))
                ),
            },
            x_label: sweep.axis.label().to_owned(),
            y_label: if sweep.axis == Axis::Batch { "ms a batch" } else { "ms a chunk" }.to_owned(),
            series: Part::ALL.map(|part| part.name().to_owned()).to_vec(),
            bars,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short() {
        assert_eq!(short("vision.layers.*.qkv", true), "vision qkv");
        assert_eq!(short("vision.layers.*.qkv", false), "qkv");
        assert_eq!(short("connector.connector", true), "connector");
        assert_eq!(short("expert.suffix.time_out", false), "suffix time_out");
    }
}
