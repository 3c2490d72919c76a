//! The matrices of stages as heat maps: one block a part of the model, one row a variant.
//!
//! Blocks, and not one table of a hundred columns, so that they wrap on a narrow window and on paper. Colours run
//! from quiet (agreement) to strong (none) in one hue, with the number in every cell: no colour has to be told
//! from another to read it.

use std::ops::Range;

use maud::{Markup, html};

use crate::report::format;
use crate::report::model::Report;
use crate::report::summary::{self, BANDS, Cell, MOST_NINES, Matrix, Running, matrix};

/// Both matrices with their legend; says so where no stage was compared.
pub(super) fn matrices(report: &Report) -> Markup {
    let matrices = Running::ALL.map(|running| (running, matrix(report, running)));
    let shown = || matrices.iter().filter(|(_, matrix)| !matrix.rows.is_empty());
    html! {
        @if shown().next().is_none() {
            p.soft { "No stage was compared." }
        } @else {
            p.text.soft {
                "Each cell is the lowest correlation with LeRobot over all cases, as its number of nines, "
                "−log₁₀(1\u{a0}−\u{a0}PCC): 3 is 0.999, 6 is 0.999999. Point at a cell for PCC, NMSE and the case."
            }
            (legend())
        }
        @for (running, matrix) in shown() {
            h3 { (running.title()) }
            div.maps {
                @for (title, columns) in matrix.blocks() { (block(matrix, title, columns)) }
            }
        }
    }
}

fn legend() -> Markup {
    html! {
        div.legend {
            div.bands aria-label="Bands of the heat map by number of nines" {
                span.b0 { "< " (BANDS[0]) }
                @for (band, range) in BANDS.windows(2).enumerate() {
                    span.{ "b" (band + 1) } { (range[0]) "–" (range[1]) }
                }
                span.{ "b" (BANDS.len()) } { "≥ " (BANDS[BANDS.len() - 1]) }
            }
            span { b.bad { "Outlined" } " with ✕: breaks its limit" }
            span { b.bad { "NaN" } ": elements that are not finite" }
            span { "–: not compared" }
        }
    }
}

fn block(matrix: &Matrix<'_>, title: &str, columns: Range<usize>) -> Markup {
    html! {
        div.map {
            h4 { (title) }
            div.scroll tabindex="0" role="region" aria-label=(title) {
                table {
                    thead {
                        tr {
                            td.pin {}
                            @for column in &matrix.columns[columns.clone()] { th scope="col" { (column.heading()) } }
                        }
                    }
                    tbody {
                        @for (variant, cells) in &matrix.rows {
                            tr {
                                th.pin scope="row" { (variant.label()) }
                                @for cell in &cells[columns.clone()] { (heat(cell.as_ref())) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn heat(cell: Option<&Cell<'_>>) -> Markup {
    let Some(cell) = cell else { return html! { td.none { "–" } } };
    let title = describe(cell);
    match cell.nines() {
        None => html! { td.heat.nan.broken[cell.broken] title=(title) { "NaN" } },
        Some(nines) => html! {
            td.heat.{ "b" (summary::band(nines)) }.broken[cell.broken] title=(title) {
                (nines_text(nines)) @if cell.broken { span.x { "✕" } }
            }
        },
    }
}

/// `7.4`, `15+`
fn nines_text(nines: f64) -> String {
    // Rounded down, so that a number never belongs to a better band than its cell's.
    if nines >= MOST_NINES {
        format!("{MOST_NINES}+")
    } else {
        format!("{:.1}", (nines * 10.0).floor() / 10.0)
    }
}

/// Two lines for the pointer: the numbers, and where they are from.
fn describe(cell: &Cell<'_>) -> String {
    let (check, stage) = cell.worst;
    let numbers = if cell.is_finite() {
        format!("PCC {}, NMSE {}", format::pcc(cell.pcc), format::number(cell.nmse))
    } else {
        format::count(cell.non_finite, "element") + " not finite"
    };
    let limit = if cell.broken { ", breaks its limit" } else { "" };
    format!("{numbers}{limit}\n{stage} in {check}, worst of {}", format::count(cell.count, "comparison"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: Cell<'static> = Cell {
        pcc: 0.999,
        nmse: 1e-3,
        non_finite: 0,
        count: 2,
        broken: false,
        worst: ("free_<a>", "vision.0.layers.1"),
    };

    #[test]
    fn cells_show_nines_and_escape_names() {
        let text = heat(Some(&CELL)).into_string();
        assert!(text.contains(">3.0</td>") && text.contains("class=\"heat b3\""), "{text}");
        assert!(text.contains("NMSE 0.001") && text.contains("free_&lt;a&gt;"), "{text}");
    }

    #[test]
    fn what_is_not_finite_has_no_band() {
        let text = heat(Some(&Cell { non_finite: 3, pcc: 1.0, ..CELL })).into_string();
        assert!(text.contains(">NaN</td>") && text.contains("3 elements not finite"), "{text}");
        assert!(!text.contains(" b7"), "{text}");
    }

    #[test]
    fn broken_cells_are_marked_by_more_than_colour() {
        let text = heat(Some(&Cell { broken: true, ..CELL })).into_string();
        assert!(text.contains("3.0<span class=\"x\">✕") && text.contains("broken"), "{text}");
    }
}
