//! Costs as tables.

use smolvla::cost::documents::Document;
use smolvla::cost::measured::Calibration;
use smolvla::cost::{Bound, Cost, Storage, Sums};
use smolvla::count::Part;

use super::scenario::Evaluated;
use super::sweep::Sweep;
use super::tables::{Cell, Table, grouped};

/// A point of a sweep.
pub(crate) struct Point {
    pub(crate) value: String,
    /// Why it cannot be, where it cannot.
    pub(crate) outcome: Result<Evaluated, String>,
}

const MEGA: f64 = 1e6;

/// One row a part of the model.
pub(crate) fn parts(cost: &Cost) -> Table {
    let row = |name: &str, sums: &Sums| {
        let time = &sums.seconds;
        vec![
            name.into(),
            Cell::Number(sums.macs as f64 / 1e9, 2),
            Cell::Number(sums.elementwise as f64 / 1e9, 3),
            Cell::Number((sums.traffic.weights + sums.traffic.scales) / MEGA, 1),
            Cell::Number(sums.traffic.parameters / MEGA, 1),
            Cell::Number((sums.traffic.activations() + sums.traffic.scores) / MEGA, 1),
            Cell::Number(sums.traffic.kv() / MEGA, 1),
            Cell::Number(sums.ops_per_byte(), 0),
            Cell::Number(sums.kernels as f64, 0),
            Cell::Number(time.total * 1e3, 2),
            Cell::Number(time.roof * 1e3, 2),
            if sums.kernels == 0 { Cell::Text("—".to_owned()) } else { bound(sums).into() },
        ]
    };
    let mut rows: Vec<_> = cost.parts.iter().map(|part| row(part.part.name(), &part.sums)).collect();
    rows.push(row("total", &cost.total));
    Table {
        title: "By component".to_owned(),
        columns: vec![
            "component",
            "GMAC",
            "other GOP",
            "weights MB",
            "gains, biases MB",
            "activations MB",
            "K/V MB",
            "op/byte",
            "kernels",
            "time ms",
            "roof ms",
            "bound by",
        ],
        rows,
        has_total: true,
    }
}

/// `compute 64 %, elementwise 36 %`: what most of the time passes in.
pub(crate) fn bound(sums: &Sums) -> String {
    let mut shares: Vec<(Bound, f64)> =
        Bound::ALL.into_iter().map(|bound| (bound, sums.share_bound_by(bound))).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    let worth: Vec<String> = shares
        .iter()
        .filter(|(_, share)| *share >= 0.05)
        .map(|(bound, share)| format!("{} {:.0} %", bound.name(), share * 100.0))
        .collect();
    match worth.len() {
        1 => shares[0].0.name().to_owned(),
        _ => worth.join(", "),
    }
}

/// One row a kind of kernel.
pub(crate) fn kernels(cost: &Cost) -> Table {
    let rows = cost
        .kernels
        .iter()
        .map(|kernel| {
            let sums = &kernel.sums;
            vec![
                kernel.part.name().into(),
                kernel.name.as_str().into(),
                Cell::Number(sums.kernels as f64, 0),
                kernel.products.as_str().into(),
                Cell::Number(sums.macs as f64 / 1e9, 3),
                Cell::Number(sums.elementwise as f64 / 1e9, 3),
                Cell::Number((sums.traffic.weights + sums.traffic.scales) / MEGA, 2),
                Cell::Number(sums.traffic.parameters / MEGA, 2),
                Cell::Number((sums.traffic.activations() + sums.traffic.scores) / MEGA, 2),
                Cell::Number(sums.traffic.kv() / MEGA, 2),
                Cell::Number(sums.ops_per_byte(), 1),
                Cell::Number(sums.seconds.total * 1e3, 3),
                Cell::Number(100.0 * sums.seconds.total / cost.total.seconds.total, 1),
                sums.bound().name().into(),
            ]
        })
        .collect();
    Table {
        title: "By operation (sums over layers and steps)".to_owned(),
        columns: vec![
            "component",
            "operation",
            "times",
            "products",
            "GMAC",
            "other GOP",
            "weights MB",
            "gains, biases MB",
            "activations MB",
            "K/V MB",
            "op/byte",
            "time ms",
            "% of time",
            "bound by",
        ],
        rows,
        has_total: false,
    }
}

/// What has to be kept.
pub(crate) fn storage(storage: &Storage) -> Table {
    let row = |name: &str, tensors: usize, parameters: u64, bytes: f64, needed: f64| {
        vec![
            name.into(),
            Cell::Number(tensors as f64, 0),
            Cell::Number(parameters as f64, 0),
            Cell::Number(bytes / MEGA, 2),
            Cell::Number(needed / MEGA, 2),
        ]
    };
    let mut rows: Vec<_> = storage
        .components
        .iter()
        .map(|c| row(c.component, c.tensors, c.parameters, c.bytes, c.needed_bytes))
        .collect();
    rows.push(row("total", storage.tensors, storage.parameters, storage.bytes, storage.needed_bytes));
    Table {
        title: "Storage".to_owned(),
        columns: vec!["parameters of", "tensors", "parameters", "MB", "MB read at inference"],
        rows,
        has_total: true,
    }
}

