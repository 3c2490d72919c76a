//! The waterfall: steps that follow each other, one a row.

use plotters::style::RGBColor;

use super::axis::{linear_ticks, numbers};
use super::canvas::{Canvas, Mark, Pen, Rect};
use super::palette::{Palette, readable_on};
use super::{LARGEST, MOST_COLORS, Waterfall, check_amount, check_count, check_group, refuse};
use crate::failure::Failure;

const WIDTH: u32 = 1000;
/// The picture becomes higher where this has no room for the rows, and lower where they are few.
const HEIGHT: u32 = 560;
const MOST_STEPS: usize = 100;
const PLOT_RIGHT: f64 = 966.0;
const LONGEST_LABEL: f64 = 270.0;
const LONGEST_UNIT: f64 = 90.0;
const LOWEST_ROW: f64 = 20.0;
const HIGHEST_ROW: f64 = 64.0;
const HIGHEST_BAR: f64 = 30.0;
/// Of the axis with its labels and title.
const FOOT: f64 = 62.0;

/// Draws the chart.
pub(super) fn draw(chart: &Waterfall, palette: &Palette) -> Result<Canvas, Failure> {
    let total = check(chart)?;
    let rows = chart.steps.len() + 1;
    let mut canvas = Canvas::new((WIDTH, HEIGHT), &chart.title, &chart.subtitle, palette)?;
    let entries: Vec<_> = chart
        .groups
        .iter()
        .enumerate()
        .map(|(group, name)| (Mark::Square(palette.group(group)), name.as_str()))
        .collect();
    let top = canvas.legend(&entries, (24.0, 86.0), Pen::new(13.0, palette.ink)) - 6.0;
    let row = ((f64::from(HEIGHT) - FOOT - top) / rows as f64).clamp(LOWEST_ROW, HIGHEST_ROW);
    let bottom = (top + rows as f64 * row).round();
    canvas.set_height((bottom + FOOT) as u32);

    let pen = Pen::new(12.0, palette.ink);
    let unit = pen.fit(&chart.unit, LONGEST_UNIT);
    let labels: Vec<_> = chart.steps.iter().map(|step| pen.fit(&step.label, LONGEST_LABEL)).collect();
    let widest = labels.iter().map(|label| pen.width(label)).fold(60.0, f64::max);
    let area = Rect { left: 24.0 + widest + 14.0, top, right: PLOT_RIGHT, bottom };
    let plot = Plot { area, row, most: total.max(1.0 / LARGEST) };
    plot.draw_axis(&mut canvas, &unit, total, palette);

    let values: Vec<f64> = chart.steps.iter().map(|step| step.value).chain([total]).collect();
    let values: Vec<_> = numbers(&values).iter().map(|value| format!("{value} {unit}")).collect();
    let mut start = 0.0;
    for (row, (step, label)) in chart.steps.iter().zip(&labels).enumerate() {
        let bar = plot.bar(row, start, start + step.value);
        start += step.value;
        canvas.rect(bar, palette.group(step.group));
        // Down to where the next step begins.
        let next = plot.bar(row + 1, start, start);
        canvas.line((plot.x(start), bar.bottom), (plot.x(start), next.top), 1, palette.pale);
        plot.draw_label(&mut canvas, row, label, pen);
        plot.draw_value(&mut canvas, bar, (&values[row], &step.note), palette.group(step.group), palette);
    }
    let bar = plot.bar(rows - 1, 0.0, total);
    canvas.rect(bar, palette.faint);
    plot.draw_label(&mut canvas, rows - 1, "total", pen.bold());
    plot.draw_value(&mut canvas, bar, (&values[rows - 1], ""), palette.faint, palette);
    Ok(canvas)
}

/// The total of all steps.
fn check(chart: &Waterfall) -> Result<f64, Failure> {
    if chart.steps.is_empty() {
        return Err(refuse(&format!("“{}” has no steps", chart.title)));
    }
    check_count(chart.groups.len(), MOST_COLORS, "groups")?;
    check_count(chart.steps.len(), MOST_STEPS, "steps")?;
    for step in &chart.steps {
        check_amount(step.value, "the value", &step.label)?;
        check_group(step.group, &chart.groups, &step.label)?;
    }
    let total = chart.steps.iter().map(|step| step.value).sum::<f64>();
    if total > LARGEST {
        return Err(refuse(&format!("the total of “{}” is too large", chart.title)));
    }
    Ok(total)
}

