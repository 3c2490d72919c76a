//! Charts of what a model costs on a device: a roofline, stacked bars and a waterfall, as SVG and as PNG.

mod axis;
mod bars;
mod canvas;
mod labels;
mod palette;
mod roofline;
mod waterfall;

use canvas::Canvas;
use palette::Palette;

use crate::failure::Failure;

/// More series or groups than this have no legend that can be read.
const MOST_COLORS: usize = 16;
/// Values beyond this, or below its inverse, leave no room for the arithmetic of an axis.
const LARGEST: f64 = 1e300;

/// What page a chart is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theme {
    Light,
    Dark,
}

/// One picture.
#[derive(Clone, Debug)]
pub(crate) enum Chart {
    Roofline(Roofline),
    Bars(Bars),
    Waterfall(Waterfall),
}

/// How fast each part of a model runs beside what the device can do; both axes logarithmic.
///
/// Horizontal: operations per byte of memory traffic. Vertical: operations per second. One
/// multiply-accumulate is two operations. Without points, it shows the device alone.
#[derive(Clone, Debug)]
pub(crate) struct Roofline {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    /// Bytes per second of the memory.
    pub(crate) bandwidth: f64,
    /// The device's speed in each precision; at least one.
    pub(crate) ceilings: Vec<Ceiling>,
    /// Names of what [`Point::group`] counts; each has a colour.
    pub(crate) groups: Vec<String>,
    pub(crate) points: Vec<Point>,
}

/// The device's speed in one precision.
#[derive(Clone, Debug)]
pub(crate) struct Ceiling {
    /// The precision, for example "int8".
    pub(crate) label: String,
    pub(crate) ops_per_s: f64,
    /// Whether the points ran in this precision; the others are faint.
    pub(crate) in_use: bool,
}

/// One part of a model.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) label: String,
    /// Index in [`Roofline::groups`].
    pub(crate) group: usize,
    pub(crate) ops_per_byte: f64,
    pub(crate) ops_per_s: f64,
    /// Part of the whole time, 0 to 1: the marker's area.
    pub(crate) share: f64,
    /// A measurement, drawn hollow; the others are computed.
    pub(crate) measured: bool,
    /// Faster than the device can be, which is drawn as the error it is.
    pub(crate) above_roof: bool,
}

/// Stacked bars, the first series lowest, each with its total above it.
#[derive(Clone, Debug)]
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) series: Vec<String>,
    /// At least one.
    pub(crate) bars: Vec<Bar>,
}

/// One stack.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    /// One for each of [`Bars::series`], none negative.
    pub(crate) values: Vec<f64>,
}

/// Steps that follow each other, each beginning where the one before ended; the last row is their total.
#[derive(Clone, Debug)]
pub(crate) struct Waterfall {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    /// Unit of the values, for example "ms".
    pub(crate) unit: String,
    /// Names of what [`Step::group`] counts; each has a colour.
    pub(crate) groups: Vec<String>,
    /// At least one.
    pub(crate) steps: Vec<Step>,
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) label: String,
    /// How long it is; not negative.
    pub(crate) value: f64,
    /// Stands beside the value, for example "compute-bound"; may be empty.
    pub(crate) note: String,
    /// Index in [`Waterfall::groups`].
    pub(crate) group: usize,
}

impl Chart {
    /// The picture as an SVG document that scales with its page, all its text as text.
    ///
    /// # Errors
    /// Data that has no place on the axes: not finite, negative, or zero where an axis is logarithmic;
    /// too much data to be read; groups that do not exist.
    pub(crate) fn svg(&self, theme: Theme) -> Result<String, Failure> {
        self.canvas(theme)?.svg(self.title())
    }

    /// The picture as the bytes of a PNG file.
    ///
    /// # Errors
    /// Like [`Chart::svg`].
    pub(crate) fn png(&self, theme: Theme) -> Result<Vec<u8>, Failure> {
        self.canvas(theme)?.png()
    }

    fn canvas(&self, theme: Theme) -> Result<Canvas, Failure> {
        let palette = Palette::of(theme);
        match self {
            Self::Roofline(chart) => roofline::draw(chart, &palette),
            Self::Bars(chart) => bars::draw(chart, &palette),
            Self::Waterfall(chart) => waterfall::draw(chart, &palette),
        }
    }

    fn title(&self) -> &str {
        match self {
            Self::Roofline(chart) => &chart.title,
            Self::Bars(chart) => &chart.title,
            Self::Waterfall(chart) => &chart.title,
        }
    }
}

fn refuse(reason: &str) -> Failure {
    Failure::internal(format!("cannot draw the chart: {reason}"))
}

/// Something that has a place on an axis which starts at zero.
fn check_amount(value: f64, what: &str, of: &str) -> Result<(), Failure> {
    if !value.is_finite() || value.abs() > LARGEST {
        return Err(refuse(&format!("{what} of “{of}” is {value}, not a number that can be drawn")));
    }
    if value < 0.0 {
        return Err(refuse(&format!("{what} of “{of}” is {value}; it cannot be negative")));
    }
    Ok(())
}

/// Something that has a place on a logarithmic axis.
fn check_positive(value: f64, what: &str, of: &str) -> Result<(), Failure> {
    check_amount(value, what, of)?;
    if value < 1.0 / LARGEST {
        return Err(refuse(&format!("{what} of “{of}” is {value}; a logarithmic axis needs more than zero")));
    }
    Ok(())
}

fn check_group(group: usize, groups: &[String], of: &str) -> Result<(), Failure> {
    if group >= groups.len() {
        let count = groups.len();
        return Err(refuse(&format!("the group of “{of}” is {group}, and there are {count} groups")));
    }
    Ok(())
}

fn check_count(count: usize, most: usize, what: &str) -> Result<(), Failure> {
    if count > most {
        return Err(refuse(&format!("there are {count} {what}, more than the {most} that can be read")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