/// What a chunk takes beside its parameters.
pub(crate) fn working_memory(storage: &Storage) -> Table {
    let row = |name: &str, bytes: f64, remark: &str| {
        vec![name.into(), Cell::Number(bytes / MEGA, 3), remark.into()]
    };
    Table {
        title: "Working memory".to_owned(),
        columns: vec!["what", "MB", "where"],
        rows: vec![
            row("K/V that denoising reads", storage.kv_cache_bytes, "all layers of the expert"),
            row("peak activations", storage.peak_activation_bytes, &storage.peak_activation_at),
            row("largest result before rounding", storage.largest_accumulator_bytes, "one linear layer"),
            row(
                "largest attention scores",
                storage.largest_scores_bytes,
                "one layer; on chip unless unfused",
            ),
        ],
        has_total: false,
    }
}

/// One row a point of a sweep.
pub(crate) fn sweep(sweep: &Sweep, points: &[Point]) -> Table {
    let rows = points
        .iter()
        .map(|point| match &point.outcome {
            Ok(evaluated) => {
                let cost = &evaluated.cost;
                let mut row = vec![point.value.as_str().into()];
                row.extend(cost.parts.iter().map(|part| Cell::Number(part.sums.seconds.total * 1e3, 2)));
                row.extend([
                    Cell::Number(cost.total.seconds.total * 1e3, 2),
                    Cell::Number(cost.total.seconds.total * 1e3 / evaluated.trace.workload.batch as f64, 2),
                    Cell::Number(cost.total.macs as f64 / 1e9, 2),
                    Cell::Number(cost.total.traffic.total() / MEGA, 1),
                    bound(&cost.total).into(),
                ]);
                row
            }
            Err(why) => {
                let mut row = vec![point.value.as_str().into()];
                // Each part, and what follows them.
                row.extend(std::iter::repeat_n(Cell::Empty, Part::ALL.len() + 4));
                row.push(why.as_str().into());
                row
            }
        })
        .collect();
    Table {
        title: format!("What if: {}", sweep.axis.label()),
        columns: vec![
            sweep.axis.name(),
            "vision ms",
            "connector ms",
            "text ms",
            "cross_kv ms",
            "expert ms",
            "total ms",
            "ms an observation",
            "GMAC",
            "MB moved",
            "bound by",
        ],
        rows,
        has_total: false,
    }
}

/// A document's figures beside the exact ones.
pub(crate) fn document(document: &Document) -> Table {
    let rows = document
        .rows
        .iter()
        .map(|row| {
            let stated = match (row.stated, row.follows()) {
                ("", _) => "—".to_owned(),
                (stated, true) => stated.to_owned(),
                (stated, false) => format!("{stated} (does not follow)"),
            };
            let number = |text: String| Cell::Text(text);
            vec![
                row.section.into(),
                row.what.into(),
                row.formula.into(),
                stated.into(),
                number(row.value_as_printed().unwrap_or_else(|| "—".to_owned())),
                number(row.exact_as_printed().unwrap_or_else(|| "—".to_owned())),
                row.unit.into(),
                row.reason.clone().into_owned().into(),
            ]
        })
        .collect();
    Table {
        title: format!("{}: {}", document.name, document.title),
        columns: vec![
            "section",
            "figure",
            "formula",
            "stated",
            "by its formula",
            "exact",
            "unit",
            "why they differ",
        ],
        rows,
        has_total: false,
    }
}

/// Measurements beside the roof.
pub(crate) fn calibration(calibration: &Calibration) -> Table {
    let rows = calibration
        .comparisons
        .iter()
        .map(|c| {
            vec![
                Cell::Number(c.line as f64, 0),
                c.what.as_str().into(),
                c.stage.unwrap_or("—").into(),
                c.precision.as_str().into(),
                Cell::Number(c.measured * 1e3, 2),
                c.expected.map_or(Cell::Empty, |expected| Cell::Number(expected * 1e3, 2)),
                Cell::Number(c.roof * 1e3, 2),
                Cell::Number(c.achieved() * 100.0, 1),
                if c.is_above_roof() { "ABOVE THE ROOF" } else { "" }.into(),
            ]
        })
        .collect();
    Table {
        title: "Measured beside the roof".to_owned(),
        columns: vec![
            "line",
            "what",
            "stage",
            "precision",
            "measured ms",
            "modelled ms",
            "roof ms",
            "% of roof",
            "",
        ],
        rows,
        has_total: false,
    }
}

/// A byte count for people.
pub(crate) fn bytes(value: f64) -> String {
    if value >= 1e9 {
        format!("{} GB", grouped(value / 1e9, 2))
    } else {
        format!("{} MB", grouped(value / 1e6, 1))
    }
}
