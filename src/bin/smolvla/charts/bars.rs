//! Stacked bars.

use super::axis::{linear_ticks, numbers};
use super::canvas::{Canvas, Mark, Pen, Rect};
use super::palette::{Palette, readable_on};
use super::{Bars, LARGEST, MOST_COLORS, check_amount, check_count, refuse};
use crate::failure::Failure;

const SIZE: (u32, u32) = (1000, 560);
const PLOT_RIGHT: f64 = 976.0;
const MOST_BARS: usize = 120;
/// Longest label of a bar that stands upright, in pixels.
const LONGEST_UPRIGHT: f64 = 120.0;
/// Narrowest place for an upright label.
const NARROWEST: f64 = 15.0;
const WIDEST_BAR: f64 = 84.0;
/// In narrower bars only some numbers had room, by chance.
const NARROWEST_WITH_NUMBERS: f64 = 44.0;

/// Draws the chart.
pub(super) fn draw(chart: &Bars, palette: &Palette) -> Result<Canvas, Failure> {
    let totals = check(chart)?;
    let mut canvas = Canvas::new(SIZE, &chart.title, &chart.subtitle, palette)?;
    let entries: Vec<_> = chart
        .series
        .iter()
        .enumerate()
        .map(|(series, name)| (Mark::Square(palette.group(series)), name.as_str()))
        .collect();
    let top = canvas.legend(&entries, (24.0, 86.0), Pen::new(13.0, palette.ink));

    let ticks = linear_ticks(totals.iter().copied().fold(0.0, f64::max), 6);
    let tick_pen = Pen::new(12.0, palette.faint).right();
    let widest = ticks.iter().map(|(_, label)| tick_pen.width(label)).fold(0.0, f64::max);
    let left = 58.0 + widest;
    let slot = (PLOT_RIGHT - left) / chart.bars.len() as f64;
    // Where bars are too many, only each so many has its words.
    let every = (NARROWEST / slot).ceil().max(1.0) as usize;

    let names = Words::of(chart.bars.iter().map(|bar| &*bar.label), slot, Pen::new(12.0, palette.ink));
    let totals_pen = Pen::new(12.0, palette.ink).bold();
    let sums = numbers(&totals);
    let sums = Words::of(sums.iter().map(String::as_str), slot, totals_pen);
    let bottom = f64::from(SIZE.1) - 46.0 - names.height;
    let area = Rect { left, top: top + sums.height + 2.0, right: PLOT_RIGHT, bottom };

    let most = ticks.last().map_or(1.0, |tick| tick.0);
    let height = |value: f64| value / most * (area.bottom - area.top);
    for (value, label) in &ticks {
        let y = area.bottom - height(*value);
        canvas.line((left, y), (PLOT_RIGHT, y), 1, palette.grid);
        canvas.words(label, (left - 8.0, y + tick_pen.half_height()), tick_pen);
    }
    for (index, (bar, total)) in chart.bars.iter().zip(&totals).enumerate() {
        let center = left + slot * (index as f64 + 0.5);
        let half = (slot * 0.7).min(WIDEST_BAR) / 2.0;
        let mut base = 0.0;
        for ((series, value), label) in bar.values.iter().enumerate().zip(numbers(&bar.values)) {
            let rect = Rect {
                left: center - half,
                top: area.bottom - height(base + value),
                right: center + half,
                bottom: area.bottom - height(base),
            };
            base += value;
            // Less than half a pixel would be drawn as nothing, or as more than it is.
            if rect.bottom - rect.top < 0.5 {
                continue;
            }
            let color = palette.group(series);
            canvas.rect(rect, color);
            let pen = Pen::new(11.0, readable_on(color)).centered();
            // A bar of one part has its number above it already.
            let has_room = rect.bottom - rect.top > 17.0
                && half * 2.0 >= NARROWEST_WITH_NUMBERS
                && pen.width(&label) < half * 2.0 - 4.0;
            if has_room && value < total {
                canvas.words(&label, (center, (rect.top + rect.bottom) / 2.0 + pen.half_height()), pen);
            }
        }
        if index % every == 0 {
            sums.write(&mut canvas, index, (center, area.bottom - height(*total) - 6.0), true);
            names.write(&mut canvas, index, (center, area.bottom + 8.0), false);
        }
    }
    canvas.line((left, area.bottom), (PLOT_RIGHT, area.bottom), 1, palette.faint);
    let pen = Pen::new(13.0, palette.ink).centered();
    canvas.words(&pen.fit(&chart.x_label, PLOT_RIGHT - left), ((left + PLOT_RIGHT) / 2.0, 542.0), pen);
    let y_label = pen.fit(&chart.y_label, area.bottom - area.top);
    canvas.words(&y_label, (32.0, (area.top + area.bottom) / 2.0), pen.upward());
    Ok(canvas)
}

/// The total of each bar.
fn check(chart: &Bars) -> Result<Vec<f64>, Failure> {
    if chart.bars.is_empty() || chart.series.is_empty() {
        return Err(refuse(&format!("“{}” has no bars", chart.title)));
    }
    check_count(chart.series.len(), MOST_COLORS, "series")?;
    check_count(chart.bars.len(), MOST_BARS, "bars")?;
    let mut totals = Vec::new();
    for bar in &chart.bars {
        let (values, series) = (bar.values.len(), chart.series.len());
        if values != series {
            return Err(refuse(&format!("“{}” has {values} values for {series} series", bar.label)));
        }
        for (value, series) in bar.values.iter().zip(&chart.series) {
            check_amount(*value, &format!("the value “{series}”"), &bar.label)?;
        }
        let total = bar.values.iter().sum::<f64>();
        if total > LARGEST {
            return Err(refuse(&format!("the total of “{}” is too large", bar.label)));
        }
        totals.push(total);
    }
    Ok(totals)
}

/// The words below or above all bars: level where all have room, else upright.
struct Words {
    words: Vec<String>,
    pen: Pen,
    /// Of the highest.
    height: f64,
}

impl Words {
    fn of<'a>(words: impl Iterator<Item = &'a str>, slot: f64, pen: Pen) -> Self {
        let words: Vec<String> = words.map(|words| pen.fit(words, LONGEST_UPRIGHT)).collect();
        let widest = words.iter().map(|words| pen.width(words)).fold(0.0, f64::max);
        if widest <= slot - 6.0 {
            Self { words, pen: pen.centered(), height: 20.0 }
        } else {
            Self { words, pen: pen.upward(), height: widest + 10.0 }
        }
    }

    /// Writes one of them above or below a place.
    fn write(&self, canvas: &mut Canvas, index: usize, (x, y): (f64, f64), above: bool) {
        let pen = self.pen;
        let (at, pen) = match (pen.upward, above) {
            (false, true) => ((x, y), pen),
            (false, false) => ((x, y + pen.size), pen),
            (true, true) => ((x + pen.half_height(), y), pen),
            (true, false) => ((x + pen.half_height(), y), pen.right()),
        };
        canvas.words(&self.words[index], at, pen);
    }
}
