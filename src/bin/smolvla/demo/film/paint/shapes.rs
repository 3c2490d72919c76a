//! Boxes, circles and lines in a picture.

use super::{Ink, Picture, Rect, Spot, middle};

impl Picture {
    /// A filled box with round corners.
    pub(in crate::demo::film) fn rect(&mut self, rect: Rect, radius: f64, with: Ink) {
        self.fill(rect, with, |spot| rect.distance(radius, spot));
    }

    /// The outline of a box with round corners, its line centred on the edge.
    pub(in crate::demo::film) fn frame(&mut self, rect: Rect, radius: f64, width: f64, with: Ink) {
        let half = width / 2.0;
        self.fill(rect.grown(half), with, |spot| rect.distance(radius, spot).abs() - half);
    }

    /// A soft shadow of a box, fading over `blur` to each side of its edge.
    pub(in crate::demo::film) fn shadow(&mut self, rect: Rect, radius: f64, blur: f64, with: Ink) {
        self.shade(rect.grown(blur), with, |spot| {
            let part = ((blur - rect.distance(radius, spot)) / (2.0 * blur)).clamp(0.0, 1.0);
            part * part
        });
    }

    pub(in crate::demo::film) fn disc(&mut self, center: Spot, radius: f64, with: Ink) {
        self.fill(Rect::around(center, 2.0 * radius), with, |spot| away(center, spot) - radius);
    }

    /// A circle, its line centred on the radius.
    pub(in crate::demo::film) fn ring(&mut self, center: Spot, radius: f64, width: f64, with: Ink) {
        let half = width / 2.0;
        self.fill(Rect::around(center, 2.0 * radius + width), with, |spot| {
            (away(center, spot) - radius).abs() - half
        });
    }

    /// A line through these places with round ends and joints.
    pub(in crate::demo::film) fn line(&mut self, through: &[Spot], width: f64, with: Ink) {
        let pieces: Vec<_> = through.windows(2).map(|pair| (pair[0], pair[1])).collect();
        self.pieces(&pieces, width, with);
    }

    /// A line of dashes `on` long with `off` between them.
    pub(in crate::demo::film) fn dashes(
        &mut self,
        through: &[Spot],
        (on, off): (f64, f64),
        width: f64,
        with: Ink,
    ) {
        let mut pieces = Vec::new();
        let mut gone = 0.0;
        for pair in through.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let length = away(from, to);
            let at = |way: f64| {
                let part = way / length;
                (from.0 + (to.0 - from.0) * part, from.1 + (to.1 - from.1) * part)
            };
            let mut way = 0.0;
            while way < length {
                let phase = (gone + way) % (on + off);
                // At least something, or rounding could stand still.
                let rest = (if phase < on { on - phase } else { on + off - phase }).max(1e-3);
                let end = (way + rest).min(length);
                if phase < on {
                    pieces.push((at(way), at(end)));
                }
                way = end;
            }
            gone += length;
        }
        self.pieces(&pieces, width, with);
    }

    /// Lines that cover what they cross once, however often they cross.
    fn pieces(&mut self, pieces: &[(Spot, Spot)], width: f64, with: Ink) {
        let half = width / 2.0;
        let reach = half + 1.0;
        let mut touched: Option<[usize; 4]> = None;
        for &(from, to) in pieces {
            let around = Rect::new(
                from.0.min(to.0) - reach,
                from.1.min(to.1) - reach,
                (from.0 - to.0).abs() + 2.0 * reach,
                (from.1 - to.1).abs() + 2.0 * reach,
            );
            let [left, top, right, bottom] = self.clip(around);
            for y in top..bottom {
                for x in left..right {
                    let covered = (0.5 + half - beside(from, to, middle(x, y))).clamp(0.0, 1.0) as f32;
                    let mask = &mut self.mask[y * self.width + x];
                    *mask = mask.max(covered);
                }
            }
            let [l, t, r, b] = touched.unwrap_or([left, top, right, bottom]);
            touched = Some([l.min(left), t.min(top), r.max(right), b.max(bottom)]);
        }
        let Some([left, top, right, bottom]) = touched else { return };
        for y in top..bottom {
            for x in left..right {
                let covered = std::mem::take(&mut self.mask[y * self.width + x]);
                self.blend(x, y, with, f64::from(covered));
            }
        }
    }
}

fn away(from: Spot, to: Spot) -> f64 {
    (to.0 - from.0).hypot(to.1 - from.1)
}

/// From a place to the nearest of a line between two others.
fn beside(from: Spot, to: Spot, spot: Spot) -> f64 {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = dx * dx + dy * dy;
    let along = ((spot.0 - from.0) * dx + (spot.1 - from.1) * dy) / length.max(1e-12);
    let along = along.clamp(0.0, 1.0);
    away((from.0 + dx * along, from.1 + dy * along), spot)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BLACK, WHITE, black};
    use super::super::{ink, sheer};
    use super::*;

    #[test]
    fn shapes_cover_their_area_wherever_they_lie() {
        for offset in [0.0, 0.25, 0.5] {
            let center = (20.0 + offset, 20.0);
            let mut picture = Picture::new(40, 40, WHITE);
            picture.disc(center, 10.0, ink(BLACK));
            assert!((black(&picture) - 314.16).abs() < 2.0, "{}", black(&picture));
            let mut picture = Picture::new(40, 40, WHITE);
            picture.rect(Rect::around(center, 12.0), 0.0, ink(BLACK));
            assert!((black(&picture) - 144.0).abs() < 2.0, "{}", black(&picture));
        }
    }

    #[test]
    fn sheer_lines_are_no_darker_where_they_cross_themselves() {
        let mut picture = Picture::new(40, 40, WHITE);
        let through = [(5.0, 20.0), (35.0, 20.0), (20.0, 35.0), (20.0, 5.0)];
        picture.line(&through, 4.0, sheer(BLACK, 0.5));
        assert_eq!(picture.pixels().iter().min(), Some(&128));
    }

    #[test]
    fn dashes_leave_gaps_and_go_on_around_corners() {
        let mut picture = Picture::new(60, 60, WHITE);
        picture.dashes(&[(10.0, 10.5), (50.0, 10.5), (50.0, 50.5)], (6.0, 4.0), 1.0, ink(BLACK));
        // Of every ten pixels six, and at the ends of dashes half a pixel more.
        assert!((black(&picture) - 48.0).abs() < 10.0, "{}", black(&picture));
    }
}
