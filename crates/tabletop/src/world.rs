//! The table, what moves on it, and when a goal is reached.

use crate::geometry::{BLOCK_CM, CORNER_CM, Colour, Point};
use crate::instruction::Goal;
use crate::random::Random;

/// Seconds between two actions.
pub const PERIOD_S: f64 = 0.1;
/// Periods after which an episode has failed.
pub const LIMIT: usize = 120;
/// Periods in a row for which a goal must hold.
pub const HOLD: usize = 8;
/// Width of the state.
pub const STATE_DIM: usize = 5;
/// What the state holds: place in cm, velocity in cm/s, and whether the gripper is pressed down (0 or 1).
pub const STATE_NAMES: [&str; STATE_DIM] = ["x", "y", "vx", "vy", "pressing"];
/// Width of an action.
pub const ACTION_DIM: usize = 3;
/// What an action holds: velocity asked for in cm/s, and above 0.5 to press down.
pub const ACTION_NAMES: [&str; ACTION_DIM] = ["vx", "vy", "press"];

/// The fastest the gripper is asked to move, in cm/s; whatever asks for more gets this.
pub const MAX_SPEED: f64 = 20.0;
/// The part of the way to the velocity asked for that the gripper makes in a period, free and with a block.
const RESPONSE: [f64; 2] = [0.5, 0.35];
/// Standard deviation of what shakes the gripper, in cm/s a period.
const SHAKE: f64 = 0.5;

/// A block and where it lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// Its colour.
    pub colour: Colour,
    /// Its centre.
    pub centre: Point,
}

impl Block {
    /// Whether a point is over the block.
    pub fn covers(&self, point: Point) -> bool {
        self.centre.reach(point) <= BLOCK_CM / 2.0
    }
}

/// An action that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an action has {ACTION_DIM} finite numbers (vx and vy in cm/s, press); this one is {action}")]
pub struct ActionError {
    action: String,
}

/// The table at one moment.
///
/// The gripper has inertia: it goes part of the way to the velocity asked for, and is shaken a little. Pressed down over
/// a block it takes the block along until it is lifted; a block that is slid shoves others aside.
#[derive(Clone, Debug)]
pub struct World {
    gripper: Point,
    velocity: Point,
    pressing: bool,
    /// The block under the pressed gripper, and from the gripper to its centre.
    held: Option<(usize, Point)>,
    blocks: Vec<Block>,
    /// Brightness of red, green and blue light.
    light: [f64; 3],
    /// `None` once calm.
    shaking: Option<Random>,
}

impl World {
    pub(crate) fn new(
        gripper: Point,
        velocity: Point,
        blocks: Vec<Block>,
        light: [f64; 3],
        shaking: Random,
    ) -> Self {
        Self { gripper, velocity, pressing: false, held: None, blocks, light, shaking: Some(shaking) }
    }

    /// Where the gripper is.
    pub fn gripper(&self) -> Point {
        self.gripper
    }

    /// The gripper's velocity, in cm/s.
    pub fn velocity(&self) -> Point {
        self.velocity
    }

    /// Whether the gripper is pressed down.
    pub fn pressing(&self) -> bool {
        self.pressing
    }

    /// The block that the pressed gripper takes along.
    pub fn held(&self) -> Option<&Block> {
        self.held.map(|(index, _)| &self.blocks[index])
    }

    /// All blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The block of a colour.
    pub fn block(&self, colour: Colour) -> Option<&Block> {
        self.blocks.iter().find(|block| block.colour == colour)
    }

    /// How bright red, green and blue are lit, about 1.
    pub fn light(&self) -> [f64; 3] {
        self.light
    }

    /// The state by [`STATE_NAMES`].
    pub fn state(&self) -> [f32; STATE_DIM] {
        let pressing = if self.pressing { 1.0 } else { 0.0 };
        [self.gripper.x, self.gripper.y, self.velocity.x, self.velocity.y, pressing].map(|value| value as f32)
    }

    /// The same table with nothing that shakes the gripper from now on.
    pub fn calm(&self) -> Self {
        Self { shaking: None, ..self.clone() }
    }

    /// Carries out an action for a period.
    ///
    /// # Errors
    /// When it does not have [`ACTION_DIM`] numbers, or one of them is not finite; the world is unchanged then.
    pub fn step(&mut self, action: &[f32]) -> Result<(), ActionError> {
        let &[vx, vy, press] = action else { return Err(ActionError { action: format!("{action:?}") }) };
        if !(vx.is_finite() && vy.is_finite() && press.is_finite()) {
            return Err(ActionError { action: format!("{action:?}") });
        }
        self.press(press > 0.5);
        let asked = Point::new(f64::from(vx), f64::from(vy)).at_most(MAX_SPEED);
        let response = RESPONSE[usize::from(self.held.is_some())];
        self.velocity = self.velocity + (asked - self.velocity) * response;
        if let Some(random) = &mut self.shaking {
            self.velocity = self.velocity + Point::new(random.normal(), random.normal()) * SHAKE;
        }
        self.move_by(self.velocity * PERIOD_S);
        Ok(())
    }

