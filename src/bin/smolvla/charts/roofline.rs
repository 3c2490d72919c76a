//! The roofline: what a device can do at most, and where the parts of a model stand below it.

use plotters::style::RGBColor;

use super::axis::{LogAxis, engineering, number};
use super::canvas::{Canvas, Mark, Pen, Rect, Spot};
use super::labels::{Labelled, Surroundings, place};
use super::palette::Palette;
use super::{
    Ceiling, MOST_COLORS, Point, Roofline, check_amount, check_count, check_group, check_positive, refuse,
};
use crate::failure::Failure;

const SIZE: (u32, u32) = (1200, 760);
const PLOT_LEFT: f64 = 118.0;
/// The labels of the ceilings stand right of this.
const PLOT_RIGHT: f64 = 1032.0;
const PLOT_BOTTOM: f64 = 690.0;
const MOST_POINTS: usize = 60;
const MOST_CEILINGS: usize = 16;
/// Marker of a point that takes all of the time.
const LARGEST_RADIUS: f64 = 26.0;
const SMALLEST_RADIUS: f64 = 4.5;
/// Part of the plot's height above the highest ceiling in use that is for labels of points which reach it.
const HEADROOM: f64 = 0.27;
/// What it costs a label to hide a part of the roof, in pixels of distance from its marker.
const ON_ROOF: f64 = 160.0;
const ON_FAINT_LINE: f64 = 45.0;
const LABEL_SIZES: [f64; 3] = [12.0, 11.0, 10.0];
const DASHES: (f64, f64) = (8.0, 6.0);
const DOTS: (f64, f64) = (2.0, 4.0);

/// Draws the chart.
pub(super) fn draw(chart: &Roofline, palette: &Palette) -> Result<Canvas, Failure> {
    check(chart)?;
    let mut canvas = Canvas::new(SIZE, &chart.title, &chart.subtitle, palette)?;
    let top = draw_legend(&mut canvas, chart, palette);
    let plot = Plot::new(chart, Rect { left: PLOT_LEFT, top, right: PLOT_RIGHT, bottom: PLOT_BOTTOM });
    plot.draw_axes(&mut canvas, palette);
    let lines = plot.draw_roof(&mut canvas, chart, palette);
    plot.draw_ceiling_labels(&mut canvas, chart, palette);
    let markers: Vec<_> = chart.points.iter().map(|point| plot.marker(point)).collect();
    let mut blocked = plot.draw_ridges(&mut canvas, chart, &markers, palette);
    blocked.push(plot.draw_bandwidth(&mut canvas, chart, &markers, palette));
    draw_markers(&mut canvas, chart, &markers, palette);
    let around = Surroundings { bounds: plot.area.inset(4.0), blocked, lines };
    draw_labels(&mut canvas, chart, &markers, &around, palette);
    Ok(canvas)
}

fn check(chart: &Roofline) -> Result<(), Failure> {
    check_positive(chart.bandwidth, "the bandwidth", &chart.title)?;
    if chart.ceilings.is_empty() {
        return Err(refuse(&format!("the roofline “{}” has no ceiling", chart.title)));
    }
    check_count(chart.ceilings.len(), MOST_CEILINGS, "ceilings")?;
    check_count(chart.groups.len(), MOST_COLORS, "groups")?;
    check_count(chart.points.len(), MOST_POINTS, "points")?;
    for ceiling in &chart.ceilings {
        check_positive(ceiling.ops_per_s, "operations per second", &ceiling.label)?;
    }
    for point in &chart.points {
        check_positive(point.ops_per_byte, "operations per byte", &point.label)?;
        check_positive(point.ops_per_s, "operations per second", &point.label)?;
        check_amount(point.share, "the share of the time", &point.label)?;
        // A little more than all is how a sum of fractions comes out.
        if point.share > 1.001 {
            return Err(refuse(&format!(
                "the share of the time of “{}” is {}; the whole is 1",
                point.label, point.share
            )));
        }
        check_group(point.group, &chart.groups, &point.label)?;
    }
    Ok(())
}

