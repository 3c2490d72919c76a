//! What was measured, as Markdown.

use std::fmt::Write;

use crate::ceiling::{Ceiling, Ceilings};
use crate::flops::Stages;
use crate::machine::Machine;
use crate::record::number;
use crate::{kernels, policy};

/// Everything that was measured in one session.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) machine: &'a Machine,
    /// What else the numbers depend on, a line each.
    pub(crate) remarks: Vec<String>,
    pub(crate) ceilings: &'a Ceilings,
    pub(crate) policies: Vec<policy::Row>,
    pub(crate) kernels: Vec<kernels::Row>,
    pub(crate) failures: &'a [String],
}

impl Report<'_> {
    /// The page.
    pub(crate) fn markdown(&self) -> String {
        let mut page = head(self.machine);
        for remark in &self.remarks {
            page.push_str(&format!("- {remark}\n"));
        }
        page.push_str(&ceilings(self.ceilings));
        if !self.policies.is_empty() {
            page.push_str(&policies(&self.policies));
        }
        if !self.kernels.is_empty() {
            page.push_str(&kernel_table(&self.kernels));
        }
        if !self.failures.is_empty() {
            page.push_str("\n## Not measured\n\n");
            for failure in self.failures {
                page.push_str(&format!("- {}\n", failure.replace('\n', " ")));
            }
        }
        page
    }
}

fn head(machine: &Machine) -> String {
    let memory = machine
        .memory_bytes
        .map(|bytes| format!(", {:.0} GB of memory", bytes as f64 / 1e9))
        .unwrap_or_default();
    format!(
        "# Benchmark: {}, {} {} UTC\n\n- {}, {} core(s){memory}; {}\n- smolvla {} at {}, {}\n",
        machine.name,
        machine.date,
        machine.time,
        machine.processor,
        machine.cores,
        if machine.flags.is_empty() { "baseline instructions".to_owned() } else { machine.flags.join(" ") },
        env!("CARGO_PKG_VERSION"),
        machine.revision,
        machine.compiler,
    )
}

