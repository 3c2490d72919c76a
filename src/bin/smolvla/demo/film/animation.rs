//! An episode in real time, as an animated GIF.

use std::borrow::Cow;
use std::collections::HashMap;

use gif::{DisposalMethod, Encoder, EncodingError, Frame, Repeat};
use smolvla_tabletop::{Camera, PERIOD_S, SIDE, render};

use super::paint::{Letters, Picture, Rect, Rgb, ink};
use super::scene::Board;
use super::{Captions, color};
use crate::demo::reel::Reel;
use crate::failure::Failure;

const MARGIN: usize = 16;
const BOARD: usize = 448;
/// Below the board: words, and what the cameras see, pixel for pixel.
const CAPTION: usize = 108;
/// Between the pictures of the cameras, and from the words to them.
const GAP: usize = 12;
const WIDTH: usize = BOARD + 2 * MARGIN;
const HEIGHT: usize = MARGIN + BOARD + CAPTION;
/// How long a frame stays, and the last one, in hundredths of a second.
const DELAY: u16 = (PERIOD_S * 100.0) as u16;
const LAST_DELAY: u16 = 200;
/// The colour number of pixels that stay as they are; the others are colours.
const UNCHANGED: u8 = 255;

struct Fonts {
    bold: Letters,
    text: Letters,
    small: Letters,
}

/// The animation as the bytes of a GIF file.
pub(in crate::demo) fn animation(reel: &Reel, captions: &Captions) -> Result<Vec<u8>, Failure> {
    let fonts = Fonts { bold: Letters::bold(15.0)?, text: Letters::new(13.0)?, small: Letters::new(10.5)? };
    let board = Board { left: MARGIN as f64, top: MARGIN as f64, side: BOARD as f64 };
    let mut still = Picture::new(WIDTH, HEIGHT, color::PAPER);
    board.table(&mut still, reel.goal());
    let width = (WIDTH - 2 * MARGIN - 2 * (SIDE + GAP)) as f64;
    let mut baseline = (MARGIN + BOARD + 26) as f64;
    for line in fonts.bold.wrap(&captions.instruction, width, 2) {
        still.words(&line, (MARGIN as f64, baseline), &fonts.bold, color::INK);
        baseline += 20.0;
    }
    let line = fonts.small.fit(&captions.short, width);
    still.words(&line, (MARGIN as f64, (MARGIN + BOARD + 93) as f64), &fonts.small, color::FAINT);

    let mut picture = still.clone();
    let frames = (0..=reel.periods()).map(|period| {
        picture.copy(&still);
        board.moment(&mut picture, reel, period);
        status(&mut picture, reel, period, captions, (&fonts, baseline + 3.0));
        cameras(&mut picture, reel, period, &fonts);
        picture.pixels().to_vec()
    });
    let film = Film::of(frames);
    film.encode().map_err(|error| Failure::internal(format!("cannot draw the animation: {error}")))
}

/// What changes of the words.
fn status(
    picture: &mut Picture,
    reel: &Reel,
    period: usize,
    captions: &Captions,
    (fonts, baseline): (&Fonts, f64),
) {
    let at = (MARGIN as f64, baseline);
    if period == reel.periods() {
        let verdict = if reel.outcome.is_success() { color::GOOD } else { color::BAD };
        picture.words(&captions.outcome, at, &fonts.bold, verdict);
        return;
    }
    let chunk = reel.plans.iter().take_while(|plan| plan.period <= period).count();
    let words = format!("{:.1} s   chunk {chunk}", period as f64 * PERIOD_S);
    picture.words(&words, at, &fonts.text, color::INK);
}

/// What the policy saw when it predicted the chunk of now.
fn cameras(picture: &mut Picture, reel: &Reel, period: usize, fonts: &Fonts) {
    let seen = reel.plan(period).map_or(0, |(plan, _)| plan.period);
    let top = MARGIN + BOARD + 14;
    let mut left = WIDTH - MARGIN - 2 * SIDE - GAP;
    for camera in Camera::ALL {
        picture.inlay(&render(&reel.worlds[seen], camera, SIDE), SIDE, (left, top), 1);
        let rect = Rect::new(left as f64, top as f64, SIDE as f64, SIDE as f64);
        picture.frame(rect.grown(0.5), 0.0, 1.0, ink(color::CORNER));
        let name = format!("{} camera", camera.feature());
        let middle = left as f64 + (SIDE as f64 - fonts.small.width(&name)) / 2.0;
        picture.words(&name, (middle, (top + SIDE + 15) as f64), &fonts.small, color::FAINT);
        left += SIDE + GAP;
    }
}

/// Frames as what each changes of the one before.
struct Film {
    changes: Vec<Vec<(usize, Rgb)>>,
    /// How often each colour is written.
    counts: HashMap<Rgb, usize>,
}

