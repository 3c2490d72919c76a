//! A picture and what is painted into it, with smooth edges.

mod letters;
mod shapes;

pub(super) use letters::Letters;

/// Red, green and blue.
pub(super) type Rgb = [u8; 3];
/// A place, in pixels from the upper left corner.
pub(super) type Spot = (f64, f64);

/// A colour and how much of it covers what is there, 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ink {
    color: Rgb,
    alpha: f64,
}

/// A colour that covers everything.
pub(super) const fn ink(color: Rgb) -> Ink {
    Ink { color, alpha: 1.0 }
}

/// A colour that lets something through.
pub(super) const fn sheer(color: Rgb, alpha: f64) -> Ink {
    Ink { color, alpha }
}

/// A box, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Rect {
    pub(super) const fn new(left: f64, top: f64, width: f64, height: f64) -> Self {
        Self { left, top, width, height }
    }

    /// A square around a place.
    pub(super) fn around((x, y): Spot, side: f64) -> Self {
        Self::new(x - side / 2.0, y - side / 2.0, side, side)
    }

    pub(super) fn right(&self) -> f64 {
        self.left + self.width
    }

    pub(super) fn bottom(&self) -> f64 {
        self.top + self.height
    }

    /// The box with a rim of this width around it.
    pub(super) fn grown(&self, by: f64) -> Self {
        Self::new(self.left - by, self.top - by, self.width + 2.0 * by, self.height + 2.0 * by)
    }

    /// From the edge with corners of this radius to a place; negative inside.
    fn distance(&self, radius: f64, (x, y): Spot) -> f64 {
        let dx = (x - self.left - self.width / 2.0).abs() - self.width / 2.0 + radius;
        let dy = (y - self.top - self.height / 2.0).abs() - self.height / 2.0 + radius;
        dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0) - radius
    }
}

/// An 8-bit RGB picture.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
    /// How much of each pixel a stroke covers; all zero between strokes.
    mask: Vec<f32>,
}

impl Picture {
    pub(super) fn new(width: usize, height: usize, background: Rgb) -> Self {
        Self { width, height, pixels: background.repeat(width * height), mask: vec![0.0; width * height] }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// Its bytes, row by row.
    pub(super) fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Takes over another picture of this size.
    pub(super) fn copy(&mut self, other: &Self) {
        self.pixels.copy_from_slice(&other.pixels);
    }

    /// Lays a square picture, 8-bit RGB with sides of `side`, into this one, every pixel `scale` large, corner at whole pixels.
    pub(super) fn inlay(&mut self, bytes: &[u8], side: usize, (left, top): (usize, usize), scale: usize) {
        for y in 0..side * scale {
            for x in 0..side * scale {
                let from = ((y / scale) * side + x / scale) * 3;
                let to = ((top + y) * self.width + left + x) * 3;
                self.pixels[to..to + 3].copy_from_slice(&bytes[from..from + 3]);
            }
        }
    }

    /// Fills where `distance` is negative, smoothly at its zero; `bounds` has all of it.
    fn fill(&mut self, bounds: Rect, with: Ink, distance: impl Fn(Spot) -> f64) {
        self.shade(bounds.grown(1.0), with, |spot| (0.5 - distance(spot)).clamp(0.0, 1.0));
    }

    fn shade(&mut self, bounds: Rect, with: Ink, covered: impl Fn(Spot) -> f64) {
        let [left, top, right, bottom] = self.clip(bounds);
        for y in top..bottom {
            for x in left..right {
                self.blend(x, y, with, covered(middle(x, y)));
            }
        }
    }

    /// The pixels of a box that there are: left, top, right, bottom.
    fn clip(&self, rect: Rect) -> [usize; 4] {
        // The cast brings what is negative to zero.
        [
            rect.left.floor() as usize,
            rect.top.floor() as usize,
            (rect.right().ceil() as usize).min(self.width),
            (rect.bottom().ceil() as usize).min(self.height),
        ]
    }

    fn blend(&mut self, x: usize, y: usize, with: Ink, covered: f64) {
        let part = covered * with.alpha;
        if part <= 0.0 {
            return;
        }
        let at = (y * self.width + x) * 3;
        for (old, new) in self.pixels[at..at + 3].iter_mut().zip(with.color) {
            *old = (f64::from(*old) + (f64::from(new) - f64::from(*old)) * part + 0.5) as u8;
        }
    }
}

/// The middle of a pixel.
fn middle(x: usize, y: usize) -> Spot {
    (x as f64 + 0.5, y as f64 + 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const WHITE: Rgb = [255; 3];
    pub(super) const BLACK: Rgb = [0; 3];

    /// How much black there is, in pixels.
    pub(super) fn black(picture: &Picture) -> f64 {
        picture.pixels().chunks(3).map(|pixel| 1.0 - f64::from(pixel[0]) / 255.0).sum()
    }

    #[test]
    fn what_lies_beyond_the_edges_is_left_out() {
        let mut picture = Picture::new(10, 10, WHITE);
        let letters = Letters::bold(20.0).unwrap();
        picture.disc((0.0, 0.0), 30.0, ink(BLACK));
        picture.words("WWW", (-10.0, 12.0), &letters, WHITE);
        picture.line(&[(-50.0, 5.0), (50.0, 5.0)], 3.0, ink(BLACK));
        assert!(black(&picture) > 20.0);
    }
}
