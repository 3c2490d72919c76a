//! What the cameras see.

use crate::geometry::{BLOCK_CM, CORNER_CM, Corner, Point, TABLE_CM};
use crate::world::World;

/// Side of the pictures a policy gets, in pixels.
pub const SIDE: usize = 64;
/// Side of the square that the gripper's camera sees, in centimetres.
pub const WRIST_CM: f64 = 16.0;

/// Samples along each side of a pixel.
const SAMPLES: usize = 3;

const TABLE: [f64; 3] = [212.0, 203.0, 188.0];
/// What is beyond the table.
const FLOOR: [f64; 3] = [58.0, 56.0, 54.0];
const CORNER: [f64; 3] = [186.0, 176.0, 160.0];
const CORNER_LINE_CM: f64 = 0.8;
/// A block's rim is this much of its colour.
const RIM: f64 = 0.72;
const RIM_CM: f64 = 0.5;
const GRIPPER: [f64; 3] = [38.0, 38.0, 44.0];
/// Outer and inner radius of the gripper's ring.
const RING_CM: [f64; 2] = [1.7, 1.0];
/// Radius of the finger that shows when it is pressed down.
const FINGER_CM: f64 = 0.6;

/// One of the two cameras.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Camera {
    /// The whole table from above.
    Top,
    /// [`WRIST_CM`] around the gripper, from above.
    Wrist,
}

impl Camera {
    /// Both, in the order of the policy's features.
    pub const ALL: [Self; 2] = [Self::Top, Self::Wrist];

    /// Its name in the checkpoint: `observation.images.top` and `observation.images.wrist`.
    pub const fn feature(self) -> &'static str {
        match self {
            Self::Top => "top",
            Self::Wrist => "wrist",
        }
    }

    /// The lower left corner of what it sees, and the side of it.
    fn view(self, world: &World) -> (Point, f64) {
        match self {
            Self::Top => (Point::default(), TABLE_CM),
            Self::Wrist => (world.gripper() - Point::new(WRIST_CM / 2.0, WRIST_CM / 2.0), WRIST_CM),
        }
    }
}

/// A picture, `[side, side, 3]`: 8-bit RGB, the far edge on top, each pixel the mean of nine samples.
///
/// The arithmetic is sums, products and comparisons of f64, so the bytes are the same on every machine.
pub fn render(world: &World, camera: Camera, side: usize) -> Vec<u8> {
    let (origin, extent) = camera.view(world);
    let fine = side * SAMPLES;
    let step = extent / fine as f64;
    let mut picture = Vec::with_capacity(side * side * 3);
    for row in 0..side {
        for column in 0..side {
            let mut sum = [0.0; 3];
            for sample in 0..SAMPLES * SAMPLES {
                let (dx, dy) = (sample % SAMPLES, sample / SAMPLES);
                let place = Point::new(
                    origin.x + ((column * SAMPLES + dx) as f64 + 0.5) * step,
                    origin.y + extent - ((row * SAMPLES + dy) as f64 + 0.5) * step,
                );
                let colour = colour_at(world, place);
                sum.iter_mut().zip(colour).for_each(|(sum, value)| *sum += value);
            }
            for (value, light) in sum.into_iter().zip(world.light()) {
                // Rounded, and brought to what a byte holds, by the cast.
                picture.push((value * light / (SAMPLES * SAMPLES) as f64 + 0.5) as u8);
            }
        }
    }
    picture
}

fn colour_at(world: &World, place: Point) -> [f64; 3] {
    let from_gripper = place - world.gripper();
    let squared = from_gripper.x * from_gripper.x + from_gripper.y * from_gripper.y;
    let within = |radius: f64| squared <= radius * radius;
    if (within(RING_CM[0]) && !within(RING_CM[1])) || (world.pressing() && within(FINGER_CM)) {
        return GRIPPER;
    }
    if let Some(block) = world.blocks().iter().find(|block| block.covers(place)) {
        let rim = block.centre.reach(place) > BLOCK_CM / 2.0 - RIM_CM;
        return block.colour.rgb().map(|value| f64::from(value) * if rim { RIM } else { 1.0 });
    }
    if !(0.0..=TABLE_CM).contains(&place.x) || !(0.0..=TABLE_CM).contains(&place.y) {
        return FLOOR;
    }
    for corner in Corner::ALL {
        let away = corner.place().reach(place);
        if away <= CORNER_CM / 2.0 && away > CORNER_CM / 2.0 - CORNER_LINE_CM {
            return CORNER;
        }
    }
    TABLE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Split;
    use crate::geometry::Colour;
    use crate::random::{Random, Use};
    use crate::world::Block;

    fn world(gripper: Point) -> World {
        let blocks = vec![Block { colour: Colour::Red, centre: Point::new(30.0, 30.0) }];
        World::new(gripper, Point::default(), blocks, [1.0; 3], Random::new(Split::Training, 0, Use::Scene))
    }

    fn pixel(picture: &[u8], row: usize, column: usize) -> [u8; 3] {
        let at = (row * SIDE + column) * 3;
        [picture[at], picture[at + 1], picture[at + 2]]
    }

    #[test]
    fn the_camera_above_sees_the_block_where_it_is_with_the_far_edge_on_top() {
        let picture = render(&world(Point::new(5.0, 5.0)), Camera::Top, SIDE);
        assert_eq!(picture.len(), SIDE * SIDE * 3);
        assert_eq!(pixel(&picture, 16, 48), Colour::Red.rgb());
        assert_eq!(pixel(&picture, 48, 48), [212, 203, 188]);
        let ring = pixel(&picture, 56, 6);
        assert!(ring.iter().all(|&value| value < 140), "{ring:?}");
    }

    #[test]
    fn the_gripper_s_camera_is_centred_on_it_and_sees_the_floor_beyond_the_table() {
        let picture = render(&world(Point::new(30.0, 30.0)), Camera::Wrist, SIDE);
        assert_eq!(pixel(&picture, 32, 32), Colour::Red.rgb(), "through the ring");
        let picture = render(&world(Point::new(0.0, 0.0)), Camera::Wrist, SIDE);
        assert_eq!(pixel(&picture, 60, 4), FLOOR.map(|value| value as u8));
        assert_eq!(pixel(&picture, 4, 60), [212, 203, 188]);
    }
}
