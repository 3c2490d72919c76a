//! Attention masks, a bit a key.

use smolvla_core::backend::AttentionMask;

/// Which keys each query may attend.
#[derive(Debug)]
pub struct Mask {
    batch: usize,
    queries: usize,
    keys: usize,
    /// 64 keys a word, rows padded to whole words and one more, so that any 32 bits can be read at once.
    words: Vec<u64>,
    row_words: usize,
}

impl AttentionMask for Mask {
    fn batch(&self) -> usize {
        self.batch
    }
    fn queries(&self) -> usize {
        self.queries
    }
    fn keys(&self) -> usize {
        self.keys
    }
}

impl Mask {
    /// `allowed[(b·queries + q)·keys + k]`.
    pub(crate) fn new(allowed: &[bool], batch: usize, queries: usize, keys: usize) -> Self {
        let row_words = keys.div_ceil(64) + 1;
        let mut words = vec![0; batch * queries * row_words];
        if keys > 0 {
            for (row, words) in allowed.chunks_exact(keys).zip(words.chunks_exact_mut(row_words)) {
                for (key, _) in row.iter().enumerate().filter(|(_, allowed)| **allowed) {
                    words[key / 64] |= 1 << (key % 64);
                }
            }
        }
        Self { batch, queries, keys, words, row_words }
    }

    /// Bits of the 32 keys from `key` on; `row = b·queries + q`. Zero beyond the last key.
    #[inline(always)]
    pub(crate) fn bits(&self, row: usize, key: usize) -> u32 {
        let (word, shift) = (row * self.row_words + key / 64, key % 64);
        let low = self.words[word] >> shift;
        // Shifting by 64 in two steps, for a `shift` of zero.
        let high = self.words[word + 1] << 1 << (63 - shift);
        (low | high) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_the_allowed_keys_from_any_key_on() {
        for keys in [1, 31, 32, 63, 64, 65, 130] {
            let allowed: Vec<bool> = (0..3 * keys).map(|index| index * 7 % 5 < 2).collect();
            let mask = Mask::new(&allowed, 1, 3, keys);
            for row in 0..3 {
                for first in 0..keys {
                    let expected = (0..32)
                        .filter(|bit| first + bit < keys && allowed[row * keys + first + bit])
                        .fold(0u32, |bits, bit| bits | 1 << bit);
                    assert_eq!(mask.bits(row, first), expected, "{keys} keys, row {row}, from {first}");
                }
            }
        }
    }
}