/// The legend's rows; where the plot can begin.
fn draw_legend(canvas: &mut Canvas, chart: &Roofline, palette: &Palette) -> f64 {
    let mut entries: Vec<_> = chart
        .groups
        .iter()
        .enumerate()
        .map(|(group, name)| (Mark::Disc(palette.group(group)), name.as_str()))
        .collect();
    if chart.points.iter().any(|point| point.measured) {
        entries.push((Mark::Ring(palette.faint), "hollow: measured"));
    }
    if chart.points.iter().any(|point| point.above_roof) {
        entries.push((Mark::Warning(palette.error), "above the roof: an error"));
    }
    if chart.points.iter().any(|point| point.share > 0.0) {
        entries.push((Mark::Disc(palette.pale), "area: share of the time"));
    }
    let after = canvas.legend(&entries, (24.0, 86.0), Pen::new(13.0, palette.ink));
    if entries.is_empty() { 86.0 } else { after }
}

/// The axes and where they lie.
struct Plot {
    area: Rect,
    x: LogAxis,
    y: LogAxis,
    /// Power of ten of the bandwidth.
    bandwidth: f64,
    /// Power of ten at the left edge, where the slope begins.
    left: f64,
}

impl Plot {
    fn new(chart: &Roofline, area: Rect) -> Self {
        let bandwidth = chart.bandwidth.log10();
        let ceilings = || chart.ceilings.iter().map(|ceiling| ceiling.ops_per_s.log10());
        let ridges = || ceilings().map(|ceiling| ceiling - bandwidth);
        let used = used(&chart.ceilings).ops_per_s.log10();
        let xs = || chart.points.iter().map(|point| point.ops_per_byte.log10());
        let ys = || chart.points.iter().map(|point| point.ops_per_s.log10());

        // The whole ridge in use is shown, with some of the slope below it.
        let mut left = xs().fold(used - bandwidth - 0.9, |low, x| low.min(x - 0.4));
        let mut right = xs().chain(ridges()).fold(f64::NEG_INFINITY, f64::max) + 0.55;
        // Two powers of ten at least, so that the axis has labels to be read by.
        let missing = (2.2 - (right - left)).max(0.0);
        left -= missing / 2.0;
        right += missing / 2.0;

        let highest = ys().chain(ceilings()).fold(f64::NEG_INFINITY, f64::max);
        let bottom = ys().chain(ceilings()).fold(bandwidth + left, |low, y| low.min(y - 0.3)).min(used - 1.7);
        // Labels of points on the roof need room above it.
        let headroom = if ys().any(|y| y > used - 0.25) { HEADROOM } else { 0.0 };
        let top = (highest + 0.15).max(bottom + (used - bottom) / (1.0 - headroom));
        Self {
            x: LogAxis::new((left, right), area.left, area.right),
            y: LogAxis::new((bottom, top), area.bottom, area.top),
            area,
            bandwidth,
            left,
        }
    }

    fn draw_axes(&self, canvas: &mut Canvas, palette: &Palette) {
        let Rect { left, top, right, bottom } = self.area;
        for (logs, color) in
            [(Self::fine as fn(&LogAxis) -> Vec<f64>, palette.fine_grid), (LogAxis::ticks, palette.grid)]
        {
            for x in logs(&self.x).into_iter().map(|log| self.x.at_log(log)) {
                canvas.line((x, top), (x, bottom), 1, color);
            }
            for y in logs(&self.y).into_iter().map(|log| self.y.at_log(log)) {
                canvas.line((left, y), (right, y), 1, color);
            }
        }
        canvas.line((left, top), (left, bottom), 1, palette.faint);
        canvas.line((left, bottom), (right, bottom), 1, palette.faint);
        let pen = Pen::new(12.0, palette.faint);
        for log in self.x.ticks() {
            let x = self.x.at_log(log);
            canvas.line((x, bottom), (x, bottom + 5.0), 1, palette.faint);
            let label = format!("{} op/byte", number(10_f64.powf(log)));
            canvas.words(&label, (x, bottom + 20.0), pen.centered());
        }
        for log in self.y.ticks() {
            let y = self.y.at_log(log);
            canvas.line((left - 5.0, y), (left, y), 1, palette.faint);
            let label = engineering(10_f64.powf(log), "OP/s");
            canvas.words(&label, (left - 9.0, y + pen.half_height()), pen.right());
        }
        let pen = Pen::new(13.0, palette.ink).centered();
        let middle = ((left + right) / 2.0, (top + bottom) / 2.0);
        let title = "operations per byte of memory traffic · 1 multiply-accumulate = 2 operations";
        canvas.words(title, (middle.0, bottom + 46.0), pen);
        canvas.words("operations per second", (30.0, middle.1), pen.upward());
    }

    fn fine(axis: &LogAxis) -> Vec<f64> {
        axis.fine_ticks()
    }