    /// Shoves the gripper; for demonstrations of how to recover.
    pub(crate) fn shove(&mut self, velocity: Point) {
        self.velocity = (self.velocity + velocity).at_most(MAX_SPEED);
    }

    /// Lifts the gripper and puts it elsewhere; for demonstrations too.
    pub(crate) fn put(&mut self, gripper: Point, velocity: Point) {
        self.press(false);
        self.gripper = gripper;
        self.velocity = velocity.at_most(MAX_SPEED);
    }

    fn press(&mut self, down: bool) {
        if down && !self.pressing {
            let gripper = self.gripper;
            let under = self.blocks.iter().position(|block| block.covers(gripper));
            self.held = under.map(|index| (index, self.blocks[index].centre - gripper));
        }
        if !down {
            self.held = None;
        }
        self.pressing = down;
    }

    /// Moves the gripper, and the block it holds, as far as the edges let them; what is stopped has no velocity left.
    fn move_by(&mut self, way: Point) {
        let free = self.gripper + way;
        let mut reached = free.on_table(0.0);
        if let Some((index, offset)) = self.held {
            // Only what an edge stops is worked out backwards: sums and differences round, and a rounding is no stop.
            let wanted = reached + offset;
            let centre = wanted.on_table(BLOCK_CM / 2.0);
            if centre.x != wanted.x {
                reached.x = centre.x - offset.x;
            }
            if centre.y != wanted.y {
                reached.y = centre.y - offset.y;
            }
            self.blocks[index].centre = centre;
            self.shove_aside(index);
        }
        if reached.x != free.x {
            self.velocity.x = 0.0;
        }
        if reached.y != free.y {
            self.velocity.y = 0.0;
        }
        self.gripper = reached;
    }

    /// Moves blocks that overlap the one at `mover` the shortest way out, as far as the table goes.
    fn shove_aside(&mut self, mover: usize) {
        let by = self.blocks[mover].centre;
        for (index, block) in self.blocks.iter_mut().enumerate() {
            let way = block.centre - by;
            let (over_x, over_y) = (BLOCK_CM - way.x.abs(), BLOCK_CM - way.y.abs());
            if index == mover || over_x <= 0.0 || over_y <= 0.0 {
                continue;
            }
            let out = if over_x < over_y {
                Point::new(over_x.copysign(way.x), 0.0)
            } else {
                Point::new(0.0, over_y.copysign(way.y))
            };
            block.centre = (block.centre + out).on_table(BLOCK_CM / 2.0);
        }
    }
}

/// How an episode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The goal held for [`HOLD`] periods in a row.
    Success {
        /// Periods until then.
        periods: usize,
    },
    /// It had not when [`LIMIT`] periods were over.
    TimeUp,
}

impl Outcome {
    /// Whether the goal was reached.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Success { .. })
    }
}

/// Decides by rules whether the goal is reached.
///
/// Reaching: the gripper is over the block, for [`HOLD`] periods in a row. Pushing: the whole block lies in the corner's
/// marked square, as long.
#[derive(Clone, Debug)]
pub struct Judge {
    goal: Goal,
    periods: usize,
    held: usize,
}

impl Judge {
    /// A judge at the start of an episode.
    pub const fn new(goal: Goal) -> Self {
        Self { goal, periods: 0, held: 0 }
    }

    /// Whether the goal holds at this moment. A block that is not there was never reached.
    pub fn holds(goal: Goal, world: &World) -> bool {
        let Some(block) = world.block(goal.colour()) else { return false };
        match goal {
            Goal::Reach(_) => block.covers(world.gripper),
            Goal::Push(_, corner) => block.centre.reach(corner.place()) <= (CORNER_CM - BLOCK_CM) / 2.0,
        }
    }

