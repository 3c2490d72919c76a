//! The scripted expert that demonstrations are recorded from. It sees the table itself, not pictures.

use crate::geometry::Point;
use crate::instruction::Goal;
use crate::world::{ACTION_DIM, World};

/// How fast the expert closes a distance, in 1/s.
const GAIN: f64 = 3.0;
/// The fastest it moves, in cm/s.
const SPEED: f64 = 18.0;
/// How close to a block's centre it presses down, in centimetres.
const PRESS_CM: f64 = 0.8;
/// How slow it must be for that, in cm/s.
const PRESS_SPEED: f64 = 6.0;

/// What to do now: velocity in cm/s, and whether to press. A goal about a block that is not there asks for rest.
pub fn act(world: &World, goal: Goal) -> [f32; ACTION_DIM] {
    let Some(block) = world.block(goal.colour()) else { return [0.0; ACTION_DIM] };
    let (target, press) = match goal {
        Goal::Reach(_) => (block.centre, false),
        Goal::Push(_, corner) => {
            if world.held().is_some_and(|held| held.colour == goal.colour()) {
                (corner.place() - (block.centre - world.gripper()), true)
            } else {
                let near = world.gripper().distance(block.centre) < PRESS_CM;
                // One that is pressed down beside its block is lifted first.
                (block.centre, near && world.velocity().norm() < PRESS_SPEED && !world.pressing())
            }
        }
    };
    let velocity: Point = ((target - world.gripper()) * GAIN).at_most(SPEED);
    [velocity.x as f32, velocity.y as f32, if press { 1.0 } else { 0.0 }]
}

/// The next `count` actions from here if nothing shook the gripper.
pub fn plan(world: &World, goal: Goal, count: usize) -> Vec<[f32; ACTION_DIM]> {
    let mut world = world.calm();
    (0..count)
        .map(|_| {
            let action = act(&world, goal);
            let carried_out = world.step(&action);
            debug_assert!(carried_out.is_ok(), "the expert's actions are finite");
            action
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Episode, Judge, Outcome, Split};

    #[test]
    fn the_expert_does_every_task() {
        let mut longest = 0;
        for seed in 0..1000 {
            let Episode { mut world, instruction, .. } = Episode::new(Split::Evaluation, seed);
            let mut judge = Judge::new(instruction.goal);
            let outcome = loop {
                world.step(&act(&world, instruction.goal)).unwrap();
                if let Some(outcome) = judge.look(&world) {
                    break outcome;
                }
            };
            let Outcome::Success { periods } = outcome else {
                panic!("seed {seed}: {instruction}: {outcome:?}")
            };
            longest = longest.max(periods);
        }
        assert!(longest < 80, "the longest took {longest} periods");
    }
}
