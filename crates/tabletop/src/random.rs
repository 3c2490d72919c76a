//! Random numbers by seed. Uniform ones are the same on every machine; so are normal ones, but for the ziggurat's tail
//! (beyond 3.65, three draws in ten thousand), which goes through the system's `ln`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use crate::Split;
use crate::geometry::Point;

/// What a stream of numbers is for; streams of one seed have nothing in common.
#[derive(Clone, Copy)]
pub(crate) enum Use {
    Scene,
    Disturbance,
    Instruction,
    Demonstration,
    /// Noise of this chunk.
    Noise(usize),
}

/// A ChaCha8 stream, fixed by its specification.
#[derive(Clone, Debug)]
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    pub(crate) fn new(split: Split, seed: u64, purpose: Use) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let purpose = match purpose {
            Use::Scene => 0,
            Use::Disturbance => 1,
            Use::Instruction => 2,
            Use::Demonstration => 3,
            Use::Noise(chunk) => 16 + chunk as u64,
        };
        let split = match split {
            Split::Training => 0,
            Split::Evaluation => 1,
        };
        rng.set_stream(purpose << 1 | split);
        Self(rng)
    }

    /// At least 0 and less than 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// One of `0..count`, equally likely but for one part in 2^53.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        ((self.unit() * count as f64) as usize).min(count - 1)
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    pub(crate) fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    pub(crate) fn normals(&mut self, length: usize) -> Vec<f32> {
        (0..length).map(|_| StandardNormal.sample(&mut self.0)).collect()
    }

    pub(crate) fn point(&mut self, low: Point, high: Point) -> Point {
        Point::new(self.between(low.x, high.x), self.between(low.y, high.y))
    }

    /// In any order, all orders equally likely.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(split: Split, seed: u64, purpose: Use) -> f64 {
        Random::new(split, seed, purpose).unit()
    }

    #[test]
    fn streams_repeat_and_share_nothing() {
        let own = first(Split::Training, 7, Use::Scene);
        assert_eq!(own, first(Split::Training, 7, Use::Scene));
        for other in [
            first(Split::Evaluation, 7, Use::Scene),
            first(Split::Training, 8, Use::Scene),
            first(Split::Training, 7, Use::Disturbance),
            first(Split::Training, 7, Use::Noise(0)),
        ] {
            assert_ne!(own, other);
        }
        assert_ne!(first(Split::Training, 7, Use::Noise(0)), first(Split::Training, 7, Use::Noise(1)));
    }

    #[test]
    fn shuffling_keeps_everything() {
        let mut items = [0, 1, 2, 3, 4];
        Random::new(Split::Training, 1, Use::Scene).shuffle(&mut items);
        assert_ne!(items, [0, 1, 2, 3, 4]);
        items.sort_unstable();
        assert_eq!(items, [0, 1, 2, 3, 4]);
    }
}
