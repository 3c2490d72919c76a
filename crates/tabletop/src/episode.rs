//! Episodes: a scene, what is asked, and everything random about them, by seed.

use crate::geometry::{BLOCK_CM, CORNER_CM, Colour, Corner, Point, TABLE_CM};
use crate::instruction::{Goal, Instruction};
use crate::random::{Random, Use};
use crate::world::{Block, World};

/// Two sets of episodes that have none in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What demonstrations are recorded from.
    Training,
    /// What policies are judged by.
    Evaluation,
}

/// The fewest and the most blocks on a table.
const BLOCKS: [usize; 2] = [2, 4];
/// From one block's centre to another's, along `x` or along `y`, at least.
const APART_CM: f64 = 6.0;
/// Where blocks may lie.
const BLOCKS_FROM: Point = Point::new(4.0, 7.0);
const BLOCKS_TO: Point = Point::new(36.0, 36.0);
/// Where the gripper starts.
const START_FROM: Point = Point::new(10.0, 2.0);
const START_TO: Point = Point::new(30.0, 8.0);
/// Share of demonstrations that start anywhere, moving.
const ANYWHERE: f64 = 0.5;
/// How much the light differs, overall and by colour.
const LIGHT: [f64; 2] = [0.1, 0.03];

/// One episode, before it starts.
#[derive(Clone, Debug)]
pub struct Episode {
    /// What it follows from.
    pub seed: u64,
    /// Which of the two sets it belongs to.
    pub split: Split,
    /// The table.
    pub world: World,
    /// What is asked.
    pub instruction: Instruction,
}

/// An instruction about a block that is not on the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no {colour} block on the table of seed {seed}; it has {there}. Ask for one of those, or take seed {next}"
)]
pub struct SceneError {
    colour: Colour,
    seed: u64,
    there: String,
    /// The next seed of a table that has it.
    next: u64,
}

impl Episode {
    /// The episode of a seed.
    pub fn new(split: Split, seed: u64) -> Self {
        let mut random = Random::new(split, seed, Use::Scene);
        let blocks = blocks(&mut random);
        let mut gripper = random.point(START_FROM, START_TO);
        let mut velocity = Point::default();
        if split == Split::Training && random.chance(ANYWHERE) {
            gripper = random.point(Point::new(1.0, 1.0), Point::new(TABLE_CM - 1.0, TABLE_CM - 1.0));
            velocity = random.point(Point::new(-12.0, -12.0), Point::new(12.0, 12.0));
        }
        let bright = 1.0 + random.between(-LIGHT[0], LIGHT[0]);
        let light = [(); 3].map(|()| bright + random.between(-LIGHT[1], LIGHT[1]));

        let mut choice = Random::new(split, seed, Use::Instruction);
        let colour = blocks[choice.below(blocks.len())].colour;
        let goal = match choice.below(3) {
            0 => Goal::Reach(colour),
            corner => Goal::Push(colour, Corner::ALL[corner - 1]),
        };
        let instruction = Instruction::phrased(goal, choice.below(Instruction::PHRASINGS));

        let shaking = Random::new(split, seed, Use::Disturbance);
        let world = World::new(gripper, velocity, blocks, light, shaking);
        Self { seed, split, world, instruction }
    }

    /// The same table with another instruction.
    ///
    /// # Errors
    /// When the block it names is not there; the error lists those that are, and names a seed whose table has it.
    pub fn with_instruction(self, instruction: Instruction) -> Result<Self, SceneError> {
        let colour = instruction.goal.colour();
        if self.world.block(colour).is_none() {
            let names: Vec<&str> = self.world.blocks().iter().map(|block| block.colour.name()).collect();
            let seed = self.seed;
            let has_it = |seed: &u64| Self::new(self.split, *seed).world.block(colour).is_some();
            // Three tables in four have it.
            let next = (1..).map(|step| seed.wrapping_add(step)).find(has_it).unwrap_or(seed);
            return Err(SceneError { colour, seed, there: names.join(", "), next });
        }
        Ok(Self { instruction, ..self })
    }

    /// An instruction of the same kind about another block that is there, and the other corner: one whose fulfilment does
    /// not fulfil the episode's own.
    pub fn swapped(&self) -> Instruction {
        let goal = self.instruction.goal;
        let blocks = self.world.blocks();
        let own = blocks.iter().position(|block| block.colour == goal.colour()).unwrap_or_default();
        let colour = blocks[(own + 1) % blocks.len()].colour;
        let swapped = match goal {
            Goal::Reach(_) => Goal::Reach(colour),
            Goal::Push(_, corner) => Goal::Push(colour, corner.other()),
        };
        Instruction::phrased(swapped, (self.seed % Instruction::PHRASINGS as u64) as usize)
    }

