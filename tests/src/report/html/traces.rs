//! Action traces: one small drawing a joint, LeRobot's actions as a wide band under each backend's dashed curve,
//! and below it the difference on its own scale.

use std::fmt::Write as _;

use maud::{Markup, html};

use crate::report::format;
use crate::report::model::Report;
use crate::report::summary::{Drawing, drawings};

const WIDTH: f64 = 360.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 8.0;
/// Top and bottom of the actions, then of the differences.
const ACTIONS: (f64, f64) = (8.0, 128.0);
const DIFFERENCES: (f64, f64) = (150.0, 190.0);
const HEIGHT: f64 = 222.0;

/// Every drawing, the first one open; says so where there is none.
pub(super) fn traces(report: &Report) -> Markup {
    let drawings = drawings(report);
    html! {
        @if drawings.is_empty() {
            p.soft { "No actions were traced." }
        } @else {
            p.text.soft {
                "One drawing a joint. The wide grey band is LeRobot, the dashed lines on it are the backends; "
                "the strip below is computed minus LeRobot’s, on its own scale."
            }
        }
        @for (index, drawing) in drawings.iter().enumerate() {
            details open[index == 0] {
                summary { (drawing.case) " " span.soft { "(" (drawing.unit) ", " (format::count(drawing.curves.len(), "backend curve")) ")" } }
                (keys(drawing))
                div.joints {
                    @for joint in 0..drawing.joints { (figure(drawing, joint)) }
                }
            }
        }
    }
}

fn keys(drawing: &Drawing<'_>) -> Markup {
    html! {
        ul.keys {
            li { svg viewBox="0 0 40 10" aria-hidden="true" { polyline.truth points="3,5 37,5" {} } "LeRobot" }
            @for (index, (label, _)) in drawing.curves.iter().enumerate() {
                li {
                    svg viewBox="0 0 40 10" aria-hidden="true" {
                        polyline class=(class(index)) stroke-dasharray=(dashes(index)) points="0,5 40,5" {}
                    }
                    (label)
                }
            }
        }
    }
}

fn figure(drawing: &Drawing<'_>, joint: usize) -> Markup {
    let expected = drawing.joint(drawing.expected, joint);
    let curves: Vec<Vec<f32>> =
        drawing.curves.iter().map(|(_, values)| drawing.joint(values, joint)).collect();
    let differences: Vec<Vec<f32>> =
        curves.iter().map(|curve| curve.iter().zip(&expected).map(|(got, e)| got - e).collect()).collect();
    let steps = curves.iter().map(Vec::len).fold(expected.len(), usize::max);
    let actions = Scale::covering(curves.iter().chain([&expected]).flatten().copied(), ACTIONS);
    let offsets = Scale::around_zero(differences.iter().flatten().copied(), DIFFERENCES);
    let title = format!("Joint {joint}, {}", drawing.unit);
    html! {
        figure.joint {
            figcaption { b { "Joint " (joint) } " " span.soft { "(" (drawing.unit) ")" } }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(title) {
                (axes(&actions, steps, false))
                (axes(&offsets, steps, true))
                @for run in runs(&expected, steps, &actions) { polyline.truth points=(run) {} }
                @for (index, curve) in curves.iter().enumerate() {
                    @for run in runs(curve, steps, &actions) { (line(index, &run)) }
                }
                @for (index, difference) in differences.iter().enumerate() {
                    @for run in runs(difference, steps, &offsets) { (line(index, &run)) }
                }
                text x=(LEFT) y=(DIFFERENCES.0 - 8.0) { "difference" }
                text x=((LEFT + WIDTH - RIGHT) / 2.0) y=(HEIGHT - 4.0) text-anchor="middle" { "step" }
            }
            p.small { (remark(drawing, joint, &actions)) }
        }
    }
}

fn line(index: usize, points: &str) -> Markup {
    html! { polyline class=(class(index)) stroke-dasharray=(dashes(index)) points=(points) {} }
}

fn class(index: usize) -> String {
    format!("curve k{}", index % 6)
}

/// Dashes of different rhythm, so that curves are told apart without their colours.
fn dashes(index: usize) -> &'static str {
    ["7 4", "2 3", "12 3 2 3", "4 2", "9 2 2 2 2 2", "1 5", "14 6"][index % 7]
}