impl Film {
    fn of(frames: impl Iterator<Item = Vec<u8>>) -> Self {
        let mut film = Self { changes: Vec::new(), counts: HashMap::new() };
        let mut before: Option<Vec<u8>> = None;
        for frame in frames {
            let mut changes = Vec::new();
            for (index, pixel) in frame.chunks_exact(3).enumerate() {
                let same = before.as_ref().is_some_and(|before| &before[index * 3..index * 3 + 3] == pixel);
                if !same {
                    let pixel = [pixel[0], pixel[1], pixel[2]];
                    changes.push((index, pixel));
                    *film.counts.entry(pixel).or_default() += 1;
                }
            }
            film.changes.push(changes);
            before = Some(frame);
        }
        film
    }

    fn encode(&self) -> Result<Vec<u8>, EncodingError> {
        let palette = palette(&self.counts);
        let mut numbers: HashMap<Rgb, u8> = HashMap::new();
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, WIDTH as u16, HEIGHT as u16, &palette.concat())?;
        encoder.set_repeat(Repeat::Infinite)?;
        for (index, changes) in self.changes.iter().enumerate() {
            let [left, top, right, bottom] = bounds(changes);
            let (width, height) = (right - left, bottom - top);
            let mut buffer = vec![UNCHANGED; width * height];
            for (at, pixel) in changes {
                let number = *numbers.entry(*pixel).or_insert_with(|| nearest(&palette, *pixel));
                buffer[(at / WIDTH - top) * width + at % WIDTH - left] = number;
            }
            encoder.write_frame(&Frame {
                delay: if index + 1 == self.changes.len() { LAST_DELAY } else { DELAY },
                dispose: DisposalMethod::Keep,
                transparent: Some(UNCHANGED),
                left: left as u16,
                top: top as u16,
                width: width as u16,
                height: height as u16,
                buffer: Cow::Owned(buffer),
                ..Frame::default()
            })?;
        }
        drop(encoder);
        Ok(bytes)
    }
}

/// The box of all changes: left, top, right, bottom; one pixel where nothing changes.
fn bounds(changes: &[(usize, Rgb)]) -> [usize; 4] {
    let mut bounds: Option<[usize; 4]> = None;
    for (at, _) in changes {
        let (x, y) = (at % WIDTH, at / WIDTH);
        let [left, top, right, bottom] = bounds.unwrap_or([x, y, x + 1, y + 1]);
        bounds = Some([left.min(x), top.min(y), right.max(x + 1), bottom.max(y + 1)]);
    }
    bounds.unwrap_or([0, 0, 1, 1])
}

/// Colours for all frames: the most frequent as they are, as far apart as it takes to have few enough.
fn palette(counts: &HashMap<Rgb, usize>) -> Vec<Rgb> {
    let mut colors: Vec<(Rgb, usize)> = counts.iter().map(|(color, count)| (*color, *count)).collect();
    // By the colour where equally frequent: the same film always gives the same bytes.
    colors.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut apart = 0;
    loop {
        let mut palette: Vec<Rgb> = Vec::new();
        for (color, _) in &colors {
            if palette.len() > usize::from(UNCHANGED) {
                break;
            }
            if palette.iter().all(|other| difference(*other, *color) > apart) {
                palette.push(*color);
            }
        }
        if palette.len() <= usize::from(UNCHANGED) {
            return palette;
        }
        apart += 1 + apart / 8;
    }
}

fn nearest(palette: &[Rgb], color: Rgb) -> u8 {
    let best = (0..palette.len()).min_by_key(|index| difference(palette[*index], color));
    best.unwrap_or_default() as u8
}

/// Square of the distance between two colours.
fn difference(one: Rgb, other: Rgb) -> u32 {
    one.iter().zip(other).map(|(a, b)| u32::from(a.abs_diff(b)).pow(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_colours_stay_exact_and_rare_ones_go_to_their_nearest() {
        let mut counts: HashMap<Rgb, usize> =
            (0..=255).flat_map(|red| (0..4).map(move |blue| ([red, 0, blue], 1))).collect();
        counts.insert([9, 200, 9], 1000);
        let palette = palette(&counts);
        assert!(palette.len() <= 255, "{}", palette.len());
        assert_eq!(palette[0], [9, 200, 9]);
        for color in counts.keys() {
            let found = palette[usize::from(nearest(&palette, *color))];
            assert!(difference(found, *color) < 64, "{color:?} became {found:?}");
        }
    }

    #[test]
    fn changes_are_of_the_pixels_that_differ() {
        let mut second = vec![7; WIDTH * HEIGHT * 3];
        second[(3 * WIDTH + 5) * 3 + 1] = 9;
        let film = Film::of([vec![7; WIDTH * HEIGHT * 3], second].into_iter());
        assert_eq!(film.changes[0].len(), WIDTH * HEIGHT);
        assert_eq!(film.changes[1], [(3 * WIDTH + 5, [7, 9, 7])]);
        assert_eq!(bounds(&film.changes[1]), [5, 3, 6, 4]);
        assert_eq!(bounds(&[]), [0, 0, 1, 1]);
    }
}
