//! Error over modelled time, as a picture.

use plotters::prelude::*;
use plotters::style::register_font;

use super::Row;

/// Pixels.
const SIZE: (u32, u32) = (1100, 620);

/// Each plan as a point: modelled milliseconds across, relative error of the actions after all steps upwards, on a
/// logarithmic scale. A line joins the plans that no other one beats in both.
///
/// # Errors
/// When there is nothing to draw.
pub(super) fn svg(size: &str, rows: &[Row]) -> Result<String, String> {
    let points: Vec<(f64, f64, &str)> = rows
        .iter()
        .filter_map(|row| Some((row.modelled_ms, row.cases.last()?.nmse.sqrt(), row.name.as_str())))
        .filter(|(_, error, _)| error.is_finite() && *error > 0.0)
        .collect();
    let mut text = String::new();
    draw(size, &points, &mut text).map_err(|error| format!("precision.svg: {error}"))?;
    Ok(text)
}

type Failure = Box<dyn std::error::Error>;

fn draw(size: &str, points: &[(f64, f64, &str)], text: &mut String) -> Result<(), Failure> {
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (fastest, slowest) = range(&mut points.iter().map(|point| point.0));
    let (best, worst) = range(&mut points.iter().map(|point| point.1));
    if points.is_empty() {
        return Err("no plan has a finite error".into());
    }
    // Text is measured with it, and shown in whatever sans-serif the reader has.
    register_font("DejaVu Sans", FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| "the typeface cannot be read")?;
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let margin = (0.12 * (slowest - fastest)).max(0.2);
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!("Precision plans on a p150: error (emulated, {size}) over time (modelled)"),
            ("DejaVu Sans", 20),
        )
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(
            fastest - margin..slowest + 2.5 * margin,
            (best / 2.0..worst * 2.0).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("ms a chunk of the real size, one camera, traced (modelled)")
        .y_desc("relative error of the actions, 10 steps")
        .x_label_formatter(&|x| format!("{x:.1}"))
        .y_label_formatter(&|y| format!("{y:.1e}"))
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(230, 230, 230))
        .draw()?;
    let frontier = frontier(points);
    chart.draw_series(LineSeries::new(frontier.iter().map(|(x, y, _)| (*x, *y)), RGBColor(120, 160, 210)))?;
    for (x, y, name) in points {
        let is_plan = ["accurate", "balanced", "fast"].contains(name);
        let colour = if is_plan { RGBColor(200, 60, 40) } else { RGBColor(60, 90, 140) };
        chart.draw_series([Circle::new((*x, *y), if is_plan { 6 } else { 4 }, colour.filled())])?;
    }
    let plot = chart.plotting_area().get_pixel_range();
    let height = f64::from(plot.1.end - plot.1.start);
    let pixels =
        move |y: f64| ((worst * 2.0).ln() - y.ln()) / ((worst * 2.0).ln() - (best / 2.0).ln()) * height;
    let value = move |pixel: f64| {
        ((worst * 2.0).ln() - pixel / height * ((worst * 2.0).ln() - (best / 2.0).ln())).exp()
    };
    let width = f64::from(plot.0.end - plot.0.start) / (slowest - fastest + 3.5 * margin);
    for label in labels(points, &|x| x * width, &pixels) {
        let style = ("DejaVu Sans", 12).into_font().color(&RGBColor(50, 50, 50));
        let at = (label.x + 14.0 / width, value(label.pixel));
        chart.draw_series(LineSeries::new([(label.x, label.y), at], RGBColor(200, 200, 200)))?;
        chart.draw_series([EmptyElement::at(at) + Text::new(label.name.to_owned(), (2, -6), style)])?;
    }
    root.present()?;
    drop(chart);
    drop(root);
    Ok(())
}

/// The points that no other beats in both, from the fastest to the most exact.
fn frontier<'a>(points: &[(f64, f64, &'a str)]) -> Vec<(f64, f64, &'a str)> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut best = f64::INFINITY;
    sorted.retain(|point| {
        let better = point.1 < best;
        best = best.min(point.1);
        better
    });
    sorted
}

/// Where a point's name stands.
struct Label<'a> {
    x: f64,
    y: f64,
    name: &'a str,
    /// Pixels from the top of the plot to the middle of the text.
    pixel: f64,
}

/// Names moved down where they would cover one beside them; `across` and `down` turn values into pixels.
fn labels<'a>(
    points: &[(f64, f64, &'a str)],
    across: &dyn Fn(f64) -> f64,
    down: &dyn Fn(f64) -> f64,
) -> Vec<Label<'a>> {
    /// Pixels of a line of text, and of the longest name.
    const TEXT: (f64, f64) = (14.0, 180.0);
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut placed: Vec<Label<'a>> = Vec::new();
    for (x, y, name) in sorted {
        let mut pixel = down(y);
        // Placed from the top down, so moving down ends.
        while let Some(other) = placed.iter().find(|other| {
            (across(other.x) - across(x)).abs() < TEXT.1 && (other.pixel - pixel).abs() < TEXT.0 - 0.5
        }) {
            pixel = other.pixel + TEXT.0;
        }
        placed.push(Label { x, y, name, pixel });
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frontier_is_what_no_other_plan_beats_in_both() {
        let points = [(1.0, 0.5, "a"), (2.0, 0.6, "b"), (3.0, 0.1, "c"), (3.0, 0.2, "d")];
        let names: Vec<&str> = frontier(&points).iter().map(|point| point.2).collect();
        assert_eq!(names, ["a", "c"]);
    }
}