/// In words what the eye cannot tell: how far apart the curves are.
fn remark(drawing: &Drawing<'_>, joint: usize, scale: &Scale) -> Markup {
    let unit = drawing.unit;
    let distances: Vec<(&str, Option<f64>)> = drawing
        .curves
        .iter()
        .map(|(label, values)| (label.as_str(), drawing.max_abs(values, joint)))
        .collect();
    // Half a unit of the drawing is less than the width of a line.
    let coincide = |distance: &Option<f64>| distance.is_some_and(|distance| scale.length(distance) < 0.5);
    let coinciding: Vec<(&str, f64)> = distances
        .iter()
        .filter(|(_, distance)| coincide(distance))
        .filter_map(|(label, distance)| Some((*label, (*distance)?)))
        .collect();
    let apart: Vec<_> = distances.iter().filter(|(_, distance)| !coincide(distance)).collect();
    let largest = coinciding.iter().copied().max_by(|(_, a), (_, b)| a.total_cmp(b));
    html! {
        @if let Some((label, distance)) = largest {
            @match (apart.len(), coinciding.len()) {
                (0, 1) => "Coincides with LeRobot",
                (0, 2) => "Both coincide with LeRobot",
                (0, count) => { "All " (count) " coincide with LeRobot" },
                (_, 1) => "1 curve coincides with LeRobot",
                (_, count) => { (count) " curves coincide with LeRobot" },
            }
            ": max difference " (format::number(distance)) " " (unit)
            @if coinciding.len() > 1 && distance > 0.0 { " (" (label) ")" }
            "."
        }
        @for (label, distance) in apart {
            " " span.bad { (label) } ": "
            @match distance {
                Some(distance) => { "max difference " (format::number(*distance)) " " (unit) "." },
                None => span.bad { "values that are not finite or missing." },
            }
        }
    }
}

/// A range of values, and where it is drawn.
struct Scale {
    least: f64,
    most: f64,
    top: f64,
    bottom: f64,
}

impl Scale {
    /// From the least to the most finite value, or about the only one.
    fn covering(values: impl Iterator<Item = f32>, (top, bottom): (f64, f64)) -> Self {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()).map(f64::from) {
            (least, most) = (least.min(value), most.max(value));
        }
        if least > most {
            (least, most) = (-1.0, 1.0);
        }
        if least == most {
            let margin = if least == 0.0 { 1.0 } else { least.abs() * 0.1 };
            (least, most) = (least - margin, most + margin);
        }
        Self { least, most, top, bottom }
    }

    /// As far below zero as above it.
    fn around_zero(values: impl Iterator<Item = f32>, place: (f64, f64)) -> Self {
        let largest =
            values.filter(|value| value.is_finite()).map(|value| f64::from(value).abs()).fold(0.0, f64::max);
        let reach = if largest > 0.0 { largest } else { 1.0 };
        Self { least: -reach, most: reach, top: place.0, bottom: place.1 }
    }

    /// Two to six round numbers of the range.
    fn ticks(&self) -> Vec<f64> {
        let range = self.most - self.least;
        let power = 10_f64.powf((range / 5.0).log10().floor());
        let interval =
            [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|i| range / i <= 5.0);
        let interval = interval.unwrap_or(range);
        let (first, last) = ((self.least / interval).ceil() as i64, (self.most / interval).floor() as i64);
        (first..=last).map(|index| index as f64 * interval).collect()
    }

    /// How long a difference is in the drawing.
    fn length(&self, difference: f64) -> f64 {
        (self.bottom - self.top) * difference / (self.most - self.least)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - self.length(value - self.least)
    }
}

fn x(step: usize, steps: usize) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * step as f64 / (steps.max(2) - 1) as f64
}

