//! A chunk as a picture: one small plot a joint, over the steps of the chunk.

use std::io::Cursor;
use std::ops::Range;

use image::{ImageFormat, RgbImage};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{Color, FontFamily, register_font};

use smolvla::backend::Execution;

use crate::failure::Failure;
use crate::prediction::Prediction;

const FONT: FontFamily<'static> = FontFamily::Name("DejaVu Sans");
const PANEL: (u32, u32) = (480, 240);
const HEADER: u32 = 84;
const MARGIN: u32 = 16;
/// Longest title that fits beside the margins of two panels.
const TITLE_CHARS: usize = 74;
const INK: RGBColor = RGBColor(35, 40, 48);
const FAINT: RGBColor = RGBColor(110, 118, 128);
const GRID: RGBColor = RGBColor(226, 229, 233);
/// Distinct without relying on red against green.
const LINES: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 138, 100),
    RGBColor(170, 80, 140),
    RGBColor(150, 110, 0),
    RGBColor(60, 90, 160),
];

/// The picture as the bytes of a PNG file.
pub(crate) fn plot(prediction: &Prediction) -> Result<Vec<u8>, Failure> {
    let failure = |error: &dyn std::fmt::Display| Failure::internal(format!("cannot draw the plot: {error}"));
    register_font("DejaVu Sans", FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| failure(&"its typeface is damaged"))?;
    let (columns, rows) = grid(prediction.joints.len());
    let width = columns * PANEL.0 + 2 * MARGIN;
    let height = rows * PANEL.1 + HEADER + MARGIN;
    let mut pixels = vec![0; (width * height * 3) as usize];
    {
        let root = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        draw(&root, prediction).map_err(|error| failure(&error))?;
        root.present().map_err(|error| failure(&error))?;
    }
    let image =
        RgbImage::from_raw(width, height, pixels).ok_or_else(|| failure(&"the canvas has another size"))?;
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png).map_err(|error| failure(&error))?;
    Ok(png.into_inner())
}

/// Columns and rows of panels for this many joints.
fn grid(joints: usize) -> (u32, u32) {
    let joints = u32::try_from(joints).unwrap_or(u32::MAX).max(1);
    let columns = match joints {
        1..=8 => 2,
        9..=18 => 3,
        _ => 4,
    };
    (columns, joints.div_ceil(columns))
}

type Canvas<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<<BitMapBackend<'static> as DrawingBackend>::ErrorType>>;

fn draw(root: &Canvas<'_>, prediction: &Prediction) -> Drawn {
    root.fill(&WHITE)?;
    let chunk = &prediction.chunk;
    let capabilities = &prediction.info.capabilities;
    let title = shortened(&format!("“{}”", prediction.task));
    let subtitle = shortened(&format!(
        "{} · {}{}, {} · {} denoising steps",
        prediction.checkpoint_name,
        capabilities.backend,
        if matches!(capabilities.execution, Execution::Emulated(_)) { " (EMULATED)" } else { "" },
        prediction.info.precision,
        chunk.steps
    ));
    let left = MARGIN as i32 + 8;
    root.draw_text(&title, &(FONT, 24).into_font().color(&INK), (left, 14))?;
    root.draw_text(&subtitle, &(FONT, 17).into_font().color(&FAINT), (left, 44))?;
    root.draw_text(
        &format!("horizontal: step of the chunk · vertical: {}", prediction.units()),
        &(FONT, 14).into_font().color(&FAINT),
        (left, 66),
    )?;

    let (columns, rows) = grid(prediction.joints.len());
    let body = root.margin(HEADER, MARGIN, MARGIN, MARGIN);
    let panels = body.split_evenly((rows as usize, columns as usize));
    for (joint, (name, panel)) in prediction.joints.iter().zip(&panels).enumerate() {
        let values: Vec<f32> = (0..chunk.chunk_size).map(|step| prediction.action(step)[joint]).collect();
        draw_joint(panel, name, &values, LINES[joint % LINES.len()])?;
    }
    Ok(())
}

fn draw_joint(panel: &Canvas<'_>, name: &str, values: &[f32], color: RGBColor) -> Drawn {
    let steps = 0..values.len().saturating_sub(1).max(1);
    let heights = range(values);
    let extent = heights.end - heights.start;
    let mut chart = ChartBuilder::on(panel)
        .margin(8)
        .caption(name, (FONT, 18).into_font().color(&INK))
        .x_label_area_size(26)
        .y_label_area_size(64)
        .build_cartesian_2d(steps, heights)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(FAINT)
        .x_labels(6)
        .y_labels(5)
        .y_label_formatter(&|value| label(*value, extent))
        .label_style((FONT, 14).into_font().color(&FAINT))
        .draw()?;
    let points = || values.iter().copied().enumerate();
    chart.draw_series(LineSeries::new(points(), color.stroke_width(2)))?;
    chart.draw_series(points().map(|point| Circle::new(point, 2, color.filled())))?;
    Ok(())
}

/// Lowest to highest value with some room, also for a joint that does not move.
fn range(values: &[f32]) -> Range<f32> {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let room = ((high - low) * 0.08).max(low.abs().max(high.abs()) * 1e-3).max(1e-4);
    low - room..high + room
}

/// A number on an axis of this extent, with as many decimals as tell its labels apart.
fn label(value: f32, extent: f32) -> String {
    if !(1e-3..1e6).contains(&extent) {
        return format!("{value:.2e}");
    }
    let decimals = (1.0 - extent.log10().floor()).clamp(0.0, 4.0) as usize;
    // Adding zero turns the negative zero into the positive one.
    format!("{:.decimals$}", value + 0.0)
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= TITLE_CHARS {
        return text.to_owned();
    }
    text.chars().take(TITLE_CHARS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::sample;

    #[test]
    fn plot_is_a_png_with_ink_of_every_joint() {
        let png = plot(&sample::prediction(20)).unwrap();
        let image = image::load_from_memory(&png).unwrap().to_rgb8();
        assert_eq!(image.dimensions(), (2 * PANEL.0 + 2 * MARGIN, PANEL.1 + HEADER + MARGIN));
        for color in &LINES[..2] {
            let ink = image.pixels().filter(|pixel| pixel.0 == [color.0, color.1, color.2]).count();
            assert!(ink > 100, "{ink} pixels of {color:?}");
        }
    }

    #[test]
    fn plot_draws_constant_and_single_actions() {
        for chunk_size in [1, 2] {
            let mut prediction = sample::prediction(chunk_size);
            prediction.chunk.actions.fill(3.0);
            assert!(plot(&prediction).is_ok());
        }
    }

    #[test]
    fn labels_have_the_decimals_their_axis_needs() {
        assert_eq!(label(50.0, 120.0), "50");
        assert_eq!(label(2.5, 8.0), "2.5");
        assert_eq!(label(0.05, 0.3), "0.05");
        assert_eq!(label(-0.0, 0.3), "0.00");
        assert_eq!(label(1.0, 1e-5), "1.00e0");
    }

    #[test]
    fn grid_has_a_panel_for_every_joint() {
        for joints in 1..=40 {
            let (columns, rows) = grid(joints);
            assert!((columns * rows) as usize >= joints && (columns * (rows - 1)) < joints as u32);
        }
    }
}
