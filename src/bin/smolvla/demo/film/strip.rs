//! The moments of an episode side by side.

use std::io::Cursor;

use image::{ImageFormat, RgbImage};
use smolvla_tabletop::{Camera, Goal, PERIOD_S, Point, SIDE, TABLE_CM, render};

use super::paint::{Letters, Picture, Rect, ink, sheer};
use super::scene::Board;
use super::{Captions, color};
use crate::demo::reel::Reel;
use crate::failure::Failure;

const COLUMNS: usize = 4;
const MOMENTS: usize = 8;
const MARGIN: usize = 36;
const PANEL: usize = 284;
const GAP: usize = 20;
const HEADER: usize = 112;
/// A panel's time.
const STAMP: usize = 36;
/// Pixels of ours for a camera's.
const ZOOM: usize = 2;
const FOOTER: usize = 212;

const WIDTH: usize = 2 * MARGIN + COLUMNS * PANEL + (COLUMNS - 1) * GAP;
const HEIGHT: usize = HEADER + MOMENTS / COLUMNS * (PANEL + STAMP) + FOOTER;

struct Fonts {
    title: Letters,
    outcome: Letters,
    text: Letters,
    bold: Letters,
    small: Letters,
}

/// The picture as the bytes of a PNG file.
pub(in crate::demo) fn strip(reel: &Reel, captions: &Captions) -> Result<Vec<u8>, Failure> {
    let fonts = Fonts {
        title: Letters::bold(27.0)?,
        outcome: Letters::bold(17.0)?,
        text: Letters::new(15.0)?,
        bold: Letters::bold(15.0)?,
        small: Letters::new(13.0)?,
    };
    let mut picture = Picture::new(WIDTH, HEIGHT, color::PAPER);
    header(&mut picture, reel, captions, &fonts);
    for (index, period) in moments(reel.periods()).into_iter().enumerate() {
        let left = MARGIN + index % COLUMNS * (PANEL + GAP);
        let top = HEADER + index / COLUMNS * (PANEL + STAMP);
        panel(&mut picture, reel, period, (left, top), &fonts);
    }
    legend(&mut picture, reel, &fonts);
    cameras(&mut picture, reel, &fonts);
    png(&picture)
}

fn header(picture: &mut Picture, reel: &Reel, captions: &Captions, fonts: &Fonts) {
    let left = MARGIN as f64;
    let width = (WIDTH - 2 * MARGIN) as f64;
    picture.words(&fonts.title.fit(&captions.instruction, width), (left, 52.0), &fonts.title, color::INK);
    let verdict = if reel.outcome.is_success() { color::GOOD } else { color::BAD };
    let end = picture.words(&captions.outcome, (left, 84.0), &fonts.outcome, verdict) + 18.0;
    let details = fonts.text.fit(&captions.details, left + width - end);
    picture.words(&details, (end, 84.0), &fonts.text, color::FAINT);
}

fn panel(picture: &mut Picture, reel: &Reel, period: usize, (left, top): (usize, usize), fonts: &Fonts) {
    let board = Board { left: left as f64, top: top as f64, side: PANEL as f64 };
    board.table(picture, reel.goal());
    board.moment(picture, reel, period);
    let baseline = (top + PANEL + 22) as f64;
    let is_end = period == reel.periods();
    let end = picture.words(&seconds(period), (left as f64 + 2.0, baseline), &fonts.bold, color::INK) + 10.0;
    let (note, tint) = match (reel.plan(period), is_end, reel.outcome.is_success()) {
        (_, true, true) => ("done".to_owned(), color::GOOD),
        (_, true, false) => ("time is up".to_owned(), color::BAD),
        (Some((plan, _)), ..) => {
            let number = reel.plans.iter().take_while(|other| other.period <= plan.period).count();
            (format!("chunk {number}"), color::FAINT)
        }
        (None, ..) => (String::new(), color::FAINT),
    };
    picture.words(&note, (end, baseline), &fonts.text, tint);
}

/// The periods to show: the start, the end, and what lies evenly between them.
fn moments(periods: usize) -> Vec<usize> {
    let mut moments: Vec<usize> =
        (0..MOMENTS).map(|index| (index * periods + (MOMENTS - 1) / 2) / (MOMENTS - 1)).collect();
    moments.dedup();
    moments
}

fn seconds(period: usize) -> String {
    format!("{:.1} s", period as f64 * PERIOD_S)
}

