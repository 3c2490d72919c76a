//! Costs as tables.

use std::fmt::Write;

use smolvla::cost::documents::Document;
use smolvla::cost::measured::Calibration;
use smolvla::cost::{Bound, Cost, Storage, Sums};
use smolvla::count::Part;

use super::scenario::Evaluated;
use super::sweep::Sweep;
use super::tables::{Cell, Table, columns, grouped};

/// A point of a sweep.
pub(crate) struct Point {
    pub(crate) value: String,
    /// The widths it is in, by name.
    pub(crate) precision: String,
    /// What users should know of it beside what they know of the scenario.
    pub(crate) notes: Vec<String>,
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
            Cell::Number(time.total * 1e3, 2),
            Cell::Number(time.roof * 1e3, 2),
            bound_cell(sums),
            Cell::Number(sums.macs as f64 / 1e9, 2),
            Cell::Number(sums.elementwise as f64 / 1e9, 3),
            Cell::Number((sums.traffic.weights + sums.traffic.scales) / MEGA, 1),
            Cell::Number(sums.traffic.small_parameters / MEGA, 1),
            Cell::Number((sums.traffic.activations() + sums.traffic.scores) / MEGA, 1),
            Cell::Number(sums.traffic.kv() / MEGA, 1),
            Cell::Number(sums.traffic.total() / MEGA, 1),
            Cell::Number(sums.ops_per_byte(), 0),
            Cell::Number(sums.kernels as f64, 0),
        ]
    };
    let mut rows: Vec<_> = cost.parts.iter().map(|part| row(part.part.name(), &part.sums)).collect();
    rows.push(row("total", &cost.total));
    Table {
        title: "By component".to_owned(),
        columns: columns([
            "component",
            "time ms",
            "roof ms",
            "bound by (of the time)",
            "GMAC",
            "[other GOP]",
            "weights, scales MB",
            "[gains, biases MB]",
            "[activations MB]",
            "[K/V MB]",
            "all MB moved",
            "op/byte",
            "kernels",
        ]),
        rows,
        has_total: true,
    }
}

fn bound_cell(sums: &Sums) -> Cell {
    if sums.kernels == 0 {
        return Cell::Either("—".to_owned(), "");
    }
    Cell::Either(bound(sums), sums.bound().name())
}

/// `compute 64 %, elementwise 36 %`: the shares of the time that pass in kernels bound so, from five percent.
pub(crate) fn bound(sums: &Sums) -> String {
    let mut shares: Vec<(Bound, f64)> =
        Bound::ALL.into_iter().map(|bound| (bound, sums.share_bound_by(bound))).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    // The percent sign does not leave its number.
    let worth: Vec<String> = shares
        .iter()
        .filter(|(_, share)| *share >= 0.05)
        .map(|(bound, share)| format!("{} {:.0}\u{a0}%", bound.name(), share * 100.0))
        .collect();
    worth.join(", ")
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
                Cell::Number(sums.seconds.total * 1e3, 3),
                Cell::Number(100.0 * sums.seconds.total / cost.total.seconds.total, 1),
                sums.bound().name().into(),
                kernel.products.as_str().into(),
                Cell::Number(sums.macs as f64 / 1e9, 3),
                Cell::Number(sums.elementwise as f64 / 1e9, 3),
                Cell::Number((sums.traffic.weights + sums.traffic.scales) / MEGA, 2),
                Cell::Number(sums.traffic.small_parameters / MEGA, 2),
                Cell::Number((sums.traffic.activations() + sums.traffic.scores) / MEGA, 2),
                Cell::Number(sums.traffic.kv() / MEGA, 2),
                Cell::Number(sums.traffic.total() / MEGA, 2),
                Cell::Number(sums.ops_per_byte(), 1),
            ]
        })
        .collect();
    Table {
        title: "By operation (sums over layers and steps)".to_owned(),
        columns: columns([
            "[component]",
            "operation",
            "times",
            "time ms",
            "% of time",
            "bound by",
            "products",
            "GMAC",
            "[other GOP]",
            "[weights, scales MB]",
            "[gains, biases MB]",
            "[activations MB]",
            "[K/V MB]",
            "MB moved",
            "op/byte",
        ]),
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
        columns: columns(["parameters of", "tensors", "parameters", "MB", "MB kept for inference"]),
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
        columns: columns(["what", "MB", "where"]),
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
        .map(|point| {
            let mut row = vec![point.value.as_str().into(), point.precision.as_str().into()];
            match &point.outcome {
                Ok(evaluated) => {
                    let cost = &evaluated.cost;
                    let total = cost.total.seconds.total;
                    row.extend(cost.parts.iter().map(|part| Cell::Number(part.sums.seconds.total * 1e3, 2)));
                    row.extend([
                        Cell::Number(total * 1e3, 2),
                        Cell::Number(total * 1e3 / evaluated.trace.workload.batch as f64, 2),
                        Cell::Number(cost.total.macs as f64 / 1e9, 2),
                        Cell::Number(cost.total.traffic.total() / MEGA, 1),
                        bound_cell(&cost.total),
                    ]);
                }
                // Each part, and what follows them. The reason is among the notes.
                Err(_) => {
                    row.extend(std::iter::repeat_n(Cell::Empty, Part::ALL.len() + 4));
                    row.push(Cell::Either("—".to_owned(), ""));
                }
            }
            row
        })
        .collect();
    Table {
        title: format!("What if: {}", sweep.axis.label()),
        columns: columns([
            sweep.axis.name(),
            "numbers",
            "vision ms",
            "[connector ms]",
            "text ms",
            "[cross_kv ms]",
            "expert ms",
            "total ms",
            "per obs. ms",
            "GMAC",
            "MB moved",
            "bound by (of the time)",
        ]),
        rows,
        has_total: false,
    }
}