struct Plot {
    area: Rect,
    /// Height of a row.
    row: f64,
    /// The value at the right edge.
    most: f64,
}

impl Plot {
    fn x(&self, value: f64) -> f64 {
        // A sum of the parts may end a little beyond the total.
        self.area.left + (value / self.most).min(1.0) * (self.area.right - self.area.left)
    }

    fn middle(&self, row: usize) -> f64 {
        self.area.top + self.row * (row as f64 + 0.5)
    }

    fn bar(&self, row: usize, from: f64, to: f64) -> Rect {
        let half = (self.row * 0.72).min(HIGHEST_BAR) / 2.0;
        let (left, middle) = (self.x(from), self.middle(row));
        // The shortest step can still be seen.
        let right = self.x(to).max(left + 2.0);
        Rect { left, top: (middle - half).round(), right, bottom: (middle + half).round() }
    }

    fn draw_axis(&self, canvas: &mut Canvas, unit: &str, total: f64, palette: &Palette) {
        let Rect { left, top, right, bottom } = self.area;
        let pen = Pen::new(12.0, palette.faint).centered();
        let ticks = linear_ticks(total, 7);
        for (value, label) in ticks.iter().filter(|(value, _)| *value <= self.most) {
            let x = self.x(*value);
            canvas.line((x, top), (x, bottom + 5.0), 1, palette.grid);
            canvas.words(label, (x, bottom + 20.0), pen);
        }
        canvas.line((left, top), (left, bottom), 1, palette.faint);
        let pen = Pen::new(13.0, palette.ink).centered();
        canvas.words(unit, ((left + right) / 2.0, bottom + 44.0), pen);
    }

    fn draw_label(&self, canvas: &mut Canvas, row: usize, label: &str, pen: Pen) {
        canvas.words(label, (self.area.left - 10.0, self.middle(row) + pen.half_height()), pen.right());
    }

    /// Writes a value and its note where there is room: right of the bar, left of it, or on it.
    fn draw_value(
        &self,
        canvas: &mut Canvas,
        bar: Rect,
        (value, note): (&str, &str),
        color: RGBColor,
        palette: &Palette,
    ) {
        const APART: f64 = 7.0;
        let pen = Pen::new(12.0, palette.ink).bold();
        let note_pen = Pen::new(12.0, palette.faint);
        let own = pen.width(value);
        let wide = |note: &str| if note.is_empty() { own } else { own + APART + note_pen.width(note) };
        let right = self.area.right - bar.right - 2.0 * APART;
        let left = bar.left - self.area.left - 2.0 * APART;
        let inside = bar.right - bar.left - 2.0 * APART;
        let width = wide(note);
        let room = [right, left, inside].into_iter().find(|room| *room >= width);
        let room = room.unwrap_or_else(|| right.max(left).max(inside));
        let note = if width > room { note_pen.fit(note, room - own - APART) } else { note.to_owned() };
        let width = wide(&note);
        let (x, value_color, note_color) = if room == right {
            (bar.right + APART, palette.ink, palette.faint)
        } else if room == left {
            (bar.left - APART - width, palette.ink, palette.faint)
        } else {
            (bar.left + APART, readable_on(color), readable_on(color))
        };
        let y = (bar.top + bar.bottom) / 2.0 + pen.half_height();
        // The vertical lines of the grid would run through the letters.
        if room == right || room == left {
            let behind = Rect { left: x - 2.0, top: y - 11.0, right: x + width + 2.0, bottom: y + 4.0 };
            canvas.rect(behind, palette.background);
        }
        canvas.words(value, (x, y), Pen { color: value_color, ..pen });
        canvas.words(&note, (x + own + APART, y), Pen { color: note_color, ..note_pen });
    }
}