/// What the lines mean.
fn legend(picture: &mut Picture, reel: &Reel, fonts: &Fonts) {
    let colour = reel.goal().colour();
    let (executed, rest) = match reel.plans.first() {
        Some(plan) => (reel.n_action_steps, (plan.way.len() - 1).saturating_sub(reel.n_action_steps)),
        None => (reel.n_action_steps, 0),
    };
    let mut entries: Vec<(Mark, String)> = vec![
        (Mark::Plan, format!("predicted, to be carried out: {executed} actions of 0.1 s; filled when done")),
        (Mark::Rest, format!("predicted too, never carried out: {rest} actions; it looks again first")),
        (Mark::Trail, "path of the gripper, which has inertia and is shaken".to_owned()),
        (Mark::Gripper, "the gripper; with a dot when it is pressed down".to_owned()),
    ];
    entries.push((Mark::Brackets, format!("the block that is meant; the table is {TABLE_CM} cm wide")));
    if let Goal::Push(..) = reel.goal() {
        entries.push((Mark::Corner, format!("where the {colour} block is to go")));
    }
    let top = (HEIGHT - FOOTER + 38) as f64;
    for (row, (mark, words)) in entries.into_iter().enumerate() {
        let y = top + row as f64 * 28.0;
        sample(picture, mark, reel, y);
        picture.words(&words, (MARGIN as f64 + 74.0, y + 5.0), &fonts.text, color::INK);
    }
}

#[derive(Clone, Copy)]
enum Mark {
    Plan,
    Rest,
    Trail,
    Gripper,
    Corner,
    Brackets,
}

/// The mark of a legend's row, drawn as on the tables.
fn sample(picture: &mut Picture, mark: Mark, reel: &Reel, y: f64) {
    let side = PANEL as f64;
    let cm = side / TABLE_CM;
    // A table whose near edge is this row.
    let board = Board { left: MARGIN as f64, top: y - side, side };
    let at = |x: f64| Point::new(x, 0.0);
    let (x, width) = (MARGIN as f64, 8.4 * cm);
    match mark {
        Mark::Plan => board.plan(picture, &[0.3, 2.9, 5.5, 8.1].map(at), 3, 1),
        Mark::Rest => board.plan(picture, &[0.3, 8.1].map(at), 0, 0),
        Mark::Trail => board.trail(picture, &[0.3, 8.1].map(at)),
        Mark::Gripper => {
            board.gripper(picture, at(2.2), false);
            board.gripper(picture, at(6.2), true);
        }
        Mark::Corner => {
            let tint = reel.goal().colour().rgb();
            let rect = Rect::around((x + width / 2.0, y), 18.0);
            picture.rect(rect, 3.0, sheer(tint, 0.16));
            picture.frame(rect, 3.0, 3.0, ink(tint));
        }
        Mark::Brackets => board.brackets_around(picture, (x + width / 2.0, y), 9.0),
    }
}

/// What the policy saw, as it saw it.
fn cameras(picture: &mut Picture, reel: &Reel, fonts: &Fonts) {
    let side = SIDE * ZOOM;
    let top = HEIGHT - FOOTER + 20;
    let mut left = WIDTH - MARGIN;
    let last = reel.plans.last().map_or(0, |plan| plan.period);
    let middle = reel.plans.get(reel.plans.len() / 2).map_or(last, |plan| plan.period);
    for camera in [Camera::Wrist, Camera::Top] {
        left -= side;
        let bytes = render(&reel.worlds[middle], camera, SIDE);
        picture.inlay(&bytes, SIDE, (left, top), ZOOM);
        let rect = Rect::new(left as f64, top as f64, side as f64, side as f64);
        picture.frame(rect.grown(0.5), 0.0, 1.0, ink(color::CORNER));
        let name = match camera {
            Camera::Top => format!("top camera {SIDE}×{SIDE}"),
            Camera::Wrist => "wrist camera".to_owned(),
        };
        let baseline = (top + side + 18) as f64;
        picture.words(&name, (left as f64, baseline), &fonts.small, color::FAINT);
        left -= GAP;
    }
    let lines = ["what the policy".to_owned(), format!("saw at {}", seconds(middle))];
    for (row, line) in lines.iter().enumerate() {
        let right = left as f64 - fonts.small.width(line);
        picture.words(line, (right, (top + 12 + row * 18) as f64), &fonts.small, color::FAINT);
    }
}

fn png(picture: &Picture) -> Result<Vec<u8>, Failure> {
    let failure = |reason: String| Failure::internal(format!("cannot draw the strip: {reason}"));
    let (width, height) = (picture.width() as u32, picture.height() as u32);
    let image = RgbImage::from_raw(width, height, picture.pixels().to_vec())
        .ok_or_else(|| failure("the canvas has another size".to_owned()))?;
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png).map_err(|error| failure(error.to_string()))?;
    Ok(png.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_begin_at_the_start_and_end_at_the_end() {
        assert_eq!(moments(70), [0, 10, 20, 30, 40, 50, 60, 70]);
        assert_eq!(moments(8), [0, 1, 2, 3, 5, 6, 7, 8]);
        assert_eq!(moments(2), [0, 1, 2]);
        for periods in 7..=120 {
            let moments = moments(periods);
            assert_eq!((moments.len(), moments[0], moments[7]), (8, 0, periods));
        }
    }
}