    /// The standard normal numbers that a chunk is denoised from, the same for every policy.
    pub fn noise(&self, chunk: usize, length: usize) -> Vec<f32> {
        Random::new(self.split, self.seed, Use::Noise(chunk)).normals(length)
    }
}

/// Blocks of different colours, apart from each other and not in a marked corner.
fn blocks(random: &mut Random) -> Vec<Block> {
    let mut colours = Colour::ALL;
    random.shuffle(&mut colours);
    let count = BLOCKS[0] + random.below(BLOCKS[1] - BLOCKS[0] + 1);
    let mut blocks: Vec<Block> = Vec::with_capacity(count);
    // A table of 32 by 29 cm always has room for four.
    while blocks.len() < count {
        let centre = random.point(BLOCKS_FROM, BLOCKS_TO);
        let in_corner = Corner::ALL
            .iter()
            .any(|corner| corner.place().reach(centre) < (CORNER_CM + BLOCK_CM) / 2.0 + 1.0);
        if !in_corner && blocks.iter().all(|block| block.centre.reach(centre) >= APART_CM) {
            blocks.push(Block { colour: colours[blocks.len()], centre });
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn episodes_repeat_and_splits_share_none() {
        let scene = |split, seed| {
            let episode = Episode::new(split, seed);
            (episode.world.state(), episode.world.blocks().to_vec(), episode.instruction)
        };
        assert_eq!(scene(Split::Evaluation, 3), scene(Split::Evaluation, 3));
        for seed in 0..200 {
            assert_ne!(scene(Split::Evaluation, seed).1, scene(Split::Training, seed).1);
        }
    }

    #[test]
    fn every_instruction_names_a_block_that_is_there_and_its_swap_another() {
        for seed in 0..500 {
            let episode = Episode::new(Split::Evaluation, seed);
            let own = episode.instruction.goal;
            let swapped = episode.swapped().goal;
            assert!(episode.world.block(own.colour()).is_some());
            assert!(episode.world.block(swapped.colour()).is_some());
            assert_ne!(own.colour(), swapped.colour());
            let matching = match (own, swapped) {
                (Goal::Reach(_), Goal::Reach(_)) => true,
                (Goal::Push(_, one), Goal::Push(_, other)) => one != other,
                _ => false,
            };
            assert!(matching, "{own} became {swapped}");
        }
    }

    #[test]
    fn an_episode_is_the_same_to_the_last_bit_on_every_machine() {
        let Episode { mut world, instruction, .. } = Episode::new(Split::Evaluation, 3);
        let noise = Episode::new(Split::Evaluation, 3).noise(2, 64);
        for _ in 0..60 {
            world.step(&crate::expert::act(&world, instruction.goal)).unwrap();
        }
        let mut bytes: Vec<u8> =
            noise.iter().chain(&world.state()).flat_map(|value| value.to_le_bytes()).collect();
        crate::Camera::ALL
            .iter()
            .for_each(|camera| bytes.extend(crate::render(&world, *camera, crate::SIDE)));
        // FNV-1a.
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!(hash, 0x3a66_cf97_6708_43b3, "{hash:#x}");
    }

    #[test]
    fn no_episode_starts_with_its_goal_reached() {
        for seed in 0..500 {
            let episode = Episode::new(Split::Evaluation, seed);
            assert!(!crate::Judge::holds(episode.instruction.goal, &episode.world), "seed {seed}");
        }
    }

    #[test]
    fn an_instruction_about_an_absent_block_is_refused_with_those_there() {
        let episode = (0..)
            .map(|seed| Episode::new(Split::Evaluation, seed))
            .find(|episode| episode.world.block(Colour::Red).is_none())
            .unwrap();
        let there = episode.world.blocks()[0].colour.name();
        let instruction = Instruction::phrased(Goal::Reach(Colour::Red), 0);
        let message = episode.with_instruction(instruction).unwrap_err().to_string();
        assert!(message.contains("no red block") && message.contains(there), "{message}");
        let next: u64 = message.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(Episode::new(Split::Evaluation, next).world.block(Colour::Red).is_some(), "{message}");
    }
}