    /// Where the slope stands at this power of ten of operations per byte.
    fn slope(&self, log: f64) -> Spot {
        (self.x.at_log(log), self.y.at_log(self.bandwidth + log))
    }

    /// Draws the slope and the ceilings; the lines that are no place for labels.
    fn draw_roof(&self, canvas: &mut Canvas, chart: &Roofline, palette: &Palette) -> Vec<(Spot, Spot, f64)> {
        let right = self.area.right;
        let highest = chart.ceilings.iter().map(|ceiling| ceiling.ops_per_s).fold(0.0, f64::max);
        let corner = |ops_per_s: f64| self.slope(ops_per_s.log10() - self.bandwidth);
        let mut lines = Vec::new();
        let used = used(&chart.ceilings).ops_per_s;
        if used < highest {
            let (from, to) = (corner(used), corner(highest));
            canvas.dashed(from, to, DASHES, 1, palette.faint);
            lines.push((from, to, ON_FAINT_LINE));
        }
        // Those in use last, over the others.
        for in_use in [false, true] {
            for ceiling in chart.ceilings.iter().filter(|ceiling| ceiling.in_use == in_use) {
                let (x, y) = corner(ceiling.ops_per_s);
                // The ridge of a precision that is much slower may lie left of the plot.
                let (from, to) = ((x.max(self.area.left), y), (right, y));
                if in_use {
                    canvas.line(from, to, 2, palette.ink);
                } else {
                    canvas.dashed(from, to, DASHES, 1, palette.faint);
                }
                lines.push((from, to, if in_use { ON_ROOF } else { ON_FAINT_LINE }));
            }
        }
        let (from, to) = (self.slope(self.left), corner(used));
        canvas.line(from, to, 2, palette.ink);
        lines.push((from, to, ON_ROOF));
        lines
    }

    /// Beside the plot, as far apart as they need to be.
    fn draw_ceiling_labels(&self, canvas: &mut Canvas, chart: &Roofline, palette: &Palette) {
        let mut ceilings: Vec<&Ceiling> = chart.ceilings.iter().collect();
        ceilings.sort_by(|a, b| b.ops_per_s.total_cmp(&a.ops_per_s).then(b.in_use.cmp(&a.in_use)));
        let wanted: Vec<f64> = ceilings.iter().map(|ceiling| self.y.at(ceiling.ops_per_s)).collect();
        let heights = spread(&wanted, 17.0, self.area.top + 4.0, self.area.bottom - 8.0);
        for ((ceiling, line), y) in ceilings.into_iter().zip(wanted).zip(heights) {
            let color = if ceiling.in_use { palette.ink } else { palette.faint };
            let pen = Pen { bold: ceiling.in_use, ..Pen::new(12.0, color) };
            let right = self.area.right;
            canvas.line((right, line), (right + 10.0, y), 1, color);
            let speed = engineering(ceiling.ops_per_s, "OP/s");
            let room = f64::from(SIZE.0) - right - 14.0 - 8.0 - pen.width(&format!(" {speed}"));
            let label = format!("{} {speed}", pen.fit(&ceiling.label, room));
            canvas.words(&label, (right + 14.0, y + pen.half_height()), pen);
        }
    }

    /// Draws where memory gives way to arithmetic as the limit, in each precision in use; the labels' boxes.
    fn draw_ridges(
        &self,
        canvas: &mut Canvas,
        chart: &Roofline,
        markers: &[Labelled],
        palette: &Palette,
    ) -> Vec<Rect> {
        let mut used: Vec<f64> =
            chart.ceilings.iter().filter(|ceiling| ceiling.in_use).map(|ceiling| ceiling.ops_per_s).collect();
        used.sort_by(f64::total_cmp);
        used.dedup();
        let ridges: Vec<f64> =
            used.iter().map(|used| used.log10() - self.bandwidth).filter(|log| *log > self.left).collect();
        for (x, y) in ridges.iter().map(|log| self.slope(*log)) {
            canvas.dashed((x, y), (x, self.area.bottom), DOTS, 1, palette.faint);
        }
        let pen = Pen::new(12.0, palette.faint);
        let mut boxes: Vec<Rect> = Vec::new();
        for log in ridges {
            let (x, _) = self.slope(log);
            let label = format!("ridge {} op/byte", number(10_f64.powf(log)));
            let width = pen.width(&label);
            let left = if x + 8.0 + width < self.area.right { x + 8.0 } else { x - 8.0 - width };
            let bottom = self.area.bottom - 6.0;
            let mut rect = Rect { left, top: bottom - 15.0, right: left + width, bottom };
            // Rows for ridges that are close, and above markers that are low.
            let is_taken = |rect: &Rect| {
                boxes.iter().any(|other| other.is_near(rect, 2.0))
                    || markers.iter().any(|marker| marker.distance(rect) < 4.0)
            };
            while is_taken(&rect) && rect.top > self.area.top + 18.0 {
                rect.top -= 18.0;
                rect.bottom -= 18.0;
            }
            draw_boxed(canvas, &label, rect, pen, palette.background);
            boxes.push(rect);
        }
        boxes
    }

