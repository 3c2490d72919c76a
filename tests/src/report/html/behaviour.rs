//! Behaviour at the tabletop task: a drawing of the rates, and the table.

use maud::{Markup, html};

use super::{capital, none, scroll};
use crate::report::behaviour::{BEHAVIOUR_NOTE, Behaviour, COLUMNS};

/// Units of the drawing: the axis, the numbers beside it, the height of a row, and a letter, somewhat more than it takes.
const AXIS: f64 = 380.0;
const NUMBERS: f64 = 130.0;
const ROW: f64 = 24.0;
const LETTER: f64 = 6.5;

/// Columns of words: so many first, then as many last.
const WORDS: usize = 2;

/// The section's content; says so where nothing was run.
pub(super) fn behaviour(behaviour: Option<&Behaviour>) -> Markup {
    let Some(behaviour) = behaviour else {
        return none("Not run. `cargo xtask rollout` runs it; `--rollout FILE` puts its results here.");
    };
    html! {
        p.text { (behaviour.sentence()) }
        (scroll("Success rates", &drawing(behaviour)))
        p.text.soft { (BEHAVIOUR_NOTE) }
        (scroll("Behaviour", &table(behaviour)))
        ul {
            @for note in &behaviour.notes { li.small { (note) } }
            @for (row, remark) in behaviour.remarks() { li.small { b { (row) } ": " (remark) } }
        }
    }
}

/// A dot a row with its interval; LeRobot's rate, the first row's, as a line through all.
fn drawing(behaviour: &Behaviour) -> Markup {
    let bottom = ROW * behaviour.rows.len() as f64;
    let longest = behaviour.rows.iter().map(|row| row.name().chars().count()).max().unwrap_or(0);
    let start = 24.0 + LETTER * longest as f64;
    let (end, width) = (start + AXIS, start + AXIS + NUMBERS);
    let across = |share: f64| start + share * AXIS;
    html! {
        svg.rates viewBox={ "0 0 " (width) " " (bottom + 22.0) } role="img" aria-label="Success rates with 95 % intervals" {
            @for tenth in [0, 2, 4, 6, 8, 10] {
                @let x = across(f64::from(tenth) / 10.0);
                line.grid x1=(x) x2=(x) y1="0" y2=(bottom) {}
                text x=(x) y=(bottom + 16.0) text-anchor="middle" { (tenth * 10) " %" }
            }
            @if let Some(first) = behaviour.rows.first() {
                @let x = across(first.overall.share());
                line.zero x1=(x) x2=(x) y1="0" y2=(bottom) stroke-dasharray="3 3" {}
            }
            @for (index, row) in behaviour.rows.iter().enumerate() {
                @let y = ROW * (index as f64 + 0.5);
                @let (low, high) = row.overall.interval;
                @let color = if index == 0 { "k6" } else if row.condition.is_control() { "k1" } else { "k0" };
                text x=(start - 12.0) y=(y + 4.0) text-anchor="end" { (row.name()) }
                @if row.failed.is_none() {
                    line.{ "interval " (color) } x1=(across(low)) x2=(across(high)) y1=(y) y2=(y) {}
                    circle.{ "dot " (color) } cx=(across(row.overall.share())) cy=(y) r="4.5" {}
                }
                text x=(end + 12.0) y=(y + 4.0) { (row.outcome()) }
            }
        }
    }
}

fn table(behaviour: &Behaviour) -> Markup {
    html! {
        table.full {
            thead {
                tr {
                    th.pin scope="col" { (capital(COLUMNS[0])) }
                    @for column in &COLUMNS[1..WORDS] { th scope="col" { (capital(column)) } }
                    @for column in &COLUMNS[WORDS..COLUMNS.len() - WORDS] { th.num scope="col" { (capital(column)) } }
                    @for column in &COLUMNS[COLUMNS.len() - WORDS..] { th scope="col" { (capital(column)) } }
                }
            }
            tbody {
                @for row in &behaviour.rows {
                    tr {
                        th.pin.nowrap scope="row" {
                            (row.label)
                            @if row.emulated.is_some() { div { span.tag.note { "EMULATED" } } }
                        }
                        td.nowrap { (row.condition.name()) }
                        @for cell in row.numbers() { td.num { (cell) } }
                        td.prose { (row.numerics()) }
                        td.prose {
                            (row.device)
                            @if let Some(stand_in) = &row.emulated { div { span.tag.wide.note { "Emulated by " (stand_in) } } }
                        }
                    }
                }
            }
        }
    }
}
