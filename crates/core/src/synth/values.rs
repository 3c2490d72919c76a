//! The numbers of synthetic weights.
//!
//! Scales keep signals near unit size from layer to layer, as in a trained network: nothing vanishes, nothing
//! saturates, and queries are long enough that attention prefers some tokens over others.

use half::bf16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::checkpoint::{Component, ExpectedTensor};

/// Bytes of the random stream that make one number: four 16-bit integers.
const BYTES: usize = 8;
/// Standard deviation of the sum of four integers drawn evenly from 0..=65535: `sqrt(4·(65536² − 1)/12)`.
const SUM_STD: f64 = 37_837.226_808_4;
/// Mean of that sum.
const SUM_MEAN: i32 = 2 * 65_535;

/// The numbers of one tensor: a nearly normal distribution and the stream to draw from.
#[derive(Clone, Debug)]
pub(super) struct Values {
    key: [u8; 32],
    mean: f32,
    /// Multiplies the centred sum of four integers.
    scale: f32,
}

impl Values {
    /// The numbers of a tensor. They depend on the seed and the tensor's name and shape only.
    pub(super) fn new(seed: u64, tensor: &ExpectedTensor) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"smolvla synth");
        hash.update(seed.to_le_bytes());
        hash.update(tensor.name.as_bytes());
        let (mean, std) = distribution(tensor);
        Self { key: hash.finalize().into(), mean, scale: (std / SUM_STD) as f32 }
    }

    /// Fills `out` with the little-endian bytes of the numbers from `start` on.
    pub(super) fn write_f32(&self, start: usize, out: &mut [u8]) {
        let (out, _) = out.as_chunks_mut::<4>();
        self.draw(start, out, |value, bytes| *bytes = value.to_le_bytes());
    }

    /// Like [`Values::write_f32`], rounded to bfloat16 (to nearest, ties to even).
    pub(super) fn write_bf16(&self, start: usize, out: &mut [u8]) {
        let (out, _) = out.as_chunks_mut::<2>();
        self.draw(start, out, |value, bytes| *bytes = bf16::from_f32(value).to_le_bytes());
    }

    fn draw<T>(&self, start: usize, out: &mut [T], store: impl Fn(f32, &mut T)) {
        const BLOCK: usize = 1024;
        let mut rng = ChaCha8Rng::from_seed(self.key);
        // The stream counts in words of four bytes.
        rng.set_word_pos((start * BYTES / 4) as u128);
        let mut random = [0; BLOCK * BYTES];
        for out in out.chunks_mut(BLOCK) {
            let random = &mut random[..out.len() * BYTES];
            rng.fill_bytes(random);
            let (numbers, _) = random.as_chunks::<BYTES>();
            for (number, out) in numbers.iter().zip(out) {
                let [a, b, c, d, e, f, g, h] = *number;
                let sum = [[a, b], [c, d], [e, f], [g, h]].map(|b| i32::from(u16::from_le_bytes(b)));
                let centred = sum.iter().sum::<i32>() - SUM_MEAN;
                store(self.mean + self.scale * centred as f32, out);
            }
        }
    }
}

/// Mean and standard deviation of a tensor's numbers.
fn distribution(tensor: &ExpectedTensor) -> (f32, f64) {
    let name = tensor.name.as_str();
    let inputs: usize = tensor.axes.iter().skip(1).map(|axis| axis.len).product();
    // Square roots are exactly rounded everywhere, unlike other functions of the mathematics library.
    let per_input = 1.0 / (inputs as f64).sqrt();
    if tensor.axes.len() == 1 {
        return if name.contains("norm") && name.ends_with("weight") { (1.0, 0.1) } else { (0.0, 0.02) };
    }
    let std = match tensor.component {
        Component::EmbedTokens => 0.03,
        _ if name.ends_with("position_embedding.weight") => 0.03,
        // What leaves the connector is multiplied by the square root of the width, as embeddings are.
        Component::Connector => 0.03 * per_input,
        _ if name.ends_with("q_proj.weight") => 2.0 * per_input,
        _ => per_input,
    };
    (0.0, std)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Axis;

    fn tensor(name: &str, rows: usize, cols: usize) -> ExpectedTensor {
        let axes = [rows, cols].map(|len| Axis { len, key: "" }).to_vec();
        let name = name.to_owned();
        ExpectedTensor { name, axes, component: Component::Text, needed: true, full_precision: true }
    }

    fn numbers(values: &Values, start: usize, count: usize) -> Vec<f32> {
        let mut bytes = vec![0; 4 * count];
        values.write_f32(start, &mut bytes);
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[test]
    fn numbers_do_not_depend_on_where_drawing_starts() {
        let values = Values::new(3, &tensor("a.weight", 10, 16));
        let all = numbers(&values, 0, 5000);
        for start in [1, 7, 1024, 4096] {
            assert_eq!(numbers(&values, start, 100), all[start..start + 100], "from {start}");
        }
    }

    #[test]
    fn numbers_have_the_wanted_mean_and_deviation() {
        let drawn = numbers(&Values::new(0, &tensor("mlp.up_proj.weight", 1, 64)), 0, 200_000);
        let count = drawn.len() as f64;
        let mean = drawn.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
        let deviation = (drawn.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / count).sqrt();
        assert!(mean.abs() < 0.002, "{mean}");
        assert!((deviation - 0.125).abs() < 0.001, "{deviation}");
    }

    #[test]
    fn numbers_differ_by_seed_and_name() {
        let first = numbers(&Values::new(0, &tensor("a", 2, 2)), 0, 8);
        assert_ne!(first, numbers(&Values::new(1, &tensor("a", 2, 2)), 0, 8));
        assert_ne!(first, numbers(&Values::new(0, &tensor("b", 2, 2)), 0, 8));
    }

    #[test]
    fn stream_is_pinned() {
        // Goldens were made from these very numbers.
        let drawn = numbers(&Values::new(0, &tensor("model.state_proj.weight", 96, 8)), 0, 3);
        assert_eq!(
            drawn.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
            [0xbeb8_78f0, 0xbe25_5e88, 0x3d9c_e1d6]
        );
    }
}
