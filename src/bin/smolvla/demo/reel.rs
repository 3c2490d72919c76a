//! What happened in an episode, period by period.

use smolvla_tabletop::{ACTION_DIM, Episode, Goal, MAX_SPEED, Outcome, PERIOD_S, Point, Step, World};

/// An episode as it went.
#[derive(Clone, Debug)]
pub(super) struct Reel {
    /// The episode before it started.
    pub(super) episode: Episode,
    /// The table at the start and after each period.
    pub(super) worlds: Vec<World>,
    /// The chunks, in the order in which they were predicted; at least one once a period is over.
    pub(super) plans: Vec<Plan>,
    /// Actions of a chunk that are carried out before the next is predicted.
    pub(super) n_action_steps: usize,
    /// How it ended.
    pub(super) outcome: Outcome,
}

/// A predicted chunk, as the way it asks the gripper to go.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    /// Periods gone by when it was predicted.
    pub(super) period: usize,
    /// Where the gripper was, and where each of the actions would take it if it followed at once.
    pub(super) way: Vec<Point>,
}

impl Reel {
    /// An episode that is about to start.
    pub(super) fn new(episode: &Episode, n_action_steps: usize) -> Self {
        Self {
            episode: episode.clone(),
            worlds: vec![episode.world.clone()],
            plans: Vec::new(),
            n_action_steps,
            outcome: Outcome::TimeUp,
        }
    }

    /// Adds the period that is just over.
    pub(super) fn watch(&mut self, step: &Step<'_>) {
        if step.done == 1 {
            let from = self.worlds[self.worlds.len() - 1].gripper();
            self.plans.push(Plan { period: step.period - 1, way: way(from, step.chunk) });
        }
        self.worlds.push(step.world.clone());
        if let Some(outcome) = step.outcome {
            self.outcome = outcome;
        }
    }

    /// Periods that it took.
    pub(super) fn periods(&self) -> usize {
        self.worlds.len() - 1
    }

    /// What was being done after this many periods, and how many of its actions had been carried out.
    pub(super) fn plan(&self, period: usize) -> Option<(&Plan, usize)> {
        let plan = self.plans.iter().rev().find(|plan| plan.period <= period)?;
        Some((plan, period - plan.period))
    }

    /// Where the gripper had been after this many periods.
    pub(super) fn trail(&self, period: usize) -> Vec<Point> {
        self.worlds[..=period].iter().map(World::gripper).collect()
    }

    pub(super) fn goal(&self) -> Goal {
        self.episode.instruction.goal
    }
}

/// Centimetres that are left to go: from the gripper to its block, or from the block to its corner.
pub(super) fn distance_cm(world: &World, goal: Goal) -> Option<f64> {
    let block = world.block(goal.colour())?;
    Some(match goal {
        Goal::Reach(_) => world.gripper().distance(block.centre),
        Goal::Push(_, corner) => block.centre.distance(corner.place()),
    })
}

/// Where the velocities of a chunk take the gripper, period by period.
fn way(from: Point, chunk: &[f32]) -> Vec<Point> {
    let mut place = from;
    let mut way = vec![place];
    for action in chunk.chunks_exact(ACTION_DIM) {
        let velocity = Point::new(f64::from(action[0]), f64::from(action[1])).at_most(MAX_SPEED);
        place = (place + velocity * PERIOD_S).on_table(0.0);
        way.push(place);
    }
    way
}