fn axes(scale: &Scale, steps: usize, is_difference: bool) -> Markup {
    let interval = [1, 2, 5, 10, 20, 50, 100].into_iter().find(|i| steps / i <= 6).unwrap_or(steps.max(1));
    let ticks = if is_difference { vec![scale.least, 0.0, scale.most] } else { scale.ticks() };
    html! {
        @for value in ticks {
            @let y = scale.y(value);
            line.grid.zero[value == 0.0] x1=(LEFT) x2=(WIDTH - RIGHT) y1=(place(y)) y2=(place(y)) {}
            text x=(LEFT - 6.0) y=(place(y + 3.5)) text-anchor="end" { (format::number(rounded(value))) }
        }
        @for step in (0..steps).step_by(interval) {
            @let x = place(x(step, steps));
            line.grid x1=(x) x2=(x) y1=(scale.top) y2=(scale.bottom) {}
            @if is_difference {
                text x=(x) y=(scale.bottom + 15.0) text-anchor="middle" { (step) }
            }
        }
    }
}

/// Three digits, for the axis.
fn rounded(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

fn place(value: f64) -> String {
    format!("{value:.1}")
}

/// The points of each unbroken run of finite values. A lone value is drawn as a short line.
fn runs(values: &[f32], steps: usize, scale: &Scale) -> Vec<String> {
    let mut runs = Vec::new();
    for run in values
        .iter()
        .enumerate()
        .collect::<Vec<_>>()
        .split(|(_, value)| !value.is_finite())
        .filter(|run| !run.is_empty())
    {
        let mut points = String::new();
        for (step, value) in run {
            // Writing to a string cannot fail.
            let _ = write!(points, "{:.1},{:.1} ", x(*step, steps), scale.y(f64::from(**value)));
        }
        if let [(step, value)] = run {
            let _ = write!(points, "{:.1},{:.1} ", x(*step, steps) + 2.0, scale.y(f64::from(**value)));
        }
        points.pop();
        runs.push(points);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_break_where_values_are_not_finite() {
        let scale = Scale { least: 0.0, most: 1.0, top: 0.0, bottom: 100.0 };
        let values = [0.0, 1.0, f32::NAN, 0.5, f32::INFINITY];
        let found = runs(&values, 5, &scale);
        assert_eq!(found, ["52.0,100.0 127.0,0.0", "277.0,50.0 279.0,50.0"]);
        assert!(runs(&[f32::NAN], 1, &scale).is_empty());
    }

    #[test]
    fn scales_are_never_empty() {
        for values in [vec![], vec![0.0], vec![3.0, 3.0], vec![f32::NAN], vec![1e-7]] {
            for scale in [
                Scale::covering(values.iter().copied(), ACTIONS),
                Scale::around_zero(values.iter().copied(), ACTIONS),
            ] {
                assert!(scale.most > scale.least, "{values:?}");
                let ends = [scale.y(scale.most) - ACTIONS.0, scale.y(scale.least) - ACTIONS.1];
                assert!(ends.iter().all(|distance| distance.abs() < 1e-9), "{values:?}");
            }
        }
    }

    #[test]
    fn ticks_are_round_numbers_of_the_range() {
        for (least, most, ticks) in [
            (-20.0, 5.0, vec![-20.0, -15.0, -10.0, -5.0, 0.0, 5.0]),
            (0.11, 0.39, vec![0.2, 0.3]),
            (-1.0, 1.0, vec![-1.0, -0.5, 0.0, 0.5, 1.0]),
        ] {
            let found = Scale { least, most, top: 0.0, bottom: 1.0 }.ticks();
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-9;
            assert!(found.len() == ticks.len() && found.iter().zip(&ticks).all(near), "{found:?}");
        }
    }

    #[test]
    fn remarks_say_what_coincides_and_what_does_not() {
        let expected = [0.0, 10.0, 20.0];
        let [same, far, nan] = [[0.0, 10.0, 20.0625], [0.0, 10.0, 15.0], [0.0, f32::NAN, 20.0]];
        let drawing = Drawing {
            case: "case",
            unit: "deg",
            joints: 1,
            expected: &expected,
            curves: vec![("a".to_owned(), &same), ("<b>".to_owned(), &far), ("c".to_owned(), &nan)],
        };
        let scale = Scale::covering(expected.into_iter(), ACTIONS);
        let text = remark(&drawing, 0, &scale).into_string();
        assert!(text.starts_with("1 curve coincides with LeRobot: max difference 0.0625 deg."), "{text}");
        assert!(text.contains("&lt;b&gt;</span>: max difference 5 deg."), "{text}");
        assert!(text.contains("not finite"), "{text}");
    }
}