    /// Labels the slope where markers leave the most room; the box of the label.
    fn draw_bandwidth(
        &self,
        canvas: &mut Canvas,
        chart: &Roofline,
        markers: &[Labelled],
        palette: &Palette,
    ) -> Rect {
        let pen = Pen::new(12.0, palette.ink).bold();
        let label = format!("memory {}", engineering(chart.bandwidth, "B/s"));
        let width = pen.width(&label);
        let (low, high) = (self.left, used(&chart.ceilings).ops_per_s.log10() - self.bandwidth);
        let mut best: Option<(f64, Rect)> = None;
        let parts = [0.5, 0.6, 0.4, 0.7, 0.3, 0.8, 0.2, 0.9, 0.1];
        // Above the slope nothing else should be.
        for (part, above) in parts.map(|part| (part, true)).into_iter().chain(parts.map(|part| (part, false)))
        {
            let (x, y) = self.slope(low + (high - low) * part);
            let rect = if above {
                Rect { left: x - 8.0 - width, top: y - 19.0, right: x - 8.0, bottom: y - 4.0 }
            } else {
                Rect { left: x + 8.0, top: y + 4.0, right: x + 8.0 + width, bottom: y + 19.0 }
            };
            if !self.area.contains(&rect) {
                continue;
            }
            // More room than this is no better.
            let room = markers.iter().map(|marker| marker.distance(&rect)).fold(30.0, f64::min);
            if best.as_ref().is_none_or(|(most, _)| room > *most) {
                best = Some((room, rect));
            }
        }
        // The slope may be too short for any of these; the corner is free of it.
        let corner = Rect {
            left: self.area.left + 8.0,
            top: self.area.top + 4.0,
            right: self.area.left + 8.0 + width,
            bottom: self.area.top + 19.0,
        };
        let rect = best.map_or(corner, |(_, rect)| rect);
        draw_boxed(canvas, &label, rect, pen, palette.background);
        rect
    }

    fn marker(&self, point: &Point) -> Labelled {
        let radius = (LARGEST_RADIUS * point.share.sqrt()).max(SMALLEST_RADIUS);
        // A mark inside needs room to be read.
        let radius = if point.above_roof { radius.max(10.0) } else { radius };
        let center = (self.x.at(point.ops_per_byte), self.y.at(point.ops_per_s));
        Labelled { center, radius, width: 0.0, height: 0.0 }
    }
}

fn draw_markers(canvas: &mut Canvas, chart: &Roofline, markers: &[Labelled], palette: &Palette) {
    let mut order: Vec<usize> = (0..markers.len()).collect();
    // The large first, or they would hide the small.
    order.sort_by(|a, b| markers[*b].radius.total_cmp(&markers[*a].radius));
    for (drawn, &index) in order.iter().enumerate() {
        let (point, Labelled { center, radius, .. }) = (&chart.points[index], markers[index]);
        let color = palette.group(point.group);
        // A rim keeps markers apart that overlap; inside of one that is hardly larger it would hide that.
        let hidden = |larger: &usize| {
            let larger = &markers[*larger];
            let (x, y) = larger.center;
            (x - center.0).hypot(y - center.1) + radius + 3.0 > larger.radius
                && (x - center.0).hypot(y - center.1) + radius <= larger.radius
        };
        if !order[..drawn].iter().any(hidden) {
            canvas.disc(center, radius + 1.5, palette.background);
        }
        if point.above_roof {
            canvas.warning(center, radius, palette.error);
        } else if point.measured {
            canvas.ring(center, radius, color);
        } else {
            canvas.disc(center, radius, color);
        }
    }
}

