//! Modelled times as tables.

use std::fmt;

use smolvla_core::cost::Bound;

use super::{Activations, FIRST_PORT, Latency, STAGES, Sums};

/// A table of modelled times, to print or to put into a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What it is about; begins with "modelled".
    pub title: String,
    /// Headings. The first column is text, the others are numbers.
    pub head: Vec<String>,
    /// As many cells each.
    pub rows: Vec<Vec<String>>,
    /// What must be known about it.
    pub notes: Vec<String>,
}

impl Table {
    /// The same for a page in Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("**{}**\n\n{}|---|", self.title, line(&self.head));
        text.push_str(&"---:|".repeat(self.head.len().saturating_sub(1)));
        text.push('\n');
        text.extend(self.rows.iter().map(|row| line(row)));
        text.extend(self.notes.iter().map(|note| format!("\n{note}\n")));
        text
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = std::iter::once(&self.head).chain(&self.rows).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        writeln!(f, "{}", self.title)?;
        for row in std::iter::once(&self.head).chain(&self.rows) {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(f, "{cell:<width$}")?,
                    _ => write!(f, "  {cell:>width$}")?,
                }
            }
            writeln!(f)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// What must be said wherever the first port's numbers stand beside these.
const NOT_COMPARABLE: &str = "The first port measured another model on another graph (no rotary embedding, 12 heads of 80, no state, no noise; \
     cameras not said; bfp8, LoFi, untraced) and 77 ms of preprocessing on the CPU beside it, 229 ms in all by its own account.";

fn ms(seconds: f64) -> String {
    format!("{:.2}", seconds * 1e3)
}

fn heads(heads: &[&str]) -> Vec<String> {
    heads.iter().map(|head| (*head).to_owned()).collect()
}

fn cameras(count: usize) -> String {
    if count == 1 { "1 camera".to_owned() } else { format!("{count} cameras") }
}

impl Latency {
    /// The stages, what each is made of, and the first port's own table beside them.
    pub fn table(&self) -> Table {
        let row = |name: &str, sums: &Sums, port: f64| {
            let bound = sums.bound();
            vec![
                name.to_owned(),
                sums.kernels.to_string(),
                ms(sums.matrix),
                ms(sums.vector),
                ms(sums.memory),
                ms(sums.floor),
                ms(sums.total),
                format!("{}, {:.0} %", word(bound), 100.0 * sums.share(bound)),
                format!("{port:.0}"),
            ]
        };
        let mut rows: Vec<_> = STAGES
            .iter()
            .map(|stage| row(stage.name(), self.stage(*stage), FIRST_PORT.stage(*stage)))
            .collect();
        rows.push(row("all", &self.total, FIRST_PORT.stages()));
        let mut notes = vec![NOT_COMPARABLE.to_owned()];
        notes.extend(self.notes.iter().cloned());
        Table {
            title: format!("modelled, not measured: {}, ms a chunk", self.describe()),
            head: heads(&[
                "stage",
                "kernels",
                "matrix",
                "vector",
                "memory",
                "floors",
                "modelled",
                "bound by",
                "first port, measured",
            ]),
            rows,
            notes,
        }
    }

    fn describe(&self) -> String {
        let on_chip = match self.settings.activations {
            Activations::Gddr6 => "",
            Activations::L1 => ", activations in L1",
        };
        format!(
            "p150 of {} cores, plan {}, {}, {} steps, {}, {}{on_chip}",
            self.settings.card.cores,
            self.plan,
            cameras(self.cameras),
            self.steps,
            self.settings.launch.name(),
            self.settings.fusing.name(),
        )
    }
}

/// A term's name here: [`Bound::name`] is about peaks.
fn word(bound: Bound) -> &'static str {
    match bound {
        Bound::Compute => "matrix",
        Bound::Elementwise => "vector",
        Bound::Bandwidth => "memory",
        Bound::Floor => "floors",
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table().fmt(f)
    }
}

/// Several latencies, a row each, and the first port's.
pub fn compare(latencies: &[Latency]) -> Table {
    let row = |latency: &Latency| {
        let [vision, prefill, denoise] = latency.stages.map(|stage| ms(stage.total));
        let kernels = latency.total.kernels.to_string();
        let bound = word(latency.total.bound()).to_owned();
        vec![latency.describe(), kernels, vision, prefill, denoise, ms(latency.total.total), bound]
    };
    let mut rows: Vec<_> = latencies.iter().map(row).collect();
    let mut port = vec!["measured: the first port, its own model".to_owned(), "—".to_owned()];
    port.extend(STAGES.map(|stage| format!("{:.0}", FIRST_PORT.stage(stage))));
    port.extend([format!("{:.0}", FIRST_PORT.stages()), "—".to_owned()]);
    rows.push(port);
    let mut notes = vec![NOT_COMPARABLE.to_owned()];
    for note in latencies.iter().flat_map(|latency| &latency.notes) {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    Table {
        title: "modelled, not measured: ms a chunk".to_owned(),
        head: heads(&["modelled", "kernels", "vision", "prefill", "denoise", "all", "bound by"]),
        rows,
        notes,
    }
}