    /// Looks at the table once after each period; says how the episode ended, when it has.
    pub fn look(&mut self, world: &World) -> Option<Outcome> {
        self.periods += 1;
        self.held = if Self::holds(self.goal, world) { self.held + 1 } else { 0 };
        if self.held == HOLD {
            return Some(Outcome::Success { periods: self.periods });
        }
        (self.periods >= LIMIT).then_some(Outcome::TimeUp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Split;
    use crate::geometry::Corner;
    use crate::random::Use;

    fn world(blocks: &[(Colour, f64, f64)]) -> World {
        let blocks =
            blocks.iter().map(|&(colour, x, y)| Block { colour, centre: Point::new(x, y) }).collect();
        let shaking = Random::new(Split::Training, 0, Use::Disturbance);
        World::new(Point::new(20.0, 20.0), Point::default(), blocks, [1.0; 3], shaking)
    }

    #[test]
    fn the_gripper_has_inertia() {
        let mut world = world(&[]).calm();
        world.step(&[10.0, 0.0, 0.0]).unwrap();
        assert_eq!(world.velocity(), Point::new(5.0, 0.0));
        assert_eq!(world.gripper(), Point::new(20.5, 20.0));
        world.step(&[0.0, 0.0, 0.0]).unwrap();
        assert_eq!(world.gripper(), Point::new(20.75, 20.0));
    }

    #[test]
    fn shaking_repeats_and_is_absent_from_a_calm_table() {
        let run = |mut world: World| {
            (0..20).for_each(|_| world.step(&[0.0; 3]).unwrap());
            world.gripper()
        };
        assert_eq!(run(world(&[])), run(world(&[])));
        assert_ne!(run(world(&[])), Point::new(20.0, 20.0));
        assert_eq!(run(world(&[]).calm()), Point::new(20.0, 20.0));
    }

    #[test]
    fn a_pressed_gripper_slides_the_block_under_it_and_shoves_others_aside() {
        let mut world = world(&[(Colour::Red, 20.5, 20.0), (Colour::Blue, 25.5, 20.0)]).calm();
        (0..10).for_each(|_| world.step(&[10.0, 0.0, 1.0]).unwrap());
        let red = world.block(Colour::Red).unwrap().centre;
        let blue = world.block(Colour::Blue).unwrap().centre;
        assert!((red.x - world.gripper().x - 0.5).abs() < 1e-9 && red.x > 26.0, "{red:?}");
        assert!((blue.x - red.x - BLOCK_CM).abs() < 1e-9 && blue.y == 20.0, "{blue:?}");
        world.step(&[10.0, 0.0, 0.0]).unwrap();
        assert_eq!(world.block(Colour::Red).unwrap().centre, red, "a lifted gripper leaves the block");
    }

    #[test]
    fn a_block_that_is_slid_never_stops_the_gripper_by_rounding() {
        let mut world = world(&[(Colour::Red, 20.37, 20.41)]).calm();
        (0..50).for_each(|period| {
            world.step(&[3.3, 2.7, 1.0]).unwrap();
            assert!(world.held().is_some());
            let (velocity, asked) = (world.velocity(), Point::new(f64::from(3.3_f32), f64::from(2.7_f32)));
            let share = 1.0 - 0.65_f64.powi(period + 1);
            assert!(velocity.distance(asked * share) < 1e-9, "period {period}: {velocity:?}");
        });
    }

    #[test]
    fn a_gripper_pressed_beside_a_block_takes_nothing_along() {
        let mut world = world(&[(Colour::Red, 25.0, 20.0)]).calm();
        (0..10).for_each(|_| world.step(&[10.0, 0.0, 1.0]).unwrap());
        assert!(world.pressing() && world.held().is_none());
        assert_eq!(world.block(Colour::Red).unwrap().centre, Point::new(25.0, 20.0));
    }

    #[test]
    fn nothing_leaves_the_table() {
        let mut world = world(&[(Colour::Red, 20.0, 20.0), (Colour::Blue, 36.0, 36.0)]);
        (0..80).for_each(|_| world.step(&[99.0, 99.0, 1.0]).unwrap());
        for block in world.blocks() {
            assert_eq!(block.centre, block.centre.on_table(BLOCK_CM / 2.0), "{block:?}");
        }
        assert_eq!(world.gripper(), world.gripper().on_table(0.0));
    }

    #[test]
    fn an_action_that_is_no_action_is_refused_and_changes_nothing() {
        let mut world = world(&[]);
        for action in [&[1.0, 2.0][..], &[f32::NAN, 0.0, 0.0], &[0.0, f32::INFINITY, 0.0]] {
            assert!(world.step(action).unwrap_err().to_string().contains("3 finite numbers"));
        }
        assert_eq!(world.gripper(), Point::new(20.0, 20.0));
    }

    #[test]
    fn a_goal_must_hold_for_eight_periods_in_a_row() {
        let over = world(&[(Colour::Red, 20.0, 20.0)]);
        let away = world(&[(Colour::Red, 30.0, 20.0)]);
        let mut judge = Judge::new(Goal::Reach(Colour::Red));
        for _ in 0..7 {
            assert_eq!(judge.look(&over), None);
        }
        assert_eq!(judge.look(&away), None);
        for _ in 0..7 {
            assert_eq!(judge.look(&over), None);
        }
        assert_eq!(judge.look(&over), Some(Outcome::Success { periods: 16 }));
    }

    #[test]
    fn time_is_up_after_the_limit() {
        let away = world(&[(Colour::Red, 30.0, 20.0)]);
        let mut judge = Judge::new(Goal::Reach(Colour::Red));
        assert!((1..LIMIT).all(|_| judge.look(&away).is_none()));
        assert_eq!(judge.look(&away), Some(Outcome::TimeUp));
    }

    #[test]
    fn a_corner_holds_the_whole_block() {
        let goal = Goal::Push(Colour::Red, Corner::Left);
        assert!(Judge::holds(goal, &world(&[(Colour::Red, 6.9, 33.1)])));
        assert!(!Judge::holds(goal, &world(&[(Colour::Red, 7.1, 33.1)])));
        assert!(!Judge::holds(Goal::Push(Colour::Red, Corner::Right), &world(&[(Colour::Red, 5.0, 35.0)])));
        assert!(!Judge::holds(goal, &world(&[(Colour::Blue, 5.0, 35.0)])), "another block");
    }
}