fn ceilings(ceilings: &Ceilings) -> String {
    let threads: Vec<usize> = ceilings
        .compute
        .first()
        .map(|ceiling| ceiling.rates.iter().map(|(threads, _)| *threads).collect())
        .unwrap_or_default();
    let columns: Vec<String> = threads.iter().map(|count| format!("{count} thread(s)")).collect();
    let mut table =
        Table::new(&[&["ceiling"][..], &columns.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    let rows = |unit: &'static str| {
        let threads = &threads;
        move |ceiling: &Ceiling| {
            let mut row = vec![ceiling.name.clone()];
            row.extend(threads.iter().map(|count| match ceiling.rate(*count) {
                Some(rate) => format!("{} {unit}", short(rate)),
                None => "–".to_owned(),
            }));
            row
        }
    };
    for row in ceilings.compute.iter().map(rows("GFLOP/s")).chain(ceilings.reading.iter().map(rows("GB/s"))) {
        table.row(row);
    }
    let mut text = format!("\n## Ceilings\n\nRegisters only, and reading.\n\n{}", table.finish());
    if !ceilings.skipped.is_empty() {
        text.push_str(&format!("\nNot there: {}.\n", ceilings.skipped.join("; ")));
    }
    text
}

fn policies(rows: &[policy::Row]) -> String {
    let compared = rows.iter().any(|row| row.times_faster.is_some());
    let mut columns = vec![
        "engine",
        "precision",
        "isa",
        "cameras",
        "batch",
        "threads",
        "preprocess",
        "vision",
        "prefill",
        "denoise",
        "total ms",
        "least–most",
        "peak MB",
        "load s",
    ];
    if compared {
        columns.push("times faster than LeRobot bf16");
    }
    let mut times = Table::new(&columns);
    let mut rates = Table::new(&[
        "precision",
        "isa",
        "cameras",
        "batch",
        "threads",
        "vision GFLOP/s",
        "prefill GFLOP/s",
        "denoise GFLOP/s",
        "denoise: weights GB/s",
    ]);
    for row in rows {
        times.row(time_cells(row, compared));
        if row.gflops != Stages::default() {
            rates.row(rate_cells(row));
        }
    }
    let mut text = format!("\n## Whole policy\n\nMedians of {} runs, in ms.\n\n", runs(rows));
    text.push_str(&times.finish());
    for row in rows {
        if let Some(note) = &row.note {
            text.push_str(&format!("\n{}: {note}\n", row.engine));
        }
    }
    text.push_str(
        "\n## Share of the ceiling\n\nIn brackets: percent of the ceiling, each layer's of its own precision.\n\n",
    );
    text.push_str(&rates.finish());
    text
}

fn time_cells(row: &policy::Row, compared: bool) -> Vec<String> {
    let mut cells = vec![
        row.engine.clone(),
        or_dash(&row.precision),
        or_dash(&row.isa),
        row.cameras.to_string(),
        row.batch.to_string(),
        row.threads.to_string(),
        number(row.preprocess_ms),
        or_dash(&row.stages_ms.vision.map(number).unwrap_or_default()),
        or_dash(&row.stages_ms.prefill.map(number).unwrap_or_default()),
        or_dash(&row.stages_ms.denoise.map(number).unwrap_or_default()),
        number(row.total_ms),
        format!("{}–{}", number(row.total_min_ms), number(row.total_max_ms)),
        short(row.peak_memory_mb),
        format!("{:.1}", row.load_s),
    ];
    if compared {
        cells.push(row.times_faster.map_or_else(|| "–".to_owned(), |times| format!("{times:.2}")));
    }
    cells
}

fn rate_cells(row: &policy::Row) -> Vec<String> {
    let share = |of: fn(&Stages<Option<f64>>) -> Option<f64>| {
        let rate = of(&row.gflops).map(short).unwrap_or_default();
        format!("{}{}", or_dash(&rate), in_brackets(of(&row.percent_of_ceiling)))
    };
    vec![
        or_dash(&row.precision),
        or_dash(&row.isa),
        row.cameras.to_string(),
        row.batch.to_string(),
        row.threads.to_string(),
        share(|stages| stages.vision),
        share(|stages| stages.prefill),
        share(|stages| stages.denoise),
        row.denoise_weights_gb_s.map_or_else(|| "–".to_owned(), |rate| format!("{rate:.1}")),
    ]
}

fn kernel_table(rows: &[kernels::Row]) -> String {
    let mut table = Table::new(&[
        "kernel",
        "shape",
        "precision",
        "isa",
        "threads",
        "runs",
        "median ms",
        "GFLOP/s (ceiling)",
    ]);
    for row in rows {
        table.row(vec![
            row.kernel.clone(),
            row.shape.clone(),
            row.precision.clone(),
            or_dash(&row.isa),
            row.threads.to_string(),
            row.runs.to_string(),
            number(row.median_ms),
            format!("{}{}", short(row.gflops), in_brackets(row.percent_of_ceiling)),
        ]);
    }
    format!(
        "\n## Kernels\n\nOne operation through the backend, its weights warm in the cache.\n\n{}",
        table.finish()
    )
}

fn runs(rows: &[policy::Row]) -> usize {
    rows.iter().map(|row| row.runs).max().unwrap_or(0)
}

fn in_brackets(percent: Option<f64>) -> String {
    percent.map(|percent| format!(" ({percent:.0} %)")).unwrap_or_default()
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "–".to_owned() } else { text.to_owned() }
}

/// A rate or a size for people: three digits below a thousand, whole above.
fn short(value: f64) -> String {
    match value.abs() {
        v if v < 10.0 => format!("{value:.2}"),
        v if v < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A Markdown table whose columns are as wide as their widest cell.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(columns: &[&str]) -> Self {
        Self { rows: vec![columns.iter().map(|column| (*column).to_owned()).collect()] }
    }

    fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.rows[0].len());
        // A bar would end the cell.
        self.rows.push(cells.into_iter().map(|cell| cell.replace('|', "\\|")).collect());
    }

    fn finish(self) -> String {
        let widths: Vec<usize> = (0..self.rows[0].len())
            .map(|column| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3))
            .collect();
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a string cannot fail.
                let _ = write!(text, "| {cell:<width$} ");
            }
            text.push_str("|\n");
            if index == 0 {
                for width in &widths {
                    let _ = write!(text, "|{}", "-".repeat(width + 2));
                }
                text.push_str("|\n");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_padded_and_bars_escaped() {
        let mut table = Table::new(&["a", "long"]);
        table.row(vec!["x|y".to_owned(), "–".to_owned()]);
        assert_eq!(table.finish(), "| a    | long |\n|------|------|\n| x\\|y | –    |\n");
    }

    #[test]
    fn ceilings_name_what_is_not_there() {
        let text = ceilings(&Ceilings {
            compute: vec![Ceiling {
                name: "fma".into(),
                arithmetic: None,
                rates: vec![(1, 99.94), (2, 200.4)],
            }],
            reading: vec![Ceiling { name: "L2".into(), arithmetic: None, rates: vec![(1, 5.0)] }],
            skipped: vec!["AMX: no such instruction".into()],
        });
        assert!(text.contains("| fma     | 99.9 GFLOP/s | 200 GFLOP/s |"), "{text}");
        assert!(text.contains("| L2      | 5.00 GB/s    | –           |"), "{text}");
        assert!(text.contains("Not there: AMX: no such instruction."), "{text}");
    }
}
