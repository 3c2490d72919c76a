//! Success rates with their intervals, as a picture.

use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::{Behaviour, BehaviourRow};

/// Pixels: the width of the axis, the height of a row, and of what is above and below the rows.
const AXIS: u32 = 590;
const ROW: u32 = 34;
const FRAME: u32 = 128;
const MARGIN: u32 = 16;
/// Pixels for the numbers on the right.
const NUMBERS: u32 = 150;
/// Height of letters.
const LETTERS: u32 = 14;
/// Readers show the text in a typeface of their own, which may be wider than the one it is measured with.
const WIDER: f64 = 1.1;

const CONTESTANT: RGBColor = RGBColor(40, 90, 160);
const CONTROL: RGBColor = RGBColor(200, 100, 30);
const LEROBOT: RGBColor = RGBColor(40, 40, 40);

/// A dot a row with its 95 % interval; LeRobot's rate as a line through all.
///
/// # Errors
/// When there is nothing to draw.
pub(super) fn svg(behaviour: &Behaviour) -> Result<String, String> {
    if behaviour.rows.is_empty() {
        return Err("rollout.svg: there are no rows".to_owned());
    }
    let mut text = String::new();
    draw(behaviour, &mut text).map_err(|error| format!("rollout.svg: {error}"))?;
    Ok(text)
}

type Failure = Box<dyn std::error::Error>;

fn draw(behaviour: &Behaviour, text: &mut String) -> Result<(), Failure> {
    // Text is measured with it, and shown in whatever sans-serif the reader has.
    register_font("DejaVu Sans", FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| "the typeface cannot be read")?;
    let rows = &behaviour.rows;
    let count = rows.len() as f64;
    let typeface = ("DejaVu Sans", LETTERS);
    let mut names = 0;
    for row in rows {
        names = names.max(typeface.into_font().box_size(&row.name())?.0);
    }
    let names = 30 + (WIDER * f64::from(names)) as u32;
    let size = (names + AXIS + NUMBERS + 2 * MARGIN, FRAME + ROW * rows.len() as u32);
    let root = SVGBackend::with_string(text, size).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!("Episodes that succeed, of {} on the same seeds", behaviour.episodes),
            ("DejaVu Sans", 20),
        )
        .margin(MARGIN)
        .margin_left(MARGIN + names)
        .margin_right(MARGIN + NUMBERS)
        .x_label_area_size(44)
        .build_cartesian_2d(0.0..100.0, 0.0..count)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("successes, %, with Wilson's 95 % interval")
        .x_labels(11)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style(typeface)
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(230, 230, 230))
        .draw()?;
    let reference = 100.0 * rows[0].overall.share();
    let line = [(reference, 0.0), (reference, count)];
    chart.draw_series(LineSeries::new(line, RGBColor(170, 170, 170)))?;
    let plot = chart.plotting_area().get_pixel_range();
    for (index, row) in rows.iter().enumerate() {
        let middle = count - index as f64 - 0.5;
        let colour = colour(index, row);
        if row.failed.is_none() {
            let (low, high) = row.overall.interval;
            let bar = [(100.0 * low, middle), (100.0 * high, middle)];
            chart.draw_series(LineSeries::new(bar, colour.stroke_width(3)))?;
            chart.draw_series([Circle::new((100.0 * row.overall.share(), middle), 5, colour.filled())])?;
        }
        let pixel =
            plot.1.start + ((index as f64 + 0.5) / count * f64::from(plot.1.end - plot.1.start)) as i32;
        let style = |horizontal| {
            let style = typeface.into_font().color(&colour);
            style.pos(Pos::new(horizontal, VPos::Center))
        };
        root.draw(&Text::new(row.name(), (plot.0.start - 14, pixel), style(HPos::Right)))?;
        root.draw(&Text::new(row.outcome(), (plot.0.end + 14, pixel), style(HPos::Left)))?;
    }
    root.present()?;
    drop(chart);
    drop(root);
    Ok(())
}

fn colour(index: usize, row: &BehaviourRow) -> RGBColor {
    match (index, row.condition.is_control()) {
        (0, _) => LEROBOT,
        (_, true) => CONTROL,
        (_, false) => CONTESTANT,
    }
}
