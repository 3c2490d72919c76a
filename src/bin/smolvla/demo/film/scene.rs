//! The table from above, as a drawing.

use smolvla_tabletop::{BLOCK_CM, CORNER_CM, Corner, Goal, Point, TABLE_CM, World};

use super::color;
use super::paint::{Ink, Picture, Rect, Spot, ink, sheer};
use crate::demo::reel::Reel;

/// Radius of the gripper's ring, in centimetres, and the width of its line: what the cameras see of it.
const RING_CM: f64 = 1.35;
const RING_LINE_CM: f64 = 0.7;
/// Radius of the finger that shows when it is pressed down.
const FINGER_CM: f64 = 0.6;
/// Every line's width and every bead's radius is a part of this.
const STROKE_CM: f64 = 0.24;

/// Where a table is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Board {
    pub(super) left: f64,
    pub(super) top: f64,
    /// Pixels of a side.
    pub(super) side: f64,
}

impl Board {
    /// Pixels of a length.
    fn length(self, cm: f64) -> f64 {
        cm * self.side / TABLE_CM
    }

    fn spot(self, point: Point) -> Spot {
        (self.left + self.length(point.x), self.top + self.side - self.length(point.y))
    }

    fn spots(self, points: &[Point]) -> Vec<Spot> {
        points.iter().map(|point| self.spot(*point)).collect()
    }

    fn square(self, centre: Point, cm: f64) -> Rect {
        Rect::around(self.spot(centre), self.length(cm))
    }

    fn stroke(self, parts: f64) -> f64 {
        self.length(STROKE_CM * parts).max(1.0)
    }

    /// The empty table: what does not change in an episode.
    pub(super) fn table(self, picture: &mut Picture, goal: Goal) {
        let whole = Rect::new(self.left, self.top, self.side, self.side);
        let radius = self.length(0.8);
        picture.shadow(whole, radius, 5.0, sheer(color::INK, 0.22));
        picture.rect(whole, radius, ink(color::TABLE));
        for cm in [10.0, 20.0, 30.0] {
            for (from, to) in [((cm, 0.0), (cm, TABLE_CM)), ((0.0, cm), (TABLE_CM, cm))] {
                let through = [from, to].map(|(x, y)| self.spot(Point::new(x, y)));
                picture.line(&through, 1.0, ink(color::GRID));
            }
        }
        for corner in Corner::ALL {
            let line = self.stroke(2.0);
            let rect = self.square(corner.place(), CORNER_CM).grown(-line);
            match goal {
                Goal::Push(colour, wanted) if wanted == corner => {
                    picture.rect(rect, radius, sheer(colour.rgb(), 0.16));
                    picture.frame(rect, radius, line, ink(colour.rgb()));
                }
                _ => picture.frame(rect, radius, line, ink(color::CORNER)),
            }
        }
        picture.frame(whole, radius, 1.0, ink(color::EDGE));
    }

    /// What is on the table after this many periods, and what is being done about it.
    pub(super) fn moment(self, picture: &mut Picture, reel: &Reel, period: usize) {
        let world = &reel.worlds[period];
        self.blocks(picture, world);
        if let Some(block) = world.block(reel.goal().colour()) {
            self.brackets(picture, block.centre);
        }
        self.trail(picture, &reel.trail(period));
        if let Some((plan, done)) = reel.plan(period) {
            let kept = reel.n_action_steps.min(plan.way.len() - 1);
            self.plan(picture, &plan.way, kept, done);
        }
        self.gripper(picture, world.gripper(), world.pressing());
    }

    fn blocks(self, picture: &mut Picture, world: &World) {
        let radius = self.length(0.45);
        for block in world.blocks() {
            let rect = self.square(block.centre, BLOCK_CM);
            let below = Rect { top: rect.top + self.length(0.3), ..rect };
            picture.shadow(below, radius, self.length(0.7), sheer(color::INK, 0.4));
            picture.rect(rect, radius, ink(block.colour.rgb().map(|value| (f64::from(value) * 0.8) as u8)));
            picture.rect(rect.grown(-self.length(0.28)), radius, ink(block.colour.rgb()));
        }
    }

    /// Four angles around a block: the one that the instruction names.
    fn brackets(self, picture: &mut Picture, centre: Point) {
        self.brackets_around(picture, self.spot(centre), self.length(BLOCK_CM / 2.0 + 0.75));
    }

    /// The same around any place, this far from it.
    pub(super) fn brackets_around(self, picture: &mut Picture, spot: Spot, reach: f64) {
        let rect = Rect::around(spot, 2.0 * reach);
        let arm = reach * 0.45;
        for (x, along) in [(rect.left, arm), (rect.right(), -arm)] {
            for (y, down) in [(rect.top, arm), (rect.bottom(), -arm)] {
                let through = [(x + along, y), (x, y), (x, y + down)];
                picture.line(&through, self.stroke(1.0), ink(color::INK));
            }
        }
    }

    pub(super) fn trail(self, picture: &mut Picture, trail: &[Point]) {
        let through = self.spots(trail);
        picture.line(&through, self.stroke(2.4), sheer(color::WHITE, 0.5));
        picture.line(&through, self.stroke(0.95), sheer(color::INK, 0.75));
    }

    /// A chunk: solid as far as it is carried out, a bead for each of its actions, filled once that is done.
    pub(super) fn plan(self, picture: &mut Picture, way: &[Point], kept: usize, done: usize) {
        let through = self.spots(way);
        let (kept_way, rest) = (&through[..=kept], &through[kept..]);
        let dash = (self.stroke(1.9), self.stroke(2.1));
        picture.dashes(rest, dash, self.stroke(0.95), sheer(color::PLAN, 0.8));
        picture.line(kept_way, self.stroke(2.7), sheer(color::WHITE, 0.6));
        picture.line(kept_way, self.stroke(1.25), ink(color::PLAN));
        for (index, spot) in kept_way.iter().enumerate().skip(1) {
            picture.disc(*spot, self.stroke(1.55), ink(color::PLAN));
            if index > done {
                picture.disc(*spot, self.stroke(1.55) - self.stroke(0.75), ink(color::WHITE));
            }
        }
    }

    pub(super) fn gripper(self, picture: &mut Picture, place: Point, pressing: bool) {
        let center = self.spot(place);
        let (radius, line) = (self.length(RING_CM), self.length(RING_LINE_CM));
        let halo = |picture: &mut Picture, with: Ink| {
            picture.ring(center, radius, line + self.stroke(1.4), with);
        };
        halo(picture, sheer(color::WHITE, 0.85));
        picture.ring(center, radius, line, ink(color::INK));
        if pressing {
            picture.disc(center, self.length(FINGER_CM) + self.stroke(0.6), sheer(color::WHITE, 0.85));
            picture.disc(center, self.length(FINGER_CM), ink(color::INK));
        }
    }
}
