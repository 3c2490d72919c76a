//! Pictures of an episode: an animation and a strip of its moments.

mod animation;
mod paint;
mod scene;
mod strip;

pub(super) use animation::animation;
pub(super) use strip::strip;

/// Colours of everything but the blocks, which have their own.
mod color {
    use super::paint::Rgb;

    pub(super) const PAPER: Rgb = [250, 248, 244];
    pub(super) const INK: Rgb = [38, 38, 44];
    pub(super) const FAINT: Rgb = [116, 112, 106];
    pub(super) const TABLE: Rgb = [233, 226, 214];
    pub(super) const GRID: Rgb = [223, 215, 201];
    pub(super) const EDGE: Rgb = [206, 196, 180];
    pub(super) const CORNER: Rgb = [196, 185, 167];
    pub(super) const WHITE: Rgb = [255, 255, 255];
    /// What the policy predicts.
    pub(super) const PLAN: Rgb = [150, 44, 150];
    pub(super) const GOOD: Rgb = [20, 118, 84];
    pub(super) const BAD: Rgb = [186, 62, 22];
}

/// What stands beside the pictures.
pub(super) struct Captions {
    /// What was asked, in quotation marks.
    pub(super) instruction: String,
    /// How it ended, in a few words.
    pub(super) outcome: String,
    /// What ran.
    pub(super) short: String,
    /// The same with how long a chunk took, and which episode this is.
    pub(super) details: String,
}

#[cfg(test)]
mod tests {
    use smolvla_tabletop::{
        Attempt, AttemptError, Condition, Episode, Moment, Predictor, Split, attempt, expert,
    };

    use super::*;
    use crate::demo::reel::Reel;

    /// Does what the expert would.
    struct Expert;

    impl Predictor for Expert {
        type Error = AttemptError;

        fn noise_len(&self) -> usize {
            0
        }

        fn n_action_steps(&self) -> usize {
            8
        }

        fn predict(&mut self, moments: &[Moment<'_>]) -> Result<Vec<Vec<f32>>, AttemptError> {
            let goal = Episode::new(Split::Evaluation, SEED).instruction.goal;
            Ok(moments.iter().map(|moment| expert::plan(moment.world, goal, 16).concat()).collect())
        }
    }

    const SEED: u64 = 2;

    fn reel() -> Reel {
        let episodes = [Episode::new(Split::Evaluation, SEED)];
        let mut reel = Reel::new(&episodes[0], 8);
        let attempts =
            attempt(&mut Expert, &episodes, Condition::Normal, &mut |step| reel.watch(step)).unwrap();
        let [Attempt { outcome, periods, chunks }] = attempts.as_slice() else { panic!("one attempt") };
        assert!(outcome.is_success());
        assert_eq!((reel.outcome, reel.periods(), reel.plans.len()), (*outcome, *periods, chunks.len()));
        reel
    }

    fn captions() -> Captions {
        Captions {
            instruction: "“push the red block into the left corner”".to_owned(),
            outcome: "success after 1.0 s".to_owned(),
            short: "somewhere".to_owned(),
            details: "somewhere, quickly".to_owned(),
        }
    }

    #[test]
    fn animation_shows_every_period_for_a_tenth_of_a_second_and_the_last_for_two() {
        let reel = reel();
        let bytes = animation(&reel, &captions()).unwrap();
        let mut decoder = gif::DecodeOptions::new().read_info(bytes.as_slice()).unwrap();
        let mut delays = Vec::new();
        while let Some(frame) = decoder.next_frame_info().unwrap() {
            delays.push(frame.delay);
        }
        assert_eq!(decoder.repeat(), gif::Repeat::Infinite);
        assert_eq!(delays.len(), reel.periods() + 1);
        assert_eq!(delays.pop(), Some(200));
        assert!(delays.iter().all(|delay| *delay == 10));
        assert!(bytes.len() < 1_500_000, "{}", bytes.len());
    }

    #[test]
    fn strip_is_a_png_with_the_colours_of_the_blocks() {
        let reel = reel();
        let image = image::load_from_memory(&strip(&reel, &captions()).unwrap()).unwrap().to_rgb8();
        for block in reel.episode.world.blocks() {
            let seen = image.pixels().filter(|pixel| pixel.0 == block.colour.rgb()).count();
            assert!(seen > 500, "{seen} pixels of {:?}", block.colour);
        }
    }
}