fn draw_labels(
    canvas: &mut Canvas,
    chart: &Roofline,
    markers: &[Labelled],
    around: &Surroundings,
    palette: &Palette,
) {
    let sized = |size: f64| {
        let pen = Pen::new(size, palette.ink);
        let labels: Vec<_> = chart.points.iter().map(|point| pen.fit(&point.label, 190.0)).collect();
        let wanted: Vec<_> = markers
            .iter()
            .zip(&labels)
            .map(|(marker, label)| Labelled { width: pen.width(label), height: size + 3.0, ..*marker })
            .collect();
        let placed = place(&wanted, around);
        (pen, labels, wanted, placed)
    };
    let mut sizes = LABEL_SIZES.into_iter().map(sized);
    // Smaller letters only where larger ones leave a point without its label.
    let mut last = None;
    let (pen, labels, wanted, placed) = loop {
        match sizes.next() {
            Some(attempt) if attempt.3.iter().all(Option::is_some) => break attempt,
            Some(attempt) => last = Some(attempt),
            None => match last {
                Some(attempt) => break attempt,
                None => return,
            },
        }
    };
    for ((point, marker), rect) in chart.points.iter().zip(&wanted).zip(&placed) {
        let Some(rect) = rect else { continue };
        let (from, to) = marker.leader(rect);
        if (to.0 - from.0).hypot(to.1 - from.1) > 7.0 {
            canvas.line(from, to, 1, palette.leader(point.group));
        }
    }
    for ((point, label), rect) in chart.points.iter().zip(&labels).zip(&placed) {
        let Some(rect) = rect else { continue };
        let color = if point.above_roof { palette.error } else { palette.ink };
        draw_boxed(canvas, label, *rect, Pen { color, ..pen }, palette.background);
    }
    let missing = placed.iter().filter(|rect| rect.is_none()).count();
    if missing > 0 {
        let note = format!("labels without room: {missing}");
        let pen = Pen::new(12.0, palette.error).right();
        canvas.words(&note, (f64::from(SIZE.0) - 24.0, f64::from(SIZE.1) - 12.0), pen);
    }
}

/// Writes a label on a box that hides the lines behind it.
fn draw_boxed(canvas: &mut Canvas, label: &str, rect: Rect, pen: Pen, background: RGBColor) {
    canvas.rect(rect, background);
    let middle = ((rect.left + rect.right) / 2.0, (rect.top + rect.bottom) / 2.0);
    canvas.words(label, (middle.0, middle.1 + pen.half_height()), pen.centered());
}

/// The highest ceiling in use, or the highest at all.
fn used(ceilings: &[Ceiling]) -> &Ceiling {
    let highest = |in_use: bool| {
        ceilings
            .iter()
            .filter(|ceiling| ceiling.in_use || !in_use)
            .max_by(|a, b| a.ops_per_s.total_cmp(&b.ops_per_s))
    };
    // `check` has seen that there is one.
    highest(true).or_else(|| highest(false)).unwrap_or(&ceilings[0])
}

/// Moves heights apart, from the top down, as little as it takes to have this much between them.
fn spread(wanted: &[f64], gap: f64, top: f64, bottom: f64) -> Vec<f64> {
    let mut heights = wanted.to_vec();
    for _ in 0..100 {
        for index in 1..heights.len() {
            let overlap = gap - (heights[index] - heights[index - 1]);
            if overlap > 0.0 {
                heights[index - 1] -= overlap / 2.0;
                heights[index] += overlap / 2.0;
            }
        }
        for height in &mut heights {
            *height = height.clamp(top, bottom);
        }
    }
    // What is still too close after that, by a fraction of a pixel or at an edge.
    for index in 1..heights.len() {
        heights[index] = heights[index].max(heights[index - 1] + gap);
    }
    let mut limit = bottom;
    for height in heights.iter_mut().rev() {
        *height = height.min(limit);
        limit = *height - gap;
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_keeps_the_order_and_the_distance() {
        for wanted in [vec![100.0; 12], vec![105.0, 106.0, 300.0, 301.0, 690.0, 690.0, 690.0], vec![400.0]] {
            let heights = spread(&wanted, 17.0, 100.0, 690.0);
            assert!(heights.windows(2).all(|pair| pair[1] - pair[0] > 16.99), "{heights:?}");
            assert!(heights[0] > 99.0 && heights[heights.len() - 1] < 691.0, "{heights:?}");
        }
        assert_eq!(spread(&[150.0, 300.0], 17.0, 100.0, 690.0), [150.0, 300.0]);
    }
}
