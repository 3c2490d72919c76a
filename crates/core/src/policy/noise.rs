//! The noise a chunk is denoised from.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use crate::error::{Error, Result};

/// What denoising starts from.
#[derive(Clone, Debug, PartialEq)]
pub enum Noise {
    /// Standard normal numbers from this seed: the same numbers on every machine, but not those of PyTorch.
    Seed(u64),
    /// These numbers, `[batch, chunk, max_action_dim]`.
    Values(Vec<f32>),
}

impl Noise {
    /// The numbers themselves, `length` of them.
    ///
    /// # Errors
    /// [`Error::Input`] when given values are too few, too many or not finite.
    pub(super) fn into_values(self, length: usize) -> Result<Vec<f32>> {
        match self {
            Self::Seed(seed) => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                Ok((0..length).map(|_| StandardNormal.sample(&mut rng)).collect())
            }
            Self::Values(values) => {
                if values.len() != length {
                    return Err(Error::input(
                        "noise",
                        format!(
                            "{} numbers; expected {length} (batch × chunk × max_action_dim)",
                            values.len()
                        ),
                    ));
                }
                if let Some(index) = values.iter().position(|v| !v.is_finite()) {
                    return Err(Error::input("noise", format!("number {index} is {}", values[index])));
                }
                Ok(values)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_noise_is_reproducible_and_standard_normal() {
        let noise = Noise::Seed(7).into_values(50_000).unwrap();
        assert_eq!(noise, Noise::Seed(7).into_values(50_000).unwrap());
        assert_ne!(noise[..10], Noise::Seed(8).into_values(10).unwrap());
        let mean = noise.iter().sum::<f32>() / 5e4;
        let variance = noise.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 5e4;
        // Five standard errors of each estimate.
        assert!(mean.abs() < 0.023 && (variance - 1.0).abs() < 0.032, "mean {mean}, variance {variance}");
    }

    #[test]
    fn given_noise_of_another_length_is_refused() {
        let error = Noise::Values(vec![0.0; 3]).into_values(4).unwrap_err().to_string();
        assert!(error.contains("3 numbers; expected 4"), "{error}");
        let error = Noise::Values(vec![0.0, f32::NAN]).into_values(2).unwrap_err().to_string();
        assert!(error.contains("number 1 is NaN"), "{error}");
    }
}