/// Why points of a sweep have no cost.
pub(crate) fn refusals(sweep: &Sweep, points: &[Point]) -> Vec<String> {
    let refused = points.iter().filter_map(|point| Some((&point.value, point.outcome.as_ref().err()?)));
    refused.map(|(value, why)| format!("{}={value}: {why}", sweep.axis.name())).collect()
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
            let or_dash = |text: Option<String>| Cell::Text(text.unwrap_or_else(|| "—".to_owned()));
            vec![
                row.section.into(),
                row.what.into(),
                row.formula.into(),
                stated.into(),
                or_dash(row.value_as_printed()),
                or_dash(row.exact_as_printed()),
                row.unit.into(),
                row.reason.clone().into_owned().into(),
            ]
        })
        .collect();
    Table {
        title: format!("{}: {}", document.name, document.title),
        columns: columns([
            "section",
            "figure",
            "formula",
            "stated",
            "by its formula",
            "exact",
            "unit",
            "why they differ",
        ]),
        rows,
        has_total: false,
    }
}

/// The same for a terminal: what has no room in columns stands below its row.
pub(crate) fn document_text(document: &Document) -> String {
    let mut text = format!("{}: {}\nassumes: {}\n", document.name, document.title, document.assumptions);
    let mut section = "";
    for row in &document.rows {
        if row.section != section {
            section = row.section;
            let _ = write!(
                text,
                "\n{section}\n  {:<36} {:>9}  {:>14}  {:>9}  unit\n",
                "", "stated", "by its formula", "exact"
            );
        }
        let dash = || "—".to_owned();
        let _ = writeln!(
            text,
            "  {:<36} {:>9}  {:>14}  {:>9}  {}",
            row.what,
            if row.stated.is_empty() { "—" } else { row.stated },
            row.value_as_printed().unwrap_or_else(dash),
            row.exact_as_printed().unwrap_or_else(dash),
            row.unit
        );
        let does_not = if row.follows() { "" } else { "DOES NOT FOLLOW from its formula. " };
        for (what, line) in
            [("formula", row.formula.to_owned()), ("why", format!("{does_not}{}", row.reason))]
        {
            if !line.is_empty() {
                let _ = writeln!(text, "      {what}: {line}");
            }
        }
    }
    text
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
                c.prefix_tokens.map_or(Cell::Empty, |tokens| Cell::Number(tokens as f64, 0)),
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
        title: "Measured beside the roof of its stage".to_owned(),
        columns: columns([
            "line",
            "what",
            "stage",
            "prefix",
            "numbers",
            "measured ms",
            "modelled ms",
            "stage roof ms",
            "% of roof",
            "verdict",
        ]),
        rows,
        has_total: false,
    }
}

/// What a reader of [`calibration()`] should know.
pub(crate) fn calibration_notes(calibration: &Calibration) -> Vec<String> {
    let mut notes = vec![
        "a stage's roof is what nothing can go below: its products at the device's peak, or the weights that do not fit on \
         chip at its bandwidth. vision is vision and connector, prefill is text and cross_kv, denoise is expert"
            .to_owned(),
    ];
    notes.extend(calibration.notes.iter().cloned());
    for (why, lines) in &calibration.left_out {
        let lines: Vec<String> = lines.iter().map(u64::to_string).collect();
        notes.push(format!("left out, line {}: {why}", lines.join(", ")));
    }
    notes
}

/// A byte count for people.
pub(crate) fn bytes(value: f64) -> String {
    if value >= 1e9 {
        format!("{} GB", grouped(value / 1e9, 2))
    } else {
        format!("{} MB", grouped(value / 1e6, 1))
    }
}
