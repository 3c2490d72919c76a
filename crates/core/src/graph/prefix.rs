//! The layout of the prefix: which tokens an observation contributes, and who may attend whom.

/// The images of one camera, one per observation of the batch.
#[derive(Clone, Debug)]
pub struct CameraInput {
    /// Width and height, in pixels.
    pub side: usize,
    /// Planes `[channels, side, side]` in `[-1, 1]`, one per observation.
    pub images: Vec<Vec<f32>>,
    /// Whether each observation really has this camera; an absent one is masked.
    pub present: Vec<bool>,
}

impl CameraInput {
    /// Whether any observation has this camera.
    pub fn is_present(&self) -> bool {
        self.present.iter().any(|present| *present)
    }
}

/// What happens to tokens that nothing may attend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixLayout {
    /// They are left out where that is possible for the whole batch: absent cameras, padding of the
    /// instruction, `prefix_length`. Valid tokens get the values they have with padding, because masked keys
    /// have weight zero and padding does not advance positions.
    Packed,
    /// They stay, as in LeRobot: with `pad_language_to: max_length` and the same cameras, shapes are the same for
    /// every instruction.
    Padded,
}

/// Tokens of the prefix, in order, with their masks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// Observations in the batch.
    pub batch: usize,
    /// Tokens of an observation.
    pub tokens: usize,
    /// Whether a token holds something, `[batch, tokens]`.
    pub valid: Vec<bool>,
    /// Whether a token starts a new attention block: tokens attend their own block and earlier ones, `[tokens]`.
    pub starts_block: Vec<bool>,
}

impl Prefix {
    /// An empty prefix.
    pub fn new(batch: usize) -> Self {
        Self { batch, ..Self::default() }
    }

    /// Appends `count` tokens to each observation; `valid(observation, token)` says which hold something.
    pub fn push(&mut self, count: usize, starts_block: bool, valid: impl Fn(usize, usize) -> bool) {
        let mut merged = Vec::with_capacity(self.batch * (self.tokens + count));
        for observation in 0..self.batch {
            merged.extend_from_slice(&self.valid[observation * self.tokens..][..self.tokens]);
            merged.extend((0..count).map(|token| valid(observation, token)));
        }
        self.valid = merged;
        self.tokens += count;
        self.starts_block.extend((0..count).map(|_| starts_block));
    }

    /// Position of each token, `[batch, tokens]`: the number of valid tokens up to it, less one. Padding before
    /// the first valid token has position −1, as in LeRobot.
    pub fn positions(&self) -> Vec<i64> {
        self.rows()
            .flat_map(|row| {
                row.iter().scan(-1, |position, valid| {
                    *position += i64::from(*valid);
                    Some(*position)
                })
            })
            .collect()
    }

    /// Number of valid tokens of each observation.
    pub fn valid_tokens(&self) -> Vec<usize> {
        self.rows().map(|row| row.iter().filter(|valid| **valid).count()).collect()
    }

    /// Which key each query may attend, `[batch, tokens, tokens]`: both valid, and the key's block not later.
    pub fn attention_mask(&self) -> Vec<bool> {
        let block: Vec<usize> = self
            .starts_block
            .iter()
            .scan(0, |block, starts| {
                *block += usize::from(*starts);
                Some(*block)
            })
            .collect();
        let mut allowed = Vec::with_capacity(self.valid.len() * self.tokens);
        for row in self.rows() {
            for query in 0..self.tokens {
                allowed
                    .extend((0..self.tokens).map(|key| row[query] && row[key] && block[key] <= block[query]));
            }
        }
        allowed
    }

    /// Which prefix token each of `chunk` action tokens may attend, `[batch, chunk, tokens]`, or `None` when
    /// all may be attended.
    pub fn cross_mask(&self, chunk: usize) -> Option<Vec<bool>> {
        if self.valid.iter().all(|valid| *valid) {
            return None;
        }
        Some(self.rows().flat_map(|row| std::iter::repeat_n(row, chunk).flatten().copied()).collect())
    }

    /// Which prefix and action token each action token may attend, `[batch, chunk, tokens + chunk]`: the valid
    /// prefix, itself and the actions before it.
    pub fn self_mask(&self, chunk: usize) -> Vec<bool> {
        let mut allowed = Vec::with_capacity(self.batch * chunk * (self.tokens + chunk));
        for row in self.rows() {
            for query in 0..chunk {
                allowed.extend_from_slice(row);
                allowed.extend((0..chunk).map(|key| key <= query));
            }
        }
        allowed
    }

    fn rows(&self) -> impl Iterator<Item = &[bool]> {
        (0..self.batch).map(|observation| &self.valid[observation * self.tokens..][..self.tokens])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two observations: two image tokens, up to two words (the second has one), the state.
    fn ragged() -> Prefix {
        let mut prefix = Prefix::new(2);
        prefix.push(2, false, |_, _| true);
        prefix.push(2, false, |observation, token| observation == 0 || token == 0);
        prefix.push(1, true, |_, _| true);
        prefix
    }

    #[test]
    fn positions_skip_padding() {
        assert_eq!(ragged().positions(), [0, 1, 2, 3, 4, 0, 1, 2, 2, 3]);
        assert_eq!(ragged().valid_tokens(), [5, 4]);
    }

    #[test]
    fn attention_mask_hides_the_state_from_images_and_words() {
        let mask = ragged().attention_mask();
        let allowed = |b: usize, q: usize, k: usize| mask[(b * 5 + q) * 5 + k];
        assert!(allowed(0, 0, 3) && !allowed(0, 0, 4), "images see words, not the state");
        assert!((0..5).all(|key| allowed(0, 4, key)), "the state sees everything");
        assert!(!allowed(1, 4, 3), "nothing sees padding");
        assert!((0..5).all(|key| !allowed(1, 3, key)), "padding sees nothing");
    }

    #[test]
    fn self_mask_is_causal_after_the_prefix() {
        let mask = ragged().self_mask(2);
        assert_eq!(mask[..7], [true, true, true, true, true, true, false]);
        assert_eq!(mask[21..], [true, true, true, false, true, true, true]);
    }

    #[test]
    fn cross_mask_is_absent_without_padding() {
        let mut prefix = Prefix::new(1);
        prefix.push(3, false, |_, _| true);
        assert_eq!(prefix.cross_mask(4), None);
        assert_eq!(ragged().cross_mask(1).unwrap()[5..], [true, true, true, false, true]);
    }
}
